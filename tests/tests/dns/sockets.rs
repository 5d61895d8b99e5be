//! Sockets that see DNS without being a client or server of it, against what the test sent.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use podmeter_tests::{
    SECOND,
    agent::Agent,
    cgroup::{Cgroup, inside},
    dns::{
        self, look_up, query,
        stage::{LOOKUPS, QUERIES, Stage, count, durations, v4},
    },
    namespace::{Cable, FAR, INTERFACE, NEAR, Namespace},
    patience, root_test,
};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

root_test! {
    fn a_raw_socket_that_gets_copies_of_dns_has_no_lookups_whether_the_network_signal_is_on_or_off() {
        for network in [true, false] {
            let stage = Stage::set(json!({"signals": {"network": network}, "dns": {"timeout": "1s"}}), v4())?;
            let sniffer = Cgroup::new("dns-sniffer")?;
            let raw = || Socket::new(Domain::IPV4, Type::from(nix::libc::SOCK_RAW), Some(Protocol::UDP)).context("no raw socket");
            let raw = inside(&sniffer, raw)?;
            let socket = stage.udp()?;
            (0..20).try_for_each(|id| look_up(&socket, id, "fine.test").map(drop))?;
            raw.set_read_timeout(Some(patience(SECOND)))?;
            ensure!(raw.recv(&mut [std::mem::MaybeUninit::uninit(); 512]).is_ok(), "it got no copy: this would prove nothing");
            thread::sleep(patience(2500 * Duration::from_millis(1)));
            stage.catch_up()?;
            stage.check_counts("udp", &[(QUERIES, 20, 20), ("podmeter.dns.unmatched", 0, 0)])?;
            let copies = stage.agent.look(|exports| {
                let ways = [(QUERIES, "server"), ("podmeter.dns.unmatched", "server"), ("podmeter.dns.unmatched", "client")];
                ways.map(|(metric, side)| count(exports, sniffer.path(), metric, side, "udp"))
            });
            ensure!(copies == [0; 3], "copies were counted, network {network}: {copies:?}");
            stage.agent.stop()?;
        }
        Ok(())
    }
}

root_test! {
    fn multicast_on_a_port_of_dns_is_no_lookup() {
        const PORT: u16 = 5353;
        let cable = Cable::new()?;
        let agent = Agent::start(json!({"dns": {"ports": "53,5353", "timeout": "1s"}}))?;
        let (asker, responder) = (Cgroup::new("dns-asker")?, Cgroup::new("dns-responder")?);
        let v4 = |cgroup: &Cgroup, namespace: &Namespace, own: Ipv4Addr| {
            inside(cgroup, || namespace.run(|| {
                let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
                socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
                socket.join_multicast_v4(&Ipv4Addr::new(224, 0, 0, 251), &own)?;
                socket.set_multicast_if_v4(&own)?;
                socket.set_multicast_loop_v4(false)?;
                Ok(UdpSocket::from(socket))
            }))
        };
        let v6 = |cgroup: &Cgroup, namespace: &Namespace, own: u16| {
            inside(cgroup, || namespace.run(|| {
                namespace.ip(&format!("address add fe80::{own}/64 dev {INTERFACE} nodad"))?;
                // Address, index, …, name.
                let text = std::fs::read_to_string("/proc/thread-self/net/if_inet6").context("no addresses of IPv6")?;
                let of_cable = text.lines().find(|line| line.ends_with(INTERFACE)).and_then(|line| line.split(' ').nth(1));
                let index = u32::from_str_radix(of_cable.context("the cable has no address")?, 16)?;
                let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
                socket.set_only_v6(true)?;
                socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)).into())?;
                socket.join_multicast_v6(&Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb), index)?;
                socket.set_multicast_if_v6(index)?;
                socket.set_multicast_loop_v6(false)?;
                Ok(UdpSocket::from(socket))
            }))
        };
        let groups = [
            (v4(&asker, &cable.near, NEAR)?, v4(&responder, &cable.far, FAR)?, "224.0.0.251:5353"),
            (v6(&asker, &cable.near, 1)?, v6(&responder, &cable.far, 2)?, "[ff02::fb]:5353"),
        ];
        for (asks, responds, group) in &groups {
            for socket in [asks, responds] {
                socket.set_read_timeout(Some(patience(SECOND)))?;
            }
            // All queries of multicast DNS have the id 0; an answer has no question.
            for n in 0..10 {
                asks.send_to(&query(0, &format!("printer{n}.local")), group).with_context(|| format!("could not query {group}"))?;
                dns::receive(responds)?;
                responds.send_to(&dns::bare(0, dns::ANSWER | 0x0400), group)?;
                dns::receive(asks)?;
            }
        }
        thread::sleep(patience(2 * SECOND));
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        for cgroup in [&asker, &responder] {
            let of = |metric| ["client", "server"].map(|side| count(&exports, cgroup.path(), metric, side, "udp")).iter().sum::<u64>();
            let found = [QUERIES, "podmeter.dns.unmatched", "podmeter.dns.duplicates", "podmeter.dns.ignored"].map(of);
            ensure!(found == [0, 0, 0, 40], "{}: {found:?} instead of 40 that are no lookups", cgroup.path());
            ensure!(durations(&exports, cgroup.path(), LOOKUPS, Some("timeout"), "udp").is_none(), "timeouts");
        }
        Ok(())
    }
}
