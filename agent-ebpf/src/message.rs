//! Messages of DNS where they are: in a packet, or in memory.

use agent_common::dns::{HEAD_LEN, HEADER_LEN, Source};
use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes, programs::SkBuffContext};

use crate::{
    forgotten, opaque,
    packet::{Linear, two_words_at},
};

/// Where a message begins at most to be read as memory: with its head's length it is within what the verifier allows for an offset.
const FARTHEST: u64 = 0x3fff;

/// A message in the part of a packet that is memory.
pub struct InLinear {
    message: Linear,
    len: u32,
}

impl InLinear {
    /// Of the message of `len` bytes that begins at `at`; `None` where that is too far from the packet's begin.
    #[inline(always)]
    pub fn new(skb: *const __sk_buff, at: u32, len: u32) -> Option<Self> {
        let at = opaque(at as u64);
        if at <= FARTHEST {
            Some(Self { message: Linear::of(&SkBuffContext::new(skb.cast_mut())).from(at as u32), len })
        } else {
            None
        }
    }

    /// Its header as it is on the wire, where that is in this part of the packet.
    #[inline(always)]
    pub fn header(&self) -> Option<[u32; 3]> {
        if !self.message.reaches(HEADER_LEN) {
            return None;
        }
        // SAFETY: it reaches so far.
        Some(unsafe { [self.message.word::<0>(), self.message.word::<4>(), self.message.word::<8>()] })
    }
}

impl Source for InLinear {
    #[inline(always)]
    fn byte(&self, at: usize) -> Option<u8> {
        let place = self.message.from(at as u32);
        // SAFETY: it reaches so far.
        if at as u32 >= self.len || !place.reaches(1) { None } else { Some(unsafe { place.byte(0) }) }
    }

    #[inline(always)]
    fn word(&self, at: usize) -> Option<u64> {
        let place = self.message.from(at as u32);
        // SAFETY: it reaches so far.
        if at as u32 + 8 > self.len || !place.reaches(8) { None } else { Some(unsafe { place.two_words() }) }
    }

    #[inline(always)]
    fn forgotten(&self, number: u8, noise: u64) -> u8 {
        forgotten(number as u64, 255, noise) as u8
    }
}

/// A message anywhere in a packet, of which the helper reads each byte and word.
pub struct Loaded {
    skb: *const __sk_buff,
    at: u32,
    len: u32,
}

impl Loaded {
    /// Of the message of `len` bytes that begins at `at`.
    #[inline(always)]
    pub fn new(skb: *const __sk_buff, at: u32, len: u32) -> Self {
        Self { skb, at, len }
    }
}

impl Source for Loaded {
    #[inline(always)]
    fn byte(&self, at: usize) -> Option<u8> {
        let mut byte = 0_u8;
        if at as u32 >= self.len {
            return None;
        }
        // SAFETY: of the length given; the helper refuses what lies beyond the packet.
        let failed = unsafe { bpf_skb_load_bytes(self.skb.cast(), self.at + at as u32, (&raw mut byte).cast(), 1) } != 0;
        if failed { None } else { Some(byte) }
    }

    #[inline(always)]
    fn word(&self, at: usize) -> Option<u64> {
        let mut word = 0_u64;
        if at as u32 + 8 > self.len {
            return None;
        }
        // SAFETY: of the length given; the helper refuses what lies beyond the packet.
        let failed = unsafe { bpf_skb_load_bytes(self.skb.cast(), self.at + at as u32, (&raw mut word).cast(), 8) } != 0;
        if failed { None } else { Some(word) }
    }

    #[inline(always)]
    fn forgotten(&self, number: u8, noise: u64) -> u8 {
        forgotten(number as u64, 255, noise) as u8
    }
}

/// The head of a message in memory, of which `len` bytes are there.
pub struct Head {
    /// Its first byte.
    at: *const u8,
    /// Bytes of the message, of which [`HEAD_LEN`] are in memory at most.
    len: u32,
}

impl Head {
    /// Of the message of `len` bytes.
    ///
    /// # Safety
    /// There must be [`HEAD_LEN`] bytes at `at`.
    #[inline(always)]
    pub unsafe fn new(at: *const u8, len: u32) -> Self {
        Self { at, len }
    }
}

impl Source for Head {
    #[inline(always)]
    fn byte(&self, at: usize) -> Option<u8> {
        if at as u32 >= self.len || at >= HEAD_LEN {
            return None;
        }
        // SAFETY: whoever makes one has HEAD_LEN bytes at the address.
        Some(unsafe { *self.at.add(at) })
    }

    #[inline(always)]
    fn word(&self, at: usize) -> Option<u64> {
        if at as u32 + 8 > self.len || at > HEAD_LEN - 8 {
            return None;
        }
        // SAFETY: whoever makes one has HEAD_LEN bytes at the address.
        Some(unsafe { two_words_at(self.at.add(at)) })
    }

    #[inline(always)]
    fn forgotten(&self, number: u8, noise: u64) -> u8 {
        forgotten(number as u64, 255, noise) as u8
    }
}
