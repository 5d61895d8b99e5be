//! A client, a DNS server, and an agent that watches both.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::{Pid, gettid},
};

use super::server::DnsServer;
use crate::{
    agent::Agent,
    cgroup::{Cgroup, inside},
    dns,
    otlp::{Exports, Histogram},
    truth::last_cpu,
};

/// How lookups ended, as the client sees them.
pub const LOOKUPS: &str = "dns.lookup.duration";
/// The same as the answering side sees them.
pub const SERVED: &str = "podmeter.dns.server.duration";
/// Queries, retries included.
pub const QUERIES: &str = "podmeter.dns.queries";

/// Where the tests' servers listen: an address of the loopback network that no other program uses.
pub fn v4() -> SocketAddr {
    SocketAddr::from(([127, 53, 0, 1], 53))
}

/// The same of IPv6.
pub fn v6() -> SocketAddr {
    SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 53))
}

/// A client, a server, and an agent that watches both.
pub struct Stage {
    /// Watches both.
    pub agent: Agent,
    /// Asks.
    pub client: Cgroup,
    /// The server's.
    pub server_cgroup: Cgroup,
    /// Answers.
    pub server: DnsServer,
    _one_cpu: OneCpu,
}

impl Stage {
    /// Starts all three.
    pub fn set(config: serde_json::Value, address: SocketAddr) -> Result<Self> {
        let agent = Agent::start(config)?;
        // After the agent, which may run anywhere.
        let _one_cpu = OneCpu::new()?;
        let (client, server_cgroup) = (Cgroup::new("dns-client")?, Cgroup::new("dns-server")?);
        let server = DnsServer::start(&server_cgroup, address)?;
        Ok(Self { agent, client, server_cgroup, server, _one_cpu })
    }

    /// A socket of the client's that is connected to the server.
    pub fn udp(&self) -> Result<std::net::UdpSocket> {
        inside(&self.client, || dns::udp(self.server.address()))
    }

    /// The same of TCP.
    pub fn tcp(&self) -> Result<std::net::TcpStream> {
        inside(&self.client, || dns::tcp(self.server.address()))
    }

    /// Waits for an export of what has happened by now.
    pub fn catch_up(&self) -> Result<()> {
        self.agent.catch_up()
    }

    /// A count of the client's.
    pub fn client_count(&self, metric: &str, transport: &str) -> u64 {
        self.agent.look(|exports| count(exports, self.client.path(), metric, "client", transport))
    }

    /// A count of the server's.
    pub fn server_count(&self, metric: &str, transport: &str) -> u64 {
        self.agent.look(|exports| count(exports, self.server_cgroup.path(), metric, "server", transport))
    }

    /// Lookups of the client that ended so; `None` is NOERROR.
    pub fn lookups(&self, end: Option<&str>, transport: &str) -> Option<Histogram> {
        self.agent.look(|exports| durations(exports, self.client.path(), LOOKUPS, end, transport))
    }

    /// The same as the server saw them.
    pub fn served(&self, end: Option<&str>, transport: &str) -> Option<Histogram> {
        self.agent.look(|exports| durations(exports, self.server_cgroup.path(), SERVED, end, transport))
    }

    /// Checks counts of client and server.
    pub fn check_counts(&self, transport: &str, expected: &[(&str, u64, u64)]) -> Result<()> {
        for (metric, client, server) in expected {
            let found = (self.client_count(metric, transport), self.server_count(metric, transport));
            println!("{metric} over {transport}: {found:?}, expected ({client}, {server})");
            ensure!(found == (*client, *server), "{metric} over {transport}: {found:?} instead of ({client}, {server})");
        }
        Ok(())
    }
}

/// Keeps this thread, and those that it starts, on one CPU while it lives: each CPU has a queue of its own for loopback's
/// packets, and on a busy machine those of a sender that moves overtake each other.
struct OneCpu {
    thread: Pid,
    allowed: CpuSet,
}

impl OneCpu {
    fn new() -> Result<Self> {
        let thread = gettid();
        let allowed = sched_getaffinity(thread).context("could not read which CPUs this thread may use")?;
        let cpu = last_cpu()?;
        let mut one = CpuSet::new();
        one.set(cpu).and_then(|()| sched_setaffinity(thread, &one)).with_context(|| format!("could not stay on CPU {cpu}"))?;
        Ok(Self { thread, allowed })
    }
}

impl Drop for OneCpu {
    fn drop(&mut self) {
        // The thread may be gone by now.
        let _ = sched_setaffinity(self.thread, &self.allowed);
    }
}

/// A count of a cgroup.
pub fn count(exports: &Exports, cgroup: &str, metric: &str, side: &str, transport: &str) -> u64 {
    exports.value(cgroup, metric, &[("side", side), ("network.transport", transport)]).unwrap_or(0.0) as u64
}

/// Durations of a cgroup's lookups that ended so.
pub fn durations(exports: &Exports, cgroup: &str, metric: &str, end: Option<&str>, transport: &str) -> Option<Histogram> {
    let mut attributes = vec![("network.transport", transport)];
    attributes.extend(end.map(|end| ("error.type", end)));
    exports.histogram_of(cgroup, metric, &attributes).cloned()
}

/// How many there are.
pub fn number(histogram: Option<Histogram>) -> u64 {
    histogram.map_or(0, |histogram| histogram.count)
}
