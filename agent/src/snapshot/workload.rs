//! One cgroup's sample -> one workload of the snapshot (pure): a function per signal.
//!
//! Each function keeps what its rates, shares and percentiles of the next interval are compared with.

use std::sync::Arc;

use super::{
    document::{CpuUsage, DiskUsage, DnsUsage, MemoryUsage, NeighbourWait, NetworkUsage, TcpUsage, WorkloadUsage},
    identity,
    lookups::LookupTotals,
    points::{histogram, number, points, sum, sum_where},
    suggest::{self, ObservedMemory},
    window::Window,
};
use crate::{
    histogram::Histogram,
    join::{Sample, Subject},
    metric::{Metric, Point, Value},
    signals::{
        cpu, disk, dns, drops, limits,
        memory::metrics,
        network,
        tcp::{self, quality},
    },
};

/// The attribute that divides bytes into received and sent.
pub const DIRECTION: &str = "network.io.direction";

/// What is kept of a workload from one interval to the next.
#[derive(Debug, Default)]
pub struct Previous {
    cpu: CpuTotals,
    network: NetworkTotals,
    tcp: TcpWindows,
    dns: DnsWindow,
    disk: DiskWindows,
    memory: ObservedMemory,
}

impl Previous {
    /// Shares and percentiles are of what comes from now on.
    pub fn begin_here(&mut self) {
        self.tcp.segments.begin_here();
        self.tcp.rtt.begin_here();
        self.dns.lookups.begin_here();
        self.disk.operations.begin_here();
        self.disk.syncs.begin_here();
    }
}

#[derive(Debug, Default)]
struct CpuTotals {
    wait_seconds: Option<f64>,
    throttled_seconds: Option<f64>,
    contention_seconds: Option<f64>,
    burst: Option<Arc<Histogram>>,
}

#[derive(Debug, Default)]
struct NetworkTotals {
    received: Option<f64>,
    sent: Option<f64>,
    drops: Option<f64>,
}

#[derive(Debug, Default)]
struct TcpWindows {
    /// Segments sent for the first time, and those sent again.
    segments: Window<[f64; 2]>,
    rtt: Window<Option<Arc<Histogram>>>,
}

#[derive(Debug, Default)]
struct DnsWindow {
    queries: Option<f64>,
    lookups: Window<LookupTotals>,
}

#[derive(Debug, Default)]
struct DiskWindows {
    /// Bytes read and written.
    bytes: [Option<f64>; 2],
    operations: Window<Option<Arc<Histogram>>>,
    syncs: Window<Option<Arc<Histogram>>>,
}

/// One interval of a workload.
struct Interval<'a> {
    sample: &'a Sample,
    now_ns: u64,
    /// Its length; `None` in the first one.
    elapsed_s: Option<f64>,
    /// Whether the workload was in the snapshot before.
    seen_before: bool,
}

impl Interval<'_> {
    fn per_second(&self, now: Option<f64>, then: Option<f64>) -> Option<f64> {
        Some((now? - then?).max(0.0) / self.elapsed_s?)
    }

    /// The same for a series that appears with its first event: in a workload that was seen before it counted from 0.
    fn per_second_from_zero(&self, now: Option<f64>, then: Option<f64>) -> Option<f64> {
        self.per_second(now, then.or(self.seen_before.then_some(0.0)))
    }
}

/// The workload, and what to keep of it for the next interval.
pub fn workload(
    subject: &Subject,
    sample: &Sample,
    now_ns: u64,
    previous: Option<Previous>,
    elapsed_s: Option<f64>,
) -> (WorkloadUsage, Previous) {
    let interval = Interval { sample, now_ns, elapsed_s, seen_before: previous.is_some() };
    let mut kept = previous.unwrap_or_default();
    // Windows of 100 ms are counted from before the first snapshot.
    let counted_since = points(sample, &cpu::metrics::BURST).map(|point| point.start_ns).min();
    kept.memory = kept.memory.and(counted_since.unwrap_or(now_ns).min(now_ns), whole(sample, &metrics::UNRECLAIMABLE));
    let watched_seconds = kept.memory.seconds(sample.time_ns.unwrap_or(now_ns));
    let workload = WorkloadUsage {
        watched_seconds,
        cpu: cpu_usage(&interval, watched_seconds, &mut kept.cpu),
        memory: known(memory_usage(sample, watched_seconds, kept.memory)),
        network: known(network_usage(&interval, &mut kept.network)),
        tcp: known(tcp_usage(&interval, &mut kept.tcp)),
        dns: dns_usage(&interval, &mut kept.dns),
        disk: known(disk_usage(&interval, &mut kept.disk)),
        ..identity::of(subject, &sample.resource)
    };
    (workload, kept)
}

fn cpu_usage(interval: &Interval, watched_seconds: Option<f64>, kept: &mut CpuTotals) -> CpuUsage {
    let sample = interval.sample;
    let wait = |cause| sum_where(sample, &cpu::metrics::WAIT_TIME, "cause", |value| value == cause);
    let (contention, throttled) = (wait("contention"), wait("throttled"));
    // Where nothing can throttle, all of the wait is contention.
    let total = contention.map(|contention| contention + throttled.unwrap_or(0.0));
    let burst = histogram(sample, &cpu::metrics::BURST, |_| true);
    let recent_burst = recent(burst.as_ref(), kept.burst.as_ref());
    let usage = CpuUsage {
        time_seconds: number(sample, &cpu::metrics::TIME).unwrap_or_default(),
        usage_cores: number(sample, &cpu::metrics::USAGE),
        wait_seconds: total,
        throttled_seconds: throttled,
        contention_seconds: contention,
        wait_rate: interval.per_second(total, kept.wait_seconds),
        throttled_rate: interval.per_second(throttled, kept.throttled_seconds),
        contention_rate: interval.per_second(contention, kept.contention_seconds),
        burst_p50_cores: quantile(recent_burst.as_ref(), 0.5),
        burst_p99_cores: quantile(recent_burst.as_ref(), 0.99),
        request_cores: number(sample, &limits::CPU_REQUEST),
        limit_cores: number(sample, &limits::CPU_LIMIT),
        suggested_request_cores: suggest::cpu(burst.as_deref(), watched_seconds),
        contended_seconds: number(sample, &cpu::metrics::CONTENDED),
        neighbours: neighbours(sample),
    };
    *kept = CpuTotals { wait_seconds: total, throttled_seconds: throttled, contention_seconds: contention, burst };
    usage
}

/// For whom a workload has waited, the longest first.
fn neighbours(sample: &Sample) -> Vec<NeighbourWait> {
    let wait = |point: &Point| {
        let (_, name) = point.attributes.iter().next()?;
        let Value::Float(seconds) = point.value else { return None };
        Some(NeighbourWait { name: name.to_owned(), seconds })
    };
    points(sample, &cpu::metrics::NEIGHBOUR_WAIT).filter_map(wait).collect()
}

fn memory_usage(sample: &Sample, watched_seconds: Option<f64>, observed: ObservedMemory) -> MemoryUsage {
    MemoryUsage {
        usage_bytes: whole(sample, &metrics::USAGE),
        working_set_bytes: whole(sample, &metrics::WORKING_SET),
        unreclaimable_bytes: whole(sample, &metrics::UNRECLAIMABLE),
        peak_bytes: whole(sample, &metrics::PEAK),
        request_bytes: whole(sample, &limits::MEMORY_REQUEST),
        limit_bytes: whole(sample, &limits::MEMORY_LIMIT),
        suggested_request_bytes: suggest::memory(observed, watched_seconds),
        oom_kills: sum(sample, &metrics::OOM_KILLS).map(|n| n as u64),
    }
}

fn network_usage(interval: &Interval, kept: &mut NetworkTotals) -> NetworkUsage {
    let direction = |direction| sum_where(interval.sample, &network::IO, DIRECTION, |value| value == direction);
    let (received, sent) = (direction("receive"), direction("transmit"));
    let drops = sum(interval.sample, &drops::DROPS);
    let usage = NetworkUsage {
        receive_bytes: received.map(|n| n as u64),
        transmit_bytes: sent.map(|n| n as u64),
        receive_rate: interval.per_second_from_zero(received, kept.received),
        transmit_rate: interval.per_second_from_zero(sent, kept.sent),
        drops: drops.map(|n| n as u64),
        drop_rate: interval.per_second_from_zero(drops, kept.drops),
    };
    *kept = NetworkTotals { received, sent, drops };
    usage
}

fn tcp_usage(interval: &Interval, kept: &mut TcpWindows) -> TcpUsage {
    let (sample, now_ns) = (interval.sample, interval.now_ns);
    let segments = [sum(sample, &tcp::SEGMENTS), sum(sample, &tcp::RETRANSMITS)];
    let sent = segments.map(Option::unwrap_or_default);
    let sent_before = kept.segments.ending(now_ns, sent[0] as u64, &sent);
    let rtt = histogram(sample, &tcp::RTT, |_| true);
    let rtt_before = kept.rtt.ending(now_ns, rtt.as_ref().map_or(0, |rtt| rtt.count), &rtt);
    let recent_rtt = recent(rtt.as_ref(), rtt_before.as_ref());
    TcpUsage {
        segments_out: segments[0].map(|n| n as u64),
        retransmits: segments[1].map(|n| n as u64),
        retransmit_ratio: ratio(sent[1] - sent_before[1], sent[0] - sent_before[0]),
        rtt_count: recent_rtt.as_ref().map(|rtt| rtt.count),
        rtt_p50_seconds: quantile(recent_rtt.as_ref(), 0.5),
        rtt_p99_seconds: quantile(recent_rtt.as_ref(), 0.99),
        // Without one there is no such series.
        connect_failures: sum(sample, &tcp::CONNECT_FAILURES).or(segments[0].map(|_| 0.0)).map(|n| n as u64),
        connections: sum(sample, &quality::CONNECTIONS).map(|n| n as u64),
        timeouts: sum_where(sample, &quality::RETRANSMITS_BY_REASON, "reason", |reason| reason == "timeout").map(|n| n as u64),
        window_limited_seconds: number(sample, &quality::WINDOW_LIMITED),
        unacknowledged_bytes: whole(sample, &quality::UNACKNOWLEDGED),
        accept_p99_seconds: quantile(histogram(sample, &quality::ACCEPT_DURATION, |_| true).as_deref(), 0.99),
    }
}

/// `None` for what has sent no query.
fn dns_usage(interval: &Interval, kept: &mut DnsWindow) -> Option<DnsUsage> {
    let queries = sum_where(interval.sample, &dns::metrics::QUERIES, "side", |side| side == "client");
    let before = std::mem::replace(&mut kept.queries, queries);
    let now = LookupTotals::of(interval.sample);
    let then = kept.lookups.ending(interval.now_ns, now.all, &now);
    let recent_answers = recent(now.answers.as_ref(), then.answers.as_ref());
    let all = now.all.saturating_sub(then.all);
    let share = |now: u64, then: u64| ratio(now.saturating_sub(then) as f64, all as f64);
    queries.map(|queries| DnsUsage {
        queries: Some(queries as u64),
        query_rate: interval.per_second_from_zero(Some(queries), before),
        timeouts: now.timeouts,
        failures: now.failed,
        no_such_name: now.no_such_name,
        window_lookups: all,
        failure_ratio: share(now.failed, then.failed),
        no_such_name_ratio: share(now.no_such_name, then.no_such_name),
        p50_seconds: quantile(recent_answers.as_ref(), 0.5),
        p99_seconds: quantile(recent_answers.as_ref(), 0.99),
    })
}

fn disk_usage(interval: &Interval, kept: &mut DiskWindows) -> DiskUsage {
    let sample = interval.sample;
    let bytes = ["read", "write"]
        .map(|way| sum_where(sample, &disk::metrics::IO, disk::metrics::DIRECTION, |direction| direction == way));
    let before = std::mem::replace(&mut kept.bytes, bytes);
    let window = |metric, window: &mut Window<Option<Arc<Histogram>>>| {
        let now = histogram(sample, metric, |_| true);
        let then = window.ending(interval.now_ns, now.as_ref().map_or(0, |now| now.count), &now);
        recent(now.as_ref(), then.as_ref())
    };
    let operations = window(&disk::metrics::DURATION, &mut kept.operations);
    let syncs = window(&disk::metrics::SYNC_DURATION, &mut kept.syncs);
    DiskUsage {
        read_bytes: bytes[0].map(|n| n as u64),
        write_bytes: bytes[1].map(|n| n as u64),
        read_rate: interval.per_second_from_zero(bytes[0], before[0]),
        write_rate: interval.per_second_from_zero(bytes[1], before[1]),
        p99_seconds: quantile(operations.as_ref(), 0.99),
        fsync_count: syncs.as_ref().map(|syncs| syncs.count),
        fsync_p99_seconds: quantile(syncs.as_ref(), 0.99),
        throttled: sum(sample, &disk::metrics::THROTTLED).map(|n| n as u64),
    }
}

/// A gauge or count that is a whole number.
pub fn whole(sample: &Sample, metric: &'static Metric) -> Option<u64> {
    number(sample, metric).map(|value| value as u64)
}

/// A part that has a figure at all; `None` where none is known.
pub fn known<T: Default + PartialEq>(part: T) -> Option<T> {
    (part != T::default()).then_some(part)
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
