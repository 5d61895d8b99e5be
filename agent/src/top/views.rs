//! Batches -> views (pure): what people read off one interval.

use std::{collections::HashMap, sync::Arc};

use super::view::{Cpu, Memory, Node, NodeCpu, View, Workload};
use crate::{
    aggregate::Batch,
    cgroups::name::Kind,
    histogram::Histogram,
    join::Sample,
    signals::{
        cpu, limits,
        metric::{Metric, Point, Value},
    },
};

/// Version of the JSON document.
const SCHEMA: u32 = 1;

/// Makes views; keeps what the next one is compared with.
#[derive(Debug)]
pub struct Views {
    node: String,
    capacity_cores: f64,
    time_unix_ns: u64,
    before: HashMap<u64, Before>,
}

#[derive(Debug)]
struct Before {
    wait_seconds: f64,
    throttled_seconds: Option<f64>,
    burst: Option<Arc<Histogram>>,
}

impl Views {
    /// For the node of that name with so many CPUs.
    pub fn new(node: String, capacity_cores: f64) -> Self {
        Self { node, capacity_cores, time_unix_ns: 0, before: HashMap::new() }
    }

    /// The view of a batch: rates and percentiles are since the batch before.
    pub fn next(&mut self, batch: &Batch) -> View {
        let elapsed_s = match self.time_unix_ns {
            0 => None,
            then => Some(batch.time_unix_ns.saturating_sub(then) as f64 / 1e9).filter(|s| *s > 0.0),
        };
        self.time_unix_ns = batch.time_unix_ns;
        let mut view = View { schema: SCHEMA, ..View::default() };
        let mut before = HashMap::with_capacity(self.before.len());
        for sample in &batch.samples {
            match &sample.cgroup {
                None => view.node = self.node(sample),
                Some(subject) => {
                    let (workload, now) = workload(sample, self.before.get(&subject.id), elapsed_s);
                    before.insert(subject.id, now);
                    view.workloads.push(workload);
                }
            }
        }
        self.before = before;
        view.workloads.sort_by(|a, b| a.cgroup.cmp(&b.cgroup));
        view
    }

    fn node(&self, sample: &Sample) -> Node {
        Node {
            name: self.node.clone(),
            cpu: NodeCpu {
                time_seconds: number(sample, &cpu::NODE_TIME).unwrap_or_default(),
                usage_cores: number(sample, &cpu::NODE_USAGE),
                capacity_cores: self.capacity_cores,
                unattributed_seconds: number(sample, &cpu::UNATTRIBUTED_TIME).unwrap_or_default(),
            },
        }
    }
}

fn workload(sample: &Sample, before: Option<&Before>, elapsed_s: Option<f64>) -> (Workload, Before) {
    let waits: Vec<&Point> = points(sample, &cpu::WAIT_TIME).collect();
    let wait = |cause: &str| waits.iter().find(|p| p.attributes.iter().any(|(_, v)| v == cause)).and_then(|point| value(point));
    let (contention, throttled) = (wait("contention"), wait("throttled"));
    let wait_seconds = contention.unwrap_or(0.0) + throttled.unwrap_or(0.0);
    let burst = points(sample, &cpu::BURST).find_map(|point| match &point.value {
        Value::Histogram(histogram) => Some(Arc::clone(histogram)),
        _ => None,
    });
    let recent = burst.as_ref().map(|now| match before.and_then(|b| b.burst.as_ref()) {
        Some(then) => now.since(then),
        None => (**now).clone(),
    });
    let rate = |now: f64, then: Option<f64>| Some((now - then?).max(0.0) / elapsed_s?);
    let quantile = |q| recent.as_ref().and_then(|r| r.quantile(q));

    let cpu = Cpu {
        time_seconds: number(sample, &cpu::TIME).unwrap_or_default(),
        usage_cores: number(sample, &cpu::USAGE),
        wait_seconds,
        throttled_seconds: throttled,
        contention_seconds: contention,
        wait_rate: rate(wait_seconds, before.map(|b| b.wait_seconds)),
        throttled_rate: throttled.and_then(|now| rate(now, before.and_then(|b| b.throttled_seconds))),
        burst_p50_cores: quantile(0.5),
        burst_p99_cores: quantile(0.99),
        request_cores: number(sample, &limits::CPU_REQUEST),
        limit_cores: number(sample, &limits::CPU_LIMIT),
    };
    let bytes = |metric| number(sample, metric).map(|v| v as u64);
    let memory =
        Memory { request_bytes: bytes(&limits::MEMORY_REQUEST), limit_bytes: bytes(&limits::MEMORY_LIMIT), ..Memory::default() };
    let mut workload = Workload { cpu, memory: known(memory), ..Workload::default() };
    if let Some(subject) = &sample.cgroup {
        workload.name = subject.name.name.clone();
        workload.kind = subject.name.kind.as_str().to_owned();
        workload.pod = subject.name.pod_uid.clone();
        workload.container = subject.name.container_id.clone().filter(|_| subject.name.kind == Kind::Container);
        workload.cgroup = subject.path.clone();
        workload.ended = subject.ended;
    }
    (workload, Before { wait_seconds, throttled_seconds: throttled, burst })
}

/// What has a figure at all.
fn known<T: Default + PartialEq>(part: T) -> Option<T> {
    (part != T::default()).then_some(part)
}

fn points<'a>(sample: &'a Sample, metric: &'static Metric) -> impl Iterator<Item = &'a Point> {
    sample.points.iter().filter(move |point| std::ptr::eq(point.metric, metric))
}

/// The value of the only point of a metric.
fn number(sample: &Sample, metric: &'static Metric) -> Option<f64> {
    points(sample, metric).next().and_then(value)
}

fn value(point: &Point) -> Option<f64> {
    match &point.value {
        Value::Int(n) => Some(*n as f64),
        Value::Float(n) => Some(*n),
        Value::Histogram(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cgroups::table::tests::cgroup,
        join::{self, Subject},
    };

    fn batch(time_unix_ns: u64, wait: f64, bursts: &[f64]) -> Batch {
        let mut burst = Histogram::default();
        bursts.iter().for_each(|v| burst.record(*v, 1));
        let owner = cgroup(1, "/a", None);
        let node = join::Node { name: "n".to_owned(), ..join::Node::default() };
        let points = vec![
            Point::new(&cpu::TIME, 0, Value::Float(5.0)),
            Point::new(&cpu::WAIT_TIME, 0, Value::Float(wait)).with("cause", "contention"),
            Point::new(&cpu::WAIT_TIME, 0, Value::Float(1.0)).with("cause", "throttled"),
            Point::new(&cpu::BURST, 0, Value::Histogram(Arc::new(burst))),
            Point::new(&limits::MEMORY_LIMIT, 0, Value::Int(7)),
        ];
        let resource = Arc::new(node.resource_of(&owner));
        let samples = vec![Sample { cgroup: Some(Subject::of(&owner)), time_unix_ns: None, resource, points }];
        Batch { time_unix_ns, samples, ..Batch::default() }
    }

    #[test]
    fn rates_and_percentiles_are_of_the_interval() {
        let mut views = Views::new("n".to_owned(), 2.0);
        let first = views.next(&batch(1_000_000_000, 3.0, &[1.0; 10]));
        let cpu = &first.workloads[0].cpu;
        assert_eq!((cpu.time_seconds, cpu.wait_seconds, cpu.wait_rate), (5.0, 4.0, None));
        assert_eq!(first.workloads[0].memory.as_ref().and_then(|m| m.limit_bytes), Some(7));

        let mut bursts = vec![1.0; 10];
        bursts.extend([0.25; 10]);
        let second = views.next(&batch(3_000_000_000, 4.0, &bursts));
        let cpu = &second.workloads[0].cpu;
        assert_eq!((cpu.wait_rate, cpu.throttled_rate), (Some(0.5), Some(0.0)));
        let p50 = cpu.burst_p50_cores.expect("windows");
        assert!((p50 / 0.25 - 1.0).abs() < 0.05, "{p50}: only the interval's windows");
    }
}
