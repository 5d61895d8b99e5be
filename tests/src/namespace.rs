//! Network namespaces: two of them with a cable between, and what the kernel counts in each.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    process::{Child, Command},
    sync::mpsc,
    thread,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::{
    sched::{CloneFlags, setns, unshare},
    unistd::gettid,
};

use crate::cgroup::{Cgroup, inside};

/// The interface in each namespace of a [`Cable`].
pub const INTERFACE: &str = "cable";

/// A network namespace, which ends with this value and the sockets in it.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// A new one; its loopback is up.
    pub fn new() -> Result<Self> {
        let made = thread::spawn(|| -> Result<Self> {
            unshare(CloneFlags::CLONE_NEWNET).context("could not make a network namespace")?;
            Ok(Self(File::open("/proc/thread-self/ns/net").context("could not open a network namespace")?))
        });
        let namespace = made.join().map_err(|_| anyhow!("a thread panicked"))??;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Does something in it, on a thread of its own.
    pub fn run<T: Send>(&self, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).context("could not enter a network namespace")?;
                what()
            });
            inside.join().map_err(|_| anyhow!("a thread panicked in a network namespace"))?
        })
    }

    /// Runs `ip` in it.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        self.run(|| command("ip", arguments))
    }

    /// Sets a sysctl of its own, such as `ipv4/tcp_syn_retries`.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.run(|| fs::write(format!("/proc/sys/net/{name}"), value).with_context(|| format!("could not set {name}")))
    }

    /// A counter of `/proc/net/snmp` or `/proc/net/netstat`, such as `Tcp` `OutSegs`.
    pub fn count(&self, protocol: &str, name: &str) -> Result<u64> {
        self.run(|| {
            let files = ["snmp", "netstat"].map(|file| fs::read_to_string(format!("/proc/thread-self/net/{file}")));
            let text = files.into_iter().collect::<Result<String, _>>().context("could not read the network's counters")?;
            let mut rows = text.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
            while let (Some(names), Some(values)) = (rows.next(), rows.next()) {
                let found = names.split(' ').zip(values.split(' ')).find(|(n, _)| *n == name);
                if let Some((_, value)) = found {
                    return value.parse().with_context(|| format!("{protocol} {name} is {value}"));
                }
            }
            Err(anyhow!("this kernel does not count {protocol} {name}"))
        })
    }

    /// Bytes that connections of this namespace have taken and that the other ends have not acknowledged, as `/proc/net/tcp` has
    /// them.
    pub fn unacknowledged(&self) -> Result<u64> {
        const LISTEN: &str = "0A";
        self.run(|| {
            let table = fs::read_to_string("/proc/thread-self/net/tcp").context("could not read /proc/thread-self/net/tcp")?;
            let connections = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
            let queue = |fields: Vec<&str>| {
                let (state, queues) = (fields.get(3)?, fields.get(4)?);
                let (waiting, _) = queues.split_once(':').filter(|_| *state != LISTEN)?;
                u64::from_str_radix(waiting, 16).ok()
            };
            Ok(connections.filter_map(queue).sum())
        })
    }

    /// Loses this percentage of what is sent and delays the rest by so many ms. `false` where the kernel has no netem.
    pub fn impair(&self, loss_percent: u32, delay_ms: u32) -> bool {
        let loss = if loss_percent > 0 { format!(" loss {loss_percent}%") } else { String::new() };
        self.disturb(&format!("delay {delay_ms}ms{loss}"))
    }

    /// Sends packets as netem's words say; `false` where the kernel has no `sch_netem`.
    pub fn disturb(&self, netem: &str) -> bool {
        self.run(|| command("tc", &format!("qdisc replace dev {INTERFACE} root netem limit 10000 {netem}"))).is_ok()
    }
}

/// Two namespaces with a cable between them.
#[derive(Debug)]
pub struct Cable {
    /// 10.99.0.1
    pub near: Namespace,
    /// 10.99.0.2
    pub far: Namespace,
}

/// The near end's address.
pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The far end's address.
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

impl Cable {
    /// Makes both and connects them.
    pub fn new() -> Result<Self> {
        let (near, far) = (Namespace::new()?, Namespace::new()?);
        let (sender, receiver) = mpsc::channel();
        let (done, wait) = mpsc::channel::<()>();
        // The kernel finds the other namespace by a thread that is in it.
        thread::scope(|scope| {
            let far = &far;
            let stay = scope.spawn(move || {
                far.run(move || {
                    sender.send(gettid()).context("the other end is gone")?;
                    // Ends when the sender goes.
                    let _ = wait.recv();
                    Ok(())
                })
            });
            let thread = receiver.recv().context("the far namespace cannot be entered")?;
            let made = near.ip(&format!("link add {INTERFACE} type veth peer name {INTERFACE} netns {thread}"));
            drop(done);
            stay.join().map_err(|_| anyhow!("a thread panicked"))??;
            made
        })?;
        for (namespace, address) in [(&near, NEAR), (&far, FAR)] {
            namespace.ip(&format!("address add {address}/24 dev {INTERFACE}"))?;
            namespace.ip(&format!("link set {INTERFACE} up"))?;
        }
        Ok(Self { near, far })
    }

    /// The same without the packets by which IPv6 looks for neighbours and routers whenever it likes.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn without_ipv6(self) -> Result<Self> {
        for namespace in [&self.near, &self.far] {
            namespace.sysctl(&format!("ipv6/conf/{INTERFACE}/disable_ipv6"), "1")?;
        }
        Ok(self)
    }
}

/// A process that does nothing in a cgroup and a namespace, and is killed with this value.
#[derive(Debug)]
pub struct Resident(Child);

impl Resident {
    /// Starts it.
    pub fn new(cgroup: &Cgroup, namespace: &Namespace) -> Result<Self> {
        let start = || Command::new("sleep").arg("120").spawn().context("could not start sleep");
        Ok(Self(inside(cgroup, || namespace.run(start))?))
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(program: &str, arguments: &str) -> Result<()> {
    let output = Command::new(program).args(arguments.split(' ')).output();
    let output = output.with_context(|| format!("could not start {program}"))?;
    ensure!(output.status.success(), "`{program} {arguments}`: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
