//! One message, in a packet or in the memory of its stream: header, question and name.

use agent_common::dns::{Connection, HEADER_LEN, Message, PREFIX_LEN, Refused, Source, Stream, name_hash, parse, question};
use agent_ebpf::message::{Head, InLinear, Loaded};
use aya_ebpf::{
    bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::generated::{bpf_sk_storage_get, bpf_skb_load_bytes},
};

use crate::DNS_CONNECTIONS;

/// A message in a packet, of which `len` bytes are there.
pub(crate) struct InPacket {
    skb: *mut __sk_buff,
    at: u32,
    len: u32,
    header: [u8; HEADER_LEN],
}

impl InPacket {
    /// `None` where the packet ends before.
    #[inline(always)]
    pub(crate) fn new(skb: *mut __sk_buff, at: u32, len: u32) -> Self {
        if let Some(words) = InLinear::new(skb, at, len).and_then(|message| message.header()) {
            // SAFETY: three words are twelve bytes, of which any will do.
            return Self { skb, at, len, header: unsafe { core::mem::transmute::<[u32; 3], [u8; HEADER_LEN]>(words) } };
        }
        let mut header = [0; HEADER_LEN];
        // SAFETY: of the length given; the helper refuses what lies beyond the packet.
        let loaded = unsafe { bpf_skb_load_bytes(skb.cast(), at, (&raw mut header).cast(), HEADER_LEN as u32) } == 0;
        Self { skb, at, len: if loaded { len } else { 0 }, header }
    }
}

impl Source for InPacket {
    #[inline(always)]
    fn byte(&self, at: usize) -> Option<u8> {
        if at as u32 >= self.len { None } else { self.header.get(at).copied() }
    }

    /// Only the question is read by words, in a function of its own.
    #[inline(always)]
    fn word(&self, _: usize) -> Option<u64> {
        None
    }

    #[inline(always)]
    fn question(&self) -> Option<u64> {
        match dns_question_in_packet(self.skb, self.at, self.len) {
            0 => None,
            hash => Some(hash),
        }
    }
}

/// A message with its head in its stream's memory, of which `len` bytes are there.
pub(crate) struct InStream {
    pub(crate) skb: *mut __sk_buff,
    pub(crate) at: *const u8,
    pub(crate) len: u32,
    pub(crate) egress: bool,
}

impl Source for InStream {
    #[inline(always)]
    fn byte(&self, at: usize) -> Option<u8> {
        // SAFETY: whoever makes one has the head of a message at the address.
        if at as u32 >= self.len || at >= HEADER_LEN { None } else { Some(unsafe { *self.at.add(at) }) }
    }

    /// As in a packet.
    #[inline(always)]
    fn word(&self, _: usize) -> Option<u64> {
        None
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
/// A global function, which the verifier checks once, whatever calls it: hence numbers go in and out.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn dns_question_in_packet(skb: *mut __sk_buff, at: u32, len: u32) -> u64 {
    // What cannot be read as memory may lie behind it.
    let found = InLinear::new(skb, at, len).and_then(|message| question(&message));
    found.or_else(|| question(&Loaded::new(skb, at, len))).unwrap_or(0)
}

/// The hash of the name that begins at `at` in the packet, 0 when it cannot be read. A global function, as that above.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn dns_name_in_packet(skb: *mut __sk_buff, at: u32) -> u64 {
    let at = at.saturating_sub(HEADER_LEN as u32);
    // SAFETY: a field of the context.
    let len = unsafe { (*skb).len }.saturating_sub(at);
    let found = InLinear::new(skb, at, len).and_then(|message| name_hash(&message));
    found.or_else(|| name_hash(&Loaded::new(skb, at, len))).unwrap_or(0)
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

/// What was read, with every field set in every case: the verifier refuses to copy what was never written, even where it is not used.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) refused: Option<Refused>,
    pub(crate) message: Message,
    /// Where its question begins in the packet, 0 when it is not in one packet.
    pub(crate) question_at: u32,
}

#[inline(always)]
pub(crate) fn see(source: &impl Source, question_at: u32) -> Seen {
    const NONE: Message = Message { id: 0, answer: false, truncated: false, rcode: 0, question: 0 };
    match parse(source) {
        Ok(message) => Seen { refused: None, message, question_at },
        Err(refused) => Seen { refused: Some(refused), message: NONE, question_at },
    }
}

/// A packet's socket, and one direction of its connection.
#[inline(always)]
pub(crate) fn stream<const EGRESS: bool>(skb: *mut __sk_buff) -> Option<(*mut bpf_sock, *mut Stream)> {
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
