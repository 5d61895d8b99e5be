//! BPF filesystems for agents that leave their programs behind.

use std::{ffi::OsString, path::Path};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

/// A BPF filesystem of its own. What is pinned there goes with it.
#[derive(Debug)]
pub struct BpfDir(TempDir);

impl BpfDir {
    /// Makes it.
    pub fn new() -> Result<Self> {
        Self::mounted(None)
    }

    /// Makes one that only root may look into, as a node's.
    pub fn of_node() -> Result<Self> {
        Self::mounted(Some("mode=0700"))
    }

    fn mounted(options: Option<&str>) -> Result<Self> {
        let dir = tempfile::tempdir().context("could not make a directory")?;
        mount(Some("none"), dir.path(), Some("bpf"), MsFlags::empty(), options)
            .with_context(|| format!("could not mount a BPF filesystem on {}", dir.path().display()))?;
        Ok(Self(dir))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// What is in it, in order.
    pub fn entries(&self) -> Result<Vec<OsString>> {
        let entries = std::fs::read_dir(self.path()).context("could not list the BPF filesystem")?;
        let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
        names.sort_unstable();
        Ok(names)
    }

    /// The directories in it, in order: what agents have pinned. The kernel has files for debugging beside them.
    pub fn directories(&self) -> Result<Vec<OsString>> {
        Ok(self.entries()?.into_iter().filter(|name| self.path().join(name).is_dir()).collect())
    }

    /// The configuration of an agent that pins there.
    pub fn config(&self) -> Json {
        json!({"bpf": {"pin": true, "directory": self.path()}})
    }
}

impl Drop for BpfDir {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.path(), MntFlags::MNT_DETACH) {
            eprintln!("could not unmount {}: {error}", self.path().display());
        }
    }
}
