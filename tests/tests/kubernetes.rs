//! Kubernetes: cgroups carry the names of their pods and containers, whatever the API server does.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    agent::Agent,
    cgroup::Cgroup,
    kubernetes::{
        Fault, Options, Server,
        objects::{self, Container, Pod, container_id},
        tree::{Driver, Kubelet},
    },
    load::Load,
    metric::CPU_TIME,
    otlp::{Attributes, Exports, Point, Value},
    root_test,
    truth::Tolerance,
};
use serde_json::json;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// CPU time of a cgroup whose tasks have all ended.
const EXACT: Tolerance = Tolerance::new(0.002, 0.0001);

/// The agent asks for the first time within 2 s, and an export comes every second.
const SOON: Duration = Duration::from_secs(10);

/// The resource of a cgroup's newest points.
fn resource<'a>(exports: &'a Exports, cgroup: &Cgroup) -> Option<&'a Attributes> {
    exports.of(cgroup.path()).last().map(|point| &*point.resource)
}

/// Waits until a cgroup is exported with these attributes.
fn wait_for_attributes(agent: &Agent, cgroup: &Cgroup, wanted: &[(&str, &str)]) -> Result<Attributes> {
    agent.wait_for(&format!("{wanted:?} on {}", cgroup.path()), SOON, |exports| {
        let resource = resource(exports, cgroup)?;
        wanted.iter().all(|(key, value)| resource.get(*key).is_some_and(|own| own == value)).then(|| resource.clone())
    })
}

/// The newest point of a metric whose resource has these attributes, of those that are about no cgroup.
fn told<'a>(exports: &'a Exports, metric: &str, of: &[(&str, &str)], attributes: &[(&str, &str)]) -> Option<&'a Point> {
    let has = |all: &Attributes, wanted: &[(&str, &str)]| {
        wanted.iter().all(|(key, value)| all.get(*key).is_some_and(|own| own == value))
    };
    let is = |point: &&Point| &*point.metric == metric && has(&point.resource, of) && has(&point.attributes, attributes);
    exports.of_node().iter().rev().find(is)
}

/// Waits until that point has this value, to a thousandth of it.
fn wait_for_value(agent: &Agent, metric: &str, of: &[(&str, &str)], attributes: &[(&str, &str)], wanted: f64) -> Result<()> {
    let mut last = None;
    let waited = agent.wait_for(&format!("{metric} {attributes:?} of {of:?} to be {wanted}"), SOON, |exports| {
        last = told(exports, metric, of, attributes).map(number);
        last.is_some_and(|value| (value - wanted).abs() <= wanted.abs() / 1000.0).then_some(())
    });
    waited.with_context(|| format!("the last value was {last:?}"))
}

fn number(point: &Point) -> f64 {
    match &point.value {
        Value::Number(number) => *number,
        Value::Histogram(_) => f64::NAN,
    }
}

/// One pod with one container on a server, with a cgroup each.
struct World {
    server: Server,
    kubelet: Kubelet,
}

impl World {
    fn new(driver: Driver, options: Options) -> Result<Self> {
        let server = Server::start(options)?;
        server.set("nodes", objects::node("node-1", "3800m", "14Gi"));
        Ok(Self { server, kubelet: Kubelet::new(driver)? })
    }
}

/// The whole life of a pod under this driver.
fn whole_loop(driver: Driver) -> Result<()> {
    let world = World::new(driver, Options::default())?;
    let agent = Agent::start(world.server.agent_config()?)?;

    // kubelet has the pod before it makes cgroups, and tells of the container after it has started it.
    let id = container_id();
    let requests = (json!({"cpu": "250m", "memory": "64Mi"}), json!({"cpu": "500m", "memory": "128Mi"}));
    let mut pod = Pod::new("web-5d8f7c9b4-abcde", vec![Container::new("app", "").with_resources(requests.0, requests.1)]);
    pod.phase = "Pending";
    world.server.set_pod(&pod);
    let pod_cgroup = world.kubelet.pod(&pod.uid)?;
    let container = pod_cgroup.container(&id)?;
    let load = Load::duty_cycle(20 * MS, 200 * MS, 6 * SECOND).start(&container)?;
    let started = Container::new("app", &id);
    pod.containers[0] = Container { resources: pod.containers[0].resources.clone(), ..started };
    pod.phase = "Running";
    world.server.set_pod(&pod);

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
        let share = told(exports, "k8s.container.cpu.request.utilization", &of, &[])?;
        let slack = told(exports, "podmeter.cpu.slack", &of, &[])?;
        let usage = exports
            .of(container.path())
            .iter()
            .rev()
            .find(|point| &*point.metric == "container.cpu.usage" && point.time_unix_ns == share.time_unix_ns)?;
        let used = number(usage);
        let agree = (number(share) - used / 0.25).abs() < 1e-9 && (number(slack) - (0.25 - used).max(0.0)).abs() < 1e-9;
        (used > 0.05 && used < 0.25 && agree).then_some(())
    })?;

    // Deleted from the API first, as with a short grace period; its last words carry its name.
    load.wait()?;
    world.server.delete_pod(&pod);
    agent.wait_for("the pod's figures to end", SOON, |exports| {
        let ready = told(exports, "k8s.container.ready", &of, &[])?;
        (exports.latest_unix_ns() > ready.time_unix_ns + 1_500_000_000).then_some(())
    })?;
    let truth = container.cpu_stat()?.usage_seconds();
    let (path, pod_path) = (container.path().to_owned(), pod_cgroup.cgroup().path().to_owned());
    container.remove()?;
    drop(pod_cgroup);
    (0..4).try_for_each(|_| agent.catch_up())?;
    let exports = agent.stop()?.exports;
    let last = exports.of(&path).last().context("was exported")?;
    ensure!(last.resource.get("k8s.container.name").is_some_and(|name| name == "app"), "the last words have no name: {last:?}");
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
    fn a_server_without_watch_lists_is_listed_from_its_cache_and_watched_by_node() {
        let world = World::new(Driver::Systemd, Options { watch_list: false, ..Options::default() })?;
        let id = container_id();
        let pod = Pod::new("web-1", vec![Container::new("app", &id)]);
        let elsewhere = Pod { node: "node-2".to_owned(), ..Pod::new("web-2", vec![Container::new("app", &container_id())]) };
        world.server.set_pod(&pod);
        world.server.set_pod(&elsewhere);
        let pod_cgroup = world.kubelet.pod(&pod.uid)?;
        let container = pod_cgroup.container(&id)?;
        let agent = Agent::start(world.server.agent_config()?)?;
        wait_for_attributes(&agent, &container, &[("k8s.pod.name", "web-1"), ("k8s.container.name", "app")])?;
        wait_for_value(&agent, "podmeter.agent.kubernetes.objects", &[], &[("resource", "pods")], 1.0)?;
        let asked = world.server.asked();
        let of_pods: Vec<&str> = asked.iter().map(|asked| &*asked.path).filter(|path| path.contains("/pods?")).collect();
        ensure!(of_pods.len() == 3, "a refused watch, a list and a watch: {of_pods:?}");
        ensure!(of_pods.iter().all(|path| path.contains("fieldSelector=spec.nodeName%3Dnode%2D1")), "{of_pods:?}");
        ensure!(of_pods[1].ends_with("resourceVersion=0"), "a list from the cache: {of_pods:?}");
        ensure!(of_pods[2].contains("allowWatchBookmarks=true") && !of_pods[2].contains("resourceVersion=0&"), "{of_pods:?}");
        agent.stop().map(drop)
    }
}

root_test! {
    fn an_api_that_is_away_at_the_start_names_what_was_measured_before_it_came() {
        let world = World::new(Driver::Systemd, Options::default())?;
        world.server.always(Some(Fault::status(503)));
        let id = container_id();
        let pod = Pod::new("web-1", vec![Container::new("app", &id)]);
        world.server.set_pod(&pod);
        let pod_cgroup = world.kubelet.pod(&pod.uid)?;
        let container = pod_cgroup.container(&id)?;
        let agent = Agent::start(world.server.agent_config()?)?;
        let load = Load::burn(50 * MS).start(&container)?;
        load.wait()?;
        agent.wait_for_log("could not follow pods", SOON)?;
        // Nobody tells a name, so after a while it is exported by its UID.
        let unnamed = wait_for_attributes(&agent, &container, &[("k8s.pod.uid", &pod.uid), ("container.id", &id)]);
        let unnamed = match unnamed {
            Ok(unnamed) => unnamed,
            Err(_) => wait_for_attributes(&agent, &container, &[("k8s.pod.uid", &pod.uid), ("container.id", &id)])?,
        };
        ensure!(!unnamed.contains_key("k8s.pod.name"), "who told? {unnamed:?}");
        world.server.always(None);
        agent.wait_for("a name", 6 * SOON, |exports| resource(exports, &container)?.get("k8s.container.name").map(drop))?;
        agent.wait_for_log("are followed at", SOON)?;
        let exports = agent.stop()?.exports;
        let named = exports.of(container.path()).iter().filter(|point| {
            &*point.metric == CPU_TIME && point.resource.get("k8s.container.name").is_some_and(|name| name == "app")
        });
        let measured = named.last().map(number).context("no CPU time under its name")?;
        EXACT.check("CPU time from before the name was known", measured, container.cpu_stat()?.usage_seconds())
    }
}

root_test! {
    fn a_container_that_dies_before_the_api_tells_of_it_is_exported_once_by_name() {
        let world = World::new(Driver::Systemd, Options::default())?;
        let agent = Agent::start(world.server.agent_config()?)?;
        let id = container_id();
        let mut pod = Pod::new("job-1", vec![Container::new("app", "")]);
        world.server.set_pod(&pod);
        let pod_cgroup = world.kubelet.pod(&pod.uid)?;
        let container = pod_cgroup.container(&id)?;
        Load::burn(30 * MS).start(&container)?.wait()?;
        let (path, truth) = (container.path().to_owned(), container.cpu_stat()?.usage_seconds());
        container.remove()?;
        // It has been dead and buried for three exports when kubelet's report comes.
        thread::sleep(4 * SECOND);
        agent.look(|exports| ensure_eq(exports.of(&path).len(), 0, "points under no name"))?;
        pod.containers[0].id = format!("containerd://{id}");
        pod.containers[0].state = json!({"terminated": {"exitCode": 0, "reason": "Completed", "containerID": format!("containerd://{id}")}});
        world.server.set_pod(&pod);
        agent.wait_for("its last words", SOON, |exports| exports.value(&path, CPU_TIME, &[]))?;
        (0..2).try_for_each(|_| agent.catch_up())?;
        let exports = agent.stop()?.exports;
        let values = exports.history(&path, CPU_TIME);
        ensure_eq(values.len(), 1, "exports of its CPU time")?;
        let names = exports.of(&path).iter().all(|point| point.resource.get("k8s.container.name").is_some_and(|name| name == "app"));
        ensure!(names, "its last words have another name");
        EXACT.check("CPU time", values[0].1, truth)
    }
}

fn ensure_eq<T: PartialEq + std::fmt::Debug>(found: T, wanted: T, what: &str) -> Result<()> {
    ensure!(found == wanted, "{what}: {found:?}, not {wanted:?}");
    Ok(())
}
