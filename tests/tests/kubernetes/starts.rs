//! How pods start and end, by the times that their objects have.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use podmeter_tests::{
    agent::Agent,
    kubernetes::{
        ApiOptions, Cluster, Container, Driver, Pod,
        exported::{SOON, newest, number, wait_for_value},
    },
    otlp::{Exports, Value},
    root_test,
};
use serde_json::{Value as Json, json};

/// A moment as the API writes it.
fn time(at: SystemTime) -> Json {
    humantime::format_rfc3339_seconds(at).to_string().into()
}

/// A condition that has become true.
fn since(kind: &str, at: SystemTime) -> Json {
    json!({"type": kind, "status": "True", "lastTransitionTime": time(at)})
}

/// How many observations a node's histogram has, and their sum.
fn counted(exports: &Exports, metric: &str, attributes: &[(&str, &str)]) -> Option<(u64, f64)> {
    match &newest(exports, metric, &[], attributes)?.value {
        Value::Histogram(histogram) => Some((histogram.count, histogram.sum)),
        _ => None,
    }
}

root_test! {
    fn a_pods_start_and_its_eviction_are_counted_by_its_own_times() {
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        // What was there before the agent is an earlier one's.
        cluster.server.set_pod(&Pod::new("web-0", vec![Container::started("app")]));
        let agent = Agent::start(cluster.server.agent_config()?)?;
        wait_for_value(&agent, "podmeter.agent.kubernetes.objects", &[], &[("resource", "pods")], 1.0)?;

        // Of whole seconds, and later than the agent's start.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock")?.as_secs() + 1;
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(now + seconds);
        let mut pod = Pod::new("web-1", vec![Container::new("app", "")]);
        pod.phase = "Pending";
        pod.metadata = json!({"creationTimestamp": time(at(0))});
        pod.status = json!({"startTime": time(at(2)), "conditions": [since("PodScheduled", at(2))]});
        cluster.server.set_pod(&pod);
        let of_pod = [("k8s.pod.name", "web-1")];
        let waited = agent.wait_for("its time of waiting", SOON, |exports| {
            newest(exports, "podmeter.pod.pending.time", &of_pod, &[]).map(|point| (number(point), point.time_unix_ns)).filter(|(s, _)| *s > 0.0)
        })?;
        ensure!((waited.0 - (waited.1 as f64 / 1e9 - now as f64)).abs() < 0.01, "{waited:?}, created at {now}");

        pod.phase = "Running";
        pod.containers = vec![Container::started("app")];
        pod.containers[0].state = json!({"running": {"startedAt": time(at(9))}});
        let ready = [since("PodScheduled", at(2)), since("Initialized", at(5)), since("ContainersReady", at(10))];
        pod.status = json!({"startTime": time(at(2)), "conditions": ready});
        cluster.server.set_pod(&pod);
        // Sent once more, as with any change of the object.
        pod.labels = json!({"app": "web", "changed": "yes"});
        cluster.server.set_pod(&pod);
        agent.wait_for("its start", SOON, |exports| counted(exports, "podmeter.pod.start.duration", &[("stage", "containers")]))?;
        agent.catch_up()?;
        agent.look(|exports| {
            for (stage, seconds) in [("scheduling", 2.0), ("initialization", 3.0), ("containers", 5.0)] {
                let counted = counted(exports, "podmeter.pod.start.duration", &[("stage", stage)]);
                ensure!(counted == Some((1, seconds)), "{stage}: {counted:?}, not {seconds} s");
            }
            let started = counted(exports, "podmeter.container.start.duration", &[]);
            ensure!(started == Some((1, 4.0)), "its container: {started:?}");
            ensure!(newest(exports, "podmeter.pod.disruptions", &[], &[]).is_none(), "none was disrupted");
            Ok(())
        })?;
        agent.wait_for("its uptime", SOON, |exports| newest(exports, "k8s.pod.uptime", &of_pod, &[]).map(drop))?;

        pod.phase = "Failed";
        let ended = json!({"terminated": {"exitCode": 137, "reason": "Error", "startedAt": time(at(9)), "finishedAt": time(at(30))}});
        pod.containers[0].state = ended;
        let evicted = json!({"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet",
            "lastTransitionTime": time(at(29))});
        pod.status = json!({"startTime": time(at(2)), "reason": "Evicted", "conditions": [evicted]});
        cluster.server.set_pod(&pod);
        wait_for_value(&agent, "podmeter.pod.run.duration", &of_pod, &[], 28.0)?;
        wait_for_value(&agent, "podmeter.pod.disruptions", &[], &[("reason", "TerminationByKubelet")], 1.0)?;
        wait_for_value(&agent, "k8s.pod.status.reason", &of_pod, &[("k8s.pod.status.reason", "Evicted")], 1.0)?;
        agent.stop().map(drop)
    }
}
