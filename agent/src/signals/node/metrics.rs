//! The metrics of the node signal: named by OpenTelemetry's conventions for systems where these have a name.

use crate::metric::{Metric, Scope};

/// Every metric of the signal.
pub const ALL: &[&Metric] = &[
    &CPU_TIME,
    &CPUS,
    &LOAD_1M,
    &LOAD_5M,
    &LOAD_15M,
    &CREATED,
    &TASKS,
    &THREADS,
    &THREADS_LIMIT,
    &FILES,
    &FILES_LIMIT,
    &UPTIME,
    &MEMORY_LIMIT,
    &MEMORY_USAGE,
    &MEMORY_AVAILABLE,
    &MEMORY_SHARED,
    &SLAB,
    &HUGE_PAGES_LIMIT,
    &HUGE_PAGES,
    &MEMORY_KINDS,
    &PAGING_USAGE,
    &PAGING_OPERATIONS,
    &PAGING_FAULTS,
    &CLOCK_OFFSET,
    &CLOCK_ERROR,
    &CLOCK_SYNCHRONIZED,
    &NETWORK_IO,
    &NETWORK_PACKETS,
    &NETWORK_ERRORS,
    &NETWORK_DROPPED,
    &SOFTNET_DROPPED,
    &SOFTNET_SQUEEZED,
    &CONNTRACK,
    &CONNTRACK_LIMIT,
    &FS_LIMIT,
    &FS_USAGE,
    &FS_INODES,
    &VOLUME_CAPACITY,
    &VOLUME_AVAILABLE,
    &VOLUME_USAGE,
    &VOLUME_INODES,
    &VOLUME_INODES_FREE,
];

/// `system.cpu.time`
pub static CPU_TIME: Metric = Metric::counter(
    "system.cpu.time",
    "s",
    Scope::Node,
    "CPU time of the node by mode, from /proc/stat: user and nice with the time of virtual machines' guests, \
     interrupt with that of soft interrupts. The kernel may count idle or iowait back a little: then the value stays \
     until it is exceeded. With node.per_cpu each CPU has its own, and there is no sum beside them.",
)
.attributes(&["cpu.mode", "cpu.logical_number"]);
/// `system.cpu.logical.count`
pub static CPUS: Metric = Metric::gauge("system.cpu.logical.count", "{cpu}", Scope::Node, "CPUs that are online.");
/// `system.cpu.load_average.1m`
pub static LOAD_1M: Metric = Metric::gauge(
    "system.cpu.load_average.1m",
    "{thread}",
    Scope::Node,
    "Tasks that run, could run or wait for I/O, as the kernel averages it over 1 minute: /proc/loadavg; named as by \
     the Collector's hostmetrics receiver.",
);
/// `system.cpu.load_average.5m`
pub static LOAD_5M: Metric = Metric::gauge("system.cpu.load_average.5m", "{thread}", Scope::Node, "The same over 5 minutes.");
/// `system.cpu.load_average.15m`
pub static LOAD_15M: Metric = Metric::gauge("system.cpu.load_average.15m", "{thread}", Scope::Node, "The same over 15 minutes.");
/// `system.process.created`
pub static CREATED: Metric = Metric::counter(
    "system.process.created",
    "{process}",
    Scope::Node,
    "Processes and threads that were created, from /proc/stat.",
);
/// `podmeter.node.tasks`
pub static TASKS: Metric = Metric::gauge(
    "podmeter.node.tasks",
    "{thread}",
    Scope::Node,
    "Tasks of the node at the moment of reading that run or could (running) and that wait for I/O (blocked), from \
     /proc/stat.",
)
.attributes(&["state"]);
/// `podmeter.node.threads`
pub static THREADS: Metric =
    Metric::gauge("podmeter.node.threads", "{thread}", Scope::Node, "Threads of the node, from /proc/loadavg: each takes a PID.");
/// `podmeter.node.threads.limit`
pub static THREADS_LIMIT: Metric = Metric::gauge(
    "podmeter.node.threads.limit",
    "{thread}",
    Scope::Node,
    "How many there may be: the smaller of kernel.pid_max and kernel.threads-max.",
);
/// `podmeter.node.file_handles`
pub static FILES: Metric =
    Metric::gauge("podmeter.node.file_handles", "{file}", Scope::Node, "Open files of the node, from fs.file-nr.");
/// `podmeter.node.file_handles.limit`
pub static FILES_LIMIT: Metric =
    Metric::gauge("podmeter.node.file_handles.limit", "{file}", Scope::Node, "How many there may be: fs.file-max.");
/// `system.uptime`
pub static UPTIME: Metric =
    Metric::gauge("system.uptime", "s", Scope::Node, "Time since the node came up, sleep included (CLOCK_BOOTTIME).");
/// `system.memory.limit`
pub static MEMORY_LIMIT: Metric =
    Metric::gauge("system.memory.limit", "By", Scope::Node, "Memory of the node: MemTotal of /proc/meminfo.");
/// `system.memory.usage`
pub static MEMORY_USAGE: Metric = Metric::gauge(
    "system.memory.usage",
    "By",
    Scope::Node,
    "The same by system.memory.state: free (MemFree), buffers, cached (Cached, with shared memory), and used, which \
     is the rest. Their sum is system.memory.limit.",
)
.attributes(&["system.memory.state"]);
/// `system.memory.linux.available`
pub static MEMORY_AVAILABLE: Metric = Metric::gauge(
    "system.memory.linux.available",
    "By",
    Scope::Node,
    "What the kernel believes that new programs can have without swapping: MemAvailable.",
);
/// `system.memory.linux.shared`
pub static MEMORY_SHARED: Metric =
    Metric::gauge("system.memory.linux.shared", "By", Scope::Node, "Shared memory and files in tmpfs: Shmem.");
/// `system.memory.linux.slab.usage`
pub static SLAB: Metric = Metric::gauge(
    "system.memory.linux.slab.usage",
    "By",
    Scope::Node,
    "The kernel's own objects, by system.memory.linux.slab.state: reclaimable, unreclaimable.",
)
.attributes(&["system.memory.linux.slab.state"]);
/// `system.memory.linux.hugepages.limit`
pub static HUGE_PAGES_LIMIT: Metric = Metric::gauge(
    "system.memory.linux.hugepages.limit",
    "{page}",
    Scope::Node,
    "Huge pages of the default size that are set aside.",
);
/// `system.memory.linux.hugepages.usage`
pub static HUGE_PAGES: Metric = Metric::gauge(
    "system.memory.linux.hugepages.usage",
    "{page}",
    Scope::Node,
    "The same by system.memory.linux.hugepages.state: used, free.",
)
.attributes(&["system.memory.linux.hugepages.state"]);
/// `podmeter.node.memory`
pub static MEMORY_KINDS: Metric = Metric::gauge(
    "podmeter.node.memory",
    "By",
    Scope::Node,
    "Memory by kind, from /proc/meminfo: anonymous, mapped, dirty, writeback, page_tables, kernel_stack, unevictable, \
     and committed (Committed_AS: promised, whether used or not). They overlap: do not add them up.",
)
.attributes(&["kind"]);
/// `system.paging.usage`
pub static PAGING_USAGE: Metric =
    Metric::gauge("system.paging.usage", "By", Scope::Node, "Swap by system.paging.state: used, free. Both are 0 without swap.")
        .attributes(&["system.paging.state"]);
/// `system.paging.operations`
pub static PAGING_OPERATIONS: Metric = Metric::counter(
    "system.paging.operations",
    "{operation}",
    Scope::Node,
    "Pages read from swap (in) and written to it (out), from /proc/vmstat.",
)
.attributes(&["system.paging.direction"]);
/// `system.paging.faults`
pub static PAGING_FAULTS: Metric = Metric::counter(
    "system.paging.faults",
    "{fault}",
    Scope::Node,
    "Page faults by type, from /proc/vmstat. A major one waited for a device.",
)
.attributes(&["system.paging.fault.type"]);
/// `podmeter.node.clock.offset`
pub static CLOCK_OFFSET: Metric = Metric::gauge(
    "podmeter.node.clock.offset",
    "s",
    Scope::Node,
    "How far the clock is from the time that the kernel was given last, as far as that is not corrected yet \
     (adjtimex). 0 where the clock is steered in another way, as chrony may.",
);
/// `podmeter.node.clock.error`
pub static CLOCK_ERROR: Metric = Metric::gauge(
    "podmeter.node.clock.error",
    "s",
    Scope::Node,
    "The most that the clock may be wrong (adjtimex, maxerror): grows by 0.5 ms each second that it is not \
     synchronized, up to 16 s.",
);
/// `podmeter.node.clock.synchronized`
pub static CLOCK_SYNCHRONIZED: Metric = Metric::gauge(
    "podmeter.node.clock.synchronized",
    "{clock}",
    Scope::Node,
    "1 while something keeps the clock synchronized, 0 while the kernel says that nothing does (adjtimex, \
     STA_UNSYNC).",
);

const OF_INTERFACE: &[&str] = &["network.interface.name", "network.io.direction"];

/// `system.network.io`
pub static NETWORK_IO: Metric = Metric::counter(
    "system.network.io",
    "By",
    Scope::Node,
    "Bytes of an interface of the node by direction, from /proc/net/dev of the node's first process. Interfaces with \
     a device behind them (a virtual machine's included), bonds, bridges, VLANs and tunnels; not loopback and not the \
     node's ends of pods' interfaces, so that their number does not grow with that of pods. A bond, VLAN or bridge \
     and what is below it each have theirs: do not add them up.",
)
.attributes(OF_INTERFACE);
/// `system.network.packet.count`
pub static NETWORK_PACKETS: Metric =
    Metric::counter("system.network.packet.count", "{packet}", Scope::Node, "Packets of an interface.").attributes(OF_INTERFACE);
/// `system.network.errors`
pub static NETWORK_ERRORS: Metric =
    Metric::counter("system.network.errors", "{error}", Scope::Node, "Packets that an interface found faulty or could not send.")
        .attributes(OF_INTERFACE);
/// `system.network.packet.dropped`
pub static NETWORK_DROPPED: Metric = Metric::counter(
    "system.network.packet.dropped",
    "{packet}",
    Scope::Node,
    "Packets that an interface dropped without a fault in them, for want of room or because none wanted them.",
)
.attributes(OF_INTERFACE);
/// `podmeter.node.softnet.dropped`
pub static SOFTNET_DROPPED: Metric = Metric::counter(
    "podmeter.node.softnet.dropped",
    "{packet}",
    Scope::Node,
    "Received packets that were dropped because a CPU's queue was full, of all CPUs, from /proc/net/softnet_stat.",
);
/// `podmeter.node.softnet.squeezed`
pub static SOFTNET_SQUEEZED: Metric = Metric::counter(
    "podmeter.node.softnet.squeezed",
    "{run}",
    Scope::Node,
    "Times that a CPU had more packets to receive than it may at once, from /proc/net/softnet_stat.",
);
/// `system.network.conntrack.count`
pub static CONNTRACK: Metric = Metric::gauge(
    "system.network.conntrack.count",
    "{entry}",
    Scope::Node,
    "Connections that the kernel tracks in the node's network namespace; named as by the Collector's hostmetrics \
     receiver. Absent where it tracks none.",
);
/// `system.network.conntrack.max`
pub static CONNTRACK_LIMIT: Metric = Metric::gauge(
    "system.network.conntrack.max",
    "{entry}",
    Scope::Node,
    "How many it tracks at most: nf_conntrack_max. Beyond that new connections are dropped.",
);

const OF_FILE_SYSTEM: &[&str] = &[
    "system.device",
    "system.filesystem.mode",
    "system.filesystem.mountpoint",
    "system.filesystem.type",
    "system.filesystem.state",
    "podmeter.filesystem.role",
];

/// `system.filesystem.limit`
pub static FS_LIMIT: Metric = Metric::gauge(
    "system.filesystem.limit",
    "By",
    Scope::Node,
    "Size of a file system of the node (statvfs). Each counts once, where it is mounted with the shortest path: those \
     on block devices, btrfs, zfs and bcachefs, and an overlay that is the node's root. Not: tmpfs, images such as \
     squashfs, network and FUSE file systems, which may never answer, what is mounted inside these, and volumes of \
     pods. podmeter.filesystem.role has what is on it: root, kubelet (/var/lib/kubelet), images (/var/lib/containerd, \
     containers or docker), or several, separated by commas.",
)
.attributes(&[
    "system.device",
    "system.filesystem.mode",
    "system.filesystem.mountpoint",
    "system.filesystem.type",
    "podmeter.filesystem.role",
]);
/// `system.filesystem.usage`
pub static FS_USAGE: Metric = Metric::gauge(
    "system.filesystem.usage",
    "By",
    Scope::Node,
    "The same by system.filesystem.state: used, free (for everyone), reserved (for root). Their sum is \
     system.filesystem.limit.",
)
.attributes(OF_FILE_SYSTEM);
/// `system.filesystem.inodes.usage`
pub static FS_INODES: Metric = Metric::gauge(
    "system.filesystem.inodes.usage",
    "{inode}",
    Scope::Node,
    "Inodes of a file system by system.filesystem.state: used, free; named as by the Collector's hostmetrics \
     receiver. Absent where they are made as needed (btrfs).",
)
.attributes(OF_FILE_SYSTEM);

const OF_VOLUME: &[&str] = &["k8s.volume.name"];

/// `k8s.pod.volume.capacity`
pub static VOLUME_CAPACITY: Metric = Metric::gauge(
    "k8s.pod.volume.capacity",
    "By",
    Scope::Pod,
    "Size of a volume of the pod that is mounted from a device (statvfs): what kubelet mounts below its directory of \
     pods, under the rules of system.filesystem.limit, so no NFS and no tmpfs. A volume that is a directory of the \
     node's own file system has that one's. k8s.volume.name is the name of kubelet's directory: of a claim that of \
     its PersistentVolume.",
)
.attributes(OF_VOLUME);
/// `k8s.pod.volume.available`
pub static VOLUME_AVAILABLE: Metric =
    Metric::gauge("k8s.pod.volume.available", "By", Scope::Pod, "Free bytes of the volume, without what is reserved for root.")
        .attributes(OF_VOLUME);
/// `k8s.pod.volume.usage`
pub static VOLUME_USAGE: Metric =
    Metric::gauge("k8s.pod.volume.usage", "By", Scope::Pod, "Used bytes of the volume.").attributes(OF_VOLUME);
/// `k8s.pod.volume.inode.count`
pub static VOLUME_INODES: Metric = Metric::gauge(
    "k8s.pod.volume.inode.count",
    "{inode}",
    Scope::Pod,
    "Inodes of the volume. Absent where they are made as needed.",
)
.attributes(OF_VOLUME);
/// `k8s.pod.volume.inode.free`
pub static VOLUME_INODES_FREE: Metric =
    Metric::gauge("k8s.pod.volume.inode.free", "{inode}", Scope::Pod, "Free inodes of the volume.").attributes(OF_VOLUME);
