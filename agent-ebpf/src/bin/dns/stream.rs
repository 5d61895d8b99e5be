//! Messages in TCP streams: each direction of a connection is followed by its sequence numbers.

use agent_common::dns::{GAPS_LEN, Gaps, HEADER_LEN, PREFIX_LEN, STREAM_HEAD, Side, Stream, Transport, Way};
use agent_ebpf::{length_within, opaque, packet::Packet, socket::first_byte};
use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_skb_load_bytes},
};

use aya_log_ebpf::debug;

use crate::{
    DNS_COUNTS, DNS_GAPS, Flow, OWN, THEIRS,
    lookup::{one, side, take},
    message::{InPacket, InStream, Seen, see, stream},
};

/// Messages of one segment that are read at most.
const MESSAGES: u32 = 32;

/// States of a [`Stream`].
const UNSURE: u32 = 1;
const IN_STEP: u32 = 2;

/// The messages in a segment, or what of them is in it.
#[inline(always)]
pub(crate) fn segment<const EGRESS: bool>(skb: *mut __sk_buff, packet: &Packet, flow: &Flow) {
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
    // More than are read.
    if let Some((_, stream)) = stream::<EGRESS>(skb) {
        // SAFETY: a map value.
        unsafe { lose(flow, stream, packet.sequence.wrapping_add(packet.payload_len)) };
    }
}

/// Looks at the next message of an outgoing segment; 0 when there is none left.
///
/// `first` is the segment's sequence number, `place` where its payload begins in the packet and, in the lower half, its length, `who`
/// the slot and, in the lower half, [`Flow::ends`]. A global function, which the verifier checks once, however often it is called:
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

/// Follows one direction of a connection by sequence numbers, and counts the next message with its head's end in this segment; whether
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
            dns_log_gap(flow.slot, flow.cookie, next);
        }
    }
}

/// A global function: it is called from many places, and verified once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn dns_log_gap(slot: u32, cookie: u64, next: u32) -> u32 {
    debug!((), "a DNS connection of slot {}, socket cookie {}, lost its place before byte {}", slot, cookie, next);
    0
}
