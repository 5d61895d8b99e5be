//! The types of the snapshot: what `podmeter top` shows and `top --once --json` prints. docs/top-json.md explains each key.
//!
//! Seconds, bytes, cores. A value that is not known is absent, never 0. Totals count since counting began (CPU time: since the
//! cgroup was made); `usage_cores` and the percentiles of bursts are of the interval; shares and percentiles of TCP and DNS are of enough
//! segments, round trips and lookups to have any, see `window`.

use serde::Serialize;

/// One moment of this node.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Snapshot {
    /// Version of this document: 1.
    pub schema: u32,
    /// With `--at`: when the shown collection was made, RFC 3339 in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// The node.
    pub node: NodeUsage,
    /// Every signal: whether it is measured, and what it lacks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<SignalStatus>,
    /// State of the connection to Kubernetes; absent where none is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesStatus>,
    /// What podmeter itself costs; absent until that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overhead: Option<Overhead>,
    /// Every cgroup, in order of its path unless another order was requested.
    pub workloads: Vec<WorkloadUsage>,
}

impl Snapshot {
    /// For how long anything has been watched, in s. What came later has less, which its details show.
    pub fn watched_seconds(&self) -> Option<f64> {
        self.workloads.iter().filter_map(|workload| workload.watched_seconds).reduce(f64::max)
    }
}

/// What podmeter costs, in shares of one core.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Overhead {
    /// The process.
    pub agent_cores: f64,
    /// Its programs in the kernel; absent where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub programs_cores: Option<f64>,
    /// What both may take together; absent where there is no limit, as for `top` itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_cores: Option<f64>,
    /// What it does without to stay within that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub given_up: Vec<String>,
}

/// Whether a signal is measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SignalStatus {
    /// Name of the signal.
    pub name: String,
    /// Whether it is measured.
    pub on: bool,
    /// Why it is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What a signal that is on lacks, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// The connection to Kubernetes, which names the pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KubernetesStatus {
    /// Whether the list of pods is complete and current.
    pub current: bool,
    /// Why the list is not current.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The node as a whole.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NodeUsage {
    /// Host name, or the Kubernetes node's name.
    pub name: String,
    /// CPU of the whole node.
    pub cpu: NodeCpu,
    /// Memory, where it is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<NodeMemory>,
    /// Bytes of all sockets, where they are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NodeNetwork>,
    /// Tasks that run, or wait for a CPU or a disk, on average over about a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// Its file systems, the fullest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub file_systems: Vec<FileSystemUsage>,
}

/// How full a file system of the node is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FileSystemUsage {
    /// Where it is mounted on the node.
    pub mountpoint: String,
    /// What is on it: root, kubelet, images, or several, separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Bytes in use.
    pub usage_bytes: u64,
    /// Bytes in use, and bytes that are free for everyone.
    pub capacity_bytes: u64,
}

impl FileSystemUsage {
    /// The share of it that is in use, as `df` has it.
    pub fn ratio(&self) -> f64 {
        self.usage_bytes as f64 / self.capacity_bytes.max(1) as f64
    }
}

/// The node's memory in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodeMemory {
    /// Memory in use, page cache included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_bytes: Option<u64>,
    /// Usage less inactive page cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_set_bytes: Option<u64>,
    /// Total memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_bytes: Option<u64>,
}

/// The node's traffic; loopback is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodeNetwork {
    /// Bytes received since counting began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_bytes: Option<u64>,
    /// Bytes sent since counting began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transmit_bytes: Option<u64>,
    /// Bytes received per s, in the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_rate: Option<f64>,
    /// Bytes sent per s, in the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transmit_rate: Option<f64>,
}

/// The node's CPU.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NodeCpu {
    /// CPU time in s.
    pub time_seconds: f64,
    /// CPUs used in the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_cores: Option<f64>,
    /// Online CPUs. With `--at` those of now; absent where the journal is another node's.
    #[serde(skip_serializing_if = "is_unknown")]
    pub capacity_cores: f64,
    /// CPU time in s of cgroups that are not tracked, because the maximum number of tracked cgroups was reached.
    pub unattributed_seconds: f64,
}

/// No machine has 0 CPUs.
fn is_unknown(cores: &f64) -> bool {
    *cores <= 0.0
}

/// One container, systemd unit or other cgroup.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WorkloadUsage {
    /// Name of the unit, container or cgroup; in Kubernetes the workload's name.
    pub name: String,
    /// Kind of the workload in Kubernetes (`Deployment`, `StatefulSet` and so on); else the same as `cgroup_kind`.
    pub kind: String,
    /// Kind of the cgroup: `Pod`, `Container`, `Service`, `Slice`, `Cgroup` and so on.
    pub cgroup_kind: String,
    /// Kubernetes namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Pod name, or its UID while the name is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Container name, or its id while the name is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// `sandbox` for the container that holds a pod's namespaces; else its type in Kubernetes: `container`, `init` and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_type: Option<String>,
    /// Path of its cgroup in the cgroup2 hierarchy.
    pub cgroup: String,
    /// True when the cgroup was removed and these are its final values; absent otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
    /// How long it has been watched, in s: the time that the suggested requests are based on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watched_seconds: Option<f64>,
    /// CPU use, waiting, requests and limits.
    pub cpu: CpuUsage,
    /// Memory, where it is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryUsage>,
    /// Traffic, where it is counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkUsage>,
    /// TCP, where it is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpUsage>,
    /// DNS queries that it sent, once there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsUsage>,
    /// What it read from disks and wrote to them, once there is anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskUsage>,
}

impl WorkloadUsage {
    /// Bytes per s in both directions, in the interval.
    pub fn traffic(&self) -> Option<f64> {
        let network = self.network.as_ref()?;
        Some(network.receive_rate? + network.transmit_rate?)
    }

    /// True when it used no CPU in the interval, as far as is known.
    pub fn is_idle(&self) -> bool {
        self.cpu.usage_cores.is_none_or(|used| used <= 0.0)
    }

    /// Whether the cgroup itself is of this kind.
    pub fn is_a(&self, cgroup_kind: &str) -> bool {
        self.cgroup_kind == cgroup_kind
    }

    /// Whether it only holds a pod's namespaces.
    pub fn is_sandbox(&self) -> bool {
        self.container_type.as_deref() == Some("sandbox")
    }
}

/// CPU of one workload.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CpuUsage {
    /// CPU time in s, descendants included, as `cpu.stat` counts it.
    pub time_seconds: f64,
    /// CPUs used in the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_cores: Option<f64>,
    /// Time in s that tasks were runnable but did not run: throttled and contention together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_seconds: Option<f64>,
    /// Of the waiting time: time in s that its own CPU limit kept it from running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_seconds: Option<f64>,
    /// Of the waiting time: time in s that others had the CPU. All of it where no CPU limit can be set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contention_seconds: Option<f64>,
    /// Waiting in the interval, s per s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_rate: Option<f64>,
    /// Throttled waiting in the interval, s per s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_rate: Option<f64>,
    /// Waiting in the interval because others had the CPU, s per s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contention_rate: Option<f64>,
    /// Median of CPUs used per 100 ms window, in the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst_p50_cores: Option<f64>,
    /// 99th percentile of CPUs used per 100 ms window, in the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst_p99_cores: Option<f64>,
    /// CPUs requested: from `cpu.weight` where set, else from the pod's spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_cores: Option<f64>,
    /// CPUs allowed: from `cpu.max` where set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_cores: Option<f64>,
    /// CPUs to request: 95th percentile of CPUs used per 100 ms window, in all the time it has been watched. Absent until that was
    /// 60 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggested_request_cores: Option<f64>,
    /// CPU time in s that it ran while other tasks waited for that CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contended_seconds: Option<f64>,
    /// For whom it has waited longest, the longest first: at most five. Absent while it has waited for none of them for 100 ms.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub neighbours: Vec<NeighbourWait>,
}

/// How long a workload has waited for a neighbour.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NeighbourWait {
    /// `namespace/pod/container`, the path of a cgroup, or `itself`.
    pub name: String,
    /// Time in s that it waited for a CPU while the neighbour ran there, in waits of 1 ms and more.
    pub seconds: f64,
}

/// Memory of one workload in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MemoryUsage {
    /// Memory charged to it, page cache included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_bytes: Option<u64>,
    /// Usage less inactive page cache, by kubelet's rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_set_bytes: Option<u64>,
    /// Memory that the kernel cannot reclaim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreclaimable_bytes: Option<u64>,
    /// The largest usage ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
    /// `memory.min` where set, else from the pod's spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_bytes: Option<u64>,
    /// `memory.max` (or `memory.high` where only that is set).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// Bytes to request: 1.15 times the largest `unreclaimable_bytes` that was seen. Absent until it was watched for 60 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggested_request_bytes: Option<u64>,
    /// Processes killed by the OOM killer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
}

/// Packets of one workload.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NetworkUsage {
    /// Bytes received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_bytes: Option<u64>,
    /// Bytes sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transmit_bytes: Option<u64>,
    /// Bytes received per s, in the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_rate: Option<f64>,
    /// Bytes sent per s, in the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transmit_rate: Option<f64>,
    /// Packets dropped by the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drops: Option<u64>,
    /// Packets dropped per s, in the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop_rate: Option<f64>,
}

/// TCP of one workload.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TcpUsage {
    /// Segments sent for the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segments_out: Option<u64>,
    /// Segments sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u64>,
    /// Segments sent again, over those sent for the first time, among the last hundred or more of these (at most 5 min).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retransmit_ratio: Option<f64>,
    /// Round trips that the percentiles are of: the last hundred or more (at most 5 min).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_count: Option<u64>,
    /// Median round-trip time in s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_p50_seconds: Option<f64>,
    /// 99th percentile of the round-trip time in s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_p99_seconds: Option<f64>,
    /// Connections that failed to open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_failures: Option<u64>,
    /// Connections that are open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// Segments sent again since no acknowledgement came in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<u64>,
    /// Time in s in which connections waited for the receive window of the other end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_limited_seconds: Option<f64>,
    /// Bytes that the other end had not acknowledged when their connection ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unacknowledged_bytes: Option<u64>,
    /// 99th percentile in s of how long connections waited to be accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_p99_seconds: Option<f64>,
}

/// DNS lookups that one workload made.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DnsUsage {
    /// Queries sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queries: Option<u64>,
    /// Queries per s, in the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_rate: Option<f64>,
    /// Queries without a response in time.
    pub timeouts: u64,
    /// Lookups that failed: with an error other than NXDOMAIN, or without a response.
    pub failures: u64,
    /// Lookups that found no such name (NXDOMAIN), most often of a search list.
    pub no_such_name: u64,
    /// Lookups that shares and percentiles are of: the last hundred or more (at most 5 min).
    pub window_lookups: u64,
    /// Failed lookups, as a share of `window_lookups`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_ratio: Option<f64>,
    /// Lookups that ended with NXDOMAIN, as a share of `window_lookups`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_such_name_ratio: Option<f64>,
    /// Median time to a response in s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_seconds: Option<f64>,
    /// 99th percentile of the time to a response in s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_seconds: Option<f64>,
}

/// Disk I/O of one workload.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DiskUsage {
    /// Bytes read from devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_bytes: Option<u64>,
    /// Bytes written to devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_bytes: Option<u64>,
    /// Bytes read per s, in the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_rate: Option<f64>,
    /// Bytes written per s, in the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_rate: Option<f64>,
    /// 99th percentile of the time of a request in s, among the last hundred or more (at most 5 min).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_seconds: Option<f64>,
    /// Syncs of files (fsync) that the percentile is of: the last hundred or more (at most 5 min).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fsync_count: Option<u64>,
    /// 99th percentile of the time of a sync in s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fsync_p99_seconds: Option<f64>,
    /// Requests that had to wait for `io.max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled: Option<u64>,
}

#[cfg(test)]
mod tests;
