//! What podmeter costs, measured every tick that has something to measure: the agent's CPU time always, its programs for a second now and
//! then. What follows from it, `overhead.rs` decides.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use nix::time::ClockId;
use tracing::info;

use super::running::Running;
use crate::{
    config::Overhead,
    kernel::{
        facts,
        load::Settled,
        price::{self, Counting, RunningProgram, Runs},
    },
    metric::{Point, Value},
    overhead::{Change, Cost, Governor, Measured, Step},
    signals::agent::{OVERHEAD, OVERHEAD_LIMIT, PROGRAM_MISSED, PROGRAM_RUNS, PROGRAM_SAMPLED, PROGRAM_TIME, SHED},
};

/// How long the kernel counts the runs of programs, less what a tick may come early.
const SAMPLE: Duration = Duration::from_millis(900);

/// The longest interval that may be doubled: a gauge counts for five minutes in Prometheus.
const LONGEST_TO_DOUBLE: Duration = Duration::from_secs(120);

/// Measures what podmeter costs.
pub(super) struct Meter {
    governor: Governor,
    sample: Option<Sample>,
    /// When the next sample begins.
    next: Instant,
    /// When the last measurement ended, and the CPU time of the process then in ns.
    last: (Instant, u64),
    /// What was counted in the sampled seconds.
    counted: BTreeMap<&'static str, Runs>,
    /// The runs that were left out: all since the first sample, and those of the program that is loaded now.
    missed: BTreeMap<&'static str, (u64, u64)>,
    sampled: Duration,
    /// When the first sample began, CLOCK_BOOTTIME in ns.
    since_ns: u64,
    /// Why the programs are not measured, or not all.
    unmeasured: Option<String>,
    /// The measurement that has begun is of what a change cost, and counts for nothing.
    after_change: bool,
}

/// A sample while it lasts.
struct Sample {
    began: Instant,
    /// Each program, and what it had run when the sample began.
    programs: Vec<(RunningProgram, Runs)>,
    /// Whether those are all.
    complete: bool,
    /// Held: the kernel counts for as long.
    _counting: Counting,
}

impl Meter {
    /// Measures from now on.
    pub(super) fn new(settings: &Overhead, steps: Vec<Step>) -> Self {
        let cpus = facts::online_cpus().map_or(1, |cpus| cpus.len() as u32);
        let now = Instant::now();
        Self {
            governor: Governor::new(settings, cpus, steps),
            sample: None,
            next: now,
            last: (now, process_ns()),
            counted: BTreeMap::new(),
            missed: BTreeMap::new(),
            sampled: Duration::ZERO,
            since_ns: 0,
            unmeasured: None,
            after_change: false,
        }
    }

    /// Begins a sample, or ends one. What is to be done when a measurement has ended.
    pub(super) fn tick(&mut self, settled: &Settled) -> Option<Change> {
        let now = Instant::now();
        if let Some(sample) = self.sample.take_if(|sample| now.saturating_duration_since(sample.began) >= SAMPLE) {
            let programs = self.end(sample);
            return self.measured(programs);
        }
        if self.sample.is_some() || now < self.next {
            return None;
        }
        match price::count() {
            Ok(counting) => {
                self.begin(counting, settled);
                None
            }
            Err(why) => {
                self.say_unmeasured(why);
                let change = self.measured(None);
                self.next = now + self.governor.sample_every();
                change
            }
        }
    }

    fn begin(&mut self, counting: Counting, settled: &Settled) {
        let (programs, complete) = price::open(settled.programs());
        if !complete {
            self.say_unmeasured(
                "could not open the programs that an earlier agent has loaded; it takes CAP_SYS_ADMIN".to_owned(),
            );
        }
        if self.since_ns == 0 {
            self.since_ns = facts::boottime_ns();
        }
        let read = |program: RunningProgram| price::runs(&program).map(|runs| (program, runs));
        let programs = programs.into_iter().filter_map(read).collect();
        self.sample = Some(Sample { began: Instant::now(), programs, complete, _counting: counting });
    }

    /// The share of a core that the programs took in a sample; `None` where not all could be read.
    fn end(&mut self, sample: Sample) -> Option<f64> {
        let Sample { began, programs, mut complete, _counting } = sample;
        let mut ns = 0;
        for (program, before) in &programs {
            let Some(now) = price::runs(program) else {
                complete = false;
                continue;
            };
            let added = now.since(*before);
            // Its time is in the agent's already.
            ns += if program.runs_in_agent { 0 } else { added.ns };
            if added.count > 0 || self.counted.contains_key(program.name) {
                let counted = self.counted.entry(program.name).or_default();
                (counted.ns, counted.count) = (counted.ns + added.ns, counted.count + added.count);
            }
            let (missed, last) = self.missed.entry(program.name).or_insert((0, before.missed));
            // One that was loaded anew begins at 0.
            *missed += now.missed.checked_sub(*last).unwrap_or(now.missed);
            *last = now.missed;
        }
        let elapsed = began.elapsed();
        self.sampled += elapsed;
        complete.then(|| ns as f64 / elapsed.as_nanos().max(1) as f64)
    }

    fn measured(&mut self, programs: Option<f64>) -> Option<Change> {
        let (at, cpu_ns) = (Instant::now(), process_ns());
        let (then, before_ns) = std::mem::replace(&mut self.last, (at, cpu_ns));
        let elapsed = at.saturating_duration_since(then);
        let agent = Duration::from_nanos(cpu_ns.saturating_sub(before_ns));
        let one = Measured { at, elapsed, agent, programs };
        let counts = !std::mem::take(&mut self.after_change) && elapsed >= SAMPLE;
        let change = if counts { self.governor.measured(one) } else { None };
        // Counted from end to end: the sample itself is the last second of it.
        self.next = at + self.governor.sample_every().saturating_sub(Duration::from_secs(1));
        change
    }

    fn say_unmeasured(&mut self, why: String) {
        if self.unmeasured.as_ref() != Some(&why) {
            info!(
                why,
                "what the programs in the kernel cost is not measured; overhead.cpu holds for the agent's own CPU time alone"
            );
            self.unmeasured = Some(why);
        }
    }

    /// Something was given up or started again: what that cost says nothing about what follows.
    pub(super) fn changed(&mut self) {
        self.after_change = true;
    }

    /// Whether a step is taken.
    pub(super) fn does_without(&self, step: Step) -> bool {
        self.governor.does_without(step)
    }

    /// The cost of the last window and the limit, as people read them.
    pub(super) fn in_words(&self) -> (String, String) {
        let percent = |share: f64| format!("{:.2} %", share * 100.0);
        let of = |cost: Cost| match cost.programs {
            Some(programs) => {
                format!("{} of one core (agent {}, programs {})", percent(cost.total()), percent(cost.agent), percent(programs))
            }
            None => format!("{} of one core (agent alone)", percent(cost.total())),
        };
        let cost = self.governor.cost().map_or_else(|| "unknown".to_owned(), of);
        (cost, self.governor.limit().map_or_else(|| "none".to_owned(), percent))
    }

    /// Everything as points of the node.
    pub(super) fn points(&self) -> Vec<Point> {
        let mut points = Vec::new();
        if !self.sampled.is_zero() {
            points.push(Point::new(&PROGRAM_SAMPLED, self.since_ns, Value::Float(self.sampled.as_secs_f64())));
        }
        for (program, runs) in &self.counted {
            let point = |metric, value| Point::new(metric, self.since_ns, value).with("program", *program);
            points.push(point(&PROGRAM_TIME, Value::Float(runs.ns as f64 / 1e9)));
            points.push(point(&PROGRAM_RUNS, Value::Int(runs.count)));
        }
        for (program, (missed, _)) in self.missed.iter().filter(|(_, (missed, _))| *missed > 0) {
            points.push(Point::new(&PROGRAM_MISSED, self.since_ns, Value::Int(*missed)).with("program", *program));
        }
        if let Some(cost) = self.governor.cost() {
            let part = |part, share| Point::new(&OVERHEAD, 0, Value::Float(share)).with("part", part);
            points.push(part("agent", cost.agent));
            points.extend(cost.programs.map(|share| part("programs", share)));
        }
        let Some(limit) = self.governor.limit() else { return points };
        points.push(Point::new(&OVERHEAD_LIMIT, 0, Value::Float(limit)));
        let shed = |(step, taken): (Step, bool)| Point::new(&SHED, 0, Value::Int(taken.into())).with("step", step.name());
        points.extend(self.governor.steps().map(shed));
        points
    }
}

fn process_ns() -> u64 {
    facts::clock_ns(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

/// The steps that there are here: what is off anyway cannot be given up.
pub(super) fn steps(running: &Running, dns_names: bool, interval: Duration) -> Vec<Step> {
    let counts = |name: &str| running.signals.iter().any(|(signal, _)| signal.name == name);
    let there = |step: &Step| match step {
        Step::DnsNames => dns_names && counts("dns"),
        Step::Bursts => counts("cpu"),
        Step::Histograms => true,
        Step::Drops => counts("drops"),
        Step::Collections => interval <= LONGEST_TO_DOUBLE,
    };
    Step::ALL.into_iter().filter(there).collect()
}
