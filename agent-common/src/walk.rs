//! The records of the walk over cgroups, which all signals read that need what the kernel keeps of a cgroup.

use crate::memory::{MemcgOffsets, Usage};

/// What is not known: a member that this kernel does not have.
pub use crate::memory::UNKNOWN;

/// In [`Facts::reads`] and [`Walked::read`]: CPU limits and what they did.
pub const CPU: u64 = 1;

/// Memory limits, usage and peak.
pub const MEMORY: u64 = 2;

/// What the memory consists of.
pub const STATISTICS: u64 = 4;

/// Pressure.
pub const PRESSURE: u64 = 8;

/// Resources times `some` and `full`, in the order cpu, memory, io.
pub const PRESSURES: usize = 6;

/// `cfs_bandwidth.quota` of a cgroup without a limit (`RUNTIME_INF`).
pub const NO_QUOTA: u64 = u64::MAX;

record! {
    /// What the kernel keeps of one cgroup. `WALKED[slot]`, written by `walk_on_cgroup`.
    pub struct Walked {
        /// The cgroup's id: the record is of that cgroup, not of the slot's owner before it. Written last.
        pub id: u64,
        /// The number of the walk that wrote it, which the agent put into [`Walk`].
        pub walk: u64,
        /// Which of the parts below are there: the cgroup has them, and they could be read.
        pub read: u64,
        /// The controllers that the cgroup has files of, as the kernel's mask (`cgroup.subtree_control` of its parent).
        pub controllers: u64,
        /// `cfs_bandwidth.quota` in ns; [`NO_QUOTA`] without a limit.
        pub quota_ns: u64,
        /// `cfs_bandwidth.period` in ns.
        pub period_ns: u64,
        /// `task_group.shares`, in the scheduler's fixed point: 2^10 for each.
        pub shares: u64,
        /// `cfs_bandwidth.nr_periods`
        pub periods: u64,
        /// `cfs_bandwidth.nr_throttled`
        pub throttled_periods: u64,
        /// `cfs_bandwidth.throttled_time` in ns.
        pub throttled_ns: u64,
        /// Time stalled in ns as of the kernel's last averaging, by resource: `some`, `full`; [`UNKNOWN`] where this kernel has none.
        pub pressure_ns: [u64; PRESSURES],
        /// Memory.
        pub memory: Usage,
    }
}

record! {
    /// The walk under way. `WALK[0]`.
    pub struct Walk {
        /// Its number, set by the agent before it begins.
        pub number: u64,
        /// Cgroups seen in it.
        pub cgroups: u64,
        /// Scratch: a kernel pointer stored here can be read back as a number.
        pub scratch: u64,
    }
}

record! {
    /// Offsets into kernel structs in bytes, found in the running kernel's BTF; frozen before the programs load.
    pub struct Facts {
        /// Which parts this kernel has where it was expected.
        pub reads: u64,
        /// `cgroup.kn`
        pub cgroup_kn: u64,
        /// `kernfs_node.id`
        pub kn_id: u64,
        /// `cgroup.self.parent`: the parent's state.
        pub cgroup_parent: u64,
        /// `cgroup_subsys_state.cgroup`
        pub css_cgroup: u64,
        /// `cgroup.subtree_control`
        pub cgroup_subtree_control: u64,
        /// `cgroup.subsys[cpu_cgrp_id]`: null without a cpu controller.
        pub cgroup_cpu: u64,
        /// `cgroup.subsys[memory_cgrp_id]`: null without a memory controller.
        pub cgroup_memory: u64,
        /// `cgroup.psi`: null where pressure is switched off for all cgroups.
        pub cgroup_psi: u64,
        /// `psi_group.enabled`
        pub psi_enabled: u64,
        /// `psi_group.total[PSI_AVGS]`, by resource: `some`, `full`; [`UNKNOWN`] where this kernel has none.
        pub psi_totals: [u64; PRESSURES],
        /// `task_group.css`: where the subsystem's state begins in it.
        pub group_css: u64,
        /// `task_group.shares`
        pub group_shares: u64,
        /// `task_group.cfs_bandwidth.quota`
        pub group_quota: u64,
        /// `task_group.cfs_bandwidth.period`
        pub group_period: u64,
        /// `task_group.cfs_bandwidth.nr_periods`
        pub group_periods: u64,
        /// `task_group.cfs_bandwidth.nr_throttled`
        pub group_throttled: u64,
        /// `task_group.cfs_bandwidth.throttled_time`
        pub group_throttled_time: u64,
        /// Where a memory cgroup has what.
        pub memcg: MemcgOffsets,
        /// Address of `mem_cgroup_stats_index`; 0 where statistics are not indexed through it (before 6.11), or it is hidden.
        pub stats_index: u64,
        /// Address of `mem_cgroup_events_index`; 0 where events are not indexed through it, or it is hidden.
        pub events_index: u64,
    }
}
