//! Containers of every kind, started again and resized, against the objects of a fake API server and `cpu.stat`.

use anyhow::{Context as _, ensure};
use podmeter_tests::{
    MS,
    agent::Agent,
    kubernetes::{
        ApiOptions, Cluster, Container, Driver, Pod, RunningPod,
        exported::{SOON, newest, number, wait_for_attributes, wait_for_value},
        objects::container_id,
    },
    load::Load,
    metric::CPU_TIME,
    otlp::{Attributes, Point},
    root_test,
    truth::EXACT,
};
use serde_json::json;

root_test! {
    fn containers_of_every_kind_and_the_sandbox_are_named_by_their_kind() {
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        let agent = Agent::start(cluster.server.agent_config()?)?;
        let [sandbox, init, sidecar, app, debugger] = std::array::from_fn(|_| container_id());
        let mut pod = Pod::new("web-1", Vec::new());
        let pod_cgroup = cluster.kubelet.pod(&pod.uid)?;
        // In the order in which kubelet makes them.
        let pause = pod_cgroup.container(&sandbox)?;
        let cgroups = [&init, &sidecar, &app, &debugger].map(|id| pod_cgroup.container(id));
        let [init_cgroup, sidecar_cgroup, app_cgroup, debugger_cgroup] = cgroups;
        pod.containers = vec![
            Container {
                list: "initContainers",
                state: json!({"terminated": {"exitCode": 0, "reason": "Completed", "containerID": format!("containerd://{init}")}}),
                ..Container::new("prepare", &init)
            },
            Container { list: "initContainers", sidecar: true, ..Container::new("proxy", &sidecar) },
            Container::new("app", &app),
            Container { list: "ephemeralContainers", ..Container::new("debugger-x7k2p", &debugger) },
        ];
        cluster.server.set_pod(&pod);
        for (cgroup, name, kind) in [
            (init_cgroup?, "prepare", "init"),
            (sidecar_cgroup?, "proxy", "sidecar"),
            (app_cgroup?, "app", "container"),
            (debugger_cgroup?, "debugger-x7k2p", "ephemeral"),
        ] {
            wait_for_attributes(&agent, &cgroup, &[("k8s.container.name", name), ("podmeter.container.type", kind)])?;
        }
        let attributes = wait_for_attributes(&agent, &pause, &[("podmeter.container.type", "sandbox"), ("k8s.pod.name", "web-1")])?;
        ensure!(!attributes.contains_key("k8s.container.name"), "the sandbox is no container: {attributes:?}");
        let own = wait_for_attributes(&agent, pod_cgroup.cgroup(), &[("k8s.pod.name", "web-1")])?;
        ensure!(!own.contains_key("podmeter.container.type") && !own.contains_key("container.id"), "{own:?}");
        let of = [("k8s.container.name", "prepare")];
        wait_for_value(&agent, "k8s.container.status.reason", &of, &[("k8s.container.status.reason", "Completed")], 1.0)?;
        agent.stop().map(drop)
    }
}

root_test! {
    fn a_static_pod_is_found_by_the_hash_that_its_cgroups_have() {
        let cluster = Cluster::new(Driver::Cgroupfs, ApiOptions::default())?;
        let (hash, id) = ("0123456789abcdef0123456789abcdef", container_id());
        let mut pod = Pod::new("etcd-node-1", vec![Container::new("etcd", &id)]);
        pod.namespace = "kube-system".to_owned();
        pod.owner = Some(("Node".to_owned(), "node-1".to_owned()));
        pod.spec = json!({"hostNetwork": true, "priorityClassName": "system-node-critical"});
        pod.annotations = json!({"kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash,
            "kubernetes.io/config.source": "file", "kubernetes.io/config.seen": "2026-11-25T00:00:00Z"});
        cluster.server.set_pod(&pod);
        let pod_cgroup = cluster.kubelet.pod(hash)?;
        let container = pod_cgroup.container(&id)?;
        let agent = Agent::start(cluster.server.agent_config()?)?;
        wait_for_attributes(&agent, &container, &[
            ("k8s.container.name", "etcd"), ("k8s.pod.uid", &pod.uid), ("service.name", "etcd-node-1"),
            ("podmeter.pod.priority_class", "system-node-critical"),
        ])?;
        agent.stop().map(drop)
    }
}

root_test! {
    fn a_container_that_is_started_again_has_counters_of_its_own_and_one_restart_count() {
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        let agent = Agent::start(cluster.server.agent_config()?)?;
        let (first, second) = (container_id(), container_id());
        let mut pod = Pod::new("web-1", vec![Container::new("app", &first)]);
        let pod_cgroup = cluster.kubelet.pod(&pod.uid)?;
        let before = pod_cgroup.container(&first)?;
        cluster.server.set_pod(&pod);
        Load::burn(40 * MS).start(&before)?.wait()?;
        wait_for_attributes(&agent, &before, &[("k8s.container.name", "app"), ("container.id", &first)])?;
        let (first_path, truth) = (before.path().to_owned(), before.cpu_stat()?.usage_seconds());
        before.remove()?;
        let killed = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "containerID": format!("containerd://{first}")}});
        pod.containers[0].state = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}});
        pod.containers[0].last_state = killed.clone();
        pod.containers[0].ready = false;
        cluster.server.set_pod(&pod);
        let of = [("k8s.pod.uid", &*pod.uid), ("k8s.container.name", "app")];
        let reason = |reason| [("k8s.container.status.reason", reason)];
        wait_for_value(&agent, "k8s.container.status.reason", &of, &reason("CrashLoopBackOff"), 1.0)?;
        wait_for_value(&agent, "podmeter.container.last_terminated", &of, &reason("OOMKilled"), 1.0)?;
        wait_for_value(&agent, "k8s.container.ready", &of, &[], 0.0)?;

        let after = pod_cgroup.container(&second)?;
        Load::burn(10 * MS).start(&after)?.wait()?;
        pod.containers[0] = Container { last_state: killed, restarts: 1, ..Container::new("app", &second) };
        cluster.server.set_pod(&pod);
        wait_for_attributes(&agent, &after, &[("k8s.container.name", "app"), ("container.id", &second)])?;
        wait_for_value(&agent, "k8s.container.restart.count", &of, &[], 1.0)?;
        // The reason that held is seen to end.
        agent.wait_for("the end of the reason", SOON, |exports| {
            let has = |all: &Attributes, (key, value): (&str, &str)| all.get(key).is_some_and(|own| own == value);
            let ends = |point: &Point| {
                &*point.metric == "k8s.container.status.reason"
                    && of.iter().all(|wanted| has(&point.resource, *wanted))
                    && has(&point.attributes, reason("CrashLoopBackOff")[0])
            };
            exports.ended().iter().any(ends).then_some(())
        })?;
        let exports = agent.stop()?.exports;
        EXACT.check("the first one's CPU time", exports.value(&first_path, CPU_TIME, &[]).context("no CPU time")?, truth)?;
        let own = exports.value(after.path(), CPU_TIME, &[]).context("no CPU time of the second")?;
        EXACT.check("the second one's CPU time", own, after.cpu_stat()?.usage_seconds())
    }
}

root_test! {
    fn a_pod_that_is_made_again_under_its_name_is_another_pod() {
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        let agent = Agent::start(cluster.server.agent_config()?)?;
        let mut seen = Vec::new();
        for _ in 0..2 {
            let mut pod = Pod::new("db-0", vec![Container::started("db")]);
            pod.owner = Some(("StatefulSet".to_owned(), "db".to_owned()));
            let RunningPod { container, cgroup: _cgroup, pod } = cluster.run_pod(pod)?;
            Load::burn(20 * MS).start(&container)?.wait()?;
            wait_for_attributes(&agent, &container, &[("k8s.statefulset.name", "db"), ("k8s.pod.name", "db-0")])?;
            seen.push((container.path().to_owned(), pod.uid.clone(), container.cpu_stat()?.usage_seconds()));
            container.remove()?;
            cluster.server.delete_pod(&pod);
        }
        (0..4).try_for_each(|_| agent.catch_up())?;
        let exports = agent.stop()?.exports;
        for (path, uid, truth) in seen {
            let points = exports.of(&path);
            ensure!(points.iter().all(|point| point.resource.get("k8s.pod.uid") == Some(&uid)), "{path} had another pod's UID");
            EXACT.check(&path, exports.value(&path, CPU_TIME, &[]).context("no CPU time")?, truth)?;
        }
        Ok(())
    }
}

root_test! {
    fn requests_in_force_after_a_resize_are_those_of_the_status_and_utilization_follows() {
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        let app = Container::started("app").with_resources(json!({"cpu": "1"}), json!({"cpu": "2"}));
        let current = |cpu: &str| Some(json!({"requests": {"cpu": cpu}, "limits": {"cpu": "2"}}));
        let pod = Pod::new("web-1", vec![Container { current: current("500m"), ..app }]);
        let RunningPod { container, cgroup: _cgroup, mut pod } = cluster.run_pod(pod)?;
        let agent = Agent::start(cluster.server.agent_config()?)?;
        let of = [("k8s.pod.uid", &*pod.uid), ("k8s.container.name", "app")];
        let uid = pod.uid.clone();
        let in_force = |cores: f64| agent.wait_for(&format!("{cores} CPUs in force"), SOON, |exports| {
            (exports.value(container.path(), "k8s.container.cpu.request.current", &[])? == cores).then_some(())
        });
        in_force(0.5)?;
        wait_for_value(&agent, "k8s.container.cpu.request.desired", &of, &[], 1.0)?;
        // It is idle: all that is in force is reserved and not used.
        wait_for_value(&agent, "podmeter.cpu.slack", &of, &[], 0.5)?;
        wait_for_value(&agent, "podmeter.node.cpu.request", &[], &[], 1.0)?;
        pod.containers[0].current = current("1");
        cluster.server.set_pod(&pod);
        in_force(1.0)?;
        wait_for_value(&agent, "podmeter.cpu.slack", &[("k8s.pod.uid", &uid), ("k8s.container.name", "app")], &[], 1.0)?;

        // spec.resources requests for the pod as a whole: the slack is the pod's.
        pod.spec = json!({"resources": {"requests": {"cpu": "3"}}});
        cluster.server.set_pod(&pod);
        wait_for_value(&agent, "podmeter.pod.cpu.request", &of[..1], &[], 3.0)?;
        agent.wait_for("the pod's slack", SOON, |exports| {
            let slack = newest(exports, "podmeter.cpu.slack", &of[..1], &[])?;
            ((number(slack) - 3.0).abs() < 0.01 && !slack.resource.contains_key("k8s.container.name")).then_some(())
        })?;
        agent.stop().map(drop)
    }
}
