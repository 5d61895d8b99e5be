//! Fetches QEMU, which runs the virtual machines, with all libraries it needs, without installing it.
//!
//! So every machine runs the same QEMU whatever it has installed, and no installed package has to make room for it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::apt;
use super::archive::{self, Archive};
use crate::workspace::Workspace;

const PACKAGE: &str = "qemu-system-x86";
const PROGRAM: &str = "qemu-system-x86_64";
const RELEASE: &str = "trixie";

/// What of the packages is needed to run it: the program, its loader and libraries, its firmware.
const KEPT: &[&str] =
    &["usr/bin/qemu-system-x86_64", "usr/lib64", "usr/lib/x86_64-linux-gnu", "usr/share/qemu", "usr/share/seabios"];

/// Puts it into the tools' directory, unless it is there. Without apt the one on PATH has to do.
pub(super) fn fetch(workspace: &Workspace) -> Result<()> {
    let place = place(workspace);
    if place.exists() {
        return Ok(());
    }
    if !apt::is_here() {
        bpf_toolchain::program(PROGRAM).with_context(|| format!("there is neither {PROGRAM} nor apt-get to fetch it with"))?;
        return Ok(());
    }
    eprintln!("QEMU, about 40 MB with its libraries, is fetched for virtual machines from Debian {RELEASE}, and not installed");
    let scratch = workspace.cache().join("qemu");
    if scratch.exists() {
        fs::remove_dir_all(&scratch).with_context(|| format!("could not remove {}", scratch.display()))?;
    }
    let (unpacked, whole) = (scratch.join("unpacked"), scratch.join("whole"));
    for directory in [&unpacked, &whole, &workspace.tools()] {
        fs::create_dir_all(directory).with_context(|| format!("could not make {}", directory.display()))?;
    }
    Archive::open(RELEASE, &scratch)?.download_with_dependencies(PACKAGE, &scratch)?;
    for package in archive::downloaded(&scratch) {
        archive::unpack(&package, &unpacked)?;
    }
    for kept in KEPT {
        let to = whole.join(kept);
        to.parent().map_or(Ok(()), fs::create_dir_all).with_context(|| format!("could not make {}", to.display()))?;
        fs::rename(unpacked.join(kept), &to).with_context(|| format!("the packages of {PACKAGE} have no {kept}"))?;
    }
    // Appears whole or not at all.
    fs::rename(&whole, &place).with_context(|| format!("could not put {} in place", place.display()))?;
    fs::remove_dir_all(&scratch).with_context(|| format!("could not remove {}", scratch.display()))
}

/// The words that start it: by its own loader, with its own libraries, where it was fetched.
pub(crate) fn words(workspace: &Workspace) -> Vec<String> {
    let place = place(workspace);
    if !place.exists() {
        return vec![PROGRAM.to_owned()];
    }
    let at = |path: &str| place.join(path).display().to_string();
    let loader = [at("usr/lib64/ld-linux-x86-64.so.2"), "--library-path".to_owned(), at("usr/lib/x86_64-linux-gnu")];
    let program =
        [at("usr/bin/qemu-system-x86_64"), "-L".to_owned(), at("usr/share/qemu"), "-L".to_owned(), at("usr/share/seabios")];
    loader.into_iter().chain(program).collect()
}

fn place(workspace: &Workspace) -> PathBuf {
    workspace.tools().join("qemu")
}

/// Fails where it does not start, which is better known before everything is built.
pub(super) fn try_out(workspace: &Workspace) -> Result<()> {
    let words = words(workspace);
    crate::command::output(Command::new(&words[0]).args(&words[1..]).arg("--version")).map(drop).context("QEMU does not start")
}
