//! The metrics of what Kubernetes reports: requests and limits, how they are used, and the states of pods and containers.
//!
//! They belong to a container as the pod's spec has it, or to a pod: their resource has no `container.id`, so their series go on
//! when a container is started again.

use crate::metric::{Metric, Scope};

/// The point attribute of [`REASON`] and [`LAST_REASON`].
pub const REASON_KEY: &str = "k8s.container.status.reason";

/// The point attribute of [`PHASE`].
pub const PHASE_KEY: &str = "k8s.pod.status.phase";

/// The point attribute of [`POD_REASON`].
pub const POD_REASON_KEY: &str = "k8s.pod.status.reason";

/// Every metric of this module.
pub const METRICS: &[&Metric] = &[
    &CPU_REQUEST,
    &CPU_LIMIT,
    &MEMORY_REQUEST,
    &MEMORY_LIMIT,
    &CPU_REQUEST_USED,
    &CPU_LIMIT_USED,
    &MEMORY_REQUEST_USED,
    &MEMORY_LIMIT_USED,
    &CPU_SLACK,
    &MEMORY_SLACK,
    &POD_CPU_REQUEST,
    &POD_CPU_LIMIT,
    &POD_MEMORY_REQUEST,
    &POD_MEMORY_LIMIT,
    &NODE_CPU,
    &NODE_MEMORY,
    &NODE_CPU_REQUEST,
    &NODE_MEMORY_REQUEST,
    &RESTARTS,
    &READY,
    &REASON,
    &LAST_REASON,
    &PHASE,
    &POD_REASON,
    &UPTIME,
    &PENDING,
    &RUN,
    &POD_START,
    &CONTAINER_START,
    &DISRUPTIONS,
];

/// `k8s.container.cpu.request.desired`
pub static CPU_REQUEST: Metric =
    Metric::gauge("k8s.container.cpu.request.desired", "{cpu}", Scope::Container, "CPUs that the container's spec requests.");
/// `k8s.container.cpu.limit.desired`
pub static CPU_LIMIT: Metric =
    Metric::gauge("k8s.container.cpu.limit.desired", "{cpu}", Scope::Container, "CPUs that the container's spec allows.");
/// `k8s.container.memory.request.desired`
pub static MEMORY_REQUEST: Metric =
    Metric::gauge("k8s.container.memory.request.desired", "By", Scope::Container, "Memory that the container's spec requests.");
/// `k8s.container.memory.limit.desired`
pub static MEMORY_LIMIT: Metric =
    Metric::gauge("k8s.container.memory.limit.desired", "By", Scope::Container, "Memory that the container's spec allows.");
/// `k8s.container.cpu.request.utilization`
pub static CPU_REQUEST_USED: Metric = Metric::gauge(
    "k8s.container.cpu.request.utilization",
    "1",
    Scope::Container,
    "CPUs used over the last interval as a share of the request in force: the status', else the spec's.",
);
/// `k8s.container.cpu.limit.utilization`
pub static CPU_LIMIT_USED: Metric = Metric::gauge(
    "k8s.container.cpu.limit.utilization",
    "1",
    Scope::Container,
    "CPUs used over the last interval as a share of the limit in force: cpu.max, else the status', else the \
     spec's.",
);
/// `podmeter.memory.request.utilization`
pub static MEMORY_REQUEST_USED: Metric = Metric::gauge(
    "podmeter.memory.request.utilization",
    "1",
    Scope::Container,
    "Working set as a share of the memory request in force: the status', else the spec's.",
);
/// `podmeter.memory.limit.utilization`
pub static MEMORY_LIMIT_USED: Metric = Metric::gauge(
    "podmeter.memory.limit.utilization",
    "1",
    Scope::Container,
    "Working set as a share of the memory limit in force: memory.max, else the status', else the spec's.",
);
/// `podmeter.cpu.slack`
pub static CPU_SLACK: Metric = Metric::gauge(
    "podmeter.cpu.slack",
    "{cpu}",
    Scope::Container,
    "CPUs reserved but not used over the last interval: request in force minus usage, never below 0, so that sums \
     show what could be given back. Of the pod, not of its containers, where spec.resources requests for all of \
     them.",
);
/// `podmeter.memory.slack`
pub static MEMORY_SLACK: Metric = Metric::gauge(
    "podmeter.memory.slack",
    "By",
    Scope::Container,
    "Memory reserved but not used: request in force minus working set, never below 0. Of the pod where \
     spec.resources requests.",
);
/// `podmeter.pod.cpu.request`
pub static POD_CPU_REQUEST: Metric = Metric::gauge(
    "podmeter.pod.cpu.request",
    "{cpu}",
    Scope::Pod,
    "CPUs that the scheduler sets aside for the pod: containers, init containers, spec.resources and overhead by \
     its rule; during a resize the largest of what is requested, admitted and in force, without what the node has \
     refused. Absent when the pod is over.",
);
/// `podmeter.pod.cpu.limit`
pub static POD_CPU_LIMIT: Metric = Metric::gauge(
    "podmeter.pod.cpu.limit",
    "{cpu}",
    Scope::Pod,
    "CPUs that spec.resources allows to the pod as a whole. Absent without.",
);
/// `podmeter.pod.memory.request`
pub static POD_MEMORY_REQUEST: Metric = Metric::gauge(
    "podmeter.pod.memory.request",
    "By",
    Scope::Pod,
    "Memory that the scheduler sets aside for the pod, by the same rule. Absent when the pod is over.",
);
/// `podmeter.pod.memory.limit`
pub static POD_MEMORY_LIMIT: Metric = Metric::gauge(
    "podmeter.pod.memory.limit",
    "By",
    Scope::Pod,
    "Memory that spec.resources allows to the pod as a whole. Absent without.",
);
/// `k8s.node.cpu.allocatable`
pub static NODE_CPU: Metric =
    Metric::gauge("k8s.node.cpu.allocatable", "{cpu}", Scope::Node, "CPUs that the node's pods may request in all.");
/// `k8s.node.memory.allocatable`
pub static NODE_MEMORY: Metric =
    Metric::gauge("k8s.node.memory.allocatable", "By", Scope::Node, "Memory that the node's pods may request in all.");
/// `podmeter.node.cpu.request`
pub static NODE_CPU_REQUEST: Metric = Metric::gauge(
    "podmeter.node.cpu.request",
    "{cpu}",
    Scope::Node,
    "CPUs set aside for the node's pods: the sum of podmeter.pod.cpu.request.",
);
/// `podmeter.node.memory.request`
pub static NODE_MEMORY_REQUEST: Metric = Metric::gauge(
    "podmeter.node.memory.request",
    "By",
    Scope::Node,
    "Memory set aside for the node's pods: the sum of podmeter.pod.memory.request.",
);
/// `k8s.container.restart.count`
pub static RESTARTS: Metric = Metric::gauge(
    "k8s.container.restart.count",
    "{restart}",
    Scope::Container,
    "How often kubelet has restarted the container, from the status.",
);
/// `k8s.container.ready`
pub static READY: Metric =
    Metric::gauge("k8s.container.ready", "{container}", Scope::Container, "1 when the container is ready for traffic, else 0.");
/// `k8s.container.status.reason`
pub static REASON: Metric = Metric::gauge(
    "k8s.container.status.reason",
    "{container}",
    Scope::Container,
    "1 for the reason why the container waits or has ended; \"Other\" for those that are neither kubelet's nor a container \
         runtime's. Absent when there is none.",
)
.attributes(&[REASON_KEY]);
/// `podmeter.container.last_terminated`
pub static LAST_REASON: Metric = Metric::gauge(
    "podmeter.container.last_terminated",
    "{container}",
    Scope::Container,
    "1 for the reason why the container before this one has ended. Absent when there was none.",
)
.attributes(&[REASON_KEY]);
/// `k8s.pod.status.phase`
pub static PHASE: Metric =
    Metric::gauge("k8s.pod.status.phase", "{pod}", Scope::Pod, "1 for the phase that the pod is in.").attributes(&[PHASE_KEY]);
/// `k8s.pod.status.reason`
pub static POD_REASON: Metric = Metric::gauge(
    "k8s.pod.status.reason",
    "{pod}",
    Scope::Pod,
    "1 for the reason why the pod is in its phase, such as Evicted or NodeAffinity; \"Other\" for those that are not Kubernetes' own. \
     Absent when there is none.",
)
.attributes(&[POD_REASON_KEY]);
/// `k8s.pod.uptime`
pub static UPTIME: Metric = Metric::gauge(
    "k8s.pod.uptime",
    "s",
    Scope::Pod,
    "Time since kubelet took the pod: status.startTime. Absent before, and when the pod is over.",
);
/// `podmeter.pod.pending.time`
pub static PENDING: Metric = Metric::gauge(
    "podmeter.pod.pending.time",
    "s",
    Scope::Pod,
    "Time since the pod was created, of one that is Pending. A pod without a node is on none, so no agent has it.",
);
/// `podmeter.pod.run.duration`
pub static RUN: Metric = Metric::gauge(
    "podmeter.pod.run.duration",
    "s",
    Scope::Pod,
    "Time from when kubelet took the pod until its last container ended, of one that is over: how long a Job's pod ran.",
);
/// `podmeter.pod.start.duration`
pub static POD_START: Metric = Metric::histogram(
    "podmeter.pod.start.duration",
    "s",
    Scope::Node,
    "How long pods took to start, each counted once, by stage: scheduling (from their creation until they had a node), initialization \
     (until their init containers had run), containers (until all were ready). Kubernetes' own times, in whole seconds.",
)
.attributes(&["stage"]);
/// `podmeter.container.start.duration`
pub static CONTAINER_START: Metric = Metric::histogram(
    "podmeter.container.start.duration",
    "s",
    Scope::Node,
    "How long containers took from when their pod's init containers had run until they ran for the first time: pulling the image is \
     part of it. Kubernetes' own times, in whole seconds.",
);
/// `podmeter.pod.disruptions`
pub static DISRUPTIONS: Metric = Metric::counter(
    "podmeter.pod.disruptions",
    "{pod}",
    Scope::Node,
    "Pods that were ended from outside, by reason: of the condition DisruptionTarget (evicted, preempted, deleted with their node), or \
     kubelet's own.",
)
.attributes(&["reason"]);
