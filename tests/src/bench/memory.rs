//! What it takes to read the memory of a thousand cgroups, in one walk and from their files.
//!
//! The agent tells how long each read took. Without a memory controller there is nothing to read: then only a guest can tell
//! (`cargo xtask test vm --filter a_thousand_cgroups`), which is emulated, and of which only the ratio says something.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{Effort, report::Figure};
use crate::{
    agent::Agent,
    cgroup::Cgroup,
    metric::{MEMORY_USAGE, READ_TIME},
};

/// Names of the figures.
pub const PASS: [&str; 3] = ["memory.walk_ms", "memory.files_ms", "memory.walk_over_files"];

/// Cgroups that are read.
const CGROUPS: usize = 1000;

/// Reads all of them both ways.
pub fn passes(effort: Effort) -> Result<Vec<Figure>> {
    let parent = Cgroup::new("thousand")?;
    parent.delegate("memory")?;
    let cgroups = (0..CGROUPS).map(|n| parent.child(&format!("c{n}"))).collect::<Result<Vec<_>>>()?;
    let exports = effort.pick(4, 10);
    let walk = read_times(true, &cgroups, exports)?;
    let files = read_times(false, &cgroups, exports)?;
    let (walk, files) = (Figure::of(PASS[0], "ms", Some(5.0), walk)?, Figure::of(PASS[1], "ms", None, files)?);
    let ratio = Figure::once(PASS[2], "", None, walk.value.median / files.value.median);
    Ok(vec![walk, files, ratio])
}

/// How long each read took in ms, without the first two: a walk is compared with files there.
fn read_times(walks: bool, cgroups: &[Cgroup], exports: usize) -> Result<Vec<f64>> {
    let signals = json!({"cpu": false, "pressure": false});
    let agent = Agent::start(json!({"bpf": {"walks": walks}, "cgroups": {"slots": 2048}, "signals": signals}))?;
    agent.wait_for("enough exports", Duration::from_secs(5 * exports as u64), |all| {
        (all.requests() >= exports + 2).then_some(())
    })?;
    let read = agent.look(|all| cgroups.iter().filter(|c| all.value(c.path(), MEMORY_USAGE, &[]).is_some()).count());
    ensure!(read == cgroups.len(), "only {read} of {} cgroups were read", cgroups.len());
    let log = agent.stderr();
    ensure!(!walks || !log.contains("another way") && !log.contains("read from files"), "this kernel cannot be walked: {log}");
    let of_memory = |point: &&crate::otlp::Point| {
        &*point.metric == READ_TIME && point.attributes.get("signal").is_some_and(|signal| signal == "memory")
    };
    let times: Vec<f64> = agent.look(|all| {
        let points = all.of_node().iter().filter(of_memory);
        points
            .filter_map(|point| match point.value {
                crate::otlp::Value::Number(seconds) => Some(seconds * 1e3),
                crate::otlp::Value::Histogram(_) => None,
            })
            .skip(2)
            .collect()
    });
    agent.stop()?;
    Some(times).filter(|times| !times.is_empty()).context("no read was timed")
}
