//! `cargo xtask bench`: what podmeter costs on this machine, against its targets. Needs root.
//!
//! `PODMETER_BIN` is the agent under test. Prints a table and writes `bench/report.json` to cargo's target directory. Everything
//! that is made here is removed at the end, also after Ctrl-C. A missed target is reported, and is no error: on a busy machine it may be
//! the machine's.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use podmeter_tests::{
    agent::binary,
    bench::{
        Effort, Stop,
        agent::{self, Node},
        disk, dns, journal,
        kubernetes::{self, Cluster},
        memory, network,
        node::{self, pair},
        pull,
        report::{self, Figure},
        soak,
        switches::{self, Contest},
    },
};

/// Measures what podmeter costs.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    /// Measure only what has a name that starts so, as in `cpu` or `agent.cpu_percent`. `soak`, which takes an hour, is
    /// measured only so.
    #[arg(long, value_name = "PREFIX")]
    only: Option<String>,
    /// Measure less: to see that everything works, not to rely on.
    #[arg(long)]
    quick: bool,
    /// What the benchmark starts itself as.
    #[command(subcommand)]
    part: Option<Part>,
}

/// A process of the load of `node`.
#[derive(Debug, Subcommand)]
enum Part {
    #[command(name = pair::CLIENT, hide = true)]
    Client { delay_us: u64 },
    #[command(name = pair::SERVER, hide = true)]
    Server,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.part {
        Some(Part::Client { delay_us }) => pair::client(Duration::from_micros(delay_us)).map(|()| true),
        Some(Part::Server) => pair::server().map(|()| true),
        None => run(&arguments),
    };
    match done {
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

    session.node()?;
    session.switches()?;
    session.packets()?;
    session.agent()?;
    session.kubernetes()?;
    session.memory()?;
    session.soak()?;

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

    /// What all of it costs on a node.
    fn node(&mut self) -> Result<()> {
        let stop = self.stop.clone();
        self.part(&node::NODE, |effort| node::figures(effort, &stop))
    }

    /// What the programs cost.
    fn switches(&mut self) -> Result<()> {
        let parts = [&switches::IN_CACHE[..], &switches::AMONG_PODS, &switches::SLOWDOWN];
        if !parts.iter().any(|names| self.wants(names)) {
            return Ok(());
        }
        let mut contest = Contest::new(&self.stop)?;
        self.part(&switches::IN_CACHE, |effort| contest.in_cache(effort))?;
        self.part(&switches::AMONG_PODS, |effort| contest.among_pods(effort))?;
        self.part(&switches::SLOWDOWN, |effort| contest.slowdown(effort))
    }

    /// Whether memory grows: an hour, so only where it is requested.
    fn soak(&mut self) -> Result<()> {
        if self.only.is_empty() {
            return Ok(());
        }
        let stop = self.stop.clone();
        self.part(&soak::GROWTH, |effort| soak::growth(effort, &stop))
    }

    /// What reading memory costs.
    fn memory(&mut self) -> Result<()> {
        if self.wants(&memory::PASS) && !podmeter_tests::cgroup::has_controllers(&memory::PASS.join(", "), &["memory"])? {
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
        self.part(&dns::PER_PAIR, |effort| dns::per_pair(effort, &stop))?;
        self.part(&disk::PER_REQUEST, |effort| disk::per_request(effort, &stop))
    }

    /// What the agent costs.
    fn agent(&mut self) -> Result<()> {
        self.part(&agent::MAPS, |_| agent::maps())?;
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

    /// What the agent costs where it follows a node's pods, and what its journal and `/metrics` add to that.
    fn kubernetes(&mut self) -> Result<()> {
        let stop = self.stop.clone();
        self.part(&journal::SMALL, |effort| journal::small(effort, &stop))?;
        let parts = [&kubernetes::WATCHING[..], &kubernetes::LABELLED, &journal::FULL, &pull::MEMORY];
        if !parts.iter().any(|names| self.wants(names)) {
            return Ok(());
        }
        let cluster = Cluster::start(&self.stop).context("could not make the pods to follow")?;
        self.part(&kubernetes::WATCHING, |effort| cluster.watching(effort))?;
        self.part(&kubernetes::LABELLED, |effort| cluster.labelled(effort))?;
        self.part(&journal::FULL, |effort| journal::full(effort, &cluster))?;
        self.part(&pull::MEMORY, |effort| pull::memory(effort, &cluster))
    }
}
