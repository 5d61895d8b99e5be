//! What Kubernetes reports of pods and containers, and how they use it (pure): one sample per pod and per container of its spec.

mod finished;
mod reasons;
mod usage;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use self::finished::FinishedPods;
use self::usage::Usage;
pub use self::usage::UsageByPod;
use crate::{
    histogram::Histogram,
    join::{NodeIdentity, Resource, Sample},
    metric::{Metric, Point, Value},
    pods::{
        PodIndex, metrics,
        object::{Container, ContainerRole, ContainerState, ContainerStatus, CpuAndMemory, Pod, PodPhase, Resources},
        quantity::Quantity,
        requests,
        starts::Starts,
    },
};

/// Makes the samples of pods; keeps what must outlive one batch.
#[derive(Debug, Default)]
pub struct PodSamples {
    finished: FinishedPods,
    /// Of the last batch, by UID.
    resources: HashMap<Box<str>, PodResources>,
    /// How many pods that the API has are not in the last batch.
    pub left_out: usize,
}

/// The resources of a pod and of its containers, in the order of its spec.
#[derive(Debug)]
struct PodResources {
    /// Of the pod index, when these were made.
    revision: u64,
    pod: Arc<Resource>,
    containers: Vec<Arc<Resource>>,
}

impl PodResources {
    fn new(node: &NodeIdentity, pod: &Pod, labels: &[(Box<str>, Box<str>)], revision: u64) -> Self {
        let of_container = |container| Arc::new(node.resource_of_container(pod, container, labels));
        let containers = pod.containers.iter().map(of_container).collect();
        Self { revision, pod: Arc::new(node.resource_of_pod(pod, labels)), containers }
    }
}

impl PodSamples {
    /// The samples of the pods that the API has now, of those that have finished only the latest. `now` is Unix time.
    pub fn samples(&mut self, node: &NodeIdentity, index: &PodIndex, usage: &UsageByPod<'_>, now: Duration) -> Vec<Sample> {
        let idle = usage.idle();
        let mut samples = Vec::new();
        let chosen = self.finished.choose(index, now);
        self.left_out = chosen.left_out;
        let mut before = std::mem::take(&mut self.resources);
        for pod in index.living().chain(chosen.pods) {
            let revision = index.revision_of(pod);
            let (uid, resources) = before
                .remove_entry(&pod.uid)
                .filter(|(_, resources)| resources.revision == revision && resources.containers.len() == pod.containers.len())
                .unwrap_or_else(|| {
                    let labels = index.labels_of(&pod.namespace);
                    (pod.uid.clone(), PodResources::new(node, pod, labels, revision))
                });
            samples.push(Sample::new(Arc::clone(&resources.pod), pod_points(pod, usage.of_pod(pod), now)));
            for (container, resource) in pod.containers.iter().zip(&resources.containers) {
                let points = container_points(pod, container, usage.of_container(pod, container), idle);
                if !points.is_empty() {
                    samples.push(Sample::new(Arc::clone(resource), points));
                }
            }
            self.resources.insert(uid, resources);
        }
        samples
    }
}

fn pod_points(pod: &Pod, usage: Option<&Usage>, now: Duration) -> Vec<Point> {
    let (cpu, memory) = (requests::cpu(pod), requests::memory(pod));
    // A pod that is over reserves nothing and is allowed nothing.
    let of = |amounts: fn(&Pod) -> CpuAndMemory| if pod.is_over() { CpuAndMemory::default() } else { amounts(pod) };
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
    let phase = pod.phase.map(PodPhase::as_str);
    points.extend(one_of(&metrics::PHASE, metrics::PHASE_KEY, phase));
    points.extend(one_of(
        &metrics::POD_REASON,
        metrics::POD_REASON_KEY,
        pod.reason.as_deref().map(reasons::known_or_other_of_pod),
    ));
    points.extend(age(pod, now));
    points
}

/// How long it waits, runs or ran. `now` is Unix time.
fn age(pod: &Pod, now: Duration) -> Option<Point> {
    let times = &pod.times;
    let (metric, from, to) = match pod.phase {
        Some(PodPhase::Pending) => (&metrics::PENDING, times.created, Some(now)),
        Some(phase) if phase.is_over() => (&metrics::RUN, times.accepted, pod.finished),
        _ => (&metrics::UPTIME, times.accepted, Some(now)),
    };
    Some(Point::new(metric, 0, Value::Float(to?.saturating_sub(from?).as_secs_f64())))
}

fn container_points(pod: &Pod, container: &Container, usage: Option<Usage>, idle: Usage) -> Vec<Point> {
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
    let is_idle = status.as_ref().is_some_and(|status| status.state != ContainerState::Running);
    let usage = usage.or(is_idle.then_some(idle));
    points.extend(usage.into_iter().flat_map(|usage| usage_points(pod, container, &usage)));
    if let Some(status) = status {
        points.push(Point::new(&metrics::RESTARTS, 0, Value::Int(status.restarts)));
        if matches!(container.role, ContainerRole::Main | ContainerRole::Sidecar) {
            points.push(Point::new(&metrics::READY, 0, Value::Int(status.ready.into())));
        }
    }
    let reason = |of: fn(&ContainerStatus) -> &Option<Box<str>>| {
        status.as_ref().and_then(|status| of(status).as_deref()).map(reasons::known_or_other)
    };
    let (now, last) = (reason(|status| &status.reason), reason(|status| &status.last_reason));
    points.extend(one_of(&metrics::REASON, metrics::REASON_KEY, now));
    points.extend(one_of(&metrics::LAST_REASON, metrics::REASON_KEY, last));
    points
}

/// 1 for the value that holds; the exporter ends the series of the one that held before.
fn one_of(metric: &'static Metric, key: &'static str, now: Option<&'static str>) -> Option<Point> {
    now.map(|value| Point::new(metric, 0, Value::Int(1)).with(key, value))
}

/// How a container uses its requests and limits.
fn usage_points(pod: &Pod, container: &Container, usage: &Usage) -> Vec<Point> {
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
    if !matches!(container.role, ContainerRole::Main | ContainerRole::Sidecar) || pod.phase.is_some_and(PodPhase::is_over) {
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

/// The node's points: what its pods may request and what they request, and how they start. Counting began at `since_ns`, CLOCK_BOOTTIME.
pub fn node_points(index: &PodIndex, since_ns: u64) -> Vec<Point> {
    let mut points = start_points(&index.starts, since_ns);
    if let Some(node) = index.node() {
        points.extend(cores(&metrics::NODE_CPU, node.cpu));
        points.extend(bytes(&metrics::NODE_MEMORY, node.memory));
    }
    let sum = |of: fn(&Pod) -> Option<Quantity>| index.living().filter_map(of).fold(Quantity::default(), Quantity::plus);
    if index.counts().0 > 0 {
        points.extend(cores(&metrics::NODE_CPU_REQUEST, Some(sum(requests::cpu))));
        points.extend(bytes(&metrics::NODE_MEMORY_REQUEST, Some(sum(requests::memory))));
    }
    points
}

fn start_points(starts: &Starts, since_ns: u64) -> Vec<Point> {
    let histogram = |metric, histogram: &Histogram| Point::new(metric, since_ns, Value::Histogram(Arc::new(histogram.clone())));
    let stages = starts.stages.iter().map(|(stage, took)| histogram(&metrics::POD_START, took).with("stage", stage.as_str()));
    let containers = (starts.containers.count > 0).then(|| histogram(&metrics::CONTAINER_START, &starts.containers));
    let disruption =
        |(reason, n): (&&'static str, &u64)| Point::new(&metrics::DISRUPTIONS, since_ns, Value::Int(*n)).with("reason", *reason);
    stages.chain(containers).chain(starts.disruptions.iter().map(disruption)).collect()
}

fn cores(metric: &'static Metric, quantity: Option<Quantity>) -> Option<Point> {
    quantity.map(|quantity| Point::new(metric, 0, Value::Float(quantity.cores())))
}

fn bytes(metric: &'static Metric, quantity: Option<Quantity>) -> Option<Point> {
    quantity.map(|quantity| Point::new(metric, 0, Value::Int(quantity.bytes())))
}

#[cfg(test)]
mod tests;
