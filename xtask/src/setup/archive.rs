//! Packages of any Debian release, fetched without being installed.
//!
//! apt gets them from the mirror this machine uses, checks their signature with Debian's keys, and keeps its state in a directory
//! of our own; the machine's own sources and lists stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt;
use crate::command;
use crate::workspace::Workspace;

const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One release's list of packages. Its directory goes with it.
#[derive(Debug)]
pub(crate) struct Archive {
    state: PathBuf,
}

impl Archive {
    /// Fetches the list of a release (`sid`, `trixie`, …), about 10 MB, into a new directory below `directory`.
    pub(crate) fn open(workspace: &Workspace, release: &str, directory: &Path) -> Result<Self> {
        let mirror = found_mirror(workspace)?;
        let archive = Self { state: directory.join(format!("apt-{release}")) };
        for directory in ["sources", "lists/partial", "archives/partial"] {
            let directory = archive.state.join(directory);
            fs::create_dir_all(&directory).with_context(|| format!("could not make {}", directory.display()))?;
        }
        let source = format!("Types: deb\nURIs: {mirror}\nSuites: {release}\nComponents: main\nSigned-By: {KEYS}\n");
        fs::write(archive.state.join("sources/debian.sources"), source).context("could not write apt's source")?;
        command::output(archive.apt("apt-get").arg("update"))?;
        Ok(archive)
    }

    /// The names of the packages that a package depends on directly.
    pub(crate) fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = command::output(self.apt("apt-cache").args(["depends", package]))?;
        Ok(text.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned).collect())
    }

    /// Puts the newest version of some packages into `directory`, as `.deb` files.
    pub(crate) fn download(&self, packages: &[&str], directory: &Path) -> Result<()> {
        command::output(self.apt("apt-get").current_dir(directory).arg("download").args(packages)).map(drop)
    }

    /// Puts the newest version of some packages and of everything they need into `directory`, as if nothing were installed here.
    pub(crate) fn download_with_dependencies(&self, packages: &[&str], directory: &Path) -> Result<()> {
        let nothing = self.state.join("status");
        fs::write(&nothing, "").with_context(|| format!("could not write {}", nothing.display()))?;
        let mut apt = self.apt("apt-get");
        apt.arg(format!("-oDir::State::status={}", nothing.display()))
            .arg(format!("-oDir::Cache::archives={}", directory.display()));
        apt.args(["install", "--download-only", "--yes", "--no-install-recommends"]).args(packages);
        command::output(&mut apt).map(drop)
    }

    /// apt with sources and state of its own.
    fn apt(&self, program: &str) -> Command {
        let state = &self.state;
        let mut apt = Command::new(program);
        let option = |name: &str, value: &Path| format!("-oDir::{name}={}", value.display());
        apt.arg(option("Etc::sourcelist", Path::new("/dev/null"))).arg(option("Etc::sourceparts", &state.join("sources")));
        apt.arg(option("State", state)).arg(option("Cache", state)).arg("-oAcquire::Languages=none");
        // Lists for software centres; and apt's own user cannot write below a home directory.
        apt.args(["-oAcquire::IndexTargets::deb::DEP-11::DefaultEnabled=false", "-oAPT::Sandbox::User=root"]);
        apt
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        // 30 MB of lists that are stale tomorrow.
        if let Err(error) = fs::remove_dir_all(&self.state) {
            eprintln!("note: could not remove {}: {error}", self.state.display());
        }
    }
}

/// The packages that were downloaded into a directory.
pub(crate) fn downloaded(directory: &Path) -> Vec<PathBuf> {
    let entries = directory.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let mut packages: Vec<_> = entries.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).collect();
    packages.sort_unstable();
    packages
}

/// Unpacks a package's files below a directory.
pub(crate) fn unpack(package: &Path, directory: &Path) -> Result<()> {
    command::output(Command::new("dpkg-deb").arg("--extract").args([package, directory])).map(drop)
}

/// The mirror of Debian that this machine uses, after an update of its lists where they are missing.
pub(crate) fn found_mirror(workspace: &Workspace) -> Result<String> {
    mirror().or_else(|_| {
        apt::update(workspace);
        mirror()
    })
}

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
        let directory = tempdir();
        let archive = Archive { state: directory.clone() };
        let apt = command::shown(&archive.apt("apt-get"));
        let state = directory.display();
        for part in
            ["Etc::sourcelist=/dev/null".to_owned(), format!("Etc::sourceparts={state}/sources"), format!("Dir::State={state} ")]
        {
            assert!(apt.contains(&part), "{apt}");
        }
        drop(archive);
        assert!(!directory.exists());
    }

    fn tempdir() -> PathBuf {
        let directory = std::env::temp_dir().join(format!("xtask-archive-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        directory
    }
}
