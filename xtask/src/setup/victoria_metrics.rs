//! Fetches VictoriaMetrics, the back end that tests send OTLP to and query, without installing it.
//!
//! Only Debian's unstable release has one that is new enough. apt gets it from the mirror this machine uses, checks its
//! signature with Debian's keys, and keeps its state in our cache; the machine's own sources and lists stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt;
use crate::command;
use crate::workspace::Workspace;

const PACKAGE: &str = "victoria-metrics";
const RELEASE: &str = "sid";
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

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
    let package = match downloaded(&cache) {
        Some(package) => package,
        None => download(&cache)?,
    };
    let unpacked = cache.join("unpacked");
    command::output(Command::new("dpkg-deb").arg("--extract").args([&package, &unpacked]))?;
    // Appears whole or not at all.
    fs::rename(unpacked.join("usr/bin").join(PACKAGE), &program)
        .with_context(|| format!("could not put {} in place", program.display()))?;
    fs::remove_dir_all(&unpacked).with_context(|| format!("could not remove {}", unpacked.display()))
}

/// The package, if it was fetched before.
fn downloaded(cache: &Path) -> Option<PathBuf> {
    let packages = cache.read_dir().ok()?.flatten().map(|entry| entry.path());
    packages.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).max()
}

fn download(cache: &Path) -> Result<PathBuf> {
    eprintln!("VictoriaMetrics, about 60 MB, is fetched for tests from Debian {RELEASE}, and not installed");
    let mirror = mirror().or_else(|_| {
        apt::update();
        mirror()
    })?;
    let state = cache.join("apt");
    for directory in ["sources", "lists/partial", "archives/partial"] {
        fs::create_dir_all(state.join(directory))
            .with_context(|| format!("could not make {directory} in {}", state.display()))?;
    }
    let source = format!("Types: deb\nURIs: {mirror}\nSuites: {RELEASE}\nComponents: main\nSigned-By: {KEYS}\n");
    fs::write(state.join("sources/debian.sources"), source).context("could not write apt's source")?;
    command::output(apt_get(&state).arg("update"))?;
    command::output(apt_get(&state).current_dir(cache).args(["download", PACKAGE]))?;
    // 30 MB of lists that are stale tomorrow.
    fs::remove_dir_all(&state).with_context(|| format!("could not remove {}", state.display()))?;
    downloaded(cache).with_context(|| format!("apt-get left no package in {}", cache.display()))
}

/// apt with sources and state of its own.
fn apt_get(state: &Path) -> Command {
    let mut apt = Command::new("apt-get");
    let option = |name: &str, value: &Path| format!("-oDir::{name}={}", value.display());
    apt.arg(option("Etc::sourcelist", Path::new("/dev/null"))).arg(option("Etc::sourceparts", &state.join("sources")));
    apt.arg(option("State", state)).arg(option("Cache", state)).arg("-oAcquire::Languages=none");
    // Lists for software centres; and apt's own user cannot write below a home directory.
    apt.args(["-oAcquire::IndexTargets::deb::DEP-11::DefaultEnabled=false", "-oAPT::Sandbox::User=root"]);
    apt
}

/// The mirror of Debian that this machine uses.
fn mirror() -> Result<String> {
    let format = "$(ORIGIN) $(COMPONENT) $(SUITE) $(REPO_URI)";
    let targets = command::output(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]))?;
    debian_mirror(&targets).map(str::to_owned).context("none of apt's sources is Debian's own archive")
}

/// The archive of a Debian release, not of its security updates, which are elsewhere.
fn debian_mirror(targets: &str) -> Option<&str> {
    targets.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        ["Debian", "main", suite, uri] if !suite.contains('-') => Some(uri),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_the_release() {
        let targets = "Third main stable https://third.example/debian/\nDebian main oldstable-security http://a.example/debian-security/\n\
            Debian contrib oldstable http://b.example/debian/\nDebian main oldstable http://c.example/debian/\n";
        assert_eq!(debian_mirror(targets), Some("http://c.example/debian/"));
        assert_eq!(debian_mirror("Ubuntu main noble http://d.example/ubuntu/\n"), None);
        assert_eq!(debian_mirror(""), None);
    }

    #[test]
    fn apt_keeps_to_its_own_directory() {
        let apt = command::shown(&apt_get(Path::new("/c/apt")));
        for part in ["Etc::sourcelist=/dev/null", "Etc::sourceparts=/c/apt/sources", "Dir::State=/c/apt ", "Dir::Cache=/c/apt "] {
            assert!(apt.contains(part), "{apt}");
        }
    }
}
