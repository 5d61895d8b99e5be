//! Readers beside a writer.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;

#[test]
fn a_period_gives_its_entries_whichever_segments_they_are_in() {
    let directory = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(directory.path(), limits(4 << 20)).unwrap();
    add_all(&mut journal, &[50_000; 40]);
    let mut reader = Reader::open(directory.path()).unwrap();
    let time = |sequence: u64| START_NS + sequence * SECOND_NS;
    for (from, until, expected) in [
        (0, u64::MAX, 0..40),
        (time(7), time(21), 7..21),
        (time(7) + 1, time(21) + 1, 8..22),
        (time(39), time(100), 39..40),
        (time(40), time(100), 0..0),
        (0, time(0), 0..0),
        (time(9), time(3), 0..0),
    ] {
        let expected: Vec<_> = expected.collect();
        let by_reader: Vec<_> = reader.between(from, until).unwrap().map(|entry| entry.unwrap().sequence).collect();
        assert_eq!(by_reader, expected, "{from}..{until}");
        let mut infos = Vec::new();
        assert_eq!(reader.infos(from, until, |info| infos.push(*info)).unwrap(), 0);
        assert_eq!(infos, expected.iter().map(|sequence| info(*sequence)).collect::<Vec<_>>(), "{from}..{until}");
    }
    // What comes later is found too.
    add_all(&mut journal, &[50_000; 20]);
    let found: Vec<_> = reader.between(time(35), time(55)).unwrap().map(|entry| entry.unwrap().sequence).collect();
    assert_eq!(found, (35..55).collect::<Vec<_>>());
}

#[test]
fn a_period_is_complete_though_the_clock_was_set_back() {
    let directory = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(directory.path(), limits(1 << 20)).unwrap();
    let seconds = [100, 101, 102, 50, 51, 103, 52, 104];
    for second in seconds {
        journal.append(EntryInfo { time_ns: second * SECOND_NS, ..info(0) }, &body(0, 40_000)).unwrap();
    }
    let found = |from: u64, until: u64| -> Vec<u64> {
        let mut reader = Reader::open(directory.path()).unwrap();
        let entries = reader.between(from * SECOND_NS, until * SECOND_NS).unwrap();
        entries.map(|entry| entry.unwrap().info.time_ns / SECOND_NS).collect()
    };
    assert_eq!(found(50, 53), [50, 51, 52]);
    assert_eq!(found(51, 104), [100, 101, 102, 51, 103, 52]);
    assert_eq!(found(103, 200), [103, 104]);
}

#[test]
fn readers_beside_a_writer_that_removes_segments_see_whole_entries_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(directory.path(), limits(1 << 20)).unwrap();
    add(&mut journal, 1000);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let (mut reader, mut rounds, mut gaps) = (Reader::open(directory.path()).unwrap(), 0, 0);
                    while !ended.load(Ordering::Relaxed) || rounds == 0 {
                        let mut before = None;
                        let mut entries = reader.between(0, u64::MAX).unwrap();
                        for entry in entries.by_ref() {
                            let entry = entry.unwrap();
                            check(&entry);
                            assert!(before.is_none_or(|before| before < entry.sequence));
                            gaps += u64::from(before.is_some_and(|before: u64| before + 1 != entry.sequence));
                            before = Some(entry.sequence);
                        }
                        assert_eq!(entries.bad_entries(), 0);
                        rounds += 1;
                    }
                    (rounds, gaps)
                })
            })
            .collect();
        let mut random = fastrand::Rng::new();
        let newest = (0..3000).map(|_| add(&mut journal, random.usize(..20_000))).last();
        assert_eq!(all(directory.path()).last().copied(), newest);
        ended.store(true, Ordering::Relaxed);
        for reader in readers {
            let (rounds, gaps) = reader.join().unwrap();
            eprintln!("{rounds} times all entries, {gaps} gaps where segments were removed");
        }
    });
}

#[test]
fn a_segment_that_vanishes_and_a_tail_that_is_being_written_end_there() {
    let directory = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(directory.path(), limits(1 << 20)).unwrap();
    add_all(&mut journal, &[30_000; 8]);
    let mut reader = Reader::open(directory.path()).unwrap();
    let mut entries = reader.between(0, u64::MAX).unwrap();
    assert_eq!(entries.next().unwrap().unwrap().sequence, 0);
    let files = segments(directory.path());
    // The first is open, the second is gone before it is opened, the last has a part of its last entry.
    fs::remove_file(&files[0]).unwrap();
    fs::remove_file(&files[1]).unwrap();
    fs::File::options().write(true).open(&files[3]).unwrap().set_len(45_000).unwrap();
    assert_eq!(entries.map(|entry| entry.unwrap().sequence).collect::<Vec<_>>(), [1, 4, 5, 6]);
    let missing = Reader::open(&directory.path().join("missing")).unwrap_err().to_string();
    assert!(missing.starts_with("could not list the segments in /"), "{missing}");
}

#[test]
fn a_damaged_header_is_counted_and_those_around_it_are_given_without_their_bodies() {
    let directory = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(directory.path(), WIDE).unwrap();
    add_all(&mut journal, &[1000; 5]);
    drop(journal);
    let path = &segments(directory.path())[0];
    let mut bytes = fs::read(path).unwrap();
    // A header, and the body of another entry: that is found when it is read.
    bytes[2 * 1056 + 10] ^= 1;
    bytes[3 * 1056 + 500] ^= 1;
    fs::write(path, bytes).unwrap();
    let mut times = Vec::new();
    let bad = Reader::open(directory.path()).unwrap().infos(0, u64::MAX, |info| times.push(info.count)).unwrap();
    assert_eq!((times, bad), (vec![0, 1, 3, 4], 1));
}
