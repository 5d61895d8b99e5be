//! A segment's entries one after the other, whatever is in the file: with bounded memory, and past what is damaged.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use super::entry::{HEADER_BYTES, Header, MAGIC, MAX_BODY_BYTES, Sequence};

/// Bytes that are read for a header. More than one fits where entries are small; of large ones the bodies are not read.
const WINDOW: usize = 4 << 10;

/// Bytes that are read at once where a header is damaged.
const SEARCH_WINDOW: usize = 64 << 10;

/// Bytes of the largest segment: that of one entry. What a file has beyond was never written by a journal, and is not read.
const MAX_BYTES: u64 = (HEADER_BYTES + MAX_BODY_BYTES) as u64;

/// Where in a segment the next entry begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Bytes from the start of the file.
    pub(super) at: u64,
    /// The least number that it can have.
    pub(super) sequence: Sequence,
}

/// Headers of one segment, in order.
pub(super) struct Scan<'a> {
    file: &'a File,
    /// Bytes of the file when this began.
    len: u64,
    /// How many of them may hold entries.
    end: u64,
    /// Where the next entry begins.
    pub(super) place: Place,
    /// Every entry of the segment has a smaller number.
    below: Sequence,
    window: Vec<u8>,
    window_at: u64,
}

/// What comes next in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// An entry with its whole body, which begins at `body_at`. The body was not read.
    Entry { header: Header, body_at: u64 },
    /// Damaged entries, before one that is whole and has the number `until`.
    Bad { entries: u64, until: Sequence },
    /// No whole entry follows.
    End,
}

impl<'a> Scan<'a> {
    /// The entries from `place` on.
    pub(super) fn new(file: &'a File, place: Place, below: Sequence) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let end = len.min(MAX_BYTES);
        // A length of 56 bytes is the least that an entry has: what a damaged number could say is bounded.
        let below = below.min(place.sequence.saturating_add(end / HEADER_BYTES as u64 + 1));
        Ok(Self { file, len, end, place, below, window: Vec::new(), window_at: 0 })
    }

    /// Bytes of the file that are not read yet: after [`Step::End`] those of a part of an entry, or damaged.
    pub(super) fn rest(&self) -> u64 {
        self.len.saturating_sub(self.place.at)
    }

    /// What comes next.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn step(&mut self) -> io::Result<Step> {
        let at = self.place.at;
        let Some(bytes) = self.header_bytes(at)? else { return Ok(Step::End) };
        if let Some(header) = Header::decode(&bytes, &self.numbers()) {
            if header.entry_bytes() > self.end - at {
                return Ok(Step::End);
            }
            self.place = Place { at: at + header.entry_bytes(), sequence: header.sequence + 1 };
            return Ok(Step::Entry { header, body_at: at + HEADER_BYTES as u64 });
        }
        match self.find(at + 1)? {
            Some(found) => {
                let entries = (found.sequence - self.place.sequence).max(1);
                self.place = found;
                Ok(Step::Bad { entries, until: found.sequence })
            }
            None => Ok(Step::End),
        }
    }

    /// The numbers that the next entry can have. Headers of other entries, in what a body holds, do not count.
    fn numbers(&self) -> Range<Sequence> {
        self.place.sequence..self.below
    }

    /// The next whole entry that begins at `from` or later.
    fn find(&mut self, mut from: u64) -> io::Result<Option<Place>> {
        let numbers = self.numbers();
        while from + HEADER_BYTES as u64 <= self.end {
            let Some(bytes) = self.window_from(from, SEARCH_WINDOW)? else { return Ok(None) };
            let Some(position) = bytes.windows(MAGIC.len()).position(|part| part == MAGIC) else {
                // The last bytes may be the start of the magic.
                from += (bytes.len() - (MAGIC.len() - 1)) as u64;
                continue;
            };
            let header = bytes[position..].first_chunk().and_then(|bytes| Header::decode(bytes, &numbers));
            let is_cut_off = bytes.len() - position < HEADER_BYTES;
            from += position as u64;
            match header {
                Some(header) if header.entry_bytes() <= self.end - from => {
                    return Ok(Some(Place { at: from, sequence: header.sequence }));
                }
                _ if is_cut_off && position > 0 => {}
                _ => from += 1,
            }
        }
        Ok(None)
    }

    /// The bytes of a header at `at`; `None` when the file has fewer.
    fn header_bytes(&mut self, at: u64) -> io::Result<Option<[u8; HEADER_BYTES]>> {
        Ok(self.window_from(at, WINDOW)?.and_then(|bytes| bytes.first_chunk()).copied())
    }

    /// The bytes in memory from `at` on, at least those of a header; up to `most` are read where there are fewer. `None` when the file
    /// has fewer.
    fn window_from(&mut self, at: u64, most: usize) -> io::Result<Option<&[u8]>> {
        if at + HEADER_BYTES as u64 > self.end {
            return Ok(None);
        }
        let window_end = self.window_at + self.window.len() as u64;
        if at < self.window_at || at + HEADER_BYTES as u64 > window_end {
            self.fill(at, most)?;
        }
        let offset = usize::try_from(at - self.window_at).unwrap_or(usize::MAX);
        Ok(self.window.get(offset..).filter(|bytes| bytes.len() >= HEADER_BYTES))
    }

    /// Reads up to `most` bytes from `at` on: fewer at the end of the file, and where it was cut meanwhile.
    fn fill(&mut self, at: u64, most: usize) -> io::Result<()> {
        let inside = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX);
        let len = most.min(inside);
        self.window_at = at;
        self.window.resize(len, 0);
        let mut read = 0;
        while read < len {
            match self.file.read_at(&mut self.window[read..], at + read as u64) {
                Ok(0) => break,
                Ok(bytes) => read += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.window.clear();
                    return Err(error);
                }
            }
        }
        self.window.truncate(read);
        Ok(())
    }
}
