//! What a back end has of folded and unfolded pods, compared with what they did.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::*;
use crate::cgroups::name::{Kubelets, parse};
use crate::config::HistogramSeries;
use crate::histogram::Histogram;
use crate::join::{CgroupSample, Resource, Sample, Subject};
use crate::metric::{Scope, Value};

// A back end sees what the next stage makes of a batch.
#[cfg(test)]
use crate::export::{
    fixtures::{Load, node},
    series::Series,
};

const SECOND: u64 = 1_000_000_000;

static IO: Metric = Metric::counter("test.io", "By", Scope::Cgroup, "").attributes(&["direction"]);
static TIME: Metric = Metric::counter("test.time", "s", Scope::Cgroup, "");
static USED: Metric = Metric::gauge("test.used", "By", Scope::Cgroup, "");
static WAIT: Metric = Metric::histogram("test.wait", "s", Scope::Cgroup, "");

/// A pod of one container.
#[derive(Clone, Debug)]
struct Pod {
    id: u64,
    namespace: &'static str,
    workload: String,
    born_ns: u64,
    count: u64,
    ended: bool,
}

impl Pod {
    fn points(&self) -> Vec<Point> {
        let mut histogram = Histogram::default();
        histogram.record(1.0, self.count);
        let counter = |metric, value| Point::new(metric, self.born_ns, value);
        let mut points = vec![
            counter(&IO, Value::Int(self.count)).with("direction", "sent"),
            counter(&IO, Value::Int(2 * self.count)).with("direction", "received"),
            counter(&TIME, Value::Float(self.count as f64 / 8.0)),
            counter(&WAIT, Value::Histogram(Arc::new(histogram))),
        ];
        points.extend((!self.ended).then(|| Point::new(&USED, 0, Value::Int(self.id))));
        points
    }

    fn samples(&self) -> [CgroupSample; 2] {
        let uid = format!("{:08x}-0000-4000-8000-000000000000", self.id);
        let pod = format!("/kubepods/pod{uid}");
        let container = format!("{pod}/{:064x}", self.id);
        [("Pod", pod, self.id), ("Container", container, self.id + 1_000_000)].map(|(kind, path, id)| {
            let attributes = BTreeMap::from([
                ("host.name", "n1"),
                ("k8s.deployment.name", &*self.workload),
                ("k8s.namespace.name", self.namespace),
                ("k8s.pod.uid", &*uid),
                ("podmeter.cgroup.path", &*path),
                ("podmeter.workload.kind", kind),
                ("service.instance.id", &*path),
                ("service.name", &*self.workload),
            ]);
            let sample = Sample::new(Arc::new(Resource::new(attributes, 0)), self.points());
            let cgroup = Subject { id, name: parse(&path, Kubelets::OfTheNode), path, ended: self.ended };
            CgroupSample { cgroup, sample }
        })
    }
}

/// A node's pods, the stages, and what a back end has of them.
struct World {
    pods: Vec<Pod>,
    budget: Budget,
    series: Series,
    now_ns: u64,
    /// What all pods that there ever were have counted.
    truth: u64,
    /// Histograms are not read, as where podmeter costs too much.
    sheds: bool,
    /// By series: the time and value of its newest point, and its increase. Times in order, or the test fails.
    backend: HashMap<String, (u64, f64, f64)>,
    /// Series of the newest batch.
    newest: Vec<String>,
}

impl World {
    fn new(settings: config::Budget) -> Self {
        let settings = config::Budget { histograms: settings.histograms.max(Detail::Pod), ..settings };
        let (pods, backend, newest) = (Vec::new(), HashMap::new(), Vec::new());
        let (budget, series) = (Budget::new(settings, SECOND), Series::new(SECOND));
        Self { pods, budget, series, now_ns: 2 * SECOND, truth: 0, sheds: false, backend, newest }
    }

    fn born(&mut self, namespace: &'static str, pods: std::ops::Range<u64>) {
        let pod = |id| Pod {
            id,
            namespace,
            workload: format!("{namespace}-{}", id % 3),
            born_ns: self.now_ns - SECOND / 2,
            count: 0,
            ended: false,
        };
        self.pods.extend(pods.map(pod));
    }

    /// Everyone counts, some more than others, and a batch leaves.
    fn export(&mut self) {
        for pod in &mut self.pods {
            pod.count += pod.id % 7 + 1;
            self.truth += pod.id % 7 + 1;
        }
        let cgroups = self.pods.iter().flat_map(Pod::samples).collect();
        let mut batch = Batch { time_ns: self.now_ns, cgroups, ..Batch::default() };
        if self.sheds {
            batch.cgroups.iter_mut().for_each(|cgroup| cgroup.sample.points.retain(|point| !is_histogram(point.metric)));
        }
        self.budget.apply(&mut batch, true);
        assert_eq!(self.series.complete(&mut batch, true), 0, "no series twice");
        self.newest.clear();
        for sample in batch.samples().filter(|sample| !std::ptr::eq(*sample, &batch.node)) {
            let earlier = sample.earlier.iter().map(|earlier| (earlier.time_ns, &earlier.points));
            for (time_ns, points) in earlier.chain([(sample.time_ns.unwrap_or(batch.time_ns), &sample.points)]) {
                for point in points {
                    self.receive(&sample.resource, time_ns, point);
                }
            }
        }
        self.now_ns += 15 * SECOND;
        self.pods.retain(|pod| !pod.ended);
    }

    fn receive(&mut self, resource: &Resource, time_ns: u64, point: &Point) {
        let value = match &point.value {
            Value::Int(value) => *value as f64,
            Value::Float(value) => *value,
            Value::Histogram(histogram) => histogram.count as f64,
            Value::Absent => return,
        };
        let kind = resource.get("podmeter.workload.kind").expect("a kind");
        let name = format!("{kind} {} {:?} {resource:?}", point.metric.name, point.attributes);
        assert!(point.start_ns <= time_ns, "{name} begins after its time");
        let known = self.backend.get(&name).copied();
        // As a back end does it: from a series' first point on, and a lower value is a count from zero.
        let increase = known.map_or(0.0, |(before_ns, before, increase)| {
            assert!(before_ns < time_ns, "{name} goes back in time");
            increase + if value >= before { value - before } else { value }
        });
        self.backend.insert(name.clone(), (time_ns, value, increase));
        self.newest.push(name);
    }

    /// The increase of a metric over all pods, by their own series and by their sums.
    fn increase(&self, metric: &str) -> f64 {
        let of_pods = self.backend.iter().filter(|(name, _)| !name.starts_with("Container") && name.contains(metric));
        of_pods.map(|(_, (_, _, increase))| increase).sum()
    }

    fn check(&self) {
        let truth = self.truth as f64;
        assert_eq!(self.increase("test.io"), 3.0 * truth);
        assert_eq!(self.increase("test.time"), truth / 8.0);
        assert_eq!(self.increase("test.wait"), truth);
        let used = self.newest.iter().filter(|name| !name.starts_with("Container") && name.contains("test.used"));
        let used: f64 = used.map(|name| self.backend[name].1).sum();
        assert_eq!(used, self.pods.iter().map(|pod| pod.id as f64).sum::<f64>());
    }

    fn step(&self, namespace: &str) -> usize {
        self.budget.namespaces[namespace].step
    }

    /// Series of the newest batch beside zero points, as many as a back end has.
    fn count(&self) -> usize {
        self.newest.iter().collect::<std::collections::HashSet<_>>().len()
    }
}

fn settings(series: u32) -> config::Budget {
    config::Budget { series: Some(series), ..config::Budget::default() }
}

#[test]
fn what_is_folded_and_unfolded_has_the_sums_that_there_are_without_it() {
    // Five series per pod and four of its container. The node's own are 13 at most.
    let mut world = World::new(settings(500));
    world.born("shop", 0..30);
    world.born("bank", 100..110);
    for _ in 0..3 {
        world.export();
        world.check();
        assert_eq!((world.count(), world.step("shop")), (40 * 9, 0));
    }
    // Too many: those that have series keep them for a last point, the new ones never get any.
    world.born("shop", 30..90);
    world.export();
    world.check();
    let first = world.step("shop");
    assert!(first >= 3, "{first}");
    for _ in 0..50 {
        world.export();
        world.check();
        assert!(world.count() <= 500, "{}", world.count());
        assert_eq!(world.step("shop"), first, "it stays as it is");
    }
    // Some end, one is replaced: what they had stays in the sums.
    for pod in world.pods.iter_mut().filter(|pod| pod.id < 20) {
        pod.ended = true;
    }
    world.export();
    world.check();
    for pod in world.pods.iter_mut().filter(|pod| (30..90).contains(&pod.id)) {
        pod.ended = true;
    }
    world.export();
    // Now it fits. Nothing is unfolded for ten minutes, then a step after the other.
    let mut steps = vec![world.step("shop")];
    for _ in 0..39 {
        world.export();
        world.check();
        assert_eq!(world.step("shop"), first);
    }
    for _ in 0..400 {
        world.export();
        world.check();
        steps.push(world.step("shop"));
    }
    steps.dedup();
    assert_eq!(steps, (0..=first).rev().collect::<Vec<_>>());
    assert_eq!(world.count(), 20 * 9);
    // And once more.
    world.born("shop", 200..290);
    for _ in 0..5 {
        world.export();
        world.check();
    }
    assert!(world.step("shop") >= 3 && world.count() <= 500);
}

#[test]
fn histograms_that_were_not_exported_for_a_while_go_on_and_nothing_is_counted_twice() {
    // Folded, so that the pods' histograms are in sums; and one whose pods have series of their own.
    let mut world = World::new(settings(500));
    world.born("shop", 0..90);
    world.born("bank", 100..105);
    for _ in 0..3 {
        world.export();
        world.check();
    }
    assert!(world.step("shop") >= 2);
    world.sheds = true;
    for _ in 0..45 {
        world.export();
    }
    assert!(world.newest.iter().all(|name| !name.contains("test.wait")), "no sum says that nothing was counted");
    // What is new begins in the gap. Some namespaces may have been unfolded, having fewer series.
    world.born("shop", 200..210);
    world.export();
    world.sheds = false;
    for _ in 0..10 {
        world.export();
        world.check();
    }
}

#[test]
fn a_namespace_that_exceeds_its_budget_is_folded_alone() {
    let of_namespaces = BTreeMap::from([("shop".to_owned(), 300)]);
    let mut world = World::new(config::Budget { namespaces: of_namespaces, ..settings(100_000) });
    world.born("shop", 0..50);
    world.born("bank", 100..160);
    world.export();
    world.check();
    // 450 series; 300 without the histograms of pods and with nothing of containers.
    assert_eq!((world.step("shop"), world.step("bank")), (3, 0));
    let shop: std::collections::HashSet<_> = world.newest.iter().filter(|name| name.contains("\"shop\"")).collect();
    assert_eq!(shop.len(), 50 * 4 + 3, "counters and gauges of pods, histograms of workloads");
}

#[test]
fn the_order_is_histograms_then_scalars_and_the_largest_namespace_first() {
    let mut seen = Vec::new();
    for series in [1000, 880, 820, 700, 600, 500, 400, 200, 100, 60, 1] {
        let mut world = World::new(settings(series));
        world.born("large", 0..60);
        world.born("small", 100..140);
        world.export();
        world.check();
        seen.push((world.step("large"), world.step("small")));
    }
    assert!(seen.is_sorted(), "the less there may be the more is folded: {seen:?}");
    assert_eq!((seen[0], seen[10]), ((0, 0), (5, 5)));
    assert!(seen.iter().all(|(large, small)| large >= small), "{seen:?}");
    assert!(seen.contains(&(2, 0)) && seen.contains(&(2, 2)) && seen.contains(&(3, 2)), "{seen:?}");
}

#[test]
fn a_histogram_is_one_series_or_as_many_as_it_has_buckets() {
    let mut histogram = Histogram::default();
    for value in [0.0, 1.0, 1.0, 3.0, 70.0] {
        histogram.record(value, 1);
    }
    let point = Point::new(&WAIT, 0, Value::Histogram(Arc::new(histogram)));
    let series = |kept| Budget::new(config::Budget { histogram_series: kept, ..settings(1) }, 0).series(&point);
    assert_eq!(series(HistogramSeries::Native), 1);
    assert_eq!(series(HistogramSeries::Buckets), 3 + 1 + 2, "three buckets, that of zero, count and sum");
}

#[test]
fn lists_take_metrics_out_and_signals_and_namespaces_have_their_own_detail() {
    let list = |text: &str| {
        let overrides = |name: &str| (name == "PODMETER_METRICS_DENY").then(|| text.to_owned());
        config::Config::load(None, &overrides, config::Overrides::default()).expect("valid").budget.deny
    };
    let mut world = World::new(config::Budget { deny: list("*.io,podmeter.agent.series.*"), ..settings(100_000) });
    world.born("shop", 0..2);
    world.export();
    assert!(!world.newest.is_empty() && !world.newest.iter().any(|name| name.contains("test.io")));

    let namespace_detail = BTreeMap::from([("shop".to_owned(), Detail::Workload)]);
    let mut world = World::new(config::Budget { namespace_detail, ..settings(100_000) });
    world.born("shop", 0..6);
    world.born("bank", 100..101);
    world.export();
    world.check();
    let kinds = |namespace: &str, kind: &str| {
        world.newest.iter().filter(|name| name.contains(&format!("{namespace:?}")) && name.starts_with(kind)).count() > 0
    };
    assert_eq!([kinds("shop", "Pod"), kinds("shop", "Container"), kinds("shop", "Workload")], [false, false, true]);
    assert_eq!([kinds("bank", "Pod"), kinds("bank", "Container"), kinds("bank", "Workload")], [true, true, false]);

    let signal_detail = BTreeMap::from([("cpu".to_owned(), Detail::Pod)]);
    let mut budget = Budget::new(config::Budget { signal_detail, ..settings(100_000) }, 0);
    let mut batch = node(3, Load::Busy);
    budget.apply(&mut batch, true);
    let of_containers = |name: &str| {
        let containers = batch.cgroups.iter().filter(|row| row.sample.resource.get("k8s.container.name").is_some());
        containers.flat_map(|row| &row.sample.points).any(|point| point.metric.name == name)
    };
    assert!(!of_containers("container.cpu.time") && of_containers("container.memory.usage"));
}

fn defaults() -> config::Budget {
    config::Config::load(None, &|_| None, config::Overrides::default()).expect("valid").budget
}

/// Series of a node, and how far its namespaces are folded.
fn figures(pods: u64, load: Load, settings: config::Budget) -> (u64, Option<usize>) {
    let mut budget = Budget::new(settings, 0);
    let mut batch = node(pods, load);
    budget.apply(&mut batch, true);
    let series: u64 = batch.samples().flat_map(|sample| &sample.points).map(|point| budget.series(point)).sum();
    (series, budget.namespaces.values().map(|namespace| namespace.step).max())
}

#[test]
fn a_busy_node_of_250_pods_fits_into_the_default_budget() {
    let (series, step) = figures(250, Load::Busy, defaults());
    assert!(series <= 100_000 && step == Some(0), "{series} series, step {step:?}");
}

#[test]
#[ignore = "it measures"]
fn the_figures_of_the_documents() {
    for (pods, load) in [(110, Load::Idle), (110, Load::Busy), (250, Load::Idle), (250, Load::Busy)] {
        for histogram_series in [HistogramSeries::Native, HistogramSeries::Buckets] {
            let settings = config::Budget { histogram_series, ..defaults() };
            let unbound = config::Budget { series: None, namespace_series: None, ..settings.clone() };
            let before = figures(pods, load, config::Budget { histograms: Detail::Container, ..unbound.clone() });
            let now = [unbound, settings].map(|settings| figures(pods, load, settings));
            eprintln!(
                "{pods} pods, {load:?}, {histogram_series:?}: before {before:?}, without a budget {:?}, with {:?}",
                now[0], now[1]
            );
        }
    }
}
