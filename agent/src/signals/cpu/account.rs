//! The accounts of the cpu signal (pure): counts per slot -> totals per cgroup as `cpu.stat` has them, and burst histograms.
//!
//! The kernel side counts each task's time in the one cgroup it is in. A cgroup's totals include its descendants, the removed ones
//! too: when a slot is given back, what it counted is carried by its parent.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use agent_common::{
    cgroups::UNATTRIBUTED,
    cpu::{WAIT_FIRST, WAIT_LEN, WINDOW_NS},
};

use super::sleeps::Sleeps;
use crate::{
    cgroups::{
        Cgroup, Table,
        files::{CpuStat, Throttling},
    },
    histogram::Histogram,
};

/// One read of a slot's records, added up over CPUs; cumulative since the slot was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuReading {
    /// Time on CPUs in ns.
    pub on_cpu_ns: u64,
    /// Run-queue wait in ns.
    pub wait_ns: u64,
    /// Waits by duration; wraps at 2^32.
    pub waits: [u32; WAIT_LEN],
}

impl CpuReading {
    /// Nothing counted.
    pub const ZERO: Self = Self { on_cpu_ns: 0, wait_ns: 0, waits: [0; WAIT_LEN] };
}

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
    /// The wait by cause; `None` where it is not known how much of the throttling was before counting.
    pub causes: Option<Causes>,
    /// Enforcement periods: all, and those throttled.
    pub periods: Option<(u64, u64)>,
    /// Waits in s, one per dispatch.
    pub waits: Arc<Histogram>,
    /// CPUs used per window, idle windows in the zero bucket.
    pub burst: Arc<Histogram>,
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

/// Counts that add up along the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Totals {
    on_cpu_ns: u64,
    wait_ns: u64,
    waits: [u64; WAIT_LEN],
}

impl Totals {
    const ZERO: Self = Self { on_cpu_ns: 0, wait_ns: 0, waits: [0; WAIT_LEN] };

    fn add(&mut self, other: &Self) {
        self.on_cpu_ns += other.on_cpu_ns;
        self.wait_ns += other.wait_ns;
        for (mine, theirs) in self.waits.iter_mut().zip(&other.waits) {
            *mine += theirs;
        }
    }
}

/// The account of one slot.
#[derive(Debug)]
struct SlotAccount {
    /// The last reading.
    last: CpuReading,
    /// Own counts and those of dead descendants.
    totals: Totals,
    /// Where it starts from `cpu.stat`.
    before: Option<Before>,
    /// CPUs used per non-idle window.
    burst: Histogram,
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
    slots: HashMap<u32, SlotAccount>,
    /// The window in which counting began: incomplete for what was there before.
    first_window: u64,
    /// Windows before this one are closed.
    open_window: u64,
    /// Since when the records count, CLOCK_BOOTTIME in ns.
    since_ns: u64,
    /// When the last collection was, CLOCK_BOOTTIME in ns.
    collected_ns: Option<u64>,
    /// Births and deaths are stamped with CLOCK_BOOTTIME, windows counted by CLOCK_MONOTONIC.
    sleeps: Sleeps,
}

impl Account {
    /// Begins in the window that is current now. The records have counted since `since_ns`, CLOCK_BOOTTIME.
    pub fn new(window: u64, since_ns: u64) -> Self {
        Self { first_window: window, open_window: window, since_ns, ..Self::default() }
    }

    /// Reads both clocks, at every tick; boot time was read first.
    pub fn look(&mut self, boottime_ns: u64, monotonic_ns: u64) {
        self.sleeps.look(boottime_ns, monotonic_ns);
    }

    /// Whether a cgroup is older than its counts, and its CPU time starts from `cpu.stat`.
    pub fn is_older(&self, cgroup: &Cgroup) -> bool {
        cgroup.is_older_than(self.since_ns)
    }

    /// The window in which counting began.
    pub fn first_window(&self) -> u64 {
        self.first_window
    }

    /// The first window that is not closed yet.
    pub fn open_window(&self) -> u64 {
        self.open_window
    }

    /// Enters what an earlier agent knew of a slot: what dead descendants had used, what was used before counting, the time in
    /// contention in ns that it exported last, and whether it had read of throttling.
    pub fn restore(&mut self, slot: u32, carried: &CpuReading, before: Option<Before>, contention_ns: u64, throttles: bool) {
        let slot_account = self.slot_mut(slot);
        (slot_account.before, slot_account.contention_ns, slot_account.throttles) = (before, contention_ns, throttles);
        let totals = &mut slot_account.totals;
        totals.on_cpu_ns += carried.on_cpu_ns;
        totals.wait_ns += carried.wait_ns;
        for (total, n) in totals.waits.iter_mut().zip(&carried.waits) {
            *total += u64::from(*n);
        }
    }

    /// Enters a slot's current counts. `None` for [`UNATTRIBUTED`], which has no owner.
    pub fn enter(&mut self, slot: u32, reading: CpuReading) {
        let slot_account = self.slot_mut(slot);
        let totals = &mut slot_account.totals;
        totals.on_cpu_ns += reading.on_cpu_ns.saturating_sub(slot_account.last.on_cpu_ns);
        totals.wait_ns += reading.wait_ns.saturating_sub(slot_account.last.wait_ns);
        for ((total, now), last) in totals.waits.iter_mut().zip(&reading.waits).zip(&slot_account.last.waits) {
            *total += u64::from(now.wrapping_sub(*last));
        }
        slot_account.last = reading;
    }

    /// Closes the windows before `until`: `used` is CPU time in ns by window and slot, own counts. What a window used counts for
    /// the slot and all above it, together, as one observation each.
    pub fn close_windows(&mut self, until: u64, used: &BTreeMap<u64, HashMap<u32, u64>>, table: &Table) {
        for (&window, by_slot) in used.range(self.open_window..until) {
            let mut totals: HashMap<u32, u64> = HashMap::with_capacity(by_slot.len() * 2);
            for (&slot, &ns) in by_slot {
                let mut at = Some(slot);
                while let Some(slot) = at {
                    *totals.entry(slot).or_default() += ns;
                    at = table.parent(slot);
                }
            }
            for (slot, ns) in totals {
                if table.get(slot).is_none_or(|cgroup| window < self.first_window_of(cgroup)) {
                    continue;
                }
                self.slot_mut(slot).burst.record(ns as f64 / WINDOW_NS as f64, 1);
            }
        }
        self.open_window = self.open_window.max(until);
    }

    /// CPU time in ns that was counted of each cgroup and its descendants, by slot, from the readings entered last.
    pub fn counted_ns(&self, table: &Table) -> HashMap<u32, u64> {
        let mut counted: HashMap<u32, u64> = HashMap::with_capacity(table.len());
        for slot in table.leaves_first() {
            let own_ns = self.slots.get(&slot).map_or(0, |slot_account| slot_account.totals.on_cpu_ns);
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
        self.slot_mut(slot).before = Some(before);
    }

    /// A collection: what every cgroup used up to now. `cpu_stat` reads the kernel's own figure of a cgroup.
    ///
    /// The readings must have been entered just before, and `cpu_stat` must read the files just after.
    pub fn collect(
        &mut self,
        now_ns: u64,
        table: &Table,
        mut cpu_stat: impl FnMut(&Cgroup) -> Option<CpuStat>,
    ) -> HashMap<u32, CpuUse> {
        let elapsed_s = self.collected_ns.map(|then| now_ns.saturating_sub(then) as f64 / 1e9);
        self.collected_ns = Some(now_ns);

        let mut totals: HashMap<u32, Totals> = HashMap::with_capacity(table.len());
        for slot in table.leaves_first() {
            let own = self.slot_mut(slot).totals.clone();
            let sum = totals.entry(slot).or_insert(Totals::ZERO);
            sum.add(&own);
            let sum = sum.clone();
            if let Some(parent) = table.parent(slot) {
                totals.entry(parent).or_insert(Totals::ZERO).add(&sum);
            }
        }
        let mut used = HashMap::with_capacity(table.len());
        for cgroup in table.iter() {
            let Some(sum) = totals.get(&cgroup.slot) else { continue };
            let stat = if cgroup.lives() { cpu_stat(cgroup) } else { None };
            used.insert(cgroup.slot, self.state(cgroup, sum, stat, elapsed_s));
        }
        used
    }

    /// The final totals of a cgroup that is gone, its last counts entered. They are added to its parent's.
    ///
    /// Its children must have been retired before.
    pub fn retire(&mut self, cgroup: &Cgroup) -> Option<CpuUse> {
        let sum = self.slots.get(&cgroup.slot)?.totals.clone();
        let last = self.state(cgroup, &sum, None, None);
        self.slots.remove(&cgroup.slot);
        if let Some(parent) = cgroup.parent {
            self.slot_mut(parent).totals.add(&sum);
        }
        Some(last)
    }

    /// What a slot's owner had used before counting began; `None` when it is not known, or there is none.
    pub fn before(&self, slot: u32) -> Option<Before> {
        self.slots.get(&slot)?.before
    }

    /// The largest time in contention of a slot's owner so far, in ns.
    pub fn contention_ns(&self, slot: u32) -> u64 {
        self.slots.get(&slot).map_or(0, |slot_account| slot_account.contention_ns)
    }

    /// Whether throttling was read of a slot's owner, by this agent or the one before.
    pub fn knows_throttling(&self, slot: u32) -> bool {
        self.slots.get(&slot).is_some_and(|slot_account| slot_account.throttles)
    }

    /// CPU time in ns of cgroups that had no slot.
    pub fn unattributed_ns(&self) -> u64 {
        self.slots.get(&UNATTRIBUTED).map_or(0, |slot_account| slot_account.totals.on_cpu_ns)
    }

    fn state(&mut self, cgroup: &Cgroup, sum: &Totals, stat: Option<CpuStat>, elapsed_s: Option<f64>) -> CpuUse {
        let died = cgroup.died_ns.map(|died_ns| self.window_of(died_ns));
        let until = died.map_or(self.open_window, |died| self.open_window.min(died + 1));
        let windows = until.saturating_sub(self.first_window_of(cgroup));
        let older = self.is_older(cgroup);
        self.slot_mut(cgroup.slot).state(older, sum, stat, windows, elapsed_s)
    }

    /// The first window that counts for a cgroup: that of its birth, or the first whole one where it is older than the counting.
    fn first_window_of(&self, cgroup: &Cgroup) -> u64 {
        let born = self.window_of(cgroup.born_ns);
        if self.is_older(cgroup) || born < self.first_window { self.first_window + 1 } else { born }
    }

    fn window_of(&self, boottime_ns: u64) -> u64 {
        self.sleeps.monotonic_ns(boottime_ns) / WINDOW_NS
    }

    fn slot_mut(&mut self, slot: u32) -> &mut SlotAccount {
        self.slots.entry(slot).or_insert_with(|| SlotAccount {
            last: CpuReading::ZERO,
            totals: Totals::ZERO,
            before: None,
            burst: Histogram::default(),
            previous_ns: None,
            throttling: None,
            throttles: false,
            contention_ns: 0,
        })
    }
}

impl SlotAccount {
    fn state(&mut self, older: bool, sum: &Totals, stat: Option<CpuStat>, windows: u64, elapsed_s: Option<f64>) -> CpuUse {
        let before = if older { self.before } else { Some(Before::default()) };
        let time_ns = before.map(|before| sum.on_cpu_ns.saturating_add_signed(before.on_cpu_ns));
        self.throttling = stat.and_then(|stat| stat.throttling).or(self.throttling);
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

        let mut burst = self.burst.clone();
        // A stretch may have been laid a tick outside the cgroup's life.
        burst.zero_count = windows.saturating_sub(burst.count);
        burst.count += burst.zero_count;

        CpuUse {
            time_ns,
            usage_cores,
            wait_ns: sum.wait_ns,
            causes: divided.map(|before| self.causes(sum.wait_ns, before.throttled_ns)),
            periods: self.throttling.map(|t| (t.periods, t.throttled_periods)),
            waits: Arc::new(Histogram::of_durations(WAIT_FIRST, &sum.waits, sum.wait_ns)),
            burst: Arc::new(burst),
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
