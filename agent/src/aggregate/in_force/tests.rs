use super::*;
use crate::{
    cgroups::table::tests::cgroup,
    pods::object::{Container, Pod, ReportedResources},
};

const UID: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
const OTHER: &str = "11111111-bbbb-cccc-dddd-eeeeeeeeeeee";

/// A pod with containers of these ids and requests in thousandths of a CPU.
fn pod(uid: &str, containers: &[(&str, u64)]) -> Pod {
    let containers = containers.iter().map(|(digit, milli)| Container {
        name: (*digit).into(),
        id: Some(digit.repeat(64).into()),
        desired: Resources { cpu_request: format!("{milli}m").parse().ok(), ..Resources::default() },
        ..Container::default()
    });
    Pod { uid: uid.into(), name: "web".into(), namespace: "shop".into(), containers: containers.collect(), ..Pod::default() }
}

/// Cgroups by their paths below /kubepods, and their weights.
fn node(cgroups: &[(&str, u64)]) -> (Table, HashMap<u32, Vec<Point>>) {
    let (mut table, mut by_slot) = (Table::default(), HashMap::new());
    for (slot, (path, weight)) in (1..).zip(cgroups) {
        table.insert(cgroup(slot, path, None));
        by_slot.insert(slot, vec![Point::new(&limits::CPU_WEIGHT, 0, Value::Int(*weight))]);
    }
    (table, by_slot)
}

fn path(uid: &str, container: &str) -> String {
    let container = if container.is_empty() { String::new() } else { format!("/{}", container.repeat(64)) };
    format!("/kubepods/pod{uid}{container}")
}

/// CPUs requested, of each cgroup in turn, in thousandths.
fn requested(in_force: &mut RequestsInForce, cgroups: &[(&str, u64)], known: Option<&PodIndex>) -> Vec<Option<u64>> {
    let (table, mut by_slot) = node(cgroups);
    in_force.learn(&table, &by_slot, known);
    let mut of = |cgroup: &Cgroup| {
        let mut points = by_slot.remove(&cgroup.slot).expect("points");
        in_force.settle(&mut points, cgroup, known.and_then(|known| find(known, cgroup)).as_ref());
        assert!(points.iter().all(|point| !is(point, &limits::CPU_WEIGHT)), "a weight is not exported");
        let request = points.iter().find(|point| is(point, &limits::CPU_REQUEST))?;
        if let Value::Float(cores) = request.value { Some((cores * 1000.0).round() as u64) } else { None }
    };
    table.iter().map(&mut of).collect()
}

#[test]
fn what_kubernetes_knows_has_its_request_whatever_its_weight_is() {
    let mut known = PodIndex::default();
    known.set_pod(pod(UID, &[("a", 20), ("b", 1000)]));
    for curve in [Curve::Linear, Curve::Quadratic] {
        let [small, large] = [20, 1024].map(|shares| curve.weight(shares));
        let cgroups = [(&*path(UID, ""), 39), (&path(UID, "a"), small), (&path(UID, "b"), large)];
        let requested = requested(&mut RequestsInForce::default(), &cgroups, Some(&known));
        assert_eq!(requested, [Some(1020), Some(20), Some(1000)], "{curve:?}");
    }
}

#[test]
fn a_pod_that_requests_nothing_has_no_request() {
    let mut known = PodIndex::default();
    let mut idle = pod(UID, &[("a", 1)]);
    idle.containers[0].desired = Resources::default();
    known.set_pod(idle);
    let cgroups = [(&*path(UID, ""), 1), (&path(UID, "a"), 1), (&path(OTHER, ""), 1), (&path(OTHER, "c"), 1)];
    assert_eq!(requested(&mut RequestsInForce::default(), &cgroups, Some(&known)), [None; 4], "2 shares are none");
}

#[test]
fn what_it_does_not_know_is_read_by_the_curve_of_what_it_knows() {
    let mut known = PodIndex::default();
    known.set_pod(pod(UID, &[("a", 100)]));
    let mut in_force = RequestsInForce::default();
    // kubelet by the one curve, the runtime by the other: 2 CPUs of a pod that the API does not have yet.
    let cgroups = [(&*path(UID, ""), 4), (&path(UID, "a"), 17), (&path(OTHER, ""), 79), (&path(OTHER, "c"), 174)];
    let near = |milli: Option<u64>, wanted: u64| milli.is_some_and(|milli| milli.abs_diff(wanted) <= 30);
    let with = requested(&mut in_force, &cgroups, Some(&known));
    assert_eq!(with[..2], [Some(100); 2]);
    assert!(near(with[2], 2000) && near(with[3], 2000), "{with:?}");
    // It stays known while the API is away.
    let without = requested(&mut in_force, &cgroups[3..], None);
    assert!(near(without[0], 2000), "{without:?}");
    // Every runtime before used kubelet's curve.
    let cgroups = [(&*path(UID, "a"), 4), (&path(OTHER, "c"), 79)];
    let old = requested(&mut RequestsInForce::default(), &cgroups, Some(&known));
    assert!(near(old[1], 2000), "{old:?}");
}

#[test]
fn without_kubernetes_a_containers_weight_beside_its_pods_tells_the_curve() {
    let near = |milli: Option<u64>, wanted: u64| milli.is_some_and(|milli| milli.abs_diff(wanted) <= 30);
    for (weight, curve) in [(10, Curve::Linear), (35, Curve::Quadratic)] {
        let cgroups = [(&*path(UID, ""), 10), (&path(UID, "a"), weight), (&path(UID, "b"), 1)];
        let requested = requested(&mut RequestsInForce::default(), &cgroups, None);
        assert!(near(requested[0], 250) && near(requested[1], 250), "{curve:?}: {requested:?}");
        assert_eq!(requested[2], None);
    }
    // Two containers of one pod, neither with the pod's weight: there is no evidence.
    let cgroups = [(&*path(UID, ""), 20), (&path(UID, "a"), 10), (&path(UID, "b"), 10)];
    assert_eq!(requested(&mut RequestsInForce::default(), &cgroups, None)[1..], [None; 2]);
}

#[test]
fn a_weight_that_nobody_made_of_a_request_is_none() {
    let docker = format!("/system.slice/docker-{}.scope", "d".repeat(64));
    let inside = path(UID, "a") + "/inner";
    let cgroups = [("/system.slice/cron.service", 50), (&*docker, 59), (&inside, 50), ("/kubepods.slice", 79)];
    assert_eq!(requested(&mut RequestsInForce::default(), &cgroups, None), [None; 4]);
}

#[test]
fn memory_that_is_protected_gives_way_to_what_is_requested() {
    let mut known = PodIndex::default();
    let list = |memory: &str| crate::pods::object::CpuAndMemory { cpu: None, memory: memory.parse().ok() };
    let mut app = pod(UID, &[("a", 100)]);
    app.containers[0].reported = ReportedResources { requests: Some(list("64Mi")), ..ReportedResources::default() };
    known.set_pod(app);
    let mut points =
        vec![Point::new(&limits::MEMORY_REQUEST, 0, Value::Int(4096)), Point::new(&limits::CPU_LIMIT, 0, Value::Float(2.0))];
    let cgroup = cgroup(1, &path(UID, "a"), None);
    RequestsInForce::default().settle(&mut points, &cgroup, find(&known, &cgroup).as_ref());
    let of = |metric: &'static Metric| {
        points.iter().filter(|point| is(point, metric)).map(|point| point.value.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of(&limits::MEMORY_REQUEST), [Value::Int(64 << 20)]);
    assert_eq!(of(&limits::CPU_LIMIT), [Value::Float(2.0)], "cpu.max is exact");
    assert!(of(&limits::CPU_REQUEST).is_empty(), "the status' list holds as a whole");
}
