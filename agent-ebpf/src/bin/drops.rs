//! The drops signal: packets that the kernel dropped, by its own reason, for the cgroup they were of.
//!
//! A packet without a socket is of the cgroups in its network namespace. Which namespace a cgroup is in is noted where its processes
//! run programs, come and end; the agent opens no file for it, so it does not matter which process ids it can see.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros make undocumented functions beside the documented ones")]

use agent_common::{
    cgroups::UNATTRIBUTED,
    drops::{DropCounts, Facts, LINKS, Place, REASONS, TASKS},
    rows::RowKey,
};
use agent_ebpf::{
    CgroupSlots, CgroupWalk, MMAPABLE, add, frozen, load, load16, load32, probe, probe32,
    rows::{Rows, row},
    socket::slot_of,
};
use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::{Array, HashMap},
    macros::{btf_map, btf_tracepoint},
    programs::BtfTracePointContext,
};

agent_ebpf::object!(FACTS: Facts);

#[btf_map]
static CGROUP_SLOTS: CgroupSlots = CgroupSlots::new();
#[btf_map]
static DROPS_ROWS: Rows<DropCounts> = Rows::new();
#[btf_map]
static DROPS_EMPTY_ROW: Array<DropCounts, 1> = Array::new();
#[btf_map]
static DROPS_PLACES: Array<Place, 1, MMAPABLE> = Array::new();
/// Cookie of a network namespace -> slot of the cgroup that all who are in it have in common. The first of them enters itself, the agent
/// puts it right. At most one entry for each slot, however many namespaces its processes make.
#[btf_map]
static DROPS_NAMESPACES: HashMap<u64, u64, 1> = HashMap::new();
/// A kernel pointer stored here can be read back as a number. Only the walk does, and only the agent walks.
#[btf_map]
static DROPS_SCRATCH: Array<u64, 1> = Array::new();

/// `ETH_P_IP` and `ETH_P_IPV6` of linux/if_ether.h.
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// `kfree_skb(struct sk_buff *skb, void *location, enum skb_drop_reason reason, struct sock *rx_sk)`, the last since 6.11.
#[btf_tracepoint(function = "kfree_skb")]
fn drops_on_free(ctx: BtfTracePointContext) -> i32 {
    let reason = ctx.arg::<u32>(2) as usize;
    let known = if reason < REASONS { reason } else { 0 };
    // SAFETY: the word lies inside the frozen facts.
    let harmless = unsafe { core::ptr::read_volatile((&raw const FACTS.harmless).cast::<u64>().add(known / 64)) };
    if harmless >> (known & 63) & 1 != 0 && known == reason {
        return 0;
    }
    let skb: u64 = ctx.arg(0);
    // Messages of Unix sockets, of netlink and of other families are no packets, whatever they are freed for.
    // SAFETY: the first argument is an sk_buff.
    let protocol = u16::from_be(unsafe { load16(skb, frozen!(FACTS.skb_protocol)) });
    if protocol != IPV4 && protocol != IPV6 {
        return 0;
    }
    let receiver: u64 = if frozen!(FACTS.tells_receiver) != 0 { ctx.arg(3) } else { 0 };
    // SAFETY: the tracepoint's arguments are typed, the last may be null; the count lies inside a map value.
    unsafe {
        let slot = slot_of_packet(skb, receiver);
        // Without memory for a row it is attributed to none: that row the agent has made.
        let row = row(&DROPS_ROWS, &DROPS_EMPTY_ROW, slot, 0);
        if let Some(counts) = row.or_else(|| DROPS_ROWS.get_ptr_mut(RowKey { slot: UNATTRIBUTED, kind: 0 })) {
            add((&raw mut (*counts).packets).cast::<u64>().add(known), 1);
        }
    }
    0
}

/// The slot of a packet: of the socket that was to receive it, of the one that sent it, else of its network namespace.
///
/// # Safety
/// Both must be BTF-typed pointers to what they are called; `receiver` may be null.
#[inline(always)]
unsafe fn slot_of_packet(skb: u64, receiver: u64) -> u32 {
    // SAFETY: typed loads along the members that FACTS names.
    unsafe {
        if receiver != 0 {
            let slot = slot_of(&CGROUP_SLOTS, receiver, &raw const FACTS.socket);
            if slot != UNATTRIBUTED {
                return slot;
            }
        }
        let sk = load(skb, frozen!(FACTS.skb_sk));
        if sk != 0 {
            let slot = slot_of(&CGROUP_SLOTS, sk, &raw const FACTS.socket);
            if slot != UNATTRIBUTED {
                return slot;
            }
        }
        // What UDP keeps in a packet instead of its device leads nowhere: such a load gives zero.
        let net = load(load(skb, frozen!(FACTS.skb_dev)), frozen!(FACTS.dev_net));
        let cookie = load(net, frozen!(FACTS.net_cookie));
        DROPS_NAMESPACES.get(cookie).copied().map_or(UNATTRIBUTED, |slot| slot as u32)
    }
}

/// `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`: whoever makes a container enters its cgroup and
/// its namespaces first, then runs its program.
#[btf_tracepoint(function = "sched_process_exec")]
fn drops_on_exec(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: argument 0 is a task_struct by the tracepoint's prototype.
    unsafe { is_in(ctx.arg(0), true) };
    0
}

/// `cgroup_attach_task(struct cgroup *dst_cgrp, const char *path, struct task_struct *task, bool threadgroup)`: a process has come into
/// a cgroup.
#[btf_tracepoint(function = "cgroup_attach_task")]
fn drops_on_move(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: argument 2 is a task_struct by the tracepoint's prototype.
    unsafe { is_in(ctx.arg(2), false) };
    0
}

/// `sched_process_exit(struct task_struct *p, …)`: where a cgroup's process has ended, another may be in another namespace.
#[btf_tracepoint(function = "sched_process_exit")]
fn drops_on_exit(ctx: BtfTracePointContext) -> i32 {
    let task: u64 = ctx.arg(0);
    // SAFETY: argument 0 is a task_struct by the tracepoint's prototype; a map value.
    unsafe {
        let process = load32(task, frozen!(FACTS.task_tgid));
        if load32(task, frozen!(FACTS.task_pid)) != process {
            return 0;
        }
        if let Some(place) = DROPS_PLACES.get_ptr_mut(slot_of_task(task))
            && (*place).process == process as u64
        {
            (*place).process = 0;
        }
    }
    0
}

/// The slot of a task's cgroup.
///
/// # Safety
/// `task` must be a BTF-typed pointer to a `struct task_struct`.
#[inline(always)]
unsafe fn slot_of_task(task: u64) -> u32 {
    // SAFETY: typed loads along the members that FACTS names; the slot is copied out at once.
    unsafe {
        let cgroup = load(load(task, frozen!(FACTS.task_cgroups)), frozen!(FACTS.css_set_cgroup));
        let id = load(load(cgroup, frozen!(FACTS.socket.cgroup_kn)), frozen!(FACTS.socket.kn_id));
        CGROUP_SLOTS.get(id).copied().unwrap_or(UNATTRIBUTED)
    }
}

/// Notes which network namespace a task's cgroup is in, if that is not known from another process that has not ended. One that `runs` a
/// program there is where it will be; one that does not yet may still be on its way.
///
/// # Safety
/// `task` must be a BTF-typed pointer to a `struct task_struct`.
#[inline(always)]
unsafe fn is_in(task: u64, runs: bool) {
    // SAFETY: typed loads along the members that FACTS names; map values.
    unsafe {
        let slot = slot_of_task(task);
        let Some(place) = DROPS_PLACES.get_ptr_mut(slot) else { return };
        let process = load32(task, frozen!(FACTS.task_tgid)) as u64;
        let (known, by) = ((*place).namespace, (*place).process);
        if slot == UNATTRIBUTED || (by != 0 && by != process) || (!runs && known != 0) {
            return;
        }
        let net = load(load(task, frozen!(FACTS.task_nsproxy)), frozen!(FACTS.nsproxy_net));
        enter(place, slot, load(net, frozen!(FACTS.net_cookie)), if runs { process } else { 0 });
    }
}

/// Enters a namespace that is not 0 as that of a slot.
///
/// # Safety
/// `place` must be the slot's.
#[inline(always)]
unsafe fn enter(place: *mut Place, slot: u32, namespace: u64, process: u64) {
    // SAFETY: a map value; the slot is copied out at once.
    unsafe {
        if namespace == 0 {
            return;
        }
        let before = (*place).namespace;
        (*place).process = process;
        if before == namespace {
            return;
        }
        if before != 0 && DROPS_NAMESPACES.get(before).copied() == Some(slot as u64) {
            let _ = DROPS_NAMESPACES.remove(before);
        }
        core::ptr::write_volatile(&raw mut (*place).namespace, namespace);
        // There already: the agent knows the owner.
        let _ = DROPS_NAMESPACES.insert(namespace, slot as u64, BPF_NOEXIST.into());
    }
}

/// Run once for each cgroup when the agent starts: notes the namespaces of processes that were there before the programs.
///
/// The kernel holds `cgroup_mutex`, but the lists of tasks may change: what they lead to is read by a helper, and believed only where
/// the task is of this very list.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/cgroup")]
extern "C" fn drops_on_walk(context: *const CgroupWalk) -> i32 {
    // SAFETY: the kernel calls with such a context; a typed pointer is checked for null before it is followed; map values.
    unsafe {
        let cgroup = (*context).cgroup;
        if cgroup == 0 {
            return 0;
        }
        let id = load(load(cgroup, frozen!(FACTS.socket.cgroup_kn)), frozen!(FACTS.socket.kn_id));
        let Some(slot) = CGROUP_SLOTS.get(id).copied() else { return 0 };
        let (Some(place), Some(scratch)) = (DROPS_PLACES.get_ptr_mut(slot), DROPS_SCRATCH.get_ptr_mut(0)) else { return 0 };
        if (*place).namespace != 0 {
            return 0;
        }
        // The verifier forbids arithmetic on pointers; what is read back from a map is a number.
        *scratch = cgroup;
        let address = core::ptr::read_volatile(scratch);
        if let Some((namespace, process)) = first_process(address) {
            enter(place, slot, namespace, process as u64);
        }
    }
    0
}

/// The namespace and the process id of a cgroup's first task that has one.
#[inline(always)]
fn first_process(cgroup: u64) -> Option<(u64, u32)> {
    let links = cgroup + frozen!(FACTS.cgroup_links);
    let mut link = links;
    for _ in 0..LINKS {
        link = probe(link, 0)?;
        if link == links {
            return None;
        }
        let css_set = probe(link - frozen!(FACTS.link_node), frozen!(FACTS.link_css_set))?;
        let tasks = css_set + frozen!(FACTS.css_set_tasks);
        let mut node = tasks;
        for _ in 0..TASKS {
            node = probe(node, 0)?;
            if node == tasks {
                break;
            }
            let task = node - frozen!(FACTS.task_node);
            if probe(task, frozen!(FACTS.task_cgroups)) != Some(css_set) {
                break;
            }
            // One that has ended has none.
            let net = probe(task, frozen!(FACTS.task_nsproxy)).and_then(|nsproxy| probe(nsproxy, frozen!(FACTS.nsproxy_net)));
            if let Some(cookie) = net.and_then(|net| probe(net, frozen!(FACTS.net_cookie))) {
                return Some((cookie, probe32(task, frozen!(FACTS.task_tgid))?));
            }
        }
    }
    None
}
