//! The segments of a directory, oldest first.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::entry::{HEADER_BYTES, Sequence};
use super::error::JournalError;
use super::segment::{self, END_OF_SEQUENCES, Examined, Segment};

/// What an earlier process has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Whole entries. Their bodies are checked when they are read.
    pub entries: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Bytes after the newest segment's last whole entry. They were removed.
    pub cut_bytes: u64,
    /// Entries that are damaged, and segments that cannot be read. They stay until their segment goes.
    pub bad_entries: u64,
}

/// The segments of a directory.
#[derive(Debug)]
pub(super) struct Segments {
    pub(super) directory: PathBuf,
    /// Oldest first; their numbers rise.
    pub(super) all: VecDeque<Segment>,
}

impl Segments {
    /// Those of a directory, which is read by [`Segments::refresh`].
    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), all: VecDeque::new() }
    }

    /// Reads which segments there are, and the headers of those that are new or were the newest; gives the number of damaged entries
    /// in these.
    pub(super) fn refresh(&mut self) -> Result<u64, JournalError> {
        let names = self.list().map_err(JournalError::io("list the segments in", &self.directory))?;
        let mut known = std::mem::take(&mut self.all);
        // The newest may have got more entries since.
        known.pop_back();
        let mut bad_entries = 0;
        for (index, &first) in names.iter().enumerate() {
            if let Ok(at) = known.binary_search_by_key(&first, |segment| segment.first) {
                self.all.push_back(known[at]);
                continue;
            }
            let below = names.get(index + 1).copied();
            match self.examine(first, below.unwrap_or(END_OF_SEQUENCES)) {
                Ok(examined) => {
                    let torn = below.is_some() && examined.torn_bytes > 0;
                    bad_entries += examined.segment.bad_entries + u64::from(torn);
                    self.push(examined.segment);
                }
                // A writer has removed it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => {
                    bad_entries += 1;
                    self.push(self.unreadable(first, below));
                }
            }
        }
        Ok(bad_entries)
    }

    /// The numbers in the names of the segments that are there, in order.
    fn list(&self) -> io::Result<Vec<Sequence>> {
        let mut numbers = Vec::new();
        for file in fs::read_dir(&self.directory)? {
            numbers.extend(file?.file_name().to_str().and_then(segment::number));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn examine(&self, first: Sequence, below: Sequence) -> io::Result<Examined> {
        let file = segment::open(&segment::path(&self.directory, first))?;
        segment::examine(&file, first, below)
    }

    /// A segment that the disk cannot read: none of its numbers may be given again.
    fn unreadable(&self, first: Sequence, below: Option<Sequence>) -> Segment {
        let bytes = fs::symlink_metadata(segment::path(&self.directory, first)).map_or(0, |file| file.len());
        let next = first.saturating_add(bytes / HEADER_BYTES as u64 + 1);
        Segment { bytes, bad_entries: 1, next: below.unwrap_or(END_OF_SEQUENCES).min(next), ..Segment::new(first) }
    }

    /// Adds a newer segment.
    pub(super) fn push(&mut self, mut segment: Segment) {
        segment.latest_ns = segment.until_ns.max(self.all.back().map_or(0, |older| older.latest_ns));
        self.all.push_back(segment);
    }

    /// Cuts what follows the newest segment's last whole entry; gives the number of bytes. Where that is all of it the file is removed,
    /// and the one before is the newest. What cannot be read stays.
    pub(super) fn cut_newest(&mut self) -> Result<u64, JournalError> {
        let mut cut_bytes = 0;
        while let Some(segment) = self.all.pop_back() {
            let path = segment.path(&self.directory);
            let read = segment::open(&path).and_then(|file| {
                let examined = segment::examine(&file, segment.first, END_OF_SEQUENCES)?;
                let bad_last = examined.bad_last(&file)?;
                Ok((examined, bad_last))
            });
            let Ok((examined, bad_last)) = read else {
                self.push(segment);
                return Ok(cut_bytes);
            };
            let bytes = bad_last.unwrap_or(examined.segment.bytes - examined.torn_bytes);
            cut_bytes += examined.segment.bytes - bytes;
            if bytes == 0 {
                fs::remove_file(&path).map_err(JournalError::io("remove the damaged segment", &path))?;
                continue;
            }
            let whole = bytes == examined.segment.bytes;
            self.push(examined.segment);
            if whole {
                return Ok(cut_bytes);
            }
            let file = OpenOptions::new().write(true).open(&path);
            file.and_then(|file| file.set_len(bytes)).map_err(JournalError::io("cut the damaged end of", &path))?;
        }
        Ok(cut_bytes)
    }

    /// Removes the oldest segment and gives what was in it.
    pub(super) fn remove_oldest(&mut self) -> Result<Option<Segment>, JournalError> {
        let Some(oldest) = self.all.front() else { return Ok(None) };
        let path = oldest.path(&self.directory);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(JournalError::io("remove", &path)(error)),
            _ => Ok(self.all.pop_front()),
        }
    }

    /// Bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.all.iter().map(|segment| segment.bytes).sum()
    }

    /// One more than the number of the newest entry.
    pub(super) fn next(&self) -> Sequence {
        self.all.back().map_or(0, |newest| newest.next)
    }

    /// The number that all entries of a segment are below, those that may be appended included.
    pub(super) fn end_of(&self, index: usize) -> Sequence {
        self.all.get(index + 1).map_or(END_OF_SEQUENCES, |newer| newer.first)
    }

    /// The place in `all` of the segment that has the entry `sequence`, or the first one after it.
    pub(super) fn holding(&self, sequence: Sequence) -> Option<usize> {
        let index = self.all.partition_point(|segment| segment.next <= sequence);
        (index < self.all.len()).then_some(index)
    }

    /// The place in `all` of the first segment that can have an entry of this time or later.
    pub(super) fn reaching(&self, time_ns: u64) -> usize {
        self.all.partition_point(|segment| segment.latest_ns < time_ns)
    }
}
