//! A process that is killed while it writes.

use std::env;
use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::thread;

use super::*;

/// Where a child of these tests works; set for it alone.
const CHILD: &str = "PODMETER_TEST_JOURNAL";

/// Starts the test `name` of this program as a process of its own, with what it writes to stderr in a pipe.
pub(super) fn child(name: &str, directory: &Path) -> Child {
    let mut command = Command::new(env::current_exe().expect("known"));
    command.args(["--exact", name, "--nocapture"]).env(CHILD, directory);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("started")
}

/// The directory that this process is to work in, if it is a child.
pub(super) fn is_child() -> Option<PathBuf> {
    env::var_os(CHILD).as_deref().map(OsStr::to_owned).map(PathBuf::from)
}

/// The name of a test of this program: the path of its module without the crate.
pub(super) fn path_of(module: &str, test: &str) -> String {
    let module = module.split_once("::").map_or("", |(_, rest)| rest);
    format!("{module}::{test}")
}

const LIMITS: Limits = Limits { bytes: 16 << 20, ..WIDE };

/// Bytes of the largest entry.
const LARGEST: usize = 400_000;

#[test]
fn appends_until_it_is_killed() {
    let Some(directory) = is_child() else { return };
    let (mut journal, _) = Journal::open(&directory, LIMITS).unwrap();
    let mut random = fastrand::Rng::new();
    loop {
        let len = if random.bool() { random.usize(..2000) } else { random.usize(..LARGEST) };
        let sequence = add(&mut journal, len);
        std::io::stderr().write_all(&sequence.to_le_bytes()).unwrap();
    }
}

#[test]
fn after_each_of_100_kills_everything_that_was_reported_as_written_is_there_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let name = path_of(module_path!(), "appends_until_it_is_killed");
    let (mut written, mut cuts) = (None, 0);
    let mut random = fastrand::Rng::new();
    for round in 0..100 {
        let mut child = child(&name, directory.path());
        let mut pipe = child.stderr.take().unwrap();
        let mut first = [0; 8];
        pipe.read_exact(&mut first).expect("the child writes an entry");
        let reading = thread::spawn(move || {
            let mut reported = Vec::new();
            pipe.read_to_end(&mut reported).map(|_| reported)
        });
        thread::sleep(Duration::from_micros(random.u64(..20_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let reported = reading.join().unwrap().unwrap();
        let numbers = std::iter::once(first).chain(reported.chunks_exact(8).map(|bytes| bytes.try_into().unwrap()));
        let mut expected = written;
        for number in numbers.map(u64::from_le_bytes) {
            // One that was written when the last child was killed, and not reported, has a number too.
            let after = expected.map_or(0, |sequence: u64| sequence + 1);
            assert!(number == after || Some(after) == written.map(|written| written + 1) && number == after + 1, "round {round}");
            expected = Some(number);
        }
        written = expected;
        let last = written.expect("one was reported");
        let sequences = all(directory.path());
        assert!(sequences.windows(2).all(|pair| pair[1] == pair[0] + 1), "round {round}: {sequences:?}");
        let newest = *sequences.last().expect("entries");
        assert!((last..=last + 1).contains(&newest), "round {round}: {last} was reported, {newest} is the newest");
        let (journal, recovered) = Journal::open(directory.path(), LIMITS).unwrap();
        assert_eq!((recovered.entries, recovered.bad_entries), (sequences.len() as u64, 0), "round {round}");
        assert_eq!(journal.next, newest + 1, "round {round}");
        assert!(recovered.bytes <= LIMITS.bytes);
        // What is not there any more had no room: at most a segment goes at once, for one entry.
        let full = LIMITS.bytes - LIMITS.segment_bytes() - LARGEST as u64 - 100;
        assert!(sequences[0] == 0 || recovered.bytes > full, "round {round}: {recovered:?} from entry {}", sequences[0]);
        cuts += u32::from(recovered.cut_bytes > 0);
    }
    eprintln!("{} entries, {cuts} of 100 kills left a part of one", written.unwrap_or(0));
}
