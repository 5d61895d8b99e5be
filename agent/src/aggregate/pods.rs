//! What Kubernetes says of pods and containers, beside how they use it (pure): one sample per pod and per container of its spec.

mod finished;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use self::finished::Finished;
use crate::{
    cgroups::name::CgroupKind,
    join::{Node, Sample},
    metric::{Metric, Point, Value},
    pods::{
        PodIndex, metrics,
        object::{Amounts, Container, Phase, Pod, Resources, Role, State, Status},
        quantity::Quantity,
        requests,
    },
    signals::{cpu, limits},
};

/// Memory that the kernel cannot take back at once, by which kubelet evicts. By name: its signal may be off or absent.
const WORKING_SET: &str = "container.memory.working_set";

/// Reasons that kubelet and the container runtimes give. Others may hold anything, a number of series without bound.
const REASONS: [&str; 28] = [
    // Of a container that waits: kubelet's own (pkg/kubelet/kubelet_pods.go, pkg/kubelet/container/sync_result.go).
    "CrashLoopBackOff",
    "ContainerCreating",
    "PodInitializing",
    "RestartingAllContainers",
    // Its image (pkg/kubelet/images/types.go, k8s.io/cri-api/pkg/errors).
    "ErrImagePull",
    "ErrImageNeverPull",
    "ImagePullBackOff",
    "ImageInspectError",
    "ImageVolumeMountFailed",
    "InvalidImageName",
    "RegistryUnavailable",
    "SignatureValidationFailed",
    "RROUnsupported",
    // Its start (pkg/kubelet/kuberuntime/kuberuntime_container.go).
    "CreateContainerConfigError",
    "CreateContainerError",
    "PreCreateHookError",
    "PreStartHookError",
    "PostStartHookError",
    "RunContainerError",
    // Of one that has ended: kubelet where the runtime knows it no more.
    "ContainerStatusUnknown",
    "DeadlineExceeded",
    // containerd, CRI-O and cri-dockerd; containerd says "Unknown" of one whose task was gone when containerd was started again.
    "Completed",
    "Error",
    "OOMKilled",
    "StartError",
    "Unknown",
    "ContainerCannotRun",
    "seccomp killed",
];

/// What a container's living cgroups use, and what they are allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    cores: Option<f64>,
    working_set_bytes: Option<f64>,
    limit_cores: Option<f64>,
    limit_bytes: Option<f64>,
}

impl Usage {
    /// What these points of one cgroup say.
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
            cores: value(&|metric| std::ptr::eq(metric, &cpu::USAGE)),
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

/// Who uses what, in one batch.
#[derive(Debug, Default)]
pub struct Used<'a> {
    containers: HashMap<(&'a str, &'a str), Usage>,
    pods: HashMap<&'a str, Usage>,
}

impl<'a> Used<'a> {
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
}

/// What must be kept from one batch to the next.
#[derive(Debug, Default)]
pub struct Pods {
    finished: Finished,
    /// How many pods that the API has are not in the last batch.
    pub left_out: usize,
}

impl Pods {
    /// The samples of the pods that the API has now, of those that have finished only the latest. `now` is Unix time.
    pub fn samples(&mut self, node: &Node, known: &PodIndex, used: &Used<'_>, now: Duration) -> Vec<Sample> {
        let measured = Usage {
            cores: used.containers.values().find_map(|usage| usage.cores),
            working_set_bytes: used.containers.values().find_map(|usage| usage.working_set_bytes),
            ..Usage::default()
        };
        let mut samples = Vec::new();
        let chosen = self.finished.choose(known, now);
        self.left_out = chosen.left_out;
        for pod in known.living().chain(chosen.pods) {
            let labels = known.labels_of(&pod.namespace);
            let own = used.pods.get(&*pod.uid);
            let points = pod_points(pod, own);
            samples.push(Sample::new(Arc::new(node.resource_of_pod(pod, labels)), points));
            for container in &pod.containers {
                let usage = used.containers.get(&(&*pod.uid, &*container.name)).copied();
                let points = container_points(pod, container, usage, &measured);
                if !points.is_empty() {
                    samples.push(Sample::new(Arc::new(node.resource_of_container(pod, container, labels)), points));
                }
            }
        }
        samples
    }
}

fn pod_points(pod: &Pod, usage: Option<&Usage>) -> Vec<Point> {
    let (cpu, memory) = (requests::cpu(pod), requests::memory(pod));
    // A pod that is over reserves nothing and is allowed nothing.
    let of = |amounts: fn(&Pod) -> Amounts| if pod.is_over() { Amounts::default() } else { amounts(pod) };
    let (own, limits) = (of(requests::pod_level), of(requests::pod_level_limits));
    let mut points: Vec<Point> = [
        cores(&metrics::POD_CPU_REQUEST, cpu),
        cores(&metrics::POD_CPU_LIMIT, limits.cpu),
        bytes(&metrics::POD_MEMORY_REQUEST, memory),
        bytes(&metrics::POD_MEMORY_LIMIT, limits.memory),
    ]
    .into_iter()
    .flatten()
    .collect();
    if let (Some(request), Some(used)) = (own.cpu, usage.and_then(|usage| usage.cores)) {
        points.push(Point::new(&metrics::CPU_SLACK, 0, Value::Float((request.cores() - used).max(0.0))));
    }
    let working_set = usage.and_then(|usage| usage.working_set_bytes);
    if let (Some(request), Some(used)) = (own.memory, working_set) {
        points.push(Point::new(&metrics::MEMORY_SLACK, 0, Value::Int(request.bytes().saturating_sub(used as u64))));
    }
    let phase = pod.phase.map(Phase::as_str);
    points.extend(one_of(&metrics::PHASE, metrics::PHASE_KEY, phase));
    points
}

fn container_points(pod: &Pod, container: &Container, usage: Option<Usage>, measured: &Usage) -> Vec<Point> {
    let Container { desired, status, .. } = container;
    let desired = if pod.is_over() { Resources::default() } else { *desired };
    let mut points: Vec<Point> = [
        cores(&metrics::CPU_REQUEST, desired.cpu_request),
        cores(&metrics::CPU_LIMIT, desired.cpu_limit),
        bytes(&metrics::MEMORY_REQUEST, desired.memory_request),
        bytes(&metrics::MEMORY_LIMIT, desired.memory_limit),
    ]
    .into_iter()
    .flatten()
    .collect();
    // One that is known not to run uses nothing, of what is measured at all.
    let idle = status.as_ref().is_some_and(|status| status.state != State::Running);
    let usage = usage.or_else(|| {
        let nothing = |measured: Option<f64>| measured.map(|_| 0.0);
        idle.then(|| Usage {
            cores: nothing(measured.cores),
            working_set_bytes: nothing(measured.working_set_bytes),
            ..Usage::default()
        })
    });
    points.extend(usage.into_iter().flat_map(|usage| used_points(pod, container, &usage)));
    if let Some(status) = status {
        points.push(Point::new(&metrics::RESTARTS, 0, Value::Int(status.restarts)));
        if matches!(container.role, Role::Main | Role::Sidecar) {
            points.push(Point::new(&metrics::READY, 0, Value::Int(status.ready.into())));
        }
    }
    let reason = |of: fn(&Status) -> &Option<Box<str>>| status.as_ref().and_then(|status| of(status).as_deref()).map(bounded);
    let (now, last) = (reason(|status| &status.reason), reason(|status| &status.last_reason));
    points.extend(one_of(&metrics::REASON, metrics::REASON_KEY, now));
    points.extend(one_of(&metrics::LAST_REASON, metrics::REASON_KEY, last));
    points
}

/// 1 for the value that holds; the exporter ends the series of the one that held before.
fn one_of(metric: &'static Metric, key: &'static str, now: Option<&'static str>) -> Option<Point> {
    now.map(|value| Point::new(metric, 0, Value::Int(1)).with(key, value))
}

/// How a container uses what it asked for and what it is allowed.
fn used_points(pod: &Pod, container: &Container, usage: &Usage) -> Vec<Point> {
    let force: Resources = requests::in_force(pod, container);
    let of_pod = requests::pod_level(pod);
    let limit_cores = usage.limit_cores.or(force.cpu_limit.map(Quantity::cores));
    let limit_bytes = usage.limit_bytes.or(force.memory_limit.map(|limit| limit.bytes() as f64));
    let (request_cores, request_bytes) = (force.cpu_request.map(Quantity::cores), force.memory_request.map(Quantity::bytes));
    let mut points = Vec::new();
    let mut share = |metric, used: Option<f64>, of: Option<f64>| {
        if let (Some(used), Some(of)) = (used, of.filter(|of| *of > 0.0)) {
            points.push(Point::new(metric, 0, Value::Float(used / of)));
        }
    };
    share(&metrics::CPU_REQUEST_USED, usage.cores, request_cores);
    share(&metrics::CPU_LIMIT_USED, usage.cores, limit_cores);
    share(&metrics::MEMORY_REQUEST_USED, usage.working_set_bytes, request_bytes.map(|bytes| bytes as f64));
    share(&metrics::MEMORY_LIMIT_USED, usage.working_set_bytes, limit_bytes);
    // An init container's request is free for the others when it has ended, and a pod that is over has none.
    if !matches!(container.role, Role::Main | Role::Sidecar) || pod.phase.is_some_and(Phase::is_over) {
        return points;
    }
    if let (Some(request), Some(used), None) = (request_cores, usage.cores, of_pod.cpu) {
        points.push(Point::new(&metrics::CPU_SLACK, 0, Value::Float((request - used).max(0.0))));
    }
    if let (Some(request), Some(used), None) = (request_bytes, usage.working_set_bytes, of_pod.memory) {
        points.push(Point::new(&metrics::MEMORY_SLACK, 0, Value::Int(request.saturating_sub(used as u64))));
    }
    points
}

/// The node's points: what pods may request, and what they do.
pub fn node_points(known: &PodIndex) -> Vec<Point> {
    let mut points = Vec::new();
    if let Some(node) = known.node() {
        points.extend(cores(&metrics::NODE_CPU, node.cpu));
        points.extend(bytes(&metrics::NODE_MEMORY, node.memory));
    }
    let sum = |of: fn(&Pod) -> Option<Quantity>| known.living().filter_map(of).fold(Quantity::default(), Quantity::plus);
    if known.counts().0 > 0 {
        points.extend(cores(&metrics::NODE_CPU_REQUEST, Some(sum(requests::cpu))));
        points.extend(bytes(&metrics::NODE_MEMORY_REQUEST, Some(sum(requests::memory))));
    }
    points
}

fn cores(metric: &'static Metric, quantity: Option<Quantity>) -> Option<Point> {
    quantity.map(|quantity| Point::new(metric, 0, Value::Float(quantity.cores())))
}

fn bytes(metric: &'static Metric, quantity: Option<Quantity>) -> Option<Point> {
    quantity.map(|quantity| Point::new(metric, 0, Value::Int(quantity.bytes())))
}

fn bounded(reason: &str) -> &'static str {
    REASONS.into_iter().find(|known| *known == reason).unwrap_or("Other")
}

#[cfg(test)]
mod tests;
