//! What the disk signal costs at each request: its issue and its completion, beside empty programs on the same tracepoints.
//!
//! All of them are attached at once, so that each sees the same requests: of a loop device, one after the other.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value as Json, json};

use super::{
    Effort, Stop,
    programs::{Held, OnTracepoint, Runs, count_run_time},
    report::Figure,
};
use crate::{
    agent::Agent,
    cgroup::{Cgroup, inside},
    disk::{Disk, read_blocks},
};

/// The two programs that see a request, together.
pub const PER_REQUEST: [&str; 3] = ["disk.request_ns_above_empty", "disk.request_ns", "disk.request_ns_empty"];

/// Blocks that are read again and again.
const BLOCKS: u64 = 64;

/// ns per request, by the kernel's own statistics.
pub fn per_request(effort: Effort, stop: &Stop) -> Result<Vec<Figure>> {
    let (rounds, slice) = (effort.pick(4, 16), Duration::from_millis(300));
    let disk = Disk::scratch("disk.request_ns")?.context("there is no disk to read from")?;
    let cgroup = Cgroup::new("bench-disk")?;
    let agent = Agent::start(json!({"interval": "300s", "signals": only_disk(), "export": {"exporter": "stdout"}}))?;
    let _stats = count_run_time()?;
    let mut programs = Programs::of(&agent)?;
    programs.attach()?;
    let file = disk.open(true)?;
    let end = AtomicBool::new(false);
    let compared = thread::scope(|scope| {
        let reading = scope.spawn(|| {
            inside(&cgroup, || {
                while !end.load(Ordering::Relaxed) {
                    read_blocks(&file, BLOCKS)?;
                }
                Ok(())
            })
        });
        let compared = stop.pause(slice).and_then(|()| (0..rounds).map(|_| programs.measure(slice, stop)).collect());
        end.store(true, Ordering::Relaxed);
        reading.join().map_err(|_| anyhow!("the reader panicked"))??;
        compared
    });
    let compared: Vec<(f64, f64)> = compared?;
    agent.stop()?;
    let [above, ours, empty] = PER_REQUEST;
    Ok(vec![
        Figure::of(above, "ns", Some(300.0), compared.iter().map(|(ours, empty)| ours - empty).collect())?,
        Figure::of(ours, "ns", None, compared.iter().map(|(ours, _)| *ours).collect())?,
        Figure::of(empty, "ns", None, compared.iter().map(|(_, empty)| *empty).collect())?,
    ])
}

/// A configuration of `signals` without any other.
fn only_disk() -> Json {
    ["cpu", "memory", "pressure", "network", "dns", "tcp", "drops"]
        .map(|other| (other.to_owned(), json!(false)))
        .into_iter()
        .collect()
}

/// The agent's two programs and the two that do nothing.
struct Programs {
    held: Held,
    empty: [OnTracepoint; 2],
}

impl Programs {
    fn of(agent: &Agent) -> Result<Self> {
        Ok(Self { held: Held::by(agent.pid())?, empty: [OnTracepoint::empty_on_issue()?, OnTracepoint::empty_on_complete()?] })
    }

    fn attach(&mut self) -> Result<()> {
        self.empty.iter_mut().try_for_each(OnTracepoint::attach)
    }

    /// Of what sees the issue and the completion: the agent's, then those that do nothing.
    fn runs(&self) -> Result<[Runs; 4]> {
        let ours = |name: &str| Ok::<_, anyhow::Error>(Runs::of(&self.held.program(name)?));
        let [issue, complete] = &self.empty;
        let issued = ours("disk_on_issue").or_else(|_| ours("disk_on_queue_issue"))?;
        Ok([issued, ours("disk_on_complete")?, issue.runs()?, complete.runs()?])
    }

    /// ns per request of the agent's programs and of those that do nothing.
    fn measure(&self, slice: Duration, stop: &Stop) -> Result<(f64, f64)> {
        let before = self.runs()?;
        stop.pause(slice)?;
        let after = self.runs()?;
        let mut ns = [0.0; 4];
        for ((ns, before), after) in ns.iter_mut().zip(before).zip(after) {
            *ns = after.since(before).ns_per_run().context("no request was seen")?;
        }
        ensure!(after[0].since(before[0]).count > 100, "only {} requests in {slice:?}", after[0].since(before[0]).count);
        Ok((ns[0] + ns[1], ns[2] + ns[3]))
    }
}
