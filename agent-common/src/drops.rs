//! The records of the `drops` signal.

use crate::socket::SocketFacts;

/// Reasons that are counted apart, by the kernel's own numbers. Position 0 holds all that have a larger number: those of subsystems that
/// number their own, and of kernels much newer than this.
pub const REASONS: usize = 192;

/// Lists of a cgroup's tasks that a walk reads, and tasks of each, for one that has a network namespace.
pub const LINKS: u32 = 8;
/// See [`LINKS`].
pub const TASKS: u32 = 8;

record! {
    /// The network namespace of a slot's cgroup: that of the first process which ran a program in it and has not ended.
    /// `DROPS_PLACES[slot]`, written where processes run programs, come and end.
    pub struct Place {
        /// The namespace's cookie, which no other ever has; 0 while it is not known. It stays when the process ends.
        pub namespace: u64,
        /// The process; 0 when it has ended, or has run no program in this cgroup yet and may be on its way to another namespace.
        pub process: u64,
    }
}

counts! {
    /// Packets of one slot that were dropped. `DROPS_ROWS[{slot, 0}]`.
    pub struct DropCounts {
        /// By `enum skb_drop_reason`.
        pub packets: [u64; REASONS],
    }
}

record! {
    /// Offsets into kernel structs in bytes, found in the running kernel's BTF; frozen before the programs load.
    pub struct Facts {
        /// What leads to a socket's cgroup.
        pub socket: SocketFacts,
        /// `sk_buff.sk`
        pub skb_sk: u64,
        /// `sk_buff.protocol`
        pub skb_protocol: u64,
        /// `sk_buff.dev`
        pub skb_dev: u64,
        /// `net_device.nd_net.net`
        pub dev_net: u64,
        /// `net.net_cookie`
        pub net_cookie: u64,
        /// `task_struct.nsproxy`
        pub task_nsproxy: u64,
        /// `nsproxy.net_ns`
        pub nsproxy_net: u64,
        /// `task_struct.tgid`, 32 bits
        pub task_tgid: u64,
        /// `task_struct.pid`, 32 bits
        pub task_pid: u64,
        /// `task_struct.cgroups`
        pub task_cgroups: u64,
        /// `css_set.dfl_cgrp`
        pub css_set_cgroup: u64,
        /// `cgroup.cset_links`; this and what follows are 0 where cgroups cannot be walked over.
        pub cgroup_links: u64,
        /// `cgrp_cset_link.cset`
        pub link_css_set: u64,
        /// `cgrp_cset_link.cset_link`
        pub link_node: u64,
        /// `css_set.tasks`
        pub css_set_tasks: u64,
        /// `task_struct.cg_list`
        pub task_node: u64,
        /// 1 where the tracepoint has the socket that a packet was to be received by (since 6.11).
        pub tells_receiver: u64,
        /// A bit for each reason that is no loss.
        pub harmless: [u64; REASONS / 64 + 1],
    }
}
