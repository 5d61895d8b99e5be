//! What `/metrics` adds to an agent: the memory for the last collection and its text, and the time to answer.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Effort, agent::Memory, kubernetes::Cluster, report::Figure};
use crate::{agent::Agent, http};

/// Memory above an agent that does not serve it, and one scrape.
pub const MEMORY: [&str; 2] = ["pull.rss_above_off_mib", "pull.scrape_ms"];

/// What Prometheus requests.
const HEADERS: &str = "Accept: application/openmetrics-text;version=1.0.0\r\nAccept-Encoding: gzip\r\n";

/// Exports before memory is read.
const EXPORTS: usize = 3;

/// Agents with and without it in turn.
pub fn memory(effort: Effort, cluster: &Cluster) -> Result<Vec<Figure>> {
    let (mut above, mut scrapes) = (Vec::new(), Vec::new());
    for _ in 0..effort.pick(1, 3) {
        let without = resident(cluster, false, &mut scrapes)?;
        above.push(resident(cluster, true, &mut scrapes)? - without);
    }
    let [more, scrape] = MEMORY;
    Ok(vec![Figure::of(more, "MiB", None, above)?, Figure::of(scrape, "ms", None, scrapes)?])
}

/// Resident memory in MiB after the last of some exports, each of which was scraped where `pull` is on. How long that took in ms is
/// added to `scrapes`.
fn resident(cluster: &Cluster, pull: bool, scrapes: &mut Vec<f64>) -> Result<f64> {
    let mut config = cluster.config(true)?;
    config["export"]["pull"] = json!(pull);
    let before = cluster.collector.export_count();
    let mut agent = Agent::spawn(config)?;
    for export in 1..=EXPORTS {
        cluster.wait_for_exports(&mut agent, before + export)?;
        cluster.stop.pause(Duration::from_secs(2))?;
        if pull {
            let began = Instant::now();
            let (status, head, body) = http::get_with(agent.address(), "/metrics", HEADERS)?;
            scrapes.push(began.elapsed().as_secs_f64() * 1e3);
            ensure!(status == 200, "{head}\n{}", String::from_utf8_lossy(&body));
        }
    }
    let memory = Memory::of(agent.pid())?;
    agent.stop()?;
    Ok(memory.resident_mib)
}
