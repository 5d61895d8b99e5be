//! The dns signal: queries and answers on the ports of DNS, brought together where they pass the socket of a container.
//!
//! `network_on_egress` and `network_on_ingress` call these programs for packets to and from a DNS port; where that signal is off, they
//! are attached by themselves. They see a packet together with its socket: before it is fragmented or segmented on its way out,
//! after it is put together again on its way in, whatever network namespace and NAT it goes through. A packet is never changed,
//! and always goes on its way.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros make undocumented functions beside the documented ones")]

use core::mem::MaybeUninit;

use agent_common::{
    cgroups::UNATTRIBUTED,
    dns::{
        Connection, Counts4, DURATION_LEN, DnsCounts, Facts, HEAD_LEN, Message, PREFIX_LEN, Query, QueryKey, Refused, Row,
        RowKey, STREAM_HEAD, Side, Source, Stream, Transport, Way, duration_position, parse, row_kind,
    },
};
use agent_ebpf::{
    CgroupSlots, MMAPABLE, add, forgotten, frozen, opaque,
    packet::{Packet, Protocol},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, BPF_F_NO_PREALLOC, BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::{Array, HashMap, LruHashMap, ProgramArray, SkStorage},
    helpers::generated::{
        bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_sk_storage_get, bpf_skb_cgroup_id, bpf_skb_load_bytes, bpf_tcp_sock,
    },
    macros::{btf_map, cgroup_skb},
    programs::SkBuffContext,
};

agent_ebpf::object!();

#[unsafe(no_mangle)]
static FACTS: Facts = Facts::ZERO;

#[btf_map]
static CGROUP_SLOTS: CgroupSlots = CgroupSlots::new();
/// One copy for all CPUs, added to atomically: the agent adds too. DNS is rare enough for that.
#[btf_map]
static DNS_COUNTS: Array<DnsCounts, 1, MMAPABLE> = Array::new();
/// Not touched here: the agent's, kept where it outlives the agent.
#[btf_map]
static DNS_COUNTS_CARRIED: Array<DnsCounts, 1, MMAPABLE> = Array::new();
// These two take memory for what is in them: most slots have no rows, and most queries are answered at once.
#[btf_map]
static DNS_ROWS: HashMap<RowKey, Row, 1, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
#[btf_map]
static DNS_IN_FLIGHT: HashMap<QueryKey, Query, 1, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
/// A row without counts: too large for a program's stack.
#[btf_map]
static DNS_EMPTY_ROW: Array<Row, 1> = Array::new();
#[btf_map]
static DNS_CONNECTIONS: SkStorage<Connection> = SkStorage::new();
/// When the stream of a connection, by its cookie, was last lost, on CLOCK_MONOTONIC in ns: what was asked before on it may have been
/// answered unseen.
#[btf_map]
static DNS_GAPS: LruHashMap<u64, u64, 256> = LruHashMap::new();

/// 64-bit words that hold a message's head.
const HEAD_WORDS: usize = HEAD_LEN.div_ceil(8);

// The programs themselves. Programs that are attached in different ways cannot share a table.
#[btf_map]
static DNS_EGRESS_AGAIN: ProgramArray<1> = ProgramArray::new();
#[btf_map]
static DNS_INGRESS_AGAIN: ProgramArray<1> = ProgramArray::new();

/// Messages of one segment that one run of a program looks at; the next run takes the next ones. More would take the verifier longer.
const MESSAGES: u32 = 2;

/// States of a [`Stream`].
const UNSURE: u32 = 1;
const IN_STEP: u32 = 2;

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
    if !own && !theirs || packet.payload_len == 0 {
        return None;
    }
    // SAFETY: helpers that take the packet.
    let (cgroup, cookie) = unsafe { (bpf_skb_cgroup_id(skb), bpf_get_socket_cookie(ctx.as_ptr())) };
    // SAFETY: the slot is copied out at once.
    let slot = unsafe { CGROUP_SLOTS.get(cgroup) }.copied().unwrap_or(UNATTRIBUTED);
    let counts = DNS_COUNTS.get_ptr_mut(slot)?;
    let peer = if EGRESS { packet.destination_hash(ctx) } else { packet.source_hash(ctx) };
    let ends = forgotten(own as u64 * OWN | theirs as u64 * THEIRS, OWN | THEIRS, cookie);
    packet.payload = forgotten(packet.payload as u64, 0xffff, cookie) as u32;
    packet.payload_len = forgotten(packet.payload_len as u64, 0x000f_ffff, cookie) as u32;
    let flow = Flow { counts, slot, peer, cookie, transport, ends };
    match transport {
        Transport::Udp => {
            datagram::<EGRESS>(skb, &packet, &flow);
        }
        Transport::Tcp => {
            if segment::<EGRESS>(skb, &packet, &flow) {
                // SAFETY: the same program, for the messages that are left; what it has to know is in the stream.
                unsafe {
                    if EGRESS {
                        DNS_EGRESS_AGAIN.tail_call(ctx, 0);
                    } else {
                        DNS_INGRESS_AGAIN.tail_call(ctx, 0);
                    }
                }
                // As often as the kernel allows already.
                give_up::<EGRESS>(skb, &packet, &flow);
            }
        }
    }
    Some(())
}

#[inline(always)]
fn is_dns(port: u16) -> bool {
    let ports = &raw const FACTS.ports;
    (0..agent_common::dns::PORTS_LEN).any(|i| {
        // SAFETY: an element of a field of a live static, whose value is replaced before the program loads.
        let known = unsafe { core::ptr::read_volatile(ports.cast::<u64>().add(i)) };
        known != 0 && known == port as u64
    })
}

/// A message at an address, of which `len` bytes are there.
struct Bytes {
    at: *const u8,
    len: u32,
}

impl Source for Bytes {
    #[inline(always)]
    fn byte(&self, at: usize) -> Option<u8> {
        if at as u32 >= self.len || at >= HEAD_LEN {
            return None;
        }
        // SAFETY: whoever makes one has HEAD_LEN bytes at the address.
        Some(unsafe { *self.at.add(at) })
    }

    #[inline(always)]
    fn forgotten(&self, number: u8, noise: u64) -> u8 {
        forgotten(number as u64, 63, noise) as u8
    }
}

/// What was read, with every field set in every case: the verifier refuses to copy what was never written, even where nobody uses it.
#[derive(Clone, Copy)]
struct Seen {
    refused: Option<Refused>,
    message: Message,
}

#[inline(always)]
fn see(bytes: &Bytes) -> Seen {
    const NONE: Message = Message { id: 0, answer: false, truncated: false, rcode: 0, question: 0 };
    match parse(bytes) {
        Ok(message) => Seen { refused: None, message },
        Err(refused) => Seen { refused: Some(refused), message: NONE },
    }
}

/// The message in a datagram.
#[inline(never)]
fn datagram<const EGRESS: bool>(skb: *mut __sk_buff, packet: &Packet, flow: &Flow) -> Option<()> {
    // On the stack: an interrupt may bring another packet to this CPU meanwhile.
    let mut head = MaybeUninit::<[u64; HEAD_WORDS]>::uninit();
    let words = head.as_mut_ptr().cast::<u64>();
    for i in 0..HEAD_WORDS {
        // SAFETY: within `head`. Volatile, or it would be a loop over bytes.
        unsafe { words.add(i).write_volatile(0) };
    }
    let len = if packet.payload_len > HEAD_LEN as u32 { HEAD_LEN as u32 } else { packet.payload_len };
    let len = opaque(len as u64);
    if len == 0 || len > HEAD_LEN as u64 {
        return None;
    }
    // SAFETY: `head` has room for `len` bytes; the helper refuses what lies beyond the packet.
    if unsafe { bpf_skb_load_bytes(skb.cast(), packet.payload, words.cast(), len as u32) } != 0 {
        return None;
    }
    let seen = see(&Bytes { at: words.cast(), len: forgotten(len, 511, flow.cookie) as u32 });
    count::<EGRESS>(flow, &seen);
    Some(())
}

/// The messages in a segment, or what of them is in it. True when there may be more of them.
#[inline(never)]
fn segment<const EGRESS: bool>(skb: *mut __sk_buff, packet: &Packet, flow: &Flow) -> bool {
    // SAFETY: of this socket; a second CPU may have packets of the same direction only while the flow moves from one to the other.
    match stream::<EGRESS>(skb) {
        Some((sk, stream)) => unsafe { follow::<EGRESS>(skb, sk, packet, flow, stream) },
        None => false,
    }
}

/// Leaves the rest of a segment alone.
#[inline(never)]
fn give_up<const EGRESS: bool>(skb: *mut __sk_buff, packet: &Packet, flow: &Flow) -> bool {
    let Some((_, stream)) = stream::<EGRESS>(skb) else { return false };
    // SAFETY: as above.
    unsafe { lose(flow, stream, packet.sequence.wrapping_add(packet.payload_len)) };
    true
}

/// A packet's socket, and one direction of its connection.
#[inline(always)]
fn stream<const EGRESS: bool>(skb: *mut __sk_buff) -> Option<(*mut bpf_sock, *mut Stream)> {
    // SAFETY: a field of the packet's context, which is 0 without a socket.
    let sk = unsafe { (*skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return None;
    }
    // SAFETY: a socket, and a map of socket storage; a new value is all zero.
    let connection: *mut Connection = unsafe {
        bpf_sk_storage_get(
            (&raw const DNS_CONNECTIONS).cast_mut().cast(),
            sk.cast(),
            core::ptr::null_mut(),
            BPF_SK_STORAGE_GET_F_CREATE.into(),
        )
        .cast()
    };
    if connection.is_null() {
        return None;
    }
    // SAFETY: fields of a map value.
    Some((sk, unsafe { if EGRESS { &raw mut (*connection).egress } else { &raw mut (*connection).ingress } }))
}

/// Follows one direction of a connection by sequence numbers, and counts the messages whose head ends in this segment.
#[inline(always)]
unsafe fn follow<const EGRESS: bool>(
    skb: *mut __sk_buff,
    sk: *mut bpf_sock,
    packet: &Packet,
    flow: &Flow,
    stream: *mut Stream,
) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let (first, len) = (packet.sequence, packet.payload_len);
        if (*stream).state == 0 {
            begin::<EGRESS>(sk, stream, first);
        }
        for _ in 0..MESSAGES {
            let ahead = (*stream).next.wrapping_sub(first);
            if ahead.cast_signed() < 0 {
                // What lies between was not seen, or will come late.
                lose(flow, stream, first);
                continue;
            }
            if ahead >= len {
                return false;
            }
            let have = opaque((*stream).have as u64);
            if have >= STREAM_HEAD as u64 {
                return false;
            }
            let missing = STREAM_HEAD as u64 - have;
            let there = (len - ahead) as u64;
            let more = opaque(if missing < there { missing } else { there });
            if more == 0 || more > STREAM_HEAD as u64 {
                return false;
            }
            let to = (&raw mut (*stream).head).cast::<u8>().add(have as usize);
            if bpf_skb_load_bytes(skb.cast(), packet.payload + ahead, to.cast(), more as u32) != 0 {
                return false;
            }
            let begin = (*stream).next.wrapping_sub(have as u32);
            let have = (have + more) as u32;
            let message_len = (((*stream).head[0] as u32) << 8) | (*stream).head[1] as u32;
            let complete = have >= PREFIX_LEN as u32 + message_len || have >= STREAM_HEAD as u32;
            if have < PREFIX_LEN as u32 || !complete {
                let sure = (*stream).state == IN_STEP;
                (*stream).have = if sure { have } else { 0 };
                (*stream).next = first.wrapping_add(len);
                return false;
            }
            let at = (&raw const (*stream).head).cast::<u8>().add(PREFIX_LEN);
            let seen = see(&Bytes { at, len: forgotten(message_len as u64, 0xffff, flow.cookie) as u32 });
            if (*stream).state != IN_STEP {
                // A message that goes the right way is hardly ever seen where none begins.
                if seen.refused.is_some() || side::<EGRESS>(flow, seen.message.answer).is_none() {
                    (*stream).next = first.wrapping_add(len);
                    return false;
                }
                (*stream).state = IN_STEP;
            }
            (*stream).next = begin.wrapping_add(PREFIX_LEN as u32 + message_len);
            (*stream).have = 0;
            count::<EGRESS>(flow, &seen);
        }
        (*stream).next.wrapping_sub(first) < len
    }
}

/// Notes where the stream begins: with a connection's first byte, or in the middle of one that is older than the programs.
#[inline(always)]
unsafe fn begin<const EGRESS: bool>(sk: *mut bpf_sock, stream: *mut Stream, first: u32) {
    // SAFETY: a socket, of which the helper makes sure that it is TCP's; a map value.
    unsafe {
        (*stream).state = UNSURE;
        (*stream).next = first;
        let tcp = bpf_tcp_sock(sk);
        if tcp.is_null() {
            return;
        }
        let next = if EGRESS {
            // The SYN counts among what was acknowledged on the side that sent it first.
            if (*tcp).bytes_acked > 1 {
                return;
            }
            (*tcp).snd_una
        } else {
            if (*tcp).bytes_received > 0 {
                return;
            }
            (*tcp).rcv_nxt
        };
        (*stream).next = next;
        (*stream).state = IN_STEP;
    }
}

/// It is not known any more where a message begins; perhaps at `next`.
#[inline(always)]
unsafe fn lose(flow: &Flow, stream: *mut Stream, next: u32) {
    // SAFETY: a map value; a helper without arguments.
    unsafe {
        let was_in_step = (*stream).state == IN_STEP;
        (*stream).state = UNSURE;
        (*stream).next = next;
        (*stream).have = 0;
        if was_in_step {
            let side = if flow.ends & OWN != 0 { Side::Server } else { Side::Client };
            one(&raw mut (*flow.counts).gaps, Way { side, transport: flow.transport });
            let _ = DNS_GAPS.insert(flow.cookie, bpf_ktime_get_ns(), 0);
        }
    }
}

/// The side of a message: queries go out from clients and come in to servers. `None` when it goes the wrong way.
#[inline(always)]
fn side<const EGRESS: bool>(flow: &Flow, answer: bool) -> Option<Side> {
    let client = EGRESS != answer;
    match client {
        true if flow.ends & THEIRS != 0 => Some(Side::Client),
        false if flow.ends & OWN != 0 => Some(Side::Server),
        _ => None,
    }
}

/// Counts a message.
#[inline(always)]
fn count<const EGRESS: bool>(flow: &Flow, seen: &Seen) {
    let by_port = if flow.ends & OWN != 0 { Side::Server } else { Side::Client };
    let mut way = Way { side: by_port, transport: flow.transport };
    // SAFETY: fields of a map value.
    unsafe {
        match seen.refused {
            None => {}
            Some(Refused::Malformed) => return one(&raw mut (*flow.counts).malformed, way),
            Some(Refused::Other) => return one(&raw mut (*flow.counts).other, way),
        }
        let message = &seen.message;
        let Some(side) = side::<EGRESS>(flow, message.answer) else {
            return one(&raw mut (*flow.counts).unmatched, way);
        };
        way.side = side;
        let many = matches!((side, flow.transport), (Side::Server, Transport::Udp));
        let key = QueryKey {
            cookie: flow.cookie,
            question: message.question,
            id: message.id as u32 | (way.index() as u32) << 16,
            peer: if many { flow.peer } else { 0 },
        };
        if message.answer {
            answered(flow, way, &key, message);
        } else {
            asked(flow, way, &key);
        }
    }
}

#[inline(always)]
unsafe fn asked(flow: &Flow, way: Way, key: &QueryKey) {
    const EEXIST: i32 = 17;
    // SAFETY: map values; a helper without arguments.
    unsafe {
        one(&raw mut (*flow.counts).queries, way);
        let now_ns = bpf_ktime_get_ns();
        let query = Query { asked_ns: now_ns, slot: flow.slot, reserved: 0 };
        match DNS_IN_FLIGHT.insert(key, query, BPF_NOEXIST.into()) {
            Ok(()) => {}
            Err(error) if error == -EEXIST => {
                let Some(before) = DNS_IN_FLIGHT.get_ptr_mut(key) else {
                    // Answered this very moment.
                    return one(&raw mut (*flow.counts).retries, way);
                };
                if now_ns.wrapping_sub((*before).asked_ns) < frozen!(FACTS.timeout_ns) {
                    return one(&raw mut (*flow.counts).retries, way);
                }
                // Too late for the first, which nobody has taken away yet.
                if let Some(counts) = DNS_COUNTS.get_ptr_mut((*before).slot) {
                    one(&raw mut (*counts).timeouts, way);
                }
                (*before).slot = flow.slot;
                (*before).asked_ns = now_ns;
            }
            Err(_) => one(&raw mut (*flow.counts).lost, way),
        }
    }
}

#[inline(always)]
unsafe fn answered(flow: &Flow, way: Way, key: &QueryKey, message: &Message) {
    // SAFETY: map values; a helper without arguments.
    unsafe {
        let Some(query) = DNS_IN_FLIGHT.get(key).copied() else {
            return one(&raw mut (*flow.counts).unmatched, way);
        };
        // Whoever removes it counts it.
        if DNS_IN_FLIGHT.remove(key).is_err() {
            return one(&raw mut (*flow.counts).unmatched, way);
        }
        let Some(counts) = DNS_COUNTS.get_ptr_mut(query.slot) else { return };
        let took_ns = bpf_ktime_get_ns().saturating_sub(query.asked_ns);
        if took_ns >= frozen!(FACTS.timeout_ns) {
            one(&raw mut (*flow.counts).unmatched, way);
            return one(&raw mut (*counts).timeouts, way);
        }
        let Some(row) = row(&RowKey { slot: query.slot, kind: row_kind(way, message.rcode) }) else {
            return one(&raw mut (*counts).lost, way);
        };
        if message.truncated {
            one(&raw mut (*counts).truncated, way);
        }
        let position = duration_position(took_ns);
        if position < DURATION_LEN {
            add((&raw mut (*row).buckets).cast::<u64>().add(position), 1);
            add(&raw mut (*row).sum_ns, took_ns);
        }
    }
}

/// The row of durations, made now if it is the first.
#[inline(always)]
fn row(key: &RowKey) -> Option<*mut Row> {
    if let Some(row) = DNS_ROWS.get_ptr_mut(key) {
        return Some(row);
    }
    // SAFETY: never written.
    let empty = unsafe { DNS_EMPTY_ROW.get_ptr(0)?.as_ref()? };
    // Another CPU may be first; then that one's is found.
    let _ = DNS_ROWS.insert(key, empty, BPF_NOEXIST.into());
    DNS_ROWS.get_ptr_mut(key)
}

/// Adds one to one of four counts.
#[inline(always)]
unsafe fn one(counts: *mut Counts4, way: Way) {
    // SAFETY: the index is below four; the caller's pointer is into a map value.
    unsafe { add(counts.cast::<u64>().add(opaque(way.index() as u64) as usize & 3), 1) }
}
