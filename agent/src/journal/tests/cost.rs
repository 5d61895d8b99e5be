//! What the journal costs: memory, and by an ignored test time.
//!
//! `cargo test --release -p podmeter --bin podmeter journal::tests::cost -- --ignored --nocapture` measures.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use super::kill::{child, is_child, path_of};
use super::*;

/// Entries of 300 KiB in 256 MiB.
const ENTRIES: u64 = 874;
const LEN: usize = 300 << 10;

/// The largest resident set of this process so far, in KiB.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn writes_and_reads_256_mib() {
    let Some(directory) = is_child() else { return };
    let bytes = body(1, LEN);
    let limits = limits(600 << 20);
    let mut written = 0;
    let mut write_and_read = |entries: u64| {
        let (mut journal, recovered) = Journal::open(&directory, limits).unwrap();
        assert_eq!(recovered.entries, written);
        let cursor = journal.cursor("test").unwrap();
        for _ in 0..entries {
            journal.append(info(journal.next), &bytes).unwrap();
        }
        for sequence in written..written + entries {
            assert_eq!(journal.next(cursor).unwrap().unwrap().sequence, sequence);
            journal.confirm(cursor, sequence).unwrap();
        }
        written += entries;
        assert_eq!(
            Reader::open(&directory).unwrap().between(0, u64::MAX).unwrap().filter(|entry| entry.is_ok()).count() as u64,
            written
        );
    };
    let start = peak_kib();
    // A debug build of this program has code of some 100 MB. What is run of it for the first time is read into memory too, and counts.
    write_and_read(2);
    write_and_read(2);
    let warm = peak_kib();
    write_and_read(ENTRIES);
    write_and_read(1);
    eprintln!("{} {}", peak_kib() - warm, peak_kib() - start);
}

#[test]
fn memory_stays_flat_while_256_mib_are_written_and_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = child(&path_of(module_path!(), "writes_and_reads_256_mib"), directory.path());
    let mut written = String::new();
    child.stderr.take().unwrap().read_to_string(&mut written).unwrap();
    assert!(child.wait().unwrap().success(), "{written}");
    let (more, since_start) = written.trim().split_once(' ').expect("two numbers");
    eprintln!("{more} KiB more at most; {since_start} KiB with the code that is run");
    assert!(more.parse::<u64>().expect("KiB") < 8 << 10, "{more} KiB");
}

#[test]
#[ignore = "it measures"]
fn time_for_256_mib() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = body(1, LEN);
    let wide = limits(300 << 20);
    let (mut journal, _) = Journal::open(directory.path(), wide).unwrap();
    let mut longest = Duration::ZERO;
    let began = Instant::now();
    for sequence in 0..ENTRIES {
        let began = Instant::now();
        journal.append(info(sequence), &bytes).unwrap();
        longest = longest.max(began.elapsed());
    }
    let mb = (ENTRIES * LEN as u64) as f64 / 1e6;
    eprintln!("write: {:.0} MB/s, the longest append {longest:?}", mb / began.elapsed().as_secs_f64());
    drop(journal);
    let cold = || {
        for path in segments(directory.path()) {
            let file = File::open(path).unwrap();
            file.sync_all().unwrap();
            nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
        }
    };
    for state in ["in the page cache", "on the disk"] {
        if state == "on the disk" {
            cold();
        }
        let began = Instant::now();
        let (_journal, recovered) = Journal::open(directory.path(), wide).unwrap();
        eprintln!("recovery, {state}: {:?}, {} entries", began.elapsed(), recovered.entries);
        if state == "on the disk" {
            cold();
        }
        let began = Instant::now();
        assert_eq!(
            Reader::open(directory.path()).unwrap().between(0, u64::MAX).unwrap().filter(|entry| entry.is_ok()).count() as u64,
            ENTRIES
        );
        eprintln!("read, {state}: {:.0} MB/s", mb / began.elapsed().as_secs_f64());
    }
    // The worst case for recovery: nothing but damage, which is searched byte by byte.
    for path in segments(directory.path()) {
        let file = File::options().write(true).open(&path).unwrap();
        let magics: Vec<u8> = super::super::entry::MAGIC.iter().copied().cycle().take(1 << 20).collect();
        (0..file.metadata().unwrap().len() >> 20).for_each(|mib| file.write_all_at(&magics, mib << 20).unwrap());
    }
    let began = Instant::now();
    let (_, recovered) = Journal::open(directory.path(), wide).unwrap();
    eprintln!("recovery where all is damaged: {:?}, {} entries", began.elapsed(), recovered.entries);
}

#[test]
#[ignore = "it measures"]
fn time_to_recover_256_mib_of_small_entries() {
    let directory = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(directory.path(), limits(256 << 20)).unwrap();
    let bytes = body(1, 200);
    let began = Instant::now();
    (0..1 << 20).for_each(|sequence| assert!(journal.append(info(sequence), &bytes).is_ok()));
    eprintln!("write: {:?} per entry of 256 bytes", began.elapsed() / (1 << 20));
    drop(journal);
    let began = Instant::now();
    let (_, recovered) = Journal::open(directory.path(), limits(256 << 20)).unwrap();
    eprintln!("recovery: {:?}, {} entries", began.elapsed(), recovered.entries);
}
