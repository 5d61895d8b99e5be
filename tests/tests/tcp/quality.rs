//! What the kernel keeps of how well connections do, against the counts of the namespace and what the socket itself reports.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::libc;
use podmeter_tests::{
    MS,
    agent::Agent,
    cgroup::{Cgroup, inside},
    metric::{CONNECTIONS, CONNECTIONS_OPENED, OUT_OF_ORDER, RETRANSMITS, SHORTEST_RTT, SPURIOUS, WINDOW_LIMITED},
    namespace::{Cable, FAR, Resident},
    otlp::Exports,
    root_test,
    tcp::{connect, finish, joined, send, server},
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
    let listener = inside(served, || cable.far.run(|| TcpListener::bind("0.0.0.0:0").context("could not listen")))?;
    let stream = connect(client, &cable.near, SocketAddr::from((FAR, listener.local_addr()?.port())))?;
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
        let duplicates = cable.near.count("TcpExt", "TCPDSACKRecvSegs")?;
        println!("{disordered} segments out of order, {duplicates} duplicates reported");
        ensure!(disordered > 0 && duplicates > 0, "nothing came out of order or twice: this would prove nothing");
        let counted = |cgroup: &Cgroup, metric| exports.value(cgroup.path(), metric, &[]).unwrap_or(0.0);
        // The namespace counts packets, and the socket the segments that were merged into them.
        at_least("segments out of order", counted(&served, OUT_OF_ORDER), disordered)?;
        // It leaves out what was reported more often than it was sent again, since the network doubled it.
        let doubled = cable.near.count("TcpExt", "TCPDSACKIgnoredDubious")?;
        at_least("spurious segments", counted(&client, SPURIOUS), duplicates + doubled)?;
        ensure!(counted(&client, RETRANSMITS) > 0.0, "nothing was sent again");
        Ok(())
    }
}

fn connections(exports: &Exports, cgroup: &Cgroup, metric: &str) -> [Option<f64>; 3] {
    ["client", "server", "unknown"].map(|side| exports.value(cgroup.path(), metric, &[("side", side)]))
}

root_test! {
    fn tcp_connections_are_counted_by_side_when_they_open_and_while_they_are() {
        let cable = Cable::new()?;
        let delayed = cable.far.impair(0, 20);
        let (client, served) = (Cgroup::new("client")?, Cgroup::new("server")?);
        let agent = Agent::start(json!({}))?;
        let listener = inside(&served, || cable.far.run(|| TcpListener::bind("0.0.0.0:0").context("could not listen")))?;
        let address = SocketAddr::from((FAR, listener.local_addr()?.port()));
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
