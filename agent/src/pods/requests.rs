//! The CPUs and memory that a pod sets aside on its node (pure), by the scheduler's rule.
//!
//! Source: k8s.io/component-helpers/resource/helpers.go, `PodRequests` with `UseStatusResources`, as of 1.37: the larger of what
//! the containers and sidecars request together and what any init container requests beside the sidecars before it;
//! `spec.resources` instead where it requests; the overhead on top. While a resize is on its way or waits, the largest of three
//! such sums counts: what the spec requests, what the node has admitted (`allocatedResources`) and what is in force
//! (`resources` of the status). Once the node has refused a resize for good, the spec's counts no more.
//!
//! Two points on which versions differ: before 1.37 the largest was taken of each container before adding up, which is more
//! where one container grows while another shrinks; and where a status reports of the pod as a whole, some versions add the
//! overhead twice. Here it is added once, as Kubernetes means it to be (kubernetes/kubernetes#140046 and #139627).

use super::{
    object::{Container, ContainerRole, CpuAndMemory, Pod, PodPhase, Resources},
    quantity::Quantity,
};

/// CPU or memory.
type Pick = fn(&CpuAndMemory) -> Option<Quantity>;

const CPU: Pick = |amounts| amounts.cpu;
const MEMORY: Pick = |amounts| amounts.memory;

/// CPUs set aside for a pod; `None` when nothing is, or when the pod is over.
pub fn cpu(pod: &Pod) -> Option<Quantity> {
    of(pod, CPU)
}

/// Memory set aside for a pod.
pub fn memory(pod: &Pod) -> Option<Quantity> {
    of(pod, MEMORY)
}

fn of(pod: &Pod, pick: Pick) -> Option<Quantity> {
    if pod.phase.is_some_and(PodPhase::is_over) {
        return None;
    }
    let requests = pod_level_request(pod, pick).or_else(|| together(pod, pick));
    sum(requests, pick(&pod.overhead.requests()))
}

/// What is set aside for a pod as a whole, without its overhead, where `spec.resources` requests anything.
pub fn pod_level(pod: &Pod) -> CpuAndMemory {
    CpuAndMemory { cpu: pod_level_request(pod, CPU), memory: pod_level_request(pod, MEMORY) }
}

fn pod_level_request(pod: &Pod, pick: Pick) -> Option<Quantity> {
    let requests = pod.resources.requests();
    if requests == CpuAndMemory::default() {
        return None;
    }
    let lists = [pod.reported.requests, pod.reported.allocated];
    larger_of_spec_and(pod, pick, &requests, &lists)
}

/// The limits of a pod as a whole, without its overhead, where `spec.resources` sets any.
pub fn pod_level_limits(pod: &Pod) -> CpuAndMemory {
    let limits = pod.resources.limits();
    let of =
        |pick: Pick| larger_of_spec_and(pod, pick, &limits, &[pod.reported.limits]).filter(|_| limits != CpuAndMemory::default());
    CpuAndMemory { cpu: of(CPU), memory: of(MEMORY) }
}

fn larger_of_spec_and(pod: &Pod, pick: Pick, spec: &CpuAndMemory, reported: &[Option<CpuAndMemory>]) -> Option<Quantity> {
    let reports = reported.iter().any(Option::is_some);
    let spec = if pod.resize_infeasible && reports { None } else { pick(spec) };
    let reported = reported.iter().flatten().filter_map(|list| without_overhead(pod, list, pick));
    reported.max().max(spec)
}

/// What the containers request together: the largest of the three sums.
fn together(pod: &Pod, pick: Pick) -> Option<Quantity> {
    let of = |list: fn(&Container, bool) -> Option<CpuAndMemory>| {
        aggregate(pod, |container| list(container, pod.resize_infeasible).as_ref().and_then(pick))
    };
    let reported = match (&pod.reported.requests, &pod.reported.allocated) {
        // They are such sums already.
        (Some(actuated), Some(allocated)) => [actuated, allocated].map(|list| without_overhead(pod, list, pick)),
        _ => [of(actuated), of(allocated)],
    };
    let desired = if pod.resize_infeasible { None } else { of(|container, _| Some(container.desired.requests())) };
    reported.into_iter().flatten().max().max(desired)
}

fn without_overhead(pod: &Pod, list: &CpuAndMemory, pick: Pick) -> Option<Quantity> {
    pick(list).map(|all| all.minus(pick(&pod.overhead.requests()).unwrap_or_default()))
}

/// What the node has admitted for a container.
fn allocated(container: &Container, infeasible: bool) -> Option<CpuAndMemory> {
    container.reported.allocated.or_else(|| (!infeasible).then(|| container.desired.requests()))
}

/// What is in force for a container.
fn actuated(container: &Container, infeasible: bool) -> Option<CpuAndMemory> {
    container.reported.requests.or_else(|| allocated(container, infeasible))
}

fn aggregate(pod: &Pod, request: impl Fn(&Container) -> Option<Quantity>) -> Option<Quantity> {
    let (mut together, mut before, mut init) = (None, None, None);
    for container in &pod.containers {
        let request = request(container);
        match container.role {
            ContainerRole::Main => together = sum(together, request),
            ContainerRole::Sidecar => {
                before = sum(before, request);
                init = init.max(before);
            }
            ContainerRole::Init => init = init.max(sum(before, request)),
            // Ephemeral containers have no resources.
            ContainerRole::Ephemeral => {}
        }
    }
    sum(together, before).max(init)
}

fn sum(a: Option<Quantity>, b: Option<Quantity>) -> Option<Quantity> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.plus(b)),
        (one, other) => one.or(other),
    }
}

/// The requests and limits of a container that are in force: those that the status reports, else those of the spec,
/// unless the node has refused that.
pub fn in_force(pod: &Pod, container: &Container) -> Resources {
    let requests = actuated(container, pod.resize_infeasible).unwrap_or_default();
    let spec = || (!pod.resize_infeasible).then(|| container.desired.limits());
    let limits = container.reported.limits.or_else(spec).unwrap_or_default();
    Resources { cpu_request: requests.cpu, cpu_limit: limits.cpu, memory_request: requests.memory, memory_limit: limits.memory }
}

#[cfg(test)]
mod tests;
