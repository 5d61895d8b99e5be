//! Raw sockets and listeners that are passed on, against the interface's and the test's own counts.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use podmeter_tests::{
    MS,
    agent::Agent,
    cgroup::{Cgroup, inside},
    metric::{NETWORK_IO, NETWORK_PACKETS},
    namespace::{FAR, Namespace},
    otlp::Exports,
    patience, root_test,
};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use super::interface::quiet_cable;
use super::{datagrams, io, stream};

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
