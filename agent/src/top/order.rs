//! Which workloads come first.

use std::cmp::Ordering;

use super::shares;
use crate::snapshot::document::WorkloadUsage;

/// What the rows are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// CPUs used in the interval.
    Cpu,
    /// 99th percentile of CPUs per 100 ms.
    Burst,
    /// Time that tasks waited for a CPU in the interval.
    Wait,
    /// Waiting because of the cgroup's own limit.
    Throttled,
    /// Waiting because others had the CPU.
    Contention,
    /// Use as a share of the request.
    Request,
    /// The name.
    Name,
    /// CPU time in total.
    Time,
    /// Memory that counts against the limit.
    Memory,
    /// That as a share of the limit.
    MemoryLimit,
    /// Processes that the OOM killer killed.
    #[value(name = "killed")]
    OomKills,
    /// Bytes per s in both directions.
    Traffic,
    /// Packets dropped in the interval.
    Drops,
    /// Share of segments sent again.
    Retransmits,
    /// 99th percentile of the round-trip time.
    #[value(name = "rtt")]
    RoundTrip,
    /// 99th percentile of the time to a DNS answer.
    Dns,
}

/// The figure that rows are ordered by, where it is one.
pub fn value(sort: Sort, workload: &WorkloadUsage) -> Option<f64> {
    let (memory, tcp) = (workload.memory.as_ref(), workload.tcp.as_ref());
    let value = match sort {
        Sort::Cpu => workload.cpu.usage_cores,
        Sort::Burst => workload.cpu.burst_p99_cores,
        Sort::Wait => workload.cpu.wait_rate,
        Sort::Throttled => workload.cpu.throttled_rate,
        Sort::Contention => workload.cpu.contention_rate,
        Sort::Request => shares::request_share(workload),
        Sort::Time => Some(workload.cpu.time_seconds),
        Sort::Name => None,
        Sort::Memory => memory.and_then(|m| m.working_set_bytes.or(m.usage_bytes)).map(|bytes| bytes as f64),
        Sort::MemoryLimit => shares::memory_limit_share(workload),
        Sort::OomKills => memory.and_then(|m| m.oom_kills).map(|n| n as f64),
        Sort::Traffic => workload.traffic(),
        Sort::Drops => workload.network.as_ref().and_then(|n| n.drop_rate),
        Sort::Retransmits => tcp.and_then(|t| t.retransmit_ratio),
        Sort::RoundTrip => tcp.and_then(|t| t.rtt_p99_seconds),
        Sort::Dns => workload.dns.as_ref().and_then(|d| d.p99_seconds),
    };
    value.filter(|v| v.is_finite())
}

/// The larger first, or the smaller when reversed; what is not known is last either way.
pub fn compare(a: Option<f64>, b: Option<f64>, reversed: bool) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) if reversed => a.total_cmp(&b),
        (Some(a), Some(b)) => b.total_cmp(&a),
        (a, b) => b.is_some().cmp(&a.is_some()),
    }
}
