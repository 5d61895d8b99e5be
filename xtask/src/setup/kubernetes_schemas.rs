//! The schemas of Kubernetes' objects, with a validator, in a Python environment of their own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::apt;
use crate::workspace::Workspace;
use crate::{command, progress};

/// Carries the schemas of Kubernetes 1.25 to 1.37.
const PACKAGE: &str = "kubernetes-validate==1.37.0";
const PROGRAM: &str = "bin/kubernetes-validate";

/// Puts the validator into the tools' directory, unless it is there.
pub(super) fn install(workspace: &Workspace) -> Result<()> {
    let environment: PathBuf = workspace.tools().join("kubernetes-validate");
    if environment.join(PROGRAM).exists() {
        return Ok(());
    }
    if !has_venv() && apt::is_here() {
        apt::install_packages(workspace, &["python3-venv".to_owned()], "python3-venv makes a place for kubernetes-validate")?;
    }
    // An environment knows its own place, so it cannot be made elsewhere and moved: what an earlier attempt has left goes first.
    if environment.exists() {
        fs::remove_dir_all(&environment).with_context(|| format!("could not remove {}", environment.display()))?;
    }
    let log = workspace.setup_log();
    progress::step(&format!("{PACKAGE}, the schemas that manifests are checked with: for this tree only"), || {
        command::logged(Command::new("python3").args(["-m", "venv"]).arg(&environment), &log)?;
        let mut pip = Command::new(environment.join("bin/python"));
        command::logged(pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check", "install", PACKAGE]), &log)
    })
}

/// Whether Python can make environments; Debian leaves that to a package of its own.
fn has_venv() -> bool {
    command::output(Command::new("python3").args(["-c", "import venv, ensurepip"])).is_ok()
}
