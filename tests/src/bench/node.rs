//! What podmeter costs on something that looks like a node: many containers, cold caches, all programs of an agent that works.
//!
//! The agent runs all the time, at its defaults, and exports to a collector on this machine. In every other slice empty programs are
//! attached beside its own, on the same hooks, under the same load: what they take is what every program costs, with the
//! kernel's statistics. The agent's programs are read in the slices without them.

mod load;
pub mod pair;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use self::load::NodeLoad;
use super::{
    Effort, Stop,
    agent::cpu_time,
    empty::{Empties, HOOKS, Hook},
    programs::{Counted, Held, KERNEL_NAME_LEN, Runs, count_run_time},
    report::{Figure, Spread},
};
use crate::{agent::Agent, collector::Collector};

/// ns per event, then all programs together and the agent, and how busy the node was.
pub const NODE: [&str; 11] = [
    "node.programs_cpu_percent",
    "node.programs_cpu_percent_with_statistics",
    "node.agent_cpu_percent",
    "node.switch_ns_above_empty",
    "node.switch_ns_empty",
    "node.packet_ns_above_empty_sent",
    "node.packet_ns_above_empty_received",
    "node.packet_ns_empty_sent",
    "node.packet_ns_empty_received",
    "node.switches_per_second",
    "node.packets_per_second",
];

/// After attaching, until what is new is in the caches as far as it stays there.
const SETTLE: Duration = Duration::from_millis(50);

const SLICE: Duration = Duration::from_millis(500);

/// Until all pairs do their rounds at an even pace.
const WARM_UP: Duration = Duration::from_secs(2);

/// ns per run of the empty programs in a slice in which they are attached, in the order of [`Hook`]; `None` where none ran.
fn measure(empties: &mut Empties, stop: &Stop) -> Result<[Option<f64>; HOOKS]> {
    empties.attach()?;
    stop.pause(SETTLE)?;
    let before = empties.runs()?;
    stop.pause(SLICE)?;
    let after = empties.runs()?;
    empties.detach()?;
    stop.pause(SETTLE)?;
    Ok(std::array::from_fn(|hook| after[hook].since(before[hook]).ns_per_run()))
}

/// What the agent's programs did in a slice.
struct Slice {
    took: Duration,
    programs: Vec<Counted>,
}

impl Slice {
    fn measure(held: &Held, stop: &Stop) -> Result<Self> {
        let (before, began) = (held.each(), Instant::now());
        stop.pause(SLICE)?;
        let (mut programs, took) = (held.each(), began.elapsed());
        for program in &mut programs {
            let earlier = before.iter().find(|earlier| earlier.id == program.id);
            program.runs = program.runs.since(earlier.map_or(Runs::default(), |earlier| earlier.runs));
        }
        Ok(Self { took, programs })
    }

    fn runs_of(&self, name: &str) -> Result<Runs> {
        let name = &name[..name.len().min(KERNEL_NAME_LEN)];
        let runs = self.programs.iter().find(|program| program.name == name).map(|program| program.runs);
        runs.with_context(|| format!("the agent holds no program {name}: is its signal on? See `podmeter check`"))
    }

    fn ns_of(&self, name: &str) -> Result<f64> {
        self.runs_of(name)?.ns_per_run().with_context(|| format!("{name} did not run for {:?}", self.took))
    }

    fn per_second(&self, name: &str) -> Result<f64> {
        Ok(self.runs_of(name)?.count as f64 / self.took.as_secs_f64())
    }

    /// All programs, in % of one core, less so many ns for each run on each hook.
    fn percent(&self, empty: [f64; HOOKS]) -> f64 {
        let ns = |program: &Counted| program.runs.ns as f64 - program.runs.count as f64 * empty[Hook::of(program) as usize];
        self.programs.iter().map(ns).sum::<f64>() / self.took.as_nanos() as f64 * 100.0
    }
}

/// An agent at its defaults on the node, for so many of its intervals.
pub fn figures(effort: Effort, stop: &Stop) -> Result<Vec<Figure>> {
    let mut empties = Empties::load()?;
    let mut load = NodeLoad::start(stop)?;
    stop.pause(WARM_UP)?;
    let _stats = count_run_time()?;
    let alone = measure(&mut empties, stop)?;

    let collector = Collector::start()?;
    let mut agent = Agent::spawn(json!({
        "interval": "15s",
        "export": {
            "exporter": "otlp", "endpoint": collector.grpc_endpoint(), "protocol": "grpc", "compression": "gzip",
            "request_bytes": "2MiB",
        },
    }))?;
    stop.pause_until("the first export", Duration::from_secs(30), || {
        ensure!(agent.alive()?, "the agent ended:\n{}", agent.stderr());
        Ok(collector.export_count() > 0)
    })?;
    let held = Held::by(agent.pid())?;
    let (mut empty, mut slices) = ([const { Vec::new() }; HOOKS], Vec::new());
    let (first, began, used) = (collector.export_count(), Instant::now(), cpu_time(agent.pid())?);
    while collector.export_count() < first + effort.pick(1, 3) {
        slices.push(Slice::measure(&held, stop)?);
        for (all, one) in empty.iter_mut().zip(measure(&mut empties, stop)?) {
            all.extend(one);
        }
        load.check()?;
        ensure!(agent.alive()?, "the agent ended:\n{}", agent.stderr());
        ensure!(began.elapsed() < Duration::from_secs(120), "{} exports in two minutes", collector.export_count());
    }
    let agent_percent = (cpu_time(agent.pid())? - used).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    drop(load);
    agent.stop()?;

    let median = |values: &Vec<f64>| Spread::of(values.clone()).map_or(0.0, |spread| spread.median);
    let medians: [f64; HOOKS] = std::array::from_fn(|hook| median(&empty[hook]));
    show(&slices, medians, alone);
    let each = |of: &dyn Fn(&Slice) -> Result<f64>| slices.iter().map(of).collect::<Result<Vec<f64>>>();
    let above = |program, hook: Hook| each(&|slice| Ok(slice.ns_of(program)? - medians[hook as usize]));
    let (switch, sent, received) = ("cpu_on_switch", "network_on_egress", "network_on_ingress");
    let [
        all,
        all_with,
        own,
        switch_above,
        switch_empty,
        sent_above,
        received_above,
        sent_empty,
        received_empty,
        switches,
        packets,
    ] = NODE;
    let [empty_switch, empty_sent, empty_received, ..] = empty;
    Ok(vec![
        Figure::of(all, "%", Some(0.8), each(&|slice| Ok(slice.percent(medians)))?)?,
        Figure::of(all_with, "%", None, each(&|slice| Ok(slice.percent([0.0; HOOKS])))?)?,
        Figure::once(own, "%", None, agent_percent),
        Figure::of(switch_above, "ns", Some(110.0), above(switch, Hook::Switch)?)?,
        Figure::of(switch_empty, "ns", None, empty_switch)?,
        Figure::of(sent_above, "ns", Some(200.0), above(sent, Hook::Sent)?)?,
        Figure::of(received_above, "ns", Some(150.0), above(received, Hook::Received)?)?,
        Figure::of(sent_empty, "ns", None, empty_sent)?,
        Figure::of(received_empty, "ns", None, empty_received)?,
        Figure::of(switches, "1/s", None, each(&|slice| slice.per_second(switch))?)?,
        Figure::of(packets, "1/s", None, each(&|slice| Ok((slice.per_second(sent)? + slice.per_second(received)?) / 2.0))?)?,
    ])
}

/// Where the time goes, by program, on standard error.
fn show(slices: &[Slice], empty: [f64; HOOKS], alone: [Option<f64>; HOOKS]) {
    let seconds: f64 = slices.iter().map(|slice| slice.took.as_secs_f64()).sum();
    let mut programs: Vec<Counted> = slices.first().map(|slice| slice.programs.clone()).unwrap_or_default();
    for program in &mut programs {
        let same = slices.iter().flat_map(|slice| &slice.programs).filter(|other| other.id == program.id);
        program.runs = same.fold(Runs::default(), |sum, one| sum.and(one.runs));
    }
    programs.retain(|program| program.runs.count > 0);
    programs.sort_by_key(|program| std::cmp::Reverse(program.runs.ns));
    eprintln!("{:<16} {:>10} {:>8} {:>12} {:>8}", "program", "runs/s", "ns/run", "above empty", "% core");
    for program in &programs {
        let (each, hook) = (program.runs.ns_per_run().unwrap_or(0.0), Hook::of(program));
        let (rate, percent) = (program.runs.count as f64 / seconds, program.runs.ns as f64 / seconds / 1e7);
        eprintln!("{:<16} {rate:>10.1} {each:>8.0} {:>12.0} {percent:>8.4}", program.name, each - empty[hook as usize]);
    }
    let alone = alone.map(|ns| ns.map_or("none ran".to_owned(), |ns| format!("{ns:.0}")));
    eprintln!(
        "empty, ns/run on switch, sent, received, sock_ops, kfree_skb: {:.0?} beside the agent's programs; {alone:?} without an agent",
        empty
    );
}
