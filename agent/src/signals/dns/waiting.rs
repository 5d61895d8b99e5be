//! Queries in flight: in the array of places, and those for which both places were taken in a hash.

use std::{collections::HashMap, io, mem::offset_of};

use agent_common::dns::{
    Query, QueryKey,
    lookups::{Lookup, Pair, State, free, is_claimed, keep, stop},
};
use aya::maps::{HashMap as BpfHashMap, IterableMap as _, MapData, MapError};

use crate::kernel::{
    load::{LoadError, Object},
    sys::{self, MappedArray},
};

/// A query in flight.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    pub(super) key: QueryKey,
    pub(super) asked_ns: u64,
    pub(super) slot: u32,
    at: At,
}

/// Where it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Place(Place),
    Hash,
}

/// Number of a pair, and which of its two places.
type Place = (u32, usize);

/// What there was at one look.
#[derive(Default)]
pub(super) struct Look {
    pub(super) queries: Vec<Waiting>,
    /// Queries that nobody can end any more: see [`Queries::look`].
    pub(super) broken: Vec<Waiting>,
}

impl Look {
    /// How many of each slot are in the hash, without those that were sent before.
    pub(super) fn in_hash(&self, since_ns: u64) -> HashMap<u32, u64> {
        let mut by_slot = HashMap::new();
        for query in self.queries.iter().filter(|query| query.at == At::Hash && query.asked_ns > since_ns) {
            *by_slot.entry(query.slot).or_default() += 1;
        }
        by_slot
    }
}

/// All queries in flight.
pub(super) struct Queries {
    places: MappedArray<Pair>,
    overflow: BpfHashMap<MapData, QueryKey, Query>,
    /// What was half written, or about to end, at the last look.
    half: HashMap<Place, [u64; WORDS]>,
}

const WORDS: usize = size_of::<Lookup>() / 8;
const STATE: usize = offset_of!(Lookup, state) / 8;
const ASKED_NS: usize = offset_of!(Lookup, asked_ns) / 8;

/// The state of a place.
#[derive(Clone, Copy)]
struct Mapped<'a> {
    places: &'a MappedArray<Pair>,
    place: Place,
}

impl Mapped<'_> {
    fn word(self, word: usize) -> u64 {
        self.places.word(self.place.0, self.place.1 * WORDS + word).unwrap_or(0)
    }
}

impl State for Mapped<'_> {
    fn now(self) -> u64 {
        self.word(STATE)
    }

    fn add(self, n: u64) {
        self.places.add_to_word(self.place.0, self.place.1 * WORDS + STATE, n);
    }
}

impl Queries {
    pub(super) fn open(object: &mut Object) -> Result<Self, LoadError> {
        Ok(Self { places: object.mapped("DNS_LOOKUPS")?, overflow: object.take("DNS_IN_FLIGHT")?, half: HashMap::new() })
    }

    /// Looks at all of them.
    ///
    /// What is half written takes some ns to become whole. If it is the same at the next look, an agent was killed while it ended the
    /// query, or two CPUs wrote to the place in an order of their own.
    pub(super) fn look(&mut self) -> io::Result<Look> {
        let mut found = Look::default();
        let mut half = HashMap::new();
        for place in (0..self.places.entries()).flat_map(|pair| [(pair, 0), (pair, 1)]) {
            let mapped = Mapped { places: &self.places, place };
            if mapped.now() == 0 {
                continue;
            }
            let Some(lookup) = self.read(place) else { continue };
            let query = Waiting { key: lookup.key, asked_ns: lookup.asked_ns, slot: lookup.slot, at: At::Place(place) };
            if lookup.is_in_flight() {
                found.queries.push(query);
                continue;
            }
            let words = std::array::from_fn(|word| mapped.word(word));
            if self.half.get(&place) == Some(&words) {
                found.broken.push(query);
            }
            half.insert(place, words);
        }
        self.half = half;
        sys::for_each_entry(self.overflow.map().fd(), |key: &QueryKey, query: &Query| {
            found.queries.push(Waiting { key: *key, asked_ns: query.asked_ns, slot: query.slot, at: At::Hash });
        })?;
        Ok(found)
    }

    /// Ends a query that nobody waits for any more; `false` when somebody else did, or another one has its place by now.
    pub(super) fn end(&mut self, query: &Waiting) -> Result<bool, MapError> {
        let At::Place(place) = query.at else { return self.remove(query) };
        let mapped = Mapped { places: &self.places, place };
        if !stop(mapped) {
            return Ok(false);
        }
        let same = |now: &Lookup| {
            is_claimed(now.state) && now.asked_ns == query.asked_ns && now.is_whole(query.key.hash()) && now.key.is(&query.key)
        };
        if !self.read(place).as_ref().is_some_and(same) {
            keep(mapped);
            return Ok(false);
        }
        self.forget(place);
        free(mapped);
        Ok(true)
    }

    /// Frees the place of a query that is broken; whether there was one.
    pub(super) fn repair(&mut self, query: &Waiting) -> bool {
        let At::Place(place) = query.at else { return false };
        let mapped = Mapped { places: &self.places, place };
        let state = mapped.now();
        self.forget(place);
        mapped.add(state.wrapping_neg());
        is_claimed(state)
    }

    fn read(&self, place: Place) -> Option<Lookup> {
        self.places.read(place.0)?.places.get(place.1).copied()
    }

    fn forget(&self, place: Place) {
        self.places.set_word(place.0, place.1 * WORDS + ASKED_NS, 0);
    }

    fn remove(&mut self, query: &Waiting) -> Result<bool, MapError> {
        // Answered in this moment, or the query of a retry by now.
        if !self.overflow.get(&query.key, 0).is_ok_and(|now| now.asked_ns == query.asked_ns) {
            return Ok(false);
        }
        match self.overflow.remove(&query.key) {
            Ok(()) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(nix::libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
