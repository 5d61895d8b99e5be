//! Installing Debian packages.

use std::sync::Once;

use anyhow::{Context, Result};

use super::Tool;
use crate::command;

/// Whether this system installs packages with apt.
pub(super) fn is_here() -> bool {
    bpf_toolchain::program("apt-get").is_some()
}

/// Installs the packages of some tools, and says what each is for.
pub(super) fn install(tools: &[&Tool]) -> Result<()> {
    let packages: Vec<String> = tools.iter().map(|tool| tool.package.to_owned()).collect();
    let whys: Vec<String> = tools.iter().map(|tool| tool.to_string()).collect();
    install_packages(&packages, &whys.join("; "))
}

/// Installs packages. None that is installed is removed for them.
pub(super) fn install_packages(packages: &[String], why: &str) -> Result<()> {
    eprintln!("Debian packages to install: {why}");
    update();
    let mut install = command::as_root("env");
    // Nothing may ask: there may be nobody to answer. And what a person installed is not replaced behind their back.
    install.args([
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "-q",
        "install",
        "--yes",
        "--no-remove",
        "--no-install-recommends",
    ]);
    command::run(install.args(packages)).with_context(|| {
        format!("could not install {}. Where Debian has no such package: see README for the other way", packages.join(", "))
    })
}

/// Brings apt's lists up to date, once: they are what says which versions can still be fetched.
pub(super) fn update() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // A third party's list that cannot be had is no reason to stop: what is missing shows when it is installed.
        if let Err(error) = command::run(command::as_root("apt-get").args(["-q", "update"])) {
            eprintln!("note: {error:#}");
        }
    });
}
