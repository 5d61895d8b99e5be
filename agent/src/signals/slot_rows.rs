//! Counts that a slot has only once there was something to count: a cgroup's figure includes its descendants, the removed ones too.
//!
//! What dead descendants had counted is in rows of their own beside those of the slot that carries it, in the same pinned map, so that
//! the next agent goes on with the same figures. Only the agent writes these.

use std::{collections::HashMap, io};

use agent_common::{
    Counts,
    cgroups::UNATTRIBUTED,
    rows::{CARRIED, RowKey},
};
use aya::{
    Pod,
    maps::{HashMap as BpfHashMap, IterableMap as _, MapData},
};

use crate::{
    cgroups::{Cgroup, Table},
    kernel::{
        load::{LoadError, Object},
        sys,
    },
};

/// The rows `T` of all slots.
pub struct SlotRows<T> {
    map: BpfHashMap<MapData, RowKey, T>,
    /// A row's kind is below this.
    kinds: u32,
}

/// What each slot has, descendants included, by kind: in ascending order.
pub type RowsBySlot<T> = HashMap<u32, Vec<(u32, Box<T>)>>;

impl<T: Counts + Pod> SlotRows<T> {
    /// Opens the rows: `map` is one of `object`.
    ///
    /// # Errors
    /// When the map is missing or cannot be opened.
    pub fn open(object: &mut Object, map: &'static str, kinds: u32) -> Result<Self, LoadError> {
        Ok(Self { map: object.take(map)?, kinds })
    }

    /// Makes the row of what has no slot, if it is not there, so that counting into it never lacks memory.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn make_unattributed(&mut self, kind: u32) -> io::Result<()> {
        let key = RowKey { slot: UNATTRIBUTED, kind };
        match self.map.get(&key, 0) {
            Ok(_) => Ok(()),
            Err(_) => self.map.insert(key, T::ZERO, 0).map_err(io::Error::other),
        }
    }

    /// What every cgroup counted since counting began, descendants included; and [`UNATTRIBUTED`] what has no slot.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn totals(&self, table: &Table) -> io::Result<RowsBySlot<T>> {
        let mut sums: HashMap<(u32, u32), Box<T>> = HashMap::new();
        sys::for_each_entry(self.map.map().fd(), |key: &RowKey, row: &T| {
            let kind = key.kind & !CARRIED;
            let mut at = Some(key.slot);
            while let Some(slot) = at {
                sums.entry((slot, kind)).or_insert_with(|| Box::new(T::ZERO)).add(row);
                at = table.parent(slot);
            }
        })?;
        let mut totals = RowsBySlot::new();
        for ((slot, kind), row) in sums {
            totals.entry(slot).or_default().push((kind, row));
        }
        totals.values_mut().for_each(|rows| rows.sort_unstable_by_key(|(kind, _)| *kind));
        Ok(totals)
    }

    /// The final rows of a cgroup that is gone and whose children were retired before; its parent carries them from now on.
    pub fn retire(&mut self, cgroup: &Cgroup) -> Vec<(u32, Box<T>)> {
        let parent = cgroup.parent.unwrap_or(UNATTRIBUTED);
        let mut last = Vec::new();
        for kind in 0..self.kinds {
            let mut sum: Option<Box<T>> = None;
            for key in [kind, kind | CARRIED].map(|kind| RowKey { slot: cgroup.slot, kind }) {
                let Ok(row) = self.map.get(&key, 0) else { continue };
                sum.get_or_insert_with(|| Box::new(T::ZERO)).add(&row);
                // Gone all the same when it is not there any more.
                let _ = self.map.remove(&key);
            }
            let Some(sum) = sum else { continue };
            let carried = RowKey { slot: parent, kind: kind | CARRIED };
            let mut row = self.map.get(&carried, 0).unwrap_or(T::ZERO);
            row.add(&sum);
            // No room: the parent lacks what its child had, which was exported for the child.
            let _ = self.map.insert(carried, row, 0);
            last.push((kind, sum));
        }
        last
    }
}
