//! The load of a node: a hundred containers, in each two processes that talk to each other.

use std::{
    env,
    io::{Read as _, Write as _},
    os::fd::AsFd as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    super::{Stop, pods::Pods},
    pair::{CLIENT, PERIOD, is_ready},
};
use crate::namespace::Namespace;

/// Number of containers.
const CONTAINERS: usize = 100;

const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// Runs until it is dropped.
pub(super) struct NodeLoad {
    // Before the cgroups: fields are dropped in order.
    clients: Vec<Client>,
    _pods: Pods,
    _namespace: Namespace,
}

/// The client of a pair, which ends its server.
struct Client(Child);

impl NodeLoad {
    /// Starts all pairs, in a network namespace of their own; they do their rounds one after the other.
    pub(super) fn start(stop: &Stop) -> Result<Self> {
        let executable = env::current_exe().context("could not find the benchmark's own executable")?;
        let (pods, namespace) = (Pods::new(CONTAINERS, 1)?, Namespace::new()?);
        let mut clients = Vec::new();
        for (cgroup, number) in pods.cgroups().iter().zip(0..) {
            let delay = PERIOD * number / CONTAINERS as u32;
            let mut command = Command::new(&executable);
            command.arg(CLIENT).arg(delay.as_micros().to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
            let client = namespace.run(|| command.spawn().context("could not start the client of a pair"))?;
            let client = Client(client);
            cgroup.attach(client.0.id() as i32)?;
            clients.push(client);
        }
        for client in &mut clients {
            let (mut into, out) = client.0.stdin.as_ref().zip(client.0.stdout.as_mut()).context("a pair has no pipes")?;
            into.write_all(&[1]).context("a pair did not start")?;
            stop.pause_until("a pair to start", STARTS_WITHIN, || is_ready(out.as_fd()))?;
            out.read_exact(&mut [0]).context("a pair did not start")?;
        }
        Ok(Self { clients, _pods: pods, _namespace: namespace })
    }

    /// Fails once a pair has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        for client in &mut self.clients {
            if let Some(status) = client.0.try_wait().context("could not look at a pair")? {
                anyhow::bail!("a pair has ended: {status}");
            }
        }
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended; its server ends when its pipe does.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
