//! What `cpu_on_switch` costs at each switch, above a program that does nothing.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{
    Effort, Stop,
    pods::Pods,
    programs::{CpuSignal, OnTracepoint, count_run_time},
    report::Figure,
};
use crate::{
    cgroup::Cgroup,
    load::{self, Process},
    truth::last_cpu,
};

/// In cache: two processes that wake each other on one CPU.
pub const IN_CACHE: [&str; 3] = ["cpu.switch_ns_above_empty", "cpu.switch_ns", "cpu.switch_ns_empty"];

/// On a node: many cgroups, cold caches.
pub const AMONG_PODS: [&str; 4] = [
    "cpu.switch_ns_above_empty_100_cgroups",
    "cpu.switch_ns_100_cgroups",
    "cpu.switch_ns_empty_100_cgroups",
    "cpu.switches_per_second_100_cgroups",
];

/// What a load that does nothing but switch loses.
pub const SLOWDOWN: [&str; 3] = ["cpu.slowdown_percent_above_empty", "cpu.slowdown_percent", "cpu.slowdown_percent_empty"];

/// After attaching, until the program and its maps are in the caches.
const SETTLE: Duration = Duration::from_millis(10);

/// Added to how long a load lives: it is killed when it is no longer wanted.
const MARGIN: Duration = Duration::from_secs(60);

/// Shape of the load on a node.
const NODE_PODS: usize = 100;
const PROCESSES_PER_POD: usize = 2;

/// Each waking is two switches on a mostly idle CPU: 200 processes that wake every 13.3 ms switch 30 000 times a second.
const NODE_PERIOD: Duration = Duration::from_micros(13_333);

/// The two programs that take turns.
pub struct Contest {
    empty: OnTracepoint,
    cpu: CpuSignal,
    stop: Stop,
}

impl Contest {
    /// Brings both into the kernel, detached.
    pub fn new(stop: &Stop) -> Result<Self> {
        Ok(Self { empty: OnTracepoint::empty_on_switch()?, cpu: CpuSignal::take_over(stop)?, stop: stop.clone() })
    }

    /// ns per switch by the kernel's own statistics, in cache.
    pub fn in_cache(&mut self, effort: Effort) -> Result<Vec<Figure>> {
        let (rounds, slice) = (effort.pick(4, 16), Duration::from_millis(200));
        let _ping_pong = PingPong::start(2 * slice * rounds as u32)?;
        self.stop.pause(slice)?;
        let compared = self.compare(rounds, slice)?;
        let [above, ours, empty] = IN_CACHE;
        Ok(vec![
            Figure::of(above, "ns", Some(20.0), compared.above)?,
            Figure::of(ours, "ns", None, compared.ours)?,
            Figure::of(empty, "ns", None, compared.empty)?,
        ])
    }

    /// ns per switch by the kernel's own statistics, with the caches of a node.
    pub fn among_pods(&mut self, effort: Effort) -> Result<Vec<Figure>> {
        let (rounds, slice) = (effort.pick(3, 12), Duration::from_millis(500));
        let mut pods = Pods::new(NODE_PODS, 1)?;
        pods.start(PROCESSES_PER_POD, Duration::ZERO, NODE_PERIOD, 2 * slice * rounds as u32 + MARGIN)?;
        self.stop.pause(Duration::from_secs(1))?;
        let compared = self.compare(rounds, slice)?;
        let [above, ours, empty, rate] = AMONG_PODS;
        Ok(vec![
            Figure::of(above, "ns", Some(60.0), compared.above)?,
            Figure::of(ours, "ns", None, compared.ours)?,
            Figure::of(empty, "ns", None, compared.empty)?,
            Figure::of(rate, "1/s", None, compared.rate)?,
        ])
    }

    fn compare(&mut self, rounds: usize, slice: Duration) -> Result<Compared> {
        let _stats = count_run_time()?;
        let mut compared = Compared::default();
        for round in 0..rounds {
            // Who goes first alternates: what changes steadily meets both.
            let ((empty, empty_rate), (ours, our_rate)) = if round % 2 == 0 {
                let empty = measure(&mut self.empty, slice, &self.stop)?;
                (empty, measure(&mut self.cpu.on_switch, slice, &self.stop)?)
            } else {
                let ours = measure(&mut self.cpu.on_switch, slice, &self.stop)?;
                (measure(&mut self.empty, slice, &self.stop)?, ours)
            };
            compared.above.push(ours - empty);
            compared.empty.push(empty);
            compared.ours.push(ours);
            compared.rate.extend([empty_rate, our_rate]);
        }
        Ok(compared)
    }

    /// What a saturated ping-pong loses to `cpu_on_switch`, above what it loses to the empty program.
    pub fn slowdown(&mut self, effort: Effort) -> Result<Vec<Figure>> {
        let (rounds, slice) = (effort.pick(10, 80), Duration::from_millis(80));
        let ping_pong = PingPong::start(3 * slice * rounds as u32)?;
        self.stop.pause(slice)?;
        let [mut above, mut by_empty, mut by_ours] = [const { Vec::new() }; 3];
        for round in 0..rounds {
            let mut times = [0.0; 3];
            for turn in 0..3 {
                let which = (round + turn) % 3;
                let program = match which {
                    0 => None,
                    1 => Some(&mut self.empty),
                    _ => Some(&mut self.cpu.on_switch),
                };
                times[which] = ping_pong.ns_per_round(program, slice, &self.stop)?;
            }
            let [none, empty, ours] = times;
            above.push((ours - empty) / none * 100.0);
            by_empty.push((empty - none) / none * 100.0);
            by_ours.push((ours - none) / none * 100.0);
        }
        let [name, ours, empty] = SLOWDOWN;
        Ok(vec![
            Figure::of(name, "points", Some(2.0), above)?,
            Figure::of(ours, "%", None, by_ours)?,
            Figure::of(empty, "%", None, by_empty)?,
        ])
    }
}

#[derive(Default)]
struct Compared {
    above: Vec<f64>,
    empty: Vec<f64>,
    ours: Vec<f64>,
    rate: Vec<f64>,
}

/// ns per run of a program while it is attached, and runs per second.
fn measure(program: &mut OnTracepoint, slice: Duration, stop: &Stop) -> Result<(f64, f64)> {
    program.attach()?;
    stop.pause(SETTLE)?;
    let (before, began) = (program.runs()?, Instant::now());
    stop.pause(slice)?;
    let (runs, took) = (program.runs()?.since(before), began.elapsed());
    program.detach()?;
    ensure!(runs.count > 0, "a program on sched_switch did not run for {took:?}");
    Ok((runs.ns as f64 / runs.count as f64, runs.count as f64 / took.as_secs_f64()))
}

/// Two processes that wake each other in turn on one CPU, and their cgroups.
struct PingPong {
    // Before the cgroups: fields are dropped in order.
    ping: Process,
    pong: Process,
    _cgroups: [Cgroup; 2],
}

impl PingPong {
    fn start(at_least: Duration) -> Result<Self> {
        let cgroups = [Cgroup::new("ping")?, Cgroup::new("pong")?];
        let (ping, pong) = load::ping_pong(&cgroups[0], &cgroups[1], last_cpu()?, at_least + MARGIN)?;
        Ok(Self { ping, pong, _cgroups: cgroups })
    }

    /// ns of CPU time that one round trip of two switches takes, with or without a program.
    ///
    /// The load never sleeps both sides at once, so alone on its CPU this is the time on the clock; what others take of that CPU
    /// is left out. A program on sched_switch runs on the account of the task that is switched in.
    fn ns_per_round(&self, program: Option<&mut OnTracepoint>, slice: Duration, stop: &Stop) -> Result<f64> {
        let on_cpu = || -> Result<u64> { Ok(self.ping.schedstat()?.on_cpu_ns + self.pong.schedstat()?.on_cpu_ns) };
        let during = || -> Result<f64> {
            stop.pause(SETTLE)?;
            let (rounds, ns) = (self.ping.rounds(), on_cpu()?);
            stop.pause(slice)?;
            let (rounds, ns) = (self.ping.rounds() - rounds, on_cpu()? - ns);
            ensure!(rounds > 0, "the ping-pong stood still for {slice:?}");
            Ok(ns as f64 / rounds as f64)
        };
        match program {
            None => during(),
            Some(program) => {
                program.attach()?;
                let measured = during();
                program.detach()?;
                measured
            }
        }
    }
}
