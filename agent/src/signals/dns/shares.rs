//! What each slot has in the tables that all slots share, put right: the kernel side adds and subtracts, this side has looked at all entries.
//!
//! What the kernel side does between the look and the correction is off until the next one, a second later for queries.

use std::collections::HashMap;

use agent_common::dns::{NAMES_OFF, Taken};

use crate::kernel::{
    load::{LoadError, Object},
    sys::MappedArray,
};

/// Words of [`Taken`].
const QUERIES: usize = std::mem::offset_of!(Taken, queries) / 8;
const NAMES: usize = std::mem::offset_of!(Taken, names) / 8;

/// The counts of all slots.
pub(super) struct Shares {
    slots: u32,
    own: MappedArray<Taken>,
    all: MappedArray<Taken>,
}

impl Shares {
    pub(super) fn open(object: &Object, slots: u32) -> Result<Self, LoadError> {
        Ok(Self { slots, own: object.mapped("DNS_TAKEN")?, all: object.mapped("DNS_TAKEN_ALL")? })
    }

    /// Whether there may be queries in the hash, by the kernel side's count.
    pub(super) fn has_queries(&self) -> bool {
        self.all.word(0, QUERIES) != Some(0)
    }

    /// The queries in flight by slot.
    pub(super) fn set_queries(&self, by_slot: &HashMap<u32, u64>) {
        self.set(QUERIES, by_slot);
    }

    /// The names by slot.
    pub(super) fn set_names(&self, by_slot: &HashMap<u32, u64>) {
        self.set(NAMES, by_slot);
    }

    /// No names are counted from now on.
    pub(super) fn stop_names(&self) {
        self.all.set_word(0, NAMES, NAMES_OFF);
    }

    fn set(&self, word: usize, by_slot: &HashMap<u32, u64>) {
        for slot in 0..self.slots {
            let right = by_slot.get(&slot).copied().unwrap_or(0);
            if self.own.word(slot, word) != Some(right) {
                self.own.set_word(slot, word, right);
            }
        }
        self.all.set_word(0, word, by_slot.values().sum());
    }
}
