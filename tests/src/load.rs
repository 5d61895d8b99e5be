//! Processes that use a known amount of CPU, placed in their cgroup before they do anything.
//!
//! A load is forked, not executed: between `clone3` and `_exit` the child makes raw system calls only, since the parent has
//! threads and so may hold any lock of the C library. Every load ends by itself; what keeps it from doing so meets an alarm, and
//! a parent that goes away takes its loads along.

mod child;
mod realtime;
mod shared;

use std::{
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    errno::Errno,
    libc,
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::Pid,
};

pub use self::realtime::{RealtimeUnlimited, realtime};
use self::shared::SharedPage;
use crate::{
    cgroup::Cgroup,
    truth::{self, Schedstat},
};

/// Added to the time a load should take: when this is over too, an alarm ends it.
const GRACE: Duration = Duration::from_secs(60);

/// How long a zombie may take to leave its CPU.
const LEAVES_CPU_WITHIN: Duration = Duration::from_secs(5);

/// `CLONE_INTO_CGROUP` of linux/sched.h, since 5.7; the libc crate has it cut to 32 bits.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What a load does before it exits.
#[derive(Clone, Copy, Debug)]
enum Work {
    /// Computes until it has used this much CPU time in ns.
    Burn { cpu_ns: u64 },
    /// Computes until this much time has passed, in ns.
    Spin { wall_ns: u64 },
    /// Uses `busy_ns` of CPU time at the begin of every period of `period_ns` until `wall_ns` have passed.
    Duty { busy_ns: u64, period_ns: u64, wall_ns: u64 },
    /// Sleeps.
    Sleep { wall_ns: u64 },
    /// Sends a byte and waits for the answer until `wall_ns` have passed.
    Ping { read: RawFd, write: RawFd, wall_ns: u64 },
    /// Answers every byte.
    Pong { read: RawFd, write: RawFd },
    /// Fills this much memory, reports that, and sleeps.
    Hold { memory: Memory, bytes: usize, wall_ns: u64 },
    /// Forks a process that fills this much memory, waits for its end, reports that, and sleeps.
    Breed { bytes: usize, wall_ns: u64 },
    /// Two tasks with one address space map, fill and unmap memory.
    Remap { wall_ns: u64 },
    /// Reads the first `bytes` of a file, once or again and again, reports that, and sleeps until `wall_ns` have passed.
    Read { file: RawFd, bytes: u64, again: bool, wall_ns: u64 },
}

/// A kind of memory that a load can fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Of its own.
    Anonymous,
    /// Of its own, and locked.
    Locked,
    /// To be shared with its children: what tmpfs is made of.
    Shared,
}

impl Work {
    /// How long it should take on an idle CPU.
    fn wall(&self) -> Duration {
        match *self {
            // Shared with others it may take many times its CPU time.
            Self::Burn { cpu_ns } => Duration::from_nanos(cpu_ns.saturating_mul(16)),
            Self::Spin { wall_ns }
            | Self::Duty { wall_ns, .. }
            | Self::Sleep { wall_ns }
            | Self::Ping { wall_ns, .. }
            | Self::Hold { wall_ns, .. }
            | Self::Breed { wall_ns, .. }
            | Self::Remap { wall_ns }
            | Self::Read { wall_ns, .. } => Duration::from_nanos(wall_ns),
            // Ends with its partner, whose time it does not know.
            Self::Pong { .. } => GRACE,
        }
    }

    fn fds(&self) -> [RawFd; 2] {
        match *self {
            Self::Ping { read, write, .. } | Self::Pong { read, write } => [read, write],
            Self::Read { file, .. } => [file, -1],
            _ => [-1, -1],
        }
    }
}

/// The description of a load, to be [started](Load::start).
#[derive(Clone, Copy, Debug)]
pub struct Load {
    work: Work,
    cpu: Option<usize>,
    realtime: bool,
    into_window_ns: Option<u64>,
    expendable: bool,
}

impl Load {
    fn new(work: Work) -> Self {
        Self { work, cpu: None, realtime: false, into_window_ns: None, expendable: false }
    }

    /// Computes until it has used this much CPU time, exit included but for some µs.
    pub fn burn(cpu: Duration) -> Self {
        Self::new(Work::Burn { cpu_ns: ns(cpu) })
    }

    /// Computes for this long.
    pub fn spin(wall: Duration) -> Self {
        Self::new(Work::Spin { wall_ns: ns(wall) })
    }

    /// For `wall`, uses `busy` of CPU time at the begin of every `period` and sleeps for the rest of it.
    pub fn duty_cycle(busy: Duration, period: Duration, wall: Duration) -> Self {
        Self::new(Work::Duty { busy_ns: ns(busy), period_ns: ns(period).max(1), wall_ns: ns(wall) })
    }

    /// Lives this long without doing anything.
    pub fn sleep(wall: Duration) -> Self {
        Self::new(Work::Sleep { wall_ns: ns(wall) })
    }

    /// Fills `bytes` of memory and holds it for `wall`. [`Process::rounds`] is 1 once it is filled.
    pub fn hold(memory: Memory, bytes: usize, wall: Duration) -> Self {
        Self::new(Work::Hold { memory, bytes, wall_ns: ns(wall) })
    }

    /// Forks a process that fills `bytes` of memory and is then to be killed or to end, and lives on for `wall`.
    /// [`Process::rounds`] is 1 once that process has ended.
    pub fn breed(bytes: usize, wall: Duration) -> Self {
        Self::new(Work::Breed { bytes, wall_ns: ns(wall) })
    }

    /// Two tasks with one address space change it all the time, so that they wait for each other's changes.
    pub fn remap(wall: Duration) -> Self {
        Self::new(Work::Remap { wall_ns: ns(wall) })
    }

    /// Reads the first `bytes` of a file and lives on for `wall`, reading it `again` and again or not.
    /// [`Process::rounds`] counts how often it has been read. The file must be open until it has started.
    pub fn read(file: &impl std::os::fd::AsRawFd, bytes: u64, again: bool, wall: Duration) -> Self {
        Self::new(Work::Read { file: file.as_raw_fd(), bytes, again, wall_ns: ns(wall) })
    }

    /// Is the OOM killer's first choice (`oom_score_adj` 1000).
    pub fn expendable(self) -> Self {
        Self { expendable: true, ..self }
    }

    /// Runs on this CPU only.
    pub fn on_cpu(self, cpu: usize) -> Self {
        Self { cpu: Some(cpu), ..self }
    }

    /// Runs before all ordinary tasks (`SCHED_FIFO`, priority 1), or where that is not allowed, at nice -20.
    ///
    /// The kernel may still set it aside for 50 ms of every second: see [`RealtimeUnlimited`].
    pub fn realtime(self) -> Self {
        Self { realtime: true, ..self }
    }

    /// Begins when a 100 ms window of CLOCK_MONOTONIC is this old, the same as where the agent's windows begin.
    pub fn into_window(self, offset: Duration) -> Self {
        Self { into_window_ns: Some(ns(offset)), ..self }
    }

    /// Starts it in `cgroup`.
    pub fn start(&self, cgroup: &Cgroup) -> Result<Process> {
        let shared = SharedPage::new()?;
        let dir = std::fs::File::open(cgroup.dir()).with_context(|| format!("could not open {}", cgroup.dir().display()))?;
        let plan = child::LoadPlan {
            work: self.work,
            cpu: self.cpu,
            realtime: self.realtime,
            into_window_ns: self.into_window_ns,
            expendable: self.expendable,
            alarm_seconds: u32::try_from((self.work.wall() + GRACE).as_secs()).unwrap_or(u32::MAX),
            parent: std::process::id() as i32,
            gate: None,
        };
        let pid = match fork(Some(&dir), &plan, &shared) {
            // The system call or its cgroup argument is newer than this kernel, or a sandbox hides it.
            Err(Errno::ENOSYS | Errno::EINVAL | Errno::E2BIG) => self.start_behind_gate(cgroup, plan, &shared)?,
            result => result.with_context(|| format!("could not start a load in cgroup {}", cgroup.path()))?,
        };
        Ok(Process { pid, shared, reaped: false })
    }

    /// Starts it in this process' own cgroup and lets it begin only after it has been moved.
    fn start_behind_gate(&self, cgroup: &Cgroup, plan: child::LoadPlan, shared: &SharedPage) -> Result<i32> {
        let (gate, opener) = nix::unistd::pipe().context("could not make a pipe")?;
        let plan = child::LoadPlan { gate: Some(gate.as_raw_fd()), ..plan };
        let pid = fork(None, &plan, shared).context("could not fork a load")?;
        if let Err(error) = cgroup.attach(pid) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            let _ = waitpid(Pid::from_raw(pid), None);
            return Err(error);
        }
        nix::unistd::write(&opener, &[1]).context("could not let the load begin")?;
        Ok(pid)
    }
}

/// Starts two processes on one CPU that wake each other in turn for `wall`: two switches per round trip.
///
/// [`Process::rounds`] of the first counts the round trips.
pub fn ping_pong(first: &Cgroup, second: &Cgroup, cpu: usize, wall: Duration) -> Result<(Process, Process)> {
    let pipe = || -> Result<(OwnedFd, OwnedFd)> { nix::unistd::pipe().context("could not make a pipe") };
    let (there, back) = (pipe()?, pipe()?);
    let ping = Work::Ping { read: back.0.as_raw_fd(), write: there.1.as_raw_fd(), wall_ns: ns(wall) };
    let pong = Work::Pong { read: there.0.as_raw_fd(), write: back.1.as_raw_fd() };
    let second = Load::new(pong).on_cpu(cpu).start(second)?;
    let first = Load::new(ping).on_cpu(cpu).start(first)?;
    Ok((first, second))
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Forks; the child carries out `plan` and never returns from here.
fn fork(cgroup: Option<&std::fs::File>, plan: &child::LoadPlan, shared: &SharedPage) -> nix::Result<i32> {
    // SAFETY: all-zero is the documented "nothing special" of every field.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(dir) = cgroup {
        args.flags = CLONE_INTO_CGROUP;
        args.cgroup = dir.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM this is fork: the child goes on with a copy of this stack, and `child::run` makes nothing but
    // system calls and never returns, so no lock that another thread holds is ever needed.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match pid {
        0 => child::run(plan, shared),
        -1 => Err(Errno::last()),
        pid => Ok(pid as i32),
    }
}

/// A running load. It is killed and reaped when this value is dropped.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    shared: SharedPage,
    reaped: bool,
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The scheduler's account of it so far.
    pub fn schedstat(&self) -> Result<Schedstat> {
        truth::schedstat(self.pid)
    }

    /// Waits until it has ended by itself; its last account, read while it was a zombie.
    pub fn wait(mut self) -> Result<Schedstat> {
        let pid = Pid::from_raw(self.pid);
        let wait = |flags| loop {
            match waitid(Id::Pid(pid), flags) {
                Err(Errno::EINTR) => continue,
                result => return result.with_context(|| format!("could not wait for load {pid}")),
            }
        };
        wait(WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)?;
        self.wait_off_cpu()?;
        let account = self.schedstat()?;
        let status = wait(WaitPidFlag::WEXITED)?;
        self.reaped = true;
        match status {
            WaitStatus::Exited(_, 0) => Ok(account),
            WaitStatus::Exited(_, code) => bail!("load {pid} failed: {}", Errno::from_raw(code)),
            other => bail!("load {pid} was ended from outside: {other:?}"),
        }
    }

    /// Waits until a signal has ended it; which one.
    pub fn wait_for_signal(mut self) -> Result<Signal> {
        let pid = Pid::from_raw(self.pid);
        loop {
            match waitpid(pid, None) {
                Err(Errno::EINTR) => continue,
                Ok(WaitStatus::Signaled(_, signal, _)) => {
                    self.reaped = true;
                    return Ok(signal);
                }
                other => {
                    self.reaped = other.is_ok();
                    bail!("load {pid} was to be ended by a signal: {other:?}")
                }
            }
        }
    }

    /// Waits until [`Process::rounds`] is at least `rounds`.
    pub fn wait_for_rounds(&self, rounds: u64, within: Duration) -> Result<()> {
        let deadline = Instant::now() + crate::time::patience(within);
        while self.rounds() < rounds {
            anyhow::ensure!(Instant::now() < deadline, "load {} is not ready within {within:?}", self.pid);
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Kills it; its last account, read while it was a zombie.
    pub fn kill(mut self) -> Result<Schedstat> {
        let pid = Pid::from_raw(self.pid);
        kill(pid, Signal::SIGKILL).with_context(|| format!("could not kill load {pid}"))?;
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).with_context(|| format!("could not wait for {pid}"))?;
        self.wait_off_cpu()?;
        let account = self.schedstat()?;
        self.reap();
        Ok(account)
    }

    /// Waits until this zombie has left its CPU for good, so that its accounts and those of its cgroup are final.
    ///
    /// A task becomes a zombie (`exit_notify`) before its last steps, which take an emulated CPU some ms. /proc/<pid>/syscall
    /// holds "running" of a runnable task, waits for one in its last state to be switched out (`task_current_syscall`), and finds
    /// no stack after that (`finish_task_switch` puts it).
    fn wait_off_cpu(&self) -> Result<()> {
        let file = format!("/proc/{}/syscall", self.pid);
        let deadline = Instant::now() + LEAVES_CPU_WITHIN;
        while std::fs::read_to_string(&file).with_context(|| format!("could not read {file}"))?.trim_end() == "running" {
            ensure!(Instant::now() < deadline, "load {} is a zombie and still runs after {LEAVES_CPU_WITHIN:?}", self.pid);
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    /// Round trips of a ping-pong so far.
    pub fn rounds(&self) -> u64 {
        self.shared.rounds()
    }

    /// CPU time in ns it has used in each 100 ms window of CLOCK_MONOTONIC, by the window's number (clock / 100 ms), as it read
    /// it from its own CPU clock at every change of window. Windows it did not run in are left out.
    pub fn cpu_by_window(&self) -> Vec<(u64, u64)> {
        self.shared.windows()
    }

    fn reap(&mut self) {
        while waitpid(Pid::from_raw(self.pid), None) == Err(Errno::EINTR) {}
        self.reaped = true;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
            self.reap();
        }
    }
}
