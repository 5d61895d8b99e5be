//! The walk over cgroups: what the kernel keeps of each, copied into an array, so that no file of it is opened.
//!
//! `walk_on_cgroup` runs once per cgroup while the agent reads the walk's file, once per collection. CPU limits and throttling, memory
//! limits and statistics are behind the state of a controller (`css`): the verifier knows only that, so what the struct around it holds is
//! read by a helper rather than by typed loads. Pressure and the list of controllers take typed loads alone.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros make undocumented functions beside the documented ones")]

use agent_common::{
    memory::{INDEX_LEN, ITEMS, Index, Items, Usage},
    walk::{CPU, Facts, MEMORY, PRESSURE, STATISTICS, UNKNOWN, Walk, Walked},
};
use agent_ebpf::{CgroupSlots, CgroupWalk, MMAPABLE, frozen, load, load8, load16, probe, probe_bytes, probe32, statistics};
use aya_ebpf::{
    btf_maps::Array,
    macros::{btf_map, raw_tracepoint},
    programs::RawTracePointContext,
};
use aya_log_ebpf::debug;

agent_ebpf::object!(FACTS: Facts);

#[btf_map]
static CGROUP_SLOTS: CgroupSlots = CgroupSlots::new();
#[btf_map]
static WALK: Array<Walk, 1, MMAPABLE> = Array::new();
#[btf_map]
static WALKED: Array<Walked, 1, MMAPABLE> = Array::new();
#[btf_map]
static WALK_INDEX: Array<Index, 1, MMAPABLE> = Array::new();
#[btf_map]
static WALK_ITEMS: Array<Items, 1, MMAPABLE> = Array::new();

/// Run for each cgroup while the agent reads the walk's file.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/cgroup")]
extern "C" fn walk_on_cgroup(context: *const CgroupWalk) -> i32 {
    // SAFETY: the kernel calls with such a context; a typed pointer is checked for null before it is followed, and what a null in the
    // middle of typed loads leads to reads as 0.
    unsafe {
        let cgroup = (*context).cgroup;
        if cgroup == 0 {
            return 0;
        }
        let Some(walk) = WALK.get_ptr_mut(0) else { return 0 };
        (*walk).cgroups += 1;
        let id = load(load(cgroup, frozen!(FACTS.cgroup_kn)), frozen!(FACTS.kn_id));
        let Some(slot) = CGROUP_SLOTS.get(id).copied() else { return 0 };
        let Some(walked) = WALKED.get_ptr_mut(slot) else { return 0 };
        core::ptr::write_volatile(&raw mut (*walked).id, 0);
        (*walked).walk = (*walk).number;
        let parent = load(load(cgroup, frozen!(FACTS.cgroup_parent)), frozen!(FACTS.css_cgroup));
        (*walked).controllers = load16(parent, frozen!(FACTS.cgroup_subtree_control)).into();
        let mut read = 0;
        if reads(PRESSURE) && copy_pressure(cgroup, walk, walked) {
            read |= PRESSURE;
        }
        if reads(CPU) {
            let css = number(walk, load(cgroup, frozen!(FACTS.cgroup_cpu)));
            if css != 0 && copy_cpu(css - frozen!(FACTS.group_css), walked).is_some() {
                read |= CPU;
            }
        }
        if reads(MEMORY) {
            let css = number(walk, load(cgroup, frozen!(FACTS.cgroup_memory)));
            let memcg = css - frozen!(FACTS.memcg.css);
            if css != 0 && copy_memory(memcg, &raw mut (*walked).memory).is_none() {
                walk_log_unread(id);
            } else if css != 0 {
                read |= MEMORY;
                if reads(STATISTICS) && copy_statistics(memcg, &raw mut (*walked).memory).is_some() {
                    read |= STATISTICS;
                }
            }
        }
        (*walked).read = read;
        core::ptr::write_volatile(&raw mut (*walked).id, id);
    }
    0
}

/// A global function, so that the walk stays as short as it is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_log_unread(id: u64) -> u32 {
    debug!((), "cgroup {}: its memory controller could not be read: it is laid out as no kernel that is known", id);
    0
}

#[inline(always)]
fn reads(part: u64) -> bool {
    frozen!(FACTS.reads) & part != 0
}

/// A kernel pointer as a number: the verifier forbids arithmetic on pointers, and what is read back from a map is none.
#[inline(always)]
unsafe fn number(walk: *mut Walk, pointer: u64) -> u64 {
    // SAFETY: a map value that only this walk uses.
    unsafe {
        core::ptr::write_volatile(&raw mut (*walk).scratch, pointer);
        core::ptr::read_volatile(&raw const (*walk).scratch)
    }
}

/// `false` where it is not accounted: for all cgroups or this one.
#[inline(always)]
unsafe fn copy_pressure(cgroup: u64, walk: *mut Walk, walked: *mut Walked) -> bool {
    // SAFETY: typed loads along the members that FACTS names; fields of a map value.
    unsafe {
        let psi = load(cgroup, frozen!(FACTS.cgroup_psi));
        if number(walk, psi) == 0 || load8(psi, frozen!(FACTS.psi_enabled)) == 0 {
            return false;
        }
        copy_total::<0>(psi, walked);
        copy_total::<1>(psi, walked);
        copy_total::<2>(psi, walked);
        copy_total::<3>(psi, walked);
        copy_total::<4>(psi, walked);
        copy_total::<5>(psi, walked);
    }
    true
}

/// Not a loop: the verifier must know each offset.
#[inline(always)]
unsafe fn copy_total<const N: usize>(psi: u64, walked: *mut Walked) {
    // SAFETY: an element of a frozen global; a typed load of a member that it names; an element of a map value.
    unsafe {
        let offset = core::ptr::read_volatile((&raw const FACTS.psi_totals).cast::<u64>().add(N));
        let total = if offset == UNKNOWN { UNKNOWN } else { load(psi, offset) };
        core::ptr::write_volatile((&raw mut (*walked).pressure_ns).cast::<u64>().add(N), total);
    }
}

/// `None` when something could not be read.
#[inline(always)]
unsafe fn copy_cpu(group: u64, walked: *mut Walked) -> Option<()> {
    // SAFETY: fields of a map value.
    unsafe {
        (*walked).quota_ns = probe(group, frozen!(FACTS.group_quota))?;
        (*walked).period_ns = probe(group, frozen!(FACTS.group_period))?;
        (*walked).shares = probe(group, frozen!(FACTS.group_shares))?;
        (*walked).periods = probe32(group, frozen!(FACTS.group_periods))?.into();
        (*walked).throttled_periods = probe32(group, frozen!(FACTS.group_throttled))?.into();
        (*walked).throttled_ns = probe(group, frozen!(FACTS.group_throttled_time))?;
    }
    Some(())
}

/// `None` when something could not be read.
#[inline(always)]
unsafe fn copy_memory(memcg: u64, usage: *mut Usage) -> Option<()> {
    // SAFETY: fields of a map value.
    unsafe {
        let counter = memcg + frozen!(FACTS.memcg.memory);
        (*usage).usage_pages = probe(counter, frozen!(FACTS.memcg.counter_usage))?;
        (*usage).peak_pages = probe(counter, frozen!(FACTS.memcg.counter_watermark))?;
        (*usage).min_pages = probe(counter, frozen!(FACTS.memcg.counter_min))?;
        (*usage).low_pages = probe(counter, frozen!(FACTS.memcg.counter_low))?;
        (*usage).high_pages = probe(counter, frozen!(FACTS.memcg.counter_high))?;
        (*usage).limit_pages = probe(counter, frozen!(FACTS.memcg.counter_max))?;
        let swap = frozen!(FACTS.memcg.swap);
        if swap == UNKNOWN {
            (*usage).swap_pages = UNKNOWN;
            (*usage).swap_limit_pages = UNKNOWN;
        } else {
            (*usage).swap_pages = probe(memcg + swap, frozen!(FACTS.memcg.counter_usage))?;
            (*usage).swap_limit_pages = probe(memcg + swap, frozen!(FACTS.memcg.counter_max))?;
        }
    }
    Some(())
}

/// `None` when something could not be read.
#[inline(always)]
unsafe fn copy_statistics(memcg: u64, usage: *mut Usage) -> Option<()> {
    let stats = statistics(memcg, frozen!(FACTS.memcg.vmstats), frozen!(FACTS.memcg.vmstats_is_pointer))?;
    let items = WALK_ITEMS.get_ptr(0)?;
    // SAFETY: fields of map values.
    unsafe {
        for item in 0..ITEMS {
            let offset = (*items).offsets[item];
            let value = if offset == UNKNOWN { UNKNOWN } else { probe(stats, offset)? };
            core::ptr::write_volatile((&raw mut (*usage).items).cast::<u64>().add(item), value);
        }
    }
    Some(())
}

/// Run by the agent once (`BPF_PROG_TEST_RUN`): copies the tables by which this kernel finds the memory controller's statistics.
#[raw_tracepoint(tracepoint = "sched_switch")]
fn walk_copy_index(_ctx: RawTracePointContext) -> i32 {
    let Some(index) = WALK_INDEX.get_ptr_mut(0) else { return 0 };
    let (stats, events) = (frozen!(FACTS.stats_index), frozen!(FACTS.events_index));
    // SAFETY: arrays of that length in a map value.
    unsafe {
        if stats != 0 {
            probe_bytes((&raw mut (*index).stats).cast(), INDEX_LEN as u32, stats);
        }
        if events != 0 {
            probe_bytes((&raw mut (*index).events).cast(), INDEX_LEN as u32, events);
        }
    }
    0
}
