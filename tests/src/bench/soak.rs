//! Whether the agent's memory grows on a node on which pods come and go for an hour.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Effort, Stop, agent::Memory, report::Figure};
use crate::{
    agent::Agent,
    cgroup::Cgroup,
    collector::{Collector, Options},
    kubernetes::{
        ApiOptions, Cluster, RunningPod,
        objects::{Container, Pod},
        tree::Driver,
    },
    load::{Load, Process},
};

/// Growth, and what it has come to. Measured only where requested.
pub const GROWTH: [&str; 2] = ["soak.rss_growth_mib", "soak.rss_mib"];

/// At a time; each has one container with one process.
const PODS: usize = 1000;

/// How long, from when growth counts, and how many pods are replaced each second.
struct Plan {
    minutes: u32,
    from: u32,
    replaced_per_second: u32,
}

const BUSY: Duration = Duration::from_micros(100);
const PERIOD: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// One of them. Fields are dropped in order.
struct Churned {
    _process: Process,
    running: RunningPod,
}

/// An hour of pods that come and go at a steady pace; quickly, three minutes.
pub fn growth(effort: Effort, stop: &Stop) -> Result<Vec<Figure>> {
    let plan = match effort {
        Effort::Quick => Plan { minutes: 3, from: 1, replaced_per_second: 10 },
        Effort::Full => Plan { minutes: 60, from: 5, replaced_per_second: 2 },
    };
    let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
    let mut pods = VecDeque::new();
    let mut made = 0;
    let life = MINUTE * (plan.minutes + 10);
    while pods.len() < PODS {
        stop.check()?;
        pods.push_back(start(&cluster, made, life)?);
        made += 1;
    }
    // Memory of this process is no matter, but an hour of requests is.
    let collector = Collector::with(Options { forgets: true, ..Options::default() })?;
    let mut config = cluster.server.agent_config()?;
    config["interval"] = json!("15s");
    config["cgroups"] = json!({"slots": 4096});
    config["export"] =
        json!({"exporter": "otlp", "endpoint": collector.grpc_endpoint(), "protocol": "grpc", "request_bytes": "2MiB"});
    let mut agent = Agent::spawn(config)?;
    agent.wait_for_log("podmeter runs", Duration::from_secs(30))?;

    let (began, mut replaced, mut minutes, mut resident) = (Instant::now(), 0_u32, 0, Vec::new());
    while minutes < plan.minutes {
        let now = began.elapsed();
        let due = (now.as_secs_f64() * f64::from(plan.replaced_per_second)) as u32;
        while replaced < due {
            if let Some(Churned { running, _process }) = pods.pop_front() {
                cluster.server.delete_pod(&running.pod);
            }
            pods.push_back(start(&cluster, made, life)?);
            made += 1;
            replaced += 1;
        }
        if now >= MINUTE * (minutes + 1) {
            minutes += 1;
            ensure!(agent.alive()?, "the agent ended:\n{}", agent.stderr());
            ensure!(collector.export_count() as u32 >= 3 * minutes, "{} exports in {minutes} minutes", collector.export_count());
            // Watches from before are answered with 410, as a real server's are, and this process forgets the history.
            if minutes % 10 == 0 {
                cluster.server.compact();
            }
            let memory = Memory::of(agent.pid())?;
            eprintln!("minute {minutes}: {:.1} MiB, {replaced} pods replaced", memory.resident_mib);
            resident.push(memory.resident_mib);
        }
        stop.pause(Duration::from_millis(50))?;
    }
    agent.stop()?;
    let (from, last) = (resident[plan.from as usize - 1], resident[resident.len() - 1]);
    let [growth, end] = GROWTH;
    Ok(vec![Figure::once(growth, "MiB", Some(1.0), last - from), Figure::once(end, "MiB", None, last)])
}

/// Makes a pod with its cgroups and a process that wakes once a second.
fn start(cluster: &Cluster, number: usize, life: Duration) -> Result<Churned> {
    let pod = Pod::new(&format!("web-5d8f7c9b4-{number:05x}"), vec![Container::started("app")]);
    let running = cluster.run_pod(pod)?;
    let container: &Cgroup = &running.container;
    Ok(Churned { _process: Load::duty_cycle(BUSY, PERIOD, life).start(container)?, running })
}
