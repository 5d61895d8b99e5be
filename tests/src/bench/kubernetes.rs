//! What the agent takes while it follows a full node's pods at an API server, and how soon a container has its name.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value as Json, json};

use super::{
    Effort, Stop,
    agent::{Memory, cpu_time},
    pods::Pods,
    report::Figure,
    ticks::Watch,
};
use crate::{
    agent::Agent,
    collector::{Collector, Options},
    kubernetes::{
        ApiOptions, ApiServer,
        objects::{self, Container, Pod, container_id},
        tree::{Driver, Kubelet},
    },
    load::Load,
};

/// Memory, CPU and requests of a node with 250 pods of three containers.
pub const WATCHING: [&str; 7] = [
    "kubernetes.rss_mib",
    "kubernetes.rss_peak_mib",
    "kubernetes.rss_above_no_kubernetes_mib",
    "kubernetes.cpu_percent_15s",
    "kubernetes.tick_ms",
    "kubernetes.collection_ms",
    "kubernetes.requests_per_hour",
];

/// From the start of a container to the first export that has its name, at an interval of 1 s.
pub const LABELLED: [&str; 1] = ["kubernetes.start_to_labelled_seconds"];

const PODS: usize = 250;
const CONTAINERS_PER_POD: usize = 3;

/// How long kubelet takes to report a container that it has started.
const REPORT: Duration = Duration::from_millis(500);

const BUSY: Duration = Duration::from_micros(100);
const PERIOD: Duration = Duration::from_secs(1);
const LIFE: Duration = Duration::from_secs(3600);

/// A full node, an API server that has its pods, and where the agent sends what it sees.
pub struct Cluster {
    server: ApiServer,
    pub(super) collector: Collector,
    _pods: Pods,
    pub(super) stop: Stop,
}

impl Cluster {
    /// Makes a full node's pods.
    pub fn start(stop: &Stop) -> Result<Self> {
        Self::of(PODS, stop)
    }

    /// Makes so many pods.
    pub fn of(pods: usize, stop: &Stop) -> Result<Self> {
        // Bookmarks come every minute, as from a real one.
        let server = ApiServer::start(ApiOptions::default())?;
        server.set("nodes", objects::node("node-1", "32", "128Gi"));
        for pod in 0..pods {
            let resources = || (json!({"cpu": "100m", "memory": "64Mi"}), json!({"cpu": "500m", "memory": "128Mi"}));
            let containers = (0..CONTAINERS_PER_POD).map(|container| {
                let (requests, limits) = resources();
                let current = Some(json!({"requests": requests.clone(), "limits": limits.clone()}));
                let id = Pods::container_id(pod, container);
                Container { current, ..Container::new(&format!("app-{container}"), &id).with_resources(requests, limits) }
            });
            let made = Pod::new(&format!("web-5d8f7c9b4-{pod:05x}"), containers.collect());
            server.set_pod(&Pod { uid: Pods::uid(pod).replace('_', "-"), ..made });
        }
        let mut pods = Pods::new(pods, CONTAINERS_PER_POD)?;
        pods.start(1, BUSY, PERIOD, LIFE)?;
        let collector = Collector::with(Options { forgets: true, ..Options::default() })?;
        Ok(Self { server, collector, _pods: pods, stop: stop.clone() })
    }

    fn agent(&self, kubernetes: bool) -> Result<Agent> {
        Agent::spawn(self.config(kubernetes)?)
    }

    /// An agent's at the default interval, which follows the pods or does not.
    pub(super) fn config(&self, kubernetes: bool) -> Result<Json> {
        let mut config = if kubernetes { self.server.agent_config()? } else { json!({"node_name": "node-1"}) };
        config["interval"] = json!("15s");
        config["cgroups"] = json!({"slots": 2048});
        config["export"] =
            json!({"exporter": "otlp", "endpoint": self.collector.grpc_endpoint(), "protocol": "grpc", "request_bytes": "2MiB"});
        Ok(config)
    }

    /// Waits until the collector has had so many exports of agents with this interval.
    pub(super) fn wait_for_exports(&self, agent: &mut Agent, until: usize) -> Result<()> {
        self.stop.pause_until(&format!("{until} exports"), Duration::from_secs(90), || {
            ensure!(agent.alive()?, "the agent ended:\n{}", agent.stderr());
            Ok(self.collector.export_count() >= until)
        })
    }

    /// Memory, CPU and requests.
    pub fn watching(&self, effort: Effort) -> Result<Vec<Figure>> {
        let without = {
            let before = self.collector.export_count();
            let mut agent = self.agent(false)?;
            self.wait_for_exports(&mut agent, before + 3)?;
            let memory = Memory::of(agent.pid())?;
            agent.stop()?;
            memory
        };
        let before = self.collector.export_count();
        let mut agent = self.agent(true)?;
        // The second has all names.
        self.wait_for_exports(&mut agent, before + 2)?;
        let (began, used, asked) = (Instant::now(), cpu_time(agent.pid())?, self.server.requests().len());
        let (watch, exports) = (Watch::start(agent.pid())?, effort.pick(1, 4));
        self.wait_for_exports(&mut agent, before + 2 + exports)?;
        self.stop.pause(Duration::from_millis(200))?;
        let seconds = began.elapsed().as_secs_f64();
        let cpu = (cpu_time(agent.pid())? - used).as_secs_f64();
        let bursts = watch.bursts(exports)?;
        let idle = self.server.requests().len() - asked;
        let memory = Memory::of(agent.pid())?;
        ensure!(self.server.open_watches() == 2, "{} watches are open", self.server.open_watches());
        // A watch lasts 300 to 600 s: in a minute none may end, so the figure follows from their length.
        let per_hour = self.server.open_watches() as f64 * 3600.0 / self.mean_watch_seconds() + idle as f64 * 3600.0 / seconds;
        agent.stop()?;
        let [resident, peak, above, percent, tick, collection, requests] = WATCHING;
        Ok(vec![
            Figure::once(resident, "MiB", Some(25.0), memory.resident_mib),
            Figure::once(peak, "MiB", Some(40.0), memory.peak_mib),
            Figure::once(above, "MiB", None, memory.resident_mib - without.resident_mib),
            Figure::once(percent, "%", Some(0.3), cpu / seconds * 100.0),
            Figure::of(tick, "ms", None, bursts.ticks)?,
            Figure::of(collection, "ms", None, bursts.collections)?,
            Figure::once(requests, "1/h", Some(30.0), per_hour),
        ])
    }

    /// The length that open watches requested, on average.
    fn mean_watch_seconds(&self) -> f64 {
        let asked = self.server.requests();
        let seconds = asked.iter().filter_map(|asked| asked.path.split("timeoutSeconds=").nth(1)?.parse::<f64>().ok());
        let (sum, count) = seconds.fold((0.0, 0.0), |(sum, count), seconds| (sum + seconds, count + 1.0));
        sum / count
    }

    /// How soon a container has its name.
    pub fn labelled(&self, effort: Effort) -> Result<Vec<Figure>> {
        let mut config = self.server.agent_config()?;
        config["cgroups"] = json!({"slots": 2048});
        let agent = Agent::start(config)?;
        let kubelet = Kubelet::new(Driver::Systemd)?;
        let mut times = Vec::new();
        for number in 0..effort.pick(3, 10) {
            self.stop.check()?;
            let id = container_id();
            let mut pod = Pod::new(&format!("new-{number}"), vec![Container::new("app", "")]);
            self.server.set_pod(&pod);
            let cgroup = kubelet.pod(&pod.uid)?;
            let container = cgroup.container(&id)?;
            let started = Instant::now();
            let _load = Load::duty_cycle(BUSY, PERIOD, Duration::from_secs(60)).start(&container)?;
            self.stop.pause(REPORT)?;
            pod.containers = vec![Container::new("app", &id)];
            self.server.set_pod(&pod);
            agent.wait_for("a name", Duration::from_secs(20), |exports| {
                exports.of(container.path()).last()?.resource.get("k8s.container.name").map(drop)
            })?;
            times.push(started.elapsed().as_secs_f64());
            container.remove()?;
            self.server.delete_pod(&pod);
        }
        agent.stop()?;
        Ok(vec![Figure::of(LABELLED[0], "s", Some(2.5), times)?])
    }
}
