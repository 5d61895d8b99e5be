//! The OOM kills in a journal: read once they are wanted, and then what is new.

use std::path::PathBuf;

use super::{ReplayError, index::Index};
use crate::{export::decode, journal::Reader, moment, signals::memory::kills::EVENT};

/// Kills that are kept, the newest: a loop of kills makes many.
const MOST: usize = 20_000;

/// What was killed, and the collections that reported it.
#[derive(Debug)]
pub(super) struct Kills {
    /// `None` when there are no events.
    directory: Option<PathBuf>,
    /// In the order of the collections.
    known: Vec<Kill>,
    /// Entries of an earlier time were read.
    until_ns: u64,
}

#[derive(Debug)]
struct Kill {
    /// When the collection was made that has it.
    collected_ns: u64,
    text: String,
}

impl Kills {
    pub(super) fn new(directory: Option<PathBuf>) -> Self {
        Self { directory, known: Vec::new(), until_ns: 0 }
    }

    /// The collection of the next kill after a moment, or of the last one before it, and what happened.
    pub(super) fn next(&mut self, index: &Index, at_ns: u64, later: bool) -> Result<Option<(u64, String)>, ReplayError> {
        self.read()?;
        // Its own collection may be damaged: the next one has the counts.
        let collection = |kill: &Kill| kill.collected_ns.checked_sub(1).and_then(|ns| index.after(ns)).or(index.newest());
        let mut kills = self.known.iter().filter_map(|kill| Some((collection(kill)?, kill)));
        let found = if later { kills.find(|(ns, _)| *ns > at_ns) } else { kills.rev().find(|(ns, _)| *ns < at_ns) };
        let Some((target, kill)) = found else { return Ok(None) };
        let more = self.known.iter().filter(|kill| collection(kill) == Some(target)).count() - 1;
        let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        Ok(Some((target, format!("{}{more}", kill.text))))
    }

    /// Reads what was not read before.
    fn read(&mut self) -> Result<(), ReplayError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        for entry in Reader::open(directory)?.between(self.until_ns, u64::MAX)? {
            let entry = entry?;
            self.until_ns = self.until_ns.max(entry.info.time_ns.saturating_add(1));
            let kills =
                decode::events(&entry.info, &entry.body).unwrap_or_default().into_iter().filter(|event| event.name == EVENT);
            let collected_ns = entry.info.time_ns;
            self.known
                .extend(kills.map(|kill| Kill { collected_ns, text: format!("{}: {}", moment::utc(kill.time_ns), kill.body) }));
        }
        self.known.sort_by_key(|kill| kill.collected_ns);
        let too_many = self.known.len().saturating_sub(MOST);
        self.known.drain(..too_many);
        Ok(())
    }
}
