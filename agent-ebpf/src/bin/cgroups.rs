//! Slots: every cgroup gets a dense number when it is born, and all counters of all signals are arrays indexed by it.
//!
//! `cgroup_mkdir` is traced after the cgroup is set up and before its directory can be seen, so a slot is there before any
//! process can be inside. What is written is state, not events: a reader that looks away loses nothing. A slot is given back by
//! userspace alone, after its last counts were read.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros make undocumented functions beside the documented ones")]

use agent_common::cgroups::{Offsets, Owner, PATH_LEN, Tally, may_take};
use agent_ebpf::{CgroupSlots, Generation, MMAPABLE, add, frozen, load, load32, probe_str};
use aya_ebpf::{
    btf_maps::{Array, Queue},
    helpers::generated::bpf_ktime_get_boot_ns,
    macros::{btf_map, btf_tracepoint},
    programs::BtfTracePointContext,
};

agent_ebpf::object!();

#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets::ZERO;

#[btf_map]
static CGROUP_SLOTS: CgroupSlots = CgroupSlots::new();
#[btf_map]
static FREE_SLOTS: Queue<u32, 1> = Queue::new();
#[btf_map]
static OWNERS: Array<Owner, 1, MMAPABLE> = Array::new();
#[btf_map]
static GENERATION: Generation = Generation::new();
#[btf_map]
static TALLY: Array<Tally, 1, MMAPABLE> = Array::new();

/// Adds one to a counter that only `cgroup_mkdir` counts: the kernel holds `cgroup_mutex` there, so no other CPU does.
#[inline(always)]
fn increment(counter: *mut u64) {
    // SAFETY: the pointer is into a map value, 8-byte aligned.
    unsafe { core::ptr::write_volatile(counter, core::ptr::read_volatile(counter) + 1) };
}

/// The id of a cgroup of the default (v2) hierarchy; `None` for v1 hierarchies, for which the tracepoints fire too.
///
/// # Safety
/// `cgroup` must be a BTF-typed pointer to a `struct cgroup`.
#[inline(always)]
unsafe fn default_hierarchy_id(cgroup: u64) -> Option<u64> {
    // SAFETY: typed loads along the members that OFFSETS names.
    unsafe {
        let root = load(cgroup, frozen!(OFFSETS.cgroup_root));
        if load32(root, frozen!(OFFSETS.root_hierarchy_id)) != 0 {
            return None;
        }
        Some(load(load(cgroup, frozen!(OFFSETS.cgroup_kn)), frozen!(OFFSETS.kn_id)))
    }
}

/// `cgroup_mkdir(struct cgroup *cgrp, const char *path)`: takes a slot and writes down its owner.
#[btf_tracepoint(function = "cgroup_mkdir")]
fn cgroups_on_mkdir(ctx: BtfTracePointContext) -> i32 {
    let cgroup: u64 = ctx.arg(0);
    let path: u64 = ctx.arg(1);
    // SAFETY: argument 0 is a struct cgroup by the tracepoint's prototype.
    let Some(id) = (unsafe { default_hierarchy_id(cgroup) }) else { return 0 };
    // Before anything can fail: also a cgroup without a slot may have the address of one whose slot is still cached.
    if let Some(generation) = GENERATION.get_ptr_mut(0) {
        increment(generation);
    }
    let Some(tally) = TALLY.get_ptr_mut(0) else { return 0 };
    // SAFETY: a typed load of a field of the cgroup; fields of a map value.
    let slot = unsafe {
        let level = load32(cgroup, frozen!(OFFSETS.cgroup_level));
        let taken = core::ptr::read_volatile(&raw const (*tally).taken);
        if may_take(level, taken, frozen!(OFFSETS.slots) as u32) { FREE_SLOTS.pop().ok().flatten() } else { None }
    };
    let Some(slot) = slot else {
        // SAFETY: a field of a map value.
        increment(unsafe { &raw mut (*tally).without_slot });
        return 0;
    };
    // SAFETY: a field of a map value, 8-byte aligned.
    unsafe { add(&raw mut (*tally).taken, 1) };
    let Some(owner) = OWNERS.get_ptr_mut(slot) else { return 0 };
    // SAFETY: `owner` is a map value that nobody else writes while its slot is neither free nor in CGROUP_SLOTS; the helper
    // bounds what it copies from the tracepoint's path and terminates it.
    unsafe {
        let kn = load(cgroup, frozen!(OFFSETS.cgroup_kn));
        let parent = load(kn, frozen!(OFFSETS.kn_parent));
        (*owner).parent = load(parent, frozen!(OFFSETS.kn_id));
        // Without a path the agent looks for the directory that has this id.
        (*owner).path_len = probe_str((&raw mut (*owner).path).cast(), PATH_LEN as u32, path).unwrap_or(0);
        (*owner).died_ns = 0;
        (*owner).found = 0;
        (*owner).born_ns = bpf_ktime_get_boot_ns();
        // Last: a reader takes the record for complete once it has an id.
        core::ptr::write_volatile(&raw mut (*owner).id, id);
    }
    // The table has room for as many cgroups as there are slots.
    let _ = CGROUP_SLOTS.insert(id, slot, 0);
    if let Some(generation) = GENERATION.get_ptr_mut(0) {
        increment(generation);
    }
    0
}

/// `cgroup_rmdir(struct cgroup *cgrp, const char *path)`: notes the time; the slot stays until its last counts were read.
#[btf_tracepoint(function = "cgroup_rmdir")]
fn cgroups_on_rmdir(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: argument 0 is a struct cgroup by the tracepoint's prototype.
    let Some(id) = (unsafe { default_hierarchy_id(ctx.arg(0)) }) else { return 0 };
    // SAFETY: the slot is copied out at once.
    let Some(slot) = (unsafe { CGROUP_SLOTS.get(id) }).copied() else { return 0 };
    if let Some(owner) = OWNERS.get_ptr_mut(slot) {
        // SAFETY: a field of a map value; written once in its owner's life.
        unsafe { (*owner).died_ns = bpf_ktime_get_boot_ns() };
    }
    0
}
