//! Encoded requests on disk: bounded in bytes and in age, each with a checksum, read by any number of destinations.
//!
//! The journal is a directory of segments, files of entries one after the other. The newest is appended to; older ones are read only.
//! The oldest goes first, as a whole. Each destination has a [`Cursor`]: how far it has got. [`Reader`] looks back, from another
//! process too.
//!
//! # What is lost
//!
//! - The agent is killed: nothing for which [`Journal::append`] had returned. An entry that was sent and not confirmed yet is read again:
//!   one at most, the newest that was sent. That is harmless for metrics: OTLP receivers take a repeated cumulative point of the same time
//!   and start for the same point. Log records appear twice.
//! - The node loses power: entries that the kernel had not yet written to the disk. A segment is synced when it is sealed, so these are
//!   entries of the newest one, mostly those of the last 30 s, after which the kernel writes by itself. What is damaged then is
//!   recognised by its checksum and left out.
//! - A bit changes on the disk: that entry.
//!
//! # Threads
//!
//! Every call may wait for the disk: an append when it seals a segment, until 8 MiB are written.

mod active;
mod cursor;
mod directory;
mod entry;
mod error;
mod reader;
mod scan;
mod segment;
#[cfg(test)]
mod tests;

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use active::Active;
use cursor::Cursors;
use directory::Segments;
use entry::{HEADER_BYTES, Header, MAX_BODY_BYTES};
use segment::Segment;

pub use cursor::{Cursor, Dropped, Unread};
pub use directory::Recovered;
pub use entry::{Entry, EntryInfo, Kind, Sequence};
pub use error::JournalError;
pub use reader::Reader;

/// Bytes of the largest and the smallest segment. One with a larger entry is as large as that.
const MAX_SEGMENT_BYTES: u64 = 8 << 20;
const MIN_SEGMENT_BYTES: u64 = 64 << 10;

/// How many segments fit into the limits at least: what is removed at once is at most this part of the journal.
const SEGMENTS: u32 = 16;

/// The file that the one writer holds a lock on.
const LOCK: &str = "lock";

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all segments, headers included.
    pub bytes: u64,
    /// How much older than the newest entry an entry may be.
    pub age: Duration,
}

/// A journal that this process alone writes to.
#[derive(Debug)]
pub struct Journal {
    limits: Limits,
    segments: Segments,
    /// The newest segment's file; `None` when the next entry begins a new one.
    active: Option<Active>,
    /// The number of the next entry.
    next: Sequence,
    cursors: Cursors,
    /// Held as long as it is open.
    _lock: File,
}

impl Limits {
    /// Bytes from which a segment is sealed.
    fn segment_bytes(self) -> u64 {
        (self.bytes / u64::from(SEGMENTS)).clamp(MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES)
    }

    fn age_ns(self) -> u64 {
        u64::try_from(self.age.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Journal {
    /// Opens the journal in a directory, which is made if it is not there, for the one process that writes to it. Reads the headers of
    /// all entries, cuts what was being written when the last process ended, and removes the oldest segments until no more bytes are
    /// left than may.
    ///
    /// # Errors
    /// When another process writes to it, or the file system refuses.
    pub fn open(directory: &Path, limits: Limits) -> Result<(Self, Recovered), JournalError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(JournalError::io("make the journal's directory", directory))?;
        let lock = lock(directory)?;
        let mut segments = Segments::new(directory);
        let bad_entries = segments.refresh()?;
        let cut_bytes = segments.cut_newest()?;
        let cursors = Cursors::load(directory).map_err(JournalError::io("list the cursors in", directory))?;
        // After a power cut a cursor can be ahead of the entries. None may get a number that it has passed.
        let next = segments.next().max(cursors.furthest());
        // What is damaged takes no more: a length in the damage could then reach into what is added.
        let takes_more = |newest: &&Segment| newest.bad_entries == 0 && newest.next == next;
        let active = segments.all.back().filter(takes_more).map(|newest| {
            let path = newest.path(directory);
            Active::open(&path).map_err(JournalError::io("open for appending", &path))
        });
        let mut journal = Self { limits, active: active.transpose()?, segments, next, cursors, _lock: lock };
        journal.make_room(0)?;
        let entries = journal.segments.all.iter().map(|segment| segment.entries).sum();
        let recovered = Recovered { entries, bytes: journal.segments.bytes(), cut_bytes, bad_entries };
        Ok((journal, recovered))
    }

    /// Adds an entry, and removes the oldest segments where it would not fit in the limits otherwise. `info.time_ns` is taken for the
    /// present.
    ///
    /// # Errors
    /// When the file system refuses, or the body is larger than the journal or 64 MiB. Nothing is added then, and the next call tries
    /// again.
    pub fn append(&mut self, info: EntryInfo, body: &[u8]) -> Result<Sequence, JournalError> {
        let most = usize::try_from(self.limits.bytes).unwrap_or(usize::MAX).saturating_sub(HEADER_BYTES).min(MAX_BODY_BYTES);
        let header = Header::new(self.next, info, body).filter(|_| body.len() <= most);
        let header = header.ok_or(JournalError::TooLarge { bytes: body.len(), most })?;
        self.trim(info.time_ns)?;
        let newest_bytes = self.segments.all.back().map_or(0, |newest| newest.bytes);
        let is_lost = self.active.as_ref().is_some_and(Active::is_removed);
        if is_lost || newest_bytes + header.entry_bytes() > self.limits.segment_bytes() {
            self.seal()?;
        }
        self.make_room(header.entry_bytes())?;
        self.write(&header, body)?;
        self.next += 1;
        Ok(header.sequence)
    }

    /// Removes the segments of which all entries are older than the limit at this time, in ns since 1970. An append does the same.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn trim(&mut self, now_ns: u64) -> Result<(), JournalError> {
        let age_ns = self.limits.age_ns();
        let since = |ns: u64| now_ns.saturating_sub(ns);
        if self.segments.all.back().is_some_and(|newest| since(newest.from_ns) > age_ns / u64::from(SEGMENTS)) {
            self.seal()?;
        }
        while self.segments.all.front().is_some_and(|oldest| since(oldest.until_ns) > age_ns) {
            self.remove_oldest()?;
        }
        Ok(())
    }

    /// The cursor of a destination. The name is made of 1 to 64 of the characters a-z, 0-9 and `-`.
    ///
    /// A new one begins at the end: what is in the journal was not meant for it. One that had a file goes on there; where the file is
    /// damaged it begins at the oldest entry, since to send twice is better than not at all.
    ///
    /// # Errors
    /// When the name has other characters, or the file system refuses a new one's file.
    pub fn cursor(&mut self, name: &str) -> Result<Cursor, JournalError> {
        self.cursors.get(name, &self.segments, self.next)
    }

    /// Forgets every destination but these, for whoever has just opened the journal: cursors taken before mean others then. Gives the names
    /// of those that it had. One that comes back later is new.
    ///
    /// # Errors
    /// When the file of one cannot be removed.
    pub fn forget_all_but(&mut self, names: &[&str]) -> Result<Vec<String>, JournalError> {
        self.cursors.forget_all_but(names, &self.segments.directory)
    }

    /// The next entry of a cursor, which goes on behind it; `None` when there is none yet. Who gets it keeps it until it is sent or given
    /// up, and then calls [`Journal::confirm`].
    ///
    /// # Errors
    /// When the file system refuses: the next call tries again. What is damaged is no error, but left out and counted.
    pub fn next(&mut self, cursor: Cursor) -> Result<Option<Entry>, JournalError> {
        self.cursors.next(cursor, &mut self.segments, self.next)
    }

    /// Every entry of a cursor up to this one is sent or given up: the next process does not read them again.
    ///
    /// # Errors
    /// When the cursor's file cannot be written. The entry counts as confirmed nonetheless, and the next call writes it, though not within
    /// a second.
    pub fn confirm(&mut self, cursor: Cursor, sequence: Sequence) -> Result<(), JournalError> {
        self.cursors.confirm(cursor, sequence);
        self.cursors.save(&self.segments.directory, false)
    }

    /// What a cursor could not read since this was last called.
    pub fn take_dropped(&mut self, cursor: Cursor) -> Dropped {
        self.cursors.take_dropped(cursor)
    }

    /// What waits for a cursor.
    pub fn unread(&self, cursor: Cursor) -> Unread {
        self.cursors.unread(cursor, &self.segments)
    }

    /// The number of the entry that a cursor reads next.
    pub fn position(&self, cursor: Cursor) -> Sequence {
        self.cursors.position(cursor).unwrap_or(self.next)
    }

    /// The number of the next entry.
    pub fn end(&self) -> Sequence {
        self.next
    }

    /// Moves a cursor to the end: what it has not read counts as confirmed.
    pub fn skip_all(&mut self, cursor: Cursor) {
        self.cursors.move_to(cursor, self.next);
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.segments.bytes()
    }

    /// Ends: writes the cursors' files, and waits until the newest segment is on the disk. A journal that is dropped writes the cursors'
    /// files only.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn close(mut self) -> Result<(), JournalError> {
        let saved = self.cursors.save(&self.segments.directory, true);
        self.seal().and(saved)
    }

    /// Ends the newest segment: nothing is appended to it any more.
    ///
    /// Here a segment could be made smaller, by compressing several of its entries together: most of a request repeats the one before.
    /// docs/design/journal.md has what that saves.
    fn seal(&mut self) -> Result<(), JournalError> {
        let Some(active) = self.active.take() else { return Ok(()) };
        active.sync().map_err(JournalError::io("write to the disk", &active.path))?;
        let directory = &self.segments.directory;
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(JournalError::io("write to the disk", directory))
    }

    /// Removes the oldest segments until so many more bytes fit.
    fn make_room(&mut self, bytes: u64) -> Result<(), JournalError> {
        while self.segments.bytes() + bytes > self.limits.bytes && !self.segments.all.is_empty() {
            self.remove_oldest()?;
        }
        Ok(())
    }

    fn remove_oldest(&mut self) -> Result<(), JournalError> {
        let file = self.segments.all.front().and_then(|oldest| segment::open(&oldest.path(&self.segments.directory)).ok());
        let removed = self.segments.remove_oldest()?;
        if self.segments.all.is_empty() {
            self.active = None;
        }
        if let Some(segment) = removed {
            self.cursors.removed(&segment, file.as_ref());
        }
        Ok(())
    }

    /// Writes an entry at the end of the newest segment, which is made if there is none.
    fn write(&mut self, header: &Header, body: &[u8]) -> Result<(), JournalError> {
        if self.active.is_none() {
            let segment = Segment::new(header.sequence);
            let path = segment.path(&self.segments.directory);
            self.active = Some(Active::create(&path).map_err(JournalError::io("make the segment", &path))?);
            self.segments.push(segment);
        }
        let (Some(active), Some(newest)) = (&mut self.active, self.segments.all.back_mut()) else { return Ok(()) };
        let Err(error) = active.append(&header.encode(), body) else {
            newest.add(header);
            return Ok(());
        };
        let error = JournalError::io("append to", &active.path)(error);
        if newest.entries == 0 {
            // The next attempt makes it again.
            let _ = std::fs::remove_file(&active.path);
            self.segments.all.pop_back();
            self.active = None;
        } else if active.cut(newest.bytes).is_err() {
            // A part of an entry stays at its end: it takes no more.
            newest.bytes = active.bytes().unwrap_or(newest.bytes);
            self.active = None;
        }
        Err(error)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // The next process reads entries again where this fails.
        let _ = self.cursors.save(&self.segments.directory, true);
    }
}

/// Locks a directory for one writer. The kernel unlocks it when the process ends, however it does.
fn lock(directory: &Path) -> Result<File, JournalError> {
    let path = directory.join(LOCK);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(JournalError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::InUse(directory.to_owned())),
        Err(TryLockError::Error(error)) => Err(JournalError::io("lock", &path)(error)),
    }
}
