//! How much is kept, and what is counted of the rest.

use super::super::{Dropped, Unread};
use super::*;

#[test]
fn no_more_bytes_are_kept_than_may_and_each_cursor_counts_what_it_had_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = 2 << 20;
    let (mut journal, _) = Journal::open(directory.path(), limits(bytes)).unwrap();
    let (idle, busy) = (journal.cursor("idle").unwrap(), journal.cursor("busy").unwrap());
    let mut written = 0;
    for _ in 0..300 {
        written = add(&mut journal, 20_000) + 1;
        assert!(journal.bytes() <= bytes);
        let on_disk: u64 = segments(directory.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
        assert_eq!(on_disk, journal.bytes());
        journal.next(busy).unwrap().expect("the entry that was added");
    }
    assert!(journal.bytes() > bytes - bytes / 8, "{}", journal.bytes());
    assert!(segments(directory.path()).len() >= 16);
    assert_eq!(journal.take_dropped(busy), Dropped::default());
    let oldest = journal.next(idle).unwrap().unwrap().sequence;
    let dropped = journal.take_dropped(idle);
    assert_eq!((dropped.entries, dropped.points), (oldest, (0..oldest).sum()));
    let waiting = written - oldest - 1;
    let unread = journal.unread(idle);
    assert_eq!((unread.entries, unread.bytes), (waiting, waiting * 20_056));
    assert!(unread.oldest_ns.is_some() && unread.points > 0, "{unread:?}");
    assert_eq!(journal.unread(busy), Unread::default());
    assert_eq!(journal.take_dropped(idle), Dropped::default());
}

#[test]
fn a_segment_of_which_a_part_was_read_counts_for_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(directory.path(), limits(1 << 20)).unwrap();
    let cursor = journal.cursor("half").unwrap();
    add_all(&mut journal, &[10_000; 6]);
    (0..4).for_each(|_| drop(journal.next(cursor).unwrap().unwrap()));
    // One of nearly all bytes pushes everything else out.
    assert_eq!(add(&mut journal, (1 << 20) - 100), 6);
    let dropped = journal.take_dropped(cursor);
    assert_eq!((dropped.entries, dropped.points), (2, 4 + 5));
    assert_eq!(journal.next(cursor).unwrap().unwrap().sequence, 6);
    assert_eq!(all(directory.path()), [6]);
}

#[test]
fn what_is_older_than_the_limit_goes_with_its_segment() {
    let directory = tempfile::tempdir().unwrap();
    // Entries are a second apart: a segment is sealed after ten.
    let (mut journal, _) = Journal::open(directory.path(), Limits { age: Duration::from_secs(160), ..WIDE }).unwrap();
    let cursor = journal.cursor("idle").unwrap();
    add_all(&mut journal, &[10; 400]);
    let oldest = all(directory.path())[0];
    assert!((225..=239).contains(&oldest), "{oldest}");
    assert_eq!(journal.take_dropped(cursor).entries, oldest);
    assert!(segments(directory.path()).len() >= 16);
    // With no append for longer than the limit, all goes.
    journal.trim(START_NS + 1000 * SECOND_NS).unwrap();
    assert_eq!((segments(directory.path()).len(), journal.bytes()), (0, 0));
    assert_eq!(journal.next(cursor).unwrap(), None);
    assert_eq!(journal.take_dropped(cursor).entries, 400 - oldest);
    assert_eq!(add(&mut journal, 10), 400);
    assert_eq!(journal.next(cursor).unwrap().unwrap().sequence, 400);
}

#[test]
fn a_clock_that_is_set_back_or_ahead_removes_nothing_that_is_in_the_limit() {
    let directory = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(directory.path(), Limits { age: Duration::from_secs(160), ..WIDE }).unwrap();
    for seconds in [1000, 10, 1010, 0, 1020] {
        journal.append(EntryInfo { time_ns: START_NS + seconds * SECOND_NS, ..info(0) }, b"body").unwrap();
    }
    let kept: Vec<_> = Reader::open(directory.path())
        .unwrap()
        .between(0, u64::MAX)
        .unwrap()
        .map(|entry| entry.unwrap().info.time_ns - START_NS)
        .collect();
    assert_eq!(kept, [1000, 10, 1010, 0, 1020].map(|seconds| seconds * SECOND_NS));
}

#[test]
fn a_smaller_limit_applies_when_it_is_opened() {
    let directory = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(directory.path(), limits(4 << 20)).unwrap();
    let cursor = journal.cursor("idle").unwrap();
    add_all(&mut journal, &[100_000; 30]);
    drop(journal);
    let (mut journal, recovered) = Journal::open(directory.path(), limits(1 << 20)).unwrap();
    assert!(recovered.bytes <= 1 << 20 && recovered.entries >= 8, "{recovered:?}");
    assert_eq!(journal.cursor("idle").unwrap(), cursor);
    assert_eq!(journal.take_dropped(cursor).entries, 30 - recovered.entries);
    assert_eq!(journal.next(cursor).unwrap().unwrap().sequence, 30 - recovered.entries);
}
