//! Looking back: where a view of the past is, and where the user wants it to be (pure).

use std::{error::Error, time::Duration};

use super::format;
use crate::{moment, snapshot::document::Snapshot};

/// Collections of the past, one shown at a time.
pub trait Past {
    /// Goes to another collection.
    ///
    /// # Errors
    /// What could not be read. What was shown stays.
    fn go(&mut self, way: Way) -> Result<Shown, Box<dyn Error + Send + Sync>>;
}

/// How to get from the shown collection to another. Positive is later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The shown one.
    Stay,
    /// So many collections on.
    Step(i64),
    /// So many seconds on.
    Jump(i64),
    /// To the next one with an OOM kill, or to the one before.
    Kill { later: bool },
}

/// Where a way has led to.
#[derive(Debug)]
pub struct Shown {
    /// `None` when it is the same as before.
    pub snapshot: Option<Snapshot>,
    /// Where in the journal it is.
    pub place: Place,
}

/// One collection among those of a journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// When it was made, in ns since 1970.
    pub at_ns: u64,
    /// Which one it is, from 1 on, and how many there are.
    pub number: usize,
    /// See `number`.
    pub count: usize,
    /// When the first and the last were made, in ns since 1970.
    pub oldest_ns: u64,
    /// See `oldest_ns`.
    pub newest_ns: u64,
    /// Time since the collection that rates are against.
    pub interval: Option<Duration>,
    /// What is left out: damaged requests, and points that this version does not know.
    pub left_out: Option<String>,
    /// What the last way has met.
    pub note: Option<String>,
}

impl Place {
    /// When it was made.
    pub fn time(&self) -> String {
        moment::utc(self.at_ns)
    }

    /// All of it on one line.
    pub fn line(&self) -> String {
        let between = |from: u64, to: u64| format::duration(Some(to.saturating_sub(from) as f64 / 1e9));
        let position = match (self.number == 1, self.number == self.count) {
            (true, true) => "the only one".to_owned(),
            (true, false) => format!("the oldest; the newest is {} later", between(self.at_ns, self.newest_ns)),
            (false, true) => format!("the newest; the oldest is {} earlier", between(self.oldest_ns, self.at_ns)),
            (false, false) => format!(
                "{} after the oldest, {} before the newest",
                between(self.oldest_ns, self.at_ns),
                between(self.at_ns, self.newest_ns)
            ),
        };
        let parts =
            [self.note.clone(), Some(format!("collection {} of {}: {position}", self.number, self.count)), self.left_out.clone()];
        format::printable(&parts.into_iter().flatten().collect::<Vec<_>>().join("  ")).into_owned()
    }
}

/// What the live view knows of the past that it shows.
#[derive(Debug)]
pub struct PastView {
    /// What is shown; nothing yet at first.
    place: Option<Place>,
    /// Where to go, in order.
    wanted: Vec<Way>,
}

impl PastView {
    /// Nothing seen yet: what is there is wanted.
    pub fn new() -> Self {
        Self { place: None, wanted: vec![Way::Stay] }
    }

    /// Notes where the user wants to go. Keys that are held come together.
    pub fn want(&mut self, way: Way) {
        match (self.wanted.last_mut(), way) {
            (Some(Way::Step(by)), Way::Step(more)) | (Some(Way::Jump(by)), Way::Jump(more)) => *by = by.saturating_add(more),
            _ => self.wanted.push(way),
        }
    }

    /// The ways that are not gone yet.
    pub fn take_wanted(&mut self) -> Vec<Way> {
        std::mem::take(&mut self.wanted)
    }

    /// Where the shown collection is.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// Notes what is shown now; true when it follows what was shown before.
    pub fn arrive(&mut self, place: Place) -> bool {
        let follows = self.place.as_ref().is_some_and(|before| before.number + 1 == place.number && place.interval.is_some());
        self.place = Some(place);
        follows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_between_its_ends_and_keys_that_are_held_come_together() {
        const MINUTE: u64 = 60_000_000_000;
        let place = |number, at: u64| Place {
            at_ns: at * MINUTE,
            number,
            count: 4,
            oldest_ns: MINUTE,
            newest_ns: 90 * MINUTE,
            ..Place::default()
        };
        assert_eq!(place(2, 5).line(), "collection 2 of 4: 4m00s after the oldest, 1h25m before the newest");
        assert_eq!(place(1, 1).line(), "collection 1 of 4: the oldest; the newest is 1h29m later");
        let last = Place { note: Some("no later\u{1b}one".into()), left_out: Some("2 damaged".into()), ..place(4, 90) };
        assert_eq!(last.line(), "no later\u{fffd}one  collection 4 of 4: the newest; the oldest is 1h29m earlier  2 damaged");
        assert_eq!(last.time(), "1970-01-01 01:30:00 UTC");

        let mut view = PastView::new();
        for way in [Way::Step(1), Way::Step(1), Way::Jump(-60), Way::Step(-1), Way::Step(3)] {
            view.want(way);
        }
        assert_eq!(view.take_wanted(), [Way::Stay, Way::Step(2), Way::Jump(-60), Way::Step(2)]);
        assert!(view.take_wanted().is_empty());
        let after = |number| Place { interval: Some(Duration::from_secs(15)), ..place(number, 5) };
        assert_eq!([1, 2, 3, 2, 4].map(|number| view.arrive(after(number))), [false, true, true, false, false]);
    }
}
