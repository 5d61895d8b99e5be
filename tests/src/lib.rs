//! The harness: cgroups, loads whose use is known, the agent as a black box, and what it exported.
//!
//! Everything here reads /proc, /sys and the agent's output only, so that the tests also run as a static binary in a virtual
//! machine that holds nothing else.

pub mod agent;
pub mod bench;
pub mod bpffs;
pub mod cgroup;
pub mod collector;
pub mod container;
pub mod demo;
pub mod deploy;
pub mod dns;
pub mod http;
pub mod json_schema;
pub mod kubernetes;
pub mod load;
pub mod metric;
pub mod namespace;
pub mod otlp;
pub mod program;
pub mod promql;
pub mod proxy;
pub mod tcp;
pub mod terminal;
pub mod truth;
pub mod victoria;
mod watched;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// A millisecond.
pub const MS: Duration = Duration::from_millis(1);

/// A second.
pub const SECOND: Duration = Duration::from_secs(1);

/// Waits until no other test of this binary runs and keeps others out while the guard lives: the machine's CPUs are what is
/// measured, so two tests at once would be each other's noise.
///
/// `None` when the test has to be skipped, because it is not run as root or because this machine cannot measure what its runner
/// looks at; says so, since a silent pass would look like a check.
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

/// True in a guest whose CPUs are emulated, which `cargo xtask test vm` says in `PODMETER_EMULATED`.
///
/// Everything takes ten to thirty times longer there, and a CPU may be away for some ms without the guest's knowing. What is
/// counted must equal the kernel's figures all the same. Only two things may depend on this: how long something may take, and how
/// closely a load keeps to the plan it was given.
pub fn is_emulated() -> bool {
    std::env::var_os("PODMETER_EMULATED").is_some()
}

/// How long something may take here that may take this long on a real CPU.
pub fn patience(within: Duration) -> Duration {
    if is_emulated() { 5 * within } else { within }
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

/// Declares a test whose body returns `anyhow::Result<()>`, which needs root, and beside which no other may run. In its body, `TEST` is
/// its name.
#[macro_export]
macro_rules! root_test {
    ($(#[$meta:meta])* fn $name:ident() $body:block) => {
        $(#[$meta])*
        #[test]
        fn $name() -> ::anyhow::Result<()> {
            const TEST: &str = $crate::without_crate(concat!(module_path!(), "::", stringify!($name)));
            let Some(_alone) = $crate::alone_as_root(TEST) else { return Ok(()) };
            $body
        }
    };
}
