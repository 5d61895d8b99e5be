//! What a socket has sent: the difference between two reads of its totals, counted exactly once.
//!
//! Two programs may count one socket at the same moment: what happens to a connection is reported under the socket's lock, and the
//! walk over all sockets does not take it. Up to where a socket has been counted is therefore one word, which is replaced by compare
//! and exchange: only the program that replaces it adds the difference, and the other looks again.
//!
//! Where the kernel does not compare and exchange, both may add it, when they read the word before either has written it: within some
//! instructions.

use agent_common::tcp::{Counted, Disorder, LACKING, Sent, TcpCounts, Total, WINDOW_LIMITED};
use agent_ebpf::{add, exchanged, frozen, load, load8, load32, socket::slot_of_full};
use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    helpers::generated::{bpf_jiffies64, bpf_sk_storage_get},
};

use crate::{
    EXCHANGES, FACTS,
    programs::{CGROUP_SLOTS, TCP_COUNTS, TCP_SOCKETS},
};

/// How often a program tries to replace a word. The first try fails when the other one has replaced it: the walk, or what holds the
/// socket's lock. The second fails only after a whole further walk.
const TRIES: u32 = 3;

/// What else is done with a socket that is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// It goes on.
    GoesOn,
    /// It is closed: nothing is counted any more, such as a reset that it sends after that, which is counted where it is sent.
    Ends,
}

/// The storage of a socket.
#[inline(always)]
pub(crate) unsafe fn storage(sk: u64, create: bool) -> Option<*mut Counted> {
    let flags = if create { u64::from(BPF_SK_STORAGE_GET_F_CREATE) } else { 0 };
    // SAFETY: the helper takes a socket and gives its storage or null.
    let found = unsafe {
        bpf_sk_storage_get((&raw const TCP_SOCKETS).cast_mut().cast(), sk as *mut _, core::ptr::null_mut(), flags)
            .cast::<Counted>()
    };
    if found.is_null() { None } else { Some(found) }
}

#[inline(always)]
pub(crate) fn counts_of(slot: u32) -> Option<*mut TcpCounts> {
    TCP_COUNTS.get_ptr_mut(slot)
}

/// Begins to count a socket: what it has sent so far is not counted.
#[inline(always)]
pub(crate) unsafe fn begin(sk: u64, tcp: u64) -> Option<*mut Counted> {
    // SAFETY: a map value and typed loads; see the callers.
    unsafe {
        let Some(counted) = storage(sk, true) else {
            if let Some(counts) = counts_of(slot_of_full(&CGROUP_SLOTS, tcp, &raw const FACTS.socket)) {
                add(&raw mut (*counts).uncounted, 1);
            }
            return None;
        };
        (*counted).acked = load(tcp, frozen!(FACTS.bytes_acked));
        // The walk finds a new value before this, and nothing to count in it.
        core::ptr::write_volatile(&raw mut (*counted).drops, drops(tcp).word());
        core::ptr::write_volatile(&raw mut (*counted).disorder, disorder(tcp).word());
        core::ptr::write_volatile(&raw mut (*counted).window_limited, window_limited(tcp).word());
        core::ptr::write_volatile(&raw mut (*counted).sent, sent(tcp).word());
        Some(counted)
    }
}

/// What a socket has sent until now. Segments before retransmits: the kernel counts a retransmit first, so what is sent for the first
/// time comes out too low for a moment, never too high.
#[inline(always)]
unsafe fn sent(tcp: u64) -> Sent {
    // SAFETY: typed loads.
    unsafe {
        let segments = load32(tcp, frozen!(FACTS.segs_out));
        Sent::of(segments, load32(tcp, frozen!(FACTS.total_retrans)))
    }
}

#[inline(always)]
unsafe fn drops(tcp: u64) -> Total {
    // SAFETY: a typed load.
    Total::of(unsafe { load32(tcp, frozen!(FACTS.drops)) })
}

#[inline(always)]
unsafe fn disorder(tcp: u64) -> Disorder {
    let rcv_ooopack = frozen!(FACTS.rcv_ooopack);
    if rcv_ooopack == LACKING {
        return Disorder::NONE;
    }
    // SAFETY: typed loads.
    unsafe { Disorder::of(load32(tcp, rcv_ooopack), load32(tcp, frozen!(FACTS.dsack_dups))) }
}

/// For how many jiffies data has waited for the other end's window, the wait that goes on included (`tcp_get_info_chrono_stats`).
///
/// Where the kernel ends that wait at this moment, it may be in both: then the total is too high until it has caught up, and nothing is
/// counted meanwhile. It is counted twice only if the connection ends before.
#[inline(always)]
unsafe fn window_limited(tcp: u64) -> Total {
    let chrono_start = frozen!(FACTS.chrono_start);
    if chrono_start == LACKING {
        return Total::of(0);
    }
    // SAFETY: typed loads; a helper without arguments.
    unsafe {
        let ended = load32(tcp, frozen!(FACTS.chrono_stat));
        let waits_for = load8(tcp, frozen!(FACTS.chrono_type)) >> (frozen!(FACTS.chrono_shift) & 7) & 3;
        if waits_for != WINDOW_LIMITED {
            return Total::of(ended);
        }
        let began = load32(tcp, chrono_start);
        Total::of(ended.wrapping_add((bpf_jiffies64() as u32).wrapping_sub(began)))
    }
}

/// Counts what a socket has sent, received out of order and waited since it was last counted, and what it has dropped if it `listens`.
#[inline(always)]
pub(crate) unsafe fn count(counted: *mut Counted, tcp: u64, listens: bool, then: Then) {
    // SAFETY: a map value and typed loads.
    unsafe {
        let (mut new, mut disordered, mut waited, mut dropped) = (Sent::NONE, Disorder::NONE, 0, 0);
        if let Some((before, word)) = replace(&raw mut (*counted).sent, then, || sent(tcp), Sent::after) {
            new = Sent::between(before, word);
        }
        if let Some((before, word)) = replace(&raw mut (*counted).disorder, then, || disorder(tcp), Disorder::after) {
            disordered = Disorder::between(before, word);
        }
        if let Some((before, word)) = replace(&raw mut (*counted).window_limited, then, || window_limited(tcp), Total::after) {
            waited = Total::between(before, word);
        }
        if listens && let Some((before, word)) = replace(&raw mut (*counted).drops, then, || drops(tcp), Total::after) {
            dropped = Total::between(before, word);
        }
        if new == Sent::NONE && disordered == Disorder::NONE && waited == 0 && dropped == 0 {
            return;
        }
        let Some(counts) = counts_of(slot_of_full(&CGROUP_SLOTS, tcp, &raw const FACTS.socket)) else { return };
        add(&raw mut (*counts).segments, u64::from(new.first));
        add(&raw mut (*counts).retransmits, u64::from(new.again));
        add(&raw mut (*counts).listen_drops, u64::from(dropped));
        add(&raw mut (*counts).out_of_order, u64::from(disordered.out_of_order));
        add(&raw mut (*counts).spurious, u64::from(disordered.duplicates));
        add(&raw mut (*counts).window_limited, u64::from(waited));
    }
}

/// Replaces the word up to which a socket has been counted by what its totals make of it, and returns both. `None` when there is nothing
/// new: what is then to be counted, another program has counted.
#[inline(always)]
unsafe fn replace<T: Copy>(
    word: *mut u64,
    then: Then,
    totals: impl Fn() -> T,
    after: impl Fn(T, u64) -> u64,
) -> Option<(u64, u64)> {
    for _ in 0..TRIES {
        // SAFETY: the caller's map value.
        unsafe {
            // Before the totals: these may begin anew, and the word with them.
            let mut before = core::ptr::read_volatile(word);
            if before == 0 {
                return None;
            }
            let totals = totals();
            if !EXCHANGES {
                // Nothing that takes long may lie between this and writing it.
                before = core::ptr::read_volatile(word);
                if before == 0 {
                    return None;
                }
            }
            let reached = after(totals, before);
            let to = if then == Then::Ends { 0 } else { reached };
            if to == before {
                return None;
            }
            if !EXCHANGES {
                core::ptr::write_volatile(word, to);
                return Some((before, reached));
            }
            if exchanged(word, before, to) {
                return Some((before, reached));
            }
        }
    }
    None
}
