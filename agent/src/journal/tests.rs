//! The journal on real files. Each file of tests is about one thing that can happen to it.

mod bounds;
mod cost;
mod cursors;
mod damage;
mod disk;
mod kill;
mod looking_back;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::segment::number;
use super::{Entry, EntryInfo, Journal, Kind, Limits, Reader, Sequence};

const SECOND_NS: u64 = 1_000_000_000;

/// When the first entry is made.
const START_NS: u64 = 1_800_000_000 * SECOND_NS;

/// Limits that nothing reaches.
const WIDE: Limits = Limits { bytes: 1 << 40, age: Duration::from_secs(365 * 86400) };

fn limits(bytes: u64) -> Limits {
    Limits { bytes, ..WIDE }
}

/// What the entry `sequence` is: one every second, with as many points as its number.
fn info(sequence: Sequence) -> EntryInfo {
    let kind = if sequence.is_multiple_of(3) { Kind::Logs } else { Kind::Metrics };
    let (time_ns, form) = (START_NS + sequence * SECOND_NS, sequence as u8);
    EntryInfo { time_ns, kind, form, collection: sequence / 2, count: sequence, size: sequence as u32 + 7 }
}

/// Bytes that only this entry has.
fn body(sequence: Sequence, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(sequence);
    let block: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(len.min(4096)).collect();
    let mut body = block.repeat(len.div_ceil(4096));
    body.truncate(len);
    body
}

/// Appends the next entry with a body of this length.
fn add(journal: &mut Journal, len: usize) -> Sequence {
    let sequence = journal.next;
    assert_eq!(journal.append(info(sequence), &body(sequence, len)).expect("appended"), sequence);
    sequence
}

/// Appends entries with bodies of these lengths.
fn add_all(journal: &mut Journal, lengths: &[usize]) {
    for len in lengths {
        add(journal, *len);
    }
}

/// Fails unless the entry is what `add` wrote.
fn check(entry: &Entry) {
    assert_eq!(entry.info, info(entry.sequence), "entry {}", entry.sequence);
    assert!(entry.body == body(entry.sequence, entry.body.len()), "the body of entry {}", entry.sequence);
}

/// The numbers of all entries that can be read, each checked.
fn all(directory: &Path) -> Vec<Sequence> {
    let mut reader = Reader::open(directory).expect("opened");
    let entries = reader.between(0, u64::MAX).expect("listed");
    entries.map(|entry| entry.expect("read")).inspect(check).map(|entry| entry.sequence).collect()
}

/// A directory in memory where there is one, for tests that make thousands of files.
fn fast_directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("made")
}

/// The segments of a directory, oldest first.
fn segments(directory: &Path) -> Vec<PathBuf> {
    let files = directory.read_dir().expect("listed").map(|file| file.expect("listed").path());
    let is_segment = |path: &PathBuf| path.file_name().and_then(|name| number(name.to_str()?)).is_some();
    let mut segments: Vec<PathBuf> = files.filter(is_segment).collect();
    segments.sort();
    segments
}

#[test]
fn every_entry_is_read_back_in_order_by_this_process_and_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(directory.path(), limits(4 << 20)).unwrap();
    let cursor = journal.cursor("otlp").unwrap();
    let lengths = [0, 1, 55, 4040, 4096, 70_000, 300_000];
    let mut expected = Vec::new();
    for round in 0..3 {
        for len in lengths {
            expected.push(add(&mut journal, len));
            let entry = journal.next(cursor).unwrap().expect("an entry");
            assert_eq!((entry.sequence, entry.body.len()), (*expected.last().unwrap(), len));
            check(&entry);
        }
        assert_eq!(journal.next(cursor).unwrap(), None);
        assert_eq!(all(directory.path()), expected);
        let bytes = journal.bytes();
        journal.close().unwrap();
        let recovered;
        (journal, recovered) = Journal::open(directory.path(), limits(4 << 20)).unwrap();
        assert_eq!((recovered.entries, recovered.bytes), (expected.len() as u64, bytes), "round {round}");
        assert_eq!((recovered.cut_bytes, recovered.bad_entries), (0, 0));
        journal.skip_all(cursor);
    }
    assert!(segments(directory.path()).len() > 3);
    assert!(Journal::open(directory.path(), WIDE).is_err());
}

#[test]
fn a_second_writer_is_refused_with_what_to_do_until_the_first_ends() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(directory.path(), WIDE).unwrap();
    let error = Journal::open(directory.path(), WIDE).unwrap_err().to_string();
    assert!(error.starts_with("another process writes to the journal in /") && error.contains("; stop it"), "{error}");
    drop(journal);
    Journal::open(directory.path(), WIDE).unwrap();
}

#[test]
fn what_the_journal_never_takes_is_refused_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(directory.path(), limits(100_000)).unwrap();
    add(&mut journal, 10);
    let error = journal.append(info(1), &vec![0; 100_000]).unwrap_err().to_string();
    assert_eq!(
        error,
        "an entry of 100000 bytes is larger than the journal takes (99944 bytes); allow it more bytes, or make requests smaller"
    );
    assert_eq!(add(&mut journal, 10), 1);
    for name in ["", "A", "a_b", "../a", "a.b", &"a".repeat(65)] {
        assert!(journal.cursor(name).is_err(), "{name:?}");
    }
    journal.cursor(&"a".repeat(64)).unwrap();
    assert_eq!(all(directory.path()), [0, 1]);
}
