//! Stretches of CPU time divided among 100 ms windows and among the cgroups that a task was moved between.

use agent_common::cpu::{CachedCgroup, CpuNow, MOVES_LEN, STRETCH_WINDOWS, WINDOW_NS};
use agent_ebpf::{add, forgotten, frozen};
use aya_ebpf::helpers::generated::bpf_jiffies64;

use crate::{
    CPU_MOVES, CPU_RECORDS, FACTS,
    cache::{add_time, log},
};

/// What a task ran without letting go of its CPU, or since it was settled.
pub(crate) struct Stretch {
    /// The task's address.
    pub(crate) address: u64,
    /// Its `sum_exec_runtime` at the beginning in ns.
    pub(crate) from_ns: u64,
    /// And at the end.
    pub(crate) to_ns: u64,
    /// When it ended on CLOCK_MONOTONIC in ns.
    pub(crate) end_ns: u64,
    /// Numbers of the moves that were noted for this CPU meanwhile: the first, and the next one's.
    pub(crate) moves: (u64, u64),
}

/// Counts a stretch that began in the cgroup of `entry`, divided among the windows and the cgroups it was spent in.
#[inline(always)]
pub(crate) unsafe fn divide(now: *mut CpuNow, cpu: u32, entry: *mut CachedCgroup, stretch: &Stretch) {
    // SAFETY: map values of this CPU; a torn move fails the check.
    unsafe {
        let slot = (*entry).slot;
        let Stretch { address, from_ns, to_ns, end_ns, moves: (first_move, moves) } = *stretch;
        let earliest_ns = (end_ns / WINDOW_NS).saturating_sub(STRETCH_WINDOWS as u64 - 2) * WINDOW_NS;
        let (mut slot, mut at_ns) = (slot, from_ns);
        let mut number = first_move;
        if moves - number > MOVES_LEN as u64 {
            number = moves - MOVES_LEN as u64;
        }
        // Each round is up to the end of a window or to a move, or passes over another task's.
        for _ in 0..STRETCH_WINDOWS + MOVES_LEN + 2 {
            // What the verifier knows of these it would follow through all rounds, one after the other.
            (at_ns, number) = (forgotten(at_ns, u64::MAX, end_ns), forgotten(number, u64::MAX, end_ns));
            slot = forgotten(slot.into(), u32::MAX.into(), end_ns) as u32;
            let clock_ns = end_ns.wrapping_sub(to_ns - at_ns);
            let window = clock_ns / WINDOW_NS;
            let too_old = clock_ns < earliest_ns;
            let edge_ns = if too_old { earliest_ns } else { (window + 1) * WINDOW_NS };
            let mut until_ns = at_ns + (edge_ns - clock_ns);
            if until_ns > to_ns {
                until_ns = to_ns;
            }
            let mut next = slot;
            if number != moves {
                let Some(noted) = CPU_MOVES.get_ptr(cpu * MOVES_LEN + (number as u32 & (MOVES_LEN - 1))) else { return };
                let exec_ns = core::ptr::read_volatile(&raw const (*noted).exec_ns);
                let moved_to = core::ptr::read_volatile(&raw const (*noted).slot);
                let owner = core::ptr::read_volatile(&raw const (*noted).check) ^ exec_ns ^ moved_to;
                if owner != address || exec_ns < at_ns {
                    number += 1;
                    continue;
                }
                if exec_ns <= until_ns {
                    number += 1;
                    (until_ns, next) = (exec_ns, moved_to as u32);
                }
            }
            if until_ns > at_ns {
                let ns = until_ns - at_ns;
                if too_old {
                    (*now).unwindowed_ns += ns;
                }
                if slot == (*entry).slot && !too_old {
                    add_time(now, cpu, entry, window, ns);
                } else {
                    let Some(record) = CPU_RECORDS.get_ptr_mut(slot) else { return };
                    add(&raw mut (*record).on_cpu_ns, ns);
                    if !too_old {
                        log(now, cpu, slot, window as u32, ns);
                    }
                }
            }
            if until_ns >= to_ns {
                break;
            }
            (slot, at_ns) = (next, until_ns);
        }
    }
}

/// Notes which window is current, and until which jiffy that is so for sure.
#[inline(always)]
pub(crate) unsafe fn begin_window(now: *mut CpuNow, clock_ns: u64) {
    // SAFETY: a map value of this CPU; a helper without arguments.
    unsafe {
        let current = clock_ns / WINDOW_NS;
        (*now).window = current;
        // Jiffies never run ahead of the clock, so at any jiffy before this one the window has not ended.
        (*now).window_until = bpf_jiffies64() + ((current + 1) * WINDOW_NS - clock_ns) / tick_ns();
    }
}

/// Length of a jiffy in ns. Never zero, visibly, or rustc adds a panic that the verifier refuses.
#[inline(always)]
pub(crate) fn tick_ns() -> u64 {
    frozen!(FACTS.tick_ns) | 1
}

/// When the accounts of a running task were last brought up to date, on CLOCK_MONOTONIC: at the last tick or so.
///
/// `exec_start` has it on the CPU's own clock, which stands still in interrupts and while the hypervisor has stolen the CPU.
/// The difference between the clocks is known from the last switch near a window's edge; when it turns out to be off by more
/// than two ticks, it is learnt anew.
#[inline(always)]
pub(crate) unsafe fn accounted_until(now: *mut CpuNow, exec_start_ns: u64, clock_ns: u64) -> u64 {
    // SAFETY: a map value of this CPU.
    unsafe {
        let until_ns = exec_start_ns.wrapping_add((*now).clock_offset_ns);
        if until_ns <= clock_ns && clock_ns - until_ns <= 2 * tick_ns() {
            return until_ns;
        }
        (*now).clock_offset_ns = clock_ns.wrapping_sub(exec_start_ns);
        clock_ns
    }
}
