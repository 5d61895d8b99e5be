//! What the dns signal costs at each question and its answer.

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{Effort, Stop, packets::Contest, report::Figure};
use crate::{
    cgroup::{Cgroup, inside},
    dns::{query, server::DnsServer, udp},
    namespace::Namespace,
};

/// The two packets of one end: the mean of those sent plus the mean of those received. Where client and server are both on the
/// node, each has its own.
pub const PER_PAIR: [&str; 3] = ["dns.pair_ns_above_empty", "dns.pair_ns", "dns.pair_ns_empty"];

/// In a network namespace without other servers.
const SERVER: &str = "127.0.0.1:53";

/// ns per question with its answer, by the kernel's own statistics, of programs that are attached by themselves.
pub fn per_pair(effort: Effort, stop: &Stop) -> Result<Vec<Figure>> {
    let (rounds, slice) = (effort.pick(4, 16), Duration::from_millis(300));
    let cgroup = Cgroup::new("bench-dns")?;
    let namespace = Namespace::new()?;
    let server = namespace.run(|| DnsServer::start(&cgroup, SERVER.parse()?))?;
    let client = namespace.run(|| inside(&cgroup, || udp(server.address())))?;
    let mut contest = Contest::new("dns", stop)?;
    let end = AtomicBool::new(false);
    let compared = thread::scope(|scope| {
        let asking = scope.spawn(|| ask(&client, &end));
        let compared = stop.pause(slice).and_then(|()| contest.compare(&cgroup, rounds, slice));
        end.store(true, Ordering::Relaxed);
        let asked = asking.join().map_err(|_| anyhow!("the client panicked"))??;
        ensure!(asked > 0, "no question was answered");
        compared
    })?;
    let [above, ours, empty] = PER_PAIR;
    Ok(vec![
        Figure::of(above, "ns", None, compared.iter().map(|round| round.above().iter().sum()).collect())?,
        Figure::of(ours, "ns", None, compared.iter().map(|round| round.ours.iter().sum()).collect())?,
        Figure::of(empty, "ns", None, compared.iter().map(|round| round.empty.iter().sum()).collect())?,
    ])
}

/// Asks one question after the other; how many were answered.
fn ask(client: &UdpSocket, end: &AtomicBool) -> Result<u64> {
    let mut answered = 0;
    let mut buffer = [0; 512];
    while !end.load(Ordering::Relaxed) {
        client.send(&query(answered as u16, "ok.bench.test")).context("could not ask")?;
        client.recv(&mut buffer).context("could not receive an answer")?;
        answered += 1;
    }
    Ok(answered)
}
