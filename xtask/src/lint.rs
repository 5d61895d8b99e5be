//! `cargo xtask lint`: every check of the code that is not a test.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use bpf_toolchain::Toolchain;

use crate::workspace::Workspace;
use crate::{build, command, docs, setup, tidy};

/// One check.
pub(crate) struct Check {
    pub(crate) name: &'static str,
    /// Whether it runs podmeter, and so needs the static release build.
    pub(crate) needs_podmeter: bool,
    pub(crate) run: fn(&Workspace) -> Result<()>,
}

/// Every check, the quick ones first.
pub(crate) const CHECKS: &[Check] = &[
    Check { name: "format", needs_podmeter: false, run: format },
    Check { name: "tidy", needs_podmeter: false, run: tidy::run },
    Check { name: "dependencies", needs_podmeter: false, run: dependencies },
    Check { name: "clippy", needs_podmeter: false, run: clippy },
    Check { name: "clippy of the kernel side", needs_podmeter: false, run: clippy_kernel_side },
    Check { name: "documents", needs_podmeter: true, run: documents },
];

/// Runs every check; the later ones also when an earlier one fails.
pub(crate) fn run(workspace: &Workspace) -> ExitCode {
    let mut failed = Vec::new();
    for check in CHECKS {
        eprintln!("\n== {}", check.name);
        if let Err(error) = (check.run)(workspace) {
            eprintln!("error: {error:#}");
            failed.push(check.name);
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("\nfailed: {}", failed.join(", "));
    ExitCode::FAILURE
}

fn format(workspace: &Workspace) -> Result<()> {
    command::run(workspace.cargo("fmt").args(["--all", "--check"]))
}

fn clippy(workspace: &Workspace) -> Result<()> {
    command::run(workspace.cargo("clippy").args(["--locked", "--all-targets", "--", "-D", "warnings"]))
}

fn clippy_kernel_side(workspace: &Workspace) -> Result<()> {
    let toolchain = Toolchain::find()?;
    let clippy = toolchain.clippy(&workspace.target.join("bpf"));
    let mut clippy = clippy.with_context(|| format!("{toolchain} has no clippy (Debian's is in rust-web-clippy)"))?;
    command::run(clippy.current_dir(&workspace.root).args(["--", "-D", "warnings"]))
}

fn dependencies(workspace: &Workspace) -> Result<()> {
    let deny = setup::cargo_deny(workspace).context("cargo-deny is not installed (`cargo xtask setup` does)")?;
    let mut check = Command::new(deny);
    check.current_dir(&workspace.root).args(["--log-level", "warn", "--locked", "check", "--hide-inclusion-graph"]);
    check.args(["licenses", "bans", "sources"]);
    if has_advisories() {
        check.arg("advisories");
    } else {
        eprintln!("SKIPPED advisories: no copy of the advisory database here (`cargo deny fetch db` gets one)");
    }
    command::run(&mut check)
}

/// Whether cargo-deny has a copy of the advisory database, where it keeps them by default.
fn has_advisories() -> bool {
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
    let databases = cargo_home.and_then(|home| home.join("advisory-dbs").read_dir().ok());
    databases.into_iter().flatten().flatten().any(|entry| entry.path().is_dir())
}

fn documents(workspace: &Workspace) -> Result<()> {
    docs::check(workspace, &build::static_podmeter(workspace))
}
