//! One test at a time, as root, and only where the machine can measure what it compares.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::agent;

/// Waits until no other test of this binary runs and keeps others out while the guard lives: the machine's CPUs are what is
/// measured, so two tests at once would be each other's noise.
///
/// `None` when the test has to be skipped, because it is not run as root or because this machine cannot measure what its runner
/// looks at. It then writes a line with SKIPPED, since a silent pass would look like a check.
pub fn alone_as_root(test: &str) -> Option<MutexGuard<'static, ()>> {
    static RUNNING: Mutex<()> = Mutex::new(());
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED {test}: needs root");
        return None;
    }
    if let Some(reason) = agent::off_here() {
        eprintln!("SKIPPED {test}: {reason}");
        return None;
    }
    // A test that panicked has cleaned up while it unwound.
    Some(RUNNING.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A path without its first part, the crate: a test's name as its runner reports it.
pub const fn without_crate(path: &str) -> &str {
    let bytes = path.as_bytes();
    let mut at = 0;
    while at + 1 < bytes.len() {
        if bytes[at] == b':' && bytes[at + 1] == b':' {
            return path.split_at(at + 2).1;
        }
        at += 1;
    }
    path
}
