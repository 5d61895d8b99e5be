//! What it takes to read the memory of many cgroups, in one walk and from their files.
//!
//! The agent reports how long each read took. Without a memory controller there is nothing to read: then only a guest can measure
//! (`cargo xtask test vm --filter the_memory_of_a_nodes_cgroups`), which is emulated, where only the ratio means something.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{Effort, report::Figure};
use crate::{
    agent::Agent,
    cgroup::Cgroup,
    collector::Collector,
    metric::{MEMORY_USAGE, READ_TIME},
    otlp::{Point, Value},
};

/// Names of the figures.
pub const PASS: [&str; 3] = ["memory.walk_ms", "memory.files_ms", "memory.walk_over_files"];

/// Reads all of them both ways: a thousand, or quickly as many as a node has pods.
pub fn passes(effort: Effort) -> Result<Vec<Figure>> {
    let parent = Cgroup::new("many")?;
    parent.delegate("memory")?;
    let cgroups = (0..effort.pick(250, 1000)).map(|n| parent.child(&format!("c{n}"))).collect::<Result<Vec<_>>>()?;
    let exports = effort.pick(4, 10);
    let walk = read_times(true, &cgroups, exports)?;
    let files = read_times(false, &cgroups, exports)?;
    let (walk, files) = (Figure::of(PASS[0], "ms", Some(5.0), walk)?, Figure::of(PASS[1], "ms", None, files)?);
    let ratio = Figure::once(PASS[2], "", None, walk.value.median / files.value.median);
    Ok(vec![walk, files, ratio])
}

/// How long each read took in ms, without the first two: a walk is compared with files there.
fn read_times(walks: bool, cgroups: &[Cgroup], exports: usize) -> Result<Vec<f64>> {
    let collector = Collector::start()?;
    let agent = Agent::spawn(json!({
        "bpf": {"leave_out": if walks { "" } else { "walk_on_cgroup" }},
        "cgroups": {"slots": 2048},
        "signals": {"cpu": false, "pressure": false, "network": false, "dns": false, "tcp": false, "drops": false, "disk": false},
        "export": {"exporter": "otlp", "endpoint": collector.grpc_endpoint()},
    }))?;
    let mut patience = 10;
    while collector.received().len() < exports + 2 {
        patience -= 1;
        ensure!(patience > 0, "{} exports only, log:\n{}", collector.received().len(), agent.stderr());
        // What each waits for is one more export.
        let before = collector.received().len();
        let _ = collector.wait_until("one more export", |collector| collector.received().len() > before);
    }
    let all = collector.exports()?;
    let read = cgroups.iter().filter(|c| all.value(c.path(), MEMORY_USAGE, &[]).is_some()).count();
    ensure!(read == cgroups.len(), "only {read} of {} cgroups were read", cgroups.len());
    let log = agent.stderr();
    ensure!(!walks || !log.contains("another way") && !log.contains("read from files"), "this kernel cannot be walked: {log}");
    let seconds = |point: &Point| match point.value {
        Value::Number(seconds) => Some(seconds),
        Value::Histogram(_) | Value::Absent => None,
    };
    let times = |signal: &str| -> Vec<f64> {
        let own = |point: &&Point| &*point.metric == READ_TIME && point.attributes.get("signal").is_some_and(|s| s == signal);
        all.of_node().iter().filter(own).filter_map(seconds).skip(2).map(|s| s * 1e3).collect()
    };
    // The walk reads limits as well.
    let times: Vec<f64> = times("walk").into_iter().zip(times("memory")).map(|(walk, memory)| walk + memory).collect();
    agent.stop()?;
    Some(times).filter(|times| !times.is_empty()).context("no read was timed")
}
