//! The records of the `cpu` signal.
//!
//! All of them live in memory-mapped arrays that the kernel side writes and the agent only reads.

use crate::bucket;

/// Index of the first wait bucket, in units of 2^-30 s: waits up to 2^(88/8) units count as "no wait to speak of".
pub const WAIT_FIRST: i32 = 88;

/// Wait buckets per slot: position 0, then 21 octaves of eight up to 4 s; longer waits are in the last.
pub const WAIT_LEN: usize = 170;

/// Length of a burst window in ns.
pub const WINDOW_NS: u64 = 100_000_000;

/// Entries of one CPU's window log, a power of two: 250 busy containers for 1.6 s on one CPU.
pub const LOG_LEN: u32 = 4096;

/// Windows one uninterrupted stretch may fill at once: 6.4 s. The agent settles the running tasks every second.
pub const STRETCH_WINDOWS: u32 = 64;

/// Entries of one CPU's cache from cgroup pointer to slot, a power of two.
pub const SLOT_CACHE_LEN: u32 = 1024;

/// Entries of the table of marks: up to where each task has been counted, a power of two.
pub const TASKS_LEN: u32 = 16384;

/// A slot that was not looked up: [`CpuNow::slot`].
pub const SLOT_UNKNOWN: u64 = u64::MAX;

/// Beside a slot in [`CpuNow::slot`]: the wait before the stretch has been counted, in the cgroup that the task has left since.
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

record! {
    /// What one slot used on one CPU, since the slot was taken. `CPU_RECORDS[cpu * slots + slot]`.
    ///
    /// One compact record, counters and buckets side by side: what costs on a real node is the number of cold lines touched.
    pub struct CpuRecord {
        /// Time on this CPU in ns: `sum_exec_runtime` deltas, what `cpu.stat usage_usec` counts.
        pub on_cpu_ns: u64,
        /// Run-queue wait in ns: `sched_info.run_delay` deltas, throttled time included (see `agent-ebpf/src/bin/cpu.rs`).
        pub wait_ns: u64,
        /// The burst window that `log` is the entry of; low 32 bits of CLOCK_MONOTONIC / [`WINDOW_NS`].
        pub window: u32,
        /// Number of the log entry of the current window, counting all entries ever written on this CPU.
        pub log: u32,
        /// Waits by duration, one per dispatch; wraps: readers take wrapping differences.
        pub waits: [u32; WAIT_LEN],
    }
}

/// Bit of [`Carried::known`]: CPU time and throttled time from before counting began are known.
pub const CARRIED_BEFORE: u64 = 1;

/// Bit of [`Carried::known`]: throttling was read of this cgroup, so its waiting is never called contention without another reading.
pub const CARRIED_THROTTLED: u64 = 2;

record! {
    /// What a slot's owner used that its records do not show, kept by the agent where it outlives the agent.
    /// `CPU_CARRIED[slot]`. The programs do not touch it.
    pub struct Carried {
        /// CPU time of its dead descendants in ns.
        pub on_cpu_ns: u64,
        /// Run-queue wait of its dead descendants in ns.
        pub wait_ns: u64,
        /// `cpu.stat` less what was counted, in ns, two's complement: CPU time from before counting began.
        pub before_counting_ns: u64,
        /// `throttled_usec` of `cpu.stat` when counting began, in ns.
        pub throttled_before_ns: u64,
        /// What is known: [`CARRIED_BEFORE`] where the two above are, [`CARRIED_THROTTLED`] where `cpu.stat` has had throttling.
        pub known: u64,
        /// The largest time in contention that was ever exported, in ns: it never goes down.
        pub contention_ns: u64,
        /// Waits of its dead descendants by duration; wraps.
        pub waits: [u32; WAIT_LEN],
    }
}

record! {
    /// CPU time of one slot in one window on one CPU. `CPU_WINDOWS[cpu * LOG_LEN + (number & (LOG_LEN - 1))]`.
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
        /// The slot of the cgroup in which the running task began its stretch, or in which it was when it was last settled; with
        /// [`WAIT_COUNTED`] where the wait before the stretch has been counted already, [`SLOT_UNKNOWN`] where it was not looked up.
        pub slot: u64,
        /// Address of this CPU's idle task as a number; 0 until it was seen.
        pub idle: u64,
        /// Moves ever noted for this CPU; the next one's number. Written by whichever CPU moves a task, one at a time.
        pub moves: u64,
        /// Number of the first move that this CPU has not seen.
        pub moves_seen: u64,
        /// Fills the record to two cache lines, so that no two CPUs share one.
        pub reserved: [u64; 2],
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
    /// One entry of a CPU's slot cache. `CPU_SLOT_CACHE[..]`, per CPU.
    pub struct CachedSlot {
        /// Address of the `struct cgroup`.
        pub cgroup: u64,
        /// The slot.
        pub slot: u32,
        /// The generation in which it was looked up; a cgroup born since then may have reused the address.
        pub generation: u32,
    }
}

record! {
    /// Up to where a task has been counted. `CPU_TASKS[hash of the task's address]`.
    ///
    /// Two CPUs may write one entry at once when two tasks share it; a torn entry belongs to neither task.
    pub struct TaskMark {
        /// The task's address XOR the two fields below.
        pub check: u64,
        /// `run_delay` in ns.
        pub run_delay_ns: u64,
        /// `sum_exec_runtime` in ns.
        pub exec_ns: u64,
        /// Half a cache line: an entry never crosses one.
        pub reserved: u64,
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
        /// 1 where the kernel keeps account of waits.
        pub waits: u64,
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
        /// One more than the largest id of a CPU.
        pub cpus: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
