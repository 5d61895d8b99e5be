//! The limits signal: what each cgroup asked for and is allowed, as in force in the kernel.
//!
//! Specs say what was wished; after an in-place resize, or without Kubernetes, the cgroup's own limits are the truth. Requests are
//! another matter: no cgroup has them as they were made. Where Kubernetes knows the cgroup the aggregation puts its requests there;
//! for others it makes of the weight what can be told.

use std::collections::HashMap;

use agent_common::walk;

use super::{ActiveSignal, Readings, Signal, SignalError};
use crate::cgroups::{Cgroups, files::CgroupLimits};
use crate::metric::{Metric, Point, Scope, Value};

/// See the module.
pub const SIGNAL: Signal = Signal {
    name: "limits",
    help: "CPU and memory requests and limits in force",
    tracepoints: &[],
    metrics: &[&CPU_REQUEST, &CPU_LIMIT, &MEMORY_REQUEST, &MEMORY_LIMIT],
    capability: None,
    missing: |_| None,
    start: |_, _, _| Ok(Box::new(Limits::default())),
};

/// `k8s.container.cpu.request.current`
pub static CPU_REQUEST: Metric = Metric::gauge(
    "k8s.container.cpu.request.current",
    "{cpu}",
    Scope::Cgroup,
    "CPUs requested, in force: a container's from its status, else its spec; a pod's as the scheduler sets aside. \
     Where Kubernetes does not know the cgroup, it is derived from cpu.weight if the runtime's conversion is \
     known. Absent without a request.",
);
/// `k8s.container.cpu.limit.current`
pub static CPU_LIMIT: Metric = Metric::gauge(
    "k8s.container.cpu.limit.current",
    "{cpu}",
    Scope::Cgroup,
    "CPUs allowed: quota by period of cpu.max. Absent without a limit.",
);
/// `k8s.container.memory.request.current`
pub static MEMORY_REQUEST: Metric = Metric::gauge(
    "k8s.container.memory.request.current",
    "By",
    Scope::Cgroup,
    "Memory requested, in force: as k8s.container.cpu.request.current. Where Kubernetes does not know the cgroup, \
     it is memory.min, else memory.low. Absent without a request.",
);
/// `k8s.container.memory.limit.current`
pub static MEMORY_LIMIT: Metric = Metric::gauge(
    "k8s.container.memory.limit.current",
    "By",
    Scope::Cgroup,
    "Memory allowed: memory.max, else memory.high. Absent without a limit.",
);

/// `cpu.weight`: never exported, the aggregation makes [`CPU_REQUEST`] of it.
pub static CPU_WEIGHT: Metric =
    Metric::gauge("cpu.weight", "1", Scope::Cgroup, "The cgroup's share of CPU time beside its siblings.");

/// Collections from one reading of a cgroup's files to the next, where they are read: limits change rarely.
const FILES_EVERY: u32 = 4;

/// The kernel has the state.
#[derive(Default)]
struct Limits {
    collections: u32,
    /// What files have said, by the cgroup's id, and how often they were read; empty where they are not.
    known: HashMap<u64, (CgroupLimits, u32)>,
}

impl Limits {
    /// Whether files that were read so often are due: a part of all cgroups each time, but a new one's twice, since limits are written
    /// after it was made.
    fn is_due(&self, slot: u32, reads: u32) -> bool {
        reads < 2 || self.collections.wrapping_add(slot).is_multiple_of(FILES_EVERY)
    }
}

impl ActiveSignal for Limits {
    fn collect(&mut self, _: u64, cgroups: &Cgroups) -> Result<Readings, SignalError> {
        self.collections = self.collections.wrapping_add(1);
        let walks = cgroups.walks(walk::CPU | walk::MEMORY);
        let mut known = HashMap::new();
        let mut of_cgroups = Vec::new();
        for cgroup in cgroups.table().iter().filter(|cgroup| cgroup.lives()) {
            let before = self.known.get(&cgroup.id).copied().filter(|_| !walks);
            let (limits, reads) = match before {
                Some((limits, reads)) if !self.is_due(cgroup.slot, reads) => (limits, reads),
                _ => (cgroups.limits(cgroup), before.map_or(1, |(_, reads)| reads.saturating_add(1))),
            };
            if !walks {
                known.insert(cgroup.id, (limits, reads));
            }
            let points = points(&limits);
            if !points.is_empty() {
                of_cgroups.push((cgroup.slot, points));
            }
        }
        self.known = known;
        Ok(Readings { cgroups: of_cgroups, node: Vec::new() })
    }
}

fn points(limits: &CgroupLimits) -> Vec<Point> {
    let whole = |metric, value: Option<u64>| value.map(|v| Point::new(metric, 0, Value::Int(v)));
    [
        whole(&CPU_WEIGHT, limits.cpu_weight),
        limits.cpu_limit_cores.map(|cores| Point::new(&CPU_LIMIT, 0, Value::Float(cores))),
        whole(&MEMORY_REQUEST, limits.memory_request_bytes),
        whole(&MEMORY_LIMIT, limits.memory_limit_bytes),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_due_in_every_fourth_collection_and_not_all_at_once() {
        let after = |collections| Limits { collections, ..Limits::default() };
        let due = |slot| (1..=8).filter(|collections| after(*collections).is_due(slot, 2)).collect();
        let (one, other): (Vec<u32>, Vec<u32>) = (due(1), due(2));
        assert_eq!((one, other), (vec![3, 7], vec![2, 6]));
        assert!(after(1).is_due(1, 1), "a new cgroup's");
    }
}
