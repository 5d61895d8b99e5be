//! `/proc/diskstats`: what the kernel counts of each device (`Documentation/admin-guide/iostats.rst`).

use std::{fs, path::Path};

use super::metrics::{
    DEVICE, DEVICE_IO, DEVICE_IO_TIME, DEVICE_MERGED, DEVICE_OPERATION_TIME, DEVICE_OPERATIONS, DEVICE_PENDING,
    DEVICE_WEIGHTED_TIME, DIRECTION,
};
use crate::metric::{Metric, Point, Value};

/// The file counts in sectors of this many bytes, whatever a device's own are.
const SECTOR_BYTES: u64 = 512;

/// What the kernel counts of one device since it came up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DiskStats {
    /// `major << 20 | minor`
    pub device: u32,
    /// As below /dev.
    pub name: String,
    /// Operations, operations merged, sectors, ms.
    read: [u64; 4],
    write: [u64; 4],
    discard: [u64; 4],
    /// Operations, ms.
    flush: [u64; 2],
    in_flight: u64,
    io_ms: u64,
    weighted_ms: u64,
}

impl DiskStats {
    /// One line of the file; `None` for what is none.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (major, minor): (u32, u32) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let name = words.next()?.to_owned();
        // Linux 5.10 has 17 of them; later ones are appended.
        let mut n = words.map_while(|word| word.parse::<u64>().ok());
        let mut four = || Some([n.next()?, n.next()?, n.next()?, n.next()?]);
        let (read, write) = (four()?, four()?);
        let (in_flight, io_ms, weighted_ms) = (n.next()?, n.next()?, n.next()?);
        let discard = [n.next()?, n.next()?, n.next()?, n.next()?];
        let flush = [n.next()?, n.next()?];
        Some(Self { device: major << 20 | minor, name, read, write, discard, flush, in_flight, io_ms, weighted_ms })
    }

    /// Whether it is one of those that the kernel makes in advance and nobody has used.
    fn is_unused(&self) -> bool {
        let spare = ["loop", "ram", "zram", "nbd"].iter().any(|kind| {
            self.name.strip_prefix(kind).is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
        });
        let done = self.read[0] + self.write[0] + self.discard[0] + self.flush[0] + self.in_flight;
        spare && done == 0
    }

    /// Its points; what is counted from `start_ns` on.
    pub(super) fn points(&self, start_ns: u64) -> Vec<Point> {
        let point = |metric, value| Point::new(metric, start_ns, value).with(DEVICE, self.name.clone());
        let seconds = |ms: u64| Value::Float(ms as f64 / 1e3);
        let mut points = vec![
            point(&DEVICE_IO_TIME, seconds(self.io_ms)),
            point(&DEVICE_WEIGHTED_TIME, seconds(self.weighted_ms)),
            point(&DEVICE_PENDING, Value::Int(self.in_flight)),
        ];
        let mut of = |metric: &'static Metric, direction, value| points.push(point(metric, value).with(DIRECTION, direction));
        // Many devices can do neither of the last two.
        for (direction, [operations, merged, sectors, ms], always) in
            [("read", self.read, true), ("write", self.write, true), ("discard", self.discard, false)]
        {
            if !always && operations == 0 {
                continue;
            }
            of(&DEVICE_IO, direction, Value::Int(sectors * SECTOR_BYTES));
            of(&DEVICE_OPERATIONS, direction, Value::Int(operations));
            of(&DEVICE_OPERATION_TIME, direction, seconds(ms));
            of(&DEVICE_MERGED, direction, Value::Int(merged));
        }
        if self.flush[0] > 0 {
            of(&DEVICE_OPERATIONS, "flush", Value::Int(self.flush[0]));
            of(&DEVICE_OPERATION_TIME, "flush", seconds(self.flush[1]));
        }
        points
    }
}

/// Every device that is no partition and was used, or may be.
pub(super) fn read() -> std::io::Result<Vec<DiskStats>> {
    // Without /sys there is no telling: then all are devices.
    let block = Path::new("/sys/block");
    let told_apart = block.is_dir();
    let is_device = |name: &str| !told_apart || block.join(name.replace('/', "!")).exists();
    Ok(used(&fs::read_to_string("/proc/diskstats")?, is_device))
}

fn used(text: &str, is_device: impl Fn(&str) -> bool) -> Vec<DiskStats> {
    let all = text.lines().filter_map(DiskStats::parse);
    all.filter(|stats| !stats.is_unused() && is_device(&stats.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
   7       1 loop1 3 0 8 1 0 0 0 0 0 4 1 0 0 0 0 0 0
 254       0 vda 100 5 8000 250 50 20 4000 1500 2 900 1750 7 1 640 30 9 120
 254       1 vda1 90 5 7000 200 50 20 4000 1500 0 800 1700 0 0 0 0 0 0
 259       4 nvme0n1 1 2 3
";

    #[test]
    fn partitions_spare_devices_and_short_lines_are_left_out() {
        let found = used(TEXT, |name| name != "vda1");
        assert_eq!(found.iter().map(|stats| &*stats.name).collect::<Vec<_>>(), ["loop1", "vda"]);
        assert_eq!(found[1].device, 254 << 20);
    }

    #[test]
    fn a_line_gives_bytes_operations_and_times() {
        let stats = &used(TEXT, |_| true)[1];
        let points = stats.points(3);
        let value = |metric: &'static Metric, direction: Option<&str>| {
            let is_it = |point: &&Point| {
                let its = point.attributes.iter().find(|(key, _)| *key == DIRECTION).map(|(_, value)| value);
                std::ptr::eq(point.metric, metric) && its == direction
            };
            points.iter().find(is_it).map(|point| point.value.clone())
        };
        assert_eq!(value(&DEVICE_IO, Some("read")), Some(Value::Int(8000 * 512)));
        assert_eq!(value(&DEVICE_OPERATIONS, Some("write")), Some(Value::Int(50)));
        assert_eq!(value(&DEVICE_MERGED, Some("discard")), Some(Value::Int(1)));
        assert_eq!(value(&DEVICE_OPERATION_TIME, Some("flush")), Some(Value::Float(0.12)));
        assert_eq!(value(&DEVICE_IO_TIME, None), Some(Value::Float(0.9)));
        assert_eq!(value(&DEVICE_WEIGHTED_TIME, None), Some(Value::Float(1.75)));
        assert_eq!(value(&DEVICE_PENDING, None), Some(Value::Int(2)));
        let read_only = DiskStats { read: [1, 0, 8, 1], ..DiskStats::default() };
        assert_eq!(read_only.points(3).len(), 3 + 2 * 4, "no discards, no flushes");
    }
}
