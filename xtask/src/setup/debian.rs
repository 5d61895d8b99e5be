//! Fetches programs that tests use from Debian, without installing them.
//!
//! Only Debian's unstable release has versions that are new enough.

use std::fs;

use anyhow::{Context, Result};

use super::archive::{self, Archive};
use crate::progress;
use crate::workspace::Workspace;

const RELEASE: &str = "sid";

/// A program.
pub(super) struct Program {
    pub(super) name: &'static str,
    package: &'static str,
    /// What the tests use it for, and the size of its package.
    pub(super) why: &'static str,
}

/// Everything that is fetched.
pub(super) const PROGRAMS: &[Program] = &[
    Program {
        name: "victoria-metrics",
        package: "victoria-metrics",
        why: "is the back end that tests send OTLP to and query (about 60 MB)",
    },
    Program { name: "vmalert-tool", package: "victoria-metrics", why: "tests the alert rules for VictoriaMetrics" },
    Program { name: "promtool", package: "promtool", why: "checks and tests the alert rules for Prometheus (17 MB)" },
    Program { name: "kustomize", package: "kustomize", why: "renders the Kubernetes manifests (7 MB)" },
];

/// Puts a program into the tools' directory, unless it is there.
pub(super) fn fetch(workspace: &Workspace, program: &Program) -> Result<()> {
    let file = workspace.tools().join(program.name);
    if file.exists() {
        return Ok(());
    }
    let cache = workspace.cache().join(RELEASE);
    for directory in [&cache, &workspace.tools()] {
        fs::create_dir_all(directory).with_context(|| format!("could not make {}", directory.display()))?;
    }
    let start = format!("{}_", program.package);
    let newest = || {
        let mut packages = archive::downloaded(&cache);
        packages.retain(|package| package.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&start)));
        packages.pop()
    };
    if newest().is_none() {
        // A step of its own, where the lists are missing.
        archive::found_mirror(workspace)?;
        progress::step(&format!("{}, which {}: fetched, not installed", program.name, program.why), || {
            Archive::open(workspace, RELEASE, &cache)?.download(&[program.package], &cache)
        })?;
    }
    let package = newest().with_context(|| format!("apt-get left no package {} in {}", program.package, cache.display()))?;
    let unpacked = cache.join("unpacked");
    archive::unpack(&package, &unpacked)?;
    // Appears whole or not at all.
    fs::rename(unpacked.join("usr/bin").join(program.name), &file)
        .with_context(|| format!("could not put {} in place", file.display()))?;
    fs::remove_dir_all(&unpacked).with_context(|| format!("could not remove {}", unpacked.display()))
}
