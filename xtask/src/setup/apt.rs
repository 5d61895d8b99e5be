//! Installing Debian packages.

use std::sync::Once;

use anyhow::{Context, Result};

use super::Tool;
use crate::workspace::Workspace;
use crate::{command, progress};

/// Whether this system installs packages with apt.
pub(super) fn is_here() -> bool {
    bpf_toolchain::program("apt-get").is_some()
}

/// Installs the packages of some tools, and shows what each is for.
pub(super) fn install(workspace: &Workspace, tools: &[&Tool]) -> Result<()> {
    let packages: Vec<String> = tools.iter().map(|tool| tool.package.to_owned()).collect();
    let whys: Vec<String> = tools.iter().map(|tool| tool.to_string()).collect();
    install_packages(workspace, &packages, &whys.join("; "))
}

/// Installs packages. None that is installed is removed for them.
pub(super) fn install_packages(workspace: &Workspace, packages: &[String], why: &str) -> Result<()> {
    update(workspace);
    command::become_root()?;
    let mut install = command::as_root("env");
    // No questions: there may be no person to answer. And what a person installed is not replaced behind their back.
    install.args([
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "-q",
        "install",
        "--yes",
        "--no-remove",
        "--no-install-recommends",
    ]);
    install.args(packages);
    let installed = progress::step(&format!("Debian packages: {why}"), || command::logged(&mut install, &workspace.setup_log()));
    installed.with_context(|| {
        format!(
            "could not install {}. Where Debian has no such package: see CONTRIBUTING.md for the other way",
            packages.join(", ")
        )
    })
}

/// Brings apt's lists up to date, once: they list the versions that can be fetched.
pub(super) fn update(workspace: &Workspace) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let update = || {
            command::become_root()?;
            let mut update = command::as_root("apt-get");
            progress::step("apt's lists", || command::logged(update.args(["-q", "update"]), &workspace.setup_log()))
        };
        // A third party's list that cannot be had is no reason to stop: what is missing shows when it is installed.
        if let Err(error) = update() {
            eprintln!("note: {error:#}");
        }
    });
}
