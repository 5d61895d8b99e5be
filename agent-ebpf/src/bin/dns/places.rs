//! The two places of a lookup: see [`agent_common::dns::lookups`].

use agent_common::dns::{
    Message, QueryKey,
    lookups::{Lookup, Pair, State, claim, free, is_claimed, keep, may_wait_elsewhere, position, rough, seal, stop},
};
use agent_ebpf::{add, frozen};

use crate::{DNS_LOOKUPS, FACTS};

/// A query as it was noted.
#[derive(Clone, Copy)]
pub(crate) struct Noted {
    pub(crate) asked_ns: u64,
    pub(crate) slot: u32,
}

/// The two places that a lookup may have.
#[derive(Clone, Copy)]
pub(crate) struct Places {
    first: *mut Lookup,
    second: *mut Lookup,
    hash: u64,
}

/// A place's state, in a map value.
#[derive(Clone, Copy)]
struct InMap(*mut Lookup);

impl State for InMap {
    #[inline(always)]
    fn now(self) -> u64 {
        // SAFETY: a map value.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).state) }
    }

    #[inline(always)]
    fn add(self, n: u64) {
        // SAFETY: a map value.
        unsafe { add(&raw mut (*self.0).state, n) };
    }
}

impl Places {
    /// By the lookup's key.
    #[inline(always)]
    pub(crate) fn of(key: &QueryKey) -> Option<Self> {
        let hash = key.hash();
        let first = DNS_LOOKUPS.get_ptr_mut(position(hash))?.cast::<Pair>().cast::<Lookup>();
        // SAFETY: a pair is two of them.
        Some(Self { first, second: unsafe { first.add(1) }, hash })
    }

    /// Where the query with this key is in flight.
    #[inline(always)]
    pub(crate) fn waiting(&self, key: &QueryKey) -> Option<*mut Lookup> {
        // SAFETY: both are map values.
        unsafe {
            if waits(self.first, key, self.hash) {
                Some(self.first)
            } else if waits(self.second, key, self.hash) {
                Some(self.second)
            } else {
                None
            }
        }
    }

    /// Whether there may be one with this key in the hash.
    #[inline(always)]
    pub(crate) fn may_wait_elsewhere(&self, now_ns: u64) -> bool {
        // SAFETY: a map value.
        let full_at = unsafe { core::ptr::read_volatile(&raw const (*self.first).full_at) };
        may_wait_elsewhere(full_at, now_ns, frozen!(FACTS.timeout_ns))
    }

    /// Puts a query into a free place, best that of which the answer is longest ago; `false` when both are taken.
    ///
    /// Two CPUs that send the very same query of one socket at the same moment may take a place each. One of them is then answered, and
    /// the other counts as a timeout instead of a retry.
    #[inline(always)]
    pub(crate) fn put(&self, key: &QueryKey, question: u64, slot: u32, now_ns: u64) -> bool {
        let Some(place) = self.claimed() else {
            // SAFETY: a map value.
            unsafe { core::ptr::write_volatile(&raw mut (*self.first).full_at, rough(now_ns)) };
            return false;
        };
        // SAFETY: a map value, which is this query's alone.
        unsafe {
            core::ptr::write_volatile(&raw mut (*place).answered_ns, 0);
            core::ptr::write_volatile(&raw mut (*place).key.cookie, key.cookie);
            core::ptr::write_volatile(&raw mut (*place).key.id, key.id);
            core::ptr::write_volatile(&raw mut (*place).key.peer, key.peer);
            write(place, self.hash, question, slot, now_ns);
        }
        true
    }

    /// Remembers a lookup that waited elsewhere and is answered, where there is room for it.
    #[inline(always)]
    pub(crate) fn remember(&self, key: &QueryKey, question: u64, now_ns: u64) {
        let Some(place) = self.claimed() else { return };
        // SAFETY: as above.
        unsafe {
            core::ptr::write_volatile(&raw mut (*place).key.cookie, key.cookie);
            core::ptr::write_volatile(&raw mut (*place).key.id, key.id);
            core::ptr::write_volatile(&raw mut (*place).key.peer, key.peer);
            core::ptr::write_volatile(&raw mut (*place).question, question);
            core::ptr::write_volatile(&raw mut (*place).answered_ns, now_ns);
        }
        if stop(InMap(place)) {
            free(InMap(place));
        }
    }

    #[inline(always)]
    fn claimed(&self) -> Option<*mut Lookup> {
        // SAFETY: map values.
        let (first_ns, second_ns) = unsafe {
            (
                core::ptr::read_volatile(&raw const (*self.first).answered_ns),
                core::ptr::read_volatile(&raw const (*self.second).answered_ns),
            )
        };
        if first_ns > second_ns && claim(InMap(self.second)) {
            Some(self.second)
        } else if claim(InMap(self.first)) {
            Some(self.first)
        } else if first_ns <= second_ns && claim(InMap(self.second)) {
            Some(self.second)
        } else {
            None
        }
    }

    /// Puts another query with the same key in the place of the one that waits there, and returns that one; `None` when it ends right now.
    #[inline(always)]
    pub(crate) fn replace(&self, place: *mut Lookup, key: &QueryKey, question: u64, slot: u32, now_ns: u64) -> Option<Noted> {
        if !stop(InMap(place)) {
            return None;
        }
        // SAFETY: a map value.
        unsafe {
            let before = waits(place, key, self.hash).then(|| noted(place));
            if before.is_some() {
                write(place, self.hash, question, slot, now_ns);
            }
            keep(InMap(place));
            before
        }
    }

    /// Ends the lookup that waits at a place, and remembers its answer unless that came too late; `None` when somebody else ends it.
    #[inline(always)]
    pub(crate) fn end(&self, place: *mut Lookup, key: &QueryKey, answer: &Message, now_ns: u64) -> Option<Noted> {
        if !stop(InMap(place)) {
            return None;
        }
        // SAFETY: a map value.
        unsafe {
            if !waits(place, key, self.hash) || !answer.answers(question(place)) {
                keep(InMap(place));
                return None;
            }
            let query = noted(place);
            core::ptr::write_volatile(&raw mut (*place).asked_ns, 0);
            if now_ns.saturating_sub(query.asked_ns) < frozen!(FACTS.timeout_ns) {
                core::ptr::write_volatile(&raw mut (*place).answered_ns, now_ns);
            }
            free(InMap(place));
            Some(query)
        }
    }

    /// Whether an answer is a further one to what was answered here; it then is the last one.
    #[inline(always)]
    pub(crate) fn was_answered(&self, key: &QueryKey, answer: &Message, now_ns: u64) -> bool {
        let timeout_ns = frozen!(FACTS.timeout_ns);
        // SAFETY: map values.
        unsafe {
            let place = if (*self.first).was(key, answer, now_ns, timeout_ns) {
                self.first
            } else if (*self.second).was(key, answer, now_ns, timeout_ns) {
                self.second
            } else {
                return false;
            };
            core::ptr::write_volatile(&raw mut (*place).answered_ns, now_ns);
        }
        true
    }
}

/// See [`Lookup::waits`].
#[inline(always)]
unsafe fn waits(place: *const Lookup, key: &QueryKey, hash: u64) -> bool {
    // SAFETY: the caller's map value.
    unsafe {
        let asked_ns = core::ptr::read_volatile(&raw const (*place).asked_ns);
        is_claimed(core::ptr::read_volatile(&raw const (*place).state))
            && asked_ns != 0
            && core::ptr::read_volatile(&raw const (*place).seal) == seal(hash, asked_ns)
            && core::ptr::read_volatile(&raw const (*place).key.cookie) == key.cookie
            && core::ptr::read_volatile(&raw const (*place).key.id) == key.id
            && core::ptr::read_volatile(&raw const (*place).key.peer) == key.peer
    }
}

/// [`Lookup::question`]
#[inline(always)]
pub(crate) unsafe fn question(place: *const Lookup) -> u64 {
    // SAFETY: the caller's map value.
    unsafe { core::ptr::read_volatile(&raw const (*place).question) }
}

/// [`Lookup::asked_ns`]
#[inline(always)]
pub(crate) unsafe fn asked_ns(place: *const Lookup) -> u64 {
    // SAFETY: the caller's map value.
    unsafe { core::ptr::read_volatile(&raw const (*place).asked_ns) }
}

#[inline(always)]
unsafe fn noted(place: *const Lookup) -> Noted {
    // SAFETY: the caller's map value.
    unsafe { Noted { asked_ns: asked_ns(place), slot: core::ptr::read_volatile(&raw const (*place).slot) } }
}

/// The words of a query whose key is there; what others take it by comes last.
#[inline(always)]
unsafe fn write(place: *mut Lookup, hash: u64, question: u64, slot: u32, now_ns: u64) {
    // SAFETY: the caller's map value.
    unsafe {
        core::ptr::write_volatile(&raw mut (*place).asked_ns, 0);
        core::ptr::write_volatile(&raw mut (*place).question, question);
        core::ptr::write_volatile(&raw mut (*place).slot, slot);
        core::ptr::write_volatile(&raw mut (*place).seal, seal(hash, now_ns));
        core::ptr::write_volatile(&raw mut (*place).asked_ns, now_ns);
    }
}
