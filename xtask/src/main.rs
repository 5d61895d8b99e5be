//! podmeter's development commands: `cargo xtask setup | build | image | run | test | vm | lint | docs | bench | demo | ci`.
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

/// podmeter's development commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building, running and testing need; does nothing when all is there.
    Setup {
        /// What the tools are wanted for.
        #[arg(long = "for", value_enum, default_value_t = Purpose::Test)]
        purpose: Purpose,
    },
    /// Build podmeter in release.
    Build {
        /// Link everything in: one file that runs on any Linux of this architecture, in images and in VMs.
        #[arg(long = "static")]
        statically: bool,
    },
    /// Build podmeter statically and a container image of it; without a program that builds images, only what it is built from.
    Image {
        /// The image's name.
        #[arg(long, default_value = concat!("podmeter:", env!("CARGO_PKG_VERSION")))]
        tag: String,
    },
    /// Set up, build and show what the containers of this machine use (`podmeter top`), as root.
    Run {
        /// Arguments for `podmeter top`, after `--`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Set up, check the code, build and run every test. The last line has the totals.
    Test {
        /// Only the tests that need nothing but a compiler (unit), or only those that use this machine's kernel (host) or
        /// those of Debian's (vm).
        #[arg(value_enum, default_value_t = Suite::All)]
        suite: Suite,
        #[command(flatten)]
        guests: vm::Options,
    },
    /// Virtual machines with other kernels.
    Vm {
        #[command(subcommand)]
        action: Vm,
    },
    /// Check the code: format, clippy for both sides, the house rules, dependencies, generated documents.
    Lint,
    /// Check the house rules that neither rustc nor clippy knows.
    Tidy,
    /// Write METRICS.md anew from the registry of metrics, and README's table of kernels from the last `test vm`.
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
        /// Arguments for the benchmark, after `--`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Run podmeter beside known loads and show what it says about them, as root.
    Demo {
        /// Arguments for the demonstration, after `--`.
        #[arg(last = true)]
        arguments: Vec<String>,
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
            println!("All that `{purpose}` needs is there.");
        }
        Task::Build { statically } => {
            setup::run(&workspace, Purpose::Build)?;
            build::announce(&build::podmeter(&workspace, statically)?)?;
        }
        Task::Image { tag } => {
            setup::run(&workspace, Purpose::Build)?;
            image::run(&workspace, &tag)?;
        }
        Task::Run { arguments } => {
            setup::run(&workspace, Purpose::Build)?;
            return build::top(&workspace, &arguments);
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
            let podmeter = build::podmeter(&workspace, true)?;
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
