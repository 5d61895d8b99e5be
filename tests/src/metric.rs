//! Names of the metrics that tests ask for: the agent's contract with its users, written down a second time on purpose.

/// CPU time of a cgroup, descendants included, in s.
pub const CPU_TIME: &str = "container.cpu.time";
/// CPUs a cgroup used in the last interval.
pub const CPU_USAGE: &str = "container.cpu.usage";
/// Time the tasks of a cgroup were runnable but did not run, in s, by `cause`.
pub const WAIT_TIME: &str = "podmeter.cpu.wait.time";
/// Enforcement periods of a limited cgroup.
pub const PERIODS: &str = "podmeter.cpu.periods";
/// Those in which it used up its quota.
pub const THROTTLED_PERIODS: &str = "podmeter.cpu.throttled.periods";
/// Each of these waits, in s.
pub const WAIT: &str = "podmeter.cpu.wait";
/// CPUs used per 100 ms window.
pub const BURST: &str = "podmeter.cpu.burst";
/// Times a task of a cgroup left a CPU.
pub const SWITCHES: &str = "podmeter.cpu.switches";
/// CPU time of the node in s.
pub const NODE_CPU_TIME: &str = "k8s.node.cpu.time";
/// CPU time of cgroups that found no slot, in s.
pub const UNATTRIBUTED: &str = "podmeter.cpu.unattributed";
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
/// Packets that the kernel dropped, by `reason`.
pub const DROPS: &str = "podmeter.network.drops";
