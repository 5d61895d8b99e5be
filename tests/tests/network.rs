//! The network signal against counted bytes and against the counters of an interface.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::sys::{Stats, enable_stats};
use podmeter_tests::{
    agent::Agent,
    cgroup::{Cgroup, inside, mount_point},
    kubernetes::{
        Options, Server,
        objects::{self, Container, Pod, container_id},
    },
    metric::{NETWORK_EGRESS, NETWORK_IO, NETWORK_LOOPBACK, NETWORK_PACKETS},
    namespace::{Cable, FAR, INTERFACE, NEAR, Namespace},
    otlp::Exports,
    program::{Direction, PASS, Program},
    root_test,
};
use serde_json::json;

const MS: Duration = Duration::from_millis(1);

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
        let server = Server::start(Options::default())?;
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
