//! `cargo xtask build` and `run`: the release binary, and the terminal view of this machine.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

use anyhow::{Context, Result};

use crate::workspace::Workspace;
use crate::{command, progress};

/// Builds podmeter in release and returns where it is.
pub(crate) fn podmeter(workspace: &Workspace, statically: bool) -> Result<PathBuf> {
    let mut cargo = workspace.cargo("build");
    cargo.args(["--release", "--locked", "--package", "podmeter"]);
    let mut products = workspace.target.clone();
    if statically {
        products.push(link_statically(&mut cargo));
    }
    let what = if statically { "podmeter, static, in release" } else { "podmeter in release" };
    progress::build(what, &mut cargo)?;
    Ok(products.join("release/podmeter"))
}

/// Where the static one is, once it is built.
pub(crate) fn static_podmeter(workspace: &Workspace) -> PathBuf {
    workspace.target.join(target()).join("release/podmeter")
}

/// Has cargo build programs that need no library, for the target that this returns.
pub(crate) fn link_statically(cargo: &mut Command) -> String {
    // glibc, since it needs no further target to be installed. With the target named, build scripts and macros, which cannot be
    // static, are built without the flag.
    let target = target();
    cargo.args(["--target", &target]).env("RUSTFLAGS", "-C target-feature=+crt-static");
    target
}

/// `cargo test` of the tests crate and the agent, static and in release: this machine and guests run what is built once. The caller names
/// the targets. Both packages are named always, since cargo builds what they depend on for those that are named.
pub(crate) fn tests(workspace: &Workspace) -> Command {
    let mut cargo = workspace.cargo("test");
    cargo.args(["--release", "--locked", "--package", "podmeter-tests", "--package", "podmeter"]);
    link_statically(&mut cargo);
    cargo
}

/// This machine, as compilers name it.
fn target() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

/// Says where a binary is and how large.
pub(crate) fn announce(binary: &Path) -> Result<()> {
    let size = fs::metadata(binary).with_context(|| format!("could not find {} after building it", binary.display()))?.len();
    println!("{} ({:.1} MB)", binary.display(), size as f64 / 1e6);
    Ok(())
}

/// Builds podmeter in the profile `quick`, which takes two thirds of the time: a first look does not need the optimiser.
fn quick(workspace: &Workspace) -> Result<PathBuf> {
    let mut cargo = workspace.cargo("build");
    cargo.args(["--profile", "quick", "--locked", "--package", "podmeter"]);
    progress::build("podmeter, hardly optimised (some minutes the first time)", &mut cargo)?;
    Ok(workspace.target.join("quick/podmeter"))
}

/// Builds podmeter as `cargo test` does: what its documents say does not depend on the profile.
pub(crate) fn unoptimised(workspace: &Workspace) -> Result<PathBuf> {
    let mut cargo = workspace.cargo("build");
    cargo.args(["--locked", "--package", "podmeter"]);
    progress::build("podmeter, not optimised", &mut cargo)?;
    Ok(workspace.target.join("debug/podmeter"))
}

/// Builds podmeter and becomes `podmeter top`.
pub(crate) fn top(workspace: &Workspace, release: bool, arguments: &[String]) -> Result<ExitCode> {
    let binary = if release { podmeter(workspace, false)? } else { quick(workspace)? };
    let mut top = command::as_root(&binary);
    top.arg("top").args(arguments);
    eprintln!("$ {}", command::shown(&top));
    // Returns only when it could not be started. podmeter then has the terminal and its signals to itself.
    Err(top.exec()).with_context(|| format!("could not start `{}`", command::shown(&top)))
}
