//! The devices of the node: what `/proc/diskstats` has of each, and what the kernel side has counted.

use std::{
    collections::{HashMap, HashSet},
    io,
};

use agent_common::{
    disk::{DURATION_FIRST, DeviceRow, Direction},
    rows::RowKey,
};
use aya::maps::{HashMap as BpfHashMap, IterableMap as _, MapData};

use super::{
    diskstats::{self, DiskStats},
    metrics::{DEVICE, DEVICE_DURATION, DEVICE_ERRORS, DEVICE_TIME, DIRECTION},
};
use crate::{
    histogram::Histogram,
    kernel::{
        facts,
        load::{LoadError, Object},
        sys,
    },
    metric::{Point, Value},
};

/// All devices.
pub(super) struct Devices {
    rows: BpfHashMap<MapData, RowKey, DeviceRow>,
    seen: Seen,
}

/// When devices were seen. CLOCK_BOOTTIME in ns.
#[derive(Default)]
pub(super) struct Seen {
    /// When each was seen first, by its number and name: one that is new may have the number of another.
    first_ns: HashMap<(u32, String), u64>,
    /// When they were looked at last; `None` before that.
    looked_ns: Option<u64>,
}

impl Devices {
    pub(super) fn open(object: &mut Object) -> Result<Self, LoadError> {
        Ok(Self { rows: object.take("DISK_DEVICES")?, seen: Seen::default() })
    }

    /// When devices were seen, for one that goes on.
    pub(super) fn seen(self) -> Seen {
        self.seen
    }

    /// Goes on with what the one before it has seen.
    pub(super) fn go_on_with(&mut self, seen: Seen) {
        self.seen = seen;
    }

    /// The points of all devices. `since_ns` is when the kernel side began to count.
    pub(super) fn points(&mut self, now_ns: u64, since_ns: u64) -> io::Result<Vec<Point>> {
        let all = diskstats::read()?;
        let rows = self.read_rows(&all)?;
        let mut points = Vec::new();
        let before = std::mem::take(&mut self.seen.first_ns);
        for stats in all {
            let key = (stats.device, stats.name.clone());
            // One that was not there the last time has counted since then at the earliest.
            let seen_ns = before.get(&key).copied().unwrap_or(self.seen.looked_ns.unwrap_or(facts::BOOTED_NS));
            points.extend(stats.points(seen_ns));
            let counted = rows.iter().filter(|(key, _)| key.slot == stats.device);
            points.extend(counted.flat_map(|(key, row)| of_row(&stats.name, key.kind, row, since_ns.max(seen_ns))));
            self.seen.first_ns.insert(key, seen_ns);
        }
        self.seen.looked_ns = Some(now_ns);
        Ok(points)
    }

    /// What the kernel side has counted of these devices. What it has of others is removed: their numbers may become those of new ones.
    fn read_rows(&mut self, all: &[DiskStats]) -> io::Result<Vec<(RowKey, Box<DeviceRow>)>> {
        let known: HashSet<u32> = all.iter().map(|stats| stats.device).collect();
        let (mut rows, mut gone) = (Vec::new(), Vec::new());
        sys::for_each_entry(self.rows.map().fd(), |key: &RowKey, row: &DeviceRow| {
            if known.contains(&key.slot) { rows.push((*key, Box::new(*row))) } else { gone.push(*key) }
        })?;
        for key in gone {
            // Gone all the same when it is not there any more.
            let _ = self.rows.remove(&key);
        }
        rows.sort_unstable_by_key(|(key, _)| (key.slot, key.kind));
        Ok(rows)
    }
}

/// The points of one direction of a device.
fn of_row(name: &str, kind: u32, row: &DeviceRow, start_ns: u64) -> Vec<Point> {
    let Some((_, direction)) = Direction::ALL.get(kind as usize) else { return Vec::new() };
    let point = |metric, value| Point::new(metric, start_ns, value).with(DEVICE, name.to_owned()).with(DIRECTION, *direction);
    let phase = |phase, ns: u64| point(&DEVICE_TIME, Value::Float(ns as f64 / 1e9)).with("phase", phase);
    let histogram = Histogram::of_durations(DURATION_FIRST, &row.buckets, row.sum_ns);
    vec![
        phase("waiting", row.waiting_ns),
        phase("device", row.device_ns),
        point(&DEVICE_DURATION, Value::Histogram(histogram.into())),
        point(&DEVICE_ERRORS, Value::Int(row.errors)),
    ]
}
