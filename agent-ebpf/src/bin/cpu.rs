//! The cpu signal: CPU time, run-queue wait and 100 ms windows per cgroup, from one program on sched_switch; others note each fork and
//! each move between cgroups.
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

#[path = "cpu/mark.rs"]
mod mark;
#[path = "cpu/window.rs"]
mod window;

use agent_common::{
    cgroups::UNATTRIBUTED,
    cpu::{
        CachedSlot, Carried, CpuNow, CpuRecord, Facts, MOVE_CPUS, MOVES_LEN, Move, SLOT_CACHE_LEN, SLOT_UNKNOWN, TASKS_LEN,
        TaskMark, WAIT_COUNTED, WAIT_LEN, WindowEntry, wait_position,
    },
};
use agent_ebpf::{CgroupSlots, Generation, MMAPABLE, frozen, load, opaque, probe, probe_bytes, slots};
use aya_ebpf::{
    EbpfContext as _,
    btf_maps::Array,
    helpers::generated::{bpf_get_current_task, bpf_get_smp_processor_id, bpf_jiffies64, bpf_ktime_get_ns},
    macros::{btf_map, btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};

use self::{
    mark::{Mark, count_up_to, counted, entry_of},
    window::{Stretch, accounted_until, add_to_window, begin_window, divide},
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
#[btf_map]
static CPU_WINDOWS: Array<WindowEntry, 1, MMAPABLE> = Array::new();
/// Running tasks that were moved to another cgroup, written by whichever CPU moves them, one move at a time.
#[btf_map]
static CPU_MOVES: Array<Move, 1, MMAPABLE> = Array::new();
#[btf_map]
static CPU_SLOT_CACHE: Array<CachedSlot, 1, MMAPABLE> = Array::new();
#[btf_map]
static CPU_TASKS: Array<TaskMark, { TASKS_LEN as usize }, MMAPABLE> = Array::new();

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
    if let Some(entry) = entry_of(child) {
        // SAFETY: a map value.
        unsafe { count_up_to(entry, child, Mark { exec_ns: 0, run_delay_ns: 0 }) };
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
        let task = core::ptr::read_volatile(&raw const (*now).task);
        let began_in = (*now).slot;
        let exec_ns = load(prev, frozen!(FACTS.task_exec));
        let run_delay_ns = run_delay(prev);
        let switched_in = Mark { exec_ns: (*now).exec_ns, run_delay_ns: (*now).run_delay_ns };

        (*now).task = next;
        (*now).exec_ns = load(next, frozen!(FACTS.task_exec));
        (*now).run_delay_ns = run_delay(next);
        // A stretch is of the cgroup in which it begins: it may be moved before it ends.
        (*now).slot = if next == (*now).idle { SLOT_UNKNOWN } else { u64::from(slot_of_task(now, cpu, next)) };
        (*now).switches += 1;
        // What is noted from here on is of the next.
        let moves = ((*now).moves_seen, core::ptr::read_volatile(&raw const (*now).moves));
        (*now).moves_seen = moves.1;

        // The idle task never accrues any run time.
        if exec_ns == 0 {
            (*now).idle = prev;
            return;
        }
        // The verifier forbids arithmetic on pointers; what is read back from a map is a number.
        (*now).scratch = prev;
        let address = core::ptr::read_volatile(&raw const (*now).scratch);
        let reached = Mark { exec_ns, run_delay_ns };
        let Some(entry) = entry_of(address) else { return };
        let seen = task == prev;
        let counted = counted(entry, address, if seen { Some(switched_in) } else { None }, reached);
        count_up_to(entry, address, reached);
        let Some(counted) = counted else { return };
        let waited_ns = run_delay_ns - counted.run_delay_ns;

        let known = seen && began_in != SLOT_UNKNOWN;
        let slot = if known { began_in as u32 } else { slot_of_task(now, cpu, prev) };
        let Some(record) = CPU_RECORDS.get_ptr_mut(cpu * slots() + slot) else { return };
        add_wait(record, waited_ns, known && began_in & WAIT_COUNTED != 0);
        // The whole stretch lies in the current window while that window cannot have ended.
        if bpf_jiffies64() < (*now).window_until && moves.0 == moves.1 {
            let ran_ns = exec_ns - counted.exec_ns;
            (*record).on_cpu_ns += ran_ns;
            add_to_window(now, cpu, record, slot, (*now).window, ran_ns);
        } else {
            let end_ns = bpf_ktime_get_ns();
            (*now).clock_offset_ns = end_ns.wrapping_sub(load(prev, frozen!(FACTS.task_exec_start)));
            begin_window(now, end_ns);
            divide(now, cpu, slot, &Stretch { address, from_ns: counted.exec_ns, to_ns: exec_ns, end_ns, moves });
        }
    }
}

/// How long a task has waited for a CPU so far, in ns; 0 where the kernel keeps no account of it.
#[inline(always)]
unsafe fn run_delay(task: u64) -> u64 {
    // SAFETY: `task` is a typed pointer to a task_struct.
    if frozen!(FACTS.waits) == 0 { 0 } else { unsafe { load(task, frozen!(FACTS.task_run_delay)) } }
}

/// Counts a wait that ended when its task got this CPU. One that was `counted` before, when the task was moved, is not another.
#[inline(always)]
unsafe fn add_wait(record: *mut CpuRecord, waited_ns: u64, counted: bool) {
    // SAFETY: a map value of this CPU.
    unsafe {
        (*record).wait_ns += waited_ns;
        let position = wait_position(waited_ns);
        if position < WAIT_LEN && !(counted && waited_ns == 0) {
            let bucket = (&raw mut (*record).waits).cast::<u32>().add(position);
            *bucket += 1;
        }
    }
}

/// The id of the cgroup that the task at an address is in.
#[inline(always)]
fn id_of_task(address: u64) -> Option<u64> {
    let css_set = probe(address, frozen!(FACTS.task_cgroups))?;
    let cgroup = probe(css_set, frozen!(FACTS.css_set_cgroup))?;
    probe(probe(cgroup, frozen!(FACTS.cgroup_kn))?, frozen!(FACTS.kn_id))
}

/// The slot of the cgroup with an id; [`UNATTRIBUTED`] when it has none.
#[inline(always)]
fn slot_by_id(id: u64) -> u32 {
    // SAFETY: a value of a hash map, copied at once.
    unsafe { CGROUP_SLOTS.get(id).copied() }.unwrap_or(UNATTRIBUTED)
}

/// The slot of the cgroup that a task is in.
#[inline(always)]
unsafe fn slot_of_task(now: *mut CpuNow, cpu: u32, task: u64) -> u32 {
    // SAFETY: `task` is a typed pointer to a task_struct; the rest as for `slot_of`.
    unsafe { slot_of(now, cpu, load(load(task, frozen!(FACTS.task_cgroups)), frozen!(FACTS.css_set_cgroup))) }
}

/// The slot of a cgroup by its address, through this CPU's cache; [`UNATTRIBUTED`] when it has none.
///
/// Looking it up by id would be two more dependent loads and a hash on a cold node. An address is reused only for a cgroup
/// that is born later, and each birth starts a new generation.
#[inline(always)]
unsafe fn slot_of(now: *mut CpuNow, cpu: u32, cgroup: u64) -> u32 {
    // SAFETY: `now` and the cache entry are map values of this CPU; `cgroup` is a typed pointer to a struct cgroup.
    unsafe {
        // The verifier forbids arithmetic on pointers; what is read back from a map is a number.
        (*now).scratch = cgroup;
        let address = core::ptr::read_volatile(&raw const (*now).scratch);
        let hash = ((address >> 11) ^ (address >> 18)) as u32 & (SLOT_CACHE_LEN - 1);
        let Some(cached) = CPU_SLOT_CACHE.get_ptr_mut(cpu * SLOT_CACHE_LEN + hash) else { return UNATTRIBUTED };
        let Some(generation) = GENERATION.get_ptr(0) else { return UNATTRIBUTED };
        let generation = core::ptr::read_volatile(generation) as u32;
        if (*cached).cgroup == address && (*cached).generation == generation {
            return (*cached).slot;
        }
        let id = load(load(cgroup, frozen!(FACTS.cgroup_kn)), frozen!(FACTS.kn_id));
        let Some(slot) = CGROUP_SLOTS.get(id).copied() else { return UNATTRIBUTED };
        (*cached).cgroup = address;
        (*cached).generation = generation;
        (*cached).slot = slot;
        slot
    }
}

/// Run by the agent on each CPU (`BPF_PROG_TEST_RUN` with `BPF_F_TEST_RUN_ON_CPU`) before it reads: counts what the running
/// task has used so far, or begins to watch it when its switch-in was before the agent's time.
///
/// It runs in an interrupt of that CPU, when no switch can be under way. The kernel's accounting of a running task is as old as
/// the last tick; waits are counted when the stretch ends.
#[raw_tracepoint(tracepoint = "sched_switch")]
fn cpu_settle(_ctx: RawTracePointContext) -> i32 {
    // SAFETY: helpers without arguments.
    let (cpu, task) = unsafe { (bpf_get_smp_processor_id(), bpf_get_current_task()) };
    let Some(now) = CPU_NOW.get_ptr_mut(cpu) else { return 0 };
    // SAFETY: `now` belongs to this CPU.
    unsafe { settle(now, cpu, task) };
    0
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
    let here = slot_by_id(id_of_task(task)?);
    // SAFETY: map values of this CPU.
    unsafe {
        let reached = Mark { exec_ns, run_delay_ns };
        let seen = (*now).task == task;
        let switched_in = Mark { exec_ns: (*now).exec_ns, run_delay_ns: (*now).run_delay_ns };
        let entry = entry_of(task)?;
        let counted = counted(entry, task, if seen { Some(switched_in) } else { None }, reached);
        let (slot, waited) = match (*now).slot {
            began_in if seen && began_in != SLOT_UNKNOWN => (began_in as u32, began_in & WAIT_COUNTED),
            _ => (here, 0),
        };
        if !seen {
            (*now).task = task;
            (*now).run_delay_ns = run_delay_ns;
        }
        (*now).exec_ns = exec_ns;
        (*now).slot = u64::from(here) | waited;
        (*now).moves_seen = moves.1;
        let Some(counted) = counted else {
            count_up_to(entry, task, reached);
            return None;
        };
        let record = CPU_RECORDS.get_ptr_mut(cpu * slots() + slot)?;
        // The wait before this stretch is counted at its end, or else it would go along to where the task was moved.
        let mut counted_up_to = Mark { exec_ns, run_delay_ns: counted.run_delay_ns };
        if slot != here {
            add_wait(record, run_delay_ns - counted.run_delay_ns, waited != 0);
            counted_up_to = reached;
            (*now).run_delay_ns = run_delay_ns;
            (*now).slot = u64::from(here) | WAIT_COUNTED;
        }
        count_up_to(entry, task, counted_up_to);
        if exec_ns == counted.exec_ns {
            return None;
        }
        let clock_ns = bpf_ktime_get_ns();
        begin_window(now, clock_ns);
        let end_ns = accounted_until(now, exec_start_ns, clock_ns);
        divide(now, cpu, slot, &Stretch { address: task, from_ns: counted.exec_ns, to_ns: exec_ns, end_ns, moves });
    }
    Some(())
}
