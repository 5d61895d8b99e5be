//! The drops signal against packets that are made to be dropped, and against what the namespace counts of them.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use podmeter_tests::{
    agent::Agent,
    cgroup::{Cgroup, inside},
    metric::DROPS,
    namespace::{Cable, FAR, Namespace, Resident},
    otlp::Exports,
    patience, root_test,
};
use serde_json::json;

/// An agent that knows the owner of the far namespace; `None` where the kernel gives no reasons.
fn agent(test: &str) -> Result<Option<Agent>> {
    ready(Agent::start(json!({}))?, test)
}

fn ready(agent: Agent, test: &str) -> Result<Option<Agent>> {
    if agent.stderr().contains("skb_drop_reason") {
        eprintln!("SKIPPED {test}: this kernel gives no reasons");
        return Ok(None);
    }
    // Whom all in a namespace have in common is found out every second.
    agent.catch_up()?;
    agent.catch_up()?;
    Ok(Some(agent))
}

fn send(namespace: &Namespace, from: Ipv4Addr, to: SocketAddr, packets: u32) -> Result<()> {
    namespace.run(|| {
        let socket = UdpSocket::bind((from, 0)).context("could not bind")?;
        for _ in 0..packets {
            socket.send_to(&[7; 500], to).context("could not send")?;
            // Within what a busy CPU takes at once.
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    })
}

fn drops(exports: &Exports, cgroup: &Cgroup, reason: &str) -> f64 {
    exports.value(cgroup.path(), DROPS, &[("reason", reason)]).unwrap_or(0.0)
}

/// All drops of a cgroup are of this reason.
fn check_only(exports: &Exports, cgroup: &Cgroup, reason: &str, count: u64) -> Result<()> {
    let counted = drops(exports, cgroup, reason);
    ensure!(counted == count as f64, "{counted} packets dropped as {reason}, not {count}");
    let all = exports.value(cgroup.path(), DROPS, &[]).unwrap_or(0.0);
    ensure!(all == counted, "{all} packets dropped in all, of which {counted} as {reason}: {:?}", exports.of(cgroup.path()));
    Ok(())
}

root_test! {
    fn packets_to_a_port_that_nobody_listens_on_are_drops_of_the_namespaces_container() {
        let cable = Cable::new()?.without_ipv6()?;
        let (client, served) = (Cgroup::new("client")?, Cgroup::new("server")?);
        let _resident = Resident::new(&served, &cable.far)?;
        let Some(agent) = agent(TEST)? else { return Ok(()) };
        inside(&client, || send(&cable.near, Ipv4Addr::UNSPECIFIED, (FAR, 9).into(), 30))?;
        ensure!(cable.far.count("Udp", "NoPorts")? == 30, "the kernel did not see 30 packets to no port");
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        check_only(&exports, &served, "no_socket", 30)?;
        ensure!(drops(&exports, &client, "no_socket") == 0.0, "the sender lost nothing");
        Ok(())
    }
}

root_test! {
    fn packets_that_do_not_fit_into_a_sockets_buffer_are_drops_of_its_container() {
        let cable = Cable::new()?.without_ipv6()?;
        let (client, served) = (Cgroup::new("client")?, Cgroup::new("server")?);
        let _resident = Resident::new(&served, &cable.far)?;
        let Some(agent) = agent(TEST)? else { return Ok(()) };
        let receiver = inside(&served, || cable.far.run(|| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
            socket.set_recv_buffer_size(4096)?;
            socket.bind(&SocketAddr::from((FAR, 0)).into())?;
            Ok(UdpSocket::from(socket))
        }))?;
        inside(&client, || send(&cable.near, Ipv4Addr::UNSPECIFIED, receiver.local_addr()?, 100))?;
        let errors = cable.far.count("Udp", "RcvbufErrors")?;
        ensure!(errors > 50, "only {errors} of 100 packets did not fit: this would prove nothing");
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        check_only(&exports, &served, "socket_rcvbuff", errors)
    }
}

root_test! {
    fn packets_from_where_no_way_leads_back_are_drops_of_the_namespaces_container() {
        let cable = Cable::new()?.without_ipv6()?;
        let (client, served) = (Cgroup::new("client")?, Cgroup::new("server")?);
        let _resident = Resident::new(&served, &cable.far)?;
        let Some(agent) = agent(TEST)? else { return Ok(()) };
        let elsewhere = Ipv4Addr::new(10, 98, 0, 1);
        cable.near.ip(&format!("address add {elsewhere}/32 dev lo"))?;
        cable.far.sysctl("ipv4/conf/all/rp_filter", "1")?;
        // So that the neighbours know each other: an ARP request from elsewhere would not be answered.
        send(&cable.near, Ipv4Addr::UNSPECIFIED, (FAR, 9).into(), 1)?;
        inside(&client, || send(&cable.near, elsewhere, (FAR, 9).into(), 20))?;
        let filtered = cable.far.count("TcpExt", "IPReversePathFilter")?;
        ensure!(filtered == 20, "the kernel filtered {filtered} of 20 packets");
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        let counted = [drops(&exports, &served, "ip_rpfilter"), drops(&exports, &served, "no_socket")];
        ensure!(counted == [20.0, 1.0], "counted {counted:?}, not 20 and 1");
        Ok(())
    }
}

root_test! {
    fn an_agent_that_sees_no_process_knows_the_owner_of_a_namespace() {
        let cable = Cable::new()?.without_ipv6()?;
        let (client, older) = (Cgroup::new("client")?, Cgroup::new("older")?);
        let resident = Resident::new(&older, &cable.far)?;
        let Some(agent) = ready(Agent::start_among_its_own(json!({}))?, TEST)? else { return Ok(()) };
        inside(&client, || send(&cable.near, Ipv4Addr::UNSPECIFIED, (FAR, 9).into(), 30))?;
        // Another that comes while the agent runs has the namespace to itself once the first is gone.
        drop(resident);
        let path = older.path().to_owned();
        older.remove()?;
        let younger = Cgroup::new("younger")?;
        let _resident = Resident::new(&younger, &cable.far)?;
        agent.catch_up()?;
        agent.catch_up()?;
        inside(&client, || send(&cable.near, Ipv4Addr::UNSPECIFIED, (FAR, 9).into(), 20))?;
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        check_only(&exports, &younger, "no_socket", 20)?;
        let first = exports.value(&path, DROPS, &[("reason", "no_socket")]).unwrap_or(0.0);
        ensure!(first == 30.0, "{first} of 30 packets counted for the container that was there before the agent");
        Ok(())
    }
}

root_test! {
    fn a_new_namespace_is_its_containers_from_the_first_packet_on() {
        let cable = Cable::new()?.without_ipv6()?;
        let Some(agent) = agent(TEST)? else { return Ok(()) };
        let (client, served) = (Cgroup::new("client")?, Cgroup::new("server")?);
        // It comes with a namespace of its maker's and changes to its own, as a container does.
        let _resident = Resident::new(&served, &cable.far)?;
        inside(&client, || send(&cable.near, Ipv4Addr::UNSPECIFIED, (FAR, 9).into(), 30))?;
        agent.catch_up()?;
        check_only(&agent.stop()?.exports, &served, "no_socket", 30)
    }
}

root_test! {
    fn who_visits_a_namespace_takes_nothing_from_those_who_live_there() {
        let cable = Cable::new()?.without_ipv6()?;
        let (visitor, served) = (Cgroup::new("visitor")?, Cgroup::new("server")?);
        let Some(agent) = agent(TEST)? else { return Ok(()) };
        // A daemon of the node's, which runs programs in containers' namespaces, also in those that have no other process yet.
        let _lives = Resident::new(&visitor, &cable.near)?;
        inside(&visitor, || cable.far.ip("link show"))?;
        let _resident = Resident::new(&served, &cable.far)?;
        inside(&visitor, || cable.far.ip("link show"))?;
        inside(&visitor, || send(&cable.near, Ipv4Addr::UNSPECIFIED, (FAR, 9).into(), 30))?;
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        check_only(&exports, &served, "no_socket", 30)?;
        ensure!(drops(&exports, &visitor, "no_socket") == 0.0, "the visitor lost nothing");
        Ok(())
    }
}

root_test! {
    fn a_tick_opens_no_file_of_a_cgroup() {
        // Two of them without a process, two with one.
        let cgroups = (0..4).map(|n| Cgroup::new(&format!("quiet{n}"))).collect::<Result<Vec<_>>>()?;
        let namespace = Namespace::new()?;
        let _residents = cgroups[..2].iter().map(|cgroup| Resident::new(cgroup, &namespace)).collect::<Result<Vec<_>>>()?;
        // No collection after the first.
        let agent = Agent::start(json!({"interval": "300s"}))?;
        std::thread::sleep(patience(Duration::from_secs(2)));
        let opens = Inotify::init(InitFlags::IN_NONBLOCK).context("could not watch files")?;
        for cgroup in &cgroups {
            opens.add_watch(cgroup.dir(), AddWatchFlags::IN_OPEN).context("could not watch a cgroup's files")?;
        }
        // The watch works.
        cgroups[0].procs()?;
        ensure!(opens.read_events().context("no open was seen")?.len() == 1, "one file was opened");
        std::thread::sleep(Duration::from_secs(4));
        match opens.read_events() {
            Err(nix::errno::Errno::EAGAIN) => {}
            seen => anyhow::bail!("the agent opens files of cgroups: {seen:?}"),
        }
        agent.stop().map(drop)
    }
}
