//! Marks: up to where each task has been counted.

use agent_common::cpu::{TASKS_LEN, TaskMark};

use crate::CPU_TASKS;

/// The kernel's accounts of a task at one moment.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    pub(crate) exec_ns: u64,
    pub(crate) run_delay_ns: u64,
}

/// The mark of the task at `address`.
///
/// The values at switch-in are not enough for that. When the load balancer moves a waiting task, the kernel adds the wait so
/// far to `run_delay` (`sched_info_dequeue`) while the task still waits, and a wait counted from the switch-in on would leave
/// that part out. Nor is every switch traced (on 6.18 some were seen that ftrace missed too). With the values that were
/// counted last, every ns is counted exactly once whatever was missed in between.
#[inline(always)]
pub(crate) fn entry_of(address: u64) -> Option<*mut TaskMark> {
    let hash = (address >> 6).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - TASKS_LEN.trailing_zeros());
    CPU_TASKS.get_ptr_mut(hash as u32)
}

/// Up to where the task at `address`, whose accounts stand at `reached`, has been counted.
///
/// An entry that another task overwrote does not carry this task's check: then `switched_in` counts. Without either, the stretch
/// began before our time. A mark beyond where this task stands was left by an earlier one at its address: not every new task is
/// traced by `sched_process_fork` (io_uring's workers are not).
#[inline(always)]
pub(crate) unsafe fn counted(entry: *mut TaskMark, address: u64, switched_in: Option<Mark>, reached: Mark) -> Option<Mark> {
    // SAFETY: a map value; a torn set of words fails the check.
    let (owner, mark) = unsafe {
        let exec_ns = core::ptr::read_volatile(&raw const (*entry).exec_ns);
        let run_delay_ns = core::ptr::read_volatile(&raw const (*entry).run_delay_ns);
        let owner = core::ptr::read_volatile(&raw const (*entry).check) ^ exec_ns ^ run_delay_ns;
        (owner, Mark { exec_ns, run_delay_ns })
    };
    let limit = switched_in.unwrap_or(reached);
    let own = owner == address && mark.exec_ns <= limit.exec_ns && mark.run_delay_ns <= limit.run_delay_ns;
    if own { Some(mark) } else { switched_in }
}

/// Notes that the task at `address` has been counted up to `mark`.
#[inline(always)]
pub(crate) unsafe fn count_up_to(entry: *mut TaskMark, address: u64, mark: Mark) {
    // SAFETY: a map value.
    unsafe {
        core::ptr::write_volatile(&raw mut (*entry).exec_ns, mark.exec_ns);
        core::ptr::write_volatile(&raw mut (*entry).run_delay_ns, mark.run_delay_ns);
        core::ptr::write_volatile(&raw mut (*entry).check, address ^ mark.exec_ns ^ mark.run_delay_ns);
    }
}
