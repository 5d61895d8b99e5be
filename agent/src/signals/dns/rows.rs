//! Rows of durations, which the kernel side makes when there is something to count: most slots need none, some need several.
//!
//! What dead descendants had counted is in rows of their own beside those of the slot that carries it, in the same pinned map.

use std::{collections::HashMap, io};

use agent_common::{
    Counts as _,
    dns::{DURATION_FIRST, ROW_CARRIED, ROW_KINDS, Row, RowKey, Way},
};
use aya::maps::{HashMap as BpfHashMap, IterableMap as _, MapData};

use crate::{cgroups::Table, histogram::Histogram, kernel::sys};

/// The durations of all slots.
pub(super) struct Rows(BpfHashMap<MapData, RowKey, Row>);

impl Rows {
    pub(super) fn new(map: BpfHashMap<MapData, RowKey, Row>) -> Self {
        Self(map)
    }

    /// The durations of every cgroup, descendants included, by slot.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub(super) fn totals(&self, table: &Table) -> io::Result<HashMap<u32, Vec<(RowKey, Histogram)>>> {
        let mut sums: HashMap<(u32, u32), Box<Row>> = HashMap::new();
        sys::for_each_entry(self.0.map().fd(), |key: &RowKey, row: &Row| {
            let kind = key.kind & (ROW_KINDS - 1);
            let mut at = Some(key.slot);
            while let Some(slot) = at {
                sums.entry((slot, kind)).or_insert_with(|| Box::new(Row::ZERO)).add(row);
                at = table.parent(slot);
            }
        })?;
        let mut totals: HashMap<u32, Vec<(RowKey, Histogram)>> = HashMap::new();
        for ((slot, kind), row) in sums {
            totals.entry(slot).or_default().push((RowKey { slot, kind }, histogram(&row)));
        }
        totals.values_mut().for_each(|rows| rows.sort_unstable_by_key(|(key, _)| key.kind));
        Ok(totals)
    }

    /// The last durations of a slot whose owner is gone; `parent` carries them from now on.
    pub(super) fn retire(&mut self, slot: u32, parent: u32) -> Vec<(RowKey, Histogram)> {
        let mut last = Vec::new();
        for kind in 0..ROW_KINDS {
            let mut sum: Option<Row> = None;
            for key in [kind, kind | ROW_CARRIED].map(|kind| RowKey { slot, kind }) {
                let Ok(row) = self.0.get(&key, 0) else { continue };
                sum.get_or_insert(Row::ZERO).add(&row);
                // Gone all the same when it is not there any more.
                let _ = self.0.remove(&key);
            }
            let Some(sum) = sum else { continue };
            let carried = RowKey { slot: parent, kind: kind | ROW_CARRIED };
            let mut row = self.0.get(&carried, 0).unwrap_or(Row::ZERO);
            row.add(&sum);
            // No room: the parent lacks what its child had, which was exported for the child.
            let _ = self.0.insert(carried, row, 0);
            last.push((RowKey { slot, kind }, histogram(&sum)));
        }
        last
    }
}

/// What a kind of row counts: by [`agent_common::dns::row_kind`].
pub(super) fn way_and_rcode(kind: u32) -> (Way, usize) {
    (Way::ALL[(kind >> 3) as usize & 3], (kind & 7) as usize)
}

fn histogram(row: &Row) -> Histogram {
    Histogram::of_durations(DURATION_FIRST, &row.buckets, row.sum_ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_common::dns::row_kind;

    #[test]
    fn a_rows_kind_says_what_it_counts() {
        for way in Way::ALL {
            for rcode in 0..16 {
                let kind = row_kind(way, rcode);
                assert!(kind < ROW_KINDS);
                assert_eq!(way_and_rcode(kind), (way, usize::from(rcode).min(6)));
            }
        }
    }
}
