//! The metrics of the memory signal, and how figures become points of them.

use agent_common::memory::{Counts, RECLAIM_FIRST, Reclaims};

use super::parts::{MemInfo, MemoryParts};
use crate::{
    histogram::Histogram,
    metric::{Metric, Point, Scope, Value},
};

/// All of them.
pub const ALL: &[&Metric] = &[
    &USAGE,
    &WORKING_SET,
    &RSS,
    &AVAILABLE,
    &FAULTS,
    &UNRECLAIMABLE,
    &PEAK,
    &STATE,
    &REFAULTS,
    &OOM_KILLS,
    &RECLAIM_TIME,
    &RECLAIM,
    &RECLAIM_UNRECORDED,
    &NODE_USAGE,
    &NODE_WORKING_SET,
    &NODE_RSS,
    &NODE_AVAILABLE,
    &UNATTRIBUTED_KILLS,
    &LOST_KILLS,
];

/// `container.memory.usage`
pub static USAGE: Metric =
    Metric::gauge("container.memory.usage", "By", Scope::Cgroup, "All memory charged to the cgroup: memory.current.")
        .of_pods("k8s.pod.memory.usage");
/// `container.memory.working_set`
pub static WORKING_SET: Metric = Metric::gauge(
    "container.memory.working_set",
    "By",
    Scope::Cgroup,
    "Usage less inactive page cache, as kubelet computes it. It includes active page cache, which the kernel can \
     free.",
)
.of_pods("k8s.pod.memory.working_set");
/// `container.memory.rss`
pub static RSS: Metric =
    Metric::gauge("container.memory.rss", "By", Scope::Cgroup, "Mapped anonymous memory: anon of memory.stat.")
        .of_pods("k8s.pod.memory.rss");
/// `container.memory.available`
pub static AVAILABLE: Metric = Metric::gauge(
    "container.memory.available",
    "By",
    Scope::Cgroup,
    "The limit (memory.max) less the working set. Absent without a limit.",
)
.of_pods("k8s.pod.memory.available");
/// `container.memory.paging.faults`
pub static FAULTS: Metric = Metric::counter(
    "container.memory.paging.faults",
    "{fault}",
    Scope::Cgroup,
    "Page faults by type: a major fault had to read from a disk, a minor one had not.",
)
.of_pods("k8s.pod.memory.paging.faults")
.attributes(&["system.paging.fault.type"]);
/// `podmeter.memory.unreclaimable`
pub static UNRECLAIMABLE: Metric = Metric::gauge(
    "podmeter.memory.unreclaimable",
    "By",
    Scope::Cgroup,
    "Memory that the kernel cannot free before it calls the OOM killer: usage less page cache (active_file + \
     inactive_file), less slab_reclaimable, less the anonymous memory and tmpfs that swap has room for.",
);
/// `podmeter.memory.peak`
pub static PEAK: Metric = Metric::gauge(
    "podmeter.memory.peak",
    "By",
    Scope::Cgroup,
    "Largest usage since the cgroup was made: memory.peak. Absent before Linux 5.19.",
)
.no_sum();
/// `podmeter.memory.state`
pub static STATE: Metric = Metric::gauge(
    "podmeter.memory.state",
    "By",
    Scope::Cgroup,
    "Parts of usage beside rss, as in memory.stat: file (page cache, shmem included), shmem (tmpfs and shared \
     memory), kernel (since Linux 5.18; slab included), slab_reclaimable, slab_unreclaimable; and swap, which is \
     not part of usage.",
)
.attributes(&["state"]);
/// `podmeter.memory.refaults`
pub static REFAULTS: Metric = Metric::counter(
    "podmeter.memory.refaults",
    "{page}",
    Scope::Cgroup,
    "Pages that were read back soon after they had been evicted, by state (anon, file). A steady rate means too \
     little memory.",
)
.attributes(&["state"]);
/// `podmeter.memory.oom.kills`
pub static OOM_KILLS: Metric = Metric::counter(
    "podmeter.memory.oom.kills",
    "{process}",
    Scope::Cgroup,
    "Processes that the OOM killer killed, child processes included, by cause: cgroup (it or a cgroup above it \
     was at its limit) or node (the node ran out of memory).",
)
.attributes(&["cause"]);
/// `podmeter.memory.reclaim.time`
pub static RECLAIM_TIME: Metric = Metric::counter(
    "podmeter.memory.reclaim.time",
    "s",
    Scope::Cgroup,
    "Time that tasks were stopped for direct reclaim, by cause: cgroup (a limit or memory.high was reached) or \
     node (the node ran short of memory). Absent until there is any.",
)
.attributes(&["cause"]);
/// `podmeter.memory.reclaim`
pub static RECLAIM: Metric = Metric::histogram(
    "podmeter.memory.reclaim",
    "s",
    Scope::Cgroup,
    "How long each direct reclaim stopped a task, from either cause. Absent until there is any.",
);
/// `podmeter.memory.reclaim.unrecorded`
pub static RECLAIM_UNRECORDED: Metric = Metric::counter(
    "podmeter.memory.reclaim.unrecorded",
    "{reclaim}",
    Scope::Cgroup,
    "Direct reclaims that are not in podmeter.memory.reclaim because memory for it was short; their time is in \
     podmeter.memory.reclaim.time. Absent while there is none.",
);
/// `k8s.node.memory.usage`
pub static NODE_USAGE: Metric =
    Metric::gauge("k8s.node.memory.usage", "By", Scope::Node, "Memory in use: MemTotal less MemFree.");
/// `k8s.node.memory.working_set`
pub static NODE_WORKING_SET: Metric =
    Metric::gauge("k8s.node.memory.working_set", "By", Scope::Node, "Usage less inactive page cache, as kubelet computes it.");
/// `k8s.node.memory.rss`
pub static NODE_RSS: Metric = Metric::gauge("k8s.node.memory.rss", "By", Scope::Node, "Mapped anonymous memory.");
/// `k8s.node.memory.available`
pub static NODE_AVAILABLE: Metric =
    Metric::gauge("k8s.node.memory.available", "By", Scope::Node, "MemTotal less the working set.");
/// `podmeter.memory.oom.kills.unattributed`
pub static UNATTRIBUTED_KILLS: Metric = Metric::counter(
    "podmeter.memory.oom.kills.unattributed",
    "{process}",
    Scope::Node,
    "OOM kills in cgroups that were created when all slots were taken.",
);
/// `podmeter.memory.oom.events.lost`
pub static LOST_KILLS: Metric = Metric::counter(
    "podmeter.memory.oom.events.lost",
    "{event}",
    Scope::Node,
    "OOM kills that were counted but not exported as events: more than 10 a minute of one pod or cgroup, or too \
     many at once.",
);

/// What a cgroup's memory consists of. `swappable` is how much more it could swap out, `made_ns` since when the kernel counts for it.
pub fn of_figures(parts: &MemoryParts, swappable: u64, made_ns: u64) -> Vec<Point> {
    let gauge = |metric, bytes: Option<u64>| bytes.map(|bytes| Point::new(metric, 0, Value::Int(bytes)));
    let state = |bytes: Option<u64>, state: &'static str| gauge(&STATE, bytes).map(|point| point.with("state", state));
    let counted =
        |metric, n: Option<u64>, key, value: &'static str| n.map(|n| Point::new(metric, made_ns, Value::Int(n)).with(key, value));
    [
        gauge(&USAGE, Some(parts.usage)),
        gauge(&WORKING_SET, parts.working_set()),
        gauge(&RSS, parts.anon),
        gauge(&AVAILABLE, parts.available()),
        gauge(&UNRECLAIMABLE, parts.unreclaimable(swappable)),
        gauge(&PEAK, parts.peak),
        state(parts.file, "file"),
        state(parts.shmem, "shmem"),
        state(parts.kernel, "kernel"),
        state(parts.slab_reclaimable, "slab_reclaimable"),
        state(parts.slab_unreclaimable, "slab_unreclaimable"),
        state(parts.swap, "swap"),
        counted(&REFAULTS, parts.refaults_anon, "state", "anon"),
        counted(&REFAULTS, parts.refaults_file, "state", "file"),
        counted(&FAULTS, parts.minor_faults(), "system.paging.fault.type", "minor"),
        counted(&FAULTS, parts.major_faults, "system.paging.fault.type", "major"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What a cgroup's tasks went through since `start_ns`; of kills and reclaim only what this kernel can tell.
pub fn of_counts(counts: &Counts, rows: &[(u32, Box<Reclaims>)], start_ns: u64, kills: bool) -> Vec<Point> {
    let caused = |metric, value, cause: &'static str| Point::new(metric, start_ns, value).with("cause", cause);
    let mut points = Vec::new();
    if kills {
        points.push(caused(&OOM_KILLS, Value::Int(counts.cgroup_kills), "cgroup"));
        points.push(caused(&OOM_KILLS, Value::Int(counts.node_kills), "node"));
    }
    let seconds = |ns: u64| Value::Float(ns as f64 / 1e9);
    let (cgroup_ns, node_ns) = (counts.cgroup_reclaim_ns, counts.node_reclaim_ns);
    points.extend((cgroup_ns > 0).then(|| caused(&RECLAIM_TIME, seconds(cgroup_ns), "cgroup")));
    points.extend((node_ns > 0).then(|| caused(&RECLAIM_TIME, seconds(node_ns), "node")));
    points.extend(rows.iter().map(|(_, row)| {
        let histogram = Histogram::of_durations(RECLAIM_FIRST, &row.buckets, row.sum_ns);
        Point::new(&RECLAIM, start_ns, Value::Histogram(histogram.into()))
    }));
    if counts.unrecorded > 0 {
        points.push(Point::new(&RECLAIM_UNRECORDED, start_ns, Value::Int(counts.unrecorded)));
    }
    points
}

/// The node's memory.
pub fn of_node(info: &MemInfo) -> Vec<Point> {
    let gauge = |metric, bytes| Point::new(metric, 0, Value::Int(bytes));
    vec![
        gauge(&NODE_USAGE, info.usage()),
        gauge(&NODE_WORKING_SET, info.working_set()),
        gauge(&NODE_RSS, info.anon),
        gauge(&NODE_AVAILABLE, info.available()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_has_no_point_and_what_is_has_one() {
        let parts = MemoryParts { usage: 100, inactive_file: Some(40), anon: Some(5), ..MemoryParts::default() };
        let points = of_figures(&parts, 0, 7);
        let names: Vec<_> = points.iter().map(|p| (p.metric.name, p.value.clone())).collect();
        assert_eq!(
            names,
            [
                ("container.memory.usage", Value::Int(100)),
                ("container.memory.working_set", Value::Int(60)),
                ("container.memory.rss", Value::Int(5)),
            ]
        );
        assert!(points.iter().all(|p| ALL.contains(&p.metric)), "declared");
    }

    #[test]
    fn kills_are_told_from_the_first_on_and_reclaim_once_there_is_any() {
        let quiet = of_counts(&Counts::ZERO, &[], 1, true);
        assert_eq!(quiet.iter().map(|p| &p.value).collect::<Vec<_>>(), [&Value::Int(0), &Value::Int(0)]);
        assert!(of_counts(&Counts::ZERO, &[], 1, false).is_empty());
        let counts = Counts { cgroup_reclaim_ns: 2_000_000_000, ..Counts::ZERO };
        let mut row = Box::new(Reclaims::ZERO);
        row.buckets[9] = 1;
        let points = of_counts(&counts, &[(0, row)], 1, false);
        assert_eq!(points.len(), 2);
        assert_eq!(points[0].value, Value::Float(2.0));
    }
}
