//! The agent signal: what podmeter itself costs and what it missed.
//!
//! A tool that counts others must say its own price. CPU time and memory come from the kernel's account of this process.

use std::fs;

use nix::time::ClockId;

use super::{ActiveSignal, Kept, Readings, Signal, SignalError};
use crate::{
    cgroups::Cgroups,
    kernel::facts,
    metric::{Metric, Point, Scope, Value},
};

/// See the module.
pub const SIGNAL: Signal = Signal {
    name: "agent",
    help: "podmeter's own CPU time and memory, its slots, and what it missed",
    tracepoints: &[],
    metrics: &[
        &SIGNAL_ACTIVE,
        &READ_TIME,
        &CPU_TIME,
        &PROGRAM_TIME,
        &PROGRAM_RUNS,
        &PROGRAM_MISSED,
        &PROGRAM_SAMPLED,
        &OVERHEAD,
        &OVERHEAD_LIMIT,
        &SHED,
        &MEMORY,
        &CGROUPS,
        &SLOTS,
        &WITHOUT_SLOT,
    ],
    capability: None,
    missing: |_| None,
    start: |_, _, _| Ok(Box::new(Agent { started_ns: facts::boottime_ns() })),
};

/// `podmeter.agent.signal.active`
pub static SIGNAL_ACTIVE: Metric = Metric::gauge(
    "podmeter.agent.signal.active",
    "{signal}",
    Scope::Agent,
    "1 for each signal that is measured, 0 for one that could not be started; `podmeter check` and the log have \
     the reason. Absent for one that the configuration switches off.",
)
.attributes(&["signal"]);
/// `podmeter.agent.signal.read_time`
pub static READ_TIME: Metric = Metric::gauge(
    "podmeter.agent.signal.read_time",
    "s",
    Scope::Agent,
    "Time to read the signal for this export, for all cgroups. `walk` is the walk over cgroups that several signals \
     read the result of.",
)
.attributes(&["signal"]);
/// `podmeter.agent.cpu.time`
pub static CPU_TIME: Metric = Metric::counter(
    "podmeter.agent.cpu.time",
    "s",
    Scope::Agent,
    "CPU time of the agent's process. Its programs in the kernel run on the time of the tasks that they \
     interrupt, which is not included.",
);
/// `podmeter.agent.program.time`
pub static PROGRAM_TIME: Metric = Metric::counter(
    "podmeter.agent.program.time",
    "s",
    Scope::Agent,
    "Time that a program in the kernel ran, in the sampled seconds only: its rate divided by that of \
     podmeter.agent.program.sampled is the share of a core that it takes, divided by that of podmeter.agent.program.runs \
     the time of a run. A program that another calls is in the time of the caller. Absent where the kernel does not let \
     the agent count it, which takes CAP_SYS_ADMIN.",
)
.attributes(&["program"]);
/// `podmeter.agent.program.runs`
pub static PROGRAM_RUNS: Metric = Metric::counter(
    "podmeter.agent.program.runs",
    "{run}",
    Scope::Agent,
    "Runs of a program in the kernel, in the sampled seconds only.",
)
.attributes(&["program"]);
/// `podmeter.agent.program.missed`
pub static PROGRAM_MISSED: Metric = Metric::counter(
    "podmeter.agent.program.missed",
    "{run}",
    Scope::Agent,
    "Runs of a program in the kernel that were left out, since the same program was running on that CPU and was interrupted: what they \
     would have counted is missing. Since Linux 5.12, and from the agent's first sample on. Absent until there is one.",
)
.attributes(&["program"]);
/// `podmeter.agent.program.sampled`
pub static PROGRAM_SAMPLED: Metric = Metric::counter(
    "podmeter.agent.program.sampled",
    "s",
    Scope::Agent,
    "Time in which the kernel counted the runs of the agent's programs: a second per overhead.window, six where the cost is \
     near overhead.cpu.",
);
/// `podmeter.agent.overhead`
pub static OVERHEAD: Metric = Metric::gauge(
    "podmeter.agent.overhead",
    "{cpu}",
    Scope::Agent,
    "Share of one core that podmeter took over the last overhead.window, by part: agent (its process) and programs (in \
     the kernel, by the sampled seconds; without those that run in the agent's own system calls). programs is absent \
     where it is not known.",
)
.attributes(&["part"]);
/// `podmeter.agent.overhead.limit`
pub static OVERHEAD_LIMIT: Metric = Metric::gauge(
    "podmeter.agent.overhead.limit",
    "{cpu}",
    Scope::Agent,
    "Share of one core that both parts of podmeter.agent.overhead may take together: overhead.cpu. Absent where that is off.",
);
/// `podmeter.agent.shed`
pub static SHED: Metric = Metric::gauge(
    "podmeter.agent.shed",
    "{step}",
    Scope::Agent,
    "1 for what podmeter does without at the moment to stay within overhead.cpu, 0 for what it would: dns_names, bursts, \
     histograms, drops, collections (every second one is made), in this order. Absent where overhead.cpu is off.",
)
.attributes(&["step"]);
/// `podmeter.agent.memory.rss`
pub static MEMORY: Metric = Metric::gauge(
    "podmeter.agent.memory.rss",
    "By",
    Scope::Agent,
    "Resident memory of the agent's process, with the pages of its BPF maps that it has read.",
);
/// `podmeter.agent.cgroups`
pub static CGROUPS: Metric = Metric::gauge(
    "podmeter.agent.cgroups",
    "{cgroup}",
    Scope::Agent,
    "Cgroups that have a slot, with those that were removed within the last seconds.",
);
/// `podmeter.agent.slots`
pub static SLOTS: Metric = Metric::gauge(
    "podmeter.agent.slots",
    "{slot}",
    Scope::Agent,
    "Slots for cgroups (cgroups.slots, up to cgroups.max_slots). One of them holds the unattributed counts.",
);
/// `podmeter.agent.cgroups.without_slot`
pub static WITHOUT_SLOT: Metric = Metric::counter(
    "podmeter.agent.cgroups.without_slot",
    "{cgroup}",
    Scope::Agent,
    "Cgroups that were created when no slot was free for them: all were taken, or three quarters for a cgroup \
     more than four levels deep. Their use is unattributed until there are more slots, or an eighth of all is free.",
);

/// Nothing is kept: the kernel counts.
struct Agent {
    started_ns: u64,
}

impl ActiveSignal for Agent {
    fn collect(&mut self, _: u64, cgroups: &Cgroups) -> Result<Readings, SignalError> {
        let cpu_s = facts::clock_ns(ClockId::CLOCK_PROCESS_CPUTIME_ID) as f64 / 1e9;
        let mut node = vec![
            Point::new(&CPU_TIME, self.started_ns, Value::Float(cpu_s)),
            Point::new(&CGROUPS, 0, Value::Int(cgroups.table().len() as u64)),
            Point::new(&SLOTS, 0, Value::Int(cgroups.slots().into())),
            Point::new(&WITHOUT_SLOT, cgroups.object().since_ns(), Value::Int(cgroups.without_slot())),
        ];
        node.extend(rss_bytes().map(|bytes| Point::new(&MEMORY, 0, Value::Int(bytes))));
        Ok(Readings { cgroups: Vec::new(), node })
    }

    fn hand_over(self: Box<Self>) -> Option<Kept> {
        Some(Box::new(self.started_ns))
    }

    fn go_on_with(&mut self, kept: Kept) {
        self.started_ns = kept.downcast().map_or(self.started_ns, |started_ns| *started_ns);
    }
}

/// Second field of /proc/self/statm, in pages.
fn rss_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * facts::page_bytes()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory() {
        let bytes = rss_bytes().expect("/proc is mounted");
        assert!((1 << 20..1 << 34).contains(&bytes), "{bytes}");
    }
}
