//! What the kernel keeps of how well connections do, against the counts of the namespace and what the socket itself reports.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::libc;
use podmeter_tests::{
    MS,
    agent::Agent,
    cgroup::{Cgroup, inside},
    metric::{
        ACCEPT_DURATION, CONNECTIONS, CONNECTIONS_OPENED, OUT_OF_ORDER, RETRANSMITS, RETRANSMITS_BY_REASON, SHORTEST_RTT,
        SPURIOUS, UNACKNOWLEDGED, WINDOW_LIMITED,
    },
    namespace::{Cable, INTERFACE, Namespace, Resident},
    otlp::Exports,
    root_test,
    tcp::{acknowledged, connect, finish, joined, listen, send, server},
    truth::Tolerance,
};
use serde_json::json;

use crate::check_rtt;

/// For how long a connection has waited for the other end's window, in s (`tcpi_rwnd_limited`).
fn window_limited_s(stream: &TcpStream) -> Result<f64> {
    /// Where `struct tcp_info` has it: ABI.
    const AT: usize = 176;
    let mut info = [0_u8; 256];
    let mut len: libc::socklen_t = 256;
    // SAFETY: the kernel writes at most `len` bytes of a live array.
    let done = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len)
    };
    ensure!(done == 0 && len as usize >= AT + 8, "could not read TCP_INFO: {len} bytes");
    let us = info.get(AT..AT + 8).and_then(|us| us.try_into().ok()).map(u64::from_ne_bytes).context("TCP_INFO is too short")?;
    Ok(us as f64 / 1e6)
}

/// A client's connection to a listener that has accepted it and reads nothing.
fn unread(client: &Cgroup, served: &Cgroup, cable: &Cable) -> Result<(TcpStream, TcpStream)> {
    let (listener, address) = listen(served, &cable.far)?;
    let stream = connect(client, &cable.near, address)?;
    Ok((stream, listener.accept()?.0))
}

/// Writes until the socket takes no more for so long.
fn fill(stream: &mut TcpStream, full_for: Duration) -> Result<()> {
    stream.set_nonblocking(true)?;
    let mut last = Instant::now();
    while last.elapsed() < full_for {
        match stream.write(&[7; 65536]) {
            Ok(_) => last = Instant::now(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(10 * MS),
            Err(error) => return Err(error).context("could not send"),
        }
    }
    Ok(())
}

root_test! {
    fn tcp_time_limited_by_the_window_is_what_the_socket_itself_reports() {
        let cable = Cable::new()?;
        let (client, served) = (Cgroup::new("client")?, Cgroup::new("server")?);
        let agent = Agent::start(json!({}))?;
        let (mut stream, mut accepted) = unread(&client, &served, &cable)?;
        fill(&mut stream, Duration::from_secs(2))?;
        let living_s = window_limited_s(&stream)?;
        ensure!(living_s >= 1.5, "the window was full for {living_s} s only: this would prove nothing");
        // Without the walk a connection is looked at when the other end acknowledges, which it does when it reads.
        if !agent.stderr().contains("tcp_on_walk is not loaded") {
            agent.wait_for("the wait of a connection that lives", Duration::from_secs(10), |exports| {
                exports.value(client.path(), WINDOW_LIMITED, &[]).filter(|s| *s >= living_s - 0.02)
            })?;
        }
        let mut read = 0;
        accepted.set_read_timeout(Some(Duration::from_secs(1)))?;
        while let Ok(n @ 1..) = accepted.read(&mut [0; 65536]) {
            read += n;
        }
        let truth_s = window_limited_s(&stream)?;
        println!("{read} bytes; {living_s} s while it was full, {truth_s} s at the end by TCP_INFO");
        drop((stream, accepted));
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        let counted_s = exports.value(client.path(), WINDOW_LIMITED, &[]).context("no time limited by the window")?;
        // Each of the waits is in jiffies on both sides.
        Tolerance::new(0.0, 0.02).check("s limited by the window", counted_s, truth_s)?;
        let of_server = exports.value(served.path(), WINDOW_LIMITED, &[]);
        ensure!(of_server.is_none(), "the server sent nothing and waited {of_server:?} s");
        Ok(())
    }
}

/// Fails unless `measured` is `truth`, or up to a fifth more.
fn at_least(what: &str, measured: f64, truth: u64) -> Result<()> {
    let range = truth as f64..=truth as f64 * 1.2 + 1.0;
    ensure!(range.contains(&measured), "{what}: {measured}, not within {range:?}");
    Ok(())
}

root_test! {
    fn tcp_segments_out_of_order_and_spurious_ones_are_what_the_namespace_counts() {
        let cable = Cable::new()?;
        if !cable.near.disturb("delay 5ms loss 3% duplicate 5%") {
            eprintln!("SKIPPED {TEST}: this kernel has no sch_netem");
            return Ok(());
        }
        let (client, served) = (Cgroup::new("client")?, Cgroup::new("server")?);
        let agent = Agent::start(json!({}))?;
        let (address, server) = server(&served, &cable.far, 2)?;
        for _ in 0..2 {
            let mut stream = connect(&client, &cable.near, address)?;
            send(&mut stream, 600)?;
            finish(stream)?;
        }
        joined(server)?;
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        let disordered = cable.far.count("TcpExt", "TCPOFOQueue")?;
        // The second has what was reported more often than it was sent again, since the network doubled it.
        let duplicates = cable.near.count("TcpExt", "TCPDSACKRecvSegs")? + cable.near.count("TcpExt", "TCPDSACKIgnoredDubious")?;
        println!("{disordered} segments out of order, {duplicates} duplicates reported");
        ensure!(disordered > 0 && duplicates > 0, "nothing came out of order or twice: this would prove nothing");
        let counted = |cgroup: &Cgroup, metric| exports.value(cgroup.path(), metric, &[]).unwrap_or(0.0);
        // The namespace counts packets, and the socket the segments that were merged into them.
        at_least("segments out of order", counted(&served, OUT_OF_ORDER), disordered)?;
        at_least("spurious segments", counted(&client, SPURIOUS), duplicates)?;
        ensure!(counted(&client, RETRANSMITS) > 0.0, "nothing was sent again");
        Ok(())
    }
}

/// Fails unless what a cgroup sent again is, reason by reason, what the namespace counts, and altogether what is counted without a reason.
pub(crate) fn check_reasons(exports: &Exports, cgroup: &Cgroup, namespace: &Namespace) -> Result<[f64; 4]> {
    let of = |reason| exports.value(cgroup.path(), RETRANSMITS_BY_REASON, &[("reason", reason)]).unwrap_or(0.0);
    let counted = ["fast", "timeout", "tail_loss_probe", "handshake"].map(of);
    let [fast, handshake] = ["TCPFastRetrans", "TCPSynRetrans"].map(|name| namespace.count("TcpExt", name));
    let truth = (fast? as f64, handshake? as f64, namespace.count("Tcp", "RetransSegs")? as f64);
    let found = (counted[0], counted[3], counted.iter().sum::<f64>());
    ensure!(found == truth, "{counted:?}: fast, handshake and all are {found:?}, in the namespace {truth:?}");
    let all = exports.value(cgroup.path(), RETRANSMITS, &[]).unwrap_or(0.0);
    ensure!(all == truth.2, "{all} are counted without a reason, {counted:?} with one");
    Ok(counted)
}

root_test! {
    fn tcp_segments_are_sent_again_for_the_reasons_that_the_namespace_counts_and_what_is_lost_at_the_end_is_counted() {
        let cable = Cable::new()?;
        let (client, served) = (Cgroup::new("client")?, Cgroup::new("server")?);
        let agent = Agent::start(json!({}))?;
        // A neighbour whose address is known and who is not there.
        let silent = Ipv4Addr::new(10, 99, 0, 8);
        cable.near.ip(&format!("neigh add {silent} lladdr 02:00:00:00:00:08 dev {INTERFACE}"))?;
        cable.near.sysctl("ipv4/tcp_syn_retries", "1")?;
        let refused = inside(&client, || cable.near.run(|| Ok(TcpStream::connect((silent, 80)).is_err())))?;
        ensure!(refused, "a connect to an absent host succeeded");

        let (mut stream, accepted) = unread(&client, &served, &cable)?;
        // Round trips, by which the connection knows when to send a probe.
        send(&mut stream, 20)?;
        acknowledged(&cable.near)?;
        // The other end is no longer who it was: nothing is answered.
        cable.far.ip(&format!("addr flush dev {INTERFACE}"))?;
        stream.write_all(&[7; 1000]).context("could not send")?;
        let deadline = Instant::now() + Duration::from_secs(30);
        let count = |name| cable.near.count("TcpExt", name);
        while cable.near.count("Tcp", "RetransSegs")? < count("TCPLossProbes")? + count("TCPSynRetrans")? + 2 {
            ensure!(Instant::now() < deadline, "nothing was sent again after a timeout");
            std::thread::sleep(10 * MS);
        }
        let lost = cable.near.unacknowledged()?;
        ensure!(lost == 1000, "{lost} bytes are not acknowledged: this would prove nothing");
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        drop((stream, accepted));
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        let [_, timeouts, probes, handshake] = check_reasons(&exports, &client, &cable.near)?;
        let sent_probes = count("TCPLossProbes")? as f64;
        println!("{timeouts} timeouts, {probes} of {sent_probes} probes, {handshake} SYNs");
        ensure!(timeouts >= 2.0 && handshake >= 1.0, "{timeouts} timeouts, {handshake} SYNs");
        ensure!(probes == sent_probes, "{probes} probes, and the namespace counts {sent_probes}");
        let counted = exports.value(client.path(), UNACKNOWLEDGED, &[]);
        ensure!(counted == Some(1000.0), "{counted:?} bytes were never acknowledged, not 1000");
        let of_server = exports.value(served.path(), UNACKNOWLEDGED, &[]);
        ensure!(of_server.is_none(), "the server sent nothing, and {of_server:?} bytes of it were never acknowledged");
        Ok(())
    }
}

root_test! {
    fn tcp_connections_that_wait_to_be_accepted_are_counted_for_the_listener_with_how_long_they_wait() {
        let cable = Cable::new()?;
        let (client, served) = (Cgroup::new("client")?, Cgroup::new("server")?);
        let agent = Agent::start(json!({}))?;
        if agent.stderr().contains("no time in which connections wait to be accepted") || agent.stderr().contains("this kernel is older than 5.11") {
            eprintln!("SKIPPED {TEST}: no program can be at inet_csk_accept on this kernel, or use socket storage there");
            return agent.stop().map(drop);
        }
        let (listener, address) = listen(&served, &cable.far)?;
        let (mut streams, mut least_s, mut most_s) = (Vec::new(), 0.0, 0.0);
        for wait in [0, 100, 300] {
            let before = Instant::now();
            streams.push(connect(&client, &cable.near, address)?);
            let waits = Instant::now();
            std::thread::sleep(wait * MS);
            least_s += waits.elapsed().as_secs_f64();
            streams.push(listener.accept()?.0);
            most_s += before.elapsed().as_secs_f64();
        }
        // One that nobody accepts has waited for nothing.
        streams.push(connect(&client, &cable.near, address)?);
        drop((streams, listener));
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        let waits = exports.histogram(served.path(), ACCEPT_DURATION).context("nothing waited")?;
        println!("{} waits of {} s, by the clock {least_s} to {most_s} s", waits.count, waits.sum);
        ensure!(waits.count == 3, "{} connections were accepted, not 3", waits.count);
        ensure!(waits.sum >= least_s - 0.01 && waits.sum <= most_s, "{} s, by the clock {least_s} to {most_s} s", waits.sum);
        ensure!(exports.histogram(client.path(), ACCEPT_DURATION).is_none(), "the client accepted something");
        Ok(())
    }
}

pub(crate) fn connections(exports: &Exports, cgroup: &Cgroup, metric: &str) -> [Option<f64>; 3] {
    ["client", "server", "unknown"].map(|side| exports.value(cgroup.path(), metric, &[("side", side)]))
}

root_test! {
    fn tcp_connections_are_counted_by_side_when_they_open_and_while_they_are() {
        let cable = Cable::new()?;
        let delayed = cable.far.impair(0, 20);
        let (client, served) = (Cgroup::new("client")?, Cgroup::new("server")?);
        let agent = Agent::start(json!({}))?;
        let (listener, address) = listen(&served, &cable.far)?;
        let pair = |_| Ok((connect(&client, &cable.near, address)?, listener.accept()?.0));
        let mut pairs = (0..5).map(pair).collect::<Result<Vec<_>>>()?;
        pairs.truncate(3);
        agent.wait_for("three connections that are open", Duration::from_secs(10), |exports| {
            let is_open = connections(exports, &client, CONNECTIONS) == [Some(3.0), None, None];
            (is_open && connections(exports, &served, CONNECTIONS) == [None, Some(3.0), None]).then_some(())
        })?;
        drop(pairs);
        agent.wait_for("none that is open", Duration::from_secs(10), |exports| {
            let is_open = connections(exports, &client, CONNECTIONS) == [Some(0.0), None, None];
            (is_open && connections(exports, &served, CONNECTIONS) == [None, Some(0.0), None]).then_some(())
        })?;
        let exports = agent.stop()?.exports;
        let opened = [&client, &served].map(|cgroup| connections(&exports, cgroup, CONNECTIONS_OPENED));
        ensure!(opened == [[Some(5.0), None, None], [None, Some(5.0), None]], "{opened:?} were opened");
        let shortest = exports.histogram(client.path(), SHORTEST_RTT).context("no shortest round trip")?;
        ensure!(shortest.count == 5, "{} connections had a shortest round trip", shortest.count);
        if delayed {
            check_rtt(shortest, 20.0)?;
        }
        Ok(())
    }
}

root_test! {
    fn an_older_tcp_connection_that_is_open_is_counted_without_its_side() {
        let cable = Cable::new()?;
        let (client, served) = (Cgroup::new("client")?, Cgroup::new("server")?);
        // The agent looks for sockets where there are processes.
        let _residents = [Resident::new(&client, &cable.near)?, Resident::new(&served, &cable.far)?];
        let (stream, accepted) = unread(&client, &served, &cable)?;
        let agent = Agent::start(json!({}))?;
        if agent.stderr().contains("connections that are older than this start are not counted") {
            eprintln!("SKIPPED {TEST}: tracing programs cannot use socket storage on this kernel");
            return agent.stop().map(drop);
        }
        agent.wait_for("an older connection", Duration::from_secs(10), |exports| {
            (connections(exports, &client, CONNECTIONS) == [None, None, Some(1.0)]).then_some(())
        })?;
        drop((stream, accepted));
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        // What is open no more, and was never counted as opened, has no series.
        let last = connections(&exports, &client, CONNECTIONS);
        ensure!(last[0].is_none() && last[1].is_none(), "{last:?} are open");
        Ok(())
    }
}
