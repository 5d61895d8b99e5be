//! The dns signal: queries and answers on the ports of DNS, brought together where they pass the socket of a container.
//!
//! `network_on_egress` and `network_on_ingress` call these programs for packets to and from a DNS port; where that signal is off, they
//! are attached by themselves. They see a packet together with its socket: before it is fragmented or segmented on its way out,
//! after it is put together again on its way in, whatever network namespace and NAT it goes through. A packet is never changed,
//! and always goes on its way.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros make undocumented functions beside the documented ones")]

use agent_common::{
    cgroups::UNATTRIBUTED,
    dns::{
        ANSWERED_LEN, Answered, Connection, Counts4, DURATION_LEN, DnsCounts, Facts, GAPS_LEN, Gaps, HEADER_LEN, Message,
        NAME_LEN, NAMES_LEN, NO_QUESTION, Name, NameKey, PREFIX_LEN, QUERIES_LEN, Query, QueryKey, Refused, Row, RowKey,
        STREAM_HEAD, Side, Source, Stream, Taken, Transport, Way, duration_position, name_hash, parse, question, row_kind,
    },
    share::has_room,
};
use agent_ebpf::{
    CgroupSlots, MMAPABLE, add, forgotten, frozen, length_within,
    message::{Head, PIECE_LEN, Pieces},
    opaque,
    packet::{Packet, Protocol, is_copy, is_one_of},
    socket::first_byte,
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, BPF_F_NO_PREALLOC, BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::{Array, HashMap, SkStorage},
    helpers::generated::{
        bpf_get_socket_cookie, bpf_ktime_get_boot_ns, bpf_ktime_get_ns, bpf_sk_storage_get, bpf_skb_cgroup_id, bpf_skb_load_bytes,
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
// These two take memory for what is in them: most slots have no rows, and most queries are answered at once.
#[btf_map]
static DNS_ROWS: HashMap<RowKey, Row, 1, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
#[btf_map]
static DNS_IN_FLIGHT: HashMap<QueryKey, Query, 1, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
/// What was answered of late.
#[btf_map]
static DNS_ANSWERED: Array<Answered, ANSWERED_LEN> = Array::new();
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
/// A name that nobody asked for yet: too large for a program's stack.
#[btf_map]
static DNS_NO_NAME: Array<Name, 1> = Array::new();
#[btf_map]
static DNS_CONNECTIONS: SkStorage<Connection> = SkStorage::new();
#[btf_map]
static DNS_GAPS: Array<Gaps, 1, MMAPABLE> = Array::new();

/// Messages of one segment that are looked at.
const MESSAGES: u32 = 32;

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
    if own | theirs == 0 || packet.payload_len == 0 || (!EGRESS && is_copy(ctx)) {
        return None;
    }
    // SAFETY: helpers that take the packet.
    let (cgroup, cookie) = unsafe { (bpf_skb_cgroup_id(skb), bpf_get_socket_cookie(ctx.as_ptr())) };
    // SAFETY: the slot is copied out at once.
    let slot = unsafe { CGROUP_SLOTS.get(cgroup) }.copied().unwrap_or(UNATTRIBUTED);
    let counts = DNS_COUNTS.get_ptr_mut(slot)?;
    if matches!(transport, Transport::Udp) && packet.goes_to_many(ctx) {
        // Multicast DNS and LLMNR: whoever knows answers, and nobody has to.
        let side = if own != 0 { Side::Server } else { Side::Client };
        // SAFETY: a field of a map value.
        unsafe { one(&raw mut (*counts).other, Way { side, transport }) };
        return None;
    }
    let peer = if EGRESS { packet.destination_hash(ctx) } else { packet.source_hash(ctx) };
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

/// A message in a packet, of which `len` bytes are there.
struct InPacket {
    skb: *mut __sk_buff,
    at: u32,
    len: u32,
    header: [u8; HEADER_LEN],
}

impl InPacket {
    /// `None` where the packet ends before.
    #[inline(always)]
    fn new(skb: *mut __sk_buff, at: u32, len: u32) -> Self {
        let mut header = [0; HEADER_LEN];
        // SAFETY: as long as said; the helper refuses what lies beyond the packet.
        let loaded = unsafe { bpf_skb_load_bytes(skb.cast(), at, (&raw mut header).cast(), HEADER_LEN as u32) } == 0;
        Self { skb, at, len: if loaded { len } else { 0 }, header }
    }
}

impl Source for InPacket {
    #[inline(always)]
    fn byte(&self, at: usize) -> Option<u8> {
        if at as u32 >= self.len { None } else { self.header.get(at).copied() }
    }

    #[inline(always)]
    fn question(&self) -> Option<u64> {
        match dns_question_in_packet(self.skb, self.at, self.len) {
            0 => None,
            hash => Some(hash),
        }
    }
}

/// A message whose head is in its stream's memory, of which `len` bytes are there.
struct InStream {
    skb: *mut __sk_buff,
    at: *const u8,
    len: u32,
    egress: bool,
}

impl Source for InStream {
    #[inline(always)]
    fn byte(&self, at: usize) -> Option<u8> {
        // SAFETY: whoever makes one has the head of a message at the address.
        if at as u32 >= self.len || at >= HEADER_LEN { None } else { Some(unsafe { *self.at.add(at) }) }
    }

    #[inline(always)]
    fn question(&self) -> Option<u64> {
        match dns_question_in_stream(self.skb, self.egress as u32, self.len) {
            0 => None,
            hash => Some(hash),
        }
    }
}

/// The hash of the question of the message of `len` bytes at `at` in the packet, 0 when it cannot be read.
///
/// A global function, which the verifier looks at once, whatever calls it: hence numbers go in and out.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn dns_question_in_packet(skb: *mut __sk_buff, at: u32, len: u32) -> u64 {
    let mut piece = [0_u64; PIECE_LEN / 8];
    // SAFETY: the context; the piece is this function's.
    question(&unsafe { Pieces::new(skb, at, len, &mut piece) }).unwrap_or(0)
}

/// The hash of the name that begins at `at` in the packet, 0 when it cannot be read. A global function, as that above.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn dns_name_in_packet(skb: *mut __sk_buff, at: u32) -> u64 {
    let mut piece = [0_u64; PIECE_LEN / 8];
    let at = at.saturating_sub(HEADER_LEN as u32);
    // SAFETY: a field of the context.
    let len = unsafe { (*skb).len }.saturating_sub(at);
    // SAFETY: the context; the piece is this function's.
    name_hash(&unsafe { Pieces::new(skb, at, len, &mut piece) }).unwrap_or(0)
}

/// The same of a message of which the head is in the memory of its stream.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn dns_question_in_stream(skb: *mut __sk_buff, egress: u32, len: u32) -> u64 {
    let found = if egress != 0 { stream::<true>(skb) } else { stream::<false>(skb) };
    let Some((_, stream)) = found else { return 0 };
    // SAFETY: a field of a map value, of which the first bytes are the message's length.
    let at = unsafe { (&raw const (*stream).head).cast::<u8>().add(PREFIX_LEN) };
    // SAFETY: the head of a stream has so many.
    question(&unsafe { Head::new(at, len) }).unwrap_or(0)
}

/// What was read, with every field set in every case: the verifier refuses to copy what was never written, even where nobody uses it.
#[derive(Clone, Copy)]
struct Seen {
    refused: Option<Refused>,
    message: Message,
    /// Where its question begins in the packet, 0 when it is not in one packet.
    question_at: u32,
}

#[inline(always)]
fn see(source: &impl Source, question_at: u32) -> Seen {
    const NONE: Message = Message { id: 0, answer: false, truncated: false, rcode: 0, question: 0 };
    match parse(source) {
        Ok(message) => Seen { refused: None, message, question_at },
        Err(refused) => Seen { refused: Some(refused), message: NONE, question_at },
    }
}

/// The message in a datagram.
#[inline(always)]
fn datagram<const EGRESS: bool>(skb: *mut __sk_buff, packet: &Packet, flow: &Flow) {
    let seen = see(&InPacket::new(skb, packet.payload, packet.payload_len), packet.payload + HEADER_LEN as u32);
    take::<EGRESS>(skb, flow, &seen);
}

/// The messages in a segment, or what of them is in it.
#[inline(always)]
fn segment<const EGRESS: bool>(skb: *mut __sk_buff, packet: &Packet, flow: &Flow) {
    let place = (packet.payload as u64) << 32 | packet.payload_len as u64;
    let who = (flow.slot as u64) << 32 | flow.ends;
    for _ in 0..MESSAGES {
        let more = if EGRESS {
            dns_message_out(skb, packet.sequence, place, who)
        } else {
            dns_message_in(skb, packet.sequence, place, who)
        };
        if more == 0 {
            return;
        }
    }
    // More than are looked at.
    if let Some((_, stream)) = stream::<EGRESS>(skb) {
        // SAFETY: a map value.
        unsafe { lose(flow, stream, packet.sequence.wrapping_add(packet.payload_len)) };
    }
}

/// Looks at the next message of an outgoing segment; 0 when there is none left.
///
/// `first` is the segment's sequence number, `place` where its payload begins in the packet and, in the lower half, its length, `who`
/// the slot and, in the lower half, [`Flow::ends`]. A global function, which the verifier looks at once, whatever calls it how often:
/// hence numbers go in and out.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn dns_message_out(skb: *mut __sk_buff, first: u32, place: u64, who: u64) -> u32 {
    message::<true>(skb, first, place, who).is_some() as u32
}

/// The same of an incoming one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn dns_message_in(skb: *mut __sk_buff, first: u32, place: u64, who: u64) -> u32 {
    message::<false>(skb, first, place, who).is_some() as u32
}

#[inline(always)]
fn message<const EGRESS: bool>(skb: *mut __sk_buff, first: u32, place: u64, who: u64) -> Option<()> {
    let slot = (who >> 32) as u32;
    // SAFETY: a helper that takes the packet.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    let counts = DNS_COUNTS.get_ptr_mut(slot)?;
    let flow = Flow { counts, slot, peer: 0, cookie, transport: Transport::Tcp, ends: who & (OWN | THEIRS) };
    let (sk, stream) = stream::<EGRESS>(skb)?;
    // SAFETY: of this socket; a second CPU may have packets of the same direction only while the flow moves from one to the other.
    unsafe {
        if (*stream).state == 0 {
            begin::<EGRESS>(sk, stream, first);
        }
        follow::<EGRESS>(skb, first, (place >> 32) as u32, place as u32, &flow, stream)
    }
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

/// Follows one direction of a connection by sequence numbers, and counts the next message whose head ends in this segment; whether
/// there is more behind it.
#[inline(always)]
unsafe fn follow<const EGRESS: bool>(
    skb: *mut __sk_buff,
    first: u32,
    payload: u32,
    len: u32,
    flow: &Flow,
    stream: *mut Stream,
) -> Option<()> {
    // SAFETY: the caller's promise.
    unsafe {
        if (*stream).next.wrapping_sub(first).cast_signed() < 0 {
            // What lies between was not seen, or will come late.
            lose(flow, stream, first);
        }
        let ahead = (*stream).next.wrapping_sub(first);
        if ahead >= len {
            return None;
        }
        let Some((message_len, seen)) = next_message::<EGRESS>(skb, payload + ahead, len - ahead, stream) else {
            if (*stream).state != IN_STEP {
                (*stream).have = 0;
            }
            (*stream).next = first.wrapping_add(len);
            return None;
        };
        if (*stream).state != IN_STEP {
            // A message that goes the right way is hardly ever seen where none begins.
            if seen.refused.is_some() || side::<EGRESS>(flow, seen.message.answer).is_none() {
                (*stream).have = 0;
                (*stream).next = first.wrapping_add(len);
                return None;
            }
            (*stream).state = IN_STEP;
        }
        let begin = (*stream).next.wrapping_sub((*stream).have);
        (*stream).next = begin.wrapping_add(PREFIX_LEN as u32 + message_len);
        (*stream).have = 0;
        take::<EGRESS>(skb, flow, &seen);
        ((*stream).next.wrapping_sub(first) < len).then_some(())
    }
}

/// The message that goes on, or begins, at `at` in the packet, where `there` bytes are left, and its length. `None` when its head does
/// not end in this segment: what there is of it is then kept.
#[inline(always)]
unsafe fn next_message<const EGRESS: bool>(skb: *mut __sk_buff, at: u32, there: u32, stream: *mut Stream) -> Option<(u32, Seen)> {
    let ends = |bytes: u32, message_len: u32| bytes >= PREFIX_LEN as u32 + message_len || bytes >= STREAM_HEAD as u32;
    // SAFETY: the caller's map value; loads of the given length into live variables.
    unsafe {
        if (*stream).have == 0 && there >= PREFIX_LEN as u32 {
            let mut prefix = [0_u8; PREFIX_LEN];
            if bpf_skb_load_bytes(skb.cast(), at, (&raw mut prefix).cast(), PREFIX_LEN as u32) != 0 {
                return None;
            }
            let message_len = u16::from_be_bytes(prefix) as u32;
            if ends(there, message_len) {
                let begin = at + PREFIX_LEN as u32;
                return Some((message_len, see(&InPacket::new(skb, begin, message_len), begin + HEADER_LEN as u32)));
            }
        }
        let have = opaque((*stream).have as u64);
        if have >= STREAM_HEAD as u64 {
            return None;
        }
        let missing = STREAM_HEAD as u64 - have;
        let more = length_within(if missing < there as u64 { missing } else { there as u64 }, STREAM_HEAD as u64)?;
        let head = (&raw mut (*stream).head).cast::<u8>();
        if bpf_skb_load_bytes(skb.cast(), at, head.add(have as usize).cast(), more as u32) != 0 {
            return None;
        }
        let message_len = ((*head as u32) << 8) | *head.add(1) as u32;
        if have + more < PREFIX_LEN as u64 || !ends((have + more) as u32, message_len) {
            (*stream).have = (have + more) as u32;
            return None;
        }
        let seen = see(&InStream { skb, at: head.add(PREFIX_LEN), len: message_len, egress: EGRESS }, 0);
        Some((message_len, seen))
    }
}

/// Notes where the stream begins: with a connection's first byte, or in the middle of one that is older than the programs.
#[inline(always)]
unsafe fn begin<const EGRESS: bool>(sk: *mut bpf_sock, stream: *mut Stream, first: u32) {
    // SAFETY: a socket and a map value.
    unsafe {
        let begins = first_byte::<EGRESS>(sk);
        (*stream).next = begins.unwrap_or(first);
        (*stream).state = if begins.is_some() { IN_STEP } else { UNSURE };
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
            let Some(gaps) = DNS_GAPS.get_ptr_mut(flow.slot) else { return };
            let position = opaque(Gaps::position(flow.cookie) as u64) as usize & (GAPS_LEN - 1);
            *(&raw mut (*gaps).at_ns).cast::<u64>().add(position) = bpf_ktime_get_ns();
            *(&raw mut (*gaps).cookies).cast::<u64>().add(position) = flow.cookie;
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

/// Counts a message, and the name in a client's query where that is wanted.
///
/// Not while the message is counted: all functions that call each other share 512 bytes of stack.
#[inline(always)]
fn take<const EGRESS: bool>(skb: *mut __sk_buff, flow: &Flow, seen: &Seen) {
    count::<EGRESS>(flow, seen);
    let asks = EGRESS && flow.ends & THEIRS != 0 && seen.refused.is_none() && !seen.message.answer;
    if frozen!(FACTS.names) != 0 && asks && seen.question_at != 0 && seen.message.question != NO_QUESTION {
        let name = dns_name_in_packet(skb, seen.question_at);
        dns_note_name(skb, flow.slot, seen.question_at, name);
    }
}

/// Counts a message.
#[inline(never)]
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
            id: message.id as u32 | (way.index() as u32) << 16,
            peer: if many { flow.peer } else { 0 },
        };
        if message.answer {
            answered(flow, way, &key, message);
        } else {
            asked(flow, way, &key, message.question);
        }
    }
}

/// Counts a name of a slot by its hash; it begins at `at` in the packet. 0 when there is no room.
///
/// A global function, as those above.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn dns_note_name(skb: *mut __sk_buff, slot: u32, at: u32, name: u64) -> u32 {
    note_name(skb, &NameKey { name, slot, reserved: 0 }, at).is_some() as u32
}

#[inline(always)]
fn note_name(skb: *mut __sk_buff, key: &NameKey, at: u32) -> Option<()> {
    // SAFETY: map values; a field of the context; as many bytes are loaded as there is room for.
    unsafe {
        let name = match DNS_NAMES.get_ptr_mut(key) {
            Some(name) => name,
            None => {
                let none = DNS_NO_NAME.get_ptr(0)?.as_ref()?;
                let (own, all) = (DNS_TAKEN.get_ptr_mut(key.slot)?, DNS_TAKEN_ALL.get_ptr_mut(0)?);
                if !has_room((*own).names, (*all).names, NAMES_LEN) {
                    return None;
                }
                // Another CPU may be first; then both write the same name.
                if DNS_NAMES.insert(key, none, BPF_NOEXIST.into()).is_ok() {
                    add(&raw mut (*own).names, 1);
                    add(&raw mut (*all).names, 1);
                }
                let name = DNS_NAMES.get_ptr_mut(key)?;
                (*name).first_ns = bpf_ktime_get_boot_ns();
                const ROOM: u64 = (NAME_LEN + 1) as u64;
                let left = (*skb).len.saturating_sub(at) as u64;
                let len = length_within(if left < ROOM { left } else { ROOM }, ROOM)?;
                bpf_skb_load_bytes(skb.cast(), at, (&raw mut (*name).wire).cast(), len as u32);
                name
            }
        };
        add(&raw mut (*name).queries, 1);
    }
    Some(())
}

#[inline(always)]
unsafe fn asked(flow: &Flow, way: Way, key: &QueryKey, question: u64) {
    const EEXIST: i32 = 17;
    const ENOSPC: i32 = 28;
    // SAFETY: map values; a helper without arguments.
    unsafe {
        one(&raw mut (*flow.counts).queries, way);
        let now_ns = bpf_ktime_get_ns();
        let query = Query { asked_ns: now_ns, question, slot: flow.slot, reserved: 0 };
        let (Some(own), Some(all)) = (DNS_TAKEN.get_ptr_mut(flow.slot), DNS_TAKEN_ALL.get_ptr_mut(0)) else { return };
        let noted = if has_room((*own).queries, (*all).queries, QUERIES_LEN) {
            DNS_IN_FLIGHT.insert(key, query, BPF_NOEXIST.into())
        } else if DNS_IN_FLIGHT.get_ptr(key).is_some() {
            Err(-EEXIST)
        } else {
            Err(-ENOSPC)
        };
        match noted {
            Ok(()) => in_flight(flow.slot, 1),
            Err(error) if error == -EEXIST => {
                let Some(before) = DNS_IN_FLIGHT.get_ptr_mut(key) else {
                    // Answered this very moment.
                    return one(&raw mut (*flow.counts).retries, way);
                };
                let in_time = now_ns.wrapping_sub((*before).asked_ns) < frozen!(FACTS.timeout_ns);
                if in_time && (*before).question == question {
                    return one(&raw mut (*flow.counts).retries, way);
                }
                // Too late for the first, which nobody has taken away yet; or another question took its id.
                if let Some(counts) = DNS_COUNTS.get_ptr_mut((*before).slot) {
                    one(if in_time { &raw mut (*counts).lost } else { &raw mut (*counts).timeouts }, way);
                }
                in_flight((*before).slot, u64::MAX);
                in_flight(flow.slot, 1);
                (*before).question = question;
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
        let now_ns = bpf_ktime_get_ns();
        let hash = key.hash();
        let Some(remembered) = DNS_ANSWERED.get_ptr_mut(Answered::position(hash) as u32) else { return };
        let query = DNS_IN_FLIGHT.get(key).copied().filter(|query| message.answers(query.question));
        // Whoever removes it counts it.
        let Some(query) = query.filter(|_| DNS_IN_FLIGHT.remove(key).is_ok()) else {
            if !(*remembered).was(hash, message, now_ns, frozen!(FACTS.timeout_ns)) {
                return one(&raw mut (*flow.counts).unmatched, way);
            }
            (*remembered).at_ns = now_ns;
            return one(&raw mut (*flow.counts).duplicates, way);
        };
        in_flight(query.slot, u64::MAX);
        let Some(counts) = DNS_COUNTS.get_ptr_mut(query.slot) else { return };
        let took_ns = now_ns.saturating_sub(query.asked_ns);
        if took_ns >= frozen!(FACTS.timeout_ns) {
            one(&raw mut (*flow.counts).unmatched, way);
            return one(&raw mut (*counts).timeouts, way);
        }
        *remembered = Answered { key: hash, question: query.question, at_ns: now_ns };
        let Some(row) = row(&RowKey { slot: query.slot, kind: row_kind(way, message.rcode) }) else {
            return one(&raw mut (*counts).lost, way);
        };
        if message.truncated {
            one(&raw mut (*counts).truncated, way);
        }
        let position = opaque(dns_duration_position(took_ns));
        if position < DURATION_LEN as u64 {
            add((&raw mut (*row).buckets).cast::<u64>().add(position as usize), 1);
            add(&raw mut (*row).sum_ns, took_ns);
        }
    }
}

/// Notes that a slot has `n` more queries in flight, one less with the largest number.
#[inline(always)]
unsafe fn in_flight(slot: u32, n: u64) {
    // SAFETY: map values.
    unsafe {
        if let (Some(own), Some(all)) = (DNS_TAKEN.get_ptr_mut(slot), DNS_TAKEN_ALL.get_ptr_mut(0)) {
            add(&raw mut (*own).queries, n);
            add(&raw mut (*all).queries, n);
        }
    }
}

/// Where a duration counts: a global function, since each of its many ways would be followed once for each message.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn dns_duration_position(ns: u64) -> u64 {
    duration_position(ns) as u64
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
