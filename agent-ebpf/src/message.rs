//! Messages of DNS where they are: in a packet, or in memory.

use agent_common::dns::{HEAD_LEN, HEADER_LEN, Source};
use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};

use crate::{forgotten, length_within};

/// Bytes of a question that are read from a packet at once, a power of two. Few names are longer.
pub const PIECE_LEN: usize = 64;

/// A question in a packet, read piece by piece: a whole name is more than the stack of three functions has room for.
pub struct Pieces {
    /// The packet.
    skb: *mut __sk_buff,
    /// Where the message begins.
    at: u32,
    /// Bytes of the message.
    len: u32,
    /// [`PIECE_LEN`] bytes that are the caller's.
    piece: *mut u8,
}

impl Pieces {
    /// Of the message of `len` bytes that begins at `at`.
    ///
    /// # Safety
    /// `skb` must be a program's context, and `piece` must outlive the value and be used by nothing else.
    #[inline(always)]
    pub unsafe fn new(skb: *mut __sk_buff, at: u32, len: u32, piece: &mut [u64; PIECE_LEN / 8]) -> Self {
        Self { skb, at, len, piece: (&raw mut *piece).cast() }
    }
}

impl Source for Pieces {
    #[inline(always)]
    fn byte(&self, at: usize) -> Option<u8> {
        if at as u32 >= self.len {
            return None;
        }
        // On the stack: an interrupt may bring another packet to this CPU meanwhile.
        let place = (at - HEADER_LEN) & (PIECE_LEN - 1);
        if place == 0 {
            let left = self.len - at as u32;
            let left = length_within(if left > PIECE_LEN as u32 { PIECE_LEN as u64 } else { left as u64 }, PIECE_LEN as u64)?;
            // SAFETY: there is room for PIECE_LEN bytes; the helper refuses what lies beyond the packet.
            if unsafe { bpf_skb_load_bytes(self.skb.cast(), self.at + at as u32, self.piece.cast(), left as u32) } != 0 {
                return None;
            }
        }
        // SAFETY: `place` is below PIECE_LEN.
        Some(unsafe { *self.piece.add(place) })
    }

    #[inline(always)]
    fn forgotten(&self, number: u8, noise: u64) -> u8 {
        forgotten(number as u64, 127, noise) as u8
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
    fn forgotten(&self, number: u8, noise: u64) -> u8 {
        forgotten(number as u64, 127, noise) as u8
    }
}
