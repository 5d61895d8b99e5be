//! Plain facts of this machine that programs and readers need: clocks, CPUs, the tick.

use std::{fs, io, ops::RangeInclusive, time::Duration};

use nix::{
    time::{ClockId, clock_getres, clock_gettime},
    unistd::SysconfVar,
};

use crate::cpu_list;

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

/// Memory of the machine in bytes, `None` where it is not known.
pub fn memory_bytes() -> Option<u64> {
    Some(configured(SysconfVar::_PHYS_PAGES)? * page_bytes()?)
}

/// Length of a page in bytes, `None` where it is not known.
pub fn page_bytes() -> Option<u64> {
    configured(SysconfVar::PAGE_SIZE)
}

fn configured(name: SysconfVar) -> Option<u64> {
    u64::try_from(nix::unistd::sysconf(name).ok()??).ok()
}

/// Ids of the CPUs that are online at this moment.
///
/// # Errors
/// When /sys cannot be read.
pub fn online_cpus() -> io::Result<Vec<u32>> {
    Ok(cpus_in("online")?.into_iter().flatten().collect())
}

/// One more than the largest id of a CPU that could ever be online: how long an array by CPU is. Ids may have gaps: the number of
/// possible CPUs may be smaller.
///
/// # Errors
/// When /sys cannot be read.
pub fn cpu_ids() -> io::Result<u32> {
    cpus_in("possible")?.iter().map(|range| range.end() + 1).max().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A list of CPUs in /sys/devices/system/cpu.
fn cpus_in(list: &str) -> io::Result<Vec<RangeInclusive<u32>>> {
    let path = format!("/sys/devices/system/cpu/{list}");
    let with_path = |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
    let text = fs::read_to_string(&path).map_err(with_path)?;
    cpu_list::parse(&text)
        .ok_or_else(|| with_path(io::Error::new(io::ErrorKind::InvalidData, format!("{text:?} is no list of CPUs"))))
}

/// Whether the kernel keeps account of how long tasks wait for a CPU (`sched_info_on`); if not, why.
///
/// Up to 5.13 a kernel with CONFIG_TASK_DELAY_ACCT and without CONFIG_SCHEDSTATS does so only while delay accounting is on. Where it is
/// off, `/proc/<pid>/schedstat` says of every task that it was never dispatched, this running one included.
///
/// # Errors
/// With the reason.
pub fn waits_are_counted() -> Result<(), String> {
    const OWN: &str = "/proc/self/schedstat";
    let text = fs::read_to_string(OWN).map_err(|error| format!("{OWN}, which tells whether the kernel counts it: {error}"))?;
    if has_dispatches(&text) { Ok(()) } else { Err(format!("{NOT_COUNTED} ({OWN} has {:?})", text.trim())) }
}

const NOT_COUNTED: &str =
    "this kernel has delay accounting switched off (nodelayacct on its command line) and no CONFIG_SCHEDSTATS";

/// Whether a running task's `schedstat` says that it was dispatched: `<time on CPU> <time waiting> <dispatches>`.
fn has_dispatches(schedstat: &str) -> bool {
    schedstat.split_whitespace().nth(2).is_some_and(|dispatches| dispatches.parse::<u64>().is_ok_and(|n| n > 0))
}

/// The kernel's release, as `uname -r` has it.
pub fn release() -> String {
    nix::sys::utsname::uname().map_or_else(|_| "unknown".to_owned(), |u| u.release().to_string_lossy().into_owned())
}

/// The first number of a kernel's release; 0 where it has none.
pub fn major(release: &str) -> u32 {
    release.split(|c: char| !c.is_ascii_digit()).next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_of_a_release_is_found() {
        assert_eq!(["7.2.13+deb14-cloud-amd64", "6.18.44", "unknown"].map(major), [7, 6, 0]);
    }

    #[test]
    fn arrays_by_cpu_reach_to_the_largest_id_where_ids_have_gaps() {
        // This machine's, by whatever ids.
        let (ids, online) = (cpu_ids().expect("possible CPUs"), online_cpus().expect("online CPUs"));
        assert!(!online.is_empty() && online.iter().all(|cpu| *cpu < ids), "{online:?} of {ids}");
    }

    #[test]
    fn a_kernel_that_counts_no_waits_says_that_a_running_task_was_never_dispatched() {
        assert!(has_dispatches("503081 2283071 2\n"));
        // `proc_pid_schedstat` without sched_info_on().
        assert!(!has_dispatches("0 0 0\n"));
        assert!(!has_dispatches("503081 0 0\n"));
        assert!(!has_dispatches(""));
    }
}
