//! How far each destination has got, over restarts.

use std::fs;

use super::super::Dropped;
use super::*;

fn open(directory: &Path) -> Journal {
    Journal::open(directory, limits(4 << 20)).unwrap().0
}

fn next(journal: &mut Journal, name: &str) -> Option<Sequence> {
    let cursor = journal.cursor(name).unwrap();
    journal.next(cursor).unwrap().map(|entry| entry.sequence)
}

#[test]
fn a_new_cursor_begins_at_the_end_and_goes_on_after_a_restart_behind_what_was_confirmed() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = open(directory.path());
    add_all(&mut journal, &[100_000; 3]);
    let cursor = journal.cursor("otlp").unwrap();
    assert_eq!(journal.next(cursor).unwrap(), None);
    add_all(&mut journal, &[100_000; 6]);
    assert_eq!([3, 4, 5, 6].map(|_| journal.next(cursor).unwrap().unwrap().sequence), [3, 4, 5, 6]);
    journal.confirm(cursor, 4).unwrap();
    drop(journal);
    let mut journal = open(directory.path());
    assert_eq!(next(&mut journal, "otlp"), Some(5));
    assert_eq!(next(&mut journal, "other"), None);
    // It was new then, and now is not.
    add(&mut journal, 10);
    drop(journal);
    assert_eq!(next(&mut open(directory.path()), "other"), Some(9));
}

#[test]
fn a_damaged_file_begins_at_the_oldest_entry_and_a_missing_one_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("otlp.cursor");
    for damage in ["", "x", "0123456789abcdef", "0123456789abcdefg"] {
        let mut journal = open(directory.path());
        add_all(&mut journal, &[100; 3]);
        let oldest = all(directory.path())[0];
        drop(journal);
        fs::write(&file, damage).unwrap();
        assert_eq!(next(&mut open(directory.path()), "otlp"), Some(oldest), "{damage:?}");
        fs::remove_file(&file).unwrap();
        assert_eq!(next(&mut open(directory.path()), "otlp"), None);
    }
}

#[test]
fn a_file_is_written_with_every_confirmation_and_when_the_journal_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("otlp.cursor");
    let saved = || super::super::cursor::tests::position(&fs::read(&file).unwrap());
    let mut journal = open(directory.path());
    let cursor = journal.cursor("otlp").unwrap();
    add_all(&mut journal, &[100; 5]);
    for sequence in 0..4 {
        journal.next(cursor).unwrap().unwrap();
        journal.confirm(cursor, sequence).unwrap();
        assert_eq!(saved(), Some(sequence + 1));
    }
    journal.next(cursor).unwrap().unwrap();
    // Beyond what was read nothing can be confirmed.
    journal.confirm(cursor, 100).unwrap();
    drop(journal);
    assert_eq!(saved(), Some(5));
    assert!(!directory.path().join(".otlp.cursor.new").exists());
}

#[test]
fn no_number_is_given_again_that_a_cursor_has_passed() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = open(directory.path());
    let cursor = journal.cursor("otlp").unwrap();
    for sequence in 0..4 {
        add(&mut journal, 100);
        journal.next(cursor).unwrap().unwrap();
        journal.confirm(cursor, sequence).unwrap();
    }
    drop(journal);
    // As after a power cut: the cursor's file was written to the disk, the last two entries were not.
    let segment = &segments(directory.path())[0];
    fs::File::options().write(true).open(segment).unwrap().set_len(2 * 156 + 20).unwrap();
    let mut journal = open(directory.path());
    assert_eq!(add(&mut journal, 10), 4);
    assert_eq!(next(&mut journal, "otlp"), Some(4));
    assert_eq!(all(directory.path()), [0, 1, 4]);
    drop(journal);
    segments(directory.path()).iter().for_each(|path| fs::remove_file(path).unwrap());
    assert_eq!(add(&mut open(directory.path()), 10), 4);
}

#[test]
fn a_destination_that_is_forgotten_has_no_file_loses_nothing_any_more_and_is_new_when_it_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = open(directory.path());
    for name in ["one", "two", "three"] {
        journal.cursor(name).unwrap();
    }
    add_all(&mut journal, &[100; 3]);
    assert_eq!(next(&mut journal, "one"), Some(0));
    drop(journal);
    let mut journal = open(directory.path());
    let mut forgotten = journal.forget_all_but(&["one", "new"]).unwrap();
    forgotten.sort();
    assert_eq!(forgotten, ["three", "two"]);
    assert!(!directory.path().join("two.cursor").exists() && directory.path().join("one.cursor").exists());
    // Read and not confirmed: it stays where it was, and no other takes its place.
    assert_eq!(next(&mut journal, "one"), Some(0));
    assert_eq!(next(&mut journal, "two"), None);
    add(&mut journal, 100);
    assert_eq!((next(&mut journal, "two"), next(&mut journal, "one")), (Some(3), Some(1)));
    assert_eq!(all(directory.path()), [0, 1, 2, 3], "what was exported stays to be looked back at");
}

#[test]
fn each_cursor_reads_everything_once_whatever_the_others_do() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(directory.path(), limits(1 << 20)).unwrap().0;
    let cursors_of = |journal: &mut Journal| ["quick", "slow", "stuck"].map(|name| journal.cursor(name).unwrap());
    let [mut quick, mut slow, mut stuck] = cursors_of(&mut journal);
    let (mut of_quick, mut of_slow, mut random) = (Vec::new(), Vec::new(), fastrand::Rng::with_seed(7));
    let take = |journal: &mut Journal, cursor, taken: &mut Vec<Sequence>| {
        let Some(entry) = journal.next(cursor).unwrap() else { return false };
        check(&entry);
        journal.confirm(cursor, entry.sequence).unwrap();
        taken.push(entry.sequence);
        true
    };
    for sequence in 0..200 {
        add(&mut journal, 10_000);
        while take(&mut journal, quick, &mut of_quick) {}
        // In the mean nearly as many as come.
        for _ in 0..random.usize(0..3) {
            take(&mut journal, slow, &mut of_slow);
        }
        if sequence == 120 {
            drop(journal);
            journal = Journal::open(directory.path(), limits(1 << 20)).unwrap().0;
            [quick, slow, stuck] = cursors_of(&mut journal);
        }
    }
    while take(&mut journal, slow, &mut of_slow) {}
    let everything: Vec<Sequence> = (0..200).collect();
    assert_eq!((of_quick, of_slow), (everything.clone(), everything));
    assert_eq!([quick, slow].map(|cursor| journal.take_dropped(cursor)), [Dropped::default(); 2]);
    // The one that reads nothing has lost what the bound took, and only that.
    let oldest = all(directory.path())[0];
    assert!(oldest > 50, "{oldest}");
    assert_eq!(journal.unread(stuck).entries, 200 - oldest);
}

#[test]
fn a_cursor_that_skips_all_reads_what_comes_after() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = open(directory.path());
    let cursor = journal.cursor("otlp").unwrap();
    add_all(&mut journal, &[50_000; 30]);
    journal.skip_all(cursor);
    assert_eq!((journal.next(cursor).unwrap(), journal.unread(cursor).entries), (None, 0));
    add_all(&mut journal, &[100; 2]);
    assert_eq!(journal.next(cursor).unwrap().map(|entry| entry.sequence), Some(30));
    assert_eq!(journal.take_dropped(cursor), Default::default());
    drop(journal);
    // Read and not confirmed.
    assert_eq!(next(&mut open(directory.path()), "otlp"), Some(30));
}
