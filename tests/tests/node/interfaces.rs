//! Interfaces, against datagrams of known number and size that leave by one of them.

use std::{
    net::UdpSocket,
    process::{Child, Command},
};

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use podmeter_tests::{
    agent::Agent,
    namespace::{Cable, FAR, INTERFACE, NEAR, Namespace},
    root_test,
};
use serde_json::json;

use super::agent;

/// A root directory whose process 1 is in a network namespace.
struct Root {
    directory: tempfile::TempDir,
    process: Child,
}

impl Root {
    fn of(namespace: &Namespace) -> Result<Self> {
        let process = namespace.run(|| Command::new("sleep").arg("120").spawn().context("could not start sleep"))?;
        let root = Self { directory: tempfile::tempdir().context("could not make a directory")?, process };
        let first = root.directory.path().join("proc/1");
        std::fs::create_dir_all(&first).context("could not make a directory")?;
        let source = format!("/proc/{}", root.process.id());
        mount(Some(&*source), &first, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("could not bind {source}"))?;
        Ok(root)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = umount2(&self.directory.path().join("proc/1"), MntFlags::MNT_DETACH);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn sent(agent: &Agent, metric: &str) -> Result<f64> {
    let attributes = [("network.interface.name", INTERFACE), ("network.io.direction", "transmit")];
    agent.look(|exports| exports.node_value(metric, &attributes)).with_context(|| format!("no {metric}"))
}

root_test! {
    fn what_leaves_by_an_interface_is_counted_and_the_ends_of_pods_have_no_series() {
        const DATAGRAMS: u32 = 100;
        const PAYLOAD: usize = 1000;
        // Ethernet's header, IP's and UDP's.
        const HEADERS: usize = 14 + 20 + 8;
        let cable = Cable::new()?.without_ipv6()?;
        for n in 0..20 {
            cable.near.ip(&format!("link add veth{n} type veth peer name cali{n}"))?;
        }
        let root = Root::of(&cable.near)?;
        let agent = agent(json!({"node": {"root": root.directory.path()}}))?;
        let socket = cable.near.run(|| UdpSocket::bind((NEAR, 0)).context("no socket"))?;
        let send = |n: u32| (0..n).try_for_each(|_| socket.send_to(&[0; PAYLOAD], (FAR, 9)).map(drop)).context("could not send");
        // The first one needs the far end's address, which is a packet too.
        send(1)?;
        agent.catch_up()?;
        let before = [sent(&agent, "system.network.io")?, sent(&agent, "system.network.packet.count")?];
        send(DATAGRAMS)?;
        agent.catch_up()?;
        let [bytes, packets] = [sent(&agent, "system.network.io")? - before[0], sent(&agent, "system.network.packet.count")? - before[1]];
        let truth = f64::from(DATAGRAMS);
        // ARP may look once more who the far end is.
        ensure!((truth..truth + 4.0).contains(&packets), "{packets} packets, {truth} were sent");
        let least = truth * (PAYLOAD + HEADERS) as f64;
        ensure!((least..least + 200.0).contains(&bytes), "{bytes} bytes, {least} were sent");
        let exports = agent.stop()?.exports;
        let names: std::collections::BTreeSet<_> =
            exports.of_node().iter().filter_map(|point| point.attributes.get("network.interface.name").cloned()).collect();
        ensure!(names.iter().eq([INTERFACE]), "interfaces: {names:?}");
        Ok(())
    }
}

root_test! {
    fn without_the_nodes_root_a_container_says_what_is_missing_and_measures_the_rest() {
        let agent = Agent::start_among_its_own(json!({"signals": {"cpu": false}}))?;
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        ensure!(exports.node_value("system.memory.limit", &[]).is_some(), "no memory");
        let of_first = exports.of_node().iter().find(|point| point.metric.starts_with("system.network") || point.metric.starts_with("system.filesystem"));
        ensure!(of_first.is_none(), "of another process 1: {of_first:?}");
        Ok(())
    }
}
