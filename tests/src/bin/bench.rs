//! `cargo xtask bench`: what podmeter costs on this machine, against its targets. Needs root.
//!
//! `PODMETER_BIN` is the agent under test. Prints a table and writes `bench/report.json` to cargo's target directory. Everything
//! that is made here is removed at the end, also after Ctrl-C. A missed target is reported, and is no error: on a busy machine it may be
//! the machine's.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use podmeter_tests::{
    agent::binary,
    bench::{
        Effort, Stop,
        agent::{self, Node},
        dns,
        kubernetes::{self, Cluster},
        memory, network,
        report::{self, Figure},
        switches::{self, Contest},
    },
};

/// Measures what podmeter costs.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    /// Measure only what has a name that starts so, as in `cpu` or `agent.cpu_percent`.
    #[arg(long, value_name = "PREFIX")]
    only: Option<String>,
    /// Measure less: to see that everything works, not to rely on.
    #[arg(long)]
    quick: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that is wanted; `false` when some of it could not be measured.
fn run(arguments: &Arguments) -> Result<bool> {
    ensure!(nix::unistd::geteuid().is_root(), "the benchmark loads programs into the kernel: run it as root");
    let mut session = Session {
        stop: Stop::on_signals()?,
        effort: if arguments.quick { Effort::Quick } else { Effort::Full },
        only: arguments.only.clone().unwrap_or_default(),
        figures: Vec::new(),
        complete: true,
    };
    let report = report::target_directory()?.join("bench");
    println!("{} on {}", binary()?.display(), report::machine()?);

    session.switches()?;
    session.packets()?;
    session.agent()?;
    session.kubernetes()?;
    session.memory()?;

    ensure!(
        !session.figures.is_empty() || !session.complete,
        "nothing that is measured has a name that starts with {}",
        session.only
    );
    println!("\n{}\n\nload average at the end: {}", report::table(&session.figures), report::load_average()?);
    println!("written to {}", report::write(&session.figures, &report)?.display());
    Ok(session.complete)
}

struct Session {
    stop: Stop,
    effort: Effort,
    only: String,
    figures: Vec<Figure>,
    complete: bool,
}

impl Session {
    fn wants(&self, names: &[&str]) -> bool {
        names.iter().any(|name| name.starts_with(&self.only))
    }

    /// Measures one part. When it fails, the others are still measured, unless a signal ended the benchmark.
    fn part(&mut self, names: &[&str], measure: impl FnOnce(Effort) -> Result<Vec<Figure>>) -> Result<()> {
        if !self.wants(names) {
            return Ok(());
        }
        eprintln!("measuring {} …", names.join(", "));
        let measured = measure(self.effort);
        self.stop.check()?;
        match measured {
            Ok(figures) => self.figures.extend(figures.into_iter().filter(|figure| figure.name.starts_with(&self.only))),
            Err(error) => {
                eprintln!("could not measure {}: {error:#}", names.join(", "));
                self.complete = false;
            }
        }
        Ok(())
    }

    /// What the programs cost.
    fn switches(&mut self) -> Result<()> {
        let parts = [&switches::IN_CACHE[..], &switches::AMONG_PODS, &switches::SLOWDOWN, &agent::MAPS];
        if !parts.iter().any(|names| self.wants(names)) {
            return Ok(());
        }
        let mut contest = Contest::new(&self.stop)?;
        let cpus = aya::util::nr_cpus().map_err(|(what, error)| anyhow::anyhow!("could not count CPUs: {what}: {error}"))?;
        self.part(&agent::MAPS, |_| Ok(agent::maps(contest.maps(), cpus)))?;
        self.part(&switches::IN_CACHE, |effort| contest.in_cache(effort))?;
        self.part(&switches::AMONG_PODS, |effort| contest.among_pods(effort))?;
        self.part(&switches::SLOWDOWN, |effort| contest.slowdown(effort))
    }

    /// What reading memory costs.
    fn memory(&mut self) -> Result<()> {
        if self.wants(&memory::PASS) && !podmeter_tests::cgroup::has_controller("memory")? {
            eprintln!("SKIPPED {}: needs the memory controller in the cgroup2 hierarchy", memory::PASS.join(", "));
            return Ok(());
        }
        self.part(&memory::PASS, memory::passes)
    }

    /// What the programs that see packets cost.
    fn packets(&mut self) -> Result<()> {
        let stop = self.stop.clone();
        self.part(&network::MAPS, |_| network::maps())?;
        self.part(&network::PER_PACKET, |effort| network::per_packet(effort, &stop))?;
        self.part(&network::SLOWDOWN, |effort| network::slowdown(effort, &stop))?;
        self.part(&dns::PER_PAIR, |effort| dns::per_pair(effort, &stop))
    }

    /// What the agent costs.
    fn agent(&mut self) -> Result<()> {
        let parts = [&agent::START[..], &agent::BYTES, &agent::EVERY_1_S, &agent::EVERY_15_S];
        if !parts.iter().any(|names| self.wants(names)) {
            return Ok(());
        }
        let node = Node::start(&self.stop).context("could not make the containers to watch")?;
        self.part(&agent::START, |effort| node.starts(effort))?;
        self.part(&agent::BYTES, |_| node.bytes_sent())?;
        self.part(&agent::EVERY_1_S, |effort| node.every_1_s(effort))?;
        self.part(&agent::EVERY_15_S, |effort| node.every_15_s(effort))
    }

    /// What the agent costs where it follows a node's pods.
    fn kubernetes(&mut self) -> Result<()> {
        let parts = [&kubernetes::WATCHING[..], &kubernetes::LABELLED];
        if !parts.iter().any(|names| self.wants(names)) {
            return Ok(());
        }
        let cluster = Cluster::start(&self.stop).context("could not make the pods to follow")?;
        self.part(&kubernetes::WATCHING, |effort| cluster.watching(effort))?;
        self.part(&kubernetes::LABELLED, |effort| cluster.labelled(effort))
    }
}
