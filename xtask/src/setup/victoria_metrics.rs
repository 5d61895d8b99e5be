//! Fetches VictoriaMetrics, the back end that tests send OTLP to and query, without installing it.
//!
//! Only Debian's unstable release has one that is new enough.

use std::fs;

use anyhow::{Context, Result};

use super::archive::{self, Archive};
use crate::workspace::Workspace;

const PACKAGE: &str = "victoria-metrics";
const RELEASE: &str = "sid";

/// Puts the program into the tools' directory, unless it is there.
pub(super) fn fetch(workspace: &Workspace) -> Result<()> {
    let program = workspace.tools().join(PACKAGE);
    if program.exists() {
        return Ok(());
    }
    let cache = workspace.cache().join(RELEASE);
    for directory in [&cache, &workspace.tools()] {
        fs::create_dir_all(directory).with_context(|| format!("could not make {}", directory.display()))?;
    }
    if archive::downloaded(&cache).is_empty() {
        eprintln!("VictoriaMetrics, about 60 MB, is fetched for tests from Debian {RELEASE}, and not installed");
        Archive::open(RELEASE, &cache)?.download(&[PACKAGE], &cache)?;
    }
    let packages = archive::downloaded(&cache);
    let package = packages.last().with_context(|| format!("apt-get left no package in {}", cache.display()))?;
    let unpacked = cache.join("unpacked");
    archive::unpack(package, &unpacked)?;
    // Appears whole or not at all.
    fs::rename(unpacked.join("usr/bin").join(PACKAGE), &program)
        .with_context(|| format!("could not put {} in place", program.display()))?;
    fs::remove_dir_all(&unpacked).with_context(|| format!("could not remove {}", unpacked.display()))
}
