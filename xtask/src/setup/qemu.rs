//! QEMU, which runs the virtual machines.

use std::process::Command;

use anyhow::{Context, Result};

use super::apt;
use super::bundle::Bundle;
use crate::workspace::Workspace;

const PROGRAM: &str = "qemu-system-x86_64";

const QEMU: Bundle = Bundle {
    name: "qemu",
    packages: &["qemu-system-x86"],
    // The program and its firmware.
    kept: &["usr/bin/qemu-system-x86_64", "usr/share/qemu", "usr/share/seabios"],
    why: "runs the virtual machines (about 40 MB)",
};

/// Puts it into the tools' directory, unless it is there. Without apt the one on PATH has to do.
pub(super) fn fetch(workspace: &Workspace) -> Result<()> {
    if QEMU.place(workspace).exists() || apt::is_here() {
        return QEMU.fetch(workspace);
    }
    bpf_toolchain::program(PROGRAM).with_context(|| format!("there is neither {PROGRAM} nor apt-get to fetch it with")).map(drop)
}

/// The words that start it.
pub(crate) fn words(workspace: &Workspace) -> Vec<String> {
    let place = QEMU.place(workspace);
    if !place.exists() {
        return vec![PROGRAM.to_owned()];
    }
    let firmware = ["usr/share/qemu", "usr/share/seabios"].map(|path| place.join(path).display().to_string());
    let firmware = firmware.into_iter().flat_map(|path| ["-L".to_owned(), path]);
    QEMU.words(workspace, "usr/bin/qemu-system-x86_64").into_iter().chain(firmware).collect()
}

/// Fails where it does not start, which is better known before everything is built.
pub(super) fn try_out(workspace: &Workspace) -> Result<()> {
    let words = words(workspace);
    crate::command::output(Command::new(&words[0]).args(&words[1..]).arg("--version")).map(drop).context("QEMU does not start")
}
