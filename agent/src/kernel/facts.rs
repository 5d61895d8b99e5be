//! Plain facts of this machine that programs and readers need: clocks, CPUs, the tick.

use std::time::Duration;

use nix::time::{ClockId, clock_getres, clock_gettime};

/// A clock's reading in ns.
pub fn clock_ns(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |t| Duration::from(t).as_nanos() as u64)
}

/// When the node came up, as CLOCK_BOOTTIME in ns.
pub const BOOTED_NS: u64 = 0;

/// CLOCK_BOOTTIME in ns: what everything is stamped with; [`clock`](super::clock) makes Unix time of it.
pub fn boottime_ns() -> u64 {
    clock_ns(ClockId::CLOCK_BOOTTIME)
}

/// Unix time in ns: for [`clock`](super::clock) alone.
pub(super) fn unix_ns() -> u64 {
    clock_ns(ClockId::CLOCK_REALTIME)
}

/// Length of a jiffy in ns: the resolution of the coarse clocks, which advance once a tick (`TICK_NSEC`).
pub fn tick_ns() -> u64 {
    clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_or(4_000_000, |t| Duration::from(t).as_nanos() as u64).max(1)
}

/// Ids of the CPUs that are online.
///
/// # Errors
/// When /sys cannot be read.
pub fn online_cpus() -> std::io::Result<Vec<u32>> {
    aya::util::online_cpus().map_err(|(what, error)| std::io::Error::new(error.kind(), format!("{what}: {error}")))
}

/// Number of CPUs that could ever be online: one more than the largest CPU id.
///
/// # Errors
/// When /sys cannot be read.
pub fn possible_cpus() -> std::io::Result<u32> {
    let n = aya::util::nr_cpus().map_err(|(what, error)| std::io::Error::new(error.kind(), format!("{what}: {error}")))?;
    Ok(n as u32)
}

/// The kernel's release, as `uname -r` has it.
pub fn release() -> String {
    nix::sys::utsname::uname().map_or_else(|_| "unknown".to_owned(), |u| u.release().to_string_lossy().into_owned())
}
