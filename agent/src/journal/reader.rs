//! Looking back: entries of a period, also by another process while the agent writes.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use super::directory::Segments;
use super::entry::{Entry, EntryInfo, Sequence};
use super::error::JournalError;
use super::segment::{self, Next, Reading, Segment};

/// A journal that is only read. It takes no lock and writes nothing, so any number of them may be open while one process writes.
#[derive(Debug)]
pub struct Reader {
    segments: Segments,
}

impl Reader {
    /// Reads which entries there are.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn open(directory: &Path) -> Result<Self, JournalError> {
        let mut segments = Segments::new(directory);
        segments.refresh()?;
        Ok(Self { segments })
    }

    /// The entries with a time of at least `from_ns` and less than `until_ns`, both in ns since 1970, in the order in which they were
    /// appended. What is appended later is not among them, unless it is to the segment that is now the newest.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn between(&mut self, from_ns: u64, until_ns: u64) -> Result<Between, JournalError> {
        self.segments.refresh()?;
        Ok(Between::new(&self.segments, from_ns, until_ns))
    }

    /// Gives what is kept of the entries of a period beside their bodies, which are not read; in the order in which they were appended.
    /// Returns the number of damaged ones in the segments that have them, as far as headers tell.
    ///
    /// # Errors
    /// When the directory cannot be listed, or a file in it not be read.
    pub fn infos(&mut self, from_ns: u64, until_ns: u64, mut each: impl FnMut(&EntryInfo)) -> Result<u64, JournalError> {
        let Between { directory, waiting, .. } = self.between(from_ns, until_ns)?;
        let mut bad_entries = 0;
        for (first, below) in waiting {
            let path = segment::path(&directory, first);
            let of_period = |info: &EntryInfo| (from_ns..until_ns).contains(&info.time_ns);
            match segment::infos(&path, first, below, |info| {
                if of_period(info) {
                    each(info)
                }
            }) {
                Ok(bad) => bad_entries += bad,
                // The writer has removed it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if segment::is_damage(&error) => bad_entries += 1,
                Err(error) => return Err(JournalError::io("read", &path)(error)),
            }
        }
        Ok(bad_entries)
    }
}

/// Entries of a period, one in memory at a time.
///
/// A segment that is removed meanwhile ends there. The newest ends at its last whole entry: the next may be half written.
#[derive(Debug)]
pub struct Between {
    directory: PathBuf,
    /// Segments that are left: numbers in names, and the number that all their entries are below.
    waiting: VecDeque<(Sequence, Sequence)>,
    reading: Option<Reading>,
    from_ns: u64,
    until_ns: u64,
    bad_entries: u64,
}

impl Between {
    pub(super) fn new(segments: &Segments, from_ns: u64, until_ns: u64) -> Self {
        let all = &segments.all;
        let start = segments.reaching(from_ns);
        let newest = all.len().saturating_sub(1);
        let overlaps = |segment: &Segment| segment.from_ns < until_ns && segment.until_ns >= from_ns;
        let parts = all.iter().enumerate().skip(start).filter(|(index, segment)| *index == newest || overlaps(segment));
        let waiting = parts.map(|(index, segment)| (segment.first, segments.end_of(index))).collect();
        Self { directory: segments.directory.clone(), waiting, reading: None, from_ns, until_ns, bad_entries: 0 }
    }

    /// Damaged entries so far, of whatever time.
    pub fn bad_entries(&self) -> u64 {
        self.bad_entries
    }

    /// Opens the next segment that is still there.
    fn open_next(&mut self) -> Option<Result<&mut Reading, JournalError>> {
        while let Some((first, below)) = self.waiting.pop_front() {
            let directory = &self.directory;
            match Reading::open(directory, first, below) {
                Ok(reading) => return Some(Ok(self.reading.insert(reading))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if segment::is_damage(&error) => self.bad_entries += 1,
                Err(error) => return Some(Err(JournalError::io("read", &segment::path(directory, first))(error))),
            }
        }
        None
    }
}

impl Iterator for Between {
    type Item = Result<Entry, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (from_ns, until_ns) = (self.from_ns, self.until_ns);
        loop {
            let reading = match self.reading.as_mut() {
                Some(reading) => reading,
                None => match self.open_next()? {
                    Ok(reading) => reading,
                    Err(error) => return Some(Err(error)),
                },
            };
            let first = reading.first;
            match reading.next(|header| (from_ns..until_ns).contains(&header.info.time_ns)) {
                Ok(Next::Entry(entry)) => return Some(Ok(entry)),
                Ok(Next::Bad { entries, .. }) => self.bad_entries += entries,
                Ok(Next::End) => self.reading = None,
                Err(error) => {
                    self.reading = None;
                    if segment::is_damage(&error) {
                        self.bad_entries += 1;
                    } else {
                        let path = segment::path(&self.directory, first);
                        return Some(Err(JournalError::io("read", &path)(error)));
                    }
                }
            }
        }
    }
}
