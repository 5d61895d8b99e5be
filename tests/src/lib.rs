//! The harness: cgroups, loads whose use is known, the agent as a black box, and what it exported.
//!
//! Everything here reads /proc, /sys and the agent's output only, so that the tests also run as a static binary in a virtual
//! machine that holds nothing else.

pub mod agent;
pub mod bench;
pub mod cgroup;
pub mod collector;
pub mod demo;
pub mod http;
pub mod load;
pub mod metric;
pub mod otlp;
pub mod truth;
pub mod victoria;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Waits until no other test of this binary runs and keeps others out while the guard lives: the machine's CPUs are what is
/// measured, so two tests at once would be each other's noise.
///
/// `None` when the test has to be skipped because it is not run as root; says so, since a silent pass would look like a check.
pub fn alone_as_root(test: &str) -> Option<MutexGuard<'static, ()>> {
    static RUNNING: Mutex<()> = Mutex::new(());
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED {test}: needs root");
        return None;
    }
    // A test that panicked has cleaned up while it unwound.
    Some(RUNNING.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Declares a test whose body returns `anyhow::Result<()>`, which needs root, and beside which no other may run.
#[macro_export]
macro_rules! root_test {
    ($(#[$meta:meta])* fn $name:ident() $body:block) => {
        $(#[$meta])*
        #[test]
        fn $name() -> ::anyhow::Result<()> {
            let Some(_alone) = $crate::alone_as_root(stringify!($name)) else { return Ok(()) };
            $body
        }
    };
}
