//! The tcp signal against what the kernel counts in the network namespace (`/proc/net/snmp`), and against provoked events.

mod quality;

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    MS,
    agent::Agent,
    cgroup::{Cgroup, inside},
    is_emulated,
    metric::{
        CONNECT_DURATION, CONNECT_FAILURES, CONNECTIONS, CONNECTIONS_OPENED, LISTEN_DROPS, RESETS, RETRANSMITS, RTT, SEGMENTS,
    },
    namespace::{Cable, FAR, INTERFACE, Namespace, Resident},
    otlp::{Exports, Histogram},
    root_test,
    tcp::{acknowledged, connect, finish, joined, listen, send, server, while_walking},
    truth::Tolerance,
};
use serde_json::json;
use socket2::{Domain, Socket, Type};

/// Segments that are sent for no socket: what a closed connection answers to a FIN that was sent again.
const STRAY: f64 = 3.0;

/// `OutSegs` and `RetransSegs` of a namespace.
fn sent(namespace: &Namespace) -> Result<[u64; 2]> {
    Ok([namespace.count("Tcp", "OutSegs")?, namespace.count("Tcp", "RetransSegs")?])
}

/// Compares what was exported of a cgroup with what its namespace has counted since `before`.
fn check_segments(exports: &Exports, cgroup: &Cgroup, namespace: &Namespace, before: [u64; 2]) -> Result<u64> {
    let [segments, retransmits] = sent(namespace)?;
    let (segments, retransmits) = (segments - before[0], retransmits - before[1]);
    let exported = |metric| exports.value(cgroup.path(), metric, &[]).with_context(|| format!("{metric} was never exported"));
    println!("{}: {segments} segments, {retransmits} retransmits by /proc/net/snmp", cgroup.path());
    Tolerance::new(0.0, STRAY).check("segments", exported(SEGMENTS)?, segments as f64)?;
    Tolerance::new(0.0, 0.0).check("retransmits", exported(RETRANSMITS)?, retransmits as f64)?;
    Ok(retransmits)
}

/// The median is within 10 % of `ms`. An emulated CPU that others share adds its own time to every round trip.
fn check_rtt(rtt: &Histogram, ms: f64) -> Result<()> {
    let (low, high) = rtt.quantile_bounds(0.5).context("no round trip was observed")?;
    let slack_s = if is_emulated() { 0.02 } else { 0.0 };
    ensure!(
        low <= ms / 1e3 * 1.1 + slack_s && high >= ms / 1e3 * 0.9,
        "the median of the round trips is within {low} and {high} s, not {ms} ms: {rtt:?}"
    );
    Ok(())
}

fn failures(exports: &Exports, cgroup: &Cgroup, cause: &str) -> f64 {
    exports.value(cgroup.path(), CONNECT_FAILURES, &[("error.type", cause)]).unwrap_or(0.0)
}

fn loss_is_what_the_kernel_counts(test: &str, percent: u32) -> Result<()> {
    let cable = Cable::new()?;
    if !cable.near.impair(percent, 20) {
        eprintln!("SKIPPED {test}: this kernel has no sch_netem");
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
    ensure!(joined(server)? == 2 * 600 * 1000, "the server did not get every byte");
    agent.catch_up()?;
    let exports = agent.stop()?.exports;
    let retransmits = check_segments(&exports, &client, &cable.near, [0, 0])?;
    ensure!(retransmits > 0, "nothing was lost: this would prove nothing");
    check_segments(&exports, &served, &cable.far, [0, 0])?;
    let [fast, ..] = quality::check_reasons(&exports, &client, &cable.near)?;
    ensure!(fast > 0.0, "nothing was sent again for acknowledgements");
    let rtt = exports.histogram(client.path(), RTT).context("no round trips")?;
    ensure!(rtt.count >= 20, "only {} round trips in more than a second", rtt.count);
    check_rtt(rtt, 20.0)
}

root_test! {
    fn a_tcp_loss_of_1_percent_gives_the_kernels_own_retransmit_ratio_and_the_delay_as_rtt() {
        loss_is_what_the_kernel_counts(TEST, 1)
    }
}

root_test! {
    fn a_tcp_loss_of_5_percent_gives_the_kernels_own_retransmit_ratio_and_the_delay_as_rtt() {
        loss_is_what_the_kernel_counts(TEST, 5)
    }
}

root_test! {
    fn tcp_segments_of_many_short_connections_equal_the_namespaces_own_count() {
        let cable = Cable::new()?;
        let (client, served) = (Cgroup::new("client")?, Cgroup::new("server")?);
        let agent = Agent::start(json!({}))?;
        let (address, server) = server(&served, &cable.far, 50)?;
        for _ in 0..50 {
            let mut stream = connect(&client, &cable.near, address)?;
            stream.write_all(&[1; 20_000])?;
            finish(stream)?;
        }
        joined(server)?;
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        check_segments(&exports, &client, &cable.near, [0, 0])?;
        check_segments(&exports, &served, &cable.far, [0, 0])?;
        let connects = exports.histogram(client.path(), CONNECT_DURATION).context("no connects")?;
        ensure!(connects.count == 50, "{} connects", connects.count);
        let accepted = exports.histogram(served.path(), CONNECT_DURATION);
        ensure!(accepted.is_none(), "a server does not connect: {accepted:?}");
        Ok(())
    }
}

root_test! {
    fn what_is_counted_by_a_walk_and_by_a_close_at_the_same_moment_is_counted_once() {
        // An emulated CPU is slow, and stands still just where two programs meet.
        let connections: u32 = if is_emulated() { 200 } else { 1500 };
        let cable = Cable::new()?;
        let (client, served) = (Cgroup::new("client")?, Cgroup::new("server")?);
        let agent = Agent::start(json!({}))?;
        if agent.stderr().contains("this kernel is older than 5.11") {
            eprintln!("SKIPPED {TEST}: needs Linux 5.12, before which programs cannot compare and exchange");
            return agent.stop().map(drop);
        }
        let (address, server) = server(&served, &cable.far, connections as usize)?;
        let walked = while_walking(|| inside(&client, || cable.near.run(|| {
            for n in 0..connections {
                let mut stream = TcpStream::connect(address).context("could not connect")?;
                stream.write_all(&[1; 200_000][..n as usize * 100]).context("could not send")?;
                finish(stream)?;
            }
            Ok(())
        })))?;
        let Some(((), walks)) = walked else {
            eprintln!("SKIPPED {TEST}: this kernel does not walk over all sockets");
            return agent.stop().map(drop);
        };
        println!("{walks} walks during {connections} connections");
        joined(server)?;
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        check_segments(&exports, &client, &cable.near, [0, 0])?;
        check_segments(&exports, &served, &cable.far, [0, 0])?;
        for (side, cgroup) in [(0, &client), (1, &served)] {
            let [opened, open] =
                [CONNECTIONS_OPENED, CONNECTIONS].map(|metric| quality::connections(&exports, cgroup, metric)[side]);
            ensure!(opened == Some(connections.into()) && open == Some(0.0), "side {side}: {opened:?} were opened, {open:?} are open");
        }
        Ok(())
    }
}

root_test! {
    fn tcp_connections_are_counted_where_programs_cannot_compare_and_exchange() {
        a_living_connection("cmpxchg")
    }
}

/// A connection that is there before the agent is, which does without these programs.
fn an_older_connection(test: &str, without: &str) -> Result<()> {
    let cable = Cable::new()?;
    let impaired = cable.near.impair(5, 20);
    let (client, served) = (Cgroup::new("client")?, Cgroup::new("server")?);
    // The agent looks for sockets where there are processes.
    let _residents = [Resident::new(&client, &cable.near)?, Resident::new(&served, &cable.far)?];
    let (address, server) = server(&served, &cable.far, 1)?;
    let mut stream = connect(&client, &cable.near, address)?;
    send(&mut stream, 50)?;
    acknowledged(&cable.near)?;
    let before = [sent(&cable.near)?, sent(&cable.far)?];
    let agent = Agent::start(json!({"bpf": {"leave_out": without}}))?;
    if agent.stderr().contains("connections that are older than this start are not counted") {
        eprintln!("SKIPPED {test}: tracing programs cannot use socket storage on this kernel");
        return Ok(());
    }
    send(&mut stream, 600)?;
    agent.catch_up()?;
    // As few as 411 when pieces that wait share segments of 1460 bytes. A namespace's turn may come a collection later.
    agent.wait_for("what a connection that lives has sent: 600 pieces", Duration::from_secs(10), |exports| {
        exports.value(client.path(), SEGMENTS, &[]).filter(|segments| *segments >= 400.0)
    })?;
    send(&mut stream, 600)?;
    finish(stream)?;
    joined(server)?;
    agent.catch_up()?;
    let exports = agent.stop()?.exports;
    let retransmits = check_segments(&exports, &client, &cable.near, before[0])?;
    check_segments(&exports, &served, &cable.far, before[1])?;
    let rtt = exports.histogram(client.path(), RTT).context("no round trips")?;
    if !impaired {
        ensure!(rtt.count > 0, "no round trip was observed");
        eprintln!("SKIPPED {test}: its loss and delay, since this kernel has no sch_netem; the rest was checked");
        return Ok(());
    }
    ensure!(retransmits > 0, "nothing was lost: this would prove nothing");
    check_rtt(rtt, 20.0)
}

root_test! {
    fn a_tcp_connection_that_is_older_than_the_agent_is_counted_from_its_start_on() {
        an_older_connection(TEST, "")
    }
}

root_test! {
    fn an_older_tcp_connection_is_counted_where_the_walk_over_all_sockets_is_refused() {
        an_older_connection(TEST, "tcp_on_walk")
    }
}

/// What the agent exports of a connection that lives, without these programs: all that the kernel has counted, in time.
fn a_living_connection(without: &str) -> Result<()> {
    let cable = Cable::new()?;
    let lossy = cable.near.impair(2, 5);
    let (client, served) = (Cgroup::new("client")?, Cgroup::new("server")?);
    let agent = Agent::start(json!({"bpf": {"leave_out": without}}))?;
    let (address, server) = server(&served, &cable.far, 1)?;
    let mut stream = connect(&client, &cable.near, address)?;
    send(&mut stream, 600)?;
    acknowledged(&cable.near)?;
    let [segments, retransmits] = sent(&cable.near)?;
    ensure!(!lossy || retransmits > 0, "nothing was lost: this would prove nothing");
    agent.wait_for("every segment of a connection that lives", Duration::from_secs(10), |exports| {
        let exported = |metric| exports.value(client.path(), metric, &[]);
        let is = |metric, truth: u64| exported(metric).is_some_and(|n| (n - truth as f64).abs() <= STRAY);
        (is(SEGMENTS, segments) && exported(RETRANSMITS) == Some(retransmits as f64)).then_some(())
    })?;
    finish(stream)?;
    joined(server)?;
    agent.catch_up()?;
    let exports = agent.stop()?.exports;
    check_segments(&exports, &client, &cable.near, [0, 0])?;
    check_segments(&exports, &served, &cable.far, [0, 0])?;
    Ok(())
}

root_test! {
    fn what_a_living_tcp_connection_sent_is_exported_while_it_lives() {
        a_living_connection("")
    }
}

root_test! {
    fn a_living_tcp_connection_is_counted_where_the_walk_over_all_sockets_is_refused() {
        a_living_connection("tcp_on_walk")
    }
}

root_test! {
    fn a_living_tcp_connection_is_counted_where_sockets_cannot_be_walked_at_all() {
        a_living_connection("tcp_on_walk,tcp_on_find")
    }
}

root_test! {
    fn tcp_connects_fail_by_their_causes_and_succeed_in_the_time_they_take() {
        let cable = Cable::new()?;
        let delayed = cable.far.impair(0, 20);
        let client = Cgroup::new("client")?;
        let served = Cgroup::new("server")?;
        let agent = Agent::start(json!({}))?;
        // A neighbour whose address is known and who is not there: SYNs go out and get no answer.
        let silent = Ipv4Addr::new(10, 99, 0, 8);
        cable.near.ip(&format!("neigh add {silent} lladdr 02:00:00:00:00:08 dev {INTERFACE}"))?;
        cable.near.sysctl("ipv4/tcp_syn_retries", "1")?;
        // And one whose address is requested in vain.
        let absent = Ipv4Addr::new(10, 99, 0, 9);
        cable.near.sysctl(&format!("ipv4/neigh/{INTERFACE}/retrans_time_ms"), "100")?;

        let failed = |to: SocketAddr| inside(&client, || cable.near.run(|| Ok(TcpStream::connect(to).err().map(|e| e.kind()))));
        let kinds = [
            failed((FAR, 1).into())?,
            failed((FAR, 1).into())?,
            failed((silent, 80).into())?,
            failed((absent, 80).into())?,
        ];
        println!("connects failed with {kinds:?}");
        ensure!(kinds.iter().all(Option::is_some), "a connect succeeded that cannot: {kinds:?}");
        let gave_up = inside(&client, || cable.near.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            Ok(socket.connect_timeout(&SocketAddr::from((silent, 80)).into(), 50 * MS).is_err())
        }))?;
        ensure!(gave_up, "a connect to an absent host succeeded");

        let (address, server) = server(&served, &cable.far, 5)?;
        for _ in 0..5 {
            finish(connect(&client, &cable.near, address)?)?;
        }
        joined(server)?;
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        let causes = ["refused", "timeout", "unreachable", "canceled", "reset", "other"];
        let counted = causes.map(|cause| failures(&exports, &client, cause));
        ensure!(counted == [2.0, 1.0, 1.0, 1.0, 0.0, 0.0], "{causes:?} were counted {counted:?} times");
        let connects = exports.histogram(client.path(), CONNECT_DURATION).context("no connects")?;
        ensure!(connects.count == 5, "{} connects", connects.count);
        if delayed {
            check_rtt(connects, 20.0)?;
        }
        // Each refusal was a reset that a socket received.
        let received = exports.value(client.path(), RESETS, &[("direction", "received")]);
        ensure!(received == Some(2.0), "{received:?} resets received");
        Ok(())
    }
}

root_test! {
    fn tcp_connects_that_find_no_free_port_have_a_cause_of_their_own() {
        let namespace = Namespace::new()?;
        namespace.sysctl("ipv4/ip_local_port_range", "40000 40003")?;
        let client = Cgroup::new("client")?;
        let agent = Agent::start(json!({}))?;
        if agent.stderr().contains("this kernel is older than 5.11") {
            eprintln!("SKIPPED {TEST}: needs Linux 5.11, before which a socket reports nothing before its SYN");
            return agent.stop().map(drop);
        }
        let (kept, failed) = inside(&client, || namespace.run(|| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 9000)).context("could not listen")?;
            let to = listener.local_addr()?;
            let connects = (0..50).map(|_| TcpStream::connect(to));
            let (kept, failed): (Vec<_>, Vec<_>) = connects.partition(|connect| connect.is_ok());
            Ok(((listener, kept), failed))
        }))?;
        let no_port = failed.iter().filter(|e| e.as_ref().is_err_and(|e| e.raw_os_error() == Some(nix::libc::EADDRNOTAVAIL))).count();
        ensure!(no_port == failed.len() && no_port >= 40, "{no_port} of {} failed for want of a port", failed.len());
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        let counted = ["not_sent", "canceled", "other"].map(|cause| failures(&exports, &client, cause));
        ensure!(counted == [no_port as f64, 0.0, 0.0], "{counted:?} not sent, canceled and other, of {no_port} without a port");
        drop(kept);
        Ok(())
    }
}

root_test! {
    fn tcp_resets_are_counted_on_both_ends() {
        let cable = Cable::new()?;
        let (client, served) = (Cgroup::new("client")?, Cgroup::new("server")?);
        let agent = Agent::start(json!({}))?;
        let (listener, address) = listen(&served, &cable.far)?;
        for _ in 0..4 {
            let stream = connect(&client, &cable.near, address)?;
            let (mut accepted, _) = listener.accept()?;
            Socket::from(stream).set_linger(Some(Duration::ZERO))?;
            let end = accepted.read(&mut [0; 1]);
            ensure!(end.is_err(), "the connection was not reset: {end:?}");
        }
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        let resets = |cgroup: &Cgroup, direction| exports.value(cgroup.path(), RESETS, &[("direction", direction)]);
        ensure!(resets(&client, "sent") == Some(4.0), "the client sent {:?} resets", resets(&client, "sent"));
        ensure!(resets(&served, "received") == Some(4.0), "the server received {:?} resets", resets(&served, "received"));
        ensure!(cable.near.count("Tcp", "OutRsts")? == 4, "the kernel counted other resets");
        check_segments(&exports, &client, &cable.near, [0, 0])?;
        check_segments(&exports, &served, &cable.far, [0, 0])?;
        Ok(())
    }
}

root_test! {
    fn a_container_that_lives_50_ms_is_exported_with_its_one_tcp_connection() {
        let cable = Cable::new()?;
        let served = Cgroup::new("server")?;
        let agent = Agent::start(json!({}))?;
        let (address, server) = server(&served, &cable.far, 1)?;
        let short = Cgroup::new("short")?;
        let path = short.path().to_owned();
        let mut stream = connect(&short, &cable.near, address)?;
        stream.write_all(b"hello")?;
        finish(stream)?;
        thread::sleep(50 * MS);
        short.remove()?;
        joined(server)?;
        let segments = [sent(&cable.near)?[0] as f64, sent(&cable.far)?[0] as f64];
        agent.wait_for("its connect", Duration::from_secs(6), |exports| {
            exports.histogram(&path, CONNECT_DURATION).filter(|connects| connects.count == 1).map(|_| ())
        })?;
        agent.wait_for("its segments", Duration::from_secs(6), |exports| {
            exports.value(&path, SEGMENTS, &[]).filter(|n| (n - segments[0]).abs() < 1.0)
        })?;
        agent.stop()?;
        Ok(())
    }
}

root_test! {
    fn tcp_connects_that_a_full_queue_drops_are_counted_for_the_listener() {
        let cable = Cable::new()?;
        let (client, served) = (Cgroup::new("client")?, Cgroup::new("server")?);
        let agent = Agent::start(json!({}))?;
        let listener = inside(&served, || cable.far.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SocketAddr::from((FAR, 0)).into())?;
            socket.listen(1)?;
            Ok(socket)
        }))?;
        let address = listener.local_addr()?.as_socket().context("no address")?;
        // Two fit; none is accepted.
        let waiting = inside(&client, || cable.near.run(|| {
            let connects = (0..5).map(|_| -> Result<Socket> {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
                socket.set_nonblocking(true)?;
                // In progress.
                let _ = socket.connect(&address.into());
                Ok(socket)
            });
            connects.collect::<Result<Vec<_>>>()
        }))?;
        thread::sleep(Duration::from_millis(1500));
        agent.catch_up()?;
        let dropped = cable.far.count("TcpExt", "ListenDrops")?;
        ensure!(dropped > 0, "nothing was dropped: this would prove nothing");
        drop((waiting, listener));
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        let counted = exports.value(served.path(), LISTEN_DROPS, &[]).context("no drops")?;
        // What the listener drops beside are packets of the same connects: the ACK that finds no room, a SYN that comes again.
        let most = cable.far.count("Tcp", "InSegs")?;
        ensure!((dropped as f64..=most as f64).contains(&counted), "{counted} drops of {dropped} connects and {most} packets");
        Ok(())
    }
}
