//! When the collections of a journal were made.

use super::end;
use crate::{
    journal::{JournalError, Kind, Reader},
    moment,
};

/// Times of collections, eight bytes each.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// In ns since 1970, oldest first.
    times: Vec<u64>,
    /// Damaged entries, as far as headers tell.
    pub(super) damaged: u64,
}

impl Index {
    /// Reads the headers of all entries.
    pub(super) fn read(reader: &mut Reader) -> Result<Self, JournalError> {
        let mut index = Self::default();
        index.damaged = index.add(reader, 0)?;
        Ok(index)
    }

    /// Adds what is newer than all that is known.
    pub(super) fn grow(&mut self, reader: &mut Reader) -> Result<(), JournalError> {
        self.add(reader, self.newest().map_or(0, |newest| newest.saturating_add(1))).map(drop)
    }

    fn add(&mut self, reader: &mut Reader, from_ns: u64) -> Result<u64, JournalError> {
        let times = &mut self.times;
        let damaged = reader.infos(from_ns, u64::MAX, |info| {
            // One collection is mostly several requests.
            if info.kind == Kind::Metrics && times.last() != Some(&info.time_ns) {
                times.push(info.time_ns);
            }
        })?;
        // The clock may have been set back.
        times.sort_unstable();
        times.dedup();
        Ok(damaged)
    }

    pub(super) fn len(&self) -> usize {
        self.times.len()
    }

    pub(super) fn oldest(&self) -> Option<u64> {
        self.times.first().copied()
    }

    pub(super) fn newest(&self) -> Option<u64> {
        self.times.last().copied()
    }

    /// How many there are until a moment: the number of the one that was made then.
    pub(super) fn number(&self, ns: u64) -> usize {
        self.times.partition_point(|time| *time <= ns)
    }

    /// The last one until a moment.
    pub(super) fn until(&self, ns: u64) -> Option<u64> {
        self.times.get(self.number(ns).checked_sub(1)?).copied()
    }

    /// The last one before a moment.
    pub(super) fn before(&self, ns: u64) -> Option<u64> {
        self.until(ns.checked_sub(1)?)
    }

    /// The first one after a moment.
    pub(super) fn after(&self, ns: u64) -> Option<u64> {
        self.times.get(self.number(ns)).copied()
    }

    /// The one that is so many later, or at the end.
    pub(super) fn step(&self, at_ns: u64, by: i64) -> u64 {
        let Some(last) = self.times.len().checked_sub(1) else { return at_ns };
        let by = isize::try_from(by).unwrap_or(if by < 0 { isize::MIN } else { isize::MAX });
        let at = self.number(at_ns).saturating_sub(1);
        self.times.get(at.saturating_add_signed(by).min(last)).copied().unwrap_or(at_ns)
    }

    /// The one at so many seconds later or just before that; another one in any case where there is any. And what to say of it.
    pub(super) fn jump(&self, at_ns: u64, seconds: i64) -> (u64, Option<String>) {
        let wanted = at_ns.saturating_add_signed(seconds.saturating_mul(1_000_000_000));
        let later = seconds > 0;
        let found = self.until(wanted).or(self.oldest()).unwrap_or(at_ns);
        match (found == at_ns, self.after(at_ns).filter(|_| later)) {
            (true, Some(next)) => {
                (next, Some(format!("nothing was collected from {} to {}", moment::utc(at_ns), moment::utc(next))))
            }
            (true, None) => (found, Some(end(later))),
            (false, _) => (found, None),
        }
    }

    /// Forgets one of which nothing is whole, and gives the next in that direction; where there is none, the nearest in the other.
    pub(super) fn remove(&mut self, ns: u64, later: bool) -> Option<u64> {
        self.times.retain(|time| *time != ns);
        let (before, after) = (self.before(ns), self.after(ns));
        if later { after.or(before) } else { before.or(after) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn ways_lead_to_another_collection_or_say_that_there_is_none() {
        let index = Index { times: [10, 25, 40, 900, 915].map(|second| second * SECOND).to_vec(), damaged: 0 };
        let step = |at: u64, by| index.step(at * SECOND, by) / SECOND;
        assert_eq!(
            [step(25, 1), step(25, -1), step(25, 9), step(25, i64::MIN), step(915, 1), step(10, 0)],
            [40, 10, 915, 10, 915, 10]
        );
        for (at, seconds, wanted, note) in [
            (10, 20, 25, ""),
            (25, -10, 10, ""),
            (25, -3600, 10, ""),
            (10, -60, 10, "this is the oldest collection"),
            (40, 60, 900, "nothing was collected from 1970-01-01 00:00:40 UTC to 1970-01-01 00:15:00 UTC"),
            (900, -60, 40, ""),
            (900, i64::MAX, 915, ""),
            (915, 60, 915, "this is the newest collection"),
            (915, i64::MIN, 10, ""),
        ] {
            let (found, said) = index.jump(at * SECOND, seconds);
            assert_eq!((found / SECOND, said.unwrap_or_default().as_str()), (wanted, note), "{at} {seconds}");
        }
        assert_eq!(
            [9, 10, 39, 5000].map(|second| index.until(second * SECOND)),
            [None, Some(10), Some(25), Some(915)].map(|s| s.map(|s: u64| s * SECOND))
        );
        assert_eq!((index.number(25 * SECOND), index.before(10 * SECOND), index.after(915 * SECOND)), (2, None, None));
    }

    #[test]
    fn what_is_forgotten_leads_on_in_its_direction() {
        let mut index = Index { times: vec![1, 2, 3, 4], damaged: 0 };
        assert_eq!(index.remove(2, true), Some(3));
        assert_eq!(index.remove(3, false), Some(1));
        assert_eq!(index.remove(4, true), Some(1));
        assert_eq!(index.remove(1, true), None);
        assert_eq!((index.step(7, 1), index.jump(7, 60).0), (7, 7));
    }
}
