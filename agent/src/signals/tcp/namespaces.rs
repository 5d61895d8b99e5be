//! The network namespaces of this machine, one after the other: the kernel walks over the sockets of its reader's.

use std::{
    collections::{HashSet, VecDeque},
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};

use crate::{causes, kernel::load::Object};

/// How long a collection may take for the sockets of other namespaces; the next one goes on where it stopped. With hundreds of
/// namespaces, a walk over each of which passes the kernel's whole table of connections, all of them would take too long.
const BUDGET: Duration = Duration::from_millis(10);

/// The program that walks, over the sockets of one namespace.
const PROGRAM: &str = "tcp_on_find";

/// Walks over the sockets of network namespaces.
#[derive(Debug, Default)]
pub(super) struct SocketNamespaces {
    /// Those still to be visited in this round.
    left: VecDeque<Namespace>,
    /// Why no other namespace than the agent's own can be entered, once that was tried.
    closed: Option<String>,
}

/// A network namespace that a process was in.
#[derive(Debug)]
struct Namespace {
    /// Its file below /proc. A descriptor kept for long would keep it alive.
    path: PathBuf,
    inode: u64,
}

impl SocketNamespaces {
    /// Why only the agent's own namespace is walked, if so.
    pub(super) fn closed(&self) -> Option<&str> {
        self.closed.as_deref()
    }

    /// Walks over the sockets of every namespace, at start.
    pub(super) fn walk_all(&mut self, object: &mut Object) {
        self.left = found().into();
        self.walk_until(object, None);
    }

    /// Walks over the sockets of the agent's own namespace and of as many others as there is time for.
    ///
    /// # Errors
    /// When those of its own cannot be walked.
    pub(super) fn walk_some(&mut self, object: &mut Object) -> io::Result<()> {
        walk(object)?;
        if self.left.is_empty() && self.closed.is_none() {
            self.left = found().into();
            let own = fs::metadata("/proc/thread-self/ns/net").map(|own| own.ino()).unwrap_or(0);
            self.left.retain(|namespace| namespace.inode != own);
        }
        self.walk_until(object, Some(Instant::now() + BUDGET));
        Ok(())
    }

    fn walk_until(&mut self, object: &mut Object, deadline: Option<Instant>) {
        while deadline.is_none_or(|deadline| Instant::now() < deadline) {
            let Some(namespace) = self.left.pop_front() else { return };
            // Its process may have ended, and another may have its number.
            let Some(file) = namespace.open() else { continue };
            match inside(&file, object) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(nix::libc::EPERM) => {
                    self.left.clear();
                    self.closed = Some("other network namespaces cannot be entered without CAP_SYS_ADMIN".to_owned());
                    // Its own is there at start too, and does not have to be entered.
                    if deadline.is_none() {
                        let _ = walk(object);
                    }
                }
                Err(error) => tracing::debug!(error = causes::chain(&error), "a network namespace cannot be walked"),
            }
        }
    }
}

impl Namespace {
    fn open(&self) -> Option<File> {
        let file = File::open(&self.path).ok()?;
        (file.metadata().ok()?.ino() == self.inode).then_some(file)
    }
}

/// Walks over the sockets of a namespace, on a thread that goes there.
fn inside(namespace: &File, object: &mut Object) -> io::Result<()> {
    let enter = || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        walk(object)
    };
    thread::scope(|scope| scope.spawn(enter).join()).unwrap_or_else(|_| Err(io::Error::other("the walk panicked")))
}

/// Walks over the sockets of this thread's namespace.
fn walk(object: &mut Object) -> io::Result<()> {
    read_to_end(object.walk(PROGRAM, Path::new("/")).map_err(io::Error::other)?)
}

/// A walk's programs run while its file is read; ours write nothing.
pub(super) fn read_to_end(mut walk: File) -> io::Result<()> {
    walk.read_to_end(&mut Vec::new()).map(drop)
}

/// The network namespaces that processes are in. One that nobody is in has sockets that nobody speaks with.
fn found() -> Vec<Namespace> {
    let mut seen = HashSet::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter(|entry| entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()));
    // A process may end meanwhile.
    let namespaces = pids.filter_map(|entry| {
        let path = entry.path().join("ns/net");
        let inode = fs::metadata(&path).ok()?.ino();
        seen.insert(inode).then_some(Namespace { path, inode })
    });
    namespaces.collect()
}
