//! Network programs of others on the same cgroup: podmeter's and theirs run, or its signals are off.

use std::{thread, time::Instant};

use anyhow::{Context as _, Result, ensure};
use aya::sys::{Stats, enable_stats};
use podmeter_tests::{
    MS,
    agent::Agent,
    bpffs::BpfDir,
    cgroup::{Cgroup, inside, mount_point},
    dns::{self, look_up, server::DnsServer, stage},
    metric::NETWORK_PACKETS,
    namespace::FAR,
    otlp::Exports,
    patience,
    program::{Direction, PASS, Program, attached_to},
    root_test,
};
use serde_json::json;

use super::interface::quiet_cable;
use super::{datagrams, io, stream};

root_test! {
    fn other_programs_on_the_same_cgroup_go_on_before_and_after_podmeters_and_so_does_it() {
        let _counting = enable_stats(Stats::RunTime).context("could not have the kernel count runs")?;
        let root = mount_point()?;
        let attached = |name| Program::attached(name, root, Direction::Egress, PASS);
        let linked = |name| Program::linked(name, root, Direction::Egress, PASS);
        let early = [attached("early_multi")?, linked("early_link")?];
        let agent = Agent::start(json!({}))?;
        let late = [attached("late_multi")?, linked("late_link")?];
        let cable = quiet_cable()?;
        let (client, server) = (Cgroup::new("beside")?, Cgroup::new("beside-server")?);
        let all = || early.iter().chain(&late);
        let before: Vec<u64> = all().map(Program::runs).collect::<Result<_>>()?;
        datagrams((&client, &cable.near), (&server, &cable.far), (FAR, 0).into(), 30, 100)?;
        let _open = stream((&client, &cable.near), (&server, &cable.far), (FAR, 0).into(), 200_000)?;
        agent.catch_up()?;
        for (other, before) in all().zip(before) {
            let seen = other.runs()? - before;
            ensure!(seen > 30, "{} saw {seen} packets of more than 30", other.name());
        }
        let exports = agent.stop()?.exports;
        let sent = io(&exports, &client, NETWORK_PACKETS, "transmit");
        ensure!(sent > 30, "podmeter counted {sent} packets of more than 30");
        let before: Vec<u64> = all().map(Program::runs).collect::<Result<_>>()?;
        datagrams((&client, &cable.near), (&server, &cable.far), (FAR, 0).into(), 10, 100)?;
        for (other, before) in all().zip(before) {
            ensure!(other.runs()? - before >= 10, "{} stopped when podmeter did", other.name());
        }
        Ok(())
    }
}

root_test! {
    fn a_program_that_lets_no_other_beside_it_switches_network_and_dns_off_and_nothing_of_them_stays() {
        for (direction, free) in [(Direction::Ingress, Direction::Egress), (Direction::Egress, Direction::Ingress)] {
            let (root, bpf) = (Cgroup::new("exclusive")?, BpfDir::new()?);
            let (client, served) = (root.child("client")?, root.child("server")?);
            let config = json!({
                "bpf": {"pin": true, "directory": bpf.path()}, "cgroups": {"root": root.dir()}, "dns": {"timeout": "1s"},
            });
            let server = DnsServer::start(&served, stage::v4())?;
            let lookups = |agent: &Agent| -> Result<()> {
                let socket = inside(&client, || dns::udp(server.address()))?;
                (0..5).try_for_each(|id| look_up(&socket, id, "fine.test").map(drop))?;
                // What was not seen to be answered would be a timeout by then.
                thread::sleep(patience(2500 * MS));
                agent.catch_up()
            };
            let path = "/client";
            let counted = |exports: &Exports| {
                let ended = |end| stage::number(stage::durations(exports, path, stage::LOOKUPS, end, "udp"));
                [stage::count(exports, path, stage::QUERIES, "client", "udp"), ended(None), ended(Some("timeout"))]
            };
            let is_on = |agent: &Agent, signal| {
                agent.look(|exports| exports.node_value("podmeter.agent.signal.active", &[("signal", signal)])) == Some(1.0)
            };

            let other = Program::exclusive("in_the_way", root.dir(), direction, PASS)?;
            let agent = Agent::start(config.clone())?;
            ensure!(!is_on(&agent, "network") && !is_on(&agent, "dns"), "network or dns is on: {}", agent.stderr());
            let log = agent.stderr();
            let why = |program: &str| log.contains(&format!("could not attach {program}: program "));
            ensure!(log.contains("(in_the_way) is attached to"), "the log does not name what is in the way: {log}");
            let name = if direction == Direction::Ingress { "ingress" } else { "egress" };
            ensure!(why(&format!("network_on_{name}")) && why(&format!("dns_on_{name}")), "{log}");
            // An unpinned link is let go of a grace period later (`bpf_free_inode`).
            let deadline = Instant::now() + patience(2 * 1000 * MS);
            loop {
                let attached = [direction, free].map(|way| attached_to(root.dir(), way)).into_iter().collect::<Result<Vec<_>>>()?;
                if attached == [1, 0] {
                    break;
                }
                ensure!(Instant::now() < deadline, "{attached:?} programs are attached, not that of others alone");
                thread::sleep(10 * MS);
            }
            let left = bpf.entries()?;
            let theirs = |name: &std::ffi::OsString| ["network-", "dns-"].iter().any(|its| name.to_string_lossy().starts_with(its));
            ensure!(!left.iter().any(theirs), "pins of what is off: {left:?}");
            lookups(&agent)?;
            let found = agent.look(counted);
            ensure!(found == [0, 0, 0], "{found:?} queries, answers and timeouts of a signal that is off");
            agent.stop()?;

            // Without it the next agent has both, and of the first one nothing is in the way.
            drop(other);
            let agent = Agent::start(config)?;
            ensure!(is_on(&agent, "network") && is_on(&agent, "dns"), "network or dns is off: {}", agent.stderr());
            lookups(&agent)?;
            let found = agent.look(counted);
            ensure!(found == [5, 5, 0], "{found:?} queries, answers and timeouts of 5 lookups");
            agent.stop()?;
        }
        Ok(())
    }
}
