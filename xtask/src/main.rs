//! podmeter's development commands: `cargo xtask --help` lists them.
//!
//! Each is one file. They need a Linux machine with git and a stable Rust; `setup`, which the others start with, brings the rest.

mod build;
mod command;
mod docs;
mod image;
mod lint;
mod progress;
mod setup;
mod tally;
mod test;
mod tidy;
mod vm;
mod workspace;

use std::fs;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::setup::Purpose;
use crate::test::Suite;
use crate::workspace::Workspace;

/// podmeter's development commands. Each installs what it lacks first; what installers print is in target/setup.log.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

const EXAMPLES: &str = "\
Often used:
  cargo xtask run -- --once              one table of what the cgroups of this machine use
  cargo xtask tidy                       the house rules, in a second
  cargo xtask test unit                  before a commit
  cargo xtask test vm --kernel 6.1       one kernel";

/// In the order in which a new developer meets them.
#[derive(Subcommand)]
enum Task {
    /// Build quickly and show what the containers of this machine use (`podmeter top`), as root.
    Run {
        /// Run the release build, as `cargo xtask build` makes it.
        #[arg(long)]
        release: bool,
        /// Arguments for `podmeter top`, after `--`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Show podmeter beside pod-shaped cgroups with known loads, as root.
    Demo {
        /// Arguments for the demonstration, after `--`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Check the code, build, and run every test. The last line has the totals.
    Test {
        /// Only one kind: `unit` needs nothing but a compiler, `host` uses this machine's kernel, `vm` Debian's kernels.
        #[arg(value_enum, default_value_t = Suite::All)]
        suite: Suite,
        #[command(flatten)]
        guests: vm::Options,
    },
    /// Check the code: format, house rules, dependencies, clippy for both sides, generated documents.
    Lint,
    /// Check the house rules that neither rustc nor clippy knows: layers, circles, words, links, sizes.
    Tidy,
    /// Write what is generated: METRICS.md, rules and dashboards in deploy/, the stages in ARCHITECTURE.md, the table of kernels.
    Docs {
        /// Change nothing; fail when a document is stale.
        #[arg(long)]
        check: bool,
    },
    /// Measure podmeter's own cost against its targets, on this machine, as root.
    Bench {
        /// Write what was measured into docs/cost.md, with commit, date and machine.
        #[arg(long)]
        write: bool,
        /// Arguments for the benchmark, after `--`: `--only <prefix>`, `--quick`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Build podmeter in release.
    Build {
        /// Link everything in: one file that runs on any Linux of this architecture, in images and in VMs.
        #[arg(long = "static")]
        statically: bool,
    },
    /// Build podmeter statically and a container image of it; without a program that builds images, only the image's content.
    Image {
        /// The image's name.
        #[arg(long, default_value = concat!("podmeter:", env!("CARGO_PKG_VERSION")))]
        tag: String,
    },
    /// Boot another kernel in a virtual machine.
    Vm {
        #[command(subcommand)]
        action: Vm,
    },
    /// Only install what building, running and testing need; nothing when all is there.
    Setup {
        /// The purpose of the tools.
        #[arg(long = "for", value_enum, default_value_t = Purpose::Test)]
        purpose: Purpose,
    },
    /// What continuous integration runs: `test`.
    Ci,
}

#[derive(Subcommand)]
enum Vm {
    /// Boot a kernel into a shell on this terminal, with podmeter and the tests at hand.
    Shell {
        /// The kernel to boot.
        #[arg(long, value_parser = vm::Kernel::parse)]
        kernel: &'static vm::Kernel,
        /// What executes the guest's instructions.
        #[arg(long, value_enum, default_value_t)]
        accel: vm::Accel,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    match task {
        Task::Setup { purpose } => {
            setup::run(&workspace, purpose)?;
            println!("everything that `{purpose}` needs is installed");
        }
        Task::Build { statically } => {
            setup::run(&workspace, Purpose::Build)?;
            build::announce(&build::podmeter(&workspace, statically)?)?;
        }
        Task::Image { tag } => {
            setup::run(&workspace, Purpose::Build)?;
            image::run(&workspace, &tag)?;
        }
        Task::Run { release, arguments } => {
            setup::run(&workspace, Purpose::Build)?;
            return build::top(&workspace, release, &arguments);
        }
        Task::Test { suite, guests } => return Ok(test::run(&workspace, suite, &guests)),
        Task::Ci => return Ok(test::run(&workspace, Suite::All, &vm::Options::default())),
        Task::Vm { action: Vm::Shell { kernel, accel } } => {
            setup::run(&workspace, Purpose::Vm)?;
            return vm::shell(&workspace, kernel, accel);
        }
        Task::Lint => {
            setup::run(&workspace, Purpose::Test)?;
            build::podmeter(&workspace, true)?;
            return Ok(lint::run(&workspace));
        }
        Task::Tidy => tidy::run(&workspace)?,
        Task::Docs { check } => {
            setup::run(&workspace, Purpose::Build)?;
            let podmeter = build::unoptimised(&workspace)?;
            if check { docs::check(&workspace, &podmeter)? } else { docs::write(&workspace, &podmeter)? }
        }
        Task::Bench { write, arguments } => return bench(&workspace, write, &arguments),
        Task::Demo { arguments } => return test::measure(&workspace, "demo", &arguments),
    }
    Ok(ExitCode::SUCCESS)
}

/// Measures, and writes what was measured where that is wanted. A part that could not be measured keeps its earlier rows.
fn bench(workspace: &Workspace, write: bool, arguments: &[String]) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(!write || !arguments.iter().any(|argument| argument == "--quick"), "what --quick measures is not written");
    let report = docs::cost::report(workspace);
    if write && report.exists() {
        fs::remove_file(&report)?;
    }
    let code = test::measure(workspace, "bench", arguments)?;
    if write && report.exists() {
        docs::cost::write(workspace)?;
    }
    Ok(code)
}
