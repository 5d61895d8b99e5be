//! Files that are cut, damaged, or not ours.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::super::Recovered;
use super::*;

/// A journal with one segment of entries with these lengths, and that segment's bytes.
fn one_segment(directory: &Path, lengths: &[usize]) -> (PathBuf, Vec<u8>) {
    let (mut journal, _) = Journal::open(directory, WIDE).unwrap();
    add_all(&mut journal, lengths);
    drop(journal);
    let segments = segments(directory);
    assert_eq!(segments.len(), 1);
    (segments[0].clone(), fs::read(&segments[0]).unwrap())
}

fn empty(directory: &Path) {
    for file in directory.read_dir().unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
}

/// What a cursor at the start reads, and how many entries it reports as damaged.
fn by_cursor(journal: &mut Journal) -> (Vec<Sequence>, u64) {
    let cursor = journal.cursor("test").unwrap();
    journal.cursors.move_to(cursor, 0);
    let mut read = Vec::new();
    while let Some(entry) = journal.next(cursor).unwrap() {
        check(&entry);
        read.push(entry.sequence);
    }
    (read, journal.take_dropped(cursor).bad_entries)
}

#[test]
fn a_segment_that_is_cut_anywhere_gives_every_whole_entry_and_takes_more() {
    let directory = fast_directory();
    let (path, bytes) = one_segment(directory.path(), &[100, 0, 300, 4200, 150]);
    let starts = [0, 156, 212, 568, 4824, 5030];
    assert_eq!(bytes.len(), starts[5]);
    for len in starts[3]..bytes.len() {
        let whole = if len < starts[4] { 3 } else { 4 };
        empty(directory.path());
        fs::write(&path, &bytes[..len]).unwrap();
        let expected: Vec<_> = (0..whole).collect();
        assert_eq!(all(directory.path()), expected, "cut to {len}, read only");
        let (mut journal, recovered) = Journal::open(directory.path(), WIDE).unwrap();
        let kept = starts[expected.len()] as u64;
        let expected_recovered = Recovered { entries: whole, bytes: kept, cut_bytes: len as u64 - kept, bad_entries: 0 };
        assert_eq!(recovered, expected_recovered, "cut to {len}");
        assert_eq!(add(&mut journal, 20), whole);
        assert_eq!(by_cursor(&mut journal), ((0..=whole).collect(), 0), "cut to {len}");
        assert_eq!(segments(directory.path()).len(), 1);
    }
}

#[test]
fn any_flipped_bit_costs_at_most_its_own_entry_and_never_gives_a_wrong_body() {
    let directory = fast_directory();
    let (path, bytes) = one_segment(directory.path(), &[9, 0, 17, 3]);
    let starts = [0, 65, 121, 194, bytes.len()];
    for bit in 0..8 * bytes.len() {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let hit = starts.partition_point(|start| *start <= bit / 8) as u64 - 1;
        let expected: Vec<_> = (0..4).filter(|sequence| *sequence != hit).collect();
        empty(directory.path());
        fs::write(&path, &flipped).unwrap();
        assert_eq!(all(directory.path()), expected, "bit {bit}, read only");
        let (mut journal, recovered) = Journal::open(directory.path(), WIDE).unwrap();
        let is_last = hit == 3;
        assert_eq!(recovered.cut_bytes > 0, is_last, "bit {bit}");
        let (read, bad) = by_cursor(&mut journal);
        assert_eq!((read, bad), (expected, u64::from(!is_last)), "bit {bit}");
        // One after the damage is taken and found.
        let added = add(&mut journal, 5);
        assert_eq!(by_cursor(&mut journal).0.last(), Some(&added), "bit {bit}");
    }
}

#[test]
fn a_flipped_bit_of_a_sealed_segment_costs_at_most_its_own_entry() {
    let directory = fast_directory();
    let (path, bytes) = one_segment(directory.path(), &[9, 17]);
    let starts = [0, 65, bytes.len()];
    let (newest, rest) = (directory.path().join("00000000000000000002.segment"), {
        let other = tempfile::tempdir().unwrap();
        let (_, bytes) = one_segment(other.path(), &[9, 17, 30, 4]);
        bytes[138..].to_vec()
    });
    for bit in 0..8 * bytes.len() {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &flipped).unwrap();
        fs::write(&newest, &rest).unwrap();
        let hit = starts.partition_point(|start| *start <= bit / 8) as u64 - 1;
        let expected: Vec<_> = (0..4).filter(|sequence| *sequence != hit).collect();
        let (mut journal, recovered) = Journal::open(directory.path(), WIDE).unwrap();
        assert_eq!(recovered.cut_bytes, 0);
        assert_eq!(by_cursor(&mut journal).0, expected, "bit {bit}");
        assert_eq!(all(directory.path()), expected, "bit {bit}");
    }
}

#[test]
fn a_cursor_that_comes_back_does_not_skip_for_damage_that_it_has_passed() {
    let directory = tempfile::tempdir().unwrap();
    let (path, mut bytes) = one_segment(directory.path(), &[9, 0, 17, 3, 3]);
    bytes[70] ^= 1;
    fs::write(&path, &bytes).unwrap();
    fs::write(directory.path().join("late.cursor"), super::super::cursor::tests::file(3)).unwrap();
    let (mut journal, recovered) = Journal::open(directory.path(), WIDE).unwrap();
    assert_eq!((recovered.entries, recovered.bad_entries), (4, 1));
    let cursor = journal.cursor("late").unwrap();
    assert_eq!(journal.next(cursor).unwrap().unwrap().sequence, 3);
    assert_eq!(journal.next(cursor).unwrap().unwrap().sequence, 4);
    assert_eq!(journal.take_dropped(cursor), Default::default());
}

#[test]
fn random_files_never_make_it_fail_nor_yield_what_was_not_written() {
    let directory = fast_directory();
    let (_, bytes) = one_segment(directory.path(), &[9, 0, 170, 3, 60, 5000, 1]);
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..400 {
        empty(directory.path());
        for first in [0, 3, 100] {
            let mut mutated = bytes.clone();
            for _ in 0..random.usize(0..4) {
                let (from, len) = (random.usize(..mutated.len()), random.usize(1..200));
                let until = (from + len).min(mutated.len());
                match random.u8(0..5) {
                    0 => mutated[from..until].fill(0),
                    1 => drop(mutated.drain(from..until)),
                    2 => mutated.splice(from..from, bytes[from.min(200)..].iter().take(len).copied()).for_each(drop),
                    3 => mutated.extend_from_within(from..until),
                    _ => mutated[from..until].iter_mut().for_each(|byte| *byte = random.u8(..)),
                }
            }
            fs::write(super::super::segment::path(directory.path(), first), mutated).unwrap();
        }
        fs::write(directory.path().join("test.cursor"), random.u128(..).to_le_bytes()).unwrap();
        let read = all(directory.path());
        assert!(read.is_sorted() && read.windows(2).all(|pair| pair[0] != pair[1]), "seed {seed}, round {round}: {read:?}");
        let (mut journal, _) = Journal::open(directory.path(), WIDE).unwrap();
        let added = add(&mut journal, 30);
        assert_eq!(by_cursor(&mut journal).0.last(), Some(&added), "seed {seed}, round {round}");
    }
}

#[test]
fn files_that_are_no_segments_are_left_alone_and_do_not_stop_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (segment, _) = one_segment(directory.path(), &[9, 9]);
    let foreign = ["a.segment", "1.segment", "99999999999999999999.segment", "-0000000000000000001.segment", "notes.txt"];
    foreign.iter().for_each(|name| fs::write(path(name), "x").unwrap());
    fs::create_dir(path("00000000000000000050.segment")).unwrap();
    symlink(&segment, path("00000000000000000060.segment")).unwrap();
    nix::unistd::mkfifo(&path("00000000000000000070.segment"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    nix::unistd::mkfifo(&path("pipe.cursor"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (mut journal, recovered) = Journal::open(directory.path(), WIDE).unwrap();
    assert_eq!((recovered.entries, recovered.bad_entries), (2, 3));
    let added = add(&mut journal, 9);
    assert!(added > 70, "{added}");
    assert_eq!(by_cursor(&mut journal).0, [0, 1, added]);
    assert_eq!(all(directory.path()), [0, 1, added]);
    assert!(foreign.iter().all(|name| path(name).exists()));
}

#[test]
fn a_file_that_claims_to_be_huge_takes_neither_memory_nor_time() {
    let directory = tempfile::tempdir().unwrap();
    let (path, bytes) = one_segment(directory.path(), &[9, 9]);
    fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    let (mut journal, recovered) = Journal::open(directory.path(), WIDE).unwrap();
    assert_eq!((recovered.entries, recovered.bytes), (2, bytes.len() as u64));
    assert_eq!(recovered.cut_bytes, (1 << 40) - bytes.len() as u64);
    assert_eq!(by_cursor(&mut journal), (vec![0, 1], 0));
}

#[test]
fn what_is_removed_or_cut_while_it_is_open_is_counted_and_it_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(directory.path(), limits(1 << 20)).unwrap();
    let cursor = journal.cursor("test").unwrap();
    add_all(&mut journal, &[30_000; 9]);
    let before = segments(directory.path());
    assert_eq!(before.len(), 5);
    fs::remove_file(&before[1]).unwrap();
    fs::File::options().write(true).open(&before[2]).unwrap().set_len(40_000).unwrap();
    fs::remove_file(&before[4]).unwrap();
    let mut read = Vec::new();
    while let Some(entry) = journal.next(cursor).unwrap() {
        read.push(entry.sequence);
    }
    assert_eq!(read, [0, 1, 4, 6, 7]);
    let dropped = journal.take_dropped(cursor);
    assert_eq!((dropped.entries, dropped.points, dropped.bad_entries), (3, 2 + 3 + 8, 1));
    assert_eq!(add(&mut journal, 10), 9);
    assert_eq!(journal.next(cursor).unwrap().unwrap().sequence, 9);
    drop(journal);
    assert_eq!(all(directory.path()).last(), Some(&9));
}
