//! What the agent itself takes while it watches a node's containers: CPU, memory, time to start, bytes sent.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::{time::ClockId, unistd::Pid};
use opentelemetry_proto::tonic::{collector::metrics::v1::ExportMetricsServiceRequest, common::v1::any_value::Value};
use serde_json::json;

use super::{
    Effort, Stop,
    pods::Pods,
    programs::{Held, count_run_time},
    report::Figure,
    ticks::{Bursts, Watch},
};
use crate::{agent::Agent, collector::Collector};

/// CPU and memory at the default interval.
pub const EVERY_15_S: [&str; 7] = [
    "agent.cpu_percent_15s",
    "agent.tick_ms",
    "agent.collection_ms",
    "agent.kernel_cpu_percent",
    "agent.kernel_runs_per_second",
    "agent.rss_mib",
    "agent.rss_peak_mib",
];

/// CPU at the shortest interval.
pub const EVERY_1_S: [&str; 1] = ["agent.cpu_percent_1s"];

/// From exec to the first export that has arrived.
pub const START: [&str; 1] = ["agent.start_to_first_export_seconds"];

/// Size of an export.
pub const BYTES: [&str; 1] = ["export.bytes_per_cgroup"];

/// Memory of the maps: at the default number of slots, then on two sizes of node.
pub const MAPS: [&str; 4] = ["agent.map_kib", "agent.map_kib_per_cpu", "agent.map_mib_2_cpus", "agent.map_mib_128_cpus"];

/// The node that is watched: 300 containers with a process in each.
const PODS: usize = 100;
const CONTAINERS_PER_POD: usize = 3;

/// Mostly asleep.
const BUSY: Duration = Duration::from_micros(100);
const PERIOD: Duration = Duration::from_secs(1);

/// How long the processes live at most; they are killed before.
const LIFE: Duration = Duration::from_secs(600);

/// Slots by default, and on a node with 1 000 cgroups.
const SLOTS: [u32; 2] = [1024, 2048];

/// A small and a large node.
const CPUS: [u32; 2] = [2, 128];

/// A node's containers, and where an agent sends what it sees.
pub struct Node {
    collector: Collector,
    _pods: Pods,
    stop: Stop,
}

/// An agent that exports to the node's collector.
struct Watching<'a> {
    node: &'a Node,
    agent: Agent,
    started: Instant,
    /// Requests that the collector had before.
    before: usize,
}

impl Node {
    /// Makes the containers.
    pub fn start(stop: &Stop) -> Result<Self> {
        let mut pods = Pods::new(PODS, CONTAINERS_PER_POD)?;
        pods.start(1, BUSY, PERIOD, LIFE)?;
        Ok(Self { collector: Collector::start()?, _pods: pods, stop: stop.clone() })
    }

    fn watch(&self, interval: &str, protocol: &str) -> Result<Watching<'_>> {
        let before = self.collector.received().len();
        let started = Instant::now();
        let agent = Agent::spawn(json!({
            "interval": interval,
            "export": {
                "exporter": "otlp", "endpoint": self.collector.grpc_endpoint(), "protocol": protocol, "compression": "gzip",
            },
        }))?;
        Ok(Watching { node: self, agent, started, before })
    }

    /// CPU and memory at the default interval, with what its programs take in the kernel.
    pub fn every_15_s(&self, effort: Effort) -> Result<Vec<Figure>> {
        let mut agent = self.watch("15s", "grpc")?;
        let _stats = count_run_time()?;
        let used = agent.use_of(1, effort.pick(1, 2))?;
        let memory = Memory::of(agent.agent.pid())?;
        agent.agent.stop()?;
        let [cpu, tick, collection, kernel, runs, resident, peak] = EVERY_15_S;
        Ok(vec![
            Figure::once(cpu, "%", Some(0.1), used.cpu_percent),
            Figure::of(tick, "ms", Some(0.5), used.bursts.ticks)?,
            Figure::of(collection, "ms", Some(15.0), used.bursts.collections)?,
            Figure::once(kernel, "%", None, used.kernel_percent),
            Figure::once(runs, "1/s", None, used.runs_per_second),
            Figure::once(resident, "MiB", Some(15.0), memory.resident_mib),
            Figure::once(peak, "MiB", None, memory.peak_mib),
        ])
    }

    /// CPU at the shortest interval.
    pub fn every_1_s(&self, effort: Effort) -> Result<Vec<Figure>> {
        let mut agent = self.watch("1s", "grpc")?;
        let used = agent.use_of(3, effort.pick(3, 15))?;
        agent.agent.stop()?;
        Ok(vec![Figure::once(EVERY_1_S[0], "%", None, used.cpu_percent)])
    }

    /// From exec to the first export that has arrived.
    pub fn starts(&self, effort: Effort) -> Result<Vec<Figure>> {
        let mut times = Vec::new();
        for _ in 0..effort.pick(2, 5) {
            let mut agent = self.watch("15s", "grpc")?;
            agent.wait_for_exports(1)?;
            let first = self.collector.received().get(agent.before).context("the first export was not taken")?.at;
            times.push(first.saturating_duration_since(agent.started).as_secs_f64());
            agent.agent.stop()?;
        }
        Ok(vec![Figure::of(START[0], "s", Some(2.0), times)?])
    }

    /// Size of an export on the wire. Over HTTP, which has the length of the compressed body.
    pub fn bytes_sent(&self) -> Result<Vec<Figure>> {
        let mut agent = self.watch("1s", "http/protobuf")?;
        agent.wait_for_exports(5)?;
        agent.agent.stop()?;
        let mut sizes = Vec::new();
        // The first has no windows yet.
        for export in self.collector.received().iter().skip(agent.before + 1) {
            ensure!(export.content_encoding.as_deref() == Some("gzip"), "the agent did not compress its export");
            let length = export.headers.get("content-length").context("an export did not tell its length")?;
            let length: f64 = length.parse().with_context(|| format!("an export has the length {length}"))?;
            let cgroups = cgroups(&export.request);
            ensure!(
                cgroups >= PODS * CONTAINERS_PER_POD,
                "an export holds {cgroups} cgroups, and there are {} containers",
                PODS * CONTAINERS_PER_POD
            );
            sizes.push(length / cgroups as f64);
        }
        Ok(vec![Figure::of(BYTES[0], "B", None, sizes)?])
    }
}

impl Watching<'_> {
    /// Waits for this many exports since the agent started.
    fn wait_for_exports(&mut self, exports: usize) -> Result<()> {
        let Self { node, agent, before, .. } = self;
        let within = Duration::from_secs(20 * exports as u64);
        node.stop.pause_until(&format!("{exports} exports"), within, || {
            ensure!(agent.alive()?, "the agent ended:\n{}", agent.stderr());
            // Cheap, and true a moment before the request is complete.
            Ok(node.collector.attempts() >= *before + exports)
        })?;
        node.collector
            .wait_until(&format!("{exports} complete exports"), |collector| collector.received().len() >= *before + exports)
    }

    /// What is used from one export to another.
    fn use_of(&mut self, warm_up: usize, exports: usize) -> Result<Use> {
        self.wait_for_exports(warm_up)?;
        let held = Held::by(self.agent.pid())?;
        let watch = Watch::start(self.agent.pid())?;
        let (began, cpu, runs) = (Instant::now(), cpu_time(self.agent.pid())?, held.runs());
        self.wait_for_exports(warm_up + exports)?;
        // The collecting thread may still be at the end of the last collection.
        self.node.stop.pause(Duration::from_millis(100))?;
        let (took, cpu, runs) = (began.elapsed(), cpu_time(self.agent.pid())? - cpu, held.runs().since(runs));
        let seconds = took.as_secs_f64();
        Ok(Use {
            bursts: watch.bursts(exports)?,
            cpu_percent: cpu.as_secs_f64() / seconds * 100.0,
            kernel_percent: runs.ns as f64 / 1e9 / seconds * 100.0,
            runs_per_second: runs.count as f64 / seconds,
        })
    }
}

/// Of one core.
struct Use {
    bursts: Bursts,
    cpu_percent: f64,
    kernel_percent: f64,
    runs_per_second: f64,
}

/// CPU time of a process with all its threads, those that ended included.
pub(super) fn cpu_time(pid: i32) -> Result<Duration> {
    let clock: ClockId =
        nix::time::clock_getcpuclockid(Pid::from_raw(pid)).with_context(|| format!("process {pid} has no CPU clock"))?;
    Ok(nix::time::clock_gettime(clock).with_context(|| format!("could not read the CPU clock of process {pid}"))?.into())
}

/// Resident memory of a process.
pub(super) struct Memory {
    pub(super) resident_mib: f64,
    pub(super) peak_mib: f64,
}

impl Memory {
    pub(super) fn of(pid: i32) -> Result<Self> {
        let file = format!("/proc/{pid}/status");
        Self::parse(&fs::read_to_string(&file).with_context(|| format!("could not read {file}"))?)
            .with_context(|| format!("{file} has no VmRSS or VmHWM"))
    }

    fn parse(status: &str) -> Option<Self> {
        let mib = |field: &str| {
            let kib = status.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
            kib.map(|kib| kib / 1024.0)
        };
        Some(Self { resident_mib: mib("VmRSS:")?, peak_mib: mib("VmHWM:")? })
    }
}

/// What the maps take of the memory of nodes with few and many CPUs. The part that each CPU adds is the difference between them, so
/// no map that grows with the CPUs can be left out.
pub fn maps() -> Result<Vec<Figure>> {
    let [[few, many], [few_large, many_large]] = [
        [map_bytes(SLOTS[0], CPUS[0])?, map_bytes(SLOTS[0], CPUS[1])?],
        [map_bytes(SLOTS[1], CPUS[0])?, map_bytes(SLOTS[1], CPUS[1])?],
    ];
    let [all, per_cpu, small, large] = MAPS;
    let mib = |bytes: f64| bytes / 1024.0 / 1024.0;
    Ok(vec![
        Figure::once(all, "KiB", None, few / 1024.0),
        Figure::once(per_cpu, "KiB", None, (many - few) / f64::from(CPUS[1] - CPUS[0]) / 1024.0),
        Figure::once(small, "MiB", Some(16.0), mib(few_large)),
        Figure::once(large, "MiB", Some(32.0), mib(many_large)),
    ])
}

/// What the kernel charges for all maps of an agent with so many slots on so many CPUs.
fn map_bytes(slots: u32, cpus: u32) -> Result<f64> {
    let agent =
        Agent::spawn_with_cpus(json!({"interval": "300s", "cgroups": {"slots": slots}, "export": {"exporter": "none"}}), cpus)?;
    agent.wait_for_log("podmeter runs", Duration::from_secs(20))?;
    let maps = Held::by(agent.pid())?.maps()?;
    agent.stop()?;
    // The kernel itself knows how many CPUs there are.
    let possible = aya::util::nr_cpus().map_err(|(what, error)| anyhow!("could not count CPUs: {what}: {error}"))?;
    Ok(maps.iter().map(|map| map.bytes_with(cpus, possible)).sum())
}

/// Number of cgroups in a request.
fn cgroups(request: &ExportMetricsServiceRequest) -> usize {
    let resources = request.resource_metrics.iter().filter_map(|metrics| metrics.resource.as_ref());
    let paths = resources.filter(|resource| {
        resource.attributes.iter().any(|attribute| {
            attribute.key == "podmeter.cgroup.path"
                && matches!(attribute.value.as_ref().and_then(|v| v.value.as_ref()), Some(Value::StringValue(_)))
        })
    });
    paths.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_mebibytes() {
        let memory = Memory::parse("Name:\tpodmeter\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\n").expect("is complete");
        assert_eq!((memory.resident_mib, memory.peak_mib), (10.0, 20.0));
        assert!(Memory::parse("Name:\tkthreadd\n").is_none());
    }
}
