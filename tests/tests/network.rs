//! The network signal against counted bytes and against the counters of an interface.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::sys::{Stats, enable_stats};
use podmeter_tests::{
    MS,
    agent::Agent,
    bpffs::BpfDir,
    cgroup::{Cgroup, inside, mount_point},
    dns::{self, ask, server::Server as Resolver, stage},
    kubernetes::{
        ApiOptions, ApiServer,
        objects::{self, Container, Pod, container_id},
    },
    metric::{NETWORK_EGRESS, NETWORK_IO, NETWORK_LOOPBACK, NETWORK_PACKETS},
    namespace::{Cable, FAR, INTERFACE, NEAR, Namespace},
    otlp::Exports,
    patience,
    program::{Direction, PASS, Program, attached_to},
    root_test,
};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

/// Ethernet's header, which an interface counts and an IP packet does not have.
const LINK: u64 = 14;

fn io(exports: &Exports, cgroup: &Cgroup, metric: &str, direction: &str) -> u64 {
    exports.value(cgroup.path(), metric, &[("network.io.direction", direction)]).unwrap_or(0.0) as u64
}

fn egress(exports: &Exports, cgroup: &Cgroup, scope: &str) -> u64 {
    exports.value(cgroup.path(), NETWORK_EGRESS, &[("scope", scope)]).unwrap_or(0.0) as u64
}

/// Bytes and packets that the cable's interface has received and sent.
#[derive(Clone, Copy, Debug)]
struct Counters {
    received: [u64; 2],
    sent: [u64; 2],
}

impl Counters {
    fn of(namespace: &Namespace) -> Result<Self> {
        // /sys shows the network namespace in which it was mounted; /proc that of the thread.
        let text = namespace.run(|| fs::read_to_string("/proc/thread-self/net/dev").context("could not read the counters"))?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix(INTERFACE)?.strip_prefix(':')).context("no cable")?;
        let n: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        ensure!(n.len() >= 10, "{line}");
        Ok(Self { received: [n[0], n[1]], sent: [n[8], n[9]] })
    }

    /// What was added since, as IP has it: bytes and packets.
    fn since(self, before: Self) -> [[u64; 2]; 2] {
        let of = |now: [u64; 2], then: [u64; 2]| {
            let packets = now[1] - then[1];
            [now[0] - then[0] - packets * LINK, packets]
        };
        [of(self.received, before.received), of(self.sent, before.sent)]
    }
}

/// A cable on which nothing is but what a test sends: both ends know each other's hardware address, and there is no IPv6 that would
/// look for neighbours. Large packets are cut into segments before they reach the cable, so that its counters count those.
fn quiet_cable() -> Result<Cable> {
    let cable = Cable::new()?.without_ipv6()?;
    let hardware = |namespace: &Namespace| -> Result<String> {
        let shown = namespace.run(|| {
            let output = std::process::Command::new("ip").args(["link", "show", "dev", INTERFACE]).output();
            Ok(String::from_utf8_lossy(&output.context("could not start ip")?.stdout).into_owned())
        })?;
        let words: Vec<&str> = shown.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "link/ether").context("no hardware address")?;
        Ok((*words.get(at + 1).context("no hardware address")?).to_owned())
    };
    let (near, far) = (hardware(&cable.near)?, hardware(&cable.far)?);
    for (namespace, address, other) in [(&cable.near, FAR, far), (&cable.far, NEAR, near)] {
        namespace.ip(&format!("neigh replace {address} lladdr {other} dev {INTERFACE} nud permanent"))?;
        namespace.run(|| [SET_TSO, SET_GSO, SET_GRO].into_iter().try_for_each(switch_off))?;
    }
    Ok(cable)
}

/// Of linux/ethtool.h.
const SET_TSO: u32 = 0x1f;
const SET_GSO: u32 = 0x24;
const SET_GRO: u32 = 0x2c;

/// Switches a feature of the cable off, as `ethtool -K` does.
fn switch_off(command: u32) -> Result<()> {
    const SIOCETHTOOL: nix::libc::c_ulong = 0x8946;
    #[repr(C)]
    struct Value {
        command: u32,
        value: u32,
    }
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        data: *mut Value,
        rest: [u64; 2],
    }
    let socket = UdpSocket::bind("127.0.0.1:0").context("could not make a socket")?;
    let mut value = Value { command, value: 0 };
    let mut request = Request { name: [0; 16], data: &raw mut value, rest: [0; 2] };
    request.name[..INTERFACE.len()].copy_from_slice(INTERFACE.as_bytes());
    // SAFETY: a struct ifreq whose data is a struct ethtool_value; both live until the call returns.
    let result = unsafe { nix::libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    nix::errno::Errno::result(result).map(drop).context("could not switch off a feature of the interface")
}

/// Sends `bytes` over a new connection and reads them at the other end: all of it arrives unaltered.
///
/// Both ends stay open for as long as what is returned: what closes a connection last is sent by the kernel for no socket.
fn stream(from: (&Cgroup, &Namespace), to: (&Cgroup, &Namespace), at: SocketAddr, bytes: usize) -> Result<[TcpStream; 2]> {
    let listener = inside(to.0, || to.1.run(|| TcpListener::bind(at).context("could not listen")))?;
    let at = listener.local_addr()?;
    let reader = thread::spawn(move || -> Result<(TcpStream, Vec<u8>)> {
        let (mut stream, _) = listener.accept().context("could not accept")?;
        let mut all = vec![0; bytes];
        stream.read_exact(&mut all).context("could not receive")?;
        stream.write_all(&[1]).context("could not answer")?;
        Ok((stream, all))
    });
    let mut stream = inside(from.0, || from.1.run(|| TcpStream::connect(at).context("could not connect")))?;
    let sent: Vec<u8> = (0..bytes).map(|i| (i / 7) as u8).collect();
    stream.write_all(&sent).context("could not send")?;
    stream.read_exact(&mut [0]).context("no answer")?;
    let (other, received) = reader.join().map_err(|_| anyhow!("the reader panicked"))??;
    ensure!(received == sent, "other bytes arrived than were sent");
    Ok([stream, other])
}

/// Sends datagrams of `size` bytes and reads each before the next is sent.
fn datagrams(from: (&Cgroup, &Namespace), to: (&Cgroup, &Namespace), at: SocketAddr, count: usize, size: usize) -> Result<()> {
    let receiver = inside(to.0, || to.1.run(|| UdpSocket::bind(at).context("could not bind")))?;
    receiver.set_read_timeout(Some(Duration::from_secs(10)))?;
    let at = receiver.local_addr()?;
    let any: SocketAddr = if at.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let sender = inside(from.0, || from.1.run(|| UdpSocket::bind(any).context("could not bind")))?;
    for i in 0..count {
        sender.send_to(&vec![i as u8; size], at).context("could not send")?;
        let mut buffer = vec![0; size + 1];
        let (len, _) = receiver.recv_from(&mut buffer).context("a datagram did not arrive")?;
        ensure!(buffer[..len] == vec![i as u8; size][..], "an altered datagram");
    }
    Ok(())
}

root_test! {
    fn bytes_and_packets_are_those_of_the_wire_also_where_large_packets_are_segmented() {
        let cable = quiet_cable()?;
        let agent = Agent::start(json!({}))?;
        let (client, server) = (Cgroup::new("client")?, Cgroup::new("server")?);
        let ends = ((&client, &cable.near), (&server, &cable.far));
        let before = Counters::of(&cable.near)?;
        let _open = stream(ends.0, ends.1, (FAR, 0).into(), 3_000_000)?;
        datagrams(ends.0, ends.1, (FAR, 0).into(), 50, 1000)?;
        // An acknowledgement may be put off.
        thread::sleep(300 * MS);
        let [received, sent] = Counters::of(&cable.near)?.since(before);
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        let of = |cgroup, direction| [NETWORK_IO, NETWORK_PACKETS].map(|metric| io(&exports, cgroup, metric, direction));
        println!("client received {received:?} and sent {sent:?} bytes and packets");
        ensure!(sent[1] > 2000, "the stream was not cut into segments: {sent:?}");
        ensure!(of(&client, "transmit") == sent, "sent {:?}, over the wire went {sent:?}", of(&client, "transmit"));
        ensure!(of(&client, "receive") == received, "received {:?}, over the wire came {received:?}", of(&client, "receive"));
        ensure!(of(&server, "receive") == sent, "the server received {:?} of {sent:?}", of(&server, "receive"));
        ensure!(of(&server, "transmit") == received, "the server sent {:?} of {received:?}", of(&server, "transmit"));
        let private = egress(&exports, &client, "private");
        ensure!(private == sent[0], "{private} of {} bytes went to a private address", sent[0]);
        Ok(())
    }
}

root_test! {
    fn datagrams_of_both_families_have_their_headers_and_their_scope() {
        const COUNT: u64 = 40;
        const SIZE: u64 = 500;
        let cable = Cable::new()?;
        // By configuration, of the longest prefix: 10.99.0.0/24 is the cluster, one address of it a node.
        let agent = Agent::start(json!({"network": {
            "cluster_cidrs": "10.99.0.0/24,2001:db8::/64", "node_cidrs": "10.99.0.7", "private_cidrs": "10.0.0.0/8"
        }}))?;
        for address in ["10.99.0.7/24", "192.0.2.2/24", "2001:db8::2/64", "2001:db8:1::2/64"] {
            let flag = if address.contains(':') { " nodad" } else { "" };
            cable.far.ip(&format!("address add {address} dev {INTERFACE}{flag}"))?;
        }
        for address in ["192.0.2.1/24", "2001:db8::1/64 nodad", "2001:db8:1::1/64 nodad"] {
            cable.near.ip(&format!("address add {address} dev {INTERFACE}"))?;
        }
        let receiver = Cgroup::new("receiver")?;
        for (to, scope, header) in [
            ("10.99.0.2:0", "cluster", 28),
            ("10.99.0.7:0", "node", 28),
            ("192.0.2.2:0", "internet", 28),
            ("[2001:db8::2]:0", "cluster", 48),
            ("[2001:db8:1::2]:0", "internet", 48),
        ] {
            let sender = Cgroup::new("sender")?;
            datagrams((&sender, &cable.near), (&receiver, &cable.far), to.parse()?, COUNT as usize, SIZE as usize)?;
            agent.catch_up()?;
            let expected = COUNT * (SIZE + header);
            let [sent, packets, scoped] = agent.look(|exports| {
                let of = |metric| io(exports, &sender, metric, "transmit");
                [of(NETWORK_IO), of(NETWORK_PACKETS), egress(exports, &sender, scope)]
            });
            ensure!([sent, packets, scoped] == [expected, COUNT, expected], "to {to}: {sent} B in {packets} packets, {scoped} B {scope}");
        }
        let exports = agent.stop()?.exports;
        let received = io(&exports, &receiver, NETWORK_IO, "receive");
        ensure!(received == 3 * COUNT * (SIZE + 28) + 2 * COUNT * (SIZE + 48), "received {received} B");
        Ok(())
    }
}

root_test! {
    fn addresses_of_this_nodes_pods_are_the_clusters_for_as_long_as_kubernetes_tells_of_them() {
        const BYTES: usize = 1000;
        let cable = quiet_cable()?;
        let server = ApiServer::start(ApiOptions::default())?;
        server.set("nodes", objects::node("node-1", "3800m", "14Gi"));
        let agent = Agent::start(server.agent_config()?)?;
        let (client, other) = (Cgroup::new("client")?, Cgroup::new("server")?);
        // One connection all the time: what was looked up for its socket must not outlive what it was looked up in.
        let [mut near, mut far] = stream((&client, &cable.near), (&other, &cable.far), (FAR, 0).into(), BYTES)?;
        let mut goes_to = |scope: &str| -> Result<()> {
            for _ in 0..20 {
                let before = agent.look(|exports| egress(exports, &client, scope));
                near.write_all(&[7; BYTES])?;
                far.read_exact(&mut [0; BYTES])?;
                agent.catch_up()?;
                let [sent, all] = agent.look(|exports| {
                    let all = ["private", "cluster", "node", "internet"].map(|scope| egress(exports, &client, scope));
                    [egress(exports, &client, scope) - before, all.iter().sum::<u64>().abs_diff(io(exports, &client, NETWORK_IO, "transmit"))]
                });
                ensure!(all == 0, "{all} B went nowhere, or twice");
                if sent as usize > BYTES {
                    return Ok(());
                }
            }
            Err(anyhow!("nothing goes to {scope}"))
        };
        goes_to("private")?;
        let at = |address: &str| {
            let mut pod = Pod::new("web-1", vec![Container::new("app", &container_id())]).json();
            pod["status"]["podIPs"] = json!([{"ip": address}]);
            pod
        };
        let pod = at(&FAR.to_string());
        server.set("pods", pod.clone());
        goes_to("cluster")?;
        server.delete("pods", pod);
        goes_to("private")?;
        // A range of the node's, as most clusters give it one.
        let mut node = objects::node("node-1", "3800m", "14Gi");
        node["spec"]["podCIDRs"] = json!(["10.99.0.0/24"]);
        server.set("nodes", node);
        goes_to("cluster")?;
        agent.stop().map(drop)
    }
}

root_test! {
    fn loopback_is_apart_and_a_short_container_with_one_connection_is_exported() {
        let namespace = Namespace::new()?;
        let agent = Agent::start(json!({}))?;
        let server = Cgroup::new("loopback-server")?;
        let client = Cgroup::new("loopback-client")?;
        let path = client.path().to_owned();
        let open = stream((&client, &namespace), (&server, &namespace), ([127, 0, 0, 1], 0).into(), 100_000)?;
        // An acknowledgement may be put off.
        thread::sleep(300 * MS);
        client.remove()?;
        (0..4).try_for_each(|_| agent.catch_up())?;
        let exports = agent.stop()?.exports;
        let looped = |direction| exports.value(&path, NETWORK_LOOPBACK, &[("network.io.direction", direction)]);
        let sent = looped("transmit").context("what the short container sent was not exported")?;
        // Headers of at most one segment per KiB, and the acknowledgements are what is received.
        ensure!((100_000.0..106_000.0).contains(&sent), "{sent} B over loopback");
        ensure!(looped("receive").is_some_and(|n| n > 0.0), "nothing came back");
        ensure!(exports.value(&path, NETWORK_IO, &[]).is_none(), "loopback was counted as network");
        let received = io(&exports, &server, NETWORK_LOOPBACK, "receive");
        ensure!(received as f64 == sent, "one end sent {sent} B, the other received {received} B");
        drop(open);
        Ok(())
    }
}

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
            let server = Resolver::start(&served, stage::v4())?;
            let lookups = |agent: &Agent| -> Result<()> {
                let socket = inside(&client, || dns::udp(server.address()))?;
                (0..5).try_for_each(|id| ask(&socket, id, "fine.test").map(drop))?;
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
            let said = agent.stderr();
            let why = |program: &str| said.contains(&format!("could not attach {program}: program "));
            ensure!(said.contains("(in_the_way) is attached to"), "it does not say what is in the way: {said}");
            let name = if direction == Direction::Ingress { "ingress" } else { "egress" };
            ensure!(why(&format!("network_on_{name}")) && why(&format!("dns_on_{name}")), "{said}");
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

root_test! {
    fn a_datagram_above_the_mtu_is_one_packet_at_both_ends_and_many_fragments_on_the_wire() {
        const COUNT: u64 = 20;
        const SIZE: u64 = 60_000;
        let cable = quiet_cable()?;
        let agent = Agent::start(json!({}))?;
        let (sender, receiver) = (Cgroup::new("sender")?, Cgroup::new("receiver")?);
        let before = Counters::of(&cable.near)?;
        let ends = ((&sender, &cable.near), (&receiver, &cable.far));
        datagrams(ends.0, ends.1, (FAR, 0).into(), COUNT as usize, SIZE as usize)?;
        let [_, [bytes, fragments]] = Counters::of(&cable.near)?.since(before);
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        for (cgroup, direction) in [(&sender, "transmit"), (&receiver, "receive")] {
            let found = [NETWORK_IO, NETWORK_PACKETS].map(|metric| io(&exports, cgroup, metric, direction));
            ensure!(found == [COUNT * (SIZE + 28), COUNT], "{direction}: {found:?} bytes and packets of {COUNT} datagrams");
        }
        // 1480 bytes of a datagram and its header fit into each, behind an IP header of their own.
        ensure!(fragments == COUNT * 41, "{fragments} fragments went over the wire");
        ensure!(bytes == COUNT * (SIZE + 28) + (fragments - COUNT) * 20, "{bytes} bytes went over the wire");
        Ok(())
    }
}

/// A raw socket of a protocol, of this cgroup and namespace.
fn raw(cgroup: &Cgroup, namespace: &Namespace, protocol: Protocol) -> Result<Socket> {
    let socket =
        || Socket::new(Domain::IPV4, Type::from(nix::libc::SOCK_RAW), Some(protocol)).context("could not make a raw socket");
    let socket = inside(cgroup, || namespace.run(socket))?;
    socket.set_read_timeout(Some(patience(10_000 * MS)))?;
    Ok(socket)
}

root_test! {
    fn copies_of_packets_that_raw_sockets_get_are_not_counted_and_a_ping_is() {
        let cable = quiet_cable()?;
        let agent = Agent::start(json!({}))?;
        let (client, server) = (Cgroup::new("client")?, Cgroup::new("server")?);
        let (sniffer, pinger) = (Cgroup::new("sniffer")?, Cgroup::new("pinger")?);
        let sniffers = [raw(&sniffer, &cable.far, Protocol::UDP)?, raw(&sniffer, &cable.far, Protocol::TCP)?];
        let ends = ((&client, &cable.near), (&server, &cable.far));
        let node = |exports: &Exports| exports.node_value("k8s.node.network.io", &[("network.io.direction", "receive")]);
        agent.catch_up()?;
        let before = agent.look(node).context("the node's total is not exported")?;
        datagrams(ends.0, ends.1, (FAR, 0).into(), 100, 10_000)?;
        let open = stream(ends.0, ends.1, (FAR, 0).into(), 1_000_000)?;
        // An acknowledgement may be put off.
        thread::sleep(300 * MS);
        // An echo request (RFC 792), whose answer the raw socket alone receives.
        let ping = raw(&pinger, &cable.near, Protocol::ICMPV4)?;
        let mut echo = [8_u8, 0, 0, 0, 0x12, 0x34, 0, 1];
        let sum = !(0x0800_u16 + 0x1234 + 1);
        echo[2..4].copy_from_slice(&sum.to_be_bytes());
        ping.send_to(&echo, &SocketAddr::from((FAR, 0)).into()).context("could not send an echo request")?;
        let mut answer = [std::mem::MaybeUninit::uninit(); 64];
        ensure!(ping.recv(&mut answer).context("no echo")? == 28, "another packet than the echo");
        agent.catch_up()?;
        let after = agent.look(node).context("the node's total is not exported")?;
        let exports = agent.stop()?.exports;
        for sniffer_socket in &sniffers {
            ensure!(sniffer_socket.recv(&mut answer).is_ok(), "the sniffer got no copy: this would prove nothing");
        }
        let received = |cgroup| [NETWORK_IO, NETWORK_PACKETS].map(|metric| io(&exports, cgroup, metric, "receive"));
        ensure!(received(&sniffer) == [0, 0], "copies were counted: {:?}", received(&sniffer));
        ensure!(received(&pinger) == [28, 1], "the ping received {:?}", received(&pinger));
        let expected = received(&server)[0] + received(&client)[0] + 28;
        ensure!(expected > 2_000_000, "the server received {:?}", received(&server));
        // Whatever else the machine receives meanwhile is little.
        let total = (after - before) as u64;
        ensure!((expected..expected + expected / 4).contains(&total), "the node received {total} B, its sockets {expected} B");
        drop(open);
        Ok(())
    }
}

root_test! {
    fn what_a_passed_on_listener_accepts_belongs_to_who_made_the_listener() {
        const BYTES: usize = 500_000;
        let cable = quiet_cable()?;
        let agent = Agent::start(json!({}))?;
        let (client, made, serves) = (Cgroup::new("client")?, Cgroup::new("made")?, Cgroup::new("serves")?);
        // As systemd does for a service that is activated by its socket.
        let listener = inside(&made, || cable.far.run(|| TcpListener::bind((FAR, 0)).context("could not listen")))?;
        let at = listener.local_addr()?;
        let mut stream = inside(&client, || cable.near.run(|| TcpStream::connect(at).context("could not connect")))?;
        let reader = thread::spawn(move || -> Result<TcpStream> {
            stream.read_exact(&mut vec![0; BYTES]).context("could not receive")?;
            Ok(stream)
        });
        let accepted = inside(&serves, || {
            let (mut accepted, _) = listener.accept().context("could not accept")?;
            accepted.write_all(&vec![7; BYTES]).context("could not send")?;
            Ok(accepted)
        })?;
        let stream = reader.join().map_err(|_| anyhow!("the reader panicked"))??;
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        let sent = [&made, &serves].map(|cgroup| io(&exports, cgroup, NETWORK_IO, "transmit"));
        ensure!(sent[0] > BYTES as u64 && sent[1] == 0, "who made the listener sent {} B, who accepts {} B", sent[0], sent[1]);
        drop((accepted, stream));
        Ok(())
    }
}
