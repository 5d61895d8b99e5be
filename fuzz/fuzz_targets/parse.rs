//! `cargo +nightly fuzz run parse`: the DNS parser on any bytes. It may refuse them, but neither panic nor look beyond their end, and
//! what it reads may not depend on what it never reads: what follows the question.
#![no_main]

use std::cell::Cell;

use agent_common::dns::{HEAD_LEN, Source, parse};
use libfuzzer_sys::fuzz_target;

/// Counts how far it was read.
struct Watched<'a>(&'a [u8], Cell<usize>);

impl Source for Watched<'_> {
    fn byte(&self, at: usize) -> Option<u8> {
        assert!(at < HEAD_LEN);
        let byte = self.0.get(at).copied();
        self.1.set(self.1.get().max(if byte.is_some() { at + 1 } else { 0 }));
        byte
    }

    fn word(&self, at: usize) -> Option<u64> {
        (0..8).try_fold(0, |word, i| Some(word | u64::from(self.byte(at + i)?) << (8 * i)))
    }
}

fuzz_target!(|message: &[u8]| {
    let watched = Watched(message, Cell::new(0));
    let parsed = parse(&watched);
    let read = watched.1.get();
    if parsed.is_ok() {
        assert_eq!(parse(&message[..read]), parsed);
        let mut longer = message[..read].to_vec();
        longer.extend([0xff; 32]);
        assert_eq!(parse(longer.as_slice()), parsed);
    }
});
