//! The metrics of the cpu signal.

use crate::metric::{Metric, Scope};

/// Every metric of the signal.
pub const ALL: &[&Metric] = &[
    &TIME,
    &USAGE,
    &WAIT_TIME,
    &WAIT,
    &CONTENDED,
    &NEIGHBOUR_WAIT,
    &BURST,
    &SWITCHES,
    &PERIODS,
    &THROTTLED_PERIODS,
    &NODE_TIME,
    &NODE_USAGE,
    &UNATTRIBUTED_TIME,
    &LOST_WINDOWS,
    &LOST_MARKS,
    &LOST_PAIRS,
];

/// `container.cpu.time`
pub static TIME: Metric = Metric::counter(
    "container.cpu.time",
    "s",
    Scope::Cgroup,
    "CPU time since the cgroup was made, descendants included: what cpu.stat's usage_usec counts.",
)
.of_pods("k8s.pod.cpu.time");
/// `container.cpu.usage`
pub static USAGE: Metric = Metric::gauge("container.cpu.usage", "{cpu}", Scope::Cgroup, "CPUs used over the last interval.")
    .of_pods("k8s.pod.cpu.usage");
/// `podmeter.cpu.wait.time`
pub static WAIT_TIME: Metric = Metric::counter(
    "podmeter.cpu.wait.time",
    "s",
    Scope::Cgroup,
    "Time that tasks were runnable and did not run, by cause: throttled (held back by the cgroup's own cpu.max) \
     or contention (others had the CPUs). Without a cpu controller in cgroup2 throttling is not known, and all of \
     it is contention.",
)
.attributes(&["cause"]);
/// `podmeter.cpu.wait`
pub static WAIT: Metric = Metric::histogram(
    "podmeter.cpu.wait",
    "s",
    Scope::Cgroup,
    "How long a task waited for a CPU, one observation each time it got one.",
);
/// `podmeter.cpu.contended.time`
pub static CONTENDED: Metric = Metric::counter(
    "podmeter.cpu.contended.time",
    "s",
    Scope::Cgroup,
    "CPU time that the cgroup ran while another task waited for that CPU, one of its own or of another cgroup: of \
     each stretch on a CPU the part for which the task that ran there next had waited. Absent until there is any.",
);
/// `podmeter.cpu.neighbour.wait`
pub static NEIGHBOUR_WAIT: Metric = Metric::counter(
    "podmeter.cpu.neighbour.wait",
    "s",
    Scope::Cgroup,
    "Time that tasks of the cgroup waited for a CPU while this neighbour ran on it: in waits of 1 ms and more, \
     among the last 16 that ran there. `neighbour` is namespace/pod/container, the path of another cgroup, or \
     `itself`. The five largest of each cgroup, from 100 ms on. Waits in which a limit held the cgroup back are left out.",
)
.attributes(&["neighbour"]);
/// `podmeter.cpu.neighbour.lost`
pub static LOST_PAIRS: Metric = Metric::counter(
    "podmeter.cpu.neighbour.lost",
    "s",
    Scope::Node,
    "Waiting of podmeter.cpu.neighbour.wait that is not in it, since the table of 4 096 pairs was full. Absent until there is any.",
);
/// `podmeter.cpu.burst`
pub static BURST: Metric = Metric::histogram(
    "podmeter.cpu.burst",
    "{cpu}",
    Scope::Cgroup,
    "CPUs used in each 100 ms window, idle windows included. Its percentiles show peaks that averages hide.",
);
/// `podmeter.cpu.switches`
pub static SWITCHES: Metric =
    Metric::counter("podmeter.cpu.switches", "{switch}", Scope::Cgroup, "Times that a task was taken off a CPU.");
/// `podmeter.cpu.periods`
pub static PERIODS: Metric = Metric::counter(
    "podmeter.cpu.periods",
    "{period}",
    Scope::Cgroup,
    "Enforcement periods of cpu.max in which the cgroup ran. Absent without a cpu controller.",
);
/// `podmeter.cpu.throttled.periods`
pub static THROTTLED_PERIODS: Metric = Metric::counter(
    "podmeter.cpu.throttled.periods",
    "{period}",
    Scope::Cgroup,
    "Enforcement periods of cpu.max in which the cgroup used up its quota. Absent without a cpu controller.",
);
/// `k8s.node.cpu.time`
pub static NODE_TIME: Metric = Metric::counter(
    "k8s.node.cpu.time",
    "s",
    Scope::Node,
    "CPU time of all tasks of the node since boot: all cgroups and the unattributed time.",
);
/// `k8s.node.cpu.usage`
pub static NODE_USAGE: Metric =
    Metric::gauge("k8s.node.cpu.usage", "{cpu}", Scope::Node, "CPUs used by all tasks of the node over the last interval.");
/// `podmeter.cpu.unattributed`
pub static UNATTRIBUTED_TIME: Metric = Metric::counter(
    "podmeter.cpu.unattributed",
    "s",
    Scope::Node,
    "CPU time of cgroups that were created when all slots were taken. Raise cgroups.max_slots when it grows.",
);
/// `podmeter.cpu.marks.lost`
pub static LOST_MARKS: Metric = Metric::counter(
    "podmeter.cpu.marks.lost",
    "{stretch}",
    Scope::Node,
    "Times that a task left its CPU and another task had taken its entry, in a table of about one entry per MiB of memory. \
     CPU time is complete; a wait in the queue of another CPU may be missing. Grows where a node has many more tasks.",
);
/// `podmeter.cpu.windows.lost`
pub static LOST_WINDOWS: Metric = Metric::counter(
    "podmeter.cpu.windows.lost",
    "{window}",
    Scope::Node,
    "Entries of the 100 ms log, one per cgroup, CPU and window, that were overwritten before they were read or \
     came after their window was closed. Bursts are incomplete when it grows.",
);
