//! Batches -> snapshots (pure): what people read off one interval.

use std::collections::HashMap;

use super::{
    document::{FileSystemUsage, NodeCpu, NodeMemory, NodeNetwork, NodeUsage, Overhead, Snapshot},
    points::{attribute, number, points, sum_where, value},
    workload::{DIRECTION, Previous, known, whole, workload},
};
use crate::{
    aggregate::Batch,
    join::{CgroupSample, Sample},
    metric::Value,
    signals::{agent, cpu, memory::metrics, network, node},
};

/// Version of the JSON document.
const SCHEMA: u32 = 1;

/// Makes snapshots; keeps what the next one is compared with.
#[derive(Debug)]
pub struct SnapshotBuilder {
    node: String,
    capacity_cores: f64,
    time_ns: u64,
    /// By cgroup id.
    before: HashMap<u64, Previous>,
    /// Bytes that the node had received and sent.
    node_before: [Option<f64>; 2],
}

impl SnapshotBuilder {
    /// For the node of that name with so many CPUs.
    pub fn new(node: String, capacity_cores: f64) -> Self {
        Self { node, capacity_cores, time_ns: 0, before: HashMap::new(), node_before: [None; 2] }
    }

    /// The snapshot of a batch: rates and percentiles are since the batch before.
    pub fn next(&mut self, batch: &Batch) -> Snapshot {
        let elapsed_s = match self.time_ns {
            0 => None,
            then => Some(batch.time_ns.saturating_sub(then) as f64 / 1e9).filter(|s| *s > 0.0),
        };
        self.time_ns = batch.time_ns;
        let mut snapshot = Snapshot {
            schema: SCHEMA,
            node: self.node(&batch.node, elapsed_s),
            overhead: overhead(&batch.node),
            ..Snapshot::default()
        };
        let mut before = HashMap::with_capacity(self.before.len());
        for CgroupSample { cgroup, sample } in &batch.cgroups {
            let (workload, now) = workload(cgroup, sample, batch.time_ns, self.before.remove(&cgroup.id), elapsed_s);
            before.insert(cgroup.id, now);
            snapshot.workloads.push(workload);
        }
        self.before = before;
        snapshot.workloads.sort_by(|a, b| a.cgroup.cmp(&b.cgroup));
        snapshot
    }

    /// The snapshot of a batch out of the past, with nothing known but the batch before it: shares and percentiles are of the time
    /// between the two. What is known by more batches than these is absent.
    pub fn between(mut self, before: &Batch, batch: &Batch) -> Snapshot {
        self.next(before);
        self.before.values_mut().for_each(Previous::begin_here);
        let mut snapshot = self.next(batch);
        for memory in snapshot.workloads.iter_mut().filter_map(|workload| workload.memory.as_mut()) {
            memory.suggested_request_bytes = None;
        }
        snapshot
    }

    fn node(&mut self, sample: &Sample, elapsed_s: Option<f64>) -> NodeUsage {
        let working_set = whole(sample, &metrics::NODE_WORKING_SET);
        let memory = NodeMemory {
            usage_bytes: whole(sample, &metrics::NODE_USAGE),
            working_set_bytes: working_set,
            capacity_bytes: working_set.zip(whole(sample, &metrics::NODE_AVAILABLE)).map(|(used, free)| used + free),
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
        NodeUsage {
            name: self.node.clone(),
            cpu: NodeCpu {
                time_seconds: number(sample, &cpu::metrics::NODE_TIME).unwrap_or_default(),
                usage_cores: number(sample, &cpu::metrics::NODE_USAGE),
                capacity_cores: self.capacity_cores,
                unattributed_seconds: number(sample, &cpu::metrics::UNATTRIBUTED_TIME).unwrap_or_default(),
            },
            memory: known(memory),
            network: known(network),
            load: number(sample, &node::metrics::LOAD_1M),
            file_systems: file_systems(sample),
        }
    }
}

/// The node's file systems, the fullest first.
fn file_systems(sample: &Sample) -> Vec<FileSystemUsage> {
    let mut found: Vec<FileSystemUsage> = Vec::new();
    for point in points(sample, &node::metrics::FS_USAGE) {
        let Some(mountpoint) = attribute(point, "system.filesystem.mountpoint") else { continue };
        let bytes = value(point).unwrap_or_default() as u64;
        let at = found.iter().position(|of| of.mountpoint == mountpoint).unwrap_or_else(|| {
            let role = attribute(point, "podmeter.filesystem.role").map(str::to_owned);
            found.push(FileSystemUsage { mountpoint: mountpoint.to_owned(), role, ..FileSystemUsage::default() });
            found.len() - 1
        });
        match attribute(point, "system.filesystem.state") {
            Some("used") => {
                found[at].usage_bytes += bytes;
                found[at].capacity_bytes += bytes;
            }
            Some("free") => found[at].capacity_bytes += bytes,
            _ => {}
        }
    }
    found.sort_by(|a, b| b.ratio().total_cmp(&a.ratio()));
    found
}

/// What podmeter costs, and what it does without.
fn overhead(sample: &Sample) -> Option<Overhead> {
    let part = |part: &str| sum_where(sample, &agent::OVERHEAD, "part", |value| value == part);
    let taken = points(sample, &agent::SHED).filter(|point| point.value == Value::Int(1));
    Some(Overhead {
        agent_cores: part("agent")?,
        programs_cores: part("programs"),
        limit_cores: number(sample, &agent::OVERHEAD_LIMIT),
        given_up: taken.filter_map(|point| attribute(point, "step")).map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests;
