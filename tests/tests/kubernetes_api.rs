//! The Kubernetes API in trouble: what the agent requests, logs and exports, against the faults that a fake server was given.

use std::{collections::BTreeMap, thread, time::Instant};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    SECOND,
    agent::{Agent, As, config_file},
    http,
    kubernetes::{
        ApiOptions, ApiServer, Cluster, Container, Driver, Fault, Pod, RunningPod,
        exported::{SOON, wait_for_attributes, wait_for_value},
        objects,
    },
    otlp::Value,
    root_test,
};
use serde_json::json;

fn wait_for_name(agent: &Agent, running: &RunningPod) -> Result<()> {
    wait_for_attributes(agent, &running.container, &[("k8s.pod.name", &running.pod.name)]).map(drop)
}

/// Requests for pods so far.
fn pod_requests(server: &ApiServer) -> Vec<(String, Instant)> {
    server
        .requests()
        .into_iter()
        .filter(|request| request.path.contains("/pods?"))
        .map(|request| (request.path, request.at))
        .collect()
}

root_test! {
    fn a_watch_that_breaks_goes_on_where_it_was_and_one_that_is_too_old_begins_anew() {
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        let first = cluster.run("web-1")?;
        let agent = Agent::start(cluster.server.agent_config()?)?;
        wait_for_name(&agent, &first)?;
        for (well, name) in [(true, "web-2"), (false, "web-3")] {
            cluster.server.close_watches(well);
            let next = cluster.run(name)?;
            wait_for_name(&agent, &next)?;
            cluster.server.delete_pod(&next.pod);
        }
        let lists = |server: &ApiServer| pod_requests(server).iter().filter(|(path, _)| !path.contains("watch=1")).count();
        ensure!(lists(&cluster.server) == 1, "a watch that broke was not resumed: {:?}", pod_requests(&cluster.server));

        // What happened meanwhile is forgotten there: a pod went and another came.
        cluster.server.always(Some(Fault::status(500)));
        cluster.server.close_watches(false);
        cluster.server.delete_pod(&first.pod);
        let fourth = cluster.run("web-4")?;
        cluster.server.compact();
        cluster.server.always(None);
        wait_for_name(&agent, &fourth)?;
        // While the server answered 500 only the watch was tried again.
        ensure!(lists(&cluster.server) == 2, "410 leads to a new list: {:?}", pod_requests(&cluster.server));
        wait_for_value(&agent, "podmeter.agent.kubernetes.objects", &[], &[("resource", "pods")], 1.0)?;
        wait_for_value(&agent, "podmeter.agent.kubernetes.objects", &[], &[("resource", "pods.deleted")], 3.0)?;
        wait_for_value(&agent, "podmeter.agent.kubernetes.current", &[], &[("resource", "pods")], 1.0)?;
        agent.stop().map(drop)
    }
}

root_test! {
    fn a_token_that_has_expired_is_read_again_at_once() {
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        let agent = Agent::start(cluster.server.agent_config()?)?;
        let first = cluster.run("web-1")?;
        wait_for_name(&agent, &first)?;
        // kubelet writes the new token well before the old one expires; watches that are open last.
        cluster.server.accept_token("second-token");
        cluster.server.write_token("second-token")?;
        let before = cluster.server.requests().len();
        cluster.server.close_watches(true);
        cluster.server.wait_until("both send requests again, with the old token", |server| server.requests().len() >= before + 2)?;
        let next = cluster.run("web-2")?;
        let began = Instant::now();
        wait_for_name(&agent, &next)?;
        // kube alone reads the file again after a minute.
        ensure!(began.elapsed() < 15 * SECOND, "it took {:?}", began.elapsed());
        let requests = cluster.server.requests();
        let last = requests.iter().rfind(|request| request.path.contains("/pods?")).context("no request for pods")?;
        ensure!(last.authorization.as_deref() == Some("Bearer second-token"), "{last:?}");
        agent.stop().map(drop)
    }
}

root_test! {
    fn what_is_not_allowed_is_logged_once_with_the_verb_and_the_resource() {
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        cluster.server.always(Some(Fault::status(403)));
        let running = cluster.run("web-1")?;
        let agent = Agent::start(cluster.server.agent_config()?)?;
        agent.wait_for_log("cannot list resource \"pods\"", SOON)?;
        agent.wait_for_log("needs the verbs list and watch on pods", SOON)?;
        cluster.server.wait_until("more attempts", |server| pod_requests(server).len() >= 4)?;
        let times = agent.stderr().matches("could not follow pods").count();
        ensure!(times == 1, "logged {times} times");
        // The rights are granted.
        cluster.server.always(None);
        agent.wait_for("a name", 4 * SOON, |exports| {
            exports.of(running.container.path()).last()?.resource.get("k8s.pod.name").map(drop)
        })?;
        wait_for_value(&agent, "podmeter.agent.kubernetes.current", &[], &[("resource", "pods")], 1.0)?;
        agent.stop().map(drop)
    }
}

root_test! {
    fn a_server_that_answers_429_gets_no_request_for_as_long_as_it_says() {
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        let running = cluster.run("web-1")?;
        // The first request of pods and of the node each.
        cluster.server.next(2, Fault::Status { code: 429, retry_after: Some(3) });
        let agent = Agent::start(cluster.server.agent_config()?)?;
        wait_for_name(&agent, &running)?;
        let requests = pod_requests(&cluster.server);
        let waited = requests[1].1 - requests[0].1;
        ensure!((3 * SECOND..5 * SECOND).contains(&waited), "requested again after {waited:?}");
        wait_for_value(&agent, "podmeter.agent.kubernetes.errors", &[], &[("error.type", "throttled")], 2.0)?;
        agent.stop().map(drop)
    }
}

root_test! {
    fn lists_are_delayed_so_that_the_agents_of_a_cluster_do_not_send_requests_at_once() {
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        cluster.server.set("namespaces", objects::namespace("shop", json!({"team": "red"})));
        let mut config = cluster.server.agent_config()?;
        config["kubernetes"]["spread"] = json!("6s");
        config["kubernetes"]["namespace_labels"] = json!("team");
        let running = cluster.run("web-1")?;
        // The chance that three lists of three starts are all within half a second is one in millions.
        let mut waits = Vec::new();
        for _ in 0..3 {
            let (began, before) = (Instant::now(), cluster.server.requests().len());
            let agent = Agent::start(config.clone())?;
            // Nothing goes out without its name because its list was late.
            let attributes = wait_for_attributes(&agent, &running.container, &[("k8s.pod.name", "web-1")])?;
            ensure!(attributes.contains_key("k8s.container.name"), "{attributes:?}");
            cluster.server.wait_until("three lists", |server| server.requests()[before..].iter().filter(|request| !request.path.contains("watch=1")).count() >= 3)?;
            let requests = cluster.server.requests();
            waits.extend(requests[before..].iter().filter(|request| !request.path.contains("watch=1")).map(|request| request.at - began));
            let exports = agent.stop()?.exports;
            ensure!(exports.of(running.container.path()).iter().all(|point| point.resource.contains_key("k8s.pod.name")), "a point had no name");
        }
        let (first, last) = (waits.iter().min().context("no list")?, waits.iter().max().context("no list")?);
        println!("requested after {waits:?}");
        ensure!(*last - *first > SECOND / 2 && *last < 12 * SECOND, "requested after {waits:?}");
        Ok(())
    }
}

root_test! {
    fn requests_whose_answers_are_slow_broken_or_no_json_are_repeated() {
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        cluster.server.set("nodes", objects::node("node-1", "2", "1Gi"));
        for fault in [Fault::Slow(2 * SECOND), Fault::Cut, Fault::Garbage] {
            cluster.server.next(2, fault);
        }
        let running = cluster.run("web-1")?;
        let agent = Agent::start(cluster.server.agent_config()?)?;
        agent.wait_for("a name", 3 * SOON, |exports| {
            exports.of(running.container.path()).last()?.resource.get("k8s.pod.name").map(drop)
        })?;
        agent.stop()?;
        Ok(())
    }
}

root_test! {
    fn each_request_is_counted_by_how_it_ended_and_how_long_its_response_took() {
        const DURATION: &str = "podmeter.kubernetes.request.duration";
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        cluster.server.next(1, Fault::status(503));
        cluster.server.next(2, Fault::Slow(2 * SECOND));
        let running = cluster.run("web-1")?;
        let agent = Agent::start(cluster.server.agent_config()?)?;
        agent.wait_for("a name", 3 * SOON, |exports| {
            exports.of(running.container.path()).last()?.resource.get("k8s.pod.name").map(drop)
        })?;
        // Pods and the node are listed and watched, and one request failed.
        agent.wait_for("all requests", SOON, |exports| {
            let all = exports.of_node().iter().rfind(|point| point.is_of("podmeter.agent.kubernetes.requests"))?;
            (all.number()? >= 5.0).then_some(())
        })?;
        agent.catch_up()?;
        let sent = cluster.server.requests().len();
        let exports = agent.stop()?.exports;
        let mut last = BTreeMap::new();
        for point in exports.of_node().iter().filter(|point| point.is_of(DURATION)) {
            if let Value::Histogram(histogram) = &point.value {
                last.insert(point.attributes.clone(), histogram.clone());
            }
        }
        let count = |key: &str, value: &str| -> u64 {
            last.iter().filter(|(own, _)| own.get(key).is_some_and(|own| own == value)).map(|(_, histogram)| histogram.count).sum()
        };
        ensure!(count("http.response.status_code", "503") == 1, "{last:?}");
        ensure!(count("http.response.status_code", "200") == sent as u64 - 1, "{sent} requests: {last:?}");
        ensure!(count("verb", "list") + count("verb", "watch") == sent as u64, "{sent} requests: {last:?}");
        // Two waited for two seconds, no other did.
        let sum: f64 = last.values().map(|histogram| histogram.sum).sum();
        ensure!((4.0..5.0).contains(&sum), "{sum} s: {last:?}");
        Ok(())
    }
}

root_test! {
    fn an_object_that_cannot_be_read_is_counted_and_the_others_are_not_lost() {
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        let broken = |name: &str| json!({"metadata": {"name": name, "uid": objects::uid(), "namespace": "shop"},
            "spec": {"nodeName": "node-1", "containers": 5}});
        cluster.server.set("pods", broken("broken-1"));
        let listed = cluster.run("web-1")?;
        let agent = Agent::start(cluster.server.agent_config()?)?;
        wait_for_name(&agent, &listed)?;
        cluster.server.set("pods", broken("broken-2"));
        // Nonsense where a quantity should be takes nothing but that quantity.
        let resources = json!({"cpu": "a lot", "memory": "64Mi"});
        let odd = Pod::new("odd", vec![Container::started("app").with_resources(resources, json!({}))]);
        cluster.server.set_pod(&odd);
        let of = [("k8s.pod.name", "odd"), ("k8s.container.name", "app")];
        wait_for_value(&agent, "k8s.container.memory.request.desired", &of, &[], f64::from(64 << 20))?;
        wait_for_value(&agent, "podmeter.agent.kubernetes.malformed", &[], &[], 2.0)?;
        let exports = agent.stop()?.exports;
        ensure!(exports.of_node().iter().all(|point| {
            &*point.metric != "k8s.container.cpu.request.desired"
        }), "a request that cannot be parsed was exported");
        Ok(())
    }
}

root_test! {
    fn while_the_api_is_away_what_is_known_is_used() {
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        let running = cluster.run("web-1")?;
        let agent = Agent::start(cluster.server.agent_config()?)?;
        wait_for_name(&agent, &running)?;
        cluster.server.always(Some(Fault::status(500)));
        cluster.server.close_watches(false);
        wait_for_value(&agent, "podmeter.agent.kubernetes.current", &[], &[("resource", "pods")], 0.0)?;
        let unlabelled = cluster.run("web-2")?;
        thread::sleep(3 * SECOND);
        agent.catch_up()?;
        wait_for_name(&agent, &running)?;
        wait_for_value(&agent, "podmeter.agent.kubernetes.unlabelled", &[], &[], 2.0)?;
        let ended = agent.stop()?;
        let times = ended.stderr.matches("500 Internal Server Error").count();
        ensure!(times == 2, "of pods and of the node, once each, not {times} times: {}", ended.stderr);
        let exports = ended.exports;
        let last = exports.of(unlabelled.container.path()).last().context("the last export waits for no name")?;
        ensure!(!last.resource.contains_key("k8s.pod.name") && last.resource.contains_key("k8s.pod.uid"), "{last:?}");
        Ok(())
    }
}

root_test! {
    fn an_api_server_that_is_down_is_logged_once_for_each_kind_of_objects_and_by_no_other_part() {
        let mut cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        let running = cluster.run("web-1")?;
        let agent = Agent::start(cluster.server.agent_config()?)?;
        wait_for_name(&agent, &running)?;
        let before = agent.stderr().len();
        cluster.server.end();
        // Of pods and of the node each: at once, and after about 0.5, 1, 2, 4 and 8 s.
        agent.wait_for("ten attempts", 60 * SECOND, |exports| {
            let failed = exports.node_value("podmeter.agent.kubernetes.errors", &[("error.type", "connection")])?;
            (failed >= 10.0).then_some(())
        })?;
        let log = agent.stderr()[before..].to_owned();
        let lines = |level: &str| log.lines().filter(|line| line.contains(&format!(" {level} "))).count();
        ensure!((lines("ERROR"), lines("WARN")) == (0, 2), "{log}");
        for kind in ["pods", "nodes"] {
            ensure!(log.matches(&format!("could not follow {kind} at")).count() == 1, "{log}");
        }
        agent.stop().map(drop)
    }
}

root_test! {
    fn labels_of_namespaces_are_watched_when_they_are_wanted_and_only_then() {
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        cluster.server.set("namespaces", objects::namespace("shop", json!({"team": "red", "kubernetes.io/metadata.name": "shop"})));
        let running = cluster.run("web-1")?;
        let agent = Agent::start(cluster.server.agent_config()?)?;
        let attributes = wait_for_attributes(&agent, &running.container, &[("k8s.pod.label.team", "blue")])?;
        ensure!(!attributes.contains_key("k8s.namespace.label.team"), "{attributes:?}");
        agent.stop()?;
        ensure!(!cluster.server.requests().iter().any(|request| request.path.contains("namespaces")), "namespaces were requested");

        let mut config = cluster.server.agent_config()?;
        config["kubernetes"]["namespace_labels"] = json!("team");
        let agent = Agent::start(config)?;
        wait_for_attributes(&agent, &running.container, &[("k8s.namespace.label.team", "red")])?;
        let requests = cluster.server.requests();
        let of_namespaces = requests.iter().find(|request| request.path.contains("namespaces")).context("no request for namespaces")?;
        ensure!(of_namespaces.accept.as_ref().is_some_and(|accept| accept.contains("PartialObjectMetadata")), "{of_namespaces:?}");
        cluster.server.set("namespaces", objects::namespace("shop", json!({"team": "green"})));
        wait_for_attributes(&agent, &running.container, &[("k8s.namespace.label.team", "green")])?;
        agent.stop().map(drop)
    }
}

root_test! {
    fn the_kubelets_own_list_names_pods_too() {
        let cluster = Cluster::new(Driver::Cgroupfs, ApiOptions::default())?;
        let first = cluster.run("web-1")?;
        cluster.server.next(1, Fault::status(503));
        let config = json!({"node_name": "node-1", "kubernetes": {
            "source": "kubelet", "kubelet_url": cluster.server.url(), "kubelet_ca": cluster.server.ca(),
            "kubelet_token": cluster.server.token_file(), "kubelet_interval": "1s", "labels": "team",
        }});
        let agent = Agent::start(config)?;
        wait_for_attributes(&agent, &first.container, &[("k8s.pod.name", "web-1"), ("k8s.pod.label.team", "blue")])?;
        cluster.server.accept_token("second-token");
        cluster.server.write_token("second-token")?;
        let second = cluster.run("web-2")?;
        wait_for_name(&agent, &second)?;
        cluster.server.delete_pod(&first.pod);
        wait_for_value(&agent, "podmeter.agent.kubernetes.objects", &[], &[("resource", "pods")], 1.0)?;
        wait_for_value(&agent, "podmeter.agent.kubernetes.errors", &[], &[("error.type", "status")], 1.0)?;
        wait_for_value(&agent, "podmeter.agent.kubernetes.errors", &[], &[("error.type", "unauthorized")], 1.0)?;
        ensure!(cluster.server.requests().iter().all(|request| request.path == "/pods"), "the API server got a request");
        agent.stop().map(drop)
    }
}

root_test! {
    fn a_pod_needs_no_configuration_to_follow_its_cluster() {
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        let Some(_account) = cluster.server.service_account()? else {
            eprintln!("SKIPPED {TEST}: there is a service account here already");
            return Ok(());
        };
        let running = cluster.run("web-1")?;
        let (host, port) = (cluster.server.address().ip().to_string(), cluster.server.address().port().to_string());
        let environment =
            [("KUBERNETES_SERVICE_HOST", &*host), ("KUBERNETES_SERVICE_PORT", &*port), ("NODE_NAME", "node-1")];
        let agent = Agent::spawn_in(json!({"kubernetes": {"spread": "0s"}}), &environment)?;
        wait_for_attributes(&agent, &running.container, &[("k8s.pod.name", "web-1"), ("k8s.node.name", "node-1")])?;
        agent.stop().map(drop)
    }
}

root_test! {
    fn a_kubeconfig_that_cannot_be_used_ends_the_agent_at_once_and_says_why() {
        let file = config_file(r#"{"apiVersion": "v1", "kind": "Config"}"#)?;
        let kubeconfig = format!("kubernetes.kubeconfig={}", file.path().display());
        let output = podmeter_tests::agent::run(&["run", "--set", &kubeconfig, "--set", "bpf.pin=false"], As::Root, 5 * SECOND)?;
        ensure!(output.code == Some(2), "{output:?}");
        ensure!(output.stderr.contains("could not use the kubeconfig"), "{output:?}");
        Ok(())
    }
}

root_test! {
    fn top_says_why_pods_have_no_names_and_does_not_wait_for_a_server_that_is_not_there() {
        let api = http::free_address()?;
        let kubeconfig = config_file(&json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{api}")}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }).to_string())?;
        let config = json!({"node_name": "node-1", "kubernetes": {"kubeconfig": kubeconfig.path()}}).to_string();
        let config = config_file(&config)?;
        let path = config.path().display().to_string();
        let args = ["top", "--once", "--interval", "100ms", "--config", &path];
        let output = podmeter_tests::agent::run(&args, As::Root, 15 * SECOND)?;
        ensure!(output.code == Some(0) && output.stdout.contains("NAME"), "{output:?}");
        let why = format!("podmeter: pod names are not available: could not follow pods at http://{api}/: ");
        ensure!(output.stderr.contains(&why) && output.stderr.contains("refused"), "{output:?}");
        Ok(())
    }
}

root_test! {
    fn a_real_clusters_pods_can_be_followed() {
        let (Some(kubeconfig), Some(node)) = (std::env::var_os("KUBECONFIG"), std::env::var_os("NODE_NAME")) else {
            eprintln!("SKIPPED {TEST}: needs KUBECONFIG and NODE_NAME, a node of that cluster");
            return Ok(());
        };
        let config = json!({"node_name": node.to_string_lossy(), "kubernetes": {"kubeconfig": kubeconfig.to_string_lossy(), "spread": "0s"}});
        let agent = Agent::start(config)?;
        wait_for_value(&agent, "podmeter.agent.kubernetes.current", &[], &[("resource", "pods")], 1.0)?;
        wait_for_value(&agent, "podmeter.agent.kubernetes.current", &[], &[("resource", "nodes")], 1.0)?;
        wait_for_value(&agent, "podmeter.agent.kubernetes.malformed", &[], &[], 0.0)?;
        agent.wait_for("the node's allocatable CPUs", SOON, |exports| exports.node_value("k8s.node.cpu.allocatable", &[]))?;
        agent.stop().map(drop)
    }
}
