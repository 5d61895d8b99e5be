//! How far each destination has got: a position by name, kept in a small file.
//!
//! A file has 16 bytes: `pmc1`, the CRC-32 of the last 8, and the number of the entry that is to be read next (little-endian). It is
//! replaced by a new file that is renamed, whenever an entry is confirmed, and not synced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::directory::Segments;
use super::entry::{Entry, Sequence};
use super::error::{JournalError, MAX_NAME_BYTES};
use super::segment::{self, END_OF_SEQUENCES, Next, Reading, Segment};

/// How long a cursor's file that could not be written is not tried again.
const REST: Duration = Duration::from_secs(1);

const MAGIC: [u8; 4] = *b"pmc1";
const FILE_BYTES: usize = 16;
const ENDING: &str = ".cursor";

/// A cursor of one journal, as [`Journal::cursor`](super::Journal::cursor) gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(usize);

/// What a cursor did not get to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Entries of segments that were removed for the journal's bounds, or by something else, before the cursor had read them.
    pub entries: u64,
    /// Points in them.
    pub points: u64,
    /// Entries that were damaged when the cursor came to them.
    pub bad_entries: u64,
    /// Points in them, as far as that is known: where the header is damaged too it is not.
    pub bad_points: u64,
}

/// What waits for a cursor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// Entries that it has not read yet. Damaged ones may be among them.
    pub entries: u64,
    /// Their bytes, headers included. After a start the segment that it is in counts as a whole until the first entry is read.
    pub bytes: u64,
    /// Points in them: of the segment that it is in, its share by entries.
    pub points: u64,
    /// The time of the oldest, ns since 1970, by its place in its segment.
    pub oldest_ns: Option<u64>,
}

impl Dropped {
    /// Adds what was lost later.
    pub fn add(&mut self, other: &Self) {
        self.entries += other.entries;
        self.points = self.points.saturating_add(other.points);
        self.bad_entries += other.bad_entries;
        self.bad_points = self.bad_points.saturating_add(other.bad_points);
    }
}

/// All cursors of a journal, those that were not opened since its start included: what they lose counts too.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    all: Vec<State>,
}

#[derive(Debug)]
struct State {
    name: String,
    /// The entry to be read next.
    read: Sequence,
    /// Every entry before this one is sent or given up.
    confirmed: Sequence,
    /// What the file holds; `None` when it must be written whatever it is.
    saved: Option<Sequence>,
    /// When the file could not be written.
    failed: Option<Instant>,
    /// The segment that is being read.
    reading: Option<Reading>,
    dropped: Dropped,
}

impl Cursors {
    /// Those that have a file. One with a damaged file begins at the oldest entry.
    pub(super) fn load(directory: &Path) -> io::Result<Self> {
        let mut all = Vec::new();
        for file in fs::read_dir(directory)? {
            let file_name = file?.file_name();
            let Some(name) = file_name.to_str().and_then(|name| name.strip_suffix(ENDING)).filter(|name| is_name(name)) else {
                continue;
            };
            let saved = load(&path(directory, name));
            all.push(State::new(name, saved.unwrap_or(0), saved));
        }
        Ok(Self { all })
    }

    /// The largest position of all.
    pub(super) fn furthest(&self) -> Sequence {
        self.all.iter().map(|state| state.confirmed).max().unwrap_or(0)
    }

    /// The cursor of this name. A new one begins at `end`, and is saved at once.
    pub(super) fn get(&mut self, name: &str, segments: &Segments, end: Sequence) -> Result<Cursor, JournalError> {
        if !is_name(name) {
            return Err(JournalError::CursorName(name.to_owned()));
        }
        if let Some(index) = self.all.iter().position(|state| state.name == name) {
            return Ok(Cursor(index));
        }
        let mut state = State::new(name, end, None);
        state.save(&segments.directory)?;
        self.all.push(state);
        Ok(Cursor(self.all.len() - 1))
    }

    /// Removes those with other names than these, and their files; gives their names.
    pub(super) fn forget_all_but(&mut self, names: &[&str], directory: &Path) -> Result<Vec<String>, JournalError> {
        let mut forgotten = Vec::new();
        while let Some(index) = self.all.iter().position(|state| !names.contains(&state.name.as_str())) {
            let path = path(directory, &self.all[index].name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(JournalError::io("remove", &path)(error)),
                _ => forgotten.push(self.all.remove(index).name),
            }
        }
        Ok(forgotten)
    }

    /// `None` for a cursor of another journal.
    fn state(&mut self, cursor: Cursor) -> Option<&mut State> {
        self.all.get_mut(cursor.0)
    }

    /// The next entry of a cursor; `None` when it has read all before `end`.
    pub(super) fn next(&mut self, cursor: Cursor, segments: &mut Segments, end: Sequence) -> Result<Option<Entry>, JournalError> {
        loop {
            let Some(state) = self.state(cursor) else { return Ok(None) };
            let Some(index) = segments.holding(state.read).filter(|_| state.read < end) else {
                state.read = state.read.max(end);
                return Ok(None);
            };
            let segment = segments.all[index];
            match state.step(&segment, &segments.directory, segments.end_of(index)) {
                Ok(Some(entry)) => return Ok(Some(entry)),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.removed(&segment, None);
                    segments.all.remove(index);
                }
                Err(error) if segment::is_damage(&error) => state.skip(&segment),
                Err(error) => {
                    state.reading = None;
                    return Err(JournalError::io("read", &segment.path(&segments.directory))(error));
                }
            }
        }
    }

    /// Counts what the cursors had not read of a segment that was removed, and moves them behind it. Its file, if it was opened
    /// before, has the points of those that had read a part of it.
    pub(super) fn removed(&mut self, segment: &Segment, file: Option<&File>) {
        for state in self.all.iter_mut().filter(|state| state.read < segment.next) {
            let (entries, points) = match state.read {
                read if read <= segment.first => (segment.entries, segment.points),
                read => {
                    let counted = file.and_then(|file| segment::count(file, segment, read).ok());
                    counted.unwrap_or((segment.next - read, 0))
                }
            };
            state.dropped.entries += entries;
            state.dropped.points = state.dropped.points.saturating_add(points);
            state.read = segment.next;
            state.reading = None;
        }
    }

    /// Every entry up to this one is sent or given up.
    pub(super) fn confirm(&mut self, cursor: Cursor, sequence: Sequence) {
        let Some(state) = self.state(cursor) else { return };
        state.confirmed = state.confirmed.max(sequence.saturating_add(1)).min(state.read);
    }

    /// Goes to the entry `sequence`.
    pub(super) fn move_to(&mut self, cursor: Cursor, sequence: Sequence) {
        let Some(state) = self.state(cursor) else { return };
        (state.read, state.confirmed, state.reading) = (sequence, sequence, None);
    }

    /// What the cursor has lost since this was last called.
    pub(super) fn take_dropped(&mut self, cursor: Cursor) -> Dropped {
        self.state(cursor).map(|state| std::mem::take(&mut state.dropped)).unwrap_or_default()
    }

    /// The entry that a cursor reads next.
    pub(super) fn position(&self, cursor: Cursor) -> Option<Sequence> {
        self.all.get(cursor.0).map(|state| state.read)
    }

    /// What waits for a cursor.
    pub(super) fn unread(&self, cursor: Cursor, segments: &Segments) -> Unread {
        let (Some(state), Some(first)) = (self.all.get(cursor.0), segments.all.front()) else { return Unread::default() };
        let mut unread = Unread { entries: segments.next().saturating_sub(state.read.max(first.first)), ..Unread::default() };
        for segment in segments.all.iter().filter(|segment| segment.next > state.read) {
            let reading = state.reading.as_ref().filter(|reading| reading.first == segment.first);
            unread.bytes += segment.bytes.saturating_sub(reading.map_or(0, Reading::read_bytes));
            let share = |n: u64| {
                let (left, all) = (segment.next - state.read.max(segment.first), segment.next - segment.first);
                (u128::from(n) * u128::from(left) / u128::from(all)) as u64
            };
            unread.points = unread.points.saturating_add(share(segment.points));
            let span_ns = segment.until_ns.saturating_sub(segment.from_ns);
            unread.oldest_ns.get_or_insert(segment.from_ns + (span_ns - share(span_ns)));
        }
        unread
    }

    /// Writes the files of cursors that have moved; with `all` those too that could not be written just before. The first error is
    /// reported after all were tried.
    pub(super) fn save(&mut self, directory: &Path, all: bool) -> Result<(), JournalError> {
        let mut result = Ok(());
        for state in &mut self.all {
            let rests = state.failed.is_some_and(|failed| failed.elapsed() < REST);
            if state.saved != Some(state.confirmed) && (all || !rests) {
                result = result.and(state.save(directory));
            }
        }
        result
    }
}

impl State {
    fn new(name: &str, position: Sequence, saved: Option<Sequence>) -> Self {
        let dropped = Dropped::default();
        Self { name: name.to_owned(), read: position, confirmed: position, saved, failed: None, reading: None, dropped }
    }

    /// Goes on in a segment that has, or had, the entry to be read next: gives it, or moves forward.
    fn step(&mut self, segment: &Segment, directory: &Path, below: Sequence) -> io::Result<Option<Entry>> {
        let reading = match &mut self.reading {
            Some(reading) if reading.first == segment.first => reading,
            other => other.insert(Reading::open(directory, segment.first, below)?),
        };
        let from = self.read;
        match reading.next(|header| header.sequence >= from)? {
            Next::Entry(entry) => {
                self.read = entry.sequence + 1;
                return Ok(Some(entry));
            }
            // What is damaged before the position was counted when the cursor came to it.
            Next::Bad { points, until, .. } if until > self.read => {
                self.dropped.bad_entries += until - self.read.max(segment.first);
                self.dropped.bad_points = self.dropped.bad_points.saturating_add(points);
                self.read = until;
            }
            Next::Bad { .. } => {}
            Next::End => self.skip(segment),
        }
        Ok(None)
    }

    /// Gives up what was not read of a segment.
    fn skip(&mut self, segment: &Segment) {
        self.dropped.bad_entries += segment.next.saturating_sub(self.read.max(segment.first));
        self.read = segment.next;
        self.reading = None;
    }

    fn save(&mut self, directory: &Path) -> Result<(), JournalError> {
        self.failed = Some(Instant::now());
        let path = path(directory, &self.name);
        let new = directory.join(format!(".{}{ENDING}.new", self.name));
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&encode(self.confirmed))?;
            fs::rename(&new, &path)
        };
        write().map_err(JournalError::io("save the position in", &path))?;
        (self.saved, self.failed) = (Some(self.confirmed), None);
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_part)
}

fn path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}{ENDING}"))
}

/// What a cursor's file holds; `None` when it cannot be read or is damaged.
fn load(path: &Path) -> Option<Sequence> {
    let mut bytes = Vec::new();
    segment::open(path).ok()?.take(FILE_BYTES as u64 + 1).read_to_end(&mut bytes).ok()?;
    decode(&bytes)
}

fn encode(next: Sequence) -> [u8; FILE_BYTES] {
    let mut bytes = [0; FILE_BYTES];
    let number = next.to_le_bytes();
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..8].copy_from_slice(&crc32fast::hash(&number).to_le_bytes());
    bytes[8..].copy_from_slice(&number);
    bytes
}

fn decode(bytes: &[u8]) -> Option<Sequence> {
    let number = u64::from_le_bytes(*bytes.last_chunk()?);
    (bytes == encode(number) && number < END_OF_SEQUENCES).then_some(number)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The file of a cursor at this position.
    pub(in super::super) fn file(position: Sequence) -> [u8; FILE_BYTES] {
        encode(position)
    }

    /// The position in a cursor's file.
    pub(in super::super) fn position(bytes: &[u8]) -> Option<Sequence> {
        decode(bytes)
    }

    #[test]
    fn a_position_is_read_as_it_was_written_and_not_with_any_bit_flipped() {
        let bytes = encode(1 << 40);
        assert_eq!(decode(&bytes), Some(1 << 40));
        for bit in 0..8 * FILE_BYTES {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped), None, "bit {bit}");
        }
        assert_eq!(decode(&encode(END_OF_SEQUENCES)), None);
    }
}
