use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread,
};

use super::*;
use crate::dns::NO_QUESTION;

const SECOND: u64 = 1_000_000_000;

impl State for &AtomicU64 {
    fn now(self) -> u64 {
        self.load(Ordering::SeqCst)
    }

    fn add(self, n: u64) {
        self.fetch_add(n, Ordering::SeqCst);
    }
}

fn key(cookie: u64, id: u32) -> QueryKey {
    QueryKey { cookie, id, peer: 0 }
}

/// A query in flight.
fn lookup(key: QueryKey, asked_ns: u64) -> Lookup {
    Lookup { state: CLAIM, asked_ns, seal: seal(key.hash(), asked_ns), key, ..Lookup::ZERO }
}

#[test]
fn a_place_is_a_cache_line_and_a_pair_two() {
    assert_eq!((size_of::<Lookup>(), size_of::<Pair>()), (64, 128));
}

#[test]
fn a_place_is_free_taken_stopped_and_free_again() {
    let state = AtomicU64::new(0);
    assert!(!is_claimed(state.now()) && claim(&state) && is_claimed(state.now()));
    assert!(!claim(&state), "taken");
    assert!(stop(&state) && ends(state.now()) && !stop(&state), "one ends it");
    keep(&state);
    assert!(!ends(state.now()) && is_claimed(state.now()));
    assert!(stop(&state));
    free(&state);
    assert_eq!(state.now(), 0);
    // Whoever comes too late finds no query there, and gives the right back.
    assert!(stop(&state) && !is_claimed(state.now()));
    keep(&state);
    assert_eq!(state.now(), 0);
}

#[test]
fn of_many_that_take_and_end_at_once_one_has_the_right_to_each() {
    const ROUNDS: usize = 20_000;
    let (state, owners, enders) = (AtomicU64::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let (claimed, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    if claim(&state) {
                        assert_eq!(owners.fetch_add(1, Ordering::SeqCst), 0, "two have the place");
                        claimed.fetch_add(1, Ordering::SeqCst);
                    }
                    if stop(&state) {
                        assert_eq!(enders.fetch_add(1, Ordering::SeqCst), 0, "two end it");
                        // As where the words of a query are checked once more.
                        let whole = owners.load(Ordering::SeqCst) == 1 && is_claimed((&state).now());
                        enders.fetch_sub(1, Ordering::SeqCst);
                        if whole {
                            owners.fetch_sub(1, Ordering::SeqCst);
                            ended.fetch_add(1, Ordering::SeqCst);
                            free(&state);
                        } else {
                            keep(&state);
                        }
                    }
                }
            });
        }
    });
    let left = owners.load(Ordering::SeqCst);
    assert_eq!(claimed.load(Ordering::SeqCst), ended.load(Ordering::SeqCst) + left);
    assert_eq!((&state).now(), left as u64 * CLAIM);
    assert!(ended.load(Ordering::SeqCst) > 1000, "{ended:?} were ended: this proves nothing");
}

#[test]
fn only_the_whole_words_of_a_query_are_its_own() {
    let (ours, other) = (key(77, 0x1234), key(78, 0x1234));
    let here = lookup(ours, 5 * SECOND);
    assert!(here.waits(&ours, ours.hash()) && here.is_in_flight());
    for strange in [other, QueryKey { id: 0x1_1234, ..ours }, QueryKey { peer: 1, ..ours }] {
        assert!(!here.waits(&strange, strange.hash()), "another socket, way or peer");
    }
    // Two with the same hash are distinguished.
    assert!(!here.waits(&other, ours.hash()));
    let torn = [
        Lookup { asked_ns: 6 * SECOND, ..here },
        Lookup { seal: lookup(other, 6 * SECOND).seal, ..here },
        Lookup { asked_ns: 6 * SECOND, seal: lookup(other, 6 * SECOND).seal, ..here },
        Lookup { key: other, ..here },
        Lookup { asked_ns: 0, ..here },
        Lookup { asked_ns: 0, seal: seal(ours.hash(), 0), ..here },
        Lookup { state: 0, ..here },
    ];
    for torn in torn {
        assert!(!torn.waits(&ours, ours.hash()) && !torn.is_in_flight(), "{} {:x}", torn.asked_ns, torn.seal);
    }
    assert!(!Lookup { state: CLAIM + END, ..here }.is_in_flight(), "somebody ends it");
}

#[test]
fn an_answered_lookup_is_remembered_for_the_timeout_by_its_key_and_its_question() {
    let key = QueryKey { cookie: 77, id: 0x1_1234, peer: 0 };
    let message = |question| Message { id: 0x1234, answer: true, truncated: false, rcode: 0, question };
    let kept = Lookup { key, question: 9, answered_ns: 100 * SECOND, ..Lookup::ZERO };
    let was = |question, now_ns| kept.was(&key, &message(question), now_ns, 5 * SECOND);
    assert!(was(9, 100 * SECOND) && was(9, 105 * SECOND - 1) && was(NO_QUESTION, 101 * SECOND));
    assert!(!was(9, 105 * SECOND), "too late");
    assert!(!was(10, 101 * SECOND), "another question");
    for other in [QueryKey { cookie: 78, ..key }, QueryKey { id: 0x1234, ..key }, QueryKey { peer: 1, ..key }] {
        assert!(!kept.was(&other, &message(9), 101 * SECOND, 5 * SECOND), "another socket, way or peer");
    }
    assert!(!Lookup::ZERO.was(&QueryKey::ZERO, &message(0), SECOND, 5 * SECOND), "nothing was answered yet");
}

#[test]
fn keys_that_follow_each_other_have_places_of_their_own() {
    let mut taken = vec![0_u32; PAIRS_LEN];
    for cookie in 1..=16 {
        for id in 0..64 {
            taken[position(key(4096 + cookie, id).hash()) as usize] += 1;
        }
    }
    // By chance 1024 keys would find 973.
    let found: u32 = taken.iter().map(|keys| (*keys).min(2)).sum();
    assert!(found > 950, "{found} places for 1024 keys");
}

#[test]
fn a_query_is_looked_for_elsewhere_for_as_long_as_one_can_wait_there() {
    let full_at = rough(100 * SECOND);
    for now_ns in [100 * SECOND, 102 * SECOND, 105 * SECOND] {
        assert!(may_wait_elsewhere(full_at, now_ns, 5 * SECOND));
    }
    assert!(!may_wait_elsewhere(full_at, 106 * SECOND, 5 * SECOND));
    assert!(!may_wait_elsewhere(0, 1000 * SECOND, 5 * SECOND), "it never was full");
    // The count of milliseconds starts again after 52 days.
    let late_ns = (1 << 52) - SECOND;
    assert!(may_wait_elsewhere(rough(late_ns), late_ns + 3 * SECOND, 5 * SECOND));
}
