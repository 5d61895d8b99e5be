//! Programs that see packets: a signal's pair, as a real agent left it, against a pair that does nothing.
//!
//! Both are attached in turn to the cgroup of the load alone, so that no packet of anybody else's is in the mean.

use std::{fs::File, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{
    CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, ProgramInfo, cgroup_skb::CgroupSkbLinkId, links::PinnedLink,
};
use serde_json::{Value as Json, json};

use super::{
    Stop,
    programs::{Held, Pins, Runs, count_run_time, load_empty},
};
use crate::{agent::Agent, cgroup::Cgroup};

/// After attaching, until the program and its maps are in the caches.
const SETTLE: Duration = Duration::from_millis(10);

/// Signals with programs of their own.
const SIGNALS: [&str; 6] = ["cpu", "network", "dns", "tcp", "drops", "disk"];

/// The two ways of a packet, by the ends of the programs' names.
const WAYS: [(&str, CgroupSkbAttachType); 2] =
    [("egress", CgroupSkbAttachType::Egress), ("ingress", CgroupSkbAttachType::Ingress)];

/// One program and where it is attached.
struct OnPacket {
    program: CgroupSkb,
    way: CgroupSkbAttachType,
    link: Option<CgroupSkbLinkId>,
}

impl OnPacket {
    fn new(info: ProgramInfo, name: String, way: CgroupSkbAttachType) -> Result<Self> {
        let failed = format!("could not take over {name}");
        let program = CgroupSkb::from_program_info(info, name.into(), Some(way)).context(failed)?;
        Ok(Self { program, way, link: None })
    }

    fn runs(&self) -> Result<Runs> {
        Ok(Runs::of(&self.program.info().context("could not ask for a program's run time")?))
    }

    fn attach(&mut self, cgroup: &File) -> Result<()> {
        let link = self.program.attach(cgroup, self.way, CgroupAttachMode::Single);
        self.link = Some(link.context("could not attach a program to a cgroup")?);
        Ok(())
    }

    fn detach(&mut self) -> Result<()> {
        match self.link.take() {
            Some(link) => self.program.detach(link).context("could not detach a program from a cgroup"),
            None => Ok(()),
        }
    }
}

/// ns per run while attached, of what is sent and of what is received.
type PerWay = [f64; 2];

/// A program for each way.
pub(super) struct Pair([OnPacket; 2]);

impl Pair {
    /// The programs that do nothing.
    pub(super) fn empty() -> Result<Self> {
        let mut ebpf = load_empty()?;
        let mut load = |(end, way): (&str, _)| {
            let name = format!("bench_empty_on_{end}");
            let program = ebpf.program_mut(&name).with_context(|| format!("the bench object has no program {name}"))?;
            let program: &mut CgroupSkb = program.try_into()?;
            program.load().with_context(|| format!("could not load {name}"))?;
            OnPacket::new(program.info()?, name, way)
        };
        Ok(Self([load(WAYS[0])?, load(WAYS[1])?]))
    }

    pub(super) fn attach(&mut self, cgroup: &File) -> Result<()> {
        self.0.iter_mut().try_for_each(|program| program.attach(cgroup))
    }

    pub(super) fn detach(&mut self) -> Result<()> {
        self.0.iter_mut().try_for_each(OnPacket::detach)
    }

    /// Of what is sent and of what is received.
    pub(super) fn runs(&self) -> Result<[Runs; 2]> {
        Ok([self.0[0].runs()?, self.0[1].runs()?])
    }

    fn measure(&mut self, cgroup: &File, slice: Duration, stop: &Stop) -> Result<PerWay> {
        self.attach(cgroup)?;
        stop.pause(SETTLE)?;
        let before = self.runs()?;
        stop.pause(slice)?;
        let after = self.runs()?;
        self.detach()?;
        let per_run = |way: usize| {
            let runs = after[way].since(before[way]);
            ensure!(runs.count > 0, "no packet on {} for {slice:?}", WAYS[way].0);
            Ok(runs.ns as f64 / runs.count as f64)
        };
        Ok([per_run(0)?, per_run(1)?])
    }
}

/// What one round measured.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// ns per packet sent and received.
    pub ours: PerWay,
    /// The same of the programs that do nothing.
    pub empty: PerWay,
}

impl Round {
    /// ns per packet sent and received, above the programs that do nothing.
    pub fn above(&self) -> PerWay {
        [self.ours[0] - self.empty[0], self.ours[1] - self.empty[1]]
    }
}

/// The two pairs that take turns.
pub struct Contest {
    ours: Pair,
    empty: Pair,
    stop: Stop,
    _pins: Pins,
}

impl Contest {
    /// Has an agent with this signal alone load and pin its programs, ends it, and takes them off the root of cgroup2.
    pub fn new(signal: &str, stop: &Stop) -> Result<Self> {
        let pins = Pins::new()?;
        let agent = Agent::spawn(json!({
            "interval": "300s",
            "signals": only(signal),
            "bpf": {"pin": true, "directory": pins.directory()},
            "export": {"exporter": "none"},
        }))?;
        agent.wait_for_log("podmeter runs", Duration::from_secs(20))?;
        let held = Held::by(agent.pid())?;
        let take = |(end, way): (&str, _)| {
            let name = format!("{signal}_on_{end}");
            OnPacket::new(held.program(&name)?, name, way)
        };
        let ours = Pair([take(WAYS[0])?, take(WAYS[1])?]);
        agent.stop()?;
        for (end, _) in WAYS {
            let link =
                PinnedLink::from_pin(pins.link(&format!("{signal}_on_{end}"))?).context("could not open the agent's link")?;
            drop(link.unpin().context("could not remove the agent's link")?);
        }
        Ok(Self { ours, empty: Pair::empty()?, stop: stop.clone(), _pins: pins })
    }

    /// Attaches both in turn to the cgroup of a load that runs.
    pub fn compare(&mut self, cgroup: &Cgroup, rounds: usize, slice: Duration) -> Result<Vec<Round>> {
        let _stats = count_run_time()?;
        let cgroup = File::open(cgroup.dir()).context("could not open the load's cgroup")?;
        let mut all = Vec::new();
        for round in 0..rounds {
            // Who goes first alternates: what changes steadily meets both.
            let (ours, empty) = if round % 2 == 0 {
                let empty = self.empty.measure(&cgroup, slice, &self.stop)?;
                (self.ours.measure(&cgroup, slice, &self.stop)?, empty)
            } else {
                let ours = self.ours.measure(&cgroup, slice, &self.stop)?;
                (ours, self.empty.measure(&cgroup, slice, &self.stop)?)
            };
            all.push(Round { ours, empty });
        }
        Ok(all)
    }
}

/// A configuration of `signals` with the programs of this one alone.
fn only(signal: &str) -> Json {
    SIGNALS.iter().filter(|other| **other != signal).map(|other| ((*other).to_owned(), json!(false))).collect()
}
