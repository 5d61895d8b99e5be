//! Bytes and packets against what the test sent and the counters of an interface.

mod interface;
mod programs;
mod sockets;

use std::{
    io::{Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use podmeter_tests::{
    MS,
    agent::Agent,
    cgroup::{Cgroup, inside},
    kubernetes::{
        ApiOptions, ApiServer, Container, Pod,
        objects::{self, container_id},
    },
    metric::{NETWORK_EGRESS, NETWORK_IO, NETWORK_LOOPBACK, NETWORK_PACKETS},
    namespace::{Cable, FAR, INTERFACE, Namespace},
    otlp::Exports,
    root_test,
};
use serde_json::json;

use self::interface::{Counters, quiet_cable};

/// Ethernet's header, which an interface counts and an IP packet does not have.
const LINK: u64 = 14;

fn io(exports: &Exports, cgroup: &Cgroup, metric: &str, direction: &str) -> u64 {
    exports.value(cgroup.path(), metric, &[("network.io.direction", direction)]).unwrap_or(0.0) as u64
}

fn egress(exports: &Exports, cgroup: &Cgroup, scope: &str) -> u64 {
    exports.value(cgroup.path(), NETWORK_EGRESS, &[("scope", scope)]).unwrap_or(0.0) as u64
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
    fn addresses_of_this_nodes_pods_are_the_clusters_for_as_long_as_kubernetes_lists_them() {
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
