//! Which connections are open: each is counted where it begins, and taken back where it ends.
//!
//! The slot is kept with the socket: a connection may outlive its cgroup, and is then no other's.

use agent_common::{
    socket::state,
    tcp::{Counted, Side},
};
use agent_ebpf::{add, exchanged, frozen, load8, socket::slot_of_full};

use crate::{EXCHANGES, FACTS, count::counts_of, programs::CGROUP_SLOTS};

/// Counts a connection as open, once.
#[inline(always)]
pub(crate) unsafe fn opened(counted: *mut Counted, tcp: u64, side: Side) {
    // SAFETY: a map value and typed loads.
    unsafe {
        let slot = slot_of_full(&CGROUP_SLOTS, tcp, &raw const FACTS.socket);
        let Some(counts) = counts_of(slot) else { return };
        if side != Side::Unknown {
            add((&raw mut (*counts).opened).cast::<u64>().add(side as usize & 1), 1);
        }
        if replaced(&raw mut (*counted).open, 0, side.word(slot)) {
            add((&raw mut (*counts).open).cast::<u64>().add(side as usize), 1);
        }
    }
}

/// Counts a connection that was found as open, if it is established and is not counted yet.
#[inline(always)]
pub(crate) unsafe fn found(counted: *mut Counted, tcp: u64) {
    // SAFETY: a typed load; see the callers.
    unsafe {
        let is_open = |found: u8| !matches!(found, state::SYN_SENT | state::SYN_RECV | state::CLOSE | state::LISTEN);
        if !is_open(load8(tcp, frozen!(FACTS.socket.state))) {
            return;
        }
        opened(counted, tcp, Side::Unknown);
        // It may have ended just before it was counted.
        if load8(tcp, frozen!(FACTS.socket.state)) == state::CLOSE {
            ended(counted, tcp);
        }
    }
}

/// Takes back a connection that has ended.
#[inline(always)]
pub(crate) unsafe fn ended(counted: *mut Counted, tcp: u64) {
    // SAFETY: a map value and typed loads.
    unsafe {
        let word = core::ptr::read_volatile(&raw const (*counted).open);
        if word == 0 || !replaced(&raw mut (*counted).open, word, 0) {
            return;
        }
        let slot = (word >> 32) as u32;
        // Another cgroup may have the slot of one that is gone.
        if slot_of_full(&CGROUP_SLOTS, tcp, &raw const FACTS.socket) != slot {
            return;
        }
        let Some(counts) = counts_of(slot) else { return };
        let side = word as u32;
        let open = (&raw mut (*counts).open).cast::<u64>();
        if side == Side::Client as u32 + 1 {
            add(open, u64::MAX);
        } else if side == Side::Server as u32 + 1 {
            add(open.add(1), u64::MAX);
        } else {
            add(open.add(2), u64::MAX);
        }
    }
}

/// Replaces a word, if it is `before`; where the kernel does not compare and exchange, another program may do so at the same moment.
#[inline(always)]
unsafe fn replaced(word: *mut u64, before: u64, to: u64) -> bool {
    // SAFETY: the caller's map value.
    unsafe {
        if EXCHANGES {
            return exchanged(word, before, to);
        }
        if core::ptr::read_volatile(word) != before {
            return false;
        }
        core::ptr::write_volatile(word, to);
        true
    }
}
