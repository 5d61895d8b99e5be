//! The metrics of the disk signal, and the points of a cgroup.

use agent_common::disk::{DURATION_FIRST, Direction, DiskCounts, Lost, Row, SYNC};

use crate::{
    histogram::Histogram,
    metric::{Metric, Point, Scope, Value},
};

/// Every metric of the signal.
pub const ALL: &[&Metric] = &[
    &IO,
    &OPERATIONS,
    &DURATION,
    &SYNC_DURATION,
    &SYNC_ERRORS,
    &THROTTLED,
    &UNATTRIBUTED,
    &LOST,
    &DEVICE_IO,
    &DEVICE_OPERATIONS,
    &DEVICE_IO_TIME,
    &DEVICE_OPERATION_TIME,
    &DEVICE_MERGED,
    &DEVICE_PENDING,
    &DEVICE_WEIGHTED_TIME,
    &DEVICE_TIME,
    &DEVICE_DURATION,
    &DEVICE_ERRORS,
];

/// The attribute that divides what is read from what is written.
pub const DIRECTION: &str = "disk.io.direction";
/// The attribute that names a device.
pub const DEVICE: &str = "system.device";

const OF_DEVICE: &[&str] = &[DEVICE];
const OF_DEVICE_BY_DIRECTION: &[&str] = &[DEVICE, DIRECTION];

/// `container.disk.io`
pub static IO: Metric = Metric::counter(
    "container.disk.io",
    "By",
    Scope::Cgroup,
    "Bytes that devices have completed without an error: read, write, discard. What the page cache answers is not \
     included, and written pages are when they are written back. Of the cgroup that the io controller charges them \
     to; without that controller, or where that is the root, of the cgroup of the task that issued the request.",
)
.of_pods("k8s.pod.disk.io")
.attributes(&[DIRECTION]);
/// `podmeter.disk.operations`
pub static OPERATIONS: Metric = Metric::counter(
    "podmeter.disk.operations",
    "{operation}",
    Scope::Cgroup,
    "Requests that devices have completed, of the same cgroup as container.disk.io. The kernel merges neighbouring \
     ones before it issues them. A flush has no bytes, and is issued by the kernel for whoever syncs: most are of /.",
)
.attributes(&[DIRECTION]);
/// `podmeter.disk.operation.duration`
pub static DURATION: Metric = Metric::histogram(
    "podmeter.disk.operation.duration",
    "s",
    Scope::Cgroup,
    "Time of a request from its start, when the kernel made it, to its completion: what it waited before it was \
     issued, and what the device took. Of a device that keeps no statistics (queue/iostats 0) only the latter.",
)
.attributes(&[DIRECTION]);
/// `podmeter.disk.fsync.duration`
pub static SYNC_DURATION: Metric = Metric::histogram(
    "podmeter.disk.fsync.duration",
    "s",
    Scope::Cgroup,
    "Time that the cgroup's tasks waited in fsync, fdatasync, msync and writes with O_SYNC, of files of every file \
     system: that of tmpfs takes no time. sync and syncfs are not included.",
);
/// `podmeter.disk.fsync.errors`
pub static SYNC_ERRORS: Metric = Metric::counter(
    "podmeter.disk.fsync.errors",
    "{error}",
    Scope::Cgroup,
    "Of these, those that ended with an error: what was written before may be lost.",
);
/// `podmeter.disk.throttled`
pub static THROTTLED: Metric = Metric::counter(
    "podmeter.disk.throttled",
    "{operation}",
    Scope::Cgroup,
    "Reads and writes that the kernel held back for a limit of io.max, the cgroup's own or one above it. Absent \
     before 5.13 and without the io controller in cgroup2.",
)
.attributes(&[DIRECTION]);
/// `podmeter.disk.unattributed`
pub static UNATTRIBUTED: Metric = Metric::counter(
    "podmeter.disk.unattributed",
    "By",
    Scope::Node,
    "Bytes of a cgroup without a slot: it was created when all were taken, or is gone for more than a second.",
)
.attributes(&[DIRECTION]);
/// `podmeter.disk.lost`
pub static LOST: Metric = Metric::counter(
    "podmeter.disk.lost",
    "{operation}",
    Scope::Node,
    "What was not counted, by reason: requests (devices use more than 8 192), syncs (1024 tasks were in one), rows (there \
     was no memory for the first of a cgroup, or more than 256 devices).",
)
.attributes(&["reason"]);
/// `system.disk.io`
pub static DEVICE_IO: Metric = Metric::counter(
    "system.disk.io",
    "By",
    Scope::Node,
    "Bytes of a device, from /proc/diskstats, since the node came up: read, write, discard. Partitions are left out, \
     and loop and ram devices that were never used. A device that is made of others (LVM, RAID, loop) and those \
     others each have theirs: do not add them up.",
)
.attributes(OF_DEVICE_BY_DIRECTION);
/// `system.disk.operations`
pub static DEVICE_OPERATIONS: Metric = Metric::counter(
    "system.disk.operations",
    "{operation}",
    Scope::Node,
    "Requests that a device has completed, from /proc/diskstats: read, write, discard, flush.",
)
.attributes(OF_DEVICE_BY_DIRECTION);
/// `system.disk.io_time`
pub static DEVICE_IO_TIME: Metric = Metric::counter(
    "system.disk.io_time",
    "s",
    Scope::Node,
    "Time in which a device had at least one request, from /proc/diskstats: its rate is the share of time that it \
     was busy. A device that does several at once, such as an SSD, may be busy all the time and have room.",
)
.attributes(OF_DEVICE);
/// `system.disk.operation_time`
pub static DEVICE_OPERATION_TIME: Metric = Metric::counter(
    "system.disk.operation_time",
    "s",
    Scope::Node,
    "Time that requests took, waiting included, added up, from /proc/diskstats.",
)
.attributes(OF_DEVICE_BY_DIRECTION);
/// `system.disk.merged`
pub static DEVICE_MERGED: Metric = Metric::counter(
    "system.disk.merged",
    "{operation}",
    Scope::Node,
    "Requests that the kernel merged into others before it issued them, from /proc/diskstats.",
)
.attributes(OF_DEVICE_BY_DIRECTION);
/// `system.disk.pending_operations`
pub static DEVICE_PENDING: Metric = Metric::gauge(
    "system.disk.pending_operations",
    "{operation}",
    Scope::Node,
    "Requests that a device has at the moment, from /proc/diskstats; named as by the Collector's hostmetrics receiver.",
)
.attributes(OF_DEVICE);
/// `system.disk.weighted_io_time`
pub static DEVICE_WEIGHTED_TIME: Metric = Metric::counter(
    "system.disk.weighted_io_time",
    "s",
    Scope::Node,
    "Time in which a device had requests, times their number, from /proc/diskstats: its rate is the mean length of \
     the queue; named as by the Collector's hostmetrics receiver.",
)
.attributes(OF_DEVICE);
/// `podmeter.node.disk.time`
pub static DEVICE_TIME: Metric = Metric::counter(
    "podmeter.node.disk.time",
    "s",
    Scope::Node,
    "Time of requests by phase: waiting (from their start until the kernel issued them; 0 where queue/iostats is 0 \
     and there is no scheduler) and device (until the device had done them).",
)
.attributes(&[DEVICE, DIRECTION, "phase"]);
/// `podmeter.node.disk.operation.duration`
pub static DEVICE_DURATION: Metric = Metric::histogram(
    "podmeter.node.disk.operation.duration",
    "s",
    Scope::Node,
    "As podmeter.disk.operation.duration, of all requests of a device.",
)
.attributes(OF_DEVICE_BY_DIRECTION);
/// `podmeter.node.disk.errors`
pub static DEVICE_ERRORS: Metric = Metric::counter(
    "podmeter.node.disk.errors",
    "{error}",
    Scope::Node,
    "Requests, or parts of one, that a device ended with an error.",
)
.attributes(OF_DEVICE_BY_DIRECTION);

/// The points of a cgroup. What never happened has none.
pub(super) fn of_cgroup(start_ns: u64, rows: &[(u32, Box<Row>)], counts: &DiskCounts) -> Vec<Point> {
    let mut points = Vec::new();
    for (kind, row) in rows {
        let histogram = Histogram::of_durations(DURATION_FIRST, &row.buckets, row.sum_ns);
        if *kind == SYNC {
            points.push(Point::new(&SYNC_DURATION, start_ns, Value::Histogram(histogram.into())));
            continue;
        }
        let Some((_, direction)) = Direction::ALL.get(*kind as usize) else { continue };
        let point = |metric, value| Point::new(metric, start_ns, value).with(DIRECTION, *direction);
        if row.bytes > 0 {
            points.push(point(&IO, Value::Int(row.bytes)));
        }
        if histogram.count > 0 {
            points.push(point(&OPERATIONS, Value::Int(histogram.count)));
            points.push(point(&DURATION, Value::Histogram(histogram.into())));
        }
    }
    for ((_, direction), n) in Direction::ALL.iter().zip(counts.throttled).filter(|(_, n)| *n > 0) {
        points.push(Point::new(&THROTTLED, start_ns, Value::Int(n)).with(DIRECTION, *direction));
    }
    if counts.sync_errors > 0 {
        points.push(Point::new(&SYNC_ERRORS, start_ns, Value::Int(counts.sync_errors)));
    }
    points
}

/// The node's: bytes without a cgroup, and what was not counted.
pub(super) fn of_node(start_ns: u64, rows: &[(u32, Box<Row>)], lost: &Lost) -> Vec<Point> {
    let mut points = Vec::new();
    for ((_, row), direction) in rows.iter().filter_map(|row| Some((row, Direction::ALL.get(row.0 as usize)?.1))) {
        if row.bytes > 0 {
            points.push(Point::new(&UNATTRIBUTED, start_ns, Value::Int(row.bytes)).with(DIRECTION, direction));
        }
    }
    for (reason, n) in [("requests", lost.requests), ("syncs", lost.syncs), ("rows", lost.rows)] {
        if n > 0 {
            points.push(Point::new(&LOST, start_ns, Value::Int(n)).with("reason", reason));
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(bytes: u64, operations: u64) -> Box<Row> {
        let mut row = Box::new(Row { bytes, sum_ns: 5, ..Row::ZERO });
        row.buckets[9] = operations;
        row
    }

    #[test]
    fn what_never_happened_has_no_point() {
        assert!(of_cgroup(1, &[], &DiskCounts::ZERO).is_empty());
        let rows = [(Direction::Write as u32, row(8192, 2)), (Direction::Flush as u32, row(0, 1)), (SYNC, row(0, 3))];
        let counts = DiskCounts { throttled: [0, 4], ..DiskCounts::ZERO };
        let points = of_cgroup(1, &rows, &counts);
        let told = |point: &Point| {
            let direction = point.attributes.iter().next().map(|(_, direction)| direction.to_owned());
            let value =
                if let Value::Histogram(histogram) = &point.value { Value::Int(histogram.count) } else { point.value.clone() };
            (point.metric.name, direction.unwrap_or_default(), value)
        };
        let expected = [
            ("container.disk.io", "write", 8192),
            ("podmeter.disk.operations", "write", 2),
            ("podmeter.disk.operation.duration", "write", 2),
            ("podmeter.disk.operations", "flush", 1),
            ("podmeter.disk.operation.duration", "flush", 1),
            ("podmeter.disk.fsync.duration", "", 3),
            ("podmeter.disk.throttled", "write", 4),
        ];
        let expected: Vec<_> = expected.into_iter().map(|(name, way, n)| (name, way.to_owned(), Value::Int(n))).collect();
        assert_eq!(points.iter().map(told).collect::<Vec<_>>(), expected);
        assert!(points.iter().all(|point| ALL.contains(&point.metric)), "declared");
    }

    #[test]
    fn the_node_has_what_no_cgroup_has_and_what_was_lost() {
        let points = of_node(1, &[(0, row(512, 1)), (SYNC, row(0, 1))], &Lost { requests: 7, ..Lost::ZERO });
        assert_eq!(points.iter().map(|point| &point.value).collect::<Vec<_>>(), [&Value::Int(512), &Value::Int(7)]);
    }
}
