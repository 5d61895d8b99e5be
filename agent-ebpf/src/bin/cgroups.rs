//! Slots: every cgroup gets a dense number when it is born, and all counters of all signals are arrays indexed by it.
//!
//! `cgroup_mkdir` is traced after the cgroup is set up and before its directory can be seen, so a slot is there before any
//! process can be inside. What is written is state, not events: a reader that looks away loses nothing. A slot is given back by
//! userspace alone, after its last counts were read.
//!
//! Only the child of a cgroup that has a slot gets one. The agent enters the root that it sees, which in a cgroup namespace is not
//! the hierarchy's: so what is outside of it has no slot, and every path leads up to that root.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros make undocumented functions beside the documented ones")]

use agent_common::cgroups::{CHANGES_LEN, NAME_LEN, Offsets, Owner, Tally, change, may_take};
use agent_ebpf::{CgroupSlots, Generation, MMAPABLE, add, frozen, load, load32, probe_str, slots};
use aya_ebpf::{
    btf_maps::{Array, Queue},
    helpers::generated::bpf_ktime_get_boot_ns,
    macros::{btf_map, btf_tracepoint},
    programs::BtfTracePointContext,
};
use aya_log_ebpf::debug;

agent_ebpf::object!(FACTS: Offsets);

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
/// The slots of the last births and deaths: what the agent looks at in `OWNERS`, `CHANGES[number & (CHANGES_LEN - 1)]`.
#[btf_map]
static CHANGES: Array<u64, { CHANGES_LEN as usize }, MMAPABLE> = Array::new();

/// What is cached of addresses and sockets does not count any more. Added atomically: the agent adds too, and a lost one would leave an
/// outdated entry valid.
#[inline(always)]
fn start_generation() {
    if let Some(generation) = GENERATION.get_ptr_mut(0) {
        // SAFETY: a map value.
        unsafe { add(generation, 1) };
    }
}

/// Adds one to a counter that only these two programs count: the kernel holds `cgroup_mutex` at both tracepoints, so no other CPU does.
#[inline(always)]
fn increment(counter: *mut u64) {
    // SAFETY: the pointer is into a map value, 8-byte aligned.
    unsafe { core::ptr::write_volatile(counter, core::ptr::read_volatile(counter) + 1) };
}

/// Notes that a slot's owner was born or died, when its record says so.
#[inline(always)]
fn note_change(slot: u32) {
    let Some(tally) = TALLY.get_ptr_mut(0) else { return };
    // SAFETY: a field of a map value.
    let changes = unsafe { &raw mut (*tally).changes };
    // SAFETY: as above.
    let number = unsafe { core::ptr::read_volatile(changes) } + 1;
    if let Some(entry) = CHANGES.get_ptr_mut(number as u32 & (CHANGES_LEN - 1)) {
        // SAFETY: a map value that is written under `cgroup_mutex` alone.
        unsafe { core::ptr::write_volatile(entry, change(number, slot)) };
    }
    increment(changes);
}

/// The id of a cgroup of the default (v2) hierarchy; `None` for v1 hierarchies, for which the tracepoints fire too.
///
/// # Safety
/// `cgroup` must be a BTF-typed pointer to a `struct cgroup`.
#[inline(always)]
unsafe fn default_hierarchy_id(cgroup: u64) -> Option<u64> {
    // SAFETY: typed loads along the members that FACTS names.
    unsafe {
        let root = load(cgroup, frozen!(FACTS.cgroup_root));
        if load32(root, frozen!(FACTS.root_hierarchy_id)) != 0 {
            return None;
        }
        Some(load(load(cgroup, frozen!(FACTS.cgroup_kn)), frozen!(FACTS.kn_id)))
    }
}

/// `cgroup_mkdir(struct cgroup *cgrp, const char *path)`: takes a slot and writes down its owner.
///
/// The path is not used: it begins at the hierarchy's root, whatever the agent sees.
#[btf_tracepoint(function = "cgroup_mkdir")]
fn cgroups_on_mkdir(ctx: BtfTracePointContext) -> i32 {
    let cgroup: u64 = ctx.arg(0);
    // SAFETY: argument 0 is a struct cgroup by the tracepoint's prototype.
    let Some(id) = (unsafe { default_hierarchy_id(cgroup) }) else { return 0 };
    // Before anything can fail: also a cgroup without a slot may have the address of one whose slot is still cached.
    start_generation();
    // SAFETY: typed loads along the members that FACTS names.
    let (name, parent_id) = unsafe {
        let kn = load(cgroup, frozen!(FACTS.cgroup_kn));
        (load(kn, frozen!(FACTS.kn_name)), load(load(kn, frozen!(FACTS.kn_parent)), frozen!(FACTS.kn_id)))
    };
    // SAFETY: the slot is copied out at once.
    let Some(parent) = (unsafe { CGROUP_SLOTS.get(parent_id) }).copied() else { return 0 };
    let Some(parent) = OWNERS.get_ptr(parent) else { return 0 };
    // SAFETY: a field of a map value, written before its owner's slot could be found.
    let level = unsafe { core::ptr::read_volatile(&raw const (*parent).level) } + 1;
    let Some(tally) = TALLY.get_ptr_mut(0) else { return 0 };
    // SAFETY: a field of a map value.
    let taken = unsafe { core::ptr::read_volatile(&raw const (*tally).taken) };
    let room = may_take(level as u32, taken, slots());
    let Some(slot) = (if room { FREE_SLOTS.pop().ok().flatten() } else { None }) else {
        // SAFETY: a field of a map value.
        increment(unsafe { &raw mut (*tally).without_slot });
        debug!(ctx, "cgroup {} at level {} found no slot: {} of {} are taken", id, level, taken, slots());
        return 0;
    };
    // SAFETY: a field of a map value, 8-byte aligned.
    unsafe { add(&raw mut (*tally).taken, 1) };
    let Some(owner) = OWNERS.get_ptr_mut(slot) else { return 0 };
    // SAFETY: `owner` is a map value that nothing else writes while its slot is neither free nor in CGROUP_SLOTS; the helper
    // bounds what it copies and terminates it.
    unsafe {
        (*owner).parent = parent_id;
        (*owner).level = level;
        // Without a name the agent looks for the directory that has this id.
        (*owner).name_len = probe_str((&raw mut (*owner).name).cast(), NAME_LEN as u32, name).unwrap_or(0);
        (*owner).died_ns = 0;
        (*owner).found = 0;
        (*owner).born_ns = bpf_ktime_get_boot_ns();
        // Last: a reader takes the record for complete once it has an id.
        core::ptr::write_volatile(&raw mut (*owner).id, id);
    }
    // The table has room for as many cgroups as there are slots.
    let _ = CGROUP_SLOTS.insert(id, slot, 0);
    note_change(slot);
    start_generation();
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
        note_change(slot);
    }
    0
}
