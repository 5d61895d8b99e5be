//! The limits signal: what each cgroup asked for and is allowed, as in force in the kernel.
//!
//! Specs say what was wished; after an in-place resize, or without Kubernetes, the cgroup's own limits are the truth. Requests are
//! another matter: no cgroup has them as they were made. Where Kubernetes knows the cgroup the aggregation puts its requests there;
//! for others it makes of the weight what can be told.

use super::{ActiveSignal, Readings, Signal, SignalError};
use crate::cgroups::{Cgroup, Cgroups, files::CgroupLimits};
use crate::metric::{Metric, Point, Scope, Value};

/// See the module.
pub const SIGNAL: Signal = Signal {
    name: "limits",
    help: "CPU and memory requests and limits in force",
    tracepoints: &[],
    metrics: &[&CPU_REQUEST, &CPU_LIMIT, &MEMORY_REQUEST, &MEMORY_LIMIT],
    capability: None,
    missing: |_| None,
    start: |_, _, _| Ok(Box::new(Limits)),
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

/// The kernel has the state.
struct Limits;

impl ActiveSignal for Limits {
    fn collect(&mut self, _: u64, cgroups: &Cgroups) -> Result<Readings, SignalError> {
        let of = |cgroup: &Cgroup| (cgroup.slot, points(&cgroups.limits(cgroup)));
        let with_limits = cgroups.table().iter().filter(|c| c.lives()).map(of).filter(|(_, points)| !points.is_empty());
        Ok(Readings { cgroups: with_limits.collect(), node: Vec::new() })
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
