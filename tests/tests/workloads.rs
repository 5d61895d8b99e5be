//! Queries that teams run on their workloads, in PromQL on a real back end: use beside request and limit, DNS and packet loss,
//! against what the test imposed on a pod.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    MS, SECOND,
    agent::Agent,
    cgroup::{Cgroup, inside},
    dns,
    kubernetes::{ApiOptions, Cluster, Container, Driver, Pod, RunningPod},
    load::Load,
    namespace::Cable,
    program::{Direction, Program, lose_one_in},
    root_test, tcp,
    truth::EXACT,
    victoria::VictoriaMetrics,
};
use serde_json::json;

/// A pod of one container, of a Deployment.
struct Workload(RunningPod);

impl Workload {
    /// It requests half a CPU and 64 MiB, and may have twice as much.
    fn new(cluster: &Cluster, deployment: &str) -> Result<Self> {
        let resources = (json!({"cpu": "500m", "memory": "64Mi"}), json!({"cpu": "1", "memory": "128Mi"}));
        let app = Container::started("app").with_resources(resources.0, resources.1);
        let mut pod = Pod::new(&format!("{deployment}-5d8f7c9b4-abcde"), vec![app]);
        pod.owner = Some(("ReplicaSet".to_owned(), format!("{deployment}-5d8f7c9b4")));
        cluster.run_pod(pod).map(Self)
    }

    /// Looks names up one after the other; how long each took by the client's clock, the fastest first.
    fn look_up(&self, server: SocketAddr, names: &[(u16, &str)]) -> Result<Vec<f64>> {
        let socket = inside(&self.0.container, || dns::udp(server))?;
        let mut took = Vec::new();
        for (times, name) in names {
            for id in 0..*times {
                took.push(dns::look_up(&socket, id, name)?.as_secs_f64());
            }
        }
        took.sort_by(f64::total_cmp);
        Ok(took)
    }

    /// Sends `pieces` to somebody who loses one in so many of what comes; the share of segments that the kernel sent again.
    fn lose(&self, one_in: Option<i32>, pieces: u32) -> Result<f64> {
        let cable = Cable::new()?;
        let far = Cgroup::new("far-end")?;
        let lossy = |n| Program::attached("lossy", far.dir(), Direction::Ingress, &lose_one_in(n));
        let _lossy = one_in.map(lossy).transpose()?;
        let (address, server) = tcp::server(&far, &cable.far, 1)?;
        let mut stream = tcp::connect(&self.0.container, &cable.near, address)?;
        tcp::send(&mut stream, pieces)?;
        tcp::finish(stream)?;
        ensure!(tcp::joined(server)? == u64::from(pieces) * 1000, "the server did not get every byte");
        let [sent, again] = [cable.near.count("Tcp", "OutSegs")?, cable.near.count("Tcp", "RetransSegs")?];
        Ok(again as f64 / sent as f64)
    }
}

root_test! {
    fn a_containers_use_is_beside_its_request_and_limit_under_its_whole_name() {
        let Some(backend) = VictoriaMetrics::for_test(TEST)? else { return Ok(()) };
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        let shop = Workload::new(&cluster, "shop")?;
        let mut config = cluster.server.agent_config()?;
        config["export"] = backend.exporter();
        config["cluster_name"] = json!("production");
        let agent = Agent::spawn(config)?;

        let name = r#"{k8s_cluster_name="production", k8s_node_name="node-1", k8s_namespace_name="shop",
            k8s_deployment_name="shop", k8s_pod_name="shop-5d8f7c9b4-abcde", k8s_container_name="app",
            k8s_pod_label_team="blue", service_name="shop", service_namespace="shop"}"#;
        let of = |metric: &str| format!("{metric}{name}");
        // A quarter of a CPU: half of what it requests, a quarter of what it may have.
        backend.wait_for_value(&of("k8s_container_cpu_request_desired"), |cpus| cpus == 0.5)?;
        let load = Load::duty_cycle(25 * MS, 100 * MS, 8 * SECOND).start(&shop.0.container)?;
        for (metric, expected, tolerance) in [
            ("container_cpu_usage", 0.25, 0.05),
            ("k8s_container_cpu_limit_desired", 1.0, 0.0),
            ("k8s_container_cpu_request_utilization_ratio", 0.5, 0.1),
            ("k8s_container_cpu_limit_utilization_ratio", 0.25, 0.05),
            ("podmeter_cpu_slack", 0.25, 0.05),
            ("k8s_container_memory_request_desired_bytes", f64::from(64 << 20), 0.0),
            ("k8s_container_memory_limit_desired_bytes", f64::from(128 << 20), 0.0),
        ] {
            let found = backend.wait_for_value(&of(metric), |value| (value - expected).abs() <= tolerance)?;
            println!("{metric} {found}");
        }
        // What reserves twice its use: the query of a whole fleet, in one line.
        let wasteful = format!(
            "sum by (k8s_namespace_name, k8s_deployment_name) ({}) / sum by (k8s_namespace_name, k8s_deployment_name) ({})",
            of("k8s_container_cpu_request_desired"),
            of("container_cpu_usage")
        );
        let times = backend.wait_for_value(&wasteful, |times| (times - 2.0).abs() < 0.4)?;
        println!("reserves {times} times what it uses");
        load.wait()?;
        let truth = shop.0.container.cpu_stat()?.usage_seconds();
        let time = of("container_cpu_time_seconds_total");
        let found = backend.wait_for_value(&time, |seconds| seconds > truth * 0.998)?;
        EXACT.check(&time, found, truth)?;
        agent.stop().map(drop)
    }
}

root_test! {
    fn a_workloads_dns_percentiles_and_loss_ratio_in_promql_are_what_was_imposed_on_it() {
        let Some(backend) = VictoriaMetrics::for_test(TEST)? else { return Ok(()) };
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        let (shop, search) = (Workload::new(&cluster, "shop")?, Workload::new(&cluster, "search")?);
        let mut config = cluster.server.agent_config()?;
        config["export"] = backend.exporter();
        // Histograms of containers do not leave otherwise.
        config["budget"] = json!({"histograms": "container"});
        let agent = Agent::spawn(config)?;
        backend.wait_for_value(r#"count(container_cpu_time_seconds_total{k8s_deployment_name="search"})"#, |n| n >= 1.0)?;

        // One queries a server that always takes 20 ms and loses one packet of twenty; of the other every fiftieth lookup takes
        // 300 ms, which no average shows, and every fourth name is not there.
        let dns_cgroup = Cgroup::new("resolver")?;
        let server = dns::server::DnsServer::start(&dns_cgroup, SocketAddr::from(([127, 53, 0, 1], 53)))?;
        let of_shop = shop.look_up(server.address(), &[(60, "delay20.test")])?;
        let of_search = search.look_up(server.address(), &[(72, "delay2.test"), (25, "nxdomain-delay2.test"), (3, "delay300.test")])?;
        let (loss_of_shop, loss_of_search) = (shop.lose(Some(20), 1500)?, search.lose(None, 500)?);
        // On a busy machine TCP now and then repeats what was not lost.
        ensure!(loss_of_shop > 0.01 && loss_of_search < 0.005, "{loss_of_shop} and {loss_of_search} were lost");

        let by_name = |of: &str, what: &str| format!(r#"{what}{{k8s_namespace_name="shop", k8s_deployment_name="{of}", k8s_container_name="app"}}"#);
        let total = |of: &str, what: &str| format!("sum({})", by_name(of, what));
        for (of, lookups) in [("shop", 60.0), ("search", 100.0)] {
            backend.wait_for_value(&total(of, "dns_lookup_duration_seconds_count"), |n| n == lookups)?;
        }
        let quantile = |of: &str, q: f64| {
            let buckets = by_name(of, "dns_lookup_duration_seconds_bucket");
            let promql = format!("histogram_quantile({q}, sum by (vmrange) ({buckets}))");
            backend.value(&promql)?.with_context(|| format!("no answer to {promql}"))
        };
        for (of, took, q, imposed) in
            [("shop", &of_shop, 0.5, 0.02), ("shop", &of_shop, 0.99, 0.02), ("search", &of_search, 0.5, 0.002), ("search", &of_search, 0.99, 0.3)]
        {
            let found = quantile(of, q)?;
            let rank = ((q * took.len() as f64).ceil() as usize).max(1) - 1;
            println!("{of}: p{q} {found} s, imposed {imposed} s, {} s by the client's clock", took[rank]);
            // A bucket is 9 % wide and the query interpolates in it; the client's clock has what its process waited too.
            ensure!(
                found >= imposed * 0.91 && found <= took[rank] * 1.1,
                "{of}: p{q} of its lookups is {found} s, imposed were {imposed} s, {} s by its clock",
                took[rank]
            );
        }
        let missing = backend.value(&format!(
            "{} / {}",
            total("search", "dns_lookup_duration_seconds_count").replace("\"}", "\", error_type=\"NXDOMAIN\"}"),
            total("search", "dns_lookup_duration_seconds_count")
        ))?;
        ensure!(missing == Some(0.25), "a quarter of the names are not there, PromQL gives {missing:?}");

        let ratio = |of: &str| format!("{} / {}", total(of, "podmeter_tcp_retransmits_total"), total(of, "podmeter_tcp_segments_total"));
        for (of, truth) in [("shop", loss_of_shop), ("search", loss_of_search)] {
            // At most three segments were sent for no socket: what a closed connection answers.
            let found = backend.wait_for_value(&ratio(of), |found| (found - truth).abs() <= truth / 100.0)?;
            println!("{of}: loss {found}, {truth} by the kernel");
        }
        // As the dashboard and the alert query it.
        let rate = |name: &str| format!("sum(rate({}[1m]))", by_name("shop", name));
        let recent = backend.value(&format!("{} / {}", rate("podmeter_tcp_retransmits_total"), rate("podmeter_tcp_segments_total")))?;
        ensure!(recent.is_some_and(|recent| recent > 0.001), "the alert's ratio is {recent:?}, {loss_of_shop} were lost");
        agent.stop().map(drop)
    }
}
