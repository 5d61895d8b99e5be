//! What the living cgroups of pods and containers use, in one batch (pure).

use std::collections::HashMap;

use crate::{
    cgroups::name::CgroupKind,
    metric::{Metric, Point, Value},
    pods::object::{Container, Pod},
    signals::{cpu, limits},
};

/// Memory that the kernel cannot take back at once, by which kubelet evicts. By name: its signal may be off or absent.
pub const WORKING_SET: &str = "container.memory.working_set";

/// What a container's living cgroups use, and what they are allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPUs used over the last interval.
    pub cores: Option<f64>,
    /// Working set.
    pub working_set_bytes: Option<f64>,
    /// CPUs that `cpu.max` allows.
    pub limit_cores: Option<f64>,
    /// Memory that `memory.max` allows.
    pub limit_bytes: Option<f64>,
}

impl Usage {
    /// From the points of one cgroup.
    pub fn of(points: &[Point]) -> Self {
        let value = |is: &dyn Fn(&Metric) -> bool| {
            let point = points.iter().find(|point| point.attributes.is_empty() && is(point.metric))?;
            match point.value {
                Value::Int(n) => Some(n as f64),
                Value::Float(n) => Some(n),
                Value::Histogram(_) | Value::Absent => None,
            }
        };
        Self {
            cores: value(&|metric| std::ptr::eq(metric, &cpu::metrics::USAGE)),
            working_set_bytes: value(&|metric| metric.name == WORKING_SET),
            limit_cores: value(&|metric| std::ptr::eq(metric, &limits::CPU_LIMIT)),
            limit_bytes: value(&|metric| std::ptr::eq(metric, &limits::MEMORY_LIMIT)),
        }
    }

    /// Of two cgroups: a container that is started again may have two for a moment.
    fn and(self, other: Self) -> Self {
        let sum = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => Some(a + b),
            (one, another) => one.or(another),
        };
        Self {
            cores: sum(self.cores, other.cores),
            working_set_bytes: sum(self.working_set_bytes, other.working_set_bytes),
            limit_cores: other.limit_cores.or(self.limit_cores),
            limit_bytes: other.limit_bytes.or(self.limit_bytes),
        }
    }
}

/// The usage of each pod and container in one batch.
#[derive(Debug, Default)]
pub struct UsageByPod<'a> {
    containers: HashMap<(&'a str, &'a str), Usage>,
    pods: HashMap<&'a str, Usage>,
}

impl<'a> UsageByPod<'a> {
    /// Enters a living cgroup of a pod: the pod's own, or a container's.
    pub fn enter(&mut self, pod: &'a Pod, container: Option<&'a Container>, kind: CgroupKind, nested: bool, points: &[Point]) {
        let usage = Usage::of(points);
        match (kind, container) {
            (CgroupKind::Pod, _) => {
                self.pods.insert(&pod.uid, usage);
            }
            (CgroupKind::Container, Some(container)) if !nested => {
                let entry = self.containers.entry((&pod.uid, &container.name)).or_default();
                *entry = entry.and(usage);
            }
            _ => {}
        }
    }
    /// The usage of a pod's own cgroup.
    pub fn of_pod(&self, pod: &Pod) -> Option<&Usage> {
        self.pods.get(&*pod.uid)
    }

    /// The usage of a container.
    pub fn of_container(&self, pod: &Pod, container: &Container) -> Option<Usage> {
        self.containers.get(&(&*pod.uid, &*container.name)).copied()
    }

    /// The usage of a container that does not run: zero of what is measured for others.
    pub fn idle(&self) -> Usage {
        let zero = |of: fn(&Usage) -> Option<f64>| self.containers.values().find_map(of).map(|_| 0.0);
        Usage { cores: zero(|usage| usage.cores), working_set_bytes: zero(|usage| usage.working_set_bytes), ..Usage::default() }
    }
}
