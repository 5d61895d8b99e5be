//! Use as a share of requests and limits (pure). Not known stays not known.

use crate::snapshot::document::{MemoryUsage, WorkloadUsage};

/// CPU use in the interval as a share of the request.
pub fn request_share(workload: &WorkloadUsage) -> Option<f64> {
    share(workload.cpu.usage_cores, workload.cpu.request_cores)
}

/// CPU use in the interval as a share of the limit.
pub fn limit_share(workload: &WorkloadUsage) -> Option<f64> {
    share(workload.cpu.usage_cores, workload.cpu.limit_cores)
}

/// Memory that counts against the request, as a share of it: the working set, or usage where only that is known.
pub fn memory_request_share(workload: &WorkloadUsage) -> Option<f64> {
    workload.memory.as_ref().and_then(|m| share(working_set(m), m.request_bytes.map(|bytes| bytes as f64)))
}

/// Memory that counts against the limit, as a share of it.
pub fn memory_limit_share(workload: &WorkloadUsage) -> Option<f64> {
    workload.memory.as_ref().and_then(|m| share(working_set(m), m.limit_bytes.map(|bytes| bytes as f64)))
}

fn working_set(memory: &MemoryUsage) -> Option<f64> {
    memory.working_set_bytes.or(memory.usage_bytes).map(|bytes| bytes as f64)
}

fn share(used: Option<f64>, of: Option<f64>) -> Option<f64> {
    let of = of.filter(|of| *of > 0.0)?;
    Some(used? / of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::document::CpuUsage;

    #[test]
    fn shares_need_both_sides_and_a_divisor() {
        let with = |usage_cores, request_cores| {
            request_share(&WorkloadUsage {
                cpu: CpuUsage { usage_cores, request_cores, ..CpuUsage::default() },
                ..WorkloadUsage::default()
            })
        };
        assert_eq!(with(Some(0.5), Some(2.0)), Some(0.25));
        assert_eq!(with(Some(0.5), Some(0.0)), None);
        assert_eq!(with(None, Some(2.0)), None);
        assert_eq!(with(Some(0.5), None), None);
    }

    #[test]
    fn memory_is_measured_by_its_working_set() {
        let with = |working_set_bytes, usage_bytes| {
            let memory = MemoryUsage { working_set_bytes, usage_bytes, limit_bytes: Some(1000), ..MemoryUsage::default() };
            memory_limit_share(&WorkloadUsage { memory: Some(memory), ..WorkloadUsage::default() })
        };
        assert_eq!((with(Some(250), Some(500)), with(None, Some(500)), with(None, None)), (Some(0.25), Some(0.5), None));
        assert_eq!(memory_limit_share(&WorkloadUsage::default()), None);
    }
}
