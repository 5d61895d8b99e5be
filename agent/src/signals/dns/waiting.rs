//! Queries in flight: in the array of places, and those for which both places were taken in a hash.

use std::{collections::HashMap, io, mem::offset_of};

use agent_common::dns::{
    Query, QueryKey,
    lookups::{Lookup, Pair, State, free, is_claimed, keep, stop},
};
use aya::maps::{HashMap as BpfHashMap, IterableMap as _, MapData, MapError};

use crate::kernel::{
    absent::is_absent,
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

/// What a read of all of them found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) queries: Vec<Waiting>,
    /// Queries that nobody can end any more: see [`Places::read_all`].
    pub(super) broken: Vec<Waiting>,
}

impl Found {
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
    places: Places,
    overflow: BpfHashMap<MapData, QueryKey, Query>,
}

impl Queries {
    pub(super) fn open(object: &mut Object) -> Result<Self, LoadError> {
        Ok(Self { places: Places::new(object.mapped("DNS_LOOKUPS")?), overflow: object.take("DNS_IN_FLIGHT")? })
    }

    /// Reads all of them, or all but those in the hash, which takes the kernel as long when there are none.
    pub(super) fn read_all(&mut self, with_hash: bool) -> io::Result<Found> {
        let mut found = self.places.read_all();
        if !with_hash {
            return Ok(found);
        }
        sys::for_each_entry(self.overflow.map().fd(), |key: &QueryKey, query: &Query| {
            found.queries.push(Waiting { key: *key, asked_ns: query.asked_ns, slot: query.slot, at: At::Hash });
        })?;
        Ok(found)
    }

    /// Ends a query that nobody waits for any more; `false` when somebody else did, or another one has its place by now.
    pub(super) fn end(&mut self, query: &Waiting) -> Result<bool, MapError> {
        match query.at {
            At::Place(place) => Ok(self.places.end(place, query)),
            At::Hash => self.remove(query),
        }
    }

    /// Frees the place of a query that is broken; whether there was one.
    pub(super) fn repair(&self, query: &Waiting) -> bool {
        match query.at {
            At::Place(place) => self.places.repair(place),
            At::Hash => false,
        }
    }

    fn remove(&mut self, query: &Waiting) -> Result<bool, MapError> {
        // Answered in this moment, or the query of a retry by now.
        if !self.overflow.get(&query.key, 0).is_ok_and(|now| now.asked_ns == query.asked_ns) {
            return Ok(false);
        }
        match self.overflow.remove(&query.key) {
            Ok(()) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

const WORDS: usize = size_of::<Lookup>() / 8;
const STATE: usize = offset_of!(Lookup, state) / 8;
const ASKED_NS: usize = offset_of!(Lookup, asked_ns) / 8;

/// Those in the array.
struct Places {
    pairs: MappedArray<Pair>,
    /// What was half written, or about to end, at the last read.
    half: HashMap<Place, [u64; WORDS]>,
}

/// The state of a place.
#[derive(Clone, Copy)]
struct Mapped<'a> {
    pairs: &'a MappedArray<Pair>,
    place: Place,
}

impl Mapped<'_> {
    fn word(self, word: usize) -> u64 {
        self.pairs.word(self.place.0, self.place.1 * WORDS + word).unwrap_or(0)
    }
}

impl State for Mapped<'_> {
    fn now(self) -> u64 {
        self.word(STATE)
    }

    fn add(self, n: u64) {
        self.pairs.add_to_word(self.place.0, self.place.1 * WORDS + STATE, n);
    }
}

impl Places {
    fn new(pairs: MappedArray<Pair>) -> Self {
        Self { pairs, half: HashMap::new() }
    }

    /// What is half written takes some ns to become whole. If it is the same at the next read, an agent was killed while it ended the
    /// query, or two CPUs wrote to the place in an order of their own.
    fn read_all(&mut self) -> Found {
        let mut found = Found::default();
        let mut half = HashMap::new();
        for place in (0..self.pairs.entries()).flat_map(|pair| [(pair, 0), (pair, 1)]) {
            let mapped = self.state(place);
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
        found
    }

    fn end(&self, place: Place, query: &Waiting) -> bool {
        let state = self.state(place);
        if !stop(state) {
            return false;
        }
        let same = |now: &Lookup| {
            is_claimed(now.state) && now.asked_ns == query.asked_ns && now.is_whole(query.key.hash()) && now.key.is(&query.key)
        };
        if !self.read(place).as_ref().is_some_and(same) {
            keep(state);
            return false;
        }
        self.forget(place);
        free(state);
        true
    }

    fn repair(&self, place: Place) -> bool {
        let state = self.state(place);
        let now = state.now();
        self.forget(place);
        state.add(now.wrapping_neg());
        is_claimed(now)
    }

    fn state(&self, place: Place) -> Mapped<'_> {
        Mapped { pairs: &self.pairs, place }
    }

    fn read(&self, place: Place) -> Option<Lookup> {
        self.pairs.read(place.0)?.places.get(place.1).copied()
    }

    fn forget(&self, place: Place) {
        self.pairs.set_word(place.0, place.1 * WORDS + ASKED_NS, 0);
    }
}

#[cfg(test)]
mod tests {
    use agent_common::dns::lookups::{claim, seal};
    use nix::{
        sys::memfd::{MFdFlags, memfd_create},
        unistd::ftruncate,
    };

    use super::*;

    const KEY: QueryKey = QueryKey { cookie: 7, id: 0x1_1234, peer: 0 };
    const AT: Place = (1, 1);

    /// Places without the kernel side, with one query sent at this time.
    fn places(asked_ns: u64) -> Places {
        let memory = memfd_create("places", MFdFlags::empty()).expect("memory");
        ftruncate(&memory, 4 * size_of::<Pair>() as i64).expect("can be enlarged");
        let pairs = MappedArray::<Pair>::new(&memory, 4).expect("can be mapped");
        let seal = seal(KEY.hash(), asked_ns);
        let lookup = Lookup { asked_ns, seal, key: KEY, slot: 3, ..Lookup::ZERO };
        pairs.write(AT.0, &Pair { places: [Lookup::ZERO, lookup] });
        let places = Places::new(pairs);
        assert!(claim(places.state(AT)));
        places
    }

    #[test]
    fn a_query_in_flight_is_found_and_ended_once() {
        let mut places = places(100);
        let found = places.read_all();
        let [query] = found.queries.as_slice() else { panic!("{} queries", found.queries.len()) };
        assert!(query.key.is(&KEY) && query.asked_ns == 100 && query.slot == 3 && query.at == At::Place(AT));
        assert!(!places.end(AT, &Waiting { asked_ns: 99, ..*query }), "another query with its key");
        assert!(!places.end(AT, &Waiting { key: QueryKey { id: 1, ..KEY }, ..*query }), "another key");
        assert!(places.end(AT, query) && !places.end(AT, query));
        assert_eq!(places.state(AT).now(), 0);
        let after = places.read_all();
        assert!(after.queries.is_empty() && after.broken.is_empty());
    }

    #[test]
    fn what_stays_half_written_is_freed_at_the_next_read() {
        let mut places = places(0);
        assert!(places.read_all().broken.is_empty(), "it may just be about to be written");
        let broken = places.read_all().broken;
        assert!(broken.len() == 1 && places.repair(AT));
        assert_eq!(places.state(AT).now(), 0);
        assert!(places.read_all().broken.is_empty());
    }

    #[test]
    fn a_query_that_a_killed_agent_was_about_to_end_is_freed() {
        let mut places = places(100);
        assert!(stop(places.state(AT)));
        let first = places.read_all();
        assert!(first.queries.is_empty() && first.broken.is_empty());
        assert!(places.read_all().broken.len() == 1 && places.repair(AT) && claim(places.state(AT)));
    }

    #[test]
    fn what_changes_between_two_reads_is_not_broken() {
        let mut places = places(0);
        places.read_all();
        places.pairs.set_word(AT.0, AT.1 * WORDS + 2, 77);
        assert!(places.read_all().broken.is_empty());
    }
}
