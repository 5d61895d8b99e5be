//! The dns signal: queries and answers on the ports of DNS, brought together where they pass the socket of a container.
//!
//! `network_on_egress` and `network_on_ingress` call these programs for packets to and from a DNS port; where that signal is off, they
//! are attached by themselves. They see a packet together with its socket: before it is fragmented or segmented on its way out,
//! after it is put together again on its way in, whatever network namespace and NAT it goes through. A packet is never changed,
//! and always goes on its way.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros make undocumented functions beside the documented ones")]

#[path = "dns/lookup.rs"]
mod lookup;
#[path = "dns/message.rs"]
mod message;
#[path = "dns/places.rs"]
mod places;
#[path = "dns/stream.rs"]
mod stream;

use agent_common::dns::{
    Connection, DnsCounts, Facts, Gaps, HEADER_LEN, Name, NameKey, Query, QueryKey, Row, Side, Taken, Transport, Way,
    lookups::{PAIRS_LEN, Pair},
};
use agent_ebpf::{
    CgroupSlots, Generation, MMAPABLE, forgotten,
    known::{KnownValues, generation, slot_of},
    packet::{Packet, Protocol, is_copy, is_one_of},
    rows::Rows,
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, SkStorage},
    helpers::generated::bpf_get_socket_cookie,
    macros::{btf_map, cgroup_skb},
    programs::SkBuffContext,
};

use self::{
    lookup::{one, take},
    message::{InPacket, see},
    stream::segment,
};

agent_ebpf::object!(FACTS: Facts);

#[btf_map]
static CGROUP_SLOTS: CgroupSlots = CgroupSlots::new();
#[btf_map]
static GENERATION: Generation = Generation::new();
/// The slots of cgroups by their ids, as last looked up.
#[btf_map]
static DNS_SLOTS: KnownValues = KnownValues::new();
/// One copy for all CPUs, added to atomically: the agent adds too. DNS is rare enough for that.
#[btf_map]
static DNS_COUNTS: Array<DnsCounts, 1, MMAPABLE> = Array::new();
/// Most queries in flight, and what was answered of late.
#[btf_map]
static DNS_LOOKUPS: Array<Pair, PAIRS_LEN, MMAPABLE> = Array::new();
// These two take memory for what is in them: most slots have no rows, and most queries find a place in the array.
#[btf_map]
static DNS_ROWS: Rows<Row> = Rows::new();
#[btf_map]
static DNS_IN_FLIGHT: HashMap<QueryKey, Query, 1, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
/// What each slot has of the queries in flight and of the names, and what all have together.
#[btf_map]
static DNS_TAKEN: Array<Taken, 1, MMAPABLE> = Array::new();
#[btf_map]
static DNS_TAKEN_ALL: Array<Taken, 1, MMAPABLE> = Array::new();
/// A row without counts: too large for a program's stack.
#[btf_map]
static DNS_EMPTY_ROW: Array<Row, 1> = Array::new();
/// Empty unless names are wanted.
#[btf_map]
static DNS_NAMES: HashMap<NameKey, Name, 1, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
/// A name without queries yet: too large for a program's stack.
#[btf_map]
static DNS_NO_NAME: Array<Name, 1> = Array::new();
#[btf_map]
static DNS_CONNECTIONS: SkStorage<Connection> = SkStorage::new();
#[btf_map]
static DNS_GAPS: Array<Gaps, 1, MMAPABLE> = Array::new();

/// Every packet to or from a DNS port that a socket sends.
#[cgroup_skb(egress)]
fn dns_on_egress(ctx: SkBuffContext) -> i32 {
    on_packet::<true>(&ctx);
    1
}

/// Every packet to or from a DNS port that a socket receives.
#[cgroup_skb(ingress)]
fn dns_on_ingress(ctx: SkBuffContext) -> i32 {
    on_packet::<false>(&ctx);
    1
}

/// What is the same for all messages of a packet.
#[derive(Clone, Copy)]
struct Flow {
    counts: *mut DnsCounts,
    slot: u32,
    /// A hash of the other end's address and port.
    peer: u32,
    cookie: u64,
    transport: Transport,
    /// Which of the ports are those of DNS: [`OWN`], [`THEIRS`].
    ends: u64,
}

/// The socket's own port is one of DNS.
const OWN: u64 = 1;
/// The other end's port is one of DNS.
const THEIRS: u64 = 2;

#[inline(always)]
fn on_packet<const EGRESS: bool>(ctx: &SkBuffContext) -> Option<()> {
    let skb = ctx.skb.skb;
    let mut packet = Packet::of(ctx)?;
    let transport = match packet.protocol {
        Protocol::Udp => Transport::Udp,
        Protocol::Tcp => Transport::Tcp,
    };
    let (own, theirs) =
        if EGRESS { (packet.source_port, packet.destination_port) } else { (packet.destination_port, packet.source_port) };
    let (own, theirs) = (is_dns(own), is_dns(theirs));
    if own | theirs == 0 || packet.payload_len == 0 || (!EGRESS && is_copy(ctx)) {
        return None;
    }
    // SAFETY: a helper that takes the packet.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let slot = slot_of(ctx, &DNS_SLOTS, generation(&GENERATION), &CGROUP_SLOTS);
    let counts = DNS_COUNTS.get_ptr_mut(slot)?;
    if matches!(transport, Transport::Udp) && packet.goes_to_many(ctx) {
        // Multicast DNS and LLMNR: any host may answer, and none has to.
        let side = if own != 0 { Side::Server } else { Side::Client };
        // SAFETY: a field of a map value.
        unsafe { one(&raw mut (*counts).other, Way { side, transport }) };
        return None;
    }
    // Of one's own queries the socket is enough: see `count`.
    let peer = if own == 0 {
        0
    } else if EGRESS {
        packet.destination_hash(ctx)
    } else {
        packet.source_hash(ctx)
    };
    let ends = forgotten((own * OWN) | (theirs * THEIRS), OWN | THEIRS, cookie);
    packet.payload = forgotten(packet.payload as u64, 0xffff, cookie) as u32;
    packet.payload_len = forgotten(packet.payload_len as u64, 0x000f_ffff, cookie) as u32;
    let flow = Flow { counts, slot, peer, cookie, transport, ends };
    match transport {
        Transport::Udp => datagram::<EGRESS>(skb, &packet, &flow),
        Transport::Tcp => segment::<EGRESS>(skb, &packet, &flow),
    }
    Some(())
}

/// 1 for a port of DNS.
#[inline(always)]
fn is_dns(port: u16) -> u64 {
    // SAFETY: a field of a live static, whose value is frozen before the program loads.
    unsafe { is_one_of(&raw const FACTS.ports, port) }
}

/// The message in a datagram.
#[inline(always)]
fn datagram<const EGRESS: bool>(skb: *mut __sk_buff, packet: &Packet, flow: &Flow) {
    let seen = see(&InPacket::new(skb, packet.payload, packet.payload_len), packet.payload + HEADER_LEN as u32);
    take::<EGRESS>(skb, flow, &seen);
}
