//! The network signal: bytes and packets of every cgroup's sockets, by direction and by where they go.
//!
//! The programs see a packet together with its socket, so that each is counted for who sent or receives it, whatever network
//! namespace it is in: containers of the host's network have their own figures. What takes a look-up is kept in the socket's own
//! storage: its cgroup's slot, and what the address it speaks with means. Packets of the ports of DNS are passed on to the dns
//! signal. A packet is never changed, and always goes on its way.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros make undocumented functions beside the documented ones")]

use agent_common::{
    cgroups::UNATTRIBUTED,
    network::{Facts, NetworkCounts, RANGES_LEN, Scope, Socket},
};
use agent_ebpf::{
    CgroupSlots, Generation, MMAPABLE, add, frozen,
    packet::{Packet, is_one_of, receives_copies},
    slots,
};
use aya_ebpf::{
    bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::{Array, LpmTrie, ProgramArray, SkStorage, lpm_trie::Key},
    helpers::generated::{bpf_get_smp_processor_id, bpf_sk_fullsock, bpf_sk_storage_get, bpf_skb_cgroup_id},
    macros::{btf_map, cgroup_skb},
    programs::SkBuffContext,
};

agent_ebpf::object!(FACTS: Facts);

#[btf_map]
static CGROUP_SLOTS: CgroupSlots = CgroupSlots::new();
#[btf_map]
static GENERATION: Generation = Generation::new();
#[btf_map]
static NETWORK_COUNTS: Array<NetworkCounts, 1, MMAPABLE> = Array::new();
#[btf_map]
static NETWORK_SOCKETS: SkStorage<Socket> = SkStorage::new();
/// The scopes of address ranges: filled by the agent before the programs are attached.
#[btf_map]
static NETWORK_RANGES_4: LpmTrie<[u8; 4], u32, RANGES_LEN> = LpmTrie::new();
#[btf_map]
static NETWORK_RANGES_6: LpmTrie<[u8; 16], u32, RANGES_LEN> = LpmTrie::new();
/// What the dns signal does with a packet of its ports, where it is on. A table for each direction, since newer kernels keep
/// programs of different ones apart.
#[btf_map]
static NETWORK_DNS_EGRESS: ProgramArray<1> = ProgramArray::new();
#[btf_map]
static NETWORK_DNS_INGRESS: ProgramArray<1> = ProgramArray::new();

const TCP: u32 = 6;
const UDP: u8 = 17;
const INET6: u32 = 10;

/// The loopback interface of every network namespace (`LOOPBACK_IFINDEX` of include/net/flow.h).
const LOOPBACK: u32 = 1;

/// Every packet that a socket sends, before it is segmented.
#[cgroup_skb(egress)]
fn network_on_egress(ctx: SkBuffContext) -> i32 {
    if count::<true>(&ctx) {
        // SAFETY: the table holds programs of this direction. Where it is empty, this one goes on.
        unsafe { NETWORK_DNS_EGRESS.tail_call(&ctx, 0) };
    }
    1
}

/// Every packet that a socket receives, after it was put together.
#[cgroup_skb(ingress)]
fn network_on_ingress(ctx: SkBuffContext) -> i32 {
    if count::<false>(&ctx) {
        // SAFETY: as above.
        unsafe { NETWORK_DNS_INGRESS.tail_call(&ctx, 0) };
    }
    1
}

/// Counts a packet; whether it is one of a DNS port.
#[inline(always)]
fn count<const EGRESS: bool>(ctx: &SkBuffContext) -> bool {
    let skb = ctx.skb.skb;
    // SAFETY: a field of the context, which the verifier checks; the helper takes what it found there, if it is not null.
    let socket = unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() { core::ptr::null_mut() } else { bpf_sk_fullsock(sk) }
    };
    // SAFETY: a full socket.
    if !EGRESS && !socket.is_null() && unsafe { receives_copies(socket) } {
        return false;
    }
    let known = if socket.is_null() {
        core::ptr::null_mut()
    } else {
        // SAFETY: a socket that is not null; the storage is made where it is missing.
        unsafe {
            bpf_sk_storage_get(
                (&raw const NETWORK_SOCKETS).cast_mut().cast(),
                socket.cast(),
                core::ptr::null_mut(),
                BPF_SK_STORAGE_GET_F_CREATE.into(),
            )
            .cast::<Socket>()
        }
    };
    // SAFETY: both are null or what the helpers gave.
    let (slot, peer) = unsafe {
        let (slot, fresh) = slot_of(skb, known);
        (slot, peer_of::<EGRESS>(ctx, socket, known, fresh))
    };
    let scope = (peer >> 8) as u8;
    // SAFETY: fields of the context.
    let loopback = unsafe { (*skb).ifindex } == LOOPBACK;
    let (bytes, packets) = on_the_wire(ctx);

    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    if let Some(counts) = NETWORK_COUNTS.get_ptr_mut(cpu * slots() + slot) {
        // SAFETY: fields of a map value. The sum is atomic: a program that was interrupted may be adding to the same counts.
        unsafe {
            if EGRESS {
                let scope = if loopback { Scope::Loopback as usize } else { scope as usize };
                if scope < Scope::ALL.len() {
                    add((&raw mut (*counts).sent_bytes).cast::<u64>().add(scope), bytes);
                }
                let field = if loopback { &raw mut (*counts).sent_loopback_packets } else { &raw mut (*counts).sent_packets };
                add(field, packets);
            } else if loopback {
                add(&raw mut (*counts).received_loopback_bytes, bytes);
                add(&raw mut (*counts).received_loopback_packets, packets);
            } else {
                add(&raw mut (*counts).received_bytes, bytes);
                add(&raw mut (*counts).received_packets, packets);
            }
        }
    }
    peer & 1 != 0
}

/// The slot of a packet's cgroup: from the socket's storage, while no slot was given back since it was put there, nor an address
/// learnt. Whether it came from there.
///
/// # Safety
/// `known` is null or the storage of the packet's socket.
#[inline(always)]
unsafe fn slot_of(skb: *mut __sk_buff, known: *mut Socket) -> (u32, bool) {
    let generation = match GENERATION.get_ptr(0) {
        // SAFETY: a map value.
        Some(generation) => unsafe { core::ptr::read_volatile(generation) as u32 },
        None => 0,
    };
    // SAFETY: the caller's word for it; the helper takes the packet, the slot is copied out at once.
    unsafe {
        if !known.is_null() {
            let place = core::ptr::read_volatile(&raw const (*known).place);
            if (place >> 32) as u32 == generation && place != 0 {
                return (place as u32, true);
            }
        }
        let slot = CGROUP_SLOTS.get(bpf_skb_cgroup_id(skb)).copied().unwrap_or(UNATTRIBUTED);
        if !known.is_null() {
            core::ptr::write_volatile(&raw mut (*known).place, (generation as u64) << 32 | slot as u64);
        }
        (slot, false)
    }
}

/// The other end of a packet, as [`Socket::peer`] has it.
///
/// What the socket's storage has of it counts while it is `fresh`: since it was put there the tables of ranges are the same.
///
/// A TCP socket has one peer for as long as it is connected. Any other may speak with a new one in each packet.
///
/// # Safety
/// `socket` is null or the packet's full socket, `known` null or its storage.
#[inline(always)]
unsafe fn peer_of<const EGRESS: bool>(ctx: &SkBuffContext, socket: *mut bpf_sock, known: *mut Socket, fresh: bool) -> u64 {
    // SAFETY: fields of a socket, which the verifier checks, and of a map value.
    unsafe {
        let connected = !socket.is_null() && (*socket).protocol == TCP && (*socket).dst_port != 0;
        let peer = if connected {
            let port = u16::from_be((*socket).dst_port);
            let words = [(*socket).dst_ip6[0], (*socket).dst_ip6[1], (*socket).dst_ip6[2], (*socket).dst_ip6[3]];
            let v6 = (*socket).family == INET6 && !(words[0] == 0 && words[1] == 0 && words[2] == u32::from_be(0xffff));
            Peer { v6, words: if v6 { words } else { [(*socket).dst_ip4, 0, 0, 0] }, port, own: (*socket).src_port as u16 }
        } else {
            match Peer::of_packet::<EGRESS>(ctx) {
                Some(peer) => peer,
                None => return (Scope::Internet as u64) << 8,
            }
        };
        let key = peer.key();
        if fresh && !known.is_null() {
            let last = core::ptr::read_volatile(&raw const (*known).peer);
            if last & KEY == key && last != 0 {
                return last;
            }
        }
        let dns = is_dns(peer.port) | is_dns(peer.own);
        let meaning = key | (peer.scope() as u64 & 0xff) << 8 | dns;
        if !known.is_null() {
            core::ptr::write_volatile(&raw mut (*known).peer, meaning);
        }
        meaning
    }
}

/// The part of [`Socket::peer`] that distinguishes peers.
const KEY: u64 = !0xffff;

/// An address and a port of it, and the socket's own port. Words are as they are on the wire, ports are numbers.
#[derive(Clone, Copy)]
struct Peer {
    v6: bool,
    /// The address; of IPv4 the first field.
    words: [u32; 4],
    port: u16,
    own: u16,
}

impl Peer {
    /// The other end that a packet itself names.
    #[inline(always)]
    fn of_packet<const EGRESS: bool>(ctx: &SkBuffContext) -> Option<Self> {
        // The header of IPv4 without options and the ports of what it carries, or the first half of one of IPv6.
        let head: [u32; 6] = ctx.load(0).ok()?;
        let first = head[0].to_ne_bytes()[0];
        let v6 = first >> 4 == 6;
        let words =
            if v6 { ctx.load(if EGRESS { 24 } else { 8 }).ok()? } else { [if EGRESS { head[4] } else { head[3] }, 0, 0, 0] };
        let protocol = head[2].to_ne_bytes()[1];
        let (source, destination) = if first == 0x45 && (protocol == UDP || protocol as u32 == TCP) {
            let [a, b, c, d] = head[5].to_ne_bytes();
            (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
        } else {
            // Options, extension headers, or no ports at all.
            Packet::of(ctx).map_or((0, 0), |packet| (packet.source_port, packet.destination_port))
        };
        let (port, own) = if EGRESS { (destination, source) } else { (source, destination) };
        Some(Self { v6, words, port, own })
    }

    /// What distinguishes it from others. Of IPv4 it is exact; two addresses of IPv6 have the same with a chance of 2^-48.
    #[inline(always)]
    fn key(&self) -> u64 {
        if !self.v6 {
            return (self.words[0] as u64) << 32 | (self.port as u64) << 16;
        }
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        let high = ((self.words[0] as u64) << 32 | self.words[1] as u64).wrapping_mul(FACTOR);
        let low = (self.words[2] as u64) << 32 | self.words[3] as u64;
        (high ^ low ^ (self.port as u64) << 13).wrapping_mul(FACTOR) & KEY
    }

    /// Where it is.
    #[inline(always)]
    fn scope(&self) -> u32 {
        let found = if self.v6 {
            // SAFETY: four words are sixteen bytes, of which any will do.
            let bytes: [u8; 16] = unsafe { core::mem::transmute(self.words) };
            NETWORK_RANGES_6.get(&Key::new(128, bytes))
        } else {
            NETWORK_RANGES_4.get(&Key::new(32, self.words[0].to_ne_bytes()))
        };
        found.copied().unwrap_or(Scope::Internet as u32)
    }
}

#[inline(always)]
fn is_dns(port: u16) -> u64 {
    // SAFETY: a field of a live static, whose value is frozen before the program loads.
    unsafe { is_one_of(&raw const FACTS.ports, port) }
}

/// Bytes and packets as they are on the wire, from the network layer on.
///
/// A large packet (`gso_size` is the payload of each segment) has its headers once; on the wire each segment has them. Some drivers
/// do not have the number of segments they consist of (`gso_segs` is 0), so that follows from the payload.
#[inline(always)]
fn on_the_wire(ctx: &SkBuffContext) -> (u64, u64) {
    let skb = ctx.skb.skb;
    // SAFETY: fields of the context.
    let (len, size) = unsafe { ((*skb).len as u64, (*skb).gso_size as u64) };
    if size == 0 {
        return (len, 1);
    }
    let Some(headers) = headers_len(ctx) else { return (len, 1) };
    let segments = (len.saturating_sub(headers) + size - 1) / (size | (size == 0) as u64);
    let segments = if segments == 0 { 1 } else { segments };
    (len + (segments - 1) * headers, segments)
}

/// Bytes of a large packet's headers, which each of its segments has. One read for nearly all of them.
#[inline(always)]
fn headers_len(ctx: &SkBuffContext) -> Option<u64> {
    const UDP_HEADER: u64 = 8;
    // Up to the length of TCP's header behind one of IPv6.
    let Ok(head) = ctx.load::<[u8; 56]>(0) else { return Packet::of(ctx).map(|packet| packet.payload as u64) };
    let tcp = |at: usize| (head[at + 12] >> 4) as u64 * 4;
    match (head[0], head[9], head[0] >> 4, head[6]) {
        (0x45, 6, ..) => Some(20 + tcp(20)),
        (0x45, UDP, ..) => Some(20 + UDP_HEADER),
        (.., 6, 6) => Some(40 + tcp(40)),
        (.., 6, UDP) => Some(40 + UDP_HEADER),
        // Options, extension headers.
        _ => Packet::of(ctx).map(|packet| packet.payload as u64),
    }
}
