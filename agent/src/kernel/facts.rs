//! Plain facts of this machine that programs and readers need: clocks, CPUs, the tick.

use std::{
    fs::{self, File},
    io,
    ops::RangeInclusive,
    os::unix::fs::FileExt as _,
    time::Duration,
};

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
    Ok(OnlineCpus::open()?.now()?.to_vec())
}

/// Which CPUs are online, for one who asks each second: the file stays open, and is parsed when it says something else.
#[derive(Debug)]
pub struct OnlineCpus {
    file: File,
    text: Vec<u8>,
    ids: Vec<u32>,
}

impl OnlineCpus {
    /// Opens the kernel's list.
    ///
    /// # Errors
    /// When /sys cannot be read.
    pub fn open() -> io::Result<Self> {
        let path = path_of("online");
        let file = File::open(&path).map_err(|error| at_path(&path, &error))?;
        Ok(Self { file, text: Vec::new(), ids: Vec::new() })
    }

    /// Their ids at this moment.
    ///
    /// # Errors
    /// When the list cannot be read, or is none.
    pub fn now(&mut self) -> io::Result<&[u32]> {
        // The kernel prints at most a page here.
        let mut text = [0; 4096];
        let length = self.file.read_at(&mut text, 0).map_err(|error| at_path(&path_of("online"), &error))?;
        let text = text.get(..length).unwrap_or_default();
        if text != self.text {
            self.ids = parsed("online", &String::from_utf8_lossy(text))?.into_iter().flatten().collect();
            self.text = text.to_vec();
        }
        Ok(&self.ids)
    }
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
    let path = path_of(list);
    parsed(list, &fs::read_to_string(&path).map_err(|error| at_path(&path, &error))?)
}

fn parsed(list: &str, text: &str) -> io::Result<Vec<RangeInclusive<u32>>> {
    let no_list = || io::Error::new(io::ErrorKind::InvalidData, format!("{}: {text:?} is no list of CPUs", path_of(list)));
    cpu_list::parse(text).ok_or_else(no_list)
}

fn path_of(list: &str) -> String {
    format!("/sys/devices/system/cpu/{list}")
}

fn at_path(path: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{path}: {error}"))
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
        let mut kept = OnlineCpus::open().expect("the list opens");
        for _ in 0..2 {
            assert_eq!(kept.now().expect("it can be read again"), online);
        }
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
