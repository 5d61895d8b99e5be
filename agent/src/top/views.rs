//! Batches -> views (pure): what people read off one interval.

use std::{collections::HashMap, sync::Arc};

use super::{
    identity,
    points::{attribute, histogram, number, points, sum, sum_where},
    suggest::{self, Watched},
    view::{Cpu, Dns, Memory, Network, Node, NodeCpu, NodeMemory, NodeNetwork, Tcp, View, Workload},
    window::Window,
};
use crate::{
    aggregate::Batch,
    histogram::Histogram,
    join::{CgroupSample, Sample, Subject},
    metric::Value,
    signals::{cpu, dns, drops, limits, memory::metrics, network, tcp},
};

/// Version of the JSON document.
const SCHEMA: u32 = 1;

/// Makes views; keeps what the next one is compared with.
#[derive(Debug)]
pub struct Views {
    node: String,
    capacity_cores: f64,
    time_ns: u64,
    before: HashMap<u64, Before>,
    /// Bytes that the node had received and sent.
    node_before: [Option<f64>; 2],
}

/// What rates and percentiles are counted from.
#[derive(Debug, Default)]
struct Before {
    wait_seconds: Option<f64>,
    throttled_seconds: Option<f64>,
    contention_seconds: Option<f64>,
    burst: Option<Arc<Histogram>>,
    received: Option<f64>,
    sent: Option<f64>,
    drops: Option<f64>,
    /// Segments sent for the first time, and those sent again.
    segments: Window<[f64; 2]>,
    rtt: Window<Option<Arc<Histogram>>>,
    queries: Option<f64>,
    lookups: Window<Lookups>,
    watched: Watched,
}

/// Lookups until a moment.
#[derive(Clone, Debug, Default)]
struct Lookups {
    /// Those that ended.
    all: u64,
    /// Those that failed: an error of the server's or its silence.
    failed: u64,
    /// Those of them that nobody answered.
    timeouts: u64,
    /// Those that found no such name (NXDOMAIN): what search lists waste, and an answer all the same.
    no_such_name: u64,
    /// Time to the answers.
    answers: Option<Arc<Histogram>>,
}

impl Lookups {
    fn of(sample: &Sample) -> Self {
        let ended = |wanted: fn(Option<&str>) -> bool| -> u64 {
            let of = points(sample, &dns::LOOKUPS).filter(|point| wanted(attribute(point, "error.type")));
            of.map(|point| if let Value::Histogram(histogram) = &point.value { histogram.count } else { 0 }).sum()
        };
        Self {
            all: ended(|_| true),
            failed: ended(|error| error.is_some_and(|error| error != NO_SUCH_NAME)),
            timeouts: ended(|error| error == Some(TIMEOUT)),
            no_such_name: ended(|error| error == Some(NO_SUCH_NAME)),
            // A timeout has the time that was waited for, not one to an answer.
            answers: histogram(sample, &dns::LOOKUPS, |point| attribute(point, "error.type") != Some(TIMEOUT)),
        }
    }
}

const TIMEOUT: &str = "timeout";
const NO_SUCH_NAME: &str = "NXDOMAIN";

impl Views {
    /// For the node of that name with so many CPUs.
    pub fn new(node: String, capacity_cores: f64) -> Self {
        Self { node, capacity_cores, time_ns: 0, before: HashMap::new(), node_before: [None; 2] }
    }

    /// The view of a batch: rates and percentiles are since the batch before.
    pub fn next(&mut self, batch: &Batch) -> View {
        let elapsed_s = match self.time_ns {
            0 => None,
            then => Some(batch.time_ns.saturating_sub(then) as f64 / 1e9).filter(|s| *s > 0.0),
        };
        self.time_ns = batch.time_ns;
        let mut view = View { schema: SCHEMA, node: self.node(&batch.node, elapsed_s), ..View::default() };
        let mut before = HashMap::with_capacity(self.before.len());
        for CgroupSample { cgroup, sample } in &batch.cgroups {
            let (workload, now) = workload(cgroup, sample, batch.time_ns, self.before.remove(&cgroup.id), elapsed_s);
            before.insert(cgroup.id, now);
            view.workloads.push(workload);
        }
        self.before = before;
        view.workloads.sort_by(|a, b| a.cgroup.cmp(&b.cgroup));
        view
    }

    fn node(&mut self, sample: &Sample, elapsed_s: Option<f64>) -> Node {
        let bytes = |metric| number(sample, metric).map(|bytes| bytes as u64);
        let working_set = bytes(&metrics::NODE_WORKING_SET);
        let memory = NodeMemory {
            usage_bytes: bytes(&metrics::NODE_USAGE),
            working_set_bytes: working_set,
            capacity_bytes: working_set.zip(bytes(&metrics::NODE_AVAILABLE)).map(|(used, free)| used + free),
        };
        let io = ["receive", "transmit"].map(|way| sum_where(sample, &network::NODE_IO, DIRECTION, |value| value == way));
        let before = std::mem::replace(&mut self.node_before, io);
        let rate = |way: usize| Some((io[way]? - before[way]?).max(0.0) / elapsed_s?);
        let network = NodeNetwork {
            receive_bytes: io[0].map(|bytes| bytes as u64),
            transmit_bytes: io[1].map(|bytes| bytes as u64),
            receive_rate: rate(0),
            transmit_rate: rate(1),
        };
        Node {
            name: self.node.clone(),
            cpu: NodeCpu {
                time_seconds: number(sample, &cpu::NODE_TIME).unwrap_or_default(),
                usage_cores: number(sample, &cpu::NODE_USAGE),
                capacity_cores: self.capacity_cores,
                unattributed_seconds: number(sample, &cpu::UNATTRIBUTED_TIME).unwrap_or_default(),
            },
            memory: known(memory),
            network: known(network),
        }
    }
}

const DIRECTION: &str = "network.io.direction";

fn workload(
    subject: &Subject,
    sample: &Sample,
    now_ns: u64,
    before: Option<Before>,
    elapsed_s: Option<f64>,
) -> (Workload, Before) {
    let seen_before = before.is_some();
    let mut before = before.unwrap_or_default();
    let per_second = |now: Option<f64>, then: Option<f64>| Some((now? - then?).max(0.0) / elapsed_s?);
    // A series that is new to a cgroup that is not: all of it is of the interval.
    let per_second_from_zero = |now: Option<f64>, then: Option<f64>| per_second(now, then.or(seen_before.then_some(0.0)));

    let bytes = |metric| number(sample, metric).map(|v| v as u64);
    let unreclaimable = bytes(&metrics::UNRECLAIMABLE);
    // Windows are counted from before the first look.
    let counted_since = points(sample, &cpu::BURST).map(|point| point.start_ns).min();
    let watched = before.watched.and(counted_since.unwrap_or(now_ns).min(now_ns), unreclaimable);
    let watched_seconds = watched.seconds(sample.time_ns.unwrap_or(now_ns));

    let wait = |cause| sum_where(sample, &cpu::WAIT_TIME, "cause", |value| value == cause);
    let (contention, throttled) = (wait("contention"), wait("throttled"));
    // Where nothing can throttle, all of the wait is contention.
    let wait_seconds = contention.map(|contention| contention + throttled.unwrap_or(0.0));
    let burst = histogram(sample, &cpu::BURST, |_| true);
    let recent_burst = recent(burst.as_ref(), before.burst.as_ref());
    let cpu = Cpu {
        time_seconds: number(sample, &cpu::TIME).unwrap_or_default(),
        usage_cores: number(sample, &cpu::USAGE),
        wait_seconds,
        throttled_seconds: throttled,
        contention_seconds: contention,
        wait_rate: per_second(wait_seconds, before.wait_seconds),
        throttled_rate: per_second(throttled, before.throttled_seconds),
        contention_rate: per_second(contention, before.contention_seconds),
        burst_p50_cores: quantile(recent_burst.as_ref(), 0.5),
        burst_p99_cores: quantile(recent_burst.as_ref(), 0.99),
        request_cores: number(sample, &limits::CPU_REQUEST),
        limit_cores: number(sample, &limits::CPU_LIMIT),
        suggested_request_cores: suggest::cpu(burst.as_deref(), watched_seconds),
    };

    let memory = Memory {
        usage_bytes: bytes(&metrics::USAGE),
        working_set_bytes: bytes(&metrics::WORKING_SET),
        unreclaimable_bytes: unreclaimable,
        peak_bytes: bytes(&metrics::PEAK),
        request_bytes: bytes(&limits::MEMORY_REQUEST),
        limit_bytes: bytes(&limits::MEMORY_LIMIT),
        suggested_request_bytes: suggest::memory(watched, watched_seconds),
        oom_kills: sum(sample, &metrics::OOM_KILLS).map(|n| n as u64),
    };

    let direction = |direction| sum_where(sample, &network::IO, DIRECTION, |value| value == direction);
    let (received, transmitted, drops) = (direction("receive"), direction("transmit"), sum(sample, &drops::DROPS));
    let network = Network {
        receive_bytes: received.map(|n| n as u64),
        transmit_bytes: transmitted.map(|n| n as u64),
        receive_rate: per_second_from_zero(received, before.received),
        transmit_rate: per_second_from_zero(transmitted, before.sent),
        drops: drops.map(|n| n as u64),
        drop_rate: per_second_from_zero(drops, before.drops),
    };

    let segments = [sum(sample, &tcp::SEGMENTS), sum(sample, &tcp::RETRANSMITS)];
    let sent = segments.map(Option::unwrap_or_default);
    let sent_before = before.segments.ending(now_ns, sent[0] as u64, &sent);
    let rtt = histogram(sample, &tcp::RTT, |_| true);
    let rtt_before = before.rtt.ending(now_ns, rtt.as_ref().map_or(0, |rtt| rtt.count), &rtt);
    let recent_rtt = recent(rtt.as_ref(), rtt_before.as_ref());
    let tcp = Tcp {
        segments_out: segments[0].map(|n| n as u64),
        retransmits: segments[1].map(|n| n as u64),
        retransmit_ratio: ratio(sent[1] - sent_before[1], sent[0] - sent_before[0]),
        rtt_count: recent_rtt.as_ref().map(|rtt| rtt.count),
        rtt_p50_seconds: quantile(recent_rtt.as_ref(), 0.5),
        rtt_p99_seconds: quantile(recent_rtt.as_ref(), 0.99),
        connect_failures: sum(sample, &tcp::CONNECT_FAILURES).map(|n| n as u64),
    };

    let queries = sum_where(sample, &dns::QUERIES, "side", |side| side == "client");
    let now = Lookups::of(sample);
    let then = before.lookups.ending(now_ns, now.all, &now);
    let recent_answers = recent(now.answers.as_ref(), then.answers.as_ref());
    let all = now.all.saturating_sub(then.all);
    let share = |now: u64, then: u64| ratio(now.saturating_sub(then) as f64, all as f64);
    let dns = queries.map(|queries| Dns {
        queries: Some(queries as u64),
        query_rate: per_second_from_zero(Some(queries), before.queries),
        timeouts: now.timeouts,
        failures: now.failed,
        no_such_name: now.no_such_name,
        window_lookups: all,
        failure_ratio: share(now.failed, then.failed),
        no_such_name_ratio: share(now.no_such_name, then.no_such_name),
        p50_seconds: quantile(recent_answers.as_ref(), 0.5),
        p99_seconds: quantile(recent_answers.as_ref(), 0.99),
    });

    let workload = Workload {
        watched_seconds,
        cpu,
        memory: known(memory),
        network: known(network),
        tcp: known(tcp),
        dns,
        ..identity::of(subject, &sample.resource)
    };
    let now = Before {
        wait_seconds,
        throttled_seconds: throttled,
        contention_seconds: contention,
        burst,
        received,
        sent: transmitted,
        drops,
        queries,
        watched,
        ..before
    };
    (workload, now)
}

/// A share, where there is anything to have a share of.
fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part.max(0.0) / whole)
}

fn quantile(of: Option<&Histogram>, q: f64) -> Option<f64> {
    of.and_then(|histogram| histogram.quantile(q))
}

/// What was observed since `then`.
fn recent(now: Option<&Arc<Histogram>>, then: Option<&Arc<Histogram>>) -> Option<Histogram> {
    let now = now?;
    Some(then.map_or_else(|| (**now).clone(), |then| now.since(then)))
}

/// What has a figure at all.
fn known<T: Default + PartialEq>(part: T) -> Option<T> {
    (part != T::default()).then_some(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cgroups::table::tests::cgroup, join, metric::Point};

    #[test]
    fn a_request_is_suggested_by_all_that_was_seen_and_with_the_time_it_took() {
        const SECOND: u64 = 1_000_000_000;
        let at = |second: u64, bursts: &[f64], unreclaimable: Option<u64>| {
            let mut batch = batch(second * SECOND, 0.0, bursts);
            let points = &mut batch.cgroups[0].sample.points;
            points.iter_mut().filter(|point| std::ptr::eq(point.metric, &cpu::BURST)).for_each(|p| p.start_ns = 2 * SECOND);
            points.extend(unreclaimable.map(|bytes| Point::new(&metrics::UNRECLAIMABLE, 0, Value::Int(bytes))));
            batch
        };
        let mut views = Views::new("n".to_owned(), 2.0);
        let first = &views.next(&at(2, &[], None)).workloads[0];
        assert_eq!((first.watched_seconds, first.cpu.suggested_request_cores), (None, None), "nothing was seen yet");
        assert_eq!(first.memory.as_ref().and_then(|memory| memory.suggested_request_bytes), None);
        views.next(&at(5, &[4.0; 30], Some(2000)));
        let last = &views.next(&at(62, &[&[4.0; 30][..], &[0.5; 570]].concat(), Some(1000))).workloads[0];
        assert_eq!(last.watched_seconds, Some(60.0));
        let cores = last.cpu.suggested_request_cores.expect("windows");
        assert!((cores / 0.5 - 1.0).abs() < 0.05, "{cores}: 30 of 600 windows may be above it");
        let memory = last.memory.as_ref().expect("is known");
        assert_eq!((memory.unreclaimable_bytes, memory.suggested_request_bytes), (Some(1000), Some(2300)));
    }

    fn batch(time_ns: u64, wait: f64, bursts: &[f64]) -> Batch {
        let mut burst = Histogram::default();
        bursts.iter().for_each(|v| burst.record(*v, 1));
        let owner = cgroup(1, "/a", None);
        let node = join::NodeIdentity { name: "n".to_owned(), ..join::NodeIdentity::default() };
        let points = vec![
            Point::new(&cpu::TIME, 0, Value::Float(5.0)),
            Point::new(&cpu::WAIT_TIME, 0, Value::Float(wait)).with("cause", "contention"),
            Point::new(&cpu::WAIT_TIME, 0, Value::Float(1.0)).with("cause", "throttled"),
            Point::new(&cpu::BURST, 0, Value::Histogram(Arc::new(burst))),
            Point::new(&limits::MEMORY_LIMIT, 0, Value::Int(7)),
        ];
        let resource = Arc::new(node.resource_of(&owner));
        Batch { time_ns, cgroups: vec![CgroupSample::new(&owner, resource, points)], ..Batch::default() }
    }

    #[test]
    fn the_network_is_told_by_rates_of_the_interval_and_shares_of_enough_to_have_a_share_of() {
        let at = |second: u64, received: u64, segments: [u64; 2], lookups: [u64; 3]| {
            let lookups = lookups.map(|n| {
                let mut histogram = Histogram::default();
                histogram.record(0.02, n);
                Value::Histogram(Arc::new(histogram))
            });
            let [answered, no_such_name, refused] = lookups;
            let mut batch = batch(second * 1_000_000_000, 0.0, &[]);
            batch.cgroups[0].sample.points = vec![
                Point::new(&network::IO, 0, Value::Int(received)).with("network.io.direction", "receive"),
                Point::new(&tcp::SEGMENTS, 0, Value::Int(segments[0])),
                Point::new(&tcp::RETRANSMITS, 0, Value::Int(segments[1])),
                Point::new(&dns::QUERIES, 0, Value::Int(9)).with("side", "client").with("network.transport", "udp"),
                Point::new(&dns::QUERIES, 0, Value::Int(70)).with("side", "server").with("network.transport", "udp"),
                Point::new(&dns::LOOKUPS, 0, answered).with("network.transport", "udp"),
                Point::new(&dns::LOOKUPS, 0, no_such_name).with("error.type", "NXDOMAIN").with("network.transport", "udp"),
                Point::new(&dns::LOOKUPS, 0, refused).with("error.type", "REFUSED").with("network.transport", "udp"),
            ];
            batch
        };
        let mut views = Views::new("n".to_owned(), 2.0);
        views.next(&at(1, 1000, [100, 1], [200, 0, 0]));
        let view = views.next(&at(3, 5000, [300, 3], [210, 60, 30]));
        let workload = &view.workloads[0];
        let network = workload.network.as_ref().expect("there was traffic");
        assert_eq!((network.receive_bytes, network.receive_rate, network.transmit_rate), (Some(5000), Some(2000.0), None));
        let tcp = workload.tcp.as_ref().expect("there were segments");
        assert_eq!((tcp.retransmits, tcp.retransmit_ratio, tcp.rtt_p50_seconds), (Some(3), Some(0.01), None));
        let dns = workload.dns.as_ref().expect("there were queries");
        assert_eq!((dns.queries, dns.failures, dns.no_such_name, dns.window_lookups), (Some(9), 30, 60, 100));
        assert_eq!((dns.failure_ratio, dns.no_such_name_ratio), (Some(0.3), Some(0.6)), "of the last hundred");
        let p50 = dns.p50_seconds.expect("there were answers");
        assert!((p50 / 0.02 - 1.0).abs() < 0.05, "{p50}");
        assert!(workload.memory.is_none(), "nothing is known of it");
        // Three more lookups and no more segments: shares and percentiles are still of enough.
        let view = views.next(&at(5, 5000, [300, 3], [212, 61, 30]));
        let workload = &view.workloads[0];
        assert_eq!(workload.tcp.as_ref().and_then(|tcp| tcp.retransmit_ratio), Some(0.01));
        let dns = workload.dns.as_ref().expect("there were queries");
        assert_eq!((dns.window_lookups, dns.failure_ratio), (103, Some(30.0 / 103.0)));
        assert!(dns.p99_seconds.is_some_and(|p99| (p99 / 0.02 - 1.0).abs() < 0.05), "{:?}", dns.p99_seconds);
    }

    #[test]
    fn rates_and_percentiles_are_of_the_interval() {
        let mut views = Views::new("n".to_owned(), 2.0);
        let first = views.next(&batch(1_000_000_000, 3.0, &[1.0; 10]));
        let cpu = &first.workloads[0].cpu;
        assert_eq!((cpu.time_seconds, cpu.wait_seconds, cpu.wait_rate), (5.0, Some(4.0), None));
        assert_eq!(first.workloads[0].memory.as_ref().and_then(|m| m.limit_bytes), Some(7));

        let mut bursts = vec![1.0; 10];
        bursts.extend([0.25; 10]);
        let second = views.next(&batch(3_000_000_000, 4.0, &bursts));
        let cpu = &second.workloads[0].cpu;
        assert_eq!((cpu.wait_rate, cpu.throttled_rate, cpu.contention_rate), (Some(0.5), Some(0.0), Some(0.5)));
        let p50 = cpu.burst_p50_cores.expect("windows");
        assert!((p50 / 0.25 - 1.0).abs() < 0.05, "{p50}: only the interval's windows");
    }

    #[test]
    fn where_nothing_can_throttle_all_of_the_wait_is_contention() {
        let at = |second: u64, wait: Option<f64>| {
            let mut batch = batch(second * 1_000_000_000, 0.0, &[]);
            let points = &mut batch.cgroups[0].sample.points;
            points.retain(|point| !std::ptr::eq(point.metric, &cpu::WAIT_TIME));
            points.extend(wait.map(|s| Point::new(&cpu::WAIT_TIME, 0, Value::Float(s)).with("cause", "contention")));
            batch
        };
        let mut views = Views::new("n".to_owned(), 2.0);
        let unknown = &views.next(&at(1, None)).workloads[0].cpu;
        assert_eq!((unknown.wait_seconds, unknown.contention_seconds), (None, None), "not known is not 0");
        let first = &views.next(&at(2, Some(7.0))).workloads[0].cpu;
        assert_eq!((first.wait_seconds, first.wait_rate, first.contention_rate), (Some(7.0), None, None));
        let next = &views.next(&at(4, Some(8.0))).workloads[0].cpu;
        assert_eq!((next.wait_rate, next.contention_rate, next.throttled_rate), (Some(0.5), Some(0.5), None));
    }

    #[test]
    fn the_node_has_memory_and_traffic_besides_its_cpu() {
        let at = |second: u64, received: u64| {
            let direction = |n, way| Point::new(&network::NODE_IO, 0, Value::Int(n)).with(DIRECTION, way);
            let points = vec![
                Point::new(&metrics::NODE_USAGE, 0, Value::Int(900)),
                Point::new(&metrics::NODE_WORKING_SET, 0, Value::Int(600)),
                Point::new(&metrics::NODE_AVAILABLE, 0, Value::Int(400)),
                direction(received, "receive"),
                direction(5, "transmit"),
            ];
            let resource = Arc::new(join::NodeIdentity::default().resource());
            Batch { time_ns: second * 1_000_000_000, node: Sample::new(resource, points), ..Batch::default() }
        };
        let mut views = Views::new("n".to_owned(), 2.0);
        let first = views.next(&at(1, 100)).node;
        let memory = NodeMemory { usage_bytes: Some(900), working_set_bytes: Some(600), capacity_bytes: Some(1000) };
        assert_eq!(first.memory, Some(memory));
        assert_eq!(first.network.and_then(|network| network.receive_rate), None);
        let network = views.next(&at(3, 300)).node.network.expect("is counted");
        assert_eq!((network.receive_bytes, network.receive_rate, network.transmit_rate), (Some(300), Some(100.0), Some(0.0)));
    }
}
