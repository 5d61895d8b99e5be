use super::*;
use crate::cgroups::name;
use crate::snapshot::document::NeighbourWait;

/// A workload named by its path, with so much CPU.
fn at(path: &str, cores: f64) -> WorkloadUsage {
    let name = name::parse(path, name::Kubelets::Any);
    let cpu = CpuUsage { usage_cores: Some(cores), ..CpuUsage::default() };
    let mut workload = WorkloadUsage {
        name: name.name,
        cgroup_kind: name.kind.as_str().into(),
        cgroup: path.into(),
        cpu,
        ..WorkloadUsage::default()
    };
    if let Some(uid) = name.pod_uid {
        (workload.namespace, workload.pod) = (Some("shop".into()), Some(format!("pod-{}", &uid[..2])));
        workload.container =
            name.container_id.filter(|_| name.kind == name::CgroupKind::Container).map(|id| format!("c{}", &id[..2]));
    }
    workload
}

/// Digits of an id, or of a pod's UID.
fn id(digits: &str) -> String {
    digits.repeat(32)
}

fn uid(digits: &str) -> String {
    let [a, b] = [digits.repeat(4), digits.repeat(2)];
    format!("{a}-{b}-{b}-{b}-{}", digits.repeat(6))
}

fn sandbox(path: &str) -> WorkloadUsage {
    WorkloadUsage { container_type: Some("sandbox".into()), container: None, ..at(path, 0.0) }
}

/// A node with three pods, a service, and what is above them.
fn node() -> Vec<WorkloadUsage> {
    let pod = |digits: &str| format!("/kubepods/burstable/pod{}", uid(digits));
    let (one, two, none) = (pod("a1"), pod("b2"), pod("c3"));
    let mut workloads = vec![
        at("/", 9.0),
        at("/kubepods", 5.0),
        at("/kubepods/burstable", 5.0),
        at(&one, 1.0),
        at(&format!("{one}/{}", id("d4")), 1.0),
        sandbox(&format!("{one}/{}", id("e5"))),
        at(&two, 3.0),
        at(&format!("{two}/{}", id("11")), 0.5),
        at(&format!("{two}/{}", id("22")), 2.5),
        at(&format!("{two}/{}/inner", id("22")), 2.0),
        sandbox(&format!("{two}/{}", id("33"))),
        at(&none, 0.0),
        at("/system.slice", 2.0),
        at("/system.slice/ssh.service", 2.0),
        at("/user.slice", 0.1),
    ];
    workloads.sort_by(|a, b| a.cgroup.cmp(&b.cgroup));
    workloads
}

fn names(workloads: &[WorkloadUsage], shape: RowLayout, choice: &RowChoice) -> Vec<String> {
    arrange(&rows(workloads, shape), choice).into_iter().map(|shown| shown.name).collect()
}

#[test]
fn a_tree_has_units_with_their_parts_and_one_row_for_a_pod_with_one_container() {
    let tree = names(&node(), RowLayout::Tree, &RowChoice::default());
    assert_eq!(
        tree,
        ["shop/pod-b2", "  c22", "    inner", "  c11", "ssh", "shop/pod-a1", "user", "shop/pod-c3"],
        "no group, no sandbox, and a slice only where nothing below it has a row"
    );
    let folded = names(&node(), RowLayout::Folded, &RowChoice::default());
    assert_eq!(folded, ["shop/pod-b2", "ssh", "shop/pod-a1", "user", "shop/pod-c3"]);
    assert_eq!(names(&node(), RowLayout::Flat, &RowChoice::default()).len(), node().len());
}

#[test]
fn the_units_of_a_node_do_not_count_anything_twice() {
    let sum: f64 = rows(&node(), RowLayout::Folded).iter().filter_map(|row| row.workload.cpu.usage_cores).sum();
    assert!((sum - 6.1).abs() < 1e-9, "{sum}");
}

#[test]
fn a_part_comes_with_the_unit_that_has_the_largest_figure_in_it() {
    let mut workloads = node();
    for workload in &mut workloads {
        // Only a container has a limit of its own.
        workload.cpu.throttled_rate = workload.cgroup.ends_with(&id("11")).then_some(0.5);
    }
    let choice = RowChoice { sort: Sort::Throttled, ..RowChoice::default() };
    assert_eq!(names(&workloads, RowLayout::Tree, &choice)[..3], ["shop/pod-b2", "  c11", "  c22"]);
    let choice = RowChoice { sort: Sort::Name, reversed: true, ..RowChoice::default() };
    assert_eq!(names(&workloads, RowLayout::Tree, &choice)[..3], ["user", "ssh", "shop/pod-c3"]);
}

#[test]
fn what_matches_stands_alone_where_what_it_is_part_of_does_not() {
    let filtered = |filter: &str| names(&node(), RowLayout::Tree, &RowChoice { filter: filter.into(), ..RowChoice::default() });
    assert_eq!(filtered("c22"), ["shop/pod-b2/c22"]);
    assert_eq!(filtered("POD-B2 shop"), ["shop/pod-b2", "  c22", "    inner", "  c11"]);
    assert_eq!(filtered("cd4"), ["shop/pod-a1"], "a pod is found by its only container");
    assert_eq!(filtered("service"), ["ssh"]);
}

#[test]
fn a_limit_counts_rows_and_idle_ones_are_left_out() {
    let choice = RowChoice { limit: Some(3), ..RowChoice::default() };
    assert_eq!(names(&node(), RowLayout::Tree, &choice), ["shop/pod-b2", "  c22", "    inner"]);
    let choice = RowChoice { hide_idle: true, ..RowChoice::default() };
    assert!(!names(&node(), RowLayout::Tree, &choice).contains(&"shop/pod-c3".to_owned()));
}

#[test]
fn a_pod_and_its_only_container_share_what_either_knows() {
    let pod = WorkloadUsage {
        cpu: CpuUsage { wait_rate: Some(0.9), contention_rate: Some(0.9), ..CpuUsage::default() },
        ..at("/p", 1.0)
    };
    let neighbours = vec![NeighbourWait { name: "shop/web/app".into(), seconds: 2.0 }];
    let cpu =
        CpuUsage { limit_cores: Some(0.5), throttled_rate: Some(0.6), neighbours: neighbours.clone(), ..CpuUsage::default() };
    let memory = MemoryUsage { request_bytes: Some(7), ..MemoryUsage::default() };
    let container = WorkloadUsage { cpu, memory: Some(memory.clone()), ..at("/p/c", 1.0) };
    let both = together(&pod, &container);
    assert_eq!((both.cgroup.as_str(), both.cpu.limit_cores, both.memory), ("/p", Some(0.5), Some(memory)));
    assert_eq!((both.cpu.throttled_rate, &both.cpu.neighbours), (Some(0.6), &neighbours));
    assert!(both.cpu.contention_rate.is_some_and(|rate| (rate - 0.3).abs() < 1e-9), "{:?}", both.cpu);
}

#[test]
fn a_container_that_another_one_replaced_is_a_row_until_it_is_gone() {
    let pod = format!("/kubepods/pod{}", uid("a1"));
    let old = WorkloadUsage { ended: true, ..at(&format!("{pod}/{}", id("01")), 0.1) };
    let workloads = [at(&pod, 0.5), old, at(&format!("{pod}/{}", id("02")), 0.4)];
    assert_eq!(names(&workloads, RowLayout::Tree, &RowChoice::default()), ["shop/pod-a1", "  c01"]);
}

#[test]
fn pods_of_a_kubelet_in_a_container_are_parts_of_that() {
    let docker = format!("/system.slice/docker-{}.scope", id("0a"));
    let inner =
        format!("{docker}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{}.slice", uid("a1").replace('-', "_"));
    let mut workloads = vec![
        at("/system.slice", 1.0),
        at(&docker, 1.0),
        at(&format!("{docker}/kubelet.slice"), 0.9),
        at(&format!("{docker}/kubelet.slice/kubelet-kubepods.slice"), 0.9),
        at(&inner, 0.9),
    ];
    workloads.sort_by(|a, b| a.cgroup.cmp(&b.cgroup));
    let tree = names(&workloads, RowLayout::Tree, &RowChoice::default());
    assert_eq!(tree.first().map(String::as_str), Some("0a0a0a0a0a0a"), "{tree:?}");
    assert!(tree.iter().skip(1).all(|name| name.starts_with(' ')), "{tree:?}");
    assert_eq!(names(&workloads, RowLayout::Folded, &RowChoice::default()), ["0a0a0a0a0a0a"]);
}
