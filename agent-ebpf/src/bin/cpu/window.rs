//! Stretches of CPU time divided among 100 ms windows and among the cgroups that a task was moved between.

use agent_common::cpu::{CpuNow, MOVES_LEN, STRETCH_WINDOWS, Stretch, WINDOW_NS};
use agent_ebpf::{add, frozen};
use aya_ebpf::helpers::generated::bpf_jiffies64;

use crate::{
    CPU_MOVES, CPU_NOW, CPU_RECORDS, CPU_STRETCH, FACTS,
    cache::{self, Cached, add_time, log},
};

/// Counts a stretch that began in the cgroup at `place`, divided among the windows and the cgroups it was spent in.
///
/// # Safety
/// Nothing else may run on that CPU meanwhile that counts.
#[inline(always)]
pub(crate) unsafe fn divide(cpu: u32, place: u32, mut stretch: Stretch) {
    if stretch.moves - stretch.next_move > u64::from(MOVES_LEN) {
        stretch.next_move = stretch.moves - u64::from(MOVES_LEN);
    }
    let Some(kept) = CPU_STRETCH.get_ptr_mut(cpu) else { return };
    // SAFETY: a map value of this CPU.
    unsafe { kept.write(stretch) };
    for _ in 0..STRETCH_WINDOWS + MOVES_LEN + 2 {
        if cpu_count_part(cpu, place) == 0 {
            break;
        }
    }
}

/// Counts what is left of the stretch in [`CPU_STRETCH`] up to the end of a window or to a move, or passes over the move of another task.
/// Returns 0 when nothing is left.
///
/// A global function of numbers only, which the verifier checks once and apart from its callers. With this in the loop of [`divide`] it
/// followed 300 000 instructions for each program that has that.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cpu_count_part(cpu: u32, place: u32) -> u32 {
    let (Some(now), Some(stretch)) = (CPU_NOW.get_ptr_mut(cpu), CPU_STRETCH.get_ptr_mut(cpu)) else { return 0 };
    let Some(Cached { entry, .. }) = cache::at(cpu, place) else { return 0 };
    // SAFETY: map values of this CPU; a torn move fails the check.
    unsafe {
        let Stretch { address, at_ns, to_ns, end_ns, next_move, moves, slot, .. } = *stretch;
        let earliest_ns = (end_ns / WINDOW_NS).saturating_sub(u64::from(STRETCH_WINDOWS) - 2) * WINDOW_NS;
        let clock_ns = end_ns.wrapping_sub(to_ns - at_ns);
        let window = clock_ns / WINDOW_NS;
        let too_old = clock_ns < earliest_ns;
        let edge_ns = if too_old { earliest_ns } else { (window + 1) * WINDOW_NS };
        let mut until_ns = at_ns + (edge_ns - clock_ns);
        if until_ns > to_ns {
            until_ns = to_ns;
        }
        if next_move != moves {
            let Some(noted) = CPU_MOVES.get_ptr(cpu * MOVES_LEN + (next_move as u32 & (MOVES_LEN - 1))) else { return 0 };
            let exec_ns = core::ptr::read_volatile(&raw const (*noted).exec_ns);
            let moved_to = core::ptr::read_volatile(&raw const (*noted).slot);
            let owner = core::ptr::read_volatile(&raw const (*noted).check) ^ exec_ns ^ moved_to;
            if owner != address || exec_ns < at_ns {
                (*stretch).next_move = next_move + 1;
                return 1;
            }
            if exec_ns <= until_ns {
                (*stretch).next_move = next_move + 1;
                (*stretch).slot = moved_to;
                until_ns = exec_ns;
            }
        }
        (*stretch).at_ns = until_ns;
        if until_ns > at_ns {
            let ns = until_ns - at_ns;
            if too_old {
                (*now).unwindowed_ns += ns;
            }
            if slot == u64::from((*entry).slot) && !too_old {
                add_time(now, cpu, entry, window, ns);
            } else {
                let Some(record) = CPU_RECORDS.get_ptr_mut(slot as u32) else { return 0 };
                add(&raw mut (*record).on_cpu_ns, ns);
                if !too_old {
                    log(now, cpu, slot as u32, window as u32, ns);
                }
            }
        }
        u32::from(until_ns < to_ns)
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
