//! What the demo's processes do: this program, started again inside a cgroup.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

/// The first argument that makes this program a load.
pub const COMMAND: &str = "load";

/// How a process uses CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Load {
    /// 2 ms of every 10 ms: a fifth of a CPU, evenly.
    Steady,
    /// 30 ms of every 300 ms: a tenth of a CPU, in bursts.
    Bursty,
    /// All it can get.
    Spin,
}

impl Load {
    /// Time at work and time asleep, in turn.
    fn rhythm(self) -> (Duration, Duration) {
        let (work, rest) = match self {
            Load::Steady => (2, 8),
            Load::Bursty => (30, 270),
            Load::Spin => (100, 0),
        };
        (Duration::from_millis(work), Duration::from_millis(rest))
    }
}

/// The arguments of a load, for [`COMMAND`].
#[derive(Debug, Parser)]
#[command(name = "demo load")]
pub struct Order {
    /// What to do.
    #[arg(value_enum)]
    pub load: Load,
    /// The cgroup to do it in.
    #[arg(long)]
    pub cgroup: PathBuf,
    /// End with this process.
    #[arg(long)]
    pub parent: i32,
    /// End after this many milliseconds in any case.
    #[arg(long)]
    pub millis: u64,
    /// The only CPU to run on.
    #[arg(long)]
    pub cpu: Option<usize>,
}

impl Order {
    /// The arguments that [`Order::parse_from`] reads, after the program's name.
    pub fn arguments(&self) -> Vec<String> {
        let load = self.load.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        let mut arguments = vec![COMMAND.to_owned(), load];
        let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        option("--cgroup", self.cgroup.display().to_string());
        option("--parent", self.parent.to_string());
        option("--millis", self.millis.to_string());
        if let Some(cpu) = self.cpu {
            option("--cpu", cpu.to_string());
        }
        arguments
    }

    /// Does it, until the time is over or the parent dies.
    ///
    /// # Errors
    /// A cgroup that cannot be entered, a CPU that is not there.
    pub fn run(&self) -> Result<()> {
        let end = Instant::now() + Duration::from_millis(self.millis);
        prctl::set_pdeathsig(Signal::SIGKILL).context("could not ask to be killed with the demo")?;
        if getppid() != Pid::from_raw(self.parent) {
            // It died before its id could be read.
            return Ok(());
        }
        let procs = self.cgroup.join("cgroup.procs");
        std::fs::write(&procs, "0").with_context(|| format!("could not enter the cgroup by {}", procs.display()))?;
        if let Some(cpu) = self.cpu {
            let mut set = CpuSet::new();
            set.set(cpu)
                .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
                .with_context(|| format!("could not stay on CPU {cpu}"))?;
        }
        let (work, rest) = self.load.rhythm();
        while Instant::now() < end {
            let until = (Instant::now() + work).min(end);
            while Instant::now() < until {
                std::hint::spin_loop();
            }
            sleep(rest);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_understands_the_arguments_it_is_started_with() {
        for load in [Load::Steady, Load::Bursty, Load::Spin] {
            let order = Order { load, cgroup: "/a b/c".into(), parent: 7, millis: 300, cpu: (load == Load::Spin).then_some(1) };
            // The command itself takes the place of the program's name.
            let read = Order::try_parse_from(order.arguments()).expect("its own arguments");
            assert_eq!(format!("{read:?}"), format!("{order:?}"));
        }
    }
}
