//! What one container can take of what all share: it fills a table, and the counts of the others still equal what they did.

use std::{
    net::{SocketAddr, UdpSocket},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    SECOND,
    agent::Agent,
    cgroup::{Cgroup, cgroups_in, has_controllers, inside, mount_point},
    dns::{
        self, look_up, query,
        stage::{QUERIES, Stage, count, number, v4},
    },
    load::Load,
    metric::{CPU_TIME, OOM_KILLS},
    root_test,
};
use serde_json::json;

/// Room for queries in flight: places that whoever comes first takes, and those that are shared.
const IN_FLIGHT: u64 = 16_384;
const PLACES: u64 = 3072;

root_test! {
    fn a_flood_of_unanswered_queries_costs_a_neighbour_none_of_its_lookups() {
        // Long enough for none to be given up while the flood lasts.
        let stage = Stage::set(json!({"dns": {"timeout": "30s"}}), v4())?;
        let flood = Cgroup::new("dns-flood")?;
        let no_server = SocketAddr::from(([127, 53, 0, 9], 53));
        let socket = inside(&flood, || UdpSocket::bind(("127.0.0.1", 0)).context("could not make a UDP socket"))?;
        let sent = IN_FLIGHT + 4000;
        for n in 0..sent {
            let query = query(n as u16, &format!("x{n}.test"));
            // The kernel reports that no server is there, once for each.
            while socket.send_to(&query, no_server).is_err() {}
        }
        let client = stage.udp()?;
        for id in 0..60 {
            look_up(&client, id, &format!("delay1.n{id}.test"))?;
        }
        // All together at the server.
        for id in 100..160 {
            client.send(&query(id, &format!("delay200.n{id}.test")))?;
        }
        (0..60).try_for_each(|_| dns::receive(&client).map(drop))?;
        stage.catch_up()?;
        stage.check_counts("udp", &[(QUERIES, 120, 120), ("podmeter.dns.lost", 0, 0), ("podmeter.dns.unmatched", 0, 0)])?;
        let found = (number(stage.lookups(None, "udp")), number(stage.served(None, "udp")));
        ensure!(found == (120, 120), "{found:?} lookups of 120 on both sides");

        // Repeated, and another question with an id that is in flight.
        for _ in 0..3 {
            client.send(&query(200, "delay300.test"))?;
        }
        (0..3).try_for_each(|_| dns::receive(&client).map(drop))?;
        client.send(&query(201, "never.test"))?;
        look_up(&client, 201, "delay1.test")?;
        stage.catch_up()?;
        stage.check_counts("udp", &[(QUERIES, 125, 125), ("podmeter.dns.retries", 2, 2), ("podmeter.dns.lost", 1, 1)])?;
        let found = (number(stage.lookups(None, "udp")), number(stage.served(None, "udp")));
        ensure!(found == (122, 122), "{found:?} lookups of 122 on both sides");

        let of_flood = |metric| stage.agent.look(|exports| count(exports, flood.path(), metric, "client", "udp"));
        let (queries, lost) = (of_flood(QUERIES), of_flood("podmeter.dns.lost"));
        println!("of {queries} queries of the flood {lost} are not followed");
        ensure!(queries == sent, "{queries} queries of {sent}");
        // All places and half of the rest, give or take what was in flight while the agent put the counts right.
        let (followed, share) = (queries - lost, PLACES + (IN_FLIGHT - PLACES) / 2);
        ensure!(followed.abs_diff(share) < IN_FLIGHT / 16, "{followed} queries are followed, not about {share} of {IN_FLIGHT}");
        stage.agent.stop().map(drop)
    }
}

root_test! {
    fn a_container_that_makes_cgroups_without_end_leaves_slots_for_others() {
        let slots = 2 * cgroups_in(mount_point()?)? + 128;
        let agent = Agent::start(json!({"cgroups": {"slots": slots}}))?;
        // A container is on the fourth level, as under kubelet.
        let top = Cgroup::new("greedy")?;
        let (second, third) = (top.child("b")?, top.child("b/c")?);
        let container = third.child("container")?;
        let _greed = (0..slots).map(|n| container.child(&format!("{n}"))).collect::<Result<Vec<_>>>()?;
        let neighbour = Cgroup::new("neighbour")?;
        let load = Load::spin(60 * SECOND).start(&neighbour)?;
        agent.wait_for("the neighbour's CPU time", 10 * SECOND, |exports| {
            exports.value(neighbour.path(), CPU_TIME, &[]).filter(|seconds| *seconds > 0.1)
        })?;
        let without = agent.look(|exports| exports.node_value("podmeter.agent.cgroups.without_slot", &[]));
        println!("of {slots} cgroups {without:?} have no slot");
        ensure!(without.is_some_and(|without| without > 0.0), "there was room for all: this proves nothing");
        load.kill()?;
        drop((second, third));
        agent.stop().map(drop)
    }
}

root_test! {
    fn a_loop_of_kills_is_counted_in_full_and_logged_ten_times() {
        if !has_controllers(TEST, &["memory"])? {
            return Ok(());
        }
        let agent = Agent::start(json!({}))?;
        let pod = Cgroup::new("loop")?;
        pod.delegate("memory")?;
        let cgroup = pod.child("container")?;
        cgroup.write("memory.max", &(16 << 20).to_string())?;
        let kills = 40;
        let script = format!("for n in $(seq {kills}); do dd if=/dev/zero of=/dev/null bs=64M count=1; done");
        let mut shell = inside(&cgroup, || Command::new("sh").args(["-c", &script]).spawn().context("could not start a shell"))?;
        shell.wait().context("could not wait for the shell")?;
        let truth = cgroup.field("memory.events", "oom_kill").context("no oom_kill")?;
        ensure!(truth >= 20, "the kernel counts {truth} kills: this proves nothing");
        agent.catch_up()?;
        agent.catch_up()?;
        let counted = agent.look(|exports| exports.value(cgroup.path(), OOM_KILLS, &[("cause", "cgroup")]));
        ensure!(counted == Some(truth as f64), "{counted:?} kills counted of {truth}");
        let logged = agent.stderr().matches("a process was killed").count();
        ensure!(logged == 10, "{logged} lines of the log");
        let logs = agent.logs();
        let records = logs.iter().flat_map(|logs| &logs.resource_logs).flat_map(|group| &group.scope_logs);
        let records: usize = records.map(|scope| scope.log_records.len()).sum();
        ensure!(records == 10, "{records} log records");
        let silent = agent.look(|exports| exports.node_value("podmeter.memory.oom.events.lost", &[]));
        ensure!(silent == Some((truth - 10) as f64), "{silent:?} kills without an event, of {truth}");
        agent.stop().map(drop)
    }
}
