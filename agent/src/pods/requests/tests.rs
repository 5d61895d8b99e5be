use serde_json::{Value, json};

use super::*;
use crate::pods::object::{ApiObject as _, KeptLabels, ReportedResources};

fn container(role: ContainerRole, cpu: &str) -> Container {
    let desired = Resources { cpu_request: cpu.parse().ok(), ..Resources::default() };
    Container { role, desired, ..Container::default() }
}

fn cores(containers: Vec<Container>) -> Option<f64> {
    cpu(&Pod { containers, ..Pod::default() }).map(Quantity::cores)
}

#[test]
fn the_schedulers_rule() {
    use ContainerRole::{Init, Main, Sidecar};
    assert_eq!(cores(vec![container(Main, "1"), container(Main, "500m")]), Some(1.5));
    assert_eq!(cores(vec![container(Init, "3"), container(Main, "1")]), Some(3.0), "init containers run alone");
    assert_eq!(cores(vec![container(Sidecar, "1"), container(Main, "1")]), Some(2.0), "sidecars stay");
    // The init container runs beside the sidecar before it, not beside the one after it.
    let rows = vec![container(Sidecar, "1"), container(Init, "2"), container(Sidecar, "4"), container(Main, "100m")];
    assert_eq!(cores(rows), Some(5.1));
    assert_eq!(cores(vec![container(Main, "")]), None);
}

/// A resize as the API shows it: of one container, or of the pod as a whole.
struct Resize {
    state: &'static str,
    /// `spec`, `allocatedResources` and `resources` of the status, in CPUs; "" where the status has none.
    cpus: [&'static str; 3],
    /// The condition and its reason.
    condition: Option<(&'static str, &'static str)>,
    scheduler: Option<f64>,
    in_force: Option<f64>,
}

const RESIZES: &[Resize] = &[
    resize("none, before 1.33", ["1", "", ""], None, Some(1.0), Some(1.0)),
    resize("none", ["1", "1", "1"], None, Some(1.0), Some(1.0)),
    resize("larger, not seen by the node yet", ["4", "1", "1"], None, Some(4.0), Some(1.0)),
    resize("larger, deferred", ["4", "1", "1"], Some(("PodResizePending", "Deferred")), Some(4.0), Some(1.0)),
    resize("larger, infeasible", ["4", "1", "1"], Some(("PodResizePending", "Infeasible")), Some(1.0), Some(1.0)),
    resize("larger, infeasible, as before 1.33", ["4", "1", ""], Some(("resize", "Infeasible")), Some(1.0), Some(1.0)),
    resize("larger, admitted", ["4", "4", "1"], Some(("PodResizeInProgress", "")), Some(4.0), Some(1.0)),
    resize("larger, failing", ["4", "4", "1"], Some(("PodResizeInProgress", "Error")), Some(4.0), Some(1.0)),
    resize("larger, done", ["4", "4", "4"], None, Some(4.0), Some(4.0)),
    resize("smaller, not seen by the node yet", ["1", "4", "4"], None, Some(4.0), Some(4.0)),
    resize("smaller, admitted", ["1", "1", "4"], Some(("PodResizeInProgress", "")), Some(4.0), Some(4.0)),
    resize("smaller, failing", ["1", "1", "4"], Some(("PodResizeInProgress", "Error")), Some(4.0), Some(4.0)),
    resize("smaller, infeasible", ["1", "4", "4"], Some(("PodResizePending", "Infeasible")), Some(4.0), Some(4.0)),
    resize(
        "admitted before one that is infeasible",
        ["9", "4", "1"],
        Some(("PodResizePending", "Infeasible")),
        Some(4.0),
        Some(1.0),
    ),
    resize("infeasible, of a status without resources", ["9", "", ""], Some(("PodResizePending", "Infeasible")), None, None),
];

const fn resize(
    state: &'static str,
    cpus: [&'static str; 3],
    condition: Option<(&'static str, &'static str)>,
    scheduler: Option<f64>,
    in_force: Option<f64>,
) -> Resize {
    Resize { state, cpus, condition, scheduler, in_force }
}

impl Resize {
    /// A status with these resources beside what else it has.
    fn report(&self, mut status: Value, overhead: bool) -> Value {
        let [_, allocated, actuated] = self.cpus.map(|cpus| cpus.parse::<u32>().ok());
        let list = |cpus: u32| json!({"cpu": format!("{}m", 1000 * cpus + if overhead { 250 } else { 0 })});
        if let Some(allocated) = allocated {
            status["allocatedResources"] = list(allocated);
        }
        if let Some(actuated) = actuated {
            status["resources"] = json!({"requests": list(actuated)});
        }
        status
    }

    /// The pod's status with the condition.
    fn with_condition(&self, mut status: Value) -> Value {
        match self.condition {
            Some(("resize", state)) => status["resize"] = json!(state),
            Some((kind, reason)) => {
                let ready = json!({"type": "Ready", "status": "True", "reason": "Infeasible"});
                status["conditions"] = json!([ready, {"type": kind, "status": "True", "reason": reason}]);
            }
            None => {}
        }
        status
    }

    fn spec(&self) -> Value {
        json!({"requests": {"cpu": self.cpus[0]}})
    }
}

fn read(spec: Value, status: Value) -> Pod {
    let pod = json!({"metadata": {"name": "web-1", "uid": "u"}, "spec": spec, "status": status});
    Pod::read(&pod.to_string(), &KeptLabels::default()).expect("is a pod")
}

#[test]
fn while_a_containers_resize_waits_or_is_refused_what_counts_is_what_the_scheduler_counts() {
    for row in RESIZES {
        for list in ["containers", "initContainers"] {
            let mut app = json!({"name": "app", "resources": row.spec()});
            if list == "initContainers" {
                app["restartPolicy"] = json!("Always");
            }
            let statuses = if list == "containers" { "containerStatuses" } else { "initContainerStatuses" };
            let status = row.with_condition(json!({statuses: [row.report(json!({"name": "app"}), false)]}));
            let pod = read(json!({list: [app], "overhead": {"cpu": "250m"}}), status);
            let scheduler = cpu(&pod).map(Quantity::cores);
            assert_eq!(scheduler, Some(row.scheduler.unwrap_or_default() + 0.25), "{} of {list}", row.state);
            let in_force = in_force(&pod, &pod.containers[0]).cpu_request.map(Quantity::cores);
            assert_eq!(in_force, row.in_force, "{} of {list}", row.state);
        }
    }
}

#[test]
fn the_same_of_the_pod_as_a_whole_and_its_overhead_counts_once() {
    for row in RESIZES {
        let status = row.with_condition(row.report(json!({}), true));
        let container = json!({"name": "app", "resources": {"requests": {"cpu": "100m"}}});
        let pod = read(json!({"resources": row.spec(), "overhead": {"cpu": "250m"}, "containers": [container]}), status);
        // Without a status of resources, what the spec requests is all there is to go by.
        let scheduler = row.scheduler.or(Some(9.0)).map(|cpus| cpus + 0.25);
        assert_eq!(cpu(&pod).map(Quantity::cores), scheduler, "{}", row.state);
    }
}

#[test]
fn of_a_pod_without_requests_of_its_own_a_status_of_the_whole_stands_for_the_sum_of_its_containers() {
    let row = &RESIZES[2];
    let app = json!({"name": "app", "resources": {"requests": {"cpu": "1"}}});
    let status = row.report(json!({}), true);
    let pod = read(json!({"containers": [app], "overhead": {"cpu": "250m"}}), status);
    assert_eq!(cpu(&pod).map(Quantity::cores), Some(1.25));
}

fn of(cpu: &str) -> Option<CpuAndMemory> {
    Some(CpuAndMemory { cpu: cpu.parse().ok(), memory: None })
}

#[test]
fn one_container_that_grows_while_another_shrinks_counts_once() {
    // kubernetes/kubernetes#140046: 3 CPUs before and after, never 4.
    let resized = |spec: &str, before: &str| Container {
        reported: ReportedResources { requests: of(before), allocated: of(before), limits: None },
        ..container(ContainerRole::Main, spec)
    };
    assert_eq!(cores(vec![resized("1", "2"), resized("2", "1")]), Some(3.0));
}

#[test]
fn a_list_of_the_status_holds_as_a_whole() {
    let reported =
        ReportedResources { requests: Some(CpuAndMemory::default()), limits: Some(CpuAndMemory::default()), allocated: None };
    let limit = Resources { cpu_limit: "2".parse().ok(), cpu_request: "1".parse().ok(), ..Resources::default() };
    let app = Container { reported, desired: limit, ..Container::default() };
    assert_eq!(in_force(&Pod::default(), &app), Resources::default(), "what is not in force yet is added to the spec only");
    let unreported = Container { reported: ReportedResources::default(), ..app };
    assert_eq!(in_force(&Pod::default(), &unreported), limit);
    let refused = Pod { resize_infeasible: true, ..Pod::default() };
    assert_eq!(in_force(&refused, &unreported), Resources::default());
}

#[test]
fn limits_of_the_pod_as_a_whole() {
    let resources = Resources { cpu_limit: "4".parse().ok(), ..Resources::default() };
    let pod = |reported: Option<CpuAndMemory>, resize_infeasible| Pod {
        resources,
        reported: ReportedResources { limits: reported, ..ReportedResources::default() },
        resize_infeasible,
        ..Pod::default()
    };
    let limit = |pod: Pod| pod_level_limits(&pod).cpu.map(Quantity::cores);
    assert_eq!(limit(pod(None, false)), Some(4.0));
    assert_eq!(limit(pod(of("2"), false)), Some(4.0));
    assert_eq!(limit(pod(of("2"), true)), Some(2.0));
    assert_eq!(limit(Pod { resources: Resources::default(), ..pod(of("2"), false) }), None, "it is the containers'");
}

#[test]
fn a_pod_that_is_over_sets_nothing_aside() {
    let pod = Pod { containers: vec![container(ContainerRole::Main, "1")], phase: Some(PodPhase::Succeeded), ..Pod::default() };
    assert_eq!((cpu(&pod), memory(&pod)), (None, None));
}
