//! The kernel's own figures, and how far a figure may be from it.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};

/// CPU time of a cgroup whose tasks have all ended, against `cpu.stat`: the exit of a task may add 0.1 ms after the file was
/// read.
pub const EXACT: Tolerance = Tolerance::new(0.002, 0.0001);

/// The same where more tasks end, or the agent is started again meanwhile: 0.2 ms.
pub const NEARLY_EXACT: Tolerance = Tolerance::new(0.002, 0.0002);

/// `/proc/<pid>/schedstat`: the scheduler's own account of one task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schedstat {
    /// Time on a CPU in ns.
    pub on_cpu_ns: u64,
    /// Time runnable but waiting for a CPU in ns (`run_delay`); the time its cgroup was throttled is part of it.
    pub wait_ns: u64,
    /// Times it was put on a CPU.
    pub dispatches: u64,
}

impl std::ops::Add for Schedstat {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            on_cpu_ns: self.on_cpu_ns + other.on_cpu_ns,
            wait_ns: self.wait_ns + other.wait_ns,
            dispatches: self.dispatches + other.dispatches,
        }
    }
}

impl std::iter::Sum for Schedstat {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| sum + one)
    }
}

/// The main thread of a process, also when it is a zombie.
pub fn schedstat(pid: i32) -> Result<Schedstat> {
    read_schedstat(&format!("/proc/{pid}/schedstat"))
}

/// All threads of a process that live now; a thread that has ended takes its figures along.
pub fn schedstat_of_threads(pid: i32) -> Result<Schedstat> {
    let dir = format!("/proc/{pid}/task");
    let mut sum = Schedstat::default();
    for entry in fs::read_dir(&dir).with_context(|| format!("could not list {dir}"))? {
        let tid = entry.with_context(|| format!("could not list {dir}"))?.file_name();
        match read_schedstat(&format!("{dir}/{}/schedstat", tid.to_string_lossy())) {
            Ok(one) => sum = sum + one,
            // Ended between the listing and the reading.
            Err(_) => continue,
        }
    }
    Ok(sum)
}

fn read_schedstat(file: &str) -> Result<Schedstat> {
    let text = fs::read_to_string(file).with_context(|| format!("could not read {file}"))?;
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let &[on_cpu_ns, wait_ns, dispatches] = numbers.as_slice() else {
        anyhow::bail!("{file} holds \"{}\", not three numbers", text.trim());
    };
    Ok(Schedstat { on_cpu_ns, wait_ns, dispatches })
}

/// How far a measured figure may be from the truth: the larger of a share of the truth and a floor.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Share of the truth: 0.002 is 0.2 %.
    pub share: f64,
    /// In the figure's unit: for what the two readings cannot agree on because they are not made at the same instant.
    pub floor: f64,
}

impl Tolerance {
    /// A share of the truth, but at least `floor`.
    pub const fn new(share: f64, floor: f64) -> Self {
        Self { share, floor }
    }

    /// Fails, with both figures, when `measured` is too far from `truth`; prints them when it is not.
    pub fn check(self, what: &str, measured: f64, truth: f64) -> Result<()> {
        self.check_quietly(what, measured, truth)?;
        let (allowed, error) = (self.allowed(truth), measured - truth);
        println!("{what}: measured {measured:.6}, truth {truth:.6}: {error:+.6} of ±{allowed:.6}");
        Ok(())
    }

    /// The same, without a word when it is near enough.
    pub fn check_quietly(self, what: &str, measured: f64, truth: f64) -> Result<()> {
        let allowed = self.allowed(truth);
        let error = measured - truth;
        ensure!(
            error.abs() <= allowed,
            "{what}: measured {measured:.6}, truth {truth:.6}: off by {error:+.6} ({:+.3} %), allowed ±{allowed:.6}",
            error / truth * 100.0
        );
        Ok(())
    }

    fn allowed(self, truth: f64) -> f64 {
        (truth.abs() * self.share).max(self.floor)
    }
}

/// Number of CPUs that this process may run on.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The last CPU that this thread may run on: the first has most of the interrupts.
pub fn last_cpu() -> Result<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("could not read which CPUs are allowed")?;
    (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu) == Ok(true)).context("no CPU is allowed")
}

/// Length of a scheduler tick at the slowest rate that kernels are built with (HZ=100): `cpu.stat` of a running task is at most
/// this old.
pub const TICK: Duration = Duration::from_millis(10);
