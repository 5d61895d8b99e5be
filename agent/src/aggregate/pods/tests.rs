use std::time::Instant;

use super::{usage::WORKING_SET, *};
use crate::{
    cgroups::name::CgroupKind,
    metric::Scope,
    pods::object::{KubernetesNode, Namespace, ReportedResources},
    signals::{cpu, limits},
};

const UID: &str = "11111111-2222-3333-4444-555555555555";

fn resources(cpu_request: &str, memory_request: &str) -> Resources {
    Resources { cpu_request: cpu_request.parse().ok(), memory_request: memory_request.parse().ok(), ..Resources::default() }
}

fn running() -> Option<ContainerStatus> {
    Some(ContainerStatus { state: ContainerState::Running, ready: true, ..ContainerStatus::default() })
}

fn container(name: &str, desired: Resources, status: Option<ContainerStatus>) -> Container {
    Container { name: name.into(), desired, status, ..Container::default() }
}

fn pod(containers: Vec<Container>) -> Pod {
    Pod {
        uid: UID.into(),
        name: "web".into(),
        namespace: "shop".into(),
        phase: Some(PodPhase::Running),
        containers,
        ..Pod::default()
    }
}

fn using(cores: f64, bytes: u64) -> Vec<Point> {
    static MEMORY: Metric = Metric::gauge(WORKING_SET, "By", Scope::Container, "As the memory signal has it.");
    vec![
        Point::new(&cpu::metrics::USAGE, 0, Value::Float(cores)),
        Point::new(&MEMORY, 0, Value::Int(bytes)),
        Point::new(&limits::CPU_LIMIT, 0, Value::Float(2.0)),
    ]
}

/// The value of a metric's point with this attribute value, of the container's sample or, without a name, of the pod's.
fn value(samples: &[Sample], container: Option<&str>, metric: &Metric, attribute: Option<&str>) -> Option<f64> {
    let name = |sample: &Sample| sample.resource.get("k8s.container.name").map(str::to_owned);
    let sample = samples.iter().find(|sample| name(sample).as_deref() == container)?;
    let is = |point: &&Point| point.metric == metric && attribute.is_none_or(|a| point.attributes.iter().any(|(_, v)| v == a));
    match sample.points.iter().find(is)?.value {
        Value::Int(n) => Some(n as f64),
        Value::Float(n) => Some(n),
        Value::Histogram(_) | Value::Absent => None,
    }
}

/// The samples of one pod of which containers use this.
fn samples(pods: &mut PodSamples, pod: Pod, used: &[(&str, Vec<Point>)]) -> Vec<Sample> {
    let mut known = PodIndex::default();
    known.set_pod(pod.clone());
    let mut entered = UsageByPod::default();
    for (name, points) in used {
        let container = pod.containers.iter().find(|container| *container.name == **name);
        let kind = if container.is_some() { CgroupKind::Container } else { CgroupKind::Pod };
        entered.enter(&pod, container, kind, false, points);
    }
    pods.samples(&NodeIdentity::default(), &known, &entered, Duration::ZERO)
}

#[test]
fn slack_is_what_is_reserved_and_not_used_and_never_negative() {
    let containers = vec![
        container("idle", resources("1", "100"), running()),
        container("busy", resources("500m", "100"), running()),
        container("without requests", Resources::default(), running()),
        container("waiting", resources("250m", "10"), Some(ContainerStatus::default())),
        container("without status", resources("250m", "10"), None),
    ];
    let used = [("idle", using(0.25, 40)), ("busy", using(1.5, 140)), ("without requests", using(1.0, 1))];
    let samples = samples(&mut PodSamples::default(), pod(containers), &used);
    let slack = |name| {
        (value(&samples, Some(name), &metrics::CPU_SLACK, None), value(&samples, Some(name), &metrics::MEMORY_SLACK, None))
    };
    assert_eq!(slack("idle"), (Some(0.75), Some(60.0)));
    assert_eq!(slack("busy"), (Some(0.0), Some(0.0)), "what is used beyond a request frees no other's");
    assert_eq!(slack("without requests"), (None, None));
    assert_eq!(slack("waiting"), (Some(0.25), Some(10.0)), "it does not run, so it uses nothing");
    assert_eq!(slack("without status"), (None, None), "whether it runs is not known");
    let share = |name, metric| value(&samples, Some(name), metric, None);
    assert_eq!((share("busy", &metrics::CPU_REQUEST_USED), share("busy", &metrics::CPU_LIMIT_USED)), (Some(3.0), Some(0.75)));
    assert_eq!(share("idle", &metrics::MEMORY_REQUEST_USED), Some(0.4));
    assert_eq!(share("without requests", &metrics::CPU_REQUEST_USED), None);
}

#[test]
fn without_a_measurement_there_is_no_slack() {
    let containers = vec![container("waiting", resources("250m", "10"), Some(ContainerStatus::default()))];
    let samples = samples(&mut PodSamples::default(), pod(containers), &[]);
    assert_eq!(value(&samples, Some("waiting"), &metrics::CPU_SLACK, None), None);
    assert_eq!(value(&samples, Some("waiting"), &metrics::CPU_REQUEST, None), Some(0.25));
}

#[test]
fn where_the_pod_requests_the_slack_is_its_own() {
    let mut pod = pod(vec![container("app", resources("1", "100"), running())]);
    pod.resources = resources("3", "");
    let samples = samples(&mut PodSamples::default(), pod, &[("app", using(0.25, 40)), ("the pod", using(0.5, 50))]);
    assert_eq!(value(&samples, None, &metrics::CPU_SLACK, None), Some(2.5));
    assert_eq!(value(&samples, Some("app"), &metrics::CPU_SLACK, None), None);
    assert_eq!(value(&samples, Some("app"), &metrics::MEMORY_SLACK, None), Some(60.0));
    assert_eq!(value(&samples, None, &metrics::POD_CPU_REQUEST, None), Some(3.0));
}

#[test]
fn a_pod_that_is_over_reserves_nothing() {
    let mut pod = pod(vec![container(
        "app",
        resources("1", "100"),
        Some(ContainerStatus { state: ContainerState::Terminated, ..ContainerStatus::default() }),
    )]);
    pod.phase = Some(PodPhase::Succeeded);
    let samples = samples(&mut PodSamples::default(), pod, &[("app", using(0.0, 0))]);
    assert_eq!(value(&samples, Some("app"), &metrics::CPU_SLACK, None), None);
    assert_eq!(value(&samples, None, &metrics::POD_CPU_REQUEST, None), None);
    assert_eq!(value(&samples, Some("app"), &metrics::CPU_REQUEST, None), None);
    assert_eq!(value(&samples, Some("app"), &metrics::READY, None), Some(0.0));
}

#[test]
fn the_reason_that_holds_is_one_and_no_other_is_there() {
    let with = |reason: Option<&str>| {
        pod(vec![container(
            "app",
            Resources::default(),
            Some(ContainerStatus { reason: reason.map(Into::into), ..ContainerStatus::default() }),
        )])
    };
    let reasons = |reason: Option<&str>| {
        let samples = samples(&mut PodSamples::default(), with(reason), &[]);
        ["CrashLoopBackOff", "Other"].map(|reason| value(&samples, Some("app"), &metrics::REASON, Some(reason)))
    };
    assert_eq!(reasons(None), [None, None]);
    assert_eq!(reasons(Some("CrashLoopBackOff")), [Some(1.0), None]);
    assert_eq!(reasons(Some("made up by an operator")), [None, Some(1.0)]);
}

#[test]
fn a_reason_of_kubelet_or_of_a_runtime_is_exported_as_it_is() {
    let of = |reason: &str| {
        let status = Some(ContainerStatus {
            state: ContainerState::Terminated,
            reason: Some(reason.into()),
            ..ContainerStatus::default()
        });
        let samples = samples(&mut PodSamples::default(), pod(vec![container("app", Resources::default(), status)]), &[]);
        value(&samples, Some("app"), &metrics::REASON, Some(reason))
    };
    for reason in ["Unknown", "ContainerStatusUnknown", "seccomp killed", "SignatureValidationFailed", "StartError", "OOMKilled"]
    {
        assert_eq!(of(reason), Some(1.0), "{reason}");
    }
    assert_eq!(of("unknown"), None, "no component gives this reason");
}

#[test]
fn the_nodes_sums() {
    let mut known = PodIndex::default();
    assert!(node_points(&known, 0).is_empty());
    known.set_node(KubernetesNode { name: "n".into(), cpu: "4".parse().ok(), ..Default::default() });
    known.set_namespace(Namespace { name: "shop".into(), labels: Vec::new() });
    for (uid, cpu) in [("a", "1"), ("b", "500m")] {
        known.set_pod(Pod { uid: uid.into(), ..pod(vec![container("app", resources(cpu, "10"), None)]) });
    }
    // Its node refuses that it grows: the spec's 3 CPUs are not set aside.
    let granted = Some(resources("250m", "10").requests());
    let reported = ReportedResources { requests: granted, allocated: granted, limits: None };
    let refused = Container { reported, ..container("app", resources("3", "10"), running()) };
    known.set_pod(Pod { uid: "c".into(), resize_infeasible: true, ..pod(vec![refused]) });
    let points: Vec<_> = node_points(&known, 0).into_iter().map(|point| (point.metric.name, point.value)).collect();
    assert_eq!(
        points,
        [
            ("k8s.node.cpu.allocatable", Value::Float(4.0)),
            ("podmeter.node.cpu.request", Value::Float(1.75)),
            ("podmeter.node.memory.request", Value::Int(30)),
        ]
    );
}

#[test]
fn the_resources_of_a_pod_stay_until_something_of_it_changes() {
    let (mut pods, mut known, node) = (PodSamples::default(), PodIndex::default(), NodeIdentity::default());
    let of = |pods: &mut PodSamples, known: &PodIndex| -> Vec<Arc<Resource>> {
        let samples = pods.samples(&node, known, &UsageByPod::default(), Duration::ZERO);
        samples.into_iter().map(|sample| sample.resource).collect()
    };
    let app = || pod(vec![container("app", resources("1", "1"), running())]);
    known.set_pod(app());
    let first = of(&mut pods, &known);
    assert_eq!(first.len(), 2);
    assert!(of(&mut pods, &known).iter().zip(&first).all(|(again, first)| Arc::ptr_eq(again, first)));
    known.set_namespace(Namespace { name: "shop".into(), labels: vec![("team".into(), "blue".into())] });
    assert!(of(&mut pods, &known).iter().all(|resource| resource.get("k8s.namespace.label.team") == Some("blue")));
    known.set_pod(Pod { labels: vec![("tier".into(), "web".into())], ..app() });
    assert!(of(&mut pods, &known).iter().all(|resource| resource.get("k8s.pod.label.tier") == Some("web")));
    known.forget_pod(UID, Instant::now());
    assert!(of(&mut pods, &known).is_empty() && pods.resources.is_empty());
}
