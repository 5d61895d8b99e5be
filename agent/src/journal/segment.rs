//! One file of entries: what is in it, and its entries with their bodies.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use nix::fcntl::OFlag;

use super::entry::{Entry, EntryInfo, HEADER_BYTES, Header, Sequence};
use super::scan::{Place, Scan, Step};

/// What a segment's file is called after its number.
const ENDING: &str = ".segment";

/// Digits of the number.
const DIGITS: usize = 20;

/// Numbers from here on are nothing that a journal gives: room for those after it, without overflow.
pub(super) const END_OF_SEQUENCES: Sequence = 1 << 62;

/// What is known of a segment without reading it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// The number in its name: the least that an entry of it can have.
    pub(super) first: Sequence,
    /// One more than the last entry's number.
    pub(super) next: Sequence,
    /// Bytes of the file.
    pub(super) bytes: u64,
    /// Whole entries.
    pub(super) entries: u64,
    /// Points in them.
    pub(super) points: u64,
    /// Damaged entries with whole ones after them, as far as headers tell; 1 when the file cannot be read.
    pub(super) bad_entries: u64,
    /// The earliest time of an entry, in ns since 1970; the largest number there is when it has none.
    pub(super) from_ns: u64,
    /// The latest time of an entry, in ns since 1970; 0 when it has none.
    pub(super) until_ns: u64,
    /// The latest time of an entry in this segment or an older one, those that are removed included: it never falls from one
    /// segment to the next, though a clock that is set back makes times that do.
    pub(super) latest_ns: u64,
}

/// A segment's file after it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Examined {
    pub(super) segment: Segment,
    /// Bytes after the last whole entry.
    pub(super) torn_bytes: u64,
    /// The last whole entry, and where its body begins.
    last: Option<(Header, u64)>,
}

impl Segment {
    /// A segment without entries.
    pub(super) fn new(first: Sequence) -> Self {
        Self { first, next: first, bytes: 0, entries: 0, points: 0, bad_entries: 0, from_ns: u64::MAX, until_ns: 0, latest_ns: 0 }
    }

    /// Counts an entry that stands at its end.
    pub(super) fn add(&mut self, header: &Header) {
        self.next = header.sequence + 1;
        self.bytes += header.entry_bytes();
        self.entries += 1;
        self.points = self.points.saturating_add(header.info.count);
        self.from_ns = self.from_ns.min(header.info.time_ns);
        self.until_ns = self.until_ns.max(header.info.time_ns);
        self.latest_ns = self.latest_ns.max(header.info.time_ns);
    }

    /// Where the segment's file is.
    pub(super) fn path(&self, directory: &Path) -> PathBuf {
        path(directory, self.first)
    }
}

/// Where the segment that begins with `first` is.
pub(super) fn path(directory: &Path, first: Sequence) -> PathBuf {
    directory.join(format!("{first:0DIGITS$}{ENDING}"))
}

/// The number in a segment's name; `None` for other files.
pub(super) fn number(name: &str) -> Option<Sequence> {
    let digits = name.strip_suffix(ENDING)?;
    let right = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|number| right && *number < END_OF_SEQUENCES)
}

/// Opens a segment for reading. What is no regular file is refused.
pub(super) fn open(path: &Path) -> io::Result<File> {
    // A FIFO of this name would make a plain open wait.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Reads the headers of the segment that begins with `first`. Entries have numbers smaller than `below`.
pub(super) fn examine(file: &File, first: Sequence, below: Sequence) -> io::Result<Examined> {
    let mut scan = Scan::new(file, Place { at: 0, sequence: first }, below)?;
    let mut examined = Examined { segment: Segment::new(first), torn_bytes: 0, last: None };
    loop {
        match scan.step()? {
            Step::Entry { header, body_at } => {
                examined.segment.add(&header);
                examined.last = Some((header, body_at));
            }
            Step::Bad { entries, .. } => examined.segment.bad_entries += entries,
            Step::End => break,
        }
    }
    examined.torn_bytes = scan.rest();
    examined.segment.bytes = scan.place.at + scan.rest();
    Ok(examined)
}

/// Entries of the segment from the number `from` on, and their points.
pub(super) fn count(file: &File, segment: &Segment, from: Sequence) -> io::Result<(u64, u64)> {
    let mut scan = Scan::new(file, Place { at: 0, sequence: segment.first }, segment.next)?;
    let (mut entries, mut points) = (0, 0_u64);
    loop {
        match scan.step()? {
            Step::Entry { header, .. } if header.sequence >= from => {
                entries += 1;
                points = points.saturating_add(header.info.count);
            }
            Step::Entry { .. } | Step::Bad { .. } => {}
            Step::End => return Ok((entries, points)),
        }
    }
}

/// Gives what is kept of each whole entry beside its body; returns the number of damaged ones before whole ones, as far as headers
/// tell. Entries have numbers smaller than `below`.
pub(super) fn infos(path: &Path, first: Sequence, below: Sequence, mut each: impl FnMut(&EntryInfo)) -> io::Result<u64> {
    let file = open(path)?;
    let mut scan = Scan::new(&file, Place { at: 0, sequence: first }, below)?;
    let mut bad_entries = 0;
    loop {
        match scan.step()? {
            Step::Entry { header, .. } => each(&header.info),
            Step::Bad { entries, .. } => bad_entries += entries,
            Step::End => return Ok(bad_entries),
        }
    }
}

impl Examined {
    /// Where the last entry begins if its body is not what was written, as after a power cut.
    pub(super) fn bad_last(&self, file: &File) -> io::Result<Option<u64>> {
        let Some((header, body_at)) = &self.last else { return Ok(None) };
        let whole = read_body(file, header, *body_at)?.is_some();
        Ok((!whole).then_some(body_at - HEADER_BYTES as u64))
    }
}

/// A segment that is being read.
#[derive(Debug)]
pub(super) struct Reading {
    /// The number in its name.
    pub(super) first: Sequence,
    file: File,
    place: Place,
    below: Sequence,
}

/// What comes next of a segment.
#[derive(Debug)]
pub(super) enum Next {
    /// An entry.
    Entry(Entry),
    /// Damaged entries, with numbers below `until`, and as many of their points as are known.
    Bad { entries: u64, points: u64, until: Sequence },
    /// No whole entry follows.
    End,
}

impl Reading {
    /// The segment's entries, from its start on; all have numbers smaller than `below`.
    pub(super) fn open(directory: &Path, first: Sequence, below: Sequence) -> io::Result<Self> {
        let file = open(&path(directory, first))?;
        Ok(Self { first, file, place: Place { at: 0, sequence: first }, below })
    }

    /// Bytes of the file that were read or passed.
    pub(super) fn read_bytes(&self) -> u64 {
        self.place.at
    }

    /// The next entry that `wanted` takes. The bodies of others are not read.
    pub(super) fn next(&mut self, wanted: impl Fn(&Header) -> bool) -> io::Result<Next> {
        let mut scan = Scan::new(&self.file, self.place, self.below)?;
        loop {
            let step = scan.step()?;
            self.place = scan.place;
            match step {
                Step::Entry { header, .. } if !wanted(&header) => {}
                Step::Entry { header, body_at } => {
                    let bad = Next::Bad { entries: 1, points: header.info.count, until: header.sequence + 1 };
                    let body = read_body(&self.file, &header, body_at)?;
                    return Ok(body.map_or(bad, |body| Next::Entry(Entry { sequence: header.sequence, info: header.info, body })));
                }
                Step::Bad { entries, until } => return Ok(Next::Bad { entries, points: 0, until }),
                Step::End => return Ok(Next::End),
            }
        }
    }
}

/// A body that the file has in whole; `None` when it is not what was written, or the disk cannot read it.
fn read_body(file: &File, header: &Header, at: u64) -> io::Result<Option<Bytes>> {
    let mut body = vec![0; header.len as usize];
    match file.read_exact_at(&mut body, at) {
        Ok(()) => Ok(header.matches(&body).then(|| body.into())),
        Err(error) if is_damage(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an error says that what was written is lost, so that another attempt would not help.
pub(super) fn is_damage(error: &io::Error) -> bool {
    let is = |errno: nix::Error| error.raw_os_error() == Some(errno as i32);
    // The last two: something else has put a symlink, a directory or a FIFO there.
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData)
        || is(nix::Error::EIO)
        || is(nix::Error::ELOOP)
}
