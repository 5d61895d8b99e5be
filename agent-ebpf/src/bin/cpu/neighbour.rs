//! Who ran while a task waited for the same CPU.
//!
//! When `sched_switch` is traced, `next`'s `last_queued` still says since when it waits, and `prev`'s `last_arrival` since when it runs:
//! both on this CPU's `rq_clock`, and a task that is moved to another CPU begins to wait anew there (`sched_info_dequeue`). The time from
//! the later of the two to now is what `prev` ran while `next` waited for it. What others waited in the same queue is the same time, as
//! long as one of them is dispatched next, and is not counted twice.
//!
//! A task that its own cgroup's limit holds back is queued by these accounts too, but waits for nobody. Waits long enough to be of that kind
//! count only where `throttled_time` has not grown since they began.

use agent_common::{
    cgroups::UNATTRIBUTED,
    cpu::{
        CpuNow,
        neighbour::{LIMITS_DEPTH, LONG_WAIT_NS, NO_ROOM, Pair, RAN_UNIT_LOG2, RECENT_LEN, Ran, Recent},
    },
};
use agent_ebpf::{add, frozen, load};
use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_ktime_get_ns};

use crate::{CPU_PAIRS, CPU_RECENT, CPU_THROTTLED, FACTS};

/// `E2BIG` of the kernel: the map is full.
const E2BIG: i32 = 7;

/// For how long nothing is added to a full map. To find out that it is full, kernels before 6.0 take a lock of every CPU there could be,
/// and here the run queue is locked.
const FULL_FOR_NS: u64 = 1_000_000_000;

/// Stretches of one cgroup are one up to this length.
const LONGEST_NS: u64 = 1 << 32;

/// A stretch that ends, and the wait that ends with it.
#[derive(Clone, Copy)]
pub(crate) struct Handover {
    /// When the stretch began, in ns on the CPU's clock.
    from_ns: u64,
    /// How long it was in [`RAN_UNIT_LOG2`].
    length: u32,
    /// Since when the next task has waited, in ns on the same clock.
    queued_ns: u64,
    /// How long that is.
    waited_ns: u64,
}

impl Handover {
    /// Of a stretch that was not seen to begin.
    pub(crate) const NONE: Self = Self { from_ns: 0, length: 0, queued_ns: 0, waited_ns: 0 };

    /// From `prev`, which began its stretch at `switched_in` and stands at `exec_ns`, to `next`.
    ///
    /// # Safety
    /// `prev` and `next` must be typed pointers to a `task_struct`.
    #[inline(always)]
    pub(crate) unsafe fn between(prev: u64, next: u64, switched_in: u32, exec_ns: u64) -> Self {
        if frozen!(FACTS.waits) == 0 {
            return Self::NONE;
        }
        // SAFETY: see the caller.
        let (from_ns, queued_ns) =
            unsafe { (load(prev, frozen!(FACTS.task_last_arrival)), load(next, frozen!(FACTS.task_last_queued))) };
        let length = units(exec_ns).wrapping_sub(switched_in);
        let now_ns = from_ns + (u64::from(length) << RAN_UNIT_LOG2);
        let waited_ns = if queued_ns == 0 || queued_ns >= now_ns { 0 } else { now_ns - queued_ns };
        Self { from_ns, length, queued_ns, waited_ns }
    }

    /// Whether so long a wait may have been for a limit.
    #[inline(always)]
    pub(crate) fn is_long(&self) -> bool {
        self.waited_ns >= LONG_WAIT_NS
    }

    /// Time of the stretch in ns for which the next task had waited.
    #[inline(always)]
    pub(crate) fn contended_ns(&self) -> u64 {
        let ran_ns = u64::from(self.length) << RAN_UNIT_LOG2;
        if self.waited_ns < ran_ns { self.waited_ns } else { ran_ns }
    }

    /// The next task waited for nobody.
    #[inline(always)]
    pub(crate) fn forget_wait(&mut self) {
        self.waited_ns = 0;
    }

    /// Whether the cgroup of `next`, which has `slot`, or one above it was throttled while it waited.
    ///
    /// # Safety
    /// `next` must be a typed pointer to a `task_struct`.
    #[inline(always)]
    pub(crate) unsafe fn was_throttled(&self, next: u64, slot: u32) -> bool {
        if frozen!(FACTS.limits) == 0 {
            return false;
        }
        let Some(seen) = CPU_THROTTLED.get_ptr_mut(slot) else { return true };
        // SAFETY: see the caller: what is loaded through a typed pointer is typed, and null reads as zero. A map value, of which two CPUs may
        // write at once what is the same but for the moment.
        unsafe {
            let mut group = load(next, frozen!(FACTS.task_task_group));
            let mut throttled_ns = 0;
            for _ in 0..LIMITS_DEPTH {
                throttled_ns += load(group, frozen!(FACTS.task_group_throttled));
                group = load(group, frozen!(FACTS.task_group_parent));
            }
            if (*seen).throttled_ns != throttled_ns {
                (*seen).throttled_ns = throttled_ns;
                (*seen).seen_ns = self.queued_ns + self.waited_ns;
            }
            (*seen).seen_ns >= self.queued_ns
        }
    }

    /// The same as numbers that are read from a map: the verifier knows none of them, and what comes next it follows once and not for each
    /// way that led here, which took it twice as long.
    ///
    /// # Safety
    /// `now` must be of this CPU.
    #[inline(always)]
    pub(crate) unsafe fn unknown(self, now: *mut CpuNow) -> Self {
        // SAFETY: a map value of this CPU.
        let unknown = |number| unsafe {
            core::ptr::write_volatile(&raw mut (*now).scratch, number);
            core::ptr::read_volatile(&raw const (*now).scratch)
        };
        Self { length: unknown(self.length.into()) as u32, waited_ns: unknown(self.waited_ns), ..self }
    }

    /// Remembers the stretch, which was of the cgroup with `slot`.
    ///
    /// # Safety
    /// `cpu` must be this one.
    #[inline(always)]
    pub(crate) unsafe fn remember(&self, cpu: u32, slot: u32) {
        let Some(recent) = CPU_RECENT.get_ptr_mut(cpu) else { return };
        // SAFETY: a map value of this CPU, and one of its stretches.
        unsafe {
            let stretches = (&raw mut (*recent).stretches).cast::<Ran>();
            let last = (*recent).last as usize & (RECENT_LEN - 1);
            let entry = stretches.add(last);
            let before_ns = self.from_ns - (*entry).from_ns;
            if (*entry).slot == slot && before_ns < LONGEST_NS {
                (*entry).length = self.length + (before_ns >> RAN_UNIT_LOG2) as u32;
                return;
            }
            let next = (last + 1) & (RECENT_LEN - 1);
            (*recent).last = next as u64;
            stretches.add(next).write(Ran { slot, length: self.length, from_ns: self.from_ns });
        }
    }

    /// Counts who ran while the next task, of the cgroup with `slot`, waited.
    #[inline(always)]
    pub(crate) fn blame(&self, cpu: u32, slot: u32) {
        cpu_blame(cpu, slot, self.queued_ns);
    }
}

/// CPU time in what stretches are measured in.
#[inline(always)]
pub(crate) fn units(exec_ns: u64) -> u32 {
    (exec_ns >> RAN_UNIT_LOG2) as u32
}

/// A global function of numbers only, which the verifier checks once and apart from its callers. It runs for waits of a millisecond and more.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cpu_blame(cpu: u32, slot: u32, queued_ns: u64) -> u32 {
    let Some(recent) = CPU_RECENT.get_ptr_mut(cpu) else { return 0 };
    for n in 0..RECENT_LEN {
        // SAFETY: one of the stretches of a map value of this CPU.
        let Ran { slot: ran, length, from_ns } = unsafe { (&raw const (*recent).stretches).cast::<Ran>().add(n).read() };
        let until_ns = from_ns + (u64::from(length) << RAN_UNIT_LOG2);
        let from_ns = if from_ns < queued_ns { queued_ns } else { from_ns };
        if ran != UNATTRIBUTED && until_ns > from_ns {
            // SAFETY: of this CPU.
            unsafe { count(recent, Pair { waited: slot, ran }, until_ns - from_ns) };
        }
    }
    0
}

/// # Safety
/// `recent` must be of this CPU.
#[inline(always)]
unsafe fn count(recent: *mut Recent, pair: Pair, ns: u64) {
    // SAFETY: map values, aligned.
    unsafe {
        if let Some(counted) = CPU_PAIRS.get_ptr_mut(pair) {
            add(counted, ns);
            return;
        }
        // Another CPU may have added it meanwhile: then, as when there is no room, it is counted where the agent sees it.
        let now_ns = bpf_ktime_get_ns();
        let added = now_ns >= (*recent).pairs_full_until_ns
            && CPU_PAIRS
                .insert(pair, ns, BPF_NOEXIST.into())
                .inspect_err(|error| {
                    if *error == -E2BIG {
                        (*recent).pairs_full_until_ns = now_ns + FULL_FOR_NS;
                    }
                })
                .is_ok();
        if !added && let Some(lost) = CPU_PAIRS.get_ptr_mut(NO_ROOM) {
            add(lost, ns);
        }
    }
}
