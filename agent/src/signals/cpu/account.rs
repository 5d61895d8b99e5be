//! The accounts of the cpu signal (pure): counts per slot -> totals per cgroup as `cpu.stat` has them.
//!
//! The kernel side counts each task's time in the one cgroup it is in. A cgroup's totals include its descendants, the removed ones
//! too: when a slot is given back, what it counted is added to its parent's record.

use std::{collections::HashMap, sync::Arc};

use agent_common::{
    Counts as _,
    cpu::{CpuRecord, WAIT_FIRST},
};

use crate::{
    cgroups::{Cgroup, Table, files::Throttling},
    histogram::Histogram,
};

/// What a cgroup used: since it was born, or where it is older than counting, see each field.
#[derive(Clone, Debug, PartialEq)]
pub struct CpuUse {
    /// CPU time in ns since the cgroup was born, descendants included; `None` where it starts from a `cpu.stat` that was gone
    /// before it could be read.
    pub time_ns: Option<u64>,
    /// CPUs used since the last collection; `None` at the first one of a cgroup older than counting.
    pub usage_cores: Option<f64>,
    /// Run-queue wait in ns since counting began.
    pub wait_ns: u64,
    /// CPU time in ns since counting began while others waited for that CPU.
    pub contended_ns: u64,
    /// The wait by cause; `None` where it is not known how much of the throttling was before counting.
    pub causes: Option<Causes>,
    /// Enforcement periods: all, and those throttled.
    pub periods: Option<(u64, u64)>,
    /// Waits in s, one per dispatch.
    pub waits: Arc<Histogram>,
}

/// Run-queue wait in ns since counting began, by cause. Neither ever goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Causes {
    /// Held back by its own `cpu.max`; `None` without a cpu controller.
    pub throttled_ns: Option<u64>,
    /// The rest.
    pub contention_ns: u64,
}

/// What a cgroup had used before counting began, in ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// `cpu.stat`'s `usage_usec` less what was counted up to the same moment.
    pub on_cpu_ns: i64,
    /// `cpu.stat`'s `throttled_usec`.
    pub throttled_ns: u64,
}

/// What is known of one slot's owner beside its record.
#[derive(Debug, Default)]
struct SlotAccount {
    /// Where it starts from `cpu.stat`.
    before: Option<Before>,
    /// The CPU time of the last collection.
    previous_ns: Option<u64>,
    /// What `cpu.stat` said of throttling when the cgroup still lived.
    throttling: Option<Throttling>,
    /// Throttling was read by this agent or the one before: without a reading the wait has no known cause.
    throttles: bool,
    /// The largest time in contention so far.
    contention_ns: u64,
}

/// The accounts of all slots.
#[derive(Debug, Default)]
pub struct Account {
    /// By slot, up to the largest that was ever in use.
    slots: Vec<SlotAccount>,
    /// Since when the records count, CLOCK_BOOTTIME in ns.
    since_ns: u64,
    /// When the last collection was, CLOCK_BOOTTIME in ns.
    collected_ns: Option<u64>,
}

impl Account {
    /// Of records that have counted since `since_ns`, CLOCK_BOOTTIME.
    pub fn new(since_ns: u64) -> Self {
        Self { since_ns, ..Self::default() }
    }

    /// Whether a cgroup is older than its counts, and its CPU time starts from `cpu.stat`.
    pub fn is_older(&self, cgroup: &Cgroup) -> bool {
        cgroup.is_older_than(self.since_ns)
    }

    /// Enters what an earlier agent knew of a slot: what was used before counting, the time in contention in ns that it exported last,
    /// and whether it had read of throttling.
    pub fn restore(&mut self, slot: u32, before: Option<Before>, contention_ns: u64, throttles: bool) {
        let slot_account = at(&mut self.slots, slot);
        (slot_account.before, slot_account.contention_ns, slot_account.throttles) = (before, contention_ns, throttles);
    }

    /// CPU time in ns that was counted of each cgroup and its descendants, by slot, from what its `own` record has.
    pub fn counted_ns(table: &Table, own: impl Fn(u32) -> u64) -> HashMap<u32, u64> {
        let mut counted: HashMap<u32, u64> = HashMap::with_capacity(table.len());
        for slot in table.leaves_first() {
            let own_ns = own(slot);
            let sum_ns = *counted.entry(slot).and_modify(|ns| *ns += own_ns).or_insert(own_ns);
            if let Some(parent) = table.parent(slot) {
                *counted.entry(parent).or_default() += sum_ns;
            }
        }
        counted
    }

    /// Lets a slot's CPU time start from what its owner had used before counting began: `cpu.stat` minus
    /// [`counted_ns`](Self::counted_ns) at one moment. Until then it is not known.
    pub fn begin(&mut self, slot: u32, before: Before) {
        at(&mut self.slots, slot).before = Some(before);
    }

    /// A collection: what every cgroup used up to now, children before their parents. `own` reads a slot's record, `throttling`
    /// what the kernel itself counted of a cgroup, which must be as of a moment after the records were flushed.
    pub fn collect(
        &mut self,
        now_ns: u64,
        table: &Table,
        own: impl Fn(u32) -> Option<CpuRecord>,
        mut throttling: impl FnMut(&Cgroup) -> Option<Throttling>,
    ) -> HashMap<u32, CpuUse> {
        let elapsed_s = self.collected_ns.map(|then| now_ns.saturating_sub(then) as f64 / 1e9);
        self.collected_ns = Some(now_ns);

        // Records are long: sums are kept of those only that have children still to come above them.
        let mut below: HashMap<u32, CpuRecord> = HashMap::new();
        let mut used = HashMap::with_capacity(table.len());
        for cgroup in table.leaves_first().into_iter().filter_map(|slot| table.get(slot)) {
            let mut sum = below.remove(&cgroup.slot).unwrap_or(CpuRecord::ZERO);
            if let Some(own) = own(cgroup.slot) {
                sum.add(&own);
            }
            let read = if cgroup.lives() { throttling(cgroup) } else { None };
            used.insert(cgroup.slot, self.state(cgroup, &sum, read, elapsed_s));
            if let Some(parent) = cgroup.parent {
                below.entry(parent).or_insert(CpuRecord::ZERO).add(&sum);
            }
        }
        used
    }

    /// The final totals of a cgroup that is gone, of its last record.
    ///
    /// Its children must have been retired before.
    pub fn retire(&mut self, cgroup: &Cgroup, last: &CpuRecord) -> CpuUse {
        let used = self.state(cgroup, last, None, None);
        *at(&mut self.slots, cgroup.slot) = SlotAccount::default();
        used
    }

    /// What a slot's owner had used before counting began; `None` when it is not known, or there is none.
    pub fn before(&self, slot: u32) -> Option<Before> {
        self.slots.get(slot as usize)?.before
    }

    /// The largest time in contention of a slot's owner so far, in ns.
    pub fn contention_ns(&self, slot: u32) -> u64 {
        self.slots.get(slot as usize).map_or(0, |slot_account| slot_account.contention_ns)
    }

    /// Whether throttling was read of a slot's owner, by this agent or the one before.
    pub fn knows_throttling(&self, slot: u32) -> bool {
        self.slots.get(slot as usize).is_some_and(|slot_account| slot_account.throttles)
    }

    fn state(&mut self, cgroup: &Cgroup, sum: &CpuRecord, read: Option<Throttling>, elapsed_s: Option<f64>) -> CpuUse {
        let older = self.is_older(cgroup);
        at(&mut self.slots, cgroup.slot).state(older, sum, read, elapsed_s)
    }
}

/// What a slot has in a list that grows with the slots in use.
pub(super) fn at<T: Default>(by_slot: &mut Vec<T>, slot: u32) -> &mut T {
    let slot = slot as usize;
    if by_slot.len() <= slot {
        by_slot.resize_with(slot + 1, T::default);
    }
    &mut by_slot[slot]
}

impl SlotAccount {
    fn state(&mut self, older: bool, sum: &CpuRecord, read: Option<Throttling>, elapsed_s: Option<f64>) -> CpuUse {
        let before = if older { self.before } else { Some(Before::default()) };
        let time_ns = before.map(|before| sum.on_cpu_ns.saturating_add_signed(before.on_cpu_ns));
        self.throttling = read.or(self.throttling);
        self.throttles |= self.throttling.is_some();
        // Throttled waiting of an earlier agent's time must not become contention because a file could not be read.
        let divided = before.filter(|_| !self.throttles || self.throttling.is_some());

        let since_ns = std::mem::replace(&mut self.previous_ns, time_ns).or((!older).then_some(0));
        let usage_cores = match (time_ns, since_ns, elapsed_s) {
            (Some(now_ns), Some(since_ns), Some(elapsed_s)) if elapsed_s > 0.0 => {
                Some(now_ns.saturating_sub(since_ns) as f64 / 1e9 / elapsed_s)
            }
            _ => None,
        };

        CpuUse {
            time_ns,
            usage_cores,
            wait_ns: sum.wait_ns,
            contended_ns: sum.contended_ns,
            causes: divided.map(|before| self.causes(sum.wait_ns, before.throttled_ns)),
            periods: self.throttling.map(|t| (t.periods, t.throttled_periods)),
            waits: Arc::new(Histogram::of_durations(WAIT_FIRST, &sum.waits, sum.wait_ns)),
        }
    }

    /// Divides a wait.
    ///
    /// `run_delay` has all the waiting, that for a throttled cgroup included, on every kernel (see the program). `throttled_usec`
    /// has the time that the cgroup's queues were held back with a task in them, one queue per CPU. With one task per CPU both
    /// speak of the same time. With more the wait grows faster than the throttled time, which stays that of the queues: what the
    /// further tasks of a held-back queue wait is in contention, as their waiting for each other is.
    ///
    /// The kernel books a throttling when it ends, the wait of its tasks is counted when their next stretch has ended. What is not
    /// in the wait yet cannot have a cause yet, and what was called contention once stays that: so neither goes down, and both
    /// together are the wait.
    fn causes(&mut self, wait_ns: u64, throttled_before_ns: u64) -> Causes {
        let throttled_ns = self.throttling.map(|t| t.throttled_ns.saturating_sub(throttled_before_ns).min(wait_ns));
        self.contention_ns = self.contention_ns.max(wait_ns - throttled_ns.unwrap_or(0)).min(wait_ns);
        Causes { throttled_ns: throttled_ns.map(|_| wait_ns - self.contention_ns), contention_ns: self.contention_ns }
    }
}

#[cfg(test)]
mod tests;
