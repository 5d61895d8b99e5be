//! The records of the `cpu` signal.
//!
//! A CPU counts in its own small cache of cgroups, [`CachedCgroup`], which is flushed into one record per slot, [`CpuRecord`]: so that
//! memory does not grow with slots times CPUs, and a context switch touches one cache line of counts. The agent reads records and the log
//! of windows; the caches and the marks are the kernel side's alone.

pub mod neighbour;

use crate::bucket;

/// Index of the first wait bucket, in units of 2^-30 s: waits up to 2^(88/8) units count as "no wait to speak of".
pub const WAIT_FIRST: i32 = 88;

/// Wait buckets per slot: position 0, then 21 octaves of eight up to 4 s; longer waits are in the last.
pub const WAIT_LEN: usize = 170;

/// Length of a burst window in ns.
pub const WINDOW_NS: u64 = 100_000_000;

/// Burst buckets per slot, the last of which ends at as many CPUs as the node may have, rounded up to a power of two: 14 3/4 octaves.
pub const BURST_LEN: usize = 118;

/// Entries of one CPU's window log, a power of two: 250 busy containers for 1.5 s on one CPU, flushed once.
pub const LOG_LEN: u32 = 4096;

/// Windows one uninterrupted stretch may fill at once: 6.4 s. The agent settles the running tasks every second.
pub const STRETCH_WINDOWS: u32 = 64;

/// Sets of one CPU's cache of cgroups: with the kernel's head of an array 32 KiB, see [`MARKS_IN_BLOCK`].
pub const CACHE_SETS: u32 = 251;

/// Cgroups in a set.
pub const CACHE_WAYS: usize = 2;

/// Cgroups that one CPU counts for without a flush: so many as a full node has busy on one CPU, twice.
pub const CACHE_LEN: u32 = CACHE_SETS * CACHE_WAYS as u32;

/// Room for all of them: a power of two.
pub const LIST_LEN: u32 = 512;

/// Waits by position that a cached cgroup keeps until they are added to its record; those at position 0 are only counted.
pub const CACHED_WAITS: usize = 12;

/// Cgroups that one run of `cpu_settle` flushes: interrupts are off meanwhile, for some 10 us.
pub const FLUSHED_AT_ONCE: u32 = 64;

/// Marks in one block of the table: with the kernel's head of an array at most 32 KiB, the most that is allocated in one piece and so
/// mapped with large pages.
pub const MARKS_IN_BLOCK: usize = 2015;

/// The fewest blocks in the table of marks, and the most: 2 MiB. The number is a power of two.
pub const MARK_BLOCKS: (u32, u32) = (8, 64);

/// No place in the cache of cgroups: [`CpuNow::place`].
pub const PLACE_UNKNOWN: u64 = u64::MAX;

/// Beside a place in [`CpuNow::place`]: the wait before the stretch has been counted, in the cgroup that the task has left since.
pub const WAIT_COUNTED: u64 = 1 << 32;

/// CPUs on which a move between cgroups is noted, as long as a loop may be for the verifier of Linux 5.10.
pub const MOVE_CPUS: u32 = 1024;

/// Moves of running tasks between cgroups that are noted for one CPU, a power of two: so many in a second, the time between two
/// settlings, are counted each in its own cgroup.
pub const MOVES_LEN: u32 = 16;

/// The position of a run-queue wait in ns among the [`WAIT_LEN`] buckets.
#[inline(always)]
pub const fn wait_position(ns: u64) -> usize {
    // What the zero bucket holds for sure: 2^11 units are 1907.3 ns. Most waits of an idle node end here.
    if ns <= 1907 {
        return 0;
    }
    bucket::duration_position::<WAIT_FIRST, WAIT_LEN>(ns)
}

counts! {
    /// What one slot used, since the slot was taken, and what dead descendants of its owner had used. `CPU_RECORDS[slot]`.
    pub struct CpuRecord {
        /// Time on CPUs in ns: `sum_exec_runtime` deltas, what `cpu.stat usage_usec` counts.
        pub on_cpu_ns: u64,
        /// Run-queue wait in ns: `sched_info.run_delay` deltas, throttled time included (see `agent-ebpf/src/bin/cpu.rs`).
        pub wait_ns: u64,
        /// Time on CPUs in ns for which a task that was dispatched there next had waited.
        pub contended_ns: u64,
        /// Waits by duration, one per dispatch.
        pub waits: [u64; WAIT_LEN],
    }
}

record! {
    /// What a CPU has counted for one cgroup and not yet flushed.
    ///
    /// A cache line: what costs on a real node is the number of cold lines touched.
    pub struct CachedCgroup {
        /// Address of the `struct cgroup`.
        pub cgroup: u64,
        /// The slot; [`UNATTRIBUTED`](crate::cgroups::UNATTRIBUTED) of a cgroup that has none.
        pub slot: u32,
        /// The generation in which the slot was looked up; a cgroup born since then may have reused the address.
        pub generation: u32,
        /// As [`CpuRecord::on_cpu_ns`].
        pub on_cpu_ns: u64,
        /// As [`CpuRecord::wait_ns`].
        pub wait_ns: u64,
        /// As [`CpuRecord::contended_ns`].
        pub contended_ns: u64,
        /// The burst window of the time below: low 32 bits of CLOCK_MONOTONIC / [`WINDOW_NS`].
        pub window: u32,
        /// Time inside that window in ns that is not in the log yet.
        pub window_ns: u32,
        /// Waits at position 0.
        pub shortest_waits: u16,
        /// 1 where it is in the list of what is to be flushed: [`ToFlush`].
        pub listed: u8,
        /// How many of `waits` there are.
        pub waits_len: u8,
        /// Positions of waits.
        pub waits: [u8; CACHED_WAITS],
    }
}

record! {
    /// One set of a CPU's cache.
    pub struct CacheSet {
        /// The cgroups in it.
        pub ways: [CachedCgroup; CACHE_WAYS],
    }
}

record! {
    /// One CPU's cache, and room to begin it at a cache line. `CPU_CACHE[cpu][0]`.
    pub struct Cache {
        /// The sets.
        pub sets: [CacheSet; CACHE_SETS as usize],
        /// Room.
        pub room: [u64; 8],
    }
}

record! {
    /// The cached cgroups of one CPU that have counted something, by place. `CPU_TO_FLUSH[cpu]`, [`CpuNow::to_flush`] of them.
    pub struct ToFlush {
        /// Their places: `set * CACHE_WAYS + way`.
        pub places: [u16; LIST_LEN as usize],
    }
}

/// Bit of [`Carried::known`]: CPU time and throttled time from before counting began are known.
pub const CARRIED_BEFORE: u64 = 1;

/// Bit of [`Carried::known`]: throttling was read of this cgroup, so its waiting is never called contention without another reading.
pub const CARRIED_THROTTLED: u64 = 2;

record! {
    /// What is known of a slot's owner that its record does not show, kept by the agent where it outlives the agent.
    /// `CPU_CARRIED[slot]`. The programs do not touch it.
    pub struct Carried {
        /// `cpu.stat` less what was counted, in ns, two's complement: CPU time from before counting began.
        pub before_counting_ns: u64,
        /// `throttled_usec` of `cpu.stat` when counting began, in ns.
        pub throttled_before_ns: u64,
        /// What is known: [`CARRIED_BEFORE`] where the two above are, [`CARRIED_THROTTLED`] where `cpu.stat` has had throttling.
        pub known: u64,
        /// The largest time in contention that was ever exported, in ns: it never goes down.
        pub contention_ns: u64,
    }
}

record! {
    /// The burst histogram of a slot's owner without its idle windows: 512 bytes. `CPU_BURSTS[slot]`. Only the agent touches it.
    ///
    /// Windows are numbered by CLOCK_MONOTONIC / [`WINDOW_NS`] less those that no agent watched, see [`Watched`].
    pub struct Burst {
        /// Twice the number of the window after the last one in it, 0 where there is none; odd while it is being written. What an agent
        /// that was killed has left odd is not whole.
        pub written: u64,
        /// Id of the owner; 0 where there is none.
        pub owner: u64,
        /// When it began anew, CLOCK_BOOTTIME in ns; 0 where it has all since the owner's birth and [`Watched::since_ns`].
        pub since_ns: u64,
        /// Number of the first window that counts for the owner.
        pub first: u64,
        /// CPU time in ns of all windows in it.
        pub on_cpu_ns: u64,
        /// Windows by CPUs used: buckets of consecutive indices.
        pub windows: [u32; BURST_LEN],
    }
}

record! {
    /// Which windows agents have watched. `CPU_WATCHED[0]`. Only the agent touches it.
    pub struct Watched {
        /// Since when, CLOCK_BOOTTIME in ns; 0 where none was.
        pub since_ns: u64,
        /// Number of the first window that is not closed: of the last agent's, without those that no agent watched.
        pub next: u64,
        /// Windows up to there that no agent watched.
        pub unwatched: u64,
    }
}

record! {
    /// CPU time of one slot in one window on one CPU, or a part of it. `CPU_WINDOWS[cpu * LOG_LEN + (number & (LOG_LEN - 1))]`.
    pub struct WindowEntry {
        /// The slot.
        pub slot: u32,
        /// The window: low 32 bits of CLOCK_MONOTONIC / [`WINDOW_NS`].
        pub window: u32,
        /// Time on this CPU inside the window in ns.
        pub on_cpu_ns: u64,
    }
}

record! {
    /// What runs on one CPU now. `CPU_NOW[cpu]`.
    pub struct CpuNow {
        /// Address of the running `task_struct` as a number.
        pub task: u64,
        /// Its `sum_exec_runtime` when it was switched in or last settled, in ns.
        pub exec_ns: u64,
        /// Its `run_delay` when it was switched in: without the wait that ended just then, in ns.
        pub run_delay_ns: u64,
        /// Jiffy from which on the current window may have ended; before it the window needs no clock.
        pub window_until: u64,
        /// The current window: CLOCK_MONOTONIC / [`WINDOW_NS`].
        pub window: u64,
        /// CLOCK_MONOTONIC minus this CPU's `rq_clock_task`, in ns, when both were last seen at one moment.
        pub clock_offset_ns: u64,
        /// Log entries ever written on this CPU; the next entry's number.
        pub log_head: u64,
        /// Time in ns that did not fit into the windows of one stretch.
        pub unwindowed_ns: u64,
        /// Switches seen.
        pub switches: u64,
        /// Scratch: a kernel pointer stored here can be read back as a number, which the verifier lets us compute with.
        pub scratch: u64,
        /// The place in the cache of the cgroup in which the running task began its stretch, or in which it was when it was last settled;
        /// with [`WAIT_COUNTED`] where the wait before the stretch has been counted already, [`PLACE_UNKNOWN`] where there is none.
        pub place: u64,
        /// Address of this CPU's idle task as a number; 0 until it was seen.
        pub idle: u64,
        /// Moves ever noted for this CPU; the next one's number. Written by whichever CPU moves a task, one at a time.
        pub moves: u64,
        /// Number of the first move that this CPU has not seen.
        pub moves_seen: u64,
        /// Cached cgroups that have counted something since they were flushed.
        pub to_flush: u32,
        /// `sum_exec_runtime` of the running task when it was switched in, in [`RAN_UNIT_LOG2`](neighbour::RAN_UNIT_LOG2).
        pub switched_in: u32,
        /// Stretches of tasks whose mark was of another task, so that what was counted before is known from their switch-in alone. It
        /// stays at the largest number.
        pub marks_lost: u32,
        /// 1 where the agent never interrupts this CPU, which then flushes after each stretch. The agent writes it.
        pub undisturbed: u32,
    }
}

record! {
    /// A running task came into another cgroup. `CPU_MOVES[cpu * MOVES_LEN + (number & (MOVES_LEN - 1))]`.
    pub struct Move {
        /// Its `sum_exec_runtime` at that moment in ns.
        pub exec_ns: u64,
        /// The slot of the cgroup that it came into.
        pub slot: u64,
        /// Its address XOR the two fields above: a torn entry is of no task.
        pub check: u64,
        /// Half a cache line: an entry never crosses one.
        pub reserved: u64,
    }
}

record! {
    /// What a task ran without letting go of its CPU, or since it was settled, while a program divides it. `CPU_STRETCH[cpu]`.
    pub struct Stretch {
        /// The task's address.
        pub address: u64,
        /// Its `sum_exec_runtime` up to which the stretch is counted, in ns: at first where it began.
        pub at_ns: u64,
        /// The same where it ends.
        pub to_ns: u64,
        /// When that was on CLOCK_MONOTONIC in ns.
        pub end_ns: u64,
        /// Number of the first move noted for this CPU meanwhile that has not been looked at.
        pub next_move: u64,
        /// Number of the first move that comes after the stretch.
        pub moves: u64,
        /// Slot of the cgroup in which it goes on.
        pub slot: u64,
        /// Whole cache lines, which no two CPUs share.
        pub reserved: u64,
    }
}

record! {
    /// Up to where a task has been counted. [`MarkPlace`] says where.
    ///
    /// Both words hold a value in ns above [`TAG_BITS`] bits of the task's address. Two CPUs may write one entry at once when two tasks
    /// share it; a torn entry belongs to neither task.
    pub struct TaskMark {
        /// `sum_exec_runtime`.
        pub exec: u64,
        /// `run_delay`.
        pub run_delay: u64,
    }
}

record! {
    /// A block of marks, and room to begin them at a multiple of 16 bytes. `CPU_MARKS[block][0]`.
    pub struct MarkBlock {
        /// The marks.
        pub marks: [TaskMark; MARKS_IN_BLOCK + 1],
    }
}

/// Bits of each word of a [`TaskMark`] that tell whose it is.
pub const TAG_BITS: u32 = 15;

/// Bits of a task's address that differ among tasks: they begin at multiples of 64 bytes, and no machine has more than 64 TiB of memory
/// in one piece.
const ADDRESS_BITS: u32 = 40;

/// The most that a task may have used since its mark, in ns: 73 minutes. More is not believed, but taken for another task's mark. A mark
/// is made at each switch and every second.
const MARK_REACH_NS: u64 = 1 << 42;

/// Where the mark of a task is, and how it is told from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkPlace {
    /// The block.
    pub block: u32,
    /// Index in the block, less than [`MARKS_IN_BLOCK`].
    pub index: u32,
    /// Upper and lower half of what index and tags have of the address. Together they are of one task alone.
    tags: (u64, u64),
}

impl MarkPlace {
    /// That of the task at an address, in a table of `1 << blocks_log2` blocks.
    #[inline(always)]
    pub const fn of(address: u64, blocks_log2: u32) -> Self {
        const MASK: u64 = (1 << ADDRESS_BITS) - 1;
        // An odd factor maps the addresses one to one.
        let hash = ((address >> 6) & MASK).wrapping_mul(0x9e_3779_b97f) & MASK;
        Self {
            block: (hash >> (ADDRESS_BITS - blocks_log2)) as u32,
            // Of eleven bits, less than 2^11: two numbers that come together differ in their lowest bits, which are in the tag too.
            index: ((((hash >> (ADDRESS_BITS - blocks_log2 - 11)) & 0x7ff) * MARKS_IN_BLOCK as u64) >> 11) as u32,
            tags: ((hash >> TAG_BITS) & ((1 << TAG_BITS) - 1), hash & ((1 << TAG_BITS) - 1)),
        }
    }

    /// The mark of a task that has been counted up to these.
    #[inline(always)]
    pub const fn mark(&self, exec_ns: u64, run_delay_ns: u64) -> TaskMark {
        TaskMark { exec: (exec_ns << TAG_BITS) | self.tags.0, run_delay: (run_delay_ns << TAG_BITS) | self.tags.1 }
    }

    /// `exec_ns` and `run_delay_ns` of a mark, if it is this task's and no later than `limits`, where the task stands.
    #[inline(always)]
    pub const fn read(&self, mark: &TaskMark, limits: (u64, u64)) -> Option<(u64, u64)> {
        const TAG: u64 = (1 << TAG_BITS) - 1;
        const VALUE: u64 = u64::MAX >> TAG_BITS;
        let exec_since = limits.0.wrapping_sub(mark.exec >> TAG_BITS) & VALUE;
        let delay_since = limits.1.wrapping_sub(mark.run_delay >> TAG_BITS) & VALUE;
        let own = mark.exec & TAG == self.tags.0 && mark.run_delay & TAG == self.tags.1;
        // A mark beyond the limit, or far behind it, was left by an earlier task at this address: not each new one is traced.
        let near = exec_since < MARK_REACH_NS && delay_since < MARK_REACH_NS;
        let begun = exec_since <= limits.0 && delay_since <= limits.1;
        if own && near && begun { Some((limits.0 - exec_since, limits.1 - delay_since)) } else { None }
    }
}

record! {
    /// Offsets into kernel structs in bytes, found in the running kernel's BTF, and facts of the machine; frozen before the
    /// programs load.
    pub struct Facts {
        /// `task_struct.se.sum_exec_runtime`
        pub task_exec: u64,
        /// `task_struct.se.exec_start`
        pub task_exec_start: u64,
        /// `task_struct.sched_info.run_delay`; nothing where `waits` is 0.
        pub task_run_delay: u64,
        /// `task_struct.sched_info.last_arrival`; nothing where `waits` is 0.
        pub task_last_arrival: u64,
        /// `task_struct.sched_info.last_queued`; nothing where `waits` is 0.
        pub task_last_queued: u64,
        /// 1 where the kernel keeps account of waits.
        pub waits: u64,
        /// `task_struct.sched_task_group`; nothing where `limits` is 0.
        pub task_task_group: u64,
        /// `task_group.parent`; nothing where `limits` is 0.
        pub task_group_parent: u64,
        /// `task_group.cfs_bandwidth.throttled_time`; nothing where `limits` is 0.
        pub task_group_throttled: u64,
        /// 1 where the kernel can limit a cgroup's CPU time.
        pub limits: u64,
        /// `task_struct.group_leader`
        pub task_group_leader: u64,
        /// `task_struct.cgroups`
        pub task_cgroups: u64,
        /// `css_set.dfl_cgrp`
        pub css_set_cgroup: u64,
        /// `cgroup.kn`
        pub cgroup_kn: u64,
        /// `kernfs_node.id`
        pub kn_id: u64,
        /// Length of a jiffy in ns.
        pub tick_ns: u64,
        /// Blocks of marks: a power of two, by its exponent.
        pub mark_blocks_log2: u64,
        /// Where marks begin in a block in bytes, so that they do so at a multiple of 16.
        pub mark_skew: u64,
        /// Where sets begin in a cache in bytes, so that they do so at a multiple of 64.
        pub cache_skew: u64,
        /// One more than the largest id of a CPU.
        pub cpus: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_of_one_task_alone_and_holds_what_it_was_made_of() {
        const TASK: u64 = 0xffff_8881_0234_5680;
        let place = MarkPlace::of(TASK, 3);
        assert!(place.block < 8 && (place.index as usize) < MARKS_IN_BLOCK);
        let mark = place.mark(5_000, 300);
        assert_eq!(place.read(&mark, (5_000, 300)), Some((5_000, 300)));
        assert_eq!(place.read(&mark, (9_000, 301)), Some((5_000, 300)));
        assert_eq!(place.read(&mark, (4_999, 300)), None, "a later one");
        assert_eq!(place.read(&mark, (5_000, 299)), None, "a later one");
        assert_eq!(place.read(&TaskMark::ZERO, (5_000, 300)), None, "none");
        // Months of CPU time do not fit into a mark; what is since then does.
        let long_ns = 90 * 86_400_000_000_000;
        let mark = place.mark(long_ns, 2 * long_ns);
        assert_eq!(place.read(&mark, (long_ns + 7, 2 * long_ns)), Some((long_ns, 2 * long_ns)));
        assert_eq!(place.read(&mark, (7, 7)), None, "an earlier task at this address");
        assert_eq!(place.read(&place.mark(0, 0), (2 * MARK_REACH_NS, 0)), None, "too long ago to be believed");
        // Every address has an index and tags of its own.
        let mut places: Vec<_> =
            (0..200_000).map(|n| MarkPlace::of(TASK + n * 64, 3)).map(|p| (p.block, p.index, p.tags)).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), 200_000);
        // Another task with the same index does not take the mark for its own, nor half of it.
        let other = (1..)
            .map(|n| MarkPlace::of(TASK + n * 64, 3))
            .find(|other| (other.block, other.index) == (place.block, place.index))
            .unwrap();
        let (own, theirs) = (place.mark(1, 1), other.mark(1, 1));
        assert_eq!(place.read(&theirs, (1, 1)), None);
        let torn = TaskMark { exec: own.exec, run_delay: theirs.run_delay };
        assert!(place.read(&torn, (1, 1)).is_none() && other.read(&torn, (1, 1)).is_none());
    }

    #[test]
    fn a_cached_cgroup_is_a_cache_line() {
        assert_eq!((size_of::<CachedCgroup>(), size_of::<CpuNow>(), size_of::<TaskMark>()), (64, 128, 16));
        // With the head of an array, of which no kernel has more.
        const { assert!(size_of::<Cache>() + 512 <= 32 << 10 && size_of::<MarkBlock>() + 512 <= 32 << 10) };
        const { assert!(WAIT_LEN <= 1 << 8, "positions of waits are bytes") };
    }

    #[test]
    fn waits_are_counted_by_seconds_boundaries() {
        // 2^-19 s = 1907.3 ns is the zero bucket's bound, 2^(-19 + 1/8) s = 2080.0 ns that of the first.
        assert_eq!([0, 1907, 1909, 2079, 2082].map(wait_position), [0, 0, 1, 1, 2]);
        // Half a second is a boundary: eight buckets per octave from 2^-19 s on.
        assert_eq!(wait_position(499_999_900), 18 * 8);
        assert_eq!(wait_position(500_000_100), 18 * 8 + 1);
        assert_eq!((wait_position(60_000_000_000), wait_position(u64::MAX)), (WAIT_LEN - 1, WAIT_LEN - 1));
        // Whatever the shortcut for short waits skips is what the whole rule gives.
        for ns in 0..=1907 {
            assert_eq!(bucket::position::<WAIT_FIRST, WAIT_LEN>((ns * 281_475) >> 18), 0, "{ns}");
        }
    }
}
