//! The limits signal: what each cgroup asked for and is allowed, as in force in its files.
//!
//! Specs say what was wished; after an in-place resize, or without Kubernetes, the cgroup's own files are the truth.

use super::{
    Failure, Readings, Running, Signal,
    metric::{Kind, Metric, Point, Scope, Value},
};
use crate::cgroups::{
    Cgroup, Cgroups,
    files::{self, Limits},
};

/// See the module.
pub const SIGNAL: Signal = Signal {
    name: "limits",
    help: "CPU and memory requests and limits in force, from the cgroup's files",
    tracepoints: &[],
    metrics: &[&CPU_REQUEST, &CPU_LIMIT, &MEMORY_REQUEST, &MEMORY_LIMIT],
    capability: None,
    missing: |_| None,
    start: |_, _, _| Ok(Box::new(Files)),
};

/// `k8s.container.cpu.request.current`
pub static CPU_REQUEST: Metric = gauge(
    "k8s.container.cpu.request.current",
    "{cpu}",
    "CPUs requested: what cpu.weight stands for by kubelet's rule. Absent at the default weight.",
);
/// `k8s.container.cpu.limit.current`
pub static CPU_LIMIT: Metric =
    gauge("k8s.container.cpu.limit.current", "{cpu}", "CPUs allowed: cpu.max, quota over period. Absent without a limit.");
/// `k8s.container.memory.request.current`
pub static MEMORY_REQUEST: Metric = gauge(
    "k8s.container.memory.request.current",
    "By",
    "Memory protected from reclaim: memory.min, else memory.low. Absent when neither is set.",
);
/// `k8s.container.memory.limit.current`
pub static MEMORY_LIMIT: Metric =
    gauge("k8s.container.memory.limit.current", "By", "Memory allowed: memory.max, else memory.high. Absent without a limit.");

const fn gauge(name: &'static str, unit: &'static str, help: &'static str) -> Metric {
    Metric { name, unit, kind: Kind::Gauge, attributes: &[], scope: Scope::Container, help }
}

/// The files are the state.
struct Files;

impl Running for Files {
    fn tick(&mut self, _: &Cgroups) -> Result<(), Failure> {
        Ok(())
    }

    fn bury(&mut self, _: &Cgroup) -> Vec<Point> {
        Vec::new()
    }

    fn collect(&mut self, _: u64, cgroups: &Cgroups) -> Result<Readings, Failure> {
        let of = |cgroup: &Cgroup| (cgroup.slot, points(&files::limits(&cgroups.directory(cgroup), cgroup.controllers)));
        let with_limits = cgroups.table().iter().filter(|c| c.lives()).map(of).filter(|(_, points)| !points.is_empty());
        Ok(Readings { cgroups: with_limits.collect(), node: Vec::new() })
    }
}

fn points(limits: &Limits) -> Vec<Point> {
    let cores = |metric, value: Option<f64>| value.map(|v| Point::new(metric, 0, Value::Float(v)));
    let bytes = |metric, value: Option<u64>| value.map(|v| Point::new(metric, 0, Value::Int(v)));
    [
        cores(&CPU_REQUEST, limits.cpu_request_cores),
        cores(&CPU_LIMIT, limits.cpu_limit_cores),
        bytes(&MEMORY_REQUEST, limits.memory_request_bytes),
        bytes(&MEMORY_LIMIT, limits.memory_limit_bytes),
    ]
    .into_iter()
    .flatten()
    .collect()
}
