//! What teams ask about their workloads, in PromQL, on a real back end: DNS and packet loss by the workload's name equal what the
//! test imposed on its pod.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    agent::Agent,
    cgroup::{Cgroup, inside},
    dns,
    kubernetes::{
        Options,
        look::World,
        objects::{Container, Pod, container_id},
        tree::{Driver, PodCgroup},
    },
    namespace::Cable,
    root_test, tcp,
    truth::Tolerance,
    victoria::VictoriaMetrics,
};

/// A pod of one container, of a Deployment.
struct Workload {
    // The container first, since that is the order of removal.
    container: Cgroup,
    _pod: PodCgroup,
}

impl Workload {
    fn new(world: &World, deployment: &str) -> Result<Self> {
        let id = container_id();
        let mut pod = Pod::new(&format!("{deployment}-5d8f7c9b4-abcde"), vec![Container::new("app", &id)]);
        pod.owner = Some(("ReplicaSet".to_owned(), format!("{deployment}-5d8f7c9b4")));
        world.server.set_pod(&pod);
        let pod = world.kubelet.pod(&pod.uid)?;
        Ok(Self { container: pod.container(&id)?, _pod: pod })
    }

    /// Looks names up one after the other; how long each took by the asker's clock, the fastest first.
    fn look_up(&self, server: SocketAddr, names: &[(u16, &str)]) -> Result<Vec<f64>> {
        let socket = inside(&self.container, || dns::udp(server))?;
        let mut took = Vec::new();
        for (times, name) in names {
            for id in 0..*times {
                took.push(dns::ask(&socket, id, name)?.as_secs_f64());
            }
        }
        took.sort_by(f64::total_cmp);
        Ok(took)
    }

    /// Sends `pieces` to the other end of a cable that loses `percent` of them; the share of segments that the kernel sent again.
    fn lose(&self, percent: u32, pieces: u32) -> Result<f64> {
        let cable = Cable::new()?;
        ensure!(percent == 0 || cable.near.impair(percent, 1), "this kernel has no sch_netem");
        let far = Cgroup::new("far-end")?;
        let (address, server) = tcp::server(&far, &cable.far, 1)?;
        let mut stream = tcp::connect(&self.container, &cable.near, address)?;
        tcp::send(&mut stream, pieces)?;
        tcp::finish(stream)?;
        ensure!(tcp::joined(server)? == u64::from(pieces) * 1000, "the server did not get every byte");
        let [sent, again] = [cable.near.count("Tcp", "OutSegs")?, cable.near.count("Tcp", "RetransSegs")?];
        Ok(again as f64 / sent as f64)
    }
}

root_test! {
    fn a_workloads_dns_percentiles_and_loss_ratio_in_promql_are_what_was_imposed_on_it() {
        const TEST: &str = "a_workloads_dns_percentiles_and_loss_ratio_in_promql_are_what_was_imposed_on_it";
        let Some(backend) = VictoriaMetrics::for_test(TEST)? else { return Ok(()) };
        let world = World::new(Driver::Systemd, Options::default())?;
        let (shop, search) = (Workload::new(&world, "shop")?, Workload::new(&world, "search")?);
        let mut config = world.server.agent_config()?;
        config["export"] = backend.exporter();
        let agent = Agent::spawn(config)?;
        backend.wait_for_value(r#"count(container_cpu_time_seconds_total{k8s_deployment_name="search"})"#, |n| n >= 1.0)?;

        // One asks a server that always takes 20 ms and loses one packet of twenty; of the other every fiftieth lookup takes 300 ms,
        // which no average shows, and every fourth name is not there.
        let dns_cgroup = Cgroup::new("resolver")?;
        let server = dns::server::Server::start(&dns_cgroup, SocketAddr::from(([127, 53, 0, 1], 53)))?;
        let of_shop = shop.look_up(server.address(), &[(60, "delay20.test")])?;
        let of_search = search.look_up(server.address(), &[(72, "delay2.test"), (25, "nxdomain-delay2.test"), (3, "delay300.test")])?;
        let (loss_of_shop, loss_of_search) = (shop.lose(5, 1500)?, search.lose(0, 500)?);
        ensure!((0.02..0.09).contains(&loss_of_shop) && loss_of_search == 0.0, "{loss_of_shop} and {loss_of_search} were lost");

        let by_name = |of: &str, what: &str| format!(r#"{what}{{k8s_namespace_name="shop", k8s_deployment_name="{of}"}}"#);
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
            println!("{of}: p{q} {found} s, imposed {imposed} s, {} s by the asker's clock", took[rank]);
            // A bucket is 9 % wide and the query interpolates in it; the asker's clock has what its process waited too.
            ensure!(
                found >= imposed * 0.91 && found <= took[rank] * 1.1,
                "{of}: p{q} of its lookups is {found} s, imposed were {imposed} s, its clock says {} s",
                took[rank]
            );
        }
        let missing = backend.value(&format!(
            "{} / {}",
            total("search", "dns_lookup_duration_seconds_count").replace("\"}", "\", error_type=\"NXDOMAIN\"}"),
            total("search", "dns_lookup_duration_seconds_count")
        ))?;
        ensure!(missing == Some(0.25), "a quarter of the names are not there, PromQL says {missing:?}");

        let ratio = |of: &str| format!("{} / {}", total(of, "podmeter_tcp_retransmits_total"), total(of, "podmeter_tcp_segments_total"));
        let found = backend.wait_for_value(&ratio("shop"), |found| (found - loss_of_shop).abs() < loss_of_shop / 100.0)?;
        println!("shop: loss {found}, {loss_of_shop} by the kernel, 0.05 imposed");
        // At most three segments were sent for no socket: what a closed connection answers.
        Tolerance::new(0.01, 0.0).check("shop's loss", found, loss_of_shop)?;
        let found = backend.value(&ratio("search"))?;
        ensure!(found == Some(0.0), "search lost nothing, PromQL says {found:?}");
        // As the dashboard and the alert ask.
        let rate = |name: &str| format!("sum(rate({}[1m]))", by_name("shop", name));
        let recent = backend.value(&format!("{} / {}", rate("podmeter_tcp_retransmits_total"), rate("podmeter_tcp_segments_total")))?;
        ensure!(recent.is_some_and(|recent| recent > 0.001), "the alert's ratio is {recent:?}, {loss_of_shop} were lost");
        agent.stop().map(drop)
    }
}
