//! Who made whom wait: pairs of cgroups, counted by the programs for each wait of a millisecond and more.

use std::{collections::HashMap, io};

use agent_common::cpu::neighbour::{NO_ROOM, Pair};
use aya::maps::{HashMap as BpfHashMap, IterableMap as _, MapData};

use super::metrics::{LOST_PAIRS, NEIGHBOUR_WAIT};
use crate::{
    cgroups::{Cgroup, Table},
    kernel::{
        load::{LoadError, Object},
        sys,
    },
    metric::{Point, Value},
};

/// Neighbours that are reported of each cgroup.
const MOST: usize = 5;

/// What is waited for less than this is not reported, in ns.
const LEAST_NS: u64 = 100_000_000;

/// The attribute, and its value where a cgroup's tasks waited for each other.
const NEIGHBOUR: &str = "neighbour";
const ITSELF: &str = "itself";

/// The table of pairs.
pub(super) struct Neighbours {
    pairs: BpfHashMap<MapData, Pair, u64>,
    /// What was read of it since the last tick: all cgroups that end in one tick need it once.
    read: Option<Vec<(Pair, u64)>>,
    /// What found no room so far, in ns.
    without_room_ns: u64,
}

impl Neighbours {
    pub(super) fn open(object: &mut Object) -> Result<Self, LoadError> {
        let mut pairs: BpfHashMap<MapData, Pair, u64> = object.take("CPU_PAIRS")?;
        if pairs.get(&NO_ROOM, 0).is_err() {
            // Without it what finds no room is not counted, and nothing else is lost.
            let _ = pairs.insert(NO_ROOM, 0, 0);
        }
        Ok(Self { pairs, read: None, without_room_ns: 0 })
    }

    /// What was read is old.
    pub(super) fn tick(&mut self) {
        self.read = None;
    }

    fn read(&mut self) -> io::Result<&[(Pair, u64)]> {
        let read = match self.read.take() {
            Some(read) => read,
            None => {
                let mut read = Vec::new();
                sys::for_each_entry(self.pairs.map().fd(), |pair: &Pair, ns: &u64| read.push((*pair, *ns)))?;
                read
            }
        };
        Ok(self.read.insert(read))
    }

    /// A slot is given back: no pair may be taken for one of its next owner.
    pub(super) fn forget(&mut self, slot: u32) {
        let is_of_it = |pair: &Pair| pair.waited == slot || pair.ran == slot;
        // A kernel that refuses this refuses the next collection too, which then reports no pair.
        let gone: Vec<Pair> = self.read().unwrap_or_default().iter().map(|(pair, _)| *pair).filter(is_of_it).collect();
        for pair in gone {
            let _ = self.pairs.remove(&pair);
        }
    }

    /// The points of all cgroups that have waited for others, by slot. Counting began at `since_ns`, CLOCK_BOOTTIME.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn points(&mut self, table: &Table, since_ns: u64) -> io::Result<HashMap<u32, Vec<Point>>> {
        self.read = None;
        let read = self.read()?;
        let without_room = read.iter().find(|(pair, _)| *pair == NO_ROOM).map_or(0, |(_, ns)| *ns);
        let points = points(read, table, since_ns);
        self.without_room_ns = without_room;
        Ok(points)
    }

    /// What found no room in the table, as of the last [`points`](Self::points).
    pub(super) fn without_room(&self, since_ns: u64) -> Option<Point> {
        let ns = self.without_room_ns;
        (ns > 0).then(|| Point::new(&LOST_PAIRS, since_ns, Value::Float(ns as f64 / 1e9)))
    }
}

/// The largest of each cgroup, the largest first.
fn points(pairs: &[(Pair, u64)], table: &Table, since_ns: u64) -> HashMap<u32, Vec<Point>> {
    let mut by_slot: HashMap<u32, Vec<(&Cgroup, u64)>> = HashMap::new();
    for (pair, ns) in pairs.iter().filter(|(_, ns)| *ns >= LEAST_NS) {
        if let Some(ran) = table.get(pair.ran) {
            by_slot.entry(pair.waited).or_default().push((ran, *ns));
        }
    }
    let of_cgroup = |(slot, mut neighbours): (u32, Vec<(&Cgroup, u64)>)| {
        let waited = table.get(slot)?;
        neighbours.sort_unstable_by_key(|(ran, ns)| (std::cmp::Reverse(*ns), ran.slot));
        neighbours.truncate(MOST);
        let point = |(ran, ns): (&Cgroup, u64)| {
            let start_ns = waited.counted_since(since_ns).max(ran.counted_since(since_ns));
            let point = Point::new(&NEIGHBOUR_WAIT, start_ns, Value::Float(ns as f64 / 1e9));
            if ran.slot == slot { point.with(NEIGHBOUR, ITSELF) } else { point.with(NEIGHBOUR, ran.path.clone()) }
        };
        Some((slot, neighbours.into_iter().map(point).collect()))
    };
    by_slot.into_iter().filter_map(of_cgroup).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::table::tests::cgroup;

    fn table() -> Table {
        let mut table = Table::default();
        for slot in 1..12 {
            table.insert(cgroup(slot, &format!("/c{slot}"), None));
        }
        table
    }

    #[test]
    fn the_five_it_waited_for_longest_are_reported() {
        let pair = |waited, ran| Pair { waited, ran };
        let ms = 1_000_000;
        let mut pairs: Vec<_> = (2..10).map(|ran| (pair(1, ran), u64::from(ran) * 100 * ms)).collect();
        pairs.extend([(pair(1, 1), 5_000 * ms), (pair(2, 1), 99 * ms), (pair(3, 40), 500 * ms), (pair(50, 1), 500 * ms)]);
        let points = points(&pairs, &table(), 7);
        let named: Vec<_> =
            points[&1].iter().map(|point| (point.attributes.iter().next().expect("named").1, &point.value)).collect();
        let values = [5.0, 0.9, 0.8, 0.7, 0.6].map(Value::Float);
        assert_eq!(named, [ITSELF, "/c9", "/c8", "/c7", "/c6"].into_iter().zip(&values).collect::<Vec<_>>());
        assert_eq!(points.len(), 1, "too little, and cgroups without a slot");
    }
}
