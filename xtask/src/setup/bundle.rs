//! Programs with all libraries they need, fetched from Debian without being installed.
//!
//! So every machine runs the same version whatever it has installed, no installed package has to make room, and no service is started.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::archive::{self, Archive};
use crate::progress;
use crate::workspace::Workspace;

const RELEASE: &str = "trixie";

/// Programs in a directory of their own.
pub(super) struct Bundle {
    /// The directory's name among the tools.
    pub(super) name: &'static str,
    pub(super) packages: &'static [&'static str],
    /// What of the packages and of those that they need is kept, beside loader and libraries.
    pub(super) kept: &'static [&'static str],
    /// What they are for, and their size.
    pub(super) why: &'static str,
}

const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

impl Bundle {
    /// Where it is.
    pub(super) fn place(&self, workspace: &Workspace) -> PathBuf {
        workspace.tools().join(self.name)
    }

    /// Puts it into the tools' directory, unless it is there.
    pub(super) fn fetch(&self, workspace: &Workspace) -> Result<()> {
        let place = self.place(workspace);
        if place.exists() {
            return Ok(());
        }
        // A step of its own, where the lists are missing.
        archive::found_mirror(workspace)?;
        let what = format!("{}: {}, fetched with libraries, not installed", self.name, self.why);
        progress::step(&what, || self.fetch_to(workspace, &place))
    }

    fn fetch_to(&self, workspace: &Workspace, place: &Path) -> Result<()> {
        let scratch = workspace.cache().join(self.name);
        if scratch.exists() {
            fs::remove_dir_all(&scratch).with_context(|| format!("could not remove {}", scratch.display()))?;
        }
        let (unpacked, whole) = (scratch.join("unpacked"), scratch.join("whole"));
        for directory in [&unpacked, &whole, &workspace.tools()] {
            fs::create_dir_all(directory).with_context(|| format!("could not make {}", directory.display()))?;
        }
        Archive::open(workspace, RELEASE, &scratch)?.download_with_dependencies(self.packages, &scratch)?;
        for package in archive::downloaded(&scratch) {
            archive::unpack(&package, &unpacked)?;
        }
        for kept in ["usr/lib64", LIBRARIES].iter().chain(self.kept) {
            let to = whole.join(kept);
            to.parent().map_or(Ok(()), fs::create_dir_all).with_context(|| format!("could not make {}", to.display()))?;
            fs::rename(unpacked.join(kept), &to).with_context(|| format!("the packages of {} have no {kept}", self.name))?;
        }
        // Appears whole or not at all.
        fs::rename(&whole, place).with_context(|| format!("could not put {} in place", place.display()))?;
        fs::remove_dir_all(&scratch).with_context(|| format!("could not remove {}", scratch.display()))
    }

    /// The words that start a program of it: by its own loader, with its own libraries.
    pub(super) fn words(&self, workspace: &Workspace, program: &str) -> Vec<String> {
        let at = |path: &str| self.place(workspace).join(path).display().to_string();
        vec![at(LOADER), "--library-path".to_owned(), at(LIBRARIES), at(program)]
    }
}
