//! The names and states that Kubernetes has for cgroups, against the objects of a fake API server and `cpu.stat`.

mod containers;
mod starts;

use std::{collections::HashMap, thread};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    MS, SECOND,
    agent::Agent,
    kubernetes::{
        ApiOptions, Cluster, Container, Driver, Fault, Pod, RunningPod,
        exported::{SOON, newest, number, resource, wait_for_attributes, wait_for_value},
        objects::container_id,
    },
    load::Load,
    metric::CPU_TIME,
    otlp::Point,
    root_test,
    truth::EXACT,
};
use serde_json::json;

/// The whole life of a pod under this driver.
fn whole_loop(driver: Driver) -> Result<()> {
    let cluster = Cluster::new(driver, ApiOptions::default())?;
    let agent = Agent::start(cluster.server.agent_config()?)?;

    // kubelet has the pod before it makes cgroups, and reports the container after it has started it.
    let id = container_id();
    let requests = (json!({"cpu": "250m", "memory": "64Mi"}), json!({"cpu": "500m", "memory": "128Mi"}));
    let mut pod = Pod::new("web-5d8f7c9b4-abcde", vec![Container::new("app", "").with_resources(requests.0, requests.1)]);
    pod.phase = "Pending";
    cluster.server.set_pod(&pod);
    let pod_cgroup = cluster.kubelet.pod(&pod.uid)?;
    let container = pod_cgroup.container(&id)?;
    let load = Load::duty_cycle(20 * MS, 200 * MS, 6 * SECOND).start(&container)?;
    let started = Container::new("app", &id);
    pod.containers[0] = Container { resources: pod.containers[0].resources.clone(), ..started };
    pod.phase = "Running";
    cluster.server.set_pod(&pod);

    let attributes = wait_for_attributes(&agent, &container, &[("k8s.container.name", "app")])?;
    for (key, value) in [
        ("k8s.node.name", "node-1"),
        ("k8s.namespace.name", "shop"),
        ("k8s.pod.name", "web-5d8f7c9b4-abcde"),
        ("k8s.pod.uid", &pod.uid),
        ("container.id", &id),
        ("k8s.deployment.name", "web"),
        ("k8s.pod.label.team", "blue"),
        ("podmeter.pod.qos", "Burstable"),
        ("service.namespace", "shop"),
        ("service.name", "web"),
        ("service.instance.id", "shop.web-5d8f7c9b4-abcde.app"),
    ] {
        ensure!(attributes.get(key).is_some_and(|own| own == value), "{key} is {:?}, not {value}", attributes.get(key));
    }
    wait_for_attributes(&agent, pod_cgroup.cgroup(), &[("service.instance.id", "shop.web-5d8f7c9b4-abcde")])?;

    let of = [("k8s.pod.uid", &*pod.uid), ("k8s.container.name", "app")];
    wait_for_value(&agent, "k8s.container.cpu.request.desired", &of, &[], 0.25)?;
    wait_for_value(&agent, "k8s.container.cpu.limit.desired", &of, &[], 0.5)?;
    wait_for_value(&agent, "k8s.container.memory.request.desired", &of, &[], f64::from(64 << 20))?;
    wait_for_value(&agent, "k8s.container.memory.limit.desired", &of, &[], f64::from(128 << 20))?;
    wait_for_value(&agent, "k8s.pod.status.phase", &of[..1], &[("k8s.pod.status.phase", "Running")], 1.0)?;
    wait_for_value(&agent, "k8s.container.ready", &of, &[], 1.0)?;
    wait_for_value(&agent, "k8s.node.cpu.allocatable", &[], &[], 3.8)?;
    wait_for_value(&agent, "podmeter.node.cpu.request", &[], &[], 0.25)?;

    // What is used, and what is reserved and not used, at one moment.
    agent.wait_for("usage beside request", SOON, |exports| {
        let share = newest(exports, "k8s.container.cpu.request.utilization", &of, &[])?;
        let slack = newest(exports, "podmeter.cpu.slack", &of, &[])?;
        let usage = exports
            .of(container.path())
            .iter()
            .rev()
            .find(|point| point.is_of("container.cpu.usage") && point.time_unix_ns == share.time_unix_ns)?;
        let used = number(usage);
        let agree = (number(share) - used / 0.25).abs() < 1e-9 && (number(slack) - (0.25 - used).max(0.0)).abs() < 1e-9;
        (used > 0.05 && used < 0.25 && agree).then_some(())
    })?;

    // Deleted from the API first, as with a short grace period; its final values carry its name.
    load.wait()?;
    cluster.server.delete_pod(&pod);
    agent.wait_for("the pod's figures to end", SOON, |exports| {
        let ready = newest(exports, "k8s.container.ready", &of, &[])?;
        (exports.latest_unix_ns() > ready.time_unix_ns + 1_500_000_000).then_some(())
    })?;
    let truth = container.cpu_stat()?.usage_seconds();
    let (path, pod_path) = (container.path().to_owned(), pod_cgroup.cgroup().path().to_owned());
    container.remove()?;
    drop(pod_cgroup);
    (0..4).try_for_each(|_| agent.catch_up())?;
    let exports = agent.stop()?.exports;
    let last = exports.of(&path).last().context("was exported")?;
    ensure!(last.resource.get("k8s.container.name").is_some_and(|name| name == "app"), "the final values have no name: {last:?}");
    EXACT.check("final CPU time", exports.value(&path, CPU_TIME, &[]).context("no CPU time")?, truth)?;
    // Nothing is exported of what has ended, and no point ever had another pod's name or none.
    for path in [&path, &pod_path] {
        let last = exports.of(path).last().context("was exported")?.time_unix_ns;
        ensure!(exports.latest_unix_ns() > last, "{path} is still exported");
        let named = |point: &&Point| point.resource.get("k8s.pod.name").is_some_and(|name| *name == pod.name);
        ensure!(exports.of(path).iter().all(|point| named(&point)), "a point of {path} had no name");
    }
    Ok(())
}

root_test! {
    fn a_pods_whole_life_under_the_systemd_driver_carries_its_names_requests_and_states() {
        whole_loop(Driver::Systemd)
    }
}

root_test! {
    fn a_pods_whole_life_under_the_cgroupfs_driver_carries_its_names_requests_and_states() {
        whole_loop(Driver::Cgroupfs)
    }
}

root_test! {
    fn pods_are_listed_out_of_the_api_servers_cache_by_node_and_watched_from_there() {
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        let elsewhere = Pod { node: "node-2".to_owned(), ..Pod::new("web-2", vec![Container::started("app")]) };
        cluster.server.set_pod(&elsewhere);
        let running = cluster.run("web-1")?;
        let agent = Agent::start(cluster.server.agent_config()?)?;
        wait_for_attributes(&agent, &running.container, &[("k8s.pod.name", "web-1"), ("k8s.container.name", "app")])?;
        wait_for_value(&agent, "podmeter.agent.kubernetes.objects", &[], &[("resource", "pods")], 1.0)?;
        let requests = cluster.server.requests();
        let of_pods: Vec<&str> = requests.iter().map(|request| &*request.path).filter(|path| path.contains("/pods?")).collect();
        ensure!(of_pods.len() == 2, "a list and a watch: {of_pods:?}");
        ensure!(of_pods.iter().all(|path| path.contains("fieldSelector=spec.nodeName%3Dnode%2D1")), "{of_pods:?}");
        ensure!(of_pods[0].ends_with("resourceVersion=0"), "a list from the cache: {of_pods:?}");
        // Either would have the server copy all pods of the cluster.
        let costly = ["resourceVersion=0&", "sendInitialEvents"].iter().any(|costly| of_pods[1].contains(costly));
        ensure!(of_pods[1].contains("allowWatchBookmarks=true") && !costly, "{of_pods:?}");
        agent.stop().map(drop)
    }
}

root_test! {
    fn an_api_that_is_away_at_the_start_names_what_was_measured_before_it_came() {
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        cluster.server.always(Some(Fault::status(503)));
        let RunningPod { container, cgroup: _cgroup, pod } = cluster.run("web-1")?;
        let agent = Agent::start(cluster.server.agent_config()?)?;
        Load::burn(50 * MS).start(&container)?.wait()?;
        agent.wait_for_log("could not follow pods", SOON)?;
        // No name is known, so after a while it is exported by its UID.
        let ids = [("k8s.pod.uid", &*pod.uid), ("container.id", pod.containers[0].bare_id())];
        let unnamed = wait_for_attributes(&agent, &container, &ids).or_else(|_| wait_for_attributes(&agent, &container, &ids))?;
        ensure!(!unnamed.contains_key("k8s.pod.name"), "where does the name come from? {unnamed:?}");
        cluster.server.always(None);
        agent.wait_for("a name", 6 * SOON, |exports| resource(exports, &container)?.get("k8s.container.name").map(drop))?;
        agent.wait_for_log("are followed at", SOON)?;
        let exports = agent.stop()?.exports;
        let mut named = exports.of(container.path()).iter().filter(|point| {
            point.is_of(CPU_TIME) && point.resource.get("k8s.container.name").is_some_and(|name| name == "app")
        });
        let measured = named.next_back().map(number).context("no CPU time under its name")?;
        EXACT.check("CPU time from before the name was known", measured, container.cpu_stat()?.usage_seconds())
    }
}

root_test! {
    fn a_container_that_dies_before_the_api_reports_it_is_exported_once_by_name() {
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        let agent = Agent::start(cluster.server.agent_config()?)?;
        let id = container_id();
        let mut pod = Pod::new("job-1", vec![Container::new("app", "")]);
        cluster.server.set_pod(&pod);
        let pod_cgroup = cluster.kubelet.pod(&pod.uid)?;
        let container = pod_cgroup.container(&id)?;
        Load::burn(30 * MS).start(&container)?.wait()?;
        let (path, truth) = (container.path().to_owned(), container.cpu_stat()?.usage_seconds());
        container.remove()?;
        // It has been dead and retired for three exports when kubelet's report comes.
        thread::sleep(4 * SECOND);
        agent.look(|exports| ensure_eq(exports.of(&path).len(), 0, "points under no name"))?;
        pod.containers[0].id = format!("containerd://{id}");
        pod.containers[0].complete();
        cluster.server.set_pod(&pod);
        agent.wait_for("its final values", SOON, |exports| exports.value(&path, CPU_TIME, &[]))?;
        (0..2).try_for_each(|_| agent.catch_up())?;
        let exports = agent.stop()?.exports;
        let values = exports.history(&path, CPU_TIME);
        ensure_eq(values.len(), 2, "exports of its CPU time: its start and its end")?;
        ensure_eq(values[0].1, 0.0, "CPU time at its start")?;
        let names = exports.of(&path).iter().all(|point| point.resource.get("k8s.container.name").is_some_and(|name| name == "app"));
        ensure!(names, "its final values have another name");
        EXACT.check("CPU time", values[1].1, truth)
    }
}

root_test! {
    fn three_hundred_finished_pods_are_exported_once_each_and_never_more_than_a_hundred_at_a_time() {
        const PODS: usize = 300;
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        let mut pods: Vec<Pod> = (0..PODS).map(|n| Pod::new(&format!("job-{n}"), vec![Container::started("app")])).collect();
        pods.iter().for_each(|pod| cluster.server.set_pod(pod));
        let agent = Agent::start(cluster.server.agent_config()?)?;
        wait_for_value(&agent, "podmeter.agent.kubernetes.objects", &[], &[("resource", "pods")], PODS as f64)?;
        wait_for_value(&agent, "podmeter.agent.kubernetes.left_out", &[], &[], 0.0)?;
        // All end in one moment, as their conditions say days ago; one is deleted at once.
        for pod in &mut pods {
            pod.phase = "Succeeded";
            pod.containers[0].state = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
            cluster.server.set_pod(pod);
        }
        cluster.server.delete_pod(&pods[0]);
        wait_for_value(&agent, "podmeter.agent.kubernetes.left_out", &[], &[], (PODS - 1) as f64)?;
        // Each final state has left by then, once, and nothing more does.
        (0..3).try_for_each(|_| agent.catch_up())?;
        let exports = agent.stop()?.exports;
        let is_final = |point: &&Point| {
            &*point.metric == "k8s.pod.status.phase"
                && point.attributes.get("k8s.pod.status.phase").is_some_and(|phase| phase == "Succeeded")
        };
        let (mut by_pod, mut by_export) = (HashMap::new(), HashMap::new());
        for point in exports.of_node().iter().filter(is_final) {
            ensure!(number(point) == 1.0, "{point:?}");
            *by_pod.entry(point.resource.get("k8s.pod.uid").cloned()).or_insert(0) += 1;
            *by_export.entry(point.time_unix_ns).or_insert(0) += 1;
        }
        ensure_eq(by_pod.len(), PODS, "pods whose end was exported")?;
        ensure!(by_pod.values().all(|times| *times == 1), "more than once: {by_pod:?}");
        ensure!(by_export.values().all(|pods| *pods <= 100), "in one export: {by_export:?}");
        Ok(())
    }
}

fn ensure_eq<T: PartialEq + std::fmt::Debug>(found: T, wanted: T, what: &str) -> Result<()> {
    ensure!(found == wanted, "{what}: {found:?}, not {wanted:?}");
    Ok(())
}
