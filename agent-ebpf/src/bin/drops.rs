//! The drops signal: packets that the kernel dropped, by its own reason, for the cgroup they were of.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros make undocumented functions beside the documented ones")]

use agent_common::{
    cgroups::UNATTRIBUTED,
    drops::{DropCounts, Facts, NAMESPACES, REASONS},
};
use agent_ebpf::{CgroupSlots, MMAPABLE, add, frozen, load, load16, load32, socket::slot_of};
use aya_ebpf::{
    btf_maps::{Array, HashMap},
    macros::{btf_map, btf_tracepoint},
    programs::BtfTracePointContext,
};

agent_ebpf::object!();

#[unsafe(no_mangle)]
static FACTS: Facts = Facts::ZERO;

#[btf_map]
static CGROUP_SLOTS: CgroupSlots = CgroupSlots::new();
#[btf_map]
static DROPS_COUNTS: Array<DropCounts, 1, MMAPABLE> = Array::new();
/// Inode of a network namespace -> slot of the cgroup that all who are in it have in common. Filled by the agent.
#[btf_map]
static DROPS_NAMESPACES: HashMap<u32, u32, { NAMESPACES as usize }> = HashMap::new();

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
        if let Some(counts) = DROPS_COUNTS.get_ptr_mut(slot) {
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
        // What a protocol keeps in a packet instead of its device leads nowhere: such a load gives zero.
        let net = load(load(skb, frozen!(FACTS.skb_dev)), frozen!(FACTS.dev_net));
        let inode = load32(net, frozen!(FACTS.net_inum));
        DROPS_NAMESPACES.get(inode).copied().unwrap_or(UNATTRIBUTED)
    }
}
