//! The table's columns: what each shows, how wide it is, and which of them a narrow terminal keeps.

use ratatui::style::Style;

use super::format;
use super::order::Sort;
use super::shares;
use super::theme::Theme;
use crate::snapshot::document::{MemoryUsage, WorkloadUsage};

/// Columns between two columns of the table.
pub const GAP: usize = 2;

/// Everything beside the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Kind of workload.
    Kind,
    /// CPUs now.
    Cpu,
    /// CPUs of the last intervals.
    History,
    /// CPUs requested.
    Request,
    /// CPU as a share of the request.
    RequestShare,
    /// CPUs to request, by what was seen.
    Suggested,
    /// CPUs allowed.
    Limit,
    /// CPU as a share of the limit.
    LimitShare,
    /// Median of CPUs per 100 ms.
    BurstP50,
    /// 99th percentile of CPUs per 100 ms.
    BurstP99,
    /// Waiting, whatever the cause.
    Wait,
    /// Waiting because of the cgroup's own limit.
    Throttled,
    /// Waiting because others had the CPU.
    Contention,
    /// CPU time in total.
    Time,
    /// Memory in use.
    Memory,
    /// Memory that counts against request and limit.
    WorkingSet,
    /// Memory that cannot be taken back.
    Unreclaimable,
    /// The most memory ever.
    Peak,
    /// Memory requested.
    MemoryRequest,
    /// Working set as a share of the request.
    MemoryRequestShare,
    /// Memory to request, by what was seen.
    MemorySuggested,
    /// Memory allowed.
    MemoryLimit,
    /// Working set as a share of the limit.
    MemoryLimitShare,
    /// OOM kills.
    OomKills,
    /// Bytes received per s.
    Receive,
    /// Bytes sent per s.
    Transmit,
    /// Packets dropped per s.
    Drops,
    /// Share of segments sent again.
    Retransmits,
    /// Median round-trip time.
    RttP50,
    /// 99th percentile of it.
    RttP99,
    /// Connections that failed.
    ConnectFailures,
    /// DNS queries per s.
    DnsQueries,
    /// Lookups that shares and percentiles are of.
    DnsLookups,
    /// Share of lookups that failed.
    DnsFailures,
    /// Share of lookups that found no such name.
    DnsNoSuchName,
    /// Median time to an answer.
    DnsP50,
    /// 99th percentile of it.
    DnsP99,
}

impl Column {
    /// Columns of the terminal that it takes: its heading or its widest value.
    pub fn width(self) -> usize {
        match self {
            Column::Kind => 9,
            Column::History => 12,
            Column::Throttled => 9,
            Column::Contention => 10,
            Column::Time | Column::WorkingSet => 8,
            // As wide as the group's name, where it is the only one of its group.
            Column::RequestShare | Column::LimitShare | Column::MemoryRequestShare | Column::MemoryLimitShare => 7,
            Column::Suggested | Column::MemorySuggested | Column::DnsLookups => 7,
            _ => 6,
        }
    }

    /// What it has in common with its neighbours: the upper line of a heading of two lines.
    pub fn group(self) -> &'static str {
        match self {
            Column::Request | Column::RequestShare | Column::MemoryRequest | Column::MemoryRequestShare => "request",
            Column::Suggested | Column::MemorySuggested => "request",
            Column::Limit | Column::LimitShare | Column::MemoryLimit | Column::MemoryLimitShare => "limit",
            Column::BurstP50 | Column::BurstP99 => "burst",
            Column::Wait | Column::Throttled | Column::Contention => "wait",
            Column::Memory | Column::WorkingSet | Column::Unreclaimable | Column::Peak => "memory",
            Column::Receive | Column::Transmit | Column::Drops => "per s",
            Column::Retransmits | Column::RttP50 | Column::RttP99 | Column::ConnectFailures => "tcp",
            Column::DnsQueries | Column::DnsLookups | Column::DnsFailures | Column::DnsNoSuchName => "dns",
            Column::DnsP50 | Column::DnsP99 => "dns",
            Column::Cpu | Column::History | Column::Time | Column::Kind | Column::OomKills => "",
        }
    }

    /// The heading below [`Column::group`].
    pub fn label(self) -> &'static str {
        match self {
            Column::Kind => "KIND",
            Column::Cpu => "CPU",
            Column::History => "",
            Column::Request | Column::Limit => "CORES",
            Column::MemoryRequest | Column::MemoryLimit => "BYTES",
            Column::RequestShare | Column::LimitShare | Column::MemoryRequestShare | Column::MemoryLimitShare => "USED",
            Column::Suggested | Column::MemorySuggested => "SUGGEST",
            Column::BurstP50 => "P50",
            Column::BurstP99 => "P99",
            Column::RttP50 | Column::DnsP50 => "P50",
            Column::RttP99 | Column::DnsP99 => "P99",
            Column::Wait => "ALL",
            Column::Throttled => "THROTTLED",
            Column::Contention => "CONTENTION",
            Column::Time => "CPU TIME",
            Column::Memory => "USAGE",
            Column::WorkingSet => "WORKING",
            Column::Unreclaimable => "UNRECL",
            Column::Peak => "PEAK",
            Column::OomKills => "KILLED",
            Column::Receive => "RX",
            Column::Transmit => "TX",
            Column::Drops => "DROPS",
            Column::Retransmits => "RETR",
            Column::ConnectFailures => "FAILED",
            Column::DnsQueries => "Q/S",
            Column::DnsLookups => "LOOKUPS",
            Column::DnsFailures => "FAIL",
            Column::DnsNoSuchName => "NXDOM",
        }
    }

    /// The heading where there is no line for the group.
    pub fn lone_label(self) -> &'static str {
        match self {
            Column::Request => "REQ",
            Column::RequestShare | Column::MemoryRequestShare => "REQ%",
            Column::Limit => "LIM",
            Column::LimitShare | Column::MemoryLimitShare => "LIM%",
            Column::MemoryRequest => "REQ",
            Column::MemoryLimit => "LIM",
            Column::RttP50 => "RTT50",
            Column::RttP99 => "RTT99",
            Column::DnsP50 => "DNS50",
            Column::DnsP99 => "DNS99",
            Column::DnsQueries => "DNSQ/S",
            Column::DnsFailures => "DNS%",
            Column::Wait => "WAIT",
            other => other.label(),
        }
    }

    /// The column that shows what the rows are ordered by; `None` for the name.
    pub fn of(sort: Sort) -> Option<Column> {
        Some(match sort {
            Sort::Cpu => Column::Cpu,
            Sort::Burst => Column::BurstP99,
            Sort::Wait => Column::Wait,
            Sort::Throttled => Column::Throttled,
            Sort::Contention => Column::Contention,
            Sort::Request => Column::RequestShare,
            Sort::Time => Column::Time,
            Sort::Memory => Column::WorkingSet,
            Sort::MemoryLimit => Column::MemoryLimitShare,
            Sort::OomKills => Column::OomKills,
            // Both directions together have no column.
            Sort::Traffic => Column::Receive,
            Sort::Drops => Column::Drops,
            Sort::Retransmits => Column::Retransmits,
            Sort::RoundTrip => Column::RttP99,
            Sort::Dns => Column::DnsP99,
            Sort::Name => return None,
        })
    }

    /// True when its text begins at its left edge.
    pub fn is_left(self) -> bool {
        matches!(self, Column::Kind | Column::History)
    }

    /// Its value and how that looks. The history is drawn by the caller, who has it.
    pub fn cell(self, workload: &WorkloadUsage, theme: Theme) -> (String, Style) {
        let (cpu, tcp, dns) = (&workload.cpu, workload.tcp.as_ref(), workload.dns.as_ref());
        let plain = Style::new();
        let (text, style) = match self {
            Column::Kind if workload.ended => ("ended".into(), theme.quiet()),
            Column::Kind => (format::cut(&format::printable(&workload.cgroup_kind), self.width()).into_owned(), theme.quiet()),
            Column::Cpu => (format::cores(cpu.usage_cores), faint_below(cpu.usage_cores, 0.001, theme)),
            Column::History => (String::new(), theme.graph()),
            Column::Request => (format::cores(cpu.request_cores), theme.quiet()),
            // A burst above the request is what a request without a limit is for.
            Column::RequestShare => (format::percent(shares::request_share(workload)), plain),
            Column::Suggested => (format::cores(cpu.suggested_request_cores), theme.quiet()),
            Column::Limit => (format::cores(cpu.limit_cores), theme.quiet()),
            Column::LimitShare => share(shares::limit_share(workload), theme),
            Column::BurstP50 => (format::cores(cpu.burst_p50_cores), faint_below(cpu.burst_p50_cores, 0.001, theme)),
            Column::BurstP99 => (format::cores(cpu.burst_p99_cores), burst(workload, theme)),
            Column::Wait => (format::time(cpu.wait_rate), waiting(cpu.wait_rate, theme)),
            Column::Throttled => (format::time(cpu.throttled_rate), waiting(cpu.throttled_rate, theme)),
            Column::Contention => (format::time(cpu.contention_rate), waiting(cpu.contention_rate, theme)),
            Column::Time => (format::duration(Some(cpu.time_seconds)), plain),
            Column::Memory => (bytes(workload, |m| m.usage_bytes), plain),
            Column::WorkingSet => (bytes(workload, |m| m.working_set_bytes), plain),
            Column::Unreclaimable => (bytes(workload, |m| m.unreclaimable_bytes), plain),
            Column::Peak => (bytes(workload, |m| m.peak_bytes), theme.quiet()),
            Column::MemoryRequest => (bytes(workload, |m| m.request_bytes), theme.quiet()),
            Column::MemoryRequestShare => {
                // Above it, the pod is among the first that the node evicts.
                let share = shares::memory_request_share(workload);
                (format::percent(share), if share.is_some_and(|s| s > 1.0) { theme.watch() } else { plain })
            }
            Column::MemorySuggested => (bytes(workload, |m| m.suggested_request_bytes), theme.quiet()),
            Column::MemoryLimit => (bytes(workload, |m| m.limit_bytes), theme.quiet()),
            Column::MemoryLimitShare => share(shares::memory_limit_share(workload), theme),
            Column::OomKills => {
                let kills = workload.memory.as_ref().and_then(|m| m.oom_kills).map(|n| n as f64);
                (format::count(kills), from(kills, 1.0, 1.0, theme))
            }
            Column::Receive | Column::Transmit => {
                let network = workload.network.as_ref();
                let rate = network.and_then(|n| if self == Column::Receive { n.receive_rate } else { n.transmit_rate });
                (format::short_bytes(rate), faint_below(rate, 1.0, theme))
            }
            Column::Drops => {
                let rate = workload.network.as_ref().and_then(|n| n.drop_rate);
                (format::count(rate), from(rate, 0.001, 10.0, theme))
            }
            Column::Retransmits => {
                // One in a thousand is where people's alerts on loss begin.
                let ratio = tcp.and_then(|t| t.retransmit_ratio);
                (format::percent(ratio), from(ratio, 0.001, 0.01, theme))
            }
            Column::RttP50 | Column::RttP99 => {
                let time = tcp.and_then(|t| if self == Column::RttP50 { t.rtt_p50_seconds } else { t.rtt_p99_seconds });
                (format::time(time), plain)
            }
            Column::ConnectFailures => {
                let failures = tcp.and_then(|t| t.connect_failures).map(|n| n as f64);
                (format::count(failures), faint_below(failures, 1.0, theme))
            }
            Column::DnsQueries => {
                let rate = dns.and_then(|d| d.query_rate);
                (format::count(rate), faint_below(rate, 0.001, theme))
            }
            Column::DnsLookups => (format::count(dns.map(|d| d.window_lookups as f64)), theme.quiet()),
            Column::DnsFailures => {
                let ratio = dns.and_then(|d| d.failure_ratio);
                (format::percent(ratio), from(ratio, 0.01, 0.1, theme))
            }
            Column::DnsNoSuchName => {
                // With a search list, most of a healthy pod's lookups: never an alarm.
                let ratio = dns.and_then(|d| d.no_such_name_ratio);
                (format::percent(ratio), faint_below(ratio, 0.001, theme))
            }
            Column::DnsP50 | Column::DnsP99 => {
                let time = dns.and_then(|d| if self == Column::DnsP50 { d.p50_seconds } else { d.p99_seconds });
                (format::time(time), plain)
            }
        };
        let style = if text == format::UNKNOWN || workload.ended { theme.quiet() } else { style };
        (text, style)
    }
}

fn share(ratio: Option<f64>, theme: Theme) -> (String, Style) {
    (format::percent(ratio), theme.share(ratio))
}

fn bytes(workload: &WorkloadUsage, of: impl Fn(&MemoryUsage) -> Option<u64>) -> String {
    format::short_bytes(workload.memory.as_ref().and_then(of).map(|bytes| bytes as f64))
}

/// A figure that is worth a look from one bound on and an alarm from another.
fn from(value: Option<f64>, watch: f64, alarm: f64, theme: Theme) -> Style {
    match value {
        Some(v) if v >= alarm => theme.alarm(),
        Some(v) if v >= watch => theme.watch(),
        _ => theme.quiet(),
    }
}

/// A burst above what the limit allows over time is what gets throttled.
fn burst(workload: &WorkloadUsage, theme: Theme) -> Style {
    match (workload.cpu.burst_p99_cores, workload.cpu.limit_cores) {
        (Some(burst), Some(limit)) if limit > 0.0 && burst >= limit => theme.watch(),
        (burst, _) => faint_below(burst, 0.001, theme),
    }
}

/// Waiting for a tenth of the time is worth a look; for a whole CPU's worth, an alarm.
fn waiting(rate: Option<f64>, theme: Theme) -> Style {
    match rate {
        Some(r) if r >= 0.1 => from(rate, 0.1, 1.0, theme),
        _ => faint_below(rate, 0.001, theme),
    }
}

fn faint_below(value: Option<f64>, bound: f64, theme: Theme) -> Style {
    if value.is_some_and(|v| v >= bound) { Style::new() } else { theme.quiet() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::document::DnsUsage;

    #[test]
    fn what_a_search_list_wastes_is_no_alarm_and_failures_are() {
        let theme = Theme::new(true, true);
        let cell = |column: Column, failed: f64, no_such_name: f64| {
            let dns = DnsUsage { failure_ratio: Some(failed), no_such_name_ratio: Some(no_such_name), ..DnsUsage::default() };
            column.cell(&WorkloadUsage { dns: Some(dns), ..WorkloadUsage::default() }, theme)
        };
        // With ndots:5 and three search domains, three of four lookups of a healthy pod.
        assert_eq!(cell(Column::DnsFailures, 0.0, 0.75), ("0%".to_owned(), theme.quiet()));
        assert_eq!(cell(Column::DnsNoSuchName, 0.0, 0.75), ("75%".to_owned(), Style::new()));
        assert_eq!(cell(Column::DnsFailures, 0.2, 0.0).1, theme.alarm());
        assert_eq!(cell(Column::DnsFailures, 0.02, 0.0).1, theme.watch());
    }
}
