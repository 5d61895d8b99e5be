//! Settling: every CPU counts what its running task has used so far, and flushes what it has counted into the records.

use agent_common::cpu::{CACHE_LEN, CpuNow, FLUSHED_AT_ONCE};
use nix::time::ClockId;

use super::Cpu;
use crate::{
    config,
    kernel::{facts, load::LoadError},
};

/// The word of [`CpuNow`] with `marks_lost` in its lower half and `undisturbed` in its upper one.
const UNDISTURBED: usize = std::mem::offset_of!(CpuNow, marks_lost) / 8;

impl Cpu {
    /// Notes the CPUs that are never interrupted, here and for the programs.
    pub(super) fn leave_alone(&mut self, settings: &config::Cpu) {
        for (id, undisturbed) in (0..).zip(&mut self.undisturbed) {
            *undisturbed = settings.undisturbed.iter().any(|ids| ids.contains(&id));
            let lost = self.now.word(id, UNDISTURBED).unwrap_or(0) & u64::from(u32::MAX);
            self.now.set_word(id, UNDISTURBED, (u64::from(*undisturbed) << 32) | lost);
        }
    }

    /// Counts what the running tasks have used since they were switched in, flushes what every CPU has counted, and returns up to when
    /// that is so everywhere: the moment before the first was settled, CLOCK_MONOTONIC in ns. The last may be settled much later.
    ///
    /// A CPU that has been idle since it was settled last is left alone.
    pub(super) fn settle(&mut self) -> Result<u64, LoadError> {
        let began_ns = facts::clock_ns(ClockId::CLOCK_MONOTONIC);
        let mut online = vec![false; self.cpus as usize];
        let mut settled = Ok(());
        for cpu in self.online.now().map_err(LoadError::Cpus)?.to_vec() {
            if let Some(online) = online.get_mut(cpu as usize) {
                *online = true;
            }
            let undisturbed = self.undisturbed.get(cpu as usize).is_some_and(|undisturbed| *undisturbed);
            if !undisturbed && !self.now.read(cpu).is_some_and(|now| is_settled(&now)) {
                settled = settled.and(self.settle_one(cpu, 0));
            }
        }
        // What is offline counts nothing, but may have counted until then.
        for cpu in (0..self.cpus).filter(|cpu| !online[*cpu as usize]) {
            if self.now.read(cpu).is_some_and(|now| now.to_flush > 0) {
                settled = settled.and(self.settle_one(cpu, u64::from(cpu) + 1));
            }
        }
        settled.map(|()| began_ns)
    }

    /// Runs `cpu_settle` until nothing is left to flush: on that CPU, or for the one that `offline` says.
    fn settle_one(&self, cpu: u32, offline: u64) -> Result<(), LoadError> {
        // More than any CPU can have listed: what is counted meanwhile is for the next time.
        for _ in 0..2 * CACHE_LEN / FLUSHED_AT_ONCE {
            match self.object.run("cpu_settle", (offline == 0).then_some(cpu), offline) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.is_of_no_cpu() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether a CPU has been idle since all it counted was flushed: nothing can have been used there, and an interrupt would only wake it.
fn is_settled(now: &CpuNow) -> bool {
    now.to_flush == 0 && now.idle != 0 && now.task == now.idle
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_idle_cpu_that_has_flushed_all_is_left_alone() {
        let idle = CpuNow { task: 7, idle: 7, ..CpuNow::ZERO };
        assert!(is_settled(&idle));
        assert!(!is_settled(&CpuNow { to_flush: 1, ..idle }));
        assert!(!is_settled(&CpuNow { task: 8, ..idle }));
        assert!(!is_settled(&CpuNow::ZERO), "nothing was seen of it yet");
    }
}
