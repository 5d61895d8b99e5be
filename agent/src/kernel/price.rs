//! What programs cost: for how long and how often each has run, by the kernel's own count.
//!
//! The kernel counts only while it is asked to (`BPF_ENABLE_STATS`), for all programs of the machine: that takes about 60 ns per run, so it
//! is asked for a second now and then. What has the statistics from another source (`kernel.bpf_stats_enabled`) is read without asking.

use std::{fs, os::fd::OwnedFd};

use aya::{
    programs::{ProgramFd, loaded_programs},
    sys::{Stats, enable_stats},
};

use super::sys;

/// Whether the kernel counts all the time, for whoever has set it.
const COUNTS_ALWAYS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// A program of this agent.
pub struct RunningProgram {
    /// Its name.
    pub name: &'static str,
    /// The program; `None` where an earlier agent has loaded it.
    pub fd: Option<ProgramFd>,
    /// The kernel's number for what is attached.
    pub id: Option<u32>,
    /// Whether it runs in the agent's own system calls, so that its time is the agent's too.
    pub runs_in_agent: bool,
}

/// What a program has run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// For how long, in ns.
    pub ns: u64,
    /// How often.
    pub count: u64,
    /// How often it was left out since it was loaded, as the same program was running on that CPU: counted always, and 0 before Linux 5.12.
    pub missed: u64,
}

impl Runs {
    /// What was added since.
    pub fn since(self, before: Self) -> Self {
        Self {
            ns: self.ns.saturating_sub(before.ns),
            count: self.count.saturating_sub(before.count),
            missed: self.missed.saturating_sub(before.missed),
        }
    }
}

/// The kernel counts for as long as this is held.
pub struct Counting(#[expect(dead_code, reason = "held for what closing it does")] Option<OwnedFd>);

/// Has the kernel count from now on.
///
/// # Errors
/// Why it does not, for people.
pub fn count() -> Result<Counting, String> {
    match enable_stats(Stats::RunTime) {
        Ok(fd) => Ok(Counting(Some(fd))),
        Err(_) if fs::read_to_string(COUNTS_ALWAYS).is_ok_and(|text| text.trim() == "1") => Ok(Counting(None)),
        Err(error) => Err(format!(
            "could not have the kernel count the run time of programs (BPF_ENABLE_STATS): {}; it takes CAP_SYS_ADMIN, or the sysctl \
             kernel.bpf_stats_enabled=1",
            error.io_error
        )),
    }
}

/// Opens the programs that an earlier agent has loaded. Those that cannot be opened are left out, and then the second is `false`.
pub fn open(programs: Vec<RunningProgram>) -> (Vec<RunningProgram>, bool) {
    let is_loaded = |program: &RunningProgram| program.fd.is_some();
    let (mut opened, others): (Vec<_>, Vec<_>) = programs.into_iter().partition(is_loaded);
    if others.is_empty() {
        return (opened, true);
    }
    let wanted = others.len();
    let infos: Vec<_> = loaded_programs().map_while(Result::ok).collect();
    let found = others.into_iter().filter_map(|program| {
        let info = infos.iter().find(|info| Some(info.id()) == program.id)?;
        Some(RunningProgram { fd: Some(info.fd().ok()?), ..program })
    });
    let before = opened.len();
    opened.extend(found);
    let complete = opened.len() - before == wanted;
    (opened, complete)
}

/// What a program has run up to now, while the kernel counted.
pub fn runs(program: &RunningProgram) -> Option<Runs> {
    let [ns, count, missed] = sys::program_runs(program.fd.as_ref()?).ok()?;
    Some(Runs { ns, count, missed })
}
