//! Names of the metrics that tests read: the agent's contract with its users, written down a second time on purpose.

/// CPU time of a cgroup, descendants included, in s.
pub const CPU_TIME: &str = "container.cpu.time";
/// CPUs a cgroup used in the last interval.
pub const CPU_USAGE: &str = "container.cpu.usage";
/// Time the tasks of a cgroup were runnable but did not run, in s, by `cause`.
pub const WAIT_TIME: &str = "podmeter.cpu.wait.time";
/// CPU time in s for which another task waited for that CPU.
pub const CONTENDED: &str = "podmeter.cpu.contended.time";
/// Time in s that a cgroup waited for a CPU on which another one ran, by `neighbour`.
pub const NEIGHBOUR_WAIT: &str = "podmeter.cpu.neighbour.wait";
/// Enforcement periods of a limited cgroup.
pub const PERIODS: &str = "podmeter.cpu.periods";
/// Those in which it used up its quota.
pub const THROTTLED_PERIODS: &str = "podmeter.cpu.throttled.periods";
/// CPUs that a cgroup is allowed.
pub const CPU_LIMIT: &str = "k8s.container.cpu.limit.current";
/// Memory that a cgroup has for sure, in bytes.
pub const MEMORY_REQUEST: &str = "k8s.container.memory.request.current";
/// Memory that a cgroup is allowed, in bytes.
pub const MEMORY_LIMIT: &str = "k8s.container.memory.limit.current";
/// Each of these waits, in s.
pub const WAIT: &str = "podmeter.cpu.wait";
/// CPUs used per 100 ms window.
pub const BURST: &str = "podmeter.cpu.burst";
/// Windows of single cgroups on single CPUs that are in no burst histogram.
pub const WINDOWS_LOST: &str = "podmeter.cpu.windows.lost";
/// Times a task of a cgroup left a CPU.
pub const SWITCHES: &str = "podmeter.cpu.switches";
/// CPU time of the node in s.
pub const NODE_CPU_TIME: &str = "k8s.node.cpu.time";
/// CPU time of cgroups that found no slot, in s.
pub const UNATTRIBUTED: &str = "podmeter.cpu.unattributed";
/// All memory charged to a cgroup in bytes.
pub const MEMORY_USAGE: &str = "container.memory.usage";
/// Usage less inactive page cache.
pub const WORKING_SET: &str = "container.memory.working_set";
/// Mapped anonymous memory in bytes.
pub const RSS: &str = "container.memory.rss";
/// Limit less working set.
pub const MEMORY_AVAILABLE: &str = "container.memory.available";
/// Page faults by `system.paging.fault.type`.
pub const FAULTS: &str = "container.memory.paging.faults";
/// What could not be freed before an OOM kill, in bytes.
pub const UNRECLAIMABLE: &str = "podmeter.memory.unreclaimable";
/// The most that was ever charged, in bytes.
pub const MEMORY_PEAK: &str = "podmeter.memory.peak";
/// What usage consists of, by `state`, in bytes.
pub const MEMORY_STATE: &str = "podmeter.memory.state";
/// Kills by the OOM killer by `cause`.
pub const OOM_KILLS: &str = "podmeter.memory.oom.kills";
/// Time in direct reclaim by `cause`, in s.
pub const RECLAIM_TIME: &str = "podmeter.memory.reclaim.time";
/// Each direct reclaim, in s.
pub const RECLAIM: &str = "podmeter.memory.reclaim";
/// Time that tasks stood still by `resource` and `stall`, in s.
pub const PRESSURE: &str = "podmeter.pressure.time";
/// Memory of the node that is not free, in bytes.
pub const NODE_MEMORY_USAGE: &str = "k8s.node.memory.usage";
/// How long reading took, by `signal`, in s.
pub const READ_TIME: &str = "podmeter.agent.signal.read_time";
/// Share of a core that the agent took, by `part`.
pub const OVERHEAD: &str = "podmeter.agent.overhead";
/// What it may take.
pub const OVERHEAD_LIMIT: &str = "podmeter.agent.overhead.limit";
/// 1 for each `step` that is given up.
pub const SHED: &str = "podmeter.agent.shed";
/// Time that each `program` ran in the sampled seconds.
pub const PROGRAM_TIME: &str = "podmeter.agent.program.time";
/// Its runs in them.
pub const PROGRAM_RUNS: &str = "podmeter.agent.program.runs";
/// How long those were, in s.
pub const PROGRAM_SAMPLED: &str = "podmeter.agent.program.sampled";
/// TCP segments sent for the first time.
pub const SEGMENTS: &str = "podmeter.tcp.segments";
/// TCP segments sent again.
pub const RETRANSMITS: &str = "podmeter.tcp.retransmits";
/// TCP round-trip times in s.
pub const RTT: &str = "podmeter.tcp.rtt";
/// Time until a connect was answered, in s.
pub const CONNECT_DURATION: &str = "podmeter.tcp.connect.duration";
/// Connects that failed, by `error.type`.
pub const CONNECT_FAILURES: &str = "podmeter.tcp.connect.failures";
/// TCP resets, by `direction`.
pub const RESETS: &str = "podmeter.tcp.resets";
/// Connects that listening sockets dropped.
pub const LISTEN_DROPS: &str = "podmeter.tcp.listen.drops";
/// TCP segments received out of order.
pub const OUT_OF_ORDER: &str = "podmeter.tcp.out_of_order";
/// TCP segments sent again, by cgroup and reason.
pub const RETRANSMITS_BY_REASON: &str = "podmeter.tcp.retransmits.by_reason";
/// Bytes that were never acknowledged, by cgroup.
pub const UNACKNOWLEDGED: &str = "podmeter.tcp.unacknowledged";
/// How long connections waited to be accepted, by cgroup.
pub const ACCEPT_DURATION: &str = "podmeter.tcp.accept.duration";
/// TCP segments that the other end received twice.
pub const SPURIOUS: &str = "podmeter.tcp.spurious";
/// Time in which TCP connections waited for the other end's window, in s.
pub const WINDOW_LIMITED: &str = "podmeter.tcp.window_limited";
/// Shortest round-trip times of TCP connections that ended, in s.
pub const SHORTEST_RTT: &str = "podmeter.tcp.rtt.shortest";
/// TCP connections that were established, by `side`.
pub const CONNECTIONS_OPENED: &str = "podmeter.tcp.connections.opened";
/// TCP connections that are open, by `side`.
pub const CONNECTIONS: &str = "podmeter.tcp.connections.open";
/// Packets that the kernel dropped, by `reason`.
pub const DROPS: &str = "podmeter.network.drops";
/// Bytes a cgroup's sockets received and sent, by `network.io.direction`; without loopback.
pub const NETWORK_IO: &str = "container.network.io";
/// IP packets of a cgroup's sockets as on the wire, by `network.io.direction`; without loopback.
pub const NETWORK_PACKETS: &str = "podmeter.network.packets";
/// Bytes sent, by `scope`.
pub const NETWORK_EGRESS: &str = "podmeter.network.egress";
/// Bytes over loopback, by `network.io.direction`.
pub const NETWORK_LOOPBACK: &str = "podmeter.network.loopback";
/// Bytes that devices have completed for a cgroup, by `disk.io.direction`.
pub const DISK_IO: &str = "container.disk.io";
/// Requests that devices have completed for a cgroup, by `disk.io.direction`.
pub const DISK_OPERATIONS: &str = "podmeter.disk.operations";
/// How long each took, in s.
pub const DISK_DURATION: &str = "podmeter.disk.operation.duration";
/// How long each sync of a file took, in s.
pub const FSYNC_DURATION: &str = "podmeter.disk.fsync.duration";
/// Syncs that failed.
pub const FSYNC_ERRORS: &str = "podmeter.disk.fsync.errors";
/// Reads and writes that `io.max` held back, by `disk.io.direction`.
pub const DISK_THROTTLED: &str = "podmeter.disk.throttled";
/// Requests and syncs that were not counted, by `reason`.
pub const DISK_LOST: &str = "podmeter.disk.lost";
/// Bytes of a device, by `disk.io.direction`.
pub const DEVICE_IO: &str = "system.disk.io";
/// Requests of a device, by `disk.io.direction`.
pub const DEVICE_OPERATIONS: &str = "system.disk.operations";
/// Time in which a device was busy, in s.
pub const DEVICE_IO_TIME: &str = "system.disk.io_time";
/// Time of a device's requests in s, by `disk.io.direction` and `phase`.
pub const DEVICE_TIME: &str = "podmeter.node.disk.time";
