//! The network signal: bytes and packets of every cgroup's sockets, by direction and by where they go.
//!
//! The programs see a packet together with its socket, so that each is counted for who sent or receives it, whatever network
//! namespace it is in: containers of the host's network have their own figures. What takes a look-up is kept in two small tables, by
//! cgroup and by address: nothing is kept for each socket, so that many sockets cost no more than one. Packets of the ports of DNS are
//! passed on to the dns signal. A packet is never changed, and always goes on its way.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros make undocumented functions beside the documented ones")]

use agent_common::{
    known::KNOWN_LEN,
    network::{Facts, NetworkCounts, RANGES_LEN, Scope},
};
use agent_ebpf::{
    CgroupSlots, Generation, MMAPABLE, add, frozen,
    known::{KnownValues, generation, known, slot_of},
    packet::{Linear, Packet, is_copy, is_one_of},
    slots,
};
use aya_ebpf::{
    btf_maps::{Array, LpmTrie, ProgramArray, lpm_trie::Key},
    helpers::generated::bpf_get_smp_processor_id,
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
/// The slots of cgroups by their ids, as last looked up.
#[btf_map]
static NETWORK_SLOTS: KnownValues = KnownValues::new();
/// The scopes of addresses, as last looked up.
#[btf_map]
static NETWORK_SCOPES: KnownValues = KnownValues::new();
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

const TCP: u8 = 6;
const UDP: u8 = 17;

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
    if !EGRESS && is_copy(ctx) {
        return false;
    }
    let generation = generation(&GENERATION);
    let slot = slot_of(ctx, &NETWORK_SLOTS, generation, &CGROUP_SLOTS);
    let head = Head::of::<EGRESS>(ctx);
    let (bytes, packets) = on_the_wire(ctx);
    // SAFETY: a field of the context.
    let loopback = unsafe { (*skb).ifindex } == LOOPBACK;
    let scope = if EGRESS && !loopback { scope_of(&head, generation) } else { Scope::Loopback as u32 };

    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let copy = cpu & frozen!(FACTS.copy_mask) as u32;
    if let Some(counts) = NETWORK_COUNTS.get_ptr_mut(copy * slots() + slot) {
        // SAFETY: fields of a map value. The sum is atomic: another CPU, and a program that was interrupted, may be adding to the same
        // counts.
        unsafe {
            if EGRESS {
                if (scope as usize) < Scope::ALL.len() {
                    add((&raw mut (*counts).sent_bytes).cast::<u64>().add(scope as usize), bytes);
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
    is_dns(head.source) | is_dns(head.destination) != 0
}

/// Where a packet goes to. The tables of ranges are the same while the generation is.
#[inline(always)]
fn scope_of(head: &Head, generation: u32) -> u32 {
    if !head.is_ip {
        return Scope::Internet as u32;
    }
    let (key, position) = head.key();
    known(NETWORK_SCOPES.get_ptr_mut(position), key, generation, || head.scope())
}

/// What a packet's headers have: its ports, and where it goes to. Words are as they are on the wire, ports are numbers.
#[derive(Clone, Copy)]
struct Head {
    is_ip: bool,
    v6: bool,
    /// The receiver's address, of a packet that is sent; of IPv4 the first field.
    words: [u32; 4],
    source: u16,
    destination: u16,
}

impl Head {
    #[inline(always)]
    fn of<const EGRESS: bool>(ctx: &SkBuffContext) -> Self {
        let linear = Linear::of(ctx);
        // SAFETY: in each case the packet reaches as far as is read.
        unsafe {
            if linear.reaches(V4_AND_PORTS) {
                let first = linear.byte(0);
                if first == PLAIN_V4 && has_ports(linear.byte(9)) {
                    let words = [if EGRESS { linear.word::<16>() } else { 0 }, 0, 0, 0];
                    return Self::new(false, words, linear.word::<20>());
                }
                if first >> 4 == 6 && linear.reaches(V6_AND_PORTS) && has_ports(linear.byte(6)) {
                    let words = if EGRESS {
                        [linear.word::<24>(), linear.word::<28>(), linear.word::<32>(), linear.word::<36>()]
                    } else {
                        [0; 4]
                    };
                    return Self::new(true, words, linear.word::<40>());
                }
            }
        }
        Self::read(ctx)
    }

    /// The same of a packet with options, extension headers, no ports, or headers that are not in its linear part.
    #[inline(always)]
    fn read(ctx: &SkBuffContext) -> Self {
        let first: u8 = ctx.load(0).unwrap_or(0);
        let v6 = first >> 4 == 6;
        let words = if v6 { ctx.load(24) } else { ctx.load(16).map(|word| [word, 0, 0, 0]) };
        let (source, destination) = Packet::read(ctx).map_or((0, 0), |packet| (packet.source_port, packet.destination_port));
        Self { is_ip: words.is_ok(), v6, words: words.unwrap_or_default(), source, destination }
    }

    #[inline(always)]
    fn new(v6: bool, words: [u32; 4], ports: u32) -> Self {
        let [a, b, c, d] = ports.to_ne_bytes();
        Self { is_ip: true, v6, words, source: u16::from_be_bytes([a, b]), destination: u16::from_be_bytes([c, d]) }
    }

    /// What distinguishes the receiver's address from others, and its place. Of IPv4 it is exact; two addresses of IPv6 have the same
    /// with a chance of 2^-63.
    #[inline(always)]
    fn key(&self) -> (u64, u32) {
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        const LEN: u32 = KNOWN_LEN.trailing_zeros();
        let key = if self.v6 {
            let high = ((self.words[0] as u64) << 32 | self.words[1] as u64).wrapping_mul(FACTOR);
            let low = (self.words[2] as u64) << 32 | self.words[3] as u64;
            (high ^ high >> 32 ^ low).wrapping_mul(FACTOR) | 1 << 63
        } else {
            1 << 32 | self.words[0] as u64
        };
        (key, (key.wrapping_mul(FACTOR) >> (64 - LEN)) as u32)
    }

    /// The scope of the receiver's address.
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

/// The first byte of an IPv4 packet without options.
const PLAIN_V4: u8 = 0x45;

/// Bytes up to the ports of a packet of IPv4 without options, and of one of IPv6 without extension headers.
const V4_AND_PORTS: usize = 24;
const V6_AND_PORTS: usize = 44;

#[inline(always)]
fn has_ports(protocol: u8) -> bool {
    protocol == TCP || protocol == UDP
}

#[inline(always)]
fn is_dns(port: u16) -> u64 {
    // SAFETY: a field of a live static, whose value is frozen before the program loads.
    unsafe { is_one_of(&raw const FACTS.ports, port) }
}

/// Bytes and packets as they are on the wire, from the network layer on.
///
/// A large packet (`gso_size` is the payload of each segment) has its headers once; on the wire each segment has them. Some drivers
/// do not have the number of segments they consist of (`gso_segs` is 0); then it follows from the payload.
#[inline(always)]
fn on_the_wire(ctx: &SkBuffContext) -> (u64, u64) {
    let skb = ctx.skb.skb;
    // SAFETY: fields of the context.
    let (len, size) = unsafe { ((*skb).len as u64, (*skb).gso_size as u64) };
    if size == 0 {
        return (len, 1);
    }
    let Some(headers) = headers_len(ctx) else { return (len, 1) };
    // SAFETY: a field of the context.
    let noted = unsafe { (*skb).gso_segs as u64 };
    let segments = if noted > 0 { noted } else { (len.saturating_sub(headers) + size - 1) / (size | (size == 0) as u64) };
    let segments = if segments == 0 { 1 } else { segments };
    (len + (segments - 1) * headers, segments)
}

/// Bytes of a large packet's headers, which each of its segments has.
#[inline(always)]
fn headers_len(ctx: &SkBuffContext) -> Option<u64> {
    const UDP_HEADER: u64 = 8;
    // Up to the length of TCP's header.
    const IN_TCP: usize = 13;
    let linear = Linear::of(ctx);
    let tcp = |lengths: u8| (lengths >> 4) as u64 * 4;
    // SAFETY: in each case the packet reaches as far as is read.
    unsafe {
        if linear.reaches(20 + IN_TCP) {
            match (linear.byte(0), linear.byte(9)) {
                (PLAIN_V4, TCP) => return Some(20 + tcp(linear.byte(20 + IN_TCP - 1))),
                (PLAIN_V4, UDP) => return Some(20 + UDP_HEADER),
                _ => {}
            }
        }
        if linear.reaches(40 + IN_TCP) {
            match (linear.byte(0) >> 4, linear.byte(6)) {
                (6, TCP) => return Some(40 + tcp(linear.byte(40 + IN_TCP - 1))),
                (6, UDP) => return Some(40 + UDP_HEADER),
                _ => {}
            }
        }
    }
    // Options, extension headers, or headers that are not in the linear part.
    Packet::read(ctx).map(|packet| packet.payload as u64)
}
