//! The memory signal: whom the OOM killer kills, and time lost to reclaim. What the memory controller counts is copied by `walk.rs`.
//!
//! The programs hang on tracepoints that fire when memory is short; none of them is on a hot path.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros make undocumented functions beside the documented ones")]

use agent_common::{
    cgroups::UNATTRIBUTED,
    memory::{
        COMM_LEN, Counts, Facts, Item, Items, KILLS_LEN, LEVELS, NO_LIMIT_PAGES, OF_CGROUP, OF_NODE, OomKill, RECLAIM_LEN,
        Reclaim, Reclaims, Ring, RingShare, UNKNOWN, Victim, reclaim_position,
    },
    share::has_room,
};
use agent_ebpf::{
    CgroupSlots, MMAPABLE, add, frozen, load, load32, probe, reads_by_address,
    rows::{Rows, row},
    statistics,
};
use aya_ebpf::{
    btf_maps::{Array, LruHashMap},
    helpers::generated::{bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_ktime_get_boot_ns, bpf_ktime_get_ns},
    macros::{btf_map, btf_tracepoint},
    programs::BtfTracePointContext,
};

agent_ebpf::object!(FACTS: Facts);

/// What kill(2) calls it.
const SIGKILL: i32 = 9;

#[btf_map]
static CGROUP_SLOTS: CgroupSlots = CgroupSlots::new();
#[btf_map]
static WALK_ITEMS: Array<Items, 1, MMAPABLE> = Array::new();
#[btf_map]
static MEMORY_COUNTS: Array<Counts, 1, MMAPABLE> = Array::new();
#[btf_map]
static MEMORY_ROWS: Rows<Reclaims> = Rows::new();
#[btf_map]
static MEMORY_EMPTY_ROW: Array<Reclaims, 1> = Array::new();
#[btf_map]
static OOM_KILLS: Array<OomKill, { KILLS_LEN as usize }, MMAPABLE> = Array::new();
#[btf_map]
static OOM_RING: Array<Ring, 1, MMAPABLE> = Array::new();
#[btf_map]
static OOM_TAKEN: Array<RingShare, 1, MMAPABLE> = Array::new();
#[btf_map]
static RECLAIMS: LruHashMap<u32, Reclaim, 4096> = LruHashMap::new();
#[btf_map]
static VICTIMS: LruHashMap<u32, Victim, 1024> = LruHashMap::new();

/// A statistic counted in pages, in bytes; [`UNKNOWN`] where there is none. What is negative for a moment is nothing.
#[inline(always)]
fn bytes_of(stats: u64, item: Item) -> u64 {
    let Some(items) = WALK_ITEMS.get_ptr(0) else { return UNKNOWN };
    // SAFETY: a map value.
    let offset = unsafe { (*items).offsets[item as usize] };
    if offset == UNKNOWN {
        return UNKNOWN;
    }
    match probe(stats, offset) {
        Some(pages) if (pages as i64) < 0 => 0,
        Some(pages) => pages * frozen!(FACTS.page_bytes),
        None => UNKNOWN,
    }
}

#[inline(always)]
fn slot_of(cgroup: u64) -> u32 {
    // SAFETY: the slot is copied out at once.
    unsafe { CGROUP_SLOTS.get(cgroup) }.copied().unwrap_or(UNATTRIBUTED)
}

#[inline(always)]
fn thread_id() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_pid_tgid() as u32 }
}

/// Direct reclaim on behalf of a cgroup begins. Reclaims do not nest: the kernel marks the task (`PF_MEMALLOC`), and what such a
/// task allocates is given to it without reclaim.
#[btf_tracepoint(function = "mm_vmscan_memcg_reclaim_begin")]
fn memory_on_cgroup_reclaim(_ctx: BtfTracePointContext) -> i32 {
    begin_reclaim(OF_CGROUP)
}

/// Direct reclaim because the node runs short begins.
#[btf_tracepoint(function = "mm_vmscan_direct_reclaim_begin")]
fn memory_on_node_reclaim(_ctx: BtfTracePointContext) -> i32 {
    begin_reclaim(OF_NODE)
}

/// It ends.
#[btf_tracepoint(function = "mm_vmscan_memcg_reclaim_end")]
fn memory_on_cgroup_reclaimed(_ctx: BtfTracePointContext) -> i32 {
    end_reclaim(OF_CGROUP)
}

/// It ends.
#[btf_tracepoint(function = "mm_vmscan_direct_reclaim_end")]
fn memory_on_node_reclaimed(_ctx: BtfTracePointContext) -> i32 {
    end_reclaim(OF_NODE)
}

#[inline(always)]
fn begin_reclaim(kind: u32) -> i32 {
    // SAFETY: a helper without arguments.
    let began_ns = unsafe { bpf_ktime_get_ns() };
    let _ = RECLAIMS.insert(thread_id(), Reclaim { began_ns, kind, reserved: 0 }, 0);
    0
}

#[inline(always)]
fn end_reclaim(kind: u32) -> i32 {
    let Some(reclaim) = RECLAIMS.get_ptr_mut(thread_id()) else { return 0 };
    // SAFETY: a map value that only its own task writes; helpers without arguments; counters of a map value.
    unsafe {
        let began_ns = (*reclaim).began_ns;
        (*reclaim).began_ns = 0;
        if began_ns == 0 || (*reclaim).kind != kind {
            return 0;
        }
        let took_ns = bpf_ktime_get_ns().saturating_sub(began_ns);
        let slot = slot_of(bpf_get_current_cgroup_id());
        let Some(counts) = MEMORY_COUNTS.get_ptr_mut(slot) else { return 0 };
        let sum = if kind == OF_CGROUP { &raw mut (*counts).cgroup_reclaim_ns } else { &raw mut (*counts).node_reclaim_ns };
        add(sum, took_ns);
        let position = reclaim_position(took_ns);
        match row(&MEMORY_ROWS, &MEMORY_EMPTY_ROW, slot, 0) {
            Some(row) if position < RECLAIM_LEN => {
                add(&raw mut (*row).sum_ns, took_ns);
                add((&raw mut (*row).buckets).cast::<u64>().add(position), 1);
            }
            _ => add(&raw mut (*counts).unrecorded, 1),
        }
    }
    0
}

/// `signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task, int group, int result)`: notes whom this task
/// sends SIGKILL. The OOM killer does so right before it marks its victim.
#[btf_tracepoint(function = "signal_generate")]
fn memory_on_signal(ctx: BtfTracePointContext) -> i32 {
    let signal: i32 = ctx.arg(0);
    if signal != SIGKILL {
        return 0;
    }
    let task: u64 = ctx.arg(2);
    // SAFETY: argument 2 is a task_struct by the tracepoint's prototype; typed loads along the members that FACTS names.
    unsafe {
        let css_set = load(task, frozen!(FACTS.task_cgroups));
        let cgroup = load(css_set, frozen!(FACTS.css_set_cgroup));
        let mut victim = Victim {
            cgroup: load(load(cgroup, frozen!(FACTS.cgroup_kn)), frozen!(FACTS.kn_id)),
            memcg: 0,
            tgid: load32(task, frozen!(FACTS.task_tgid)),
            pid: load32(task, frozen!(FACTS.task_pid)),
            comm: [0; COMM_LEN],
        };
        victim.memcg = load(css_set, frozen!(FACTS.css_set_memory));
        let comm = (task + frozen!(FACTS.task_comm)) as *const u64;
        let words = (&raw mut victim.comm).cast::<u64>();
        words.write_unaligned(core::ptr::read_volatile(comm));
        words.add(1).write_unaligned(core::ptr::read_volatile(comm.add(1)));
        let _ = VICTIMS.insert(thread_id(), victim, 0);
    }
    0
}

/// `mark_victim(int pid)`, until 6.7.
#[btf_tracepoint(function = "mark_victim")]
fn memory_on_victim_id(ctx: BtfTracePointContext) -> i32 {
    killed(ctx.arg::<i32>(0) as u32)
}

/// `mark_victim(struct task_struct *task, uid_t uid)`, since 6.8.
#[btf_tracepoint(function = "mark_victim")]
fn memory_on_victim(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: argument 0 is a task_struct by the tracepoint's prototype.
    killed(unsafe { load32(ctx.arg(0), frozen!(FACTS.task_pid)) })
}

/// Counts a kill and writes it down.
///
/// A task that is dying already is marked too, so that it may use the last reserves, but not killed: no signal came before, and
/// `memory.events` does not count it either.
#[inline(always)]
fn killed(pid: u32) -> i32 {
    let this = thread_id();
    // SAFETY: copied out at once.
    let Some(victim) = (unsafe { VICTIMS.get(this) }).copied() else { return 0 };
    let _ = VICTIMS.remove(this);
    if victim.pid != pid {
        return 0;
    }
    let slot = slot_of(victim.cgroup);
    // SAFETY: copied out at once.
    let reclaim = unsafe { RECLAIMS.get(this) }.map_or(0, |reclaim| reclaim.kind);
    let own = victim.memcg.wrapping_sub(frozen!(FACTS.memcg.css));
    let full = if reclaim == OF_NODE { 0 } else { at_its_limit(own) };
    // Where counters cannot be read, the task's last reclaim shows whether a cgroup was at its limit or the node, though not which
    // cgroup.
    let of_cgroup = if reads_by_address() { full != 0 } else { reclaim == OF_CGROUP };
    let counts = MEMORY_COUNTS.get_ptr_mut(slot);
    let (Some(counts), Some(ring), Some(taken)) = (counts, OOM_RING.get_ptr_mut(0), OOM_TAKEN.get_ptr_mut(slot)) else {
        return 0;
    };
    // SAFETY: map values. The kernel holds `oom_lock` here, so nothing else writes the ring.
    unsafe {
        add(if of_cgroup { &raw mut (*counts).cgroup_kills } else { &raw mut (*counts).node_kills }, 1);
        let (head, tail) = ((*ring).head, core::ptr::read_volatile(&raw const (*ring).tail));
        if (*taken).tail != tail {
            (*taken).tail = tail;
            (*taken).unread = 0;
        }
        if !has_room((*taken).unread, head.wrapping_sub(tail), KILLS_LEN) {
            (*ring).unwritten += 1;
            return 0;
        }
        (*taken).unread += 1;
        if let Some(kill) = OOM_KILLS.get_ptr_mut(head as u32 & (KILLS_LEN - 1)) {
            (*kill).time_ns = bpf_ktime_get_boot_ns();
            (*kill).cgroup = victim.cgroup;
            (*kill).tgid = victim.tgid;
            (*kill).slot = slot;
            (*kill).comm = victim.comm;
            (*kill).limiting = if of_cgroup { id_of(full).unwrap_or(UNKNOWN) } else { 0 };
            split(if full == 0 { own } else { full }, kill);
            core::ptr::write_volatile(&raw mut (*ring).head, head + 1);
        }
    }
    0
}

/// The memory cgroup at or above `memcg` that is closest to its limit, if that is reached; 0 when none is.
#[inline(always)]
fn at_its_limit(memcg: u64) -> u64 {
    let to_counter = frozen!(FACTS.memcg.memory);
    let mut counter = memcg + to_counter;
    let mut closest = frozen!(FACTS.slack_pages) + 1;
    let mut full = 0;
    for _ in 0..LEVELS {
        let usage = probe(counter, frozen!(FACTS.memcg.counter_usage));
        let max = probe(counter, frozen!(FACTS.memcg.counter_max));
        let (Some(usage), Some(max)) = (usage, max) else { break };
        let room = max.saturating_sub(usage);
        if room < closest {
            closest = room;
            full = counter - to_counter;
        }
        match probe(counter, frozen!(FACTS.counter_parent)) {
            Some(parent) if parent != 0 => counter = parent,
            _ => break,
        }
    }
    full
}

/// The id of a memory cgroup's cgroup.
#[inline(always)]
fn id_of(memcg: u64) -> Option<u64> {
    let cgroup = probe(memcg + frozen!(FACTS.memcg.css), frozen!(FACTS.css_cgroup))?;
    probe(probe(cgroup, frozen!(FACTS.cgroup_kn))?, frozen!(FACTS.kn_id))
}

/// Limit, usage and what it consists of.
#[inline(always)]
unsafe fn split(memcg: u64, kill: *mut OomKill) {
    let counter = memcg + frozen!(FACTS.memcg.memory);
    let page_bytes = frozen!(FACTS.page_bytes);
    let bytes = |pages: Option<u64>| match pages {
        Some(pages) if pages < NO_LIMIT_PAGES => pages * page_bytes,
        _ => UNKNOWN,
    };
    // SAFETY: fields of a map value.
    unsafe {
        (*kill).limit_bytes = bytes(probe(counter, frozen!(FACTS.memcg.counter_max)));
        (*kill).usage_bytes = bytes(probe(counter, frozen!(FACTS.memcg.counter_usage)));
        let stats = statistics(memcg, frozen!(FACTS.memcg.vmstats), frozen!(FACTS.memcg.vmstats_is_pointer)).unwrap_or(0);
        let (file, shmem) = (bytes_of(stats, Item::File), bytes_of(stats, Item::Shmem));
        (*kill).anon_bytes = bytes_of(stats, Item::Anon);
        (*kill).shmem_bytes = shmem;
        (*kill).file_bytes = if file == UNKNOWN || shmem == UNKNOWN { UNKNOWN } else { file.saturating_sub(shmem) };
        (*kill).kernel_bytes = bytes_of(stats, Item::Kernel);
    }
}
