//! What cgroups that are older than counting had used before it began: `cpu.stat` minus what was counted, at one moment.

use std::collections::HashMap;

use super::{
    Cpu, ON_CPU,
    account::{Account, Before},
};
use crate::{
    cgroups::{
        Cgroup, Cgroups,
        files::{self, CpuStat},
    },
    signals::SignalError,
};

/// Tries to read `cpu.stat` so close before and after the records that both readings agree to [`BRACKET_NS`]; in the last one the
/// cgroups come one by one.
const ROUNDS: u32 = 4;
const BRACKET_NS: u64 = 200_000;

impl Cpu {
    /// Finds out what older cgroups had used before counting began: `cpu.stat` minus what was counted, at one moment.
    ///
    /// The file is read before and after the records; the truth lies between. All at once first, for most are idle meanwhile. Those
    /// that are not come again, fewer each time, and in the end one by one; the narrowest bracket of each counts.
    pub(super) fn learn_before_counting(&mut self, cgroups: &mut Cgroups) -> Result<(), SignalError> {
        let is_unknown = |c: &&Cgroup| self.own.account.is_older(c) && c.lives() && self.own.account.before(c.slot).is_none();
        let mut unknown: Vec<Cgroup> = cgroups.table().iter().filter(is_unknown).cloned().collect();
        let mut brackets = HashMap::with_capacity(unknown.len());
        for round in 1..=ROUNDS {
            let at_a_time = if round < ROUNDS { unknown.len().max(1) } else { 1 };
            for some in unknown.chunks(at_a_time) {
                self.bracket(some, cgroups, &mut brackets)?;
            }
            unknown.retain(|c| brackets.get(&c.slot).is_some_and(|bracket: &Bracket| bracket.gap_ns > BRACKET_NS));
        }
        for (slot, bracket) in brackets {
            self.own.account.begin(slot, bracket.before);
        }
        Ok(())
    }

    /// Reads `cpu.stat` of some cgroups, the records, and `cpu.stat` again, in reverse, so that the records are in the middle for
    /// each. Narrower brackets than those known are kept.
    fn bracket(
        &mut self,
        some: &[Cgroup],
        cgroups: &mut Cgroups,
        brackets: &mut HashMap<u32, Bracket>,
    ) -> Result<(), SignalError> {
        let stat = |c: &Cgroup, cgroups: &Cgroups| files::cpu_stat(&cgroups.directory(c));
        let early: Vec<Option<CpuStat>> = some.iter().map(|c| stat(c, cgroups)).collect();
        self.settle()?;
        // What was born since counts for its parent too.
        cgroups.refresh();
        let counted = Account::counted_ns(cgroups.table(), |slot| self.records.word(slot, ON_CPU).unwrap_or(0));
        let late: Vec<Option<CpuStat>> = some.iter().rev().map(|c| stat(c, cgroups)).collect();
        for ((cgroup, early), late) in some.iter().zip(early).zip(late.into_iter().rev()) {
            let (Some(early), Some(late), Some(&counted_ns)) = (early, late, counted.get(&cgroup.slot)) else { continue };
            let bracket = Bracket::new(&early, &late, counted_ns);
            if brackets.get(&cgroup.slot).is_none_or(|known| bracket.gap_ns < known.gap_ns) {
                brackets.insert(cgroup.slot, bracket);
            }
        }
        Ok(())
    }
}

/// What a cgroup had used before counting began, as far as two readings of its `cpu.stat` with one of the records in between tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bracket {
    /// What it used between the two readings in ns: twice the largest error.
    gap_ns: u64,
    /// The middle of the two, less what was counted.
    before: Before,
}

impl Bracket {
    fn new(early: &CpuStat, late: &CpuStat, counted_ns: u64) -> Self {
        let gap_ns = late.usage_ns.saturating_sub(early.usage_ns);
        let on_cpu_ns = (early.usage_ns + gap_ns / 2).wrapping_sub(counted_ns).cast_signed();
        Self { gap_ns, before: Before { on_cpu_ns, throttled_ns: late.throttling.map_or(0, |t| t.throttled_ns) } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::files::Throttling;

    #[test]
    fn what_was_used_before_counting_is_the_middle_of_two_readings_less_what_was_counted() {
        let stat =
            |usage_ns, throttled_ns| CpuStat { usage_ns, throttling: Some(Throttling { throttled_ns, ..Throttling::default() }) };
        let bracket = |early: &CpuStat, late: &CpuStat, counted_ns| {
            let bracket = Bracket::new(early, late, counted_ns);
            (bracket.gap_ns, bracket.before.on_cpu_ns, bracket.before.throttled_ns)
        };
        assert_eq!(bracket(&stat(1000, 7), &stat(1000, 7), 400), (0, 600, 7));
        assert_eq!(bracket(&stat(1000, 7), &stat(1200, 9), 400), (200, 700, 9));
        // Records are read after the last update of cpu.stat for a running task.
        assert_eq!(bracket(&CpuStat::default(), &CpuStat::default(), 50), (0, -50, 0));
    }
}
