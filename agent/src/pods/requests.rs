//! What a pod sets aside on its node (pure), by the scheduler's rule.
//!
//! Source: k8s.io/component-helpers/resource/helpers.go, `PodRequests`: the larger of what the containers and sidecars request
//! together and what any init container requests beside the sidecars before it; `spec.resources` instead where it requests; the
//! overhead on top. While a resize is on its way, the larger of what is wished and what is in force counts.

use super::{
    object::{Container, Phase, Pod, Resources, Role},
    quantity::Quantity,
};

/// Which request.
type Pick = fn(&Resources) -> Option<Quantity>;

/// CPUs set aside for a pod; `None` when nothing is, or when the pod is over.
pub fn cpu(pod: &Pod) -> Option<Quantity> {
    of(pod, |resources| resources.cpu_request)
}

/// Memory set aside for a pod.
pub fn memory(pod: &Pod) -> Option<Quantity> {
    of(pod, |resources| resources.memory_request)
}

fn of(pod: &Pod, pick: Pick) -> Option<Quantity> {
    if pod.phase.is_some_and(Phase::is_over) {
        return None;
    }
    let sum = |a: Option<Quantity>, b: Option<Quantity>| match (a, b) {
        (Some(a), Some(b)) => Some(a.plus(b)),
        (one, other) => one.or(other),
    };
    let (mut together, mut before, mut init) = (None, None, None);
    for container in &pod.containers {
        let request = larger(container, pick);
        match container.role {
            Role::Main => together = sum(together, request),
            Role::Sidecar => {
                before = sum(before, request);
                init = init.max(before);
            }
            Role::Init => init = init.max(sum(before, request)),
            // Ephemeral containers have no resources.
            Role::Ephemeral => {}
        }
    }
    let containers = sum(together, before).max(init);
    sum(pick(&pod.resources).or(containers), pick(&pod.overhead))
}

fn larger(container: &Container, pick: Pick) -> Option<Quantity> {
    pick(&container.desired).max(container.current.as_ref().and_then(pick))
}

/// Of what a container asks for and is allowed, what is in force: what the status tells, else what the spec wishes.
pub fn in_force(container: &Container) -> Resources {
    let current = container.current.unwrap_or_default();
    Resources {
        cpu_request: current.cpu_request.or(container.desired.cpu_request),
        cpu_limit: current.cpu_limit.or(container.desired.cpu_limit),
        memory_request: current.memory_request.or(container.desired.memory_request),
        memory_limit: current.memory_limit.or(container.desired.memory_limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(role: Role, cpu: &str) -> Container {
        let desired = Resources { cpu_request: cpu.parse().ok(), ..Resources::default() };
        Container { role, desired, ..Container::default() }
    }

    fn cores(containers: Vec<Container>) -> Option<f64> {
        cpu(&Pod { containers, ..Pod::default() }).map(Quantity::cores)
    }

    #[test]
    fn the_schedulers_rule() {
        use Role::{Init, Main, Sidecar};
        assert_eq!(cores(vec![container(Main, "1"), container(Main, "500m")]), Some(1.5));
        assert_eq!(cores(vec![container(Init, "3"), container(Main, "1")]), Some(3.0), "init containers run alone");
        assert_eq!(cores(vec![container(Sidecar, "1"), container(Main, "1")]), Some(2.0), "sidecars stay");
        // The init container runs beside the sidecar before it, not beside the one after it.
        let rows = vec![container(Sidecar, "1"), container(Init, "2"), container(Sidecar, "4"), container(Main, "100m")];
        assert_eq!(cores(rows), Some(5.1));
        assert_eq!(cores(vec![container(Main, "")]), None);
    }

    #[test]
    fn pod_level_requests_overhead_resizes_and_the_end() {
        let of = |cpu: &str| Resources { cpu_request: cpu.parse().ok(), ..Resources::default() };
        let mut pod = Pod { containers: vec![container(Role::Main, "1")], overhead: of("250m"), ..Pod::default() };
        assert_eq!(cpu(&pod).map(Quantity::cores), Some(1.25));
        pod.containers[0].current = Some(of("2"));
        assert_eq!(cpu(&pod).map(Quantity::cores), Some(2.25), "a smaller wish frees nothing before it is fulfilled");
        assert_eq!(in_force(&pod.containers[0]).cpu_request, "2".parse().ok());
        pod.resources = of("4");
        assert_eq!(cpu(&pod).map(Quantity::cores), Some(4.25));
        pod.phase = Some(Phase::Succeeded);
        assert_eq!(cpu(&pod), None);
    }
}
