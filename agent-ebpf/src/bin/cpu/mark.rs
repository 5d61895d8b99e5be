//! Marks: up to where each task has been counted.

use agent_common::cpu::{MARKS_IN_BLOCK, MarkPlace, TaskMark};
use agent_ebpf::{frozen, only_value};

use crate::{CPU_MARKS, FACTS};

/// The kernel's accounts of a task at one moment.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    pub(crate) exec_ns: u64,
    pub(crate) run_delay_ns: u64,
}

/// Where a task's mark is.
#[derive(Clone, Copy)]
pub(crate) struct MarkEntry {
    /// The task's address.
    pub(crate) address: u64,
    place: MarkPlace,
    entry: *mut TaskMark,
    /// What it was when it was found.
    mark: TaskMark,
}

impl MarkEntry {
    /// The mark of the task at `address`.
    ///
    /// The values at switch-in are not enough for that. When the load balancer moves a waiting task, the kernel adds the wait so
    /// far to `run_delay` (`sched_info_dequeue`) while the task still waits, and a wait counted from the switch-in on would leave
    /// that part out. Nor is every switch traced (on 6.18 some were seen that ftrace missed too). With the values that were
    /// counted last, every ns is counted exactly once whatever was missed in between.
    #[inline(always)]
    pub(crate) fn of(address: u64) -> Option<Self> {
        let place = MarkPlace::of(address, frozen!(FACTS.mark_blocks_log2) as u32);
        let block = only_value(&CPU_MARKS, place.block)?;
        let at = place.index as usize * size_of::<TaskMark>();
        if at >= MARKS_IN_BLOCK * size_of::<TaskMark>() {
            return None;
        }
        // SAFETY: inside of the block, which has room for one more. Words of two tasks are of neither.
        let (entry, mark) = unsafe {
            let entry = block.cast::<u8>().add(at + (frozen!(FACTS.mark_skew) & 15) as usize).cast::<TaskMark>();
            (entry, core::ptr::read_volatile(entry))
        };
        Some(Self { address, place, entry, mark })
    }

    /// Up to where the task, whose accounts stand at `reached`, has been counted.
    ///
    /// A mark that another task overwrote is not this task's: then `switched_in` counts, and `false` says so. Without either, the
    /// stretch began before our time.
    #[inline(always)]
    pub(crate) fn counted(&self, switched_in: Option<Mark>, reached: Mark) -> Option<(Mark, bool)> {
        let limit = switched_in.unwrap_or(reached);
        match self.place.read(&self.mark, (limit.exec_ns, limit.run_delay_ns)) {
            Some((exec_ns, run_delay_ns)) => Some((Mark { exec_ns, run_delay_ns }, true)),
            None => switched_in.map(|mark| (mark, false)),
        }
    }

    /// Notes that the task has been counted up to `mark`.
    #[inline(always)]
    pub(crate) unsafe fn count_up_to(&self, mark: Mark) {
        // SAFETY: a map value.
        unsafe { core::ptr::write_volatile(self.entry, self.place.mark(mark.exec_ns, mark.run_delay_ns)) };
    }
}
