//! Burst histograms: how many CPUs each cgroup used in each window, in records that outlive the agent.
//!
//! What each slot used in a window comes from the logs ([`super::windows`]). The mapped records are the only place where the
//! histograms are, so nothing that was exported can be lost: an agent that is killed has written all that it had counted.
//!
//! **Windows that no agent watched** are in no histogram, also not as idle ones. A window's number is its place on CLOCK_MONOTONIC,
//! less the windows before it that none watched: so the windows that a cgroup was watched in are one number minus another.

use agent_common::{
    bucket::PER_OCTAVE,
    cpu::{BURST_LEN, Burst, WINDOW_NS, Watched},
};

use super::{account::at, sleeps::Sleeps};
use crate::{
    cgroups::{Cgroup, Table},
    histogram::{self, Histogram},
    kernel::sys::MappedArray,
};

/// Words of [`Burst`].
const WRITTEN: usize = std::mem::offset_of!(Burst, written) / 8;
const OWNER: usize = std::mem::offset_of!(Burst, owner) / 8;
const FIRST: usize = std::mem::offset_of!(Burst, first) / 8;
const ON_CPU: usize = std::mem::offset_of!(Burst, on_cpu_ns) / 8;
const WINDOWS: usize = std::mem::offset_of!(Burst, windows) / 8;

/// The histograms of all slots.
pub(super) struct Bursts {
    records: MappedArray<Burst>,
    watched: MappedArray<Watched>,
    /// Index of the lowest bucket, which also has what is below it. It is the same for all cgroups and as long as the maps live: no
    /// observation moves from one bucket to another.
    lowest: i32,
    /// Since when windows are watched, by this agent or those before it, CLOCK_BOOTTIME in ns; `None` while they are not.
    since_ns: Option<u64>,
    /// The window in which this agent began to watch: incomplete, so the next one is the first that counts.
    first_window: u64,
    /// Windows before this one are closed.
    open_window: u64,
    /// What the agents before have left.
    before: Watched,
    /// Windows up to `first_window` that no agent watched.
    unwatched: u64,
    /// CPU time in ns by slot in the window that is being closed: 0 between two windows.
    in_window: Vec<u64>,
    /// Births and deaths are stamped with CLOCK_BOOTTIME, windows counted by CLOCK_MONOTONIC.
    sleeps: Sleeps,
}

impl Bursts {
    /// Goes on with what these maps hold, or begins where they are empty, in the window that is current `now`: its place on
    /// CLOCK_MONOTONIC, and CLOCK_BOOTTIME in ns. The machine may have as many as `cpus`.
    pub(super) fn open(records: MappedArray<Burst>, watched: MappedArray<Watched>, cpus: u32, now: (u64, u64)) -> Self {
        let octaves = cpus.next_power_of_two().ilog2();
        let mut bursts = Self {
            records,
            watched,
            lowest: (octaves * PER_OCTAVE) as i32 - BURST_LEN as i32,
            since_ns: None,
            first_window: 0,
            open_window: 0,
            before: Watched::ZERO,
            unwatched: 0,
            in_window: Vec::new(),
            sleeps: Sleeps::default(),
        };
        match bursts.watched.read(0).filter(|watched| watched.since_ns != 0) {
            Some(before) => bursts.go_on(before, now),
            None => bursts.watch(Some(now)),
        }
        bursts
    }

    fn go_on(&mut self, before: Watched, (window, now_ns): (u64, u64)) {
        (self.first_window, self.open_window) = (window, window);
        self.since_ns = Some(before.since_ns);
        self.before = before;
        self.unwatched = (window + 1).saturating_sub(before.next);
        (0..self.records.entries()).for_each(|slot| self.complete(slot, now_ns));
    }

    /// Makes a record whole that a killed agent has left in the middle of a window's end.
    fn complete(&self, slot: u32, now_ns: u64) {
        let Some(written) = self.records.word(slot, WRITTEN) else { return };
        let next = self.before.next;
        if written % 2 == 1 {
            // What it holds is not known: it begins anew.
            let owner = self.records.word(slot, OWNER).unwrap_or(0);
            self.replace(slot, &Burst { owner, since_ns: now_ns, first: next, ..Burst::ZERO });
        } else if written / 2 > next {
            // The window was entered here and not yet noted as closed: of this owner it was watched.
            let first = self.records.word(slot, FIRST).unwrap_or(next).saturating_sub(written / 2 - next);
            self.records.set_word(slot, WRITTEN, 1);
            self.records.set_word(slot, FIRST, first);
            self.records.set_word(slot, WRITTEN, 2 * next);
        }
    }

    /// From now on no windows are watched, or they are again: all histograms begin anew then.
    pub(super) fn watch(&mut self, now: Option<(u64, u64)>) {
        self.watched.write(0, &Watched::ZERO);
        let owned = |slot: &u32| self.records.word(*slot, OWNER).is_some_and(|owner| owner != 0);
        (0..self.records.entries()).filter(owned).for_each(|slot| self.replace(slot, &Burst::ZERO));
        self.since_ns = now.map(|(_, now_ns)| now_ns);
        if let Some((window, now_ns)) = now {
            (self.first_window, self.open_window) = (window, window);
            self.before = Watched { since_ns: now_ns, next: window + 1, unwatched: 0 };
            self.unwatched = 0;
            self.watched.write(0, &self.before);
        }
    }

    pub(super) fn are_watched(&self) -> bool {
        self.since_ns.is_some()
    }

    /// Goes on in the maps of another one, which hold the same.
    pub(super) fn go_on_in(&mut self, other: Self) {
        (self.records, self.watched) = (other.records, other.watched);
        if !self.are_watched() {
            self.watch(None);
        }
    }

    /// Reads both clocks, at every tick; boot time was read first.
    pub(super) fn look(&mut self, boottime_ns: u64, monotonic_ns: u64) {
        self.sleeps.look(boottime_ns, monotonic_ns);
    }

    /// The window in which this agent began to watch.
    pub(super) fn first_window(&self) -> u64 {
        self.first_window
    }

    /// The first window that is not closed yet.
    pub(super) fn open_window(&self) -> u64 {
        self.open_window
    }

    /// Closes a window and all before it: `used` is CPU time in ns by slot, own counts, in any order and as many of a slot as there
    /// are CPUs. What a window used counts for the slot and all above it, together, as one observation each.
    pub(super) fn close_window(&mut self, window: u64, used: &[(u32, u64)], table: &Table) {
        self.close_until(window);
        // A window costs by what was active in it, not by how many cgroups there are.
        let mut active: Vec<u32> = Vec::with_capacity(used.len() * 2);
        for &(slot, ns) in used.iter().filter(|(_, ns)| *ns > 0) {
            for slot in std::iter::successors(Some(slot), |slot| table.parent(*slot)) {
                let sum_ns = at(&mut self.in_window, slot);
                if *sum_ns == 0 {
                    active.push(slot);
                }
                *sum_ns += ns;
            }
        }
        for slot in active {
            let ns = std::mem::take(at(&mut self.in_window, slot));
            if let Some(cgroup) = table.get(slot) {
                self.enter(cgroup, window, ns);
            }
        }
        self.close_until(window + 1);
    }

    /// Closes the windows before `until`: nothing was used in those that were not closed one by one.
    pub(super) fn close_until(&mut self, until: u64) {
        if until <= self.open_window {
            return;
        }
        self.open_window = until;
        if let Some(since_ns) = self.since_ns.filter(|_| until > self.first_window + 1) {
            self.watched.write(0, &Watched { since_ns, next: self.number(until), unwatched: self.unwatched });
        }
    }

    /// Enters what a cgroup used in a window, in ns.
    fn enter(&self, cgroup: &Cgroup, window: u64, ns: u64) {
        let slot = cgroup.slot;
        if window <= self.first_window || !self.has_record(cgroup, window) {
            return;
        }
        let number = self.number(window);
        let word = |word| self.records.word(slot, word).unwrap_or(0);
        if number < word(FIRST) {
            return;
        }
        let index = histogram::index(ns as f64 / WINDOW_NS as f64) - self.lowest;
        let bucket = index.clamp(0, BURST_LEN as i32 - 1) as usize;
        let (place, shift) = (WINDOWS + bucket / 2, 32 * (bucket % 2));
        // After so many windows, 13 years, a count stays what it is.
        let more = u64::from((word(place) >> shift) as u32 != u32::MAX) << shift;
        self.records.set_word(slot, WRITTEN, word(WRITTEN) | 1);
        self.records.set_word(slot, place, word(place) + more);
        self.records.set_word(slot, ON_CPU, word(ON_CPU) + ns);
        self.records.set_word(slot, WRITTEN, 2 * (number + 1));
    }

    /// Whether a cgroup has a record, which is made where its first window is no later than `window`.
    fn has_record(&self, cgroup: &Cgroup, window: u64) -> bool {
        if self.records.word(cgroup.slot, OWNER) == Some(cgroup.id) {
            return true;
        }
        let first = self.first_window_of(cgroup);
        if first <= window {
            self.replace(cgroup.slot, &Burst { owner: cgroup.id, first: self.number(first), ..Burst::ZERO });
        }
        first <= window
    }

    /// Replaces a record. One that is half replaced counts as not whole.
    fn replace(&self, slot: u32, burst: &Burst) {
        self.records.set_word(slot, WRITTEN, 1);
        self.records.write(slot, burst);
    }

    /// The histogram of a cgroup with its idle windows, and when it began, CLOCK_BOOTTIME in ns; `None` while windows are not
    /// watched.
    pub(super) fn histogram(&self, cgroup: &Cgroup) -> Option<(u64, Histogram)> {
        let since_ns = self.since_ns?;
        let until = self.until(cgroup);
        let own = self.has_record(cgroup, self.open_window).then(|| self.records.read(cgroup.slot)).flatten();
        let burst = own.unwrap_or(Burst { first: until, ..Burst::ZERO });
        Some((cgroup.counted_since(since_ns.max(burst.since_ns)), with_idle(&burst, self.lowest, until)))
    }

    /// Zeroes the record of a cgroup that is gone.
    pub(super) fn retire(&self, cgroup: &Cgroup) {
        self.replace(cgroup.slot, &Burst::ZERO);
    }

    /// Number of the window after the last one of a cgroup that is closed.
    fn until(&self, cgroup: &Cgroup) -> u64 {
        let open = self.number(self.open_window.max(self.first_window + 1));
        let Some(died) = cgroup.died_ns.map(|died_ns| self.window_of(died_ns)) else { return open };
        if died > self.first_window {
            open.min(self.number(died + 1))
        } else {
            // Under an agent before, or when there was none.
            (died + 1).saturating_sub(self.before.unwatched).min(self.before.next)
        }
    }

    /// The first window that counts for a cgroup that has no record yet: that of its birth, or the first whole one. Of what was
    /// found later or has a slot only since then, the birth is the moment at which it got the slot.
    fn first_window_of(&self, cgroup: &Cgroup) -> u64 {
        let born = self.window_of(cgroup.born_ns) + u64::from(cgroup.found);
        born.max(self.first_window + 1)
    }

    fn number(&self, window: u64) -> u64 {
        window.saturating_sub(self.unwatched)
    }

    fn window_of(&self, boottime_ns: u64) -> u64 {
        self.sleeps.monotonic_ns(boottime_ns) / WINDOW_NS
    }
}

/// The histogram of a record up to a window: what was watched and has no CPU time was idle. The lowest bucket has the index
/// `lowest`.
fn with_idle(burst: &Burst, lowest: i32, until: u64) -> Histogram {
    let windows = &burst.windows;
    let first = windows.iter().position(|n| *n > 0).unwrap_or(0);
    let end = windows.iter().rposition(|n| *n > 0).map_or(0, |last| last + 1);
    let buckets: Vec<u64> = windows[first..end].iter().copied().map(u64::from).collect();
    let busy: u64 = buckets.iter().sum();
    // A stretch may have been laid a tick outside the cgroup's life.
    let zero_count = until.saturating_sub(burst.first).saturating_sub(busy);
    let (count, sum) = (busy + zero_count, burst.on_cpu_ns as f64 / WINDOW_NS as f64);
    let offset = if end == 0 { 0 } else { lowest + first as i32 };
    Histogram { count, sum, zero_count, offset, buckets, ..Histogram::default() }
}

#[cfg(test)]
mod tests;
