//! Lookups at two places each, found by their key's hash: most queries in flight, and what was answered of late.
//!
//! Any CPU takes a free place for a query, and whoever ends the lookup frees it: the CPU of its answer, or the agent once it is late.
//! What is written there stays until another query takes the place, so that further answers are known. Linux 5.10 has one atomic
//! operation, an addition without a result. Hence both rights are taken by adding to [`Lookup::state`] and looking at the sum:
//! [`claim`] and [`stop`] give a right to one at most, and to none where several try at the same moment.
//!
//! The other words are written one by one, and on some machines seen in another order. [`Lookup::seal`] is made of the key and the time, so
//! that a time is only ever taken for that of its own query.

use super::{Message, QueryKey};

/// Pairs of places. In a map that is 192 KiB.
pub const PAIRS_LEN: usize = 1536;

/// Places in all.
pub const PLACES_LEN: u32 = 2 * PAIRS_LEN as u32;

record! {
    /// A place for a lookup, in flight or answered: a cache line.
    pub struct Lookup {
        /// How many claim it in the lower half, how many want to end the lookup in the upper one.
        pub state: u64,
        /// When the query was sent, on CLOCK_MONOTONIC in ns; 0 once the lookup has ended.
        pub asked_ns: u64,
        /// [`seal`] of the key's hash and `asked_ns`.
        pub seal: u64,
        /// Its key.
        pub key: QueryKey,
        /// [`Message::question`] of the query.
        pub question: u64,
        /// Its last answer, on CLOCK_MONOTONIC in ns; 0 where there was none.
        pub answered_ns: u64,
        /// The slot in which it counts.
        pub slot: u32,
        /// Of the first of a pair: when both were last taken as another query came, by [`rough`].
        pub full_at: u32,
    }
}

record! {
    /// The two places of a lookup, at [`position`] of the array `DNS_LOOKUPS`.
    pub struct Pair {
        /// Either may have it.
        pub places: [Lookup; 2],
    }
}

/// Where a lookup is, by its key's hash.
#[inline(always)]
pub const fn position(hash: u64) -> u32 {
    (((hash >> 32) * PAIRS_LEN as u64) >> 32) as u32
}

/// What marks the words of a query as its own.
#[inline(always)]
pub const fn seal(hash: u64, asked_ns: u64) -> u64 {
    hash ^ asked_ns.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A time in units of about a millisecond.
#[inline(always)]
pub const fn rough(ns: u64) -> u32 {
    (ns >> 20) as u32
}

/// Whether a query that came when both places were taken may still wait elsewhere. Too often yes, after 52 days; never wrongly no.
#[inline(always)]
pub const fn may_wait_elsewhere(full_at: u32, now_ns: u64, timeout_ns: u64) -> bool {
    rough(now_ns).wrapping_sub(full_at) <= rough(timeout_ns) + 1
}

impl Lookup {
    /// Whether the query with this key is in flight here.
    #[inline(always)]
    pub const fn waits(&self, key: &QueryKey, hash: u64) -> bool {
        is_claimed(self.state) && self.is_whole(hash) && self.key.is(key)
    }

    /// Whether a query is in flight here that can be read, and that nobody is about to end.
    #[inline(always)]
    pub const fn is_in_flight(&self) -> bool {
        is_claimed(self.state) && !ends(self.state) && self.is_whole(self.key.hash())
    }

    /// Whether its words are of one query.
    #[inline(always)]
    pub const fn is_whole(&self, hash: u64) -> bool {
        self.asked_ns != 0 && self.seal == seal(hash, self.asked_ns)
    }

    /// Whether an answer with this key is a further one to what was answered here.
    ///
    /// musl queries all name servers at once, and all but the first answer what has been answered; a zone transfer has many messages.
    #[inline(always)]
    pub const fn was(&self, key: &QueryKey, answer: &Message, now_ns: u64, timeout_ns: u64) -> bool {
        self.answered_ns != 0
            && self.key.is(key)
            && answer.continues(self.question)
            && now_ns.saturating_sub(self.answered_ns) < timeout_ns
    }
}

/// [`Lookup::state`] where it is: added to atomically by all CPUs and by the agent.
pub trait State: Copy {
    /// What it is now; after an addition of one's own, not what it was before that.
    fn now(self) -> u64;

    /// Adds to it.
    fn add(self, n: u64);
}

const CLAIM: u64 = 1;
const END: u64 = 1 << 32;

/// How often the right to end a lookup is tried to take when others do so at the same moment.
const TRIES: u32 = 4;

/// Whether a query has the place, or is about to.
#[inline(always)]
pub const fn is_claimed(state: u64) -> bool {
    state as u32 != 0
}

/// Whether somebody ends the lookup, or is about to.
#[inline(always)]
pub const fn ends(state: u64) -> bool {
    state >> 32 != 0
}

/// Takes a place, if it is free.
#[inline(always)]
pub fn claim(state: impl State) -> bool {
    if state.now() != 0 {
        return false;
    }
    state.add(CLAIM);
    if state.now() == CLAIM {
        return true;
    }
    state.add(CLAIM.wrapping_neg());
    false
}

/// Takes the right to end a lookup, or to put another query in its place. Whoever has it looks once more whether it is the right one, as
/// it may have ended before, and gives it back by [`free`] or [`keep`].
#[inline(always)]
pub fn stop(state: impl State) -> bool {
    for _ in 0..TRIES {
        state.add(END);
        let now = state.now();
        if now >> 32 == 1 {
            return true;
        }
        state.add(END.wrapping_neg());
        if !is_claimed(now) {
            return false;
        }
    }
    false
}

/// Frees the place of a lookup, whose end one has the right to.
#[inline(always)]
pub fn free(state: impl State) {
    state.add((END + CLAIM).wrapping_neg());
}

/// Gives the right to end back.
#[inline(always)]
pub fn keep(state: impl State) {
    state.add(END.wrapping_neg());
}

#[cfg(test)]
mod tests;
