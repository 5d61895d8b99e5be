//! Which workloads come first, and which are looked for.

use std::cmp::Ordering;

use super::figures;
use super::view::{View, Workload};

/// What the rows are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// CPUs used in the interval.
    Cpu,
    /// 99th percentile of CPUs per 100 ms.
    Burst,
    /// Waiting in the interval.
    Wait,
    /// Waiting because of the own limit.
    Throttled,
    /// Use as a share of the request.
    Request,
    /// The name.
    Name,
    /// CPU time in total.
    Time,
}

/// True when every word is in the name, the kind or the path; `words` are lower case.
pub fn matches(words: &[String], label: &str, workload: &Workload) -> bool {
    if words.is_empty() {
        return true;
    }
    let text = format!("{label}\n{}\n{}", workload.kind, workload.cgroup).to_lowercase();
    words.iter().all(|word| text.contains(word.as_str()))
}

/// The figure that rows are ordered by, where it is one.
pub fn value(sort: Sort, workload: &Workload) -> Option<f64> {
    let value = match sort {
        Sort::Cpu => workload.cpu.usage_cores,
        Sort::Burst => workload.cpu.burst_p99_cores,
        Sort::Wait => workload.cpu.wait_rate,
        Sort::Throttled => workload.cpu.throttled_rate,
        Sort::Request => figures::request_share(workload),
        Sort::Time => Some(workload.cpu.time_seconds),
        Sort::Name => None,
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

/// The rows of `view` by CPU use, largest first, for text.
pub fn by_cpu(view: &View) -> Vec<&Workload> {
    let mut rows: Vec<(String, &Workload)> = view.workloads.iter().map(|w| (figures::label(w), w)).collect();
    rows.sort_by(|(a_name, a), (b_name, b)| {
        compare(value(Sort::Cpu, a), value(Sort::Cpu, b), false)
            .then_with(|| a_name.cmp(b_name))
            .then_with(|| a.cgroup.cmp(&b.cgroup))
    });
    rows.into_iter().map(|(_, workload)| workload).collect()
}
