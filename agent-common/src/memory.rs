//! The records of the `memory` signal.

use crate::bucket;

/// Index of the first bucket of reclaim durations, in units of 2^-30 s: what took up to 2^-17 s (7.6 µs) is in the zero bucket.
pub const RECLAIM_FIRST: i32 = 104;

/// Buckets of reclaim durations per slot: position 0, then 20 octaves of eight up to 8 s; longer ones are in the last.
pub const RECLAIM_LEN: usize = 162;

/// Entries of the ring of kills, a power of two. Who has how many that are unread is bounded by [`crate::share`].
pub const KILLS_LEN: u32 = 256;

/// Bytes of a task's name, the terminating zero included (`TASK_COMM_LEN`).
pub const COMM_LEN: usize = 16;

/// What is not known: no limit, a counter that this kernel does not have.
pub const UNKNOWN: u64 = u64::MAX;

/// Pages from which on a limit is none: with pages of 64 KiB the kernel writes `LONG_MAX / PAGE_SIZE` for it, more with smaller.
pub const NO_LIMIT_PAGES: u64 = (1 << 47) - 1;

/// Reclaim on behalf of a memory cgroup that is at its limit.
pub const OF_CGROUP: u32 = 1;

/// Reclaim because the machine ran short.
pub const OF_NODE: u32 = 2;

/// Memory cgroups above a task that are searched for the one at its limit. Kubernetes makes four.
pub const LEVELS: u32 = 24;

/// The position of a reclaim's duration in ns among the [`RECLAIM_LEN`] buckets.
#[inline(always)]
pub const fn reclaim_position(ns: u64) -> usize {
    bucket::duration_position::<RECLAIM_FIRST, RECLAIM_LEN>(ns)
}

/// The memory controller's statistics that are read, in the order of [`Usage::items`].
///
/// Most are counted in pages, some in bytes, faults and refaults in events; the agent knows which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Item {
    /// Anonymous memory that is mapped.
    Anon,
    /// Page cache, tmpfs and shared memory included.
    File,
    /// tmpfs and shared memory.
    Shmem,
    /// Kernel memory of all kinds.
    Kernel,
    /// Slab memory that can be reclaimed: dentries, inodes.
    SlabReclaimable,
    /// Other slab memory.
    SlabUnreclaimable,
    /// Swap-backed memory not used lately.
    InactiveAnon,
    /// Swap-backed memory.
    ActiveAnon,
    /// Page cache not used lately.
    InactiveFile,
    /// Page cache.
    ActiveFile,
    /// Memory that cannot be reclaimed: mlocked, ramfs.
    Unevictable,
    /// Swap-backed pages that came back soon after they were evicted.
    RefaultAnon,
    /// Page cache that came back soon after it was evicted.
    RefaultFile,
    /// Page faults, minor and major.
    Faults,
    /// Page faults that had to wait for a disk.
    MajorFaults,
}

/// Number of [`Item`]s.
pub const ITEMS: usize = Item::MajorFaults as usize + 1;

record! {
    /// The memory controller's counts of one cgroup, descendants included: a part of [`Walked`](crate::walk::Walked).
    pub struct Usage {
        /// `memory.current` in pages.
        pub usage_pages: u64,
        /// `memory.peak` in pages.
        pub peak_pages: u64,
        /// `memory.min` in pages; of this and the next three, [`NO_LIMIT_PAGES`] and more is `max`.
        pub min_pages: u64,
        /// `memory.low` in pages.
        pub low_pages: u64,
        /// `memory.high` in pages.
        pub high_pages: u64,
        /// `memory.max` in pages.
        pub limit_pages: u64,
        /// `memory.swap.current` in pages; [`UNKNOWN`] where the kernel knows no swap.
        pub swap_pages: u64,
        /// `memory.swap.max` in pages, as `limit_pages`.
        pub swap_limit_pages: u64,
        /// Statistics in the kernel's own units, by [`Item`]; [`UNKNOWN`] where this kernel has none.
        pub items: [u64; ITEMS],
    }
}

/// Bytes copied of each of the kernel's index tables: 128 entries of four bytes.
pub const INDEX_LEN: usize = 512;

record! {
    /// The kernel's tables that lead from a statistic to its place among a memory cgroup's counters. `WALK_INDEX[0]`, filled
    /// by `walk_copy_index`.
    pub struct Index {
        /// `mem_cgroup_stats_index`
        pub stats: [u8; INDEX_LEN],
        /// `mem_cgroup_events_index`
        pub events: [u8; INDEX_LEN],
    }
}

record! {
    /// From the begin of a memory cgroup's counters to each [`Item`] in bytes; [`UNKNOWN`] where this kernel has none.
    /// `WALK_ITEMS[0]`, written by the agent before anything is attached.
    pub struct Items {
        /// By [`Item`].
        pub offsets: [u64; ITEMS],
    }
}

impl Items {
    /// Where none is known.
    pub const NONE: Self = Self { offsets: [UNKNOWN; ITEMS] };
}

counts! {
    /// What one slot's tasks went through. `MEMORY_COUNTS[slot]`; any CPU adds.
    pub struct Counts {
        /// Kills by the OOM killer because a cgroup was at its limit.
        pub cgroup_kills: u64,
        /// Kills by the OOM killer because the node had run out.
        pub node_kills: u64,
        /// Time in direct reclaim for a cgroup at its limit, in ns.
        pub cgroup_reclaim_ns: u64,
        /// Time in direct reclaim because the node ran short, in ns.
        pub node_reclaim_ns: u64,
        /// Reclaims that are in no [`Reclaims`], because there was no memory for a row.
        pub unrecorded: u64,
    }
}

counts! {
    /// Direct reclaims of one slot's tasks, of both kinds. `MEMORY_ROWS[{slot, 0}]`.
    pub struct Reclaims {
        /// Sum of all in ns.
        pub sum_ns: u64,
        /// By duration.
        pub buckets: [u64; RECLAIM_LEN],
    }
}

record! {
    /// A task's last direct reclaim. `RECLAIMS[thread id]`.
    pub struct Reclaim {
        /// CLOCK_MONOTONIC at its begin in ns; 0 once it has ended.
        pub began_ns: u64,
        /// [`OF_CGROUP`] or [`OF_NODE`]. It stays when it has ended: what the OOM killer is then called for.
        pub kind: u32,
        /// Unused.
        pub reserved: u32,
    }
}

record! {
    /// Whom a task has just sent SIGKILL. `VICTIMS[thread id of the sender]`.
    pub struct Victim {
        /// Its cgroup's id.
        pub cgroup: u64,
        /// Address of its memory cgroup.
        pub memcg: u64,
        /// Its process id.
        pub tgid: u32,
        /// Its thread id.
        pub pid: u32,
        /// Its name.
        pub comm: [u8; COMM_LEN],
    }
}

record! {
    /// One kill by the OOM killer. `OOM_KILLS[number & (KILLS_LEN - 1)]`.
    pub struct OomKill {
        /// CLOCK_BOOTTIME in ns.
        pub time_ns: u64,
        /// The victim's cgroup.
        pub cgroup: u64,
        /// The cgroup that was at its limit; 0 when the node had run out.
        pub limiting: u64,
        /// That cgroup's limit in bytes, else that of the victim's own; [`UNKNOWN`] without one. The rest is of the same cgroup.
        pub limit_bytes: u64,
        /// What it used in bytes.
        pub usage_bytes: u64,
        /// Of that, anonymous memory; [`UNKNOWN`] where this kernel hides it, and so for the other parts.
        pub anon_bytes: u64,
        /// Page cache without tmpfs.
        pub file_bytes: u64,
        /// tmpfs and shared memory.
        pub shmem_bytes: u64,
        /// Kernel memory.
        pub kernel_bytes: u64,
        /// The victim's process id in the root namespace.
        pub tgid: u32,
        /// The victim's slot.
        pub slot: u32,
        /// The victim's name.
        pub comm: [u8; COMM_LEN],
    }
}

record! {
    /// Where the ring of kills is written and read. `OOM_RING[0]`.
    pub struct Ring {
        /// Kills ever written. The kernel calls the OOM killer under a lock, so there is one writer.
        pub head: u64,
        /// Kills ever read, written by the agent: the next agent goes on from there.
        pub tail: u64,
        /// Kills that were not written, since their slot's share of the ring was unread.
        pub unwritten: u64,
    }
}

record! {
    /// What a slot has in the ring of kills: `OOM_TAKEN[slot]`.
    pub struct RingShare {
        /// The ring's tail when this was counted. It does not count any more once the tail is another.
        pub tail: u64,
        /// Its kills that are unread.
        pub unread: u64,
    }
}

record! {
    /// Offsets into the structs of the memory controller in bytes.
    pub struct MemcgOffsets {
        /// `mem_cgroup.css`: where the subsystem's state begins in it.
        pub css: u64,
        /// `mem_cgroup.memory`, a page counter.
        pub memory: u64,
        /// `mem_cgroup.swap`, a page counter; [`UNKNOWN`] without swap.
        pub swap: u64,
        /// `page_counter.usage`
        pub counter_usage: u64,
        /// `page_counter.watermark`
        pub counter_watermark: u64,
        /// `page_counter.min`
        pub counter_min: u64,
        /// `page_counter.low`
        pub counter_low: u64,
        /// `page_counter.high`
        pub counter_high: u64,
        /// `page_counter.max`
        pub counter_max: u64,
        /// `mem_cgroup.vmstats`
        pub vmstats: u64,
        /// 1 when `vmstats` is a pointer, 0 when the counters are in `mem_cgroup` itself (5.10).
        pub vmstats_is_pointer: u64,
    }
}

record! {
    /// Offsets into kernel structs in bytes, found in the running kernel's BTF, and facts of the machine; frozen before the
    /// programs load.
    pub struct Facts {
        /// `task_struct.cgroups`
        pub task_cgroups: u64,
        /// `task_struct.tgid`
        pub task_tgid: u64,
        /// `task_struct.pid`
        pub task_pid: u64,
        /// `task_struct.comm`
        pub task_comm: u64,
        /// `css_set.dfl_cgrp`
        pub css_set_cgroup: u64,
        /// `css_set.subsys[memory_cgrp_id]`: the nearest memory cgroup at or above the task's cgroup.
        pub css_set_memory: u64,
        /// `cgroup.kn`
        pub cgroup_kn: u64,
        /// `kernfs_node.id`
        pub kn_id: u64,
        /// `cgroup_subsys_state.cgroup`
        pub css_cgroup: u64,
        /// Where a memory cgroup has what.
        pub memcg: MemcgOffsets,
        /// `page_counter.parent`
        pub counter_parent: u64,
        /// Size of a page in bytes.
        pub page_bytes: u64,
        /// Pages by which a cgroup at its limit may look to be below it: what CPUs hold in advance.
        pub slack_pages: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reclaims_are_counted_by_seconds_boundaries() {
        // 2^-17 s = 7629.4 ns is the zero bucket's bound; half a second is 16 octaves above it.
        assert_eq!([0, 7629, 7631].map(reclaim_position), [0, 0, 1]);
        assert_eq!((reclaim_position(499_999_900), reclaim_position(500_000_100)), (16 * 8, 16 * 8 + 1));
        assert_eq!(reclaim_position(u64::MAX), RECLAIM_LEN - 1);
    }
}
