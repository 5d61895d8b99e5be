//! A file system that is full or read-only.

use std::fs;
use std::thread;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::*;

const NONE: Option<&str> = None;

/// Runs `test` where `directory` is a file system in memory of so many bytes, which only this thread sees. Without the permission it
/// reports that it did not.
fn with_tmpfs(bytes: u64, test: impl FnOnce(&Path) + Send) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let mounted = || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
        mount(Some("none"), path, Some("tmpfs"), MsFlags::empty(), Some(format!("size={bytes}").as_str()))
    };
    let run = || match mounted() {
        Ok(()) => test(path),
        Err(errno @ (Errno::EPERM | Errno::EACCES)) => eprintln!("skipped: could not mount a tmpfs: {errno}"),
        Err(errno) => panic!("could not mount a tmpfs: {errno}"),
    };
    // The mount goes with the thread, the last one in its namespace.
    thread::scope(|scope| scope.spawn(run).join()).expect("the test passes");
}

#[test]
fn on_a_full_disk_an_append_fails_changes_nothing_and_works_again_once_there_is_space() {
    with_tmpfs(2 << 20, |path| {
        let directory = path.join("journal");
        let (mut journal, _) = Journal::open(&directory, limits(64 << 20)).unwrap();
        let cursor = journal.cursor("otlp").unwrap();
        let other = path.join("other");
        fs::write(&other, vec![1; 700 << 10]).unwrap();
        let mut attempts = 0;
        let error = loop {
            let sequence = journal.next;
            match journal.append(info(sequence), &body(sequence, 300_000)) {
                Ok(_) => attempts += 1,
                Err(error) => break error,
            }
        };
        assert!((3..=5).contains(&attempts), "{attempts}");
        let text = error.to_string();
        assert!(text.starts_with("could not append to /") && text.contains("; free space on its file system"), "{text}");
        for len in [300_000, 400_000] {
            assert!(journal.append(info(attempts), &body(attempts, len)).is_err(), "again");
        }
        assert_eq!(all(&directory), (0..attempts).collect::<Vec<_>>());
        // What was partly written is gone, so a smaller one has room.
        assert_eq!(add(&mut journal, 10), attempts);
        // With no byte left: a position that cannot be saved is no lost position.
        let rest = fs::write(path.join("rest"), vec![1; 2 << 20]);
        assert!(rest.is_err());
        journal.next(cursor).unwrap().unwrap();
        fs::remove_file(&other).unwrap();
        fs::remove_file(path.join("rest")).unwrap();
        assert_eq!(add(&mut journal, 300_000), attempts + 1);
        drop(journal);
        let expected: Vec<_> = (0..attempts + 2).collect();
        assert_eq!(all(&directory), expected);
        let (_, recovered) = Journal::open(&directory, WIDE).unwrap();
        assert_eq!((recovered.entries, recovered.cut_bytes, recovered.bad_entries), (attempts + 2, 0, 0));
    });
}

#[test]
fn a_disk_that_is_full_from_the_start_takes_entries_once_there_is_space() {
    with_tmpfs(1 << 20, |path| {
        let (mut journal, _) = Journal::open(path, limits(64 << 20)).unwrap();
        let full = path.join("full");
        fs::write(&full, vec![1; 2 << 20]).unwrap_err();
        for _ in 0..3 {
            let error = journal.append(info(0), &body(0, 1000)).unwrap_err().to_string();
            assert!(error.contains("; free space on its file system"), "{error}");
            assert_eq!((segments(path).len(), journal.bytes()), (0, 0));
        }
        assert!(journal.cursor("otlp").is_err());
        fs::remove_file(&full).unwrap();
        assert_eq!(add(&mut journal, 1000), 0);
        journal.cursor("otlp").unwrap();
        assert_eq!(all(path), [0]);
    });
}

#[test]
fn a_read_only_directory_is_reported_and_can_be_read_and_written_again_later() {
    with_tmpfs(4 << 20, |path| {
        let remount = |flags| mount(NONE, path, NONE, MsFlags::MS_REMOUNT | flags, NONE).unwrap();
        let (mut journal, _) = Journal::open(path, limits(64 << 20)).unwrap();
        add(&mut journal, 100);
        drop(journal);
        remount(MsFlags::MS_RDONLY);
        let error = Journal::open(path, WIDE).unwrap_err().to_string();
        assert!(error.starts_with("could not open /") && error.ends_with("lock; mount its file system writable"), "{error}");
        let error = Journal::open(&path.join("journal"), WIDE).unwrap_err().to_string();
        assert!(error.starts_with("could not make the journal's directory /"), "{error}");
        assert_eq!(all(path), [0]);
        remount(MsFlags::empty());
        let (mut journal, _) = Journal::open(path, WIDE).unwrap();
        assert_eq!(add(&mut journal, 100), 1);
    });
}

#[test]
fn a_file_system_that_becomes_read_only_refuses_appends_until_it_is_writable_again() {
    with_tmpfs(8 << 20, |path| {
        let directory = path.join("journal");
        fs::create_dir(&directory).unwrap();
        mount(Some(&directory), &directory, NONE, MsFlags::MS_BIND, NONE).unwrap();
        let remount = |flags| mount(NONE, &directory, NONE, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags, NONE);
        let (mut journal, _) = Journal::open(&directory, limits(1 << 20)).unwrap();
        add_all(&mut journal, &[60_000, 60_000]);
        journal.seal().unwrap();
        // The kernel makes a mount read-only by itself where the disk fails, but for others only if no file on it is open for writing.
        journal._lock = fs::File::open("/dev/null").unwrap();
        remount(MsFlags::MS_RDONLY).unwrap();
        let error = journal.append(info(2), b"body").unwrap_err().to_string();
        assert!(error.contains("; mount its file system writable"), "{error}");
        remount(MsFlags::empty()).unwrap();
        assert_eq!(add(&mut journal, 100), 2);
    });
}
