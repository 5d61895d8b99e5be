//! Counts that the kernel side keeps per slot: a cgroup's figure includes its descendants, the removed ones too.
//!
//! What a dead cgroup counted is added to what its parent counts, in the array itself. So nothing is kept in this process, and the
//! next agent goes on with the same figures.

use std::collections::HashMap;

use agent_common::{Counts, cgroups::UNATTRIBUTED};
use aya::Pod;

use crate::{
    cgroups::{Cgroup, Table},
    kernel::{
        load::{LoadError, Object},
        sys::MappedArray,
    },
};

/// The counts `T` of all slots.
pub struct SlotCounts<T> {
    /// What the kernel side counts, by atomic additions, and what dead descendants had counted: `[copy * slots + slot]`.
    records: MappedArray<T>,
    copies: u32,
    slots: u32,
}

impl<T: Counts + Pod> SlotCounts<T> {
    /// Opens the counts: `records` is a map of `object`. There are as many `copies` of each slot's record as CPUs count apart from
    /// each other, one where all count in the same.
    ///
    /// # Errors
    /// When the map is missing or cannot be mapped.
    pub fn open(object: &Object, records: &'static str, copies: u32, slots: u32) -> Result<Self, LoadError> {
        Ok(Self { records: object.mapped(records)?, copies, slots })
    }

    /// What every cgroup counted since counting began, by slot, descendants included.
    pub fn totals(&self, table: &Table) -> HashMap<u32, T> {
        along_tree(table, |slot| self.own(slot))
    }

    /// What was counted for no cgroup that has a slot.
    pub fn unattributed(&self) -> T {
        self.own(UNATTRIBUTED)
    }

    /// The final count of a cgroup that is gone and whose children were retired before. It is added to the parent's, and the slot's
    /// records are zeroed for the next owner.
    pub fn retire(&self, cgroup: &Cgroup) -> T {
        self.retire_without(cgroup, |_| {})
    }

    /// [`retire`](Self::retire), where `remove` sets to 0 what the parent does not inherit.
    pub fn retire_without(&self, cgroup: &Cgroup, remove: impl FnOnce(&mut T)) -> T {
        let last = self.own(cgroup.slot);
        let mut inherited = last;
        remove(&mut inherited);
        self.records.add(cgroup.parent.unwrap_or(UNATTRIBUTED), &inherited);
        for copy in 0..self.copies {
            self.records.write(copy * self.slots + cgroup.slot, &T::ZERO);
        }
        last
    }

    /// A slot's own counts and those of its owner's dead descendants.
    fn own(&self, slot: u32) -> T {
        let mut sum = T::ZERO;
        for record in (0..self.copies).filter_map(|copy| self.records.read(copy * self.slots + slot)) {
            sum.add(&record);
        }
        sum
    }
}

/// What every cgroup and its living descendants have by their `own` counts.
fn along_tree<T: Counts>(table: &Table, own: impl Fn(u32) -> T) -> HashMap<u32, T> {
    let mut totals: HashMap<u32, T> = HashMap::with_capacity(table.len());
    for slot in table.leaves_first() {
        let sum = totals.entry(slot).or_insert(T::ZERO);
        sum.add(&own(slot));
        let sum = *sum;
        if let Some(parent) = table.parent(slot) {
            totals.entry(parent).or_insert(T::ZERO).add(&sum);
        }
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::table::tests::cgroup;

    #[test]
    fn a_cgroup_counts_for_all_above_it() {
        let mut table = Table::default();
        for (slot, path, parent) in [(1, "/", None), (4, "/a", Some(1)), (2, "/a/b", Some(4)), (3, "/c", Some(1))] {
            table.insert(cgroup(slot, path, parent));
        }
        let totals = along_tree(&table, |slot| 10_u64.pow(slot));
        assert_eq!((totals[&1], totals[&4], totals[&2], totals[&3]), (11_110, 10_100, 100, 1000));
    }
}
