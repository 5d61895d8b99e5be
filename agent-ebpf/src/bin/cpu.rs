//! The cpu signal: CPU time, run-queue wait and 100 ms windows per cgroup, from one program on sched_switch; others note each fork and
//! each move between cgroups. Each CPU counts in a cache of its own (`cache`), which is flushed when the agent reads.
//!
//! The kernel's own accounting does the work. When `sched_switch(preempt, prev, next)` is traced, `prev`'s
//! `sum_exec_runtime` is up to date (`update_curr` ran) and its `run_delay` holds all its waiting up to the moment it was
//! dispatched (`sched_info_arrive`), while `next`'s does not yet hold the wait that ends now. Both deltas of one stretch on the
//! CPU are therefore one subtraction each at its end; no wakeup probe, and a clock is read only near a window's edge.
//!
//! A task that is held back by cpu.max waits in `run_delay` too, on every kernel. Up to 6.17 a whole queue is taken off its CPU
//! with its tasks in it (`throttle_cfs_rq`). From 6.18 on each task takes itself off on its way to user space
//! (`throttle_cfs_rq_work`), by `dequeue_task_fair` and so below `dequeue_task`, which would keep `sched_info`; its state stays
//! TASK_RUNNING. Either way `sched_info_depart` finds it runnable when it is switched out and notes the time, and
//! `sched_info_arrive` adds all that has passed when it is dispatched again.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros make undocumented functions beside the documented ones")]

#[path = "cpu/cache.rs"]
mod cache;
#[path = "cpu/mark.rs"]
mod mark;
#[path = "cpu/neighbour.rs"]
mod neighbour;
#[path = "cpu/window.rs"]
mod window;

use agent_common::{
    cgroups::UNATTRIBUTED,
    cpu::{
        Burst, Cache, Carried, CpuNow, CpuRecord, Facts, MOVE_CPUS, MOVES_LEN, MarkBlock, Move, PLACE_UNKNOWN, Stretch, ToFlush,
        WAIT_COUNTED, Watched, WindowEntry,
        neighbour::{Pair, Recent, Throttled},
    },
};
use agent_ebpf::{CgroupSlots, Generation, MMAPABLE, frozen, load, opaque, probe, probe_bytes};
use aya_ebpf::{
    EbpfContext as _,
    btf_maps::{Array, ArrayOfMaps, HashMap},
    helpers::generated::{bpf_get_current_task, bpf_get_smp_processor_id, bpf_jiffies64, bpf_ktime_get_ns},
    macros::{btf_map, btf_tracepoint},
    programs::BtfTracePointContext,
};

use self::{
    cache::{Cached, Wanted, add_time, add_wait, flush, flush_listed, list},
    mark::{Mark, MarkEntry},
    neighbour::{Handover, units},
    window::{accounted_until, begin_window, divide},
};

agent_ebpf::object!(FACTS: Facts);

#[btf_map]
static CGROUP_SLOTS: CgroupSlots = CgroupSlots::new();
#[btf_map]
static GENERATION: Generation = Generation::new();

// Arrays indexed by CPU rather than per-CPU maps: the agent maps them into its memory, and one look-up is a multiplication. A
// mappable array also begins on a page, so that no entry of a power-of-two size crosses a cache line.
#[btf_map]
static CPU_NOW: Array<CpuNow, 1, MMAPABLE> = Array::new();
#[btf_map]
static CPU_RECORDS: Array<CpuRecord, 1, MMAPABLE> = Array::new();
/// Not touched here: the agent's, kept where it outlives the agent.
#[btf_map]
static CPU_CARRIED: Array<Carried, 1, MMAPABLE> = Array::new();
/// As above.
#[btf_map]
static CPU_BURSTS: Array<Burst, 1, MMAPABLE> = Array::new();
/// As above.
#[btf_map]
static CPU_WATCHED: Array<Watched, 1, MMAPABLE> = Array::new();
#[btf_map]
static CPU_WINDOWS: Array<WindowEntry, 1, MMAPABLE> = Array::new();
/// Running tasks that were moved to another cgroup, written by whichever CPU moves them, one move at a time.
#[btf_map]
static CPU_MOVES: Array<Move, 1, MMAPABLE> = Array::new();
/// The cache of each CPU and the blocks of marks are arrays of their own, of at most 32 KiB: the kernel then takes them from memory
/// that it has mapped with large pages, and a cold one costs no walk of page tables.
#[btf_map]
static CPU_CACHE: ArrayOfMaps<Array<Cache, 1>, 1> = ArrayOfMaps::new();
#[btf_map]
static CPU_TO_FLUSH: Array<ToFlush, 1> = Array::new();
#[btf_map]
static CPU_STRETCH: Array<Stretch, 1> = Array::new();
#[btf_map]
static CPU_MARKS: ArrayOfMaps<Array<MarkBlock, 1>, 1> = ArrayOfMaps::new();
#[btf_map]
static CPU_RECENT: Array<Recent, 1> = Array::new();
#[btf_map]
static CPU_THROTTLED: Array<Throttled, 1, MMAPABLE> = Array::new();
/// Of whole size from the start: a program at a context switch must not ask for memory.
#[btf_map]
static CPU_PAIRS: HashMap<Pair, u64, 1> = HashMap::new();

/// `sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next, …)`: counts the stretch that `prev` ends.
#[btf_tracepoint(function = "sched_switch")]
fn cpu_on_switch(ctx: BtfTracePointContext) -> i32 {
    let prev: u64 = ctx.arg(1);
    let next: u64 = ctx.arg(2);
    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let Some(now) = CPU_NOW.get_ptr_mut(cpu) else { return 0 };
    // SAFETY: `prev` and `next` are task_structs by the tracepoint's prototype; `now` belongs to this CPU, and sched_switch runs
    // with interrupts off.
    unsafe { on_switch(now, cpu, prev, next) };
    0
}

/// `sched_process_fork(struct task_struct *parent, struct task_struct *child)`, before the child can run: a task begins with
/// nothing used (`sched_fork`), and all of it is counted also when its first switch is not traced.
#[btf_tracepoint(function = "sched_process_fork")]
fn cpu_on_fork(ctx: BtfTracePointContext) -> i32 {
    // The verifier forbids arithmetic on pointers; what a helper reads from memory is a number.
    let Some(child) = probe(ctx.as_ptr() as u64, size_of::<u64>() as u64) else { return 0 };
    if let Some(mark) = MarkEntry::of(child) {
        // SAFETY: a map value.
        unsafe { mark.count_up_to(Mark { exec_ns: 0, run_delay_ns: 0 }) };
    }
    0
}

/// `cgroup_attach_task(struct cgroup *dst_cgrp, const char *path, struct task_struct *task, bool threadgroup)`, after a task or all
/// tasks of a process have come into another cgroup: notes how far those that run at this moment had come, and where they are now.
///
/// Each one's own CPU divides its time by these notes, at the end of the stretch or when it is settled. The kernel charges a cgroup at
/// the same moments: `sum_exec_runtime` and `cpu.stat` grow together, and what is used after the last tick counts where the task is at
/// the next. The kernel holds `cgroup_mutex`: there is one move at a time.
#[btf_tracepoint(function = "cgroup_attach_task")]
fn cpu_on_move(ctx: BtfTracePointContext) -> i32 {
    let task: u64 = ctx.arg(2);
    // SAFETY: argument 2 is a task_struct by the tracepoint's prototype; map values.
    unsafe {
        let exec_ns = load(task, frozen!(FACTS.task_exec));
        let leader = load(task, frozen!(FACTS.task_group_leader));
        let cgroup = load(load(task, frozen!(FACTS.task_cgroups)), frozen!(FACTS.css_set_cgroup));
        let slot = slot_by_id(load(load(cgroup, frozen!(FACTS.cgroup_kn)), frozen!(FACTS.kn_id)));
        for cpu in 0..MOVE_CPUS {
            if u64::from(cpu) >= frozen!(FACTS.cpus) {
                break;
            }
            let Some(now) = CPU_NOW.get_ptr_mut(cpu) else { break };
            let running = core::ptr::read_volatile(&raw const (*now).task);
            // The compiler would take the equal pointer, with which the verifier forbids arithmetic.
            let address = opaque(running);
            if running == task {
                note_move(now, cpu, address, exec_ns, slot);
            } else if zero_or(running, frozen!(FACTS.task_group_leader)) == leader {
                // Another thread of the process, which has come along or is where it was.
                let exec_ns = zero_or(running, frozen!(FACTS.task_exec));
                let cgroup = zero_or(zero_or(running, frozen!(FACTS.task_cgroups)), frozen!(FACTS.css_set_cgroup));
                let id = zero_or(zero_or(cgroup, frozen!(FACTS.cgroup_kn)), frozen!(FACTS.kn_id));
                if exec_ns != 0 && id != 0 {
                    note_move(now, cpu, address, exec_ns, slot_by_id(id));
                }
            }
        }
    }
    0
}

/// Reads a `u64` as [`probe`] does; 0 where it cannot be read. The verifier of Linux 5.10 follows a plain number through a loop.
#[inline(always)]
fn zero_or(address: u64, offset: u64) -> u64 {
    let mut value = 0_u64;
    // SAFETY: as long as the number that it writes to.
    unsafe { probe_bytes((&raw mut value).cast(), size_of::<u64>() as u32, address + offset) };
    value
}

/// Notes for a CPU that the task at `address` is in the cgroup of `slot` from `exec_ns` on.
#[inline(always)]
unsafe fn note_move(now: *mut CpuNow, cpu: u32, address: u64, exec_ns: u64, slot: u32) {
    // SAFETY: map values; the number of moves is written last, and what is read before it is whole fails the check.
    unsafe {
        let number = core::ptr::read_volatile(&raw const (*now).moves);
        let Some(entry) = CPU_MOVES.get_ptr_mut(cpu * MOVES_LEN + (number as u32 & (MOVES_LEN - 1))) else { return };
        core::ptr::write_volatile(&raw mut (*entry).exec_ns, exec_ns);
        core::ptr::write_volatile(&raw mut (*entry).slot, slot.into());
        core::ptr::write_volatile(&raw mut (*entry).check, address ^ exec_ns ^ u64::from(slot));
        core::ptr::write_volatile(&raw mut (*now).moves, number + 1);
    }
}

#[inline(always)]
unsafe fn on_switch(now: *mut CpuNow, cpu: u32, prev: u64, next: u64) {
    // SAFETY: see the caller.
    unsafe {
        let began = Began {
            task: core::ptr::read_volatile(&raw const (*now).task),
            mark: Mark { exec_ns: (*now).exec_ns, run_delay_ns: (*now).run_delay_ns },
            place: (*now).place,
            switched_in: (*now).switched_in,
        };
        // What takes long to load comes first, so that the processor waits for all of it at once: the next task's cgroup, where it is
        // counted, and the mark of the one before.
        // The verifier forbids arithmetic on pointers; what is read back from a map is a number.
        (*now).scratch = prev;
        let mark = MarkEntry::of(core::ptr::read_volatile(&raw const (*now).scratch));
        let wanted = cgroup_of_typed(now, next);
        let found = wanted.find(cpu);
        let reached = Mark { exec_ns: load(prev, frozen!(FACTS.task_exec)), run_delay_ns: run_delay(prev) };

        (*now).task = next;
        let next_exec_ns = load(next, frozen!(FACTS.task_exec));
        (*now).exec_ns = next_exec_ns;
        (*now).switched_in = units(next_exec_ns);
        (*now).run_delay_ns = run_delay(next);
        (*now).switches += 1;
        // What is noted from here on is of the next.
        let moves = ((*now).moves_seen, core::ptr::read_volatile(&raw const (*now).moves));
        (*now).moves_seen = moves.1;

        let mut handover = Handover::NONE;
        // The idle task never accrues any run time.
        if reached.exec_ns == 0 {
            (*now).idle = prev;
        } else if let Some(mark) = mark {
            handover = Handover::between(prev, next, began.switched_in, reached.exec_ns);
            if began.task != prev {
                handover = Handover::NONE;
            }
            if handover.is_long() {
                match found {
                    Some(next_in) if !handover.was_throttled(next, (*next_in.entry).slot) => {}
                    _ => handover.forget_wait(),
                }
            }
            handover = handover.unknown(now);
            count_stretch(now, cpu, &began, &mark, &Ended { task: prev, mark: reached, moves }, &handover);
        }
        // A stretch is of the cgroup in which it begins: it may be moved before it ends.
        (*now).place = PLACE_UNKNOWN;
        if next == (*now).idle {
            return;
        }
        let found = match found {
            // Nothing has taken its place since.
            Some(cached) if (*cached.entry).cgroup == wanted.cgroup => Some(cached),
            _ => wanted.insert(now, cpu, slot_of_typed(next)),
        };
        if let Some(cached) = found {
            (*now).place = cached.place.into();
            if handover.is_long() {
                handover.blame(cpu, (*cached.entry).slot);
            }
        }
    }
}

/// What was noted when the task was switched in that runs now, or when it was last settled.
struct Began {
    task: u64,
    mark: Mark,
    place: u64,
    /// As [`CpuNow::switched_in`].
    switched_in: u32,
}

/// What a task is switched out with.
struct Ended {
    task: u64,
    mark: Mark,
    /// The number of the last move between cgroups on this CPU: when it was switched in, and now.
    moves: (u64, u64),
}

/// Counts the stretch that a task ends.
#[inline(always)]
unsafe fn count_stretch(
    now: *mut CpuNow,
    cpu: u32,
    began: &Began,
    mark: &MarkEntry,
    ended: &Ended,
    handover: &Handover,
) -> Option<()> {
    let Ended { task: prev, mark: reached, moves } = *ended;
    // SAFETY: see the caller.
    unsafe {
        let seen = began.task == prev;
        let counted = mark.counted(if seen { Some(began.mark) } else { None }, reached);
        mark.count_up_to(reached);
        let (counted, own) = counted?;
        if !own {
            (*now).marks_lost = (*now).marks_lost.saturating_add(1);
        }
        let waited_ns = reached.run_delay_ns - counted.run_delay_ns;

        let known = seen && began.place != PLACE_UNKNOWN;
        let cached = if known { cache::at(cpu, began.place as u32)? } else { cached_of_task(now, cpu, prev)? };
        list(now, cpu, cached);
        add_wait(cached.entry, waited_ns, known && began.place & WAIT_COUNTED != 0);
        (*cached.entry).contended_ns += handover.contended_ns();
        handover.remember(cpu, (*cached.entry).slot);
        // The whole stretch lies in the current window while that window cannot have ended.
        if bpf_jiffies64() < (*now).window_until && moves.0 == moves.1 {
            add_time(now, cpu, cached.entry, (*now).window, reached.exec_ns - counted.exec_ns);
        } else {
            let end_ns = bpf_ktime_get_ns();
            (*now).clock_offset_ns = end_ns.wrapping_sub(load(prev, frozen!(FACTS.task_exec_start)));
            begin_window(now, end_ns);
            let slot = (*cached.entry).slot.into();
            let (at_ns, to_ns, (next_move, moves)) = (counted.exec_ns, reached.exec_ns, moves);
            divide(
                cpu,
                cached.place,
                Stretch { address: mark.address, at_ns, to_ns, end_ns, next_move, moves, slot, reserved: 0 },
            );
        }
        if (*now).undisturbed != 0 {
            flush(cpu, cached.place);
        }
    }
    Some(())
}

/// How long a task has waited for a CPU so far, in ns; 0 where the kernel keeps no account of it.
#[inline(always)]
unsafe fn run_delay(task: u64) -> u64 {
    // SAFETY: `task` is a typed pointer to a task_struct.
    if frozen!(FACTS.waits) == 0 { 0 } else { unsafe { load(task, frozen!(FACTS.task_run_delay)) } }
}

/// The slot of the cgroup with an id; [`UNATTRIBUTED`] when it has none.
#[inline(always)]
fn slot_by_id(id: u64) -> u32 {
    // SAFETY: a value of a hash map, copied at once.
    unsafe { CGROUP_SLOTS.get(id).copied() }.unwrap_or(UNATTRIBUTED)
}

/// The cgroup that a task is in.
#[inline(always)]
unsafe fn cgroup_of_typed(now: *mut CpuNow, task: u64) -> Wanted {
    // SAFETY: `task` is a typed pointer to a task_struct, and what is loaded through it typed too; `now` belongs to this CPU.
    unsafe {
        let css_set = load(task, frozen!(FACTS.task_cgroups));
        // The verifier forbids arithmetic on pointers; what is read back from a map is a number.
        (*now).scratch = css_set;
        let number = core::ptr::read_volatile(&raw const (*now).scratch);
        (*now).scratch = load(css_set, frozen!(FACTS.css_set_cgroup));
        Wanted { css_set: number, cgroup: core::ptr::read_volatile(&raw const (*now).scratch) }
    }
}

/// The slot of the cgroup that a task is in.
#[inline(always)]
unsafe fn slot_of_typed(task: u64) -> u32 {
    // SAFETY: as above.
    unsafe {
        let cgroup = load(load(task, frozen!(FACTS.task_cgroups)), frozen!(FACTS.css_set_cgroup));
        slot_by_id(load(load(cgroup, frozen!(FACTS.cgroup_kn)), frozen!(FACTS.kn_id)))
    }
}

/// The cached cgroup that a task is in.
#[inline(always)]
unsafe fn cached_of_task(now: *mut CpuNow, cpu: u32, task: u64) -> Option<Cached> {
    // SAFETY: as above.
    unsafe {
        let wanted = cgroup_of_typed(now, task);
        match wanted.find(cpu) {
            Some(cached) => Some(cached),
            None => wanted.insert(now, cpu, slot_of_typed(task)),
        }
    }
}

/// The address of the cgroup that the task at an address is in.
#[inline(always)]
fn cgroup_of(task: u64) -> Option<u64> {
    probe(probe(task, frozen!(FACTS.task_cgroups))?, frozen!(FACTS.css_set_cgroup))
}

/// The cached cgroup that the task at an address is in.
#[inline(always)]
unsafe fn cached_of_address(now: *mut CpuNow, cpu: u32, task: u64) -> Option<Cached> {
    let css_set = probe(task, frozen!(FACTS.task_cgroups))?;
    let cgroup = probe(css_set, frozen!(FACTS.css_set_cgroup))?;
    let id = probe(probe(cgroup, frozen!(FACTS.cgroup_kn))?, frozen!(FACTS.kn_id))?;
    let wanted = Wanted { css_set, cgroup };
    // SAFETY: `now` belongs to this CPU.
    unsafe {
        match wanted.find(cpu) {
            Some(cached) => Some(cached),
            None => wanted.insert(now, cpu, slot_by_id(id)),
        }
    }
}

/// Run by the agent on each CPU (`BPF_PROG_TEST_RUN` with `BPF_F_TEST_RUN_ON_CPU`) before it reads: counts what the running
/// task has used so far, or begins to watch it when its switch-in was before the agent's time. Then flushes what this CPU has counted,
/// and returns how many cgroups are left: the agent runs it again until there is none.
///
/// With an argument of n + 1 it only flushes what CPU n has counted, which is offline.
///
/// It runs in an interrupt of that CPU, when no switch can be under way. The kernel's accounting of a running task is as old as
/// the last tick; waits are counted when the stretch ends.
///
/// Not by the macro `raw_tracepoint`, whose programs return 0 whatever the function returns.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sched_switch")]
extern "C" fn cpu_settle(arguments: *const u64) -> u32 {
    // SAFETY: the context of such a program is its arguments, as the agent passes them.
    let offline = unsafe { *arguments };
    // SAFETY: helpers without arguments.
    let (own, task) = unsafe { (bpf_get_smp_processor_id(), bpf_get_current_task()) };
    let cpu = if offline == 0 { own } else { offline as u32 - 1 };
    let Some(now) = CPU_NOW.get_ptr_mut(cpu) else { return 0 };
    // SAFETY: `now` belongs to this CPU, or to one on which nothing runs.
    unsafe {
        if offline == 0 {
            settle(now, cpu, task);
        }
        flush_listed(now, cpu)
    }
}

#[inline(always)]
unsafe fn settle(now: *mut CpuNow, cpu: u32, task: u64) -> Option<()> {
    // Before all else: a move that was noted by then is seen in the task too.
    // SAFETY: a map value of this CPU.
    let moves = unsafe { ((*now).moves_seen, core::ptr::read_volatile(&raw const (*now).moves)) };
    let exec_ns = probe(task, frozen!(FACTS.task_exec))?;
    let exec_start_ns = probe(task, frozen!(FACTS.task_exec_start))?;
    let run_delay_ns = if frozen!(FACTS.waits) == 0 { 0 } else { probe(task, frozen!(FACTS.task_run_delay))? };
    if exec_ns == 0 {
        return None;
    }
    // SAFETY: map values of this CPU.
    unsafe {
        let reached = Mark { exec_ns, run_delay_ns };
        let seen = (*now).task == task;
        let switched_in = Mark { exec_ns: (*now).exec_ns, run_delay_ns: (*now).run_delay_ns };
        let mark = MarkEntry::of(task)?;
        let counted = mark.counted(if seen { Some(switched_in) } else { None }, reached);
        let place = if seen { (*now).place } else { PLACE_UNKNOWN };
        let began = if place == PLACE_UNKNOWN { cached_of_address(now, cpu, task)? } else { cache::at(cpu, place as u32)? };
        let mut waited = if place == PLACE_UNKNOWN { 0 } else { place & WAIT_COUNTED };
        if !seen {
            (*now).task = task;
            (*now).switched_in = units(exec_ns);
            (*now).run_delay_ns = run_delay_ns;
        }
        (*now).exec_ns = exec_ns;
        (*now).place = u64::from(began.place) | waited;
        (*now).moves_seen = moves.1;
        let Some((counted, _)) = counted else {
            mark.count_up_to(reached);
            return None;
        };
        // The wait before this stretch is counted at its end, or else it would go along to where the task was moved.
        let moved = cgroup_of(task)? != (*began.entry).cgroup;
        let mut counted_up_to = Mark { exec_ns, run_delay_ns: counted.run_delay_ns };
        if moved {
            list(now, cpu, began);
            add_wait(began.entry, run_delay_ns - counted.run_delay_ns, waited != 0);
            counted_up_to = reached;
            (*now).run_delay_ns = run_delay_ns;
            waited = WAIT_COUNTED;
        }
        mark.count_up_to(counted_up_to);
        if exec_ns != counted.exec_ns {
            list(now, cpu, began);
            let clock_ns = bpf_ktime_get_ns();
            begin_window(now, clock_ns);
            let end_ns = accounted_until(now, exec_start_ns, clock_ns);
            let slot = (*began.entry).slot.into();
            let (at_ns, to_ns, (next_move, moves)) = (counted.exec_ns, exec_ns, moves);
            divide(cpu, began.place, Stretch { address: task, at_ns, to_ns, end_ns, next_move, moves, slot, reserved: 0 });
        }
        // Last: where the task is now may take the place of where it was.
        if moved {
            (*now).place = u64::from(cached_of_address(now, cpu, task)?.place) | waited;
        }
    }
    Some(())
}
