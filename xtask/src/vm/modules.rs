//! The kernel modules a guest loads: those wanted and what they depend on, in an order in which each finds what it needs.
//!
//! The guest has no depmod data; a module lists what it depends on, in its `.modinfo` section.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// What tests use beyond what Debian builds into the kernel: a disk, disks that take a set time, network interfaces, packet loss and delay.
const WANTED: &[&str] = &["virtio_pci", "virtio_blk", "configfs", "null_blk", "veth", "dummy", "sch_netem"];

/// A module, ready to be loaded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Module {
    pub(super) name: String,
    pub(super) content: Vec<u8>,
}

/// The wanted modules of a kernel and what they depend on, each after what it depends on.
///
/// One that has no file is taken to be built in: not every kernel's packages list what is.
pub(super) fn in_load_order(modules: &Path) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    find(modules, &mut files)?;
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for name in WANTED {
        add(name, &files, &mut seen, &mut order)?;
    }
    Ok(order)
}

fn add(name: &str, files: &BTreeMap<String, PathBuf>, seen: &mut BTreeSet<String>, order: &mut Vec<Module>) -> Result<()> {
    let Some(file) = files.get(name) else { return Ok(()) };
    if !seen.insert(name.to_owned()) {
        return Ok(());
    }
    let content = content(file)?;
    for dependency in dependencies(&content).with_context(|| format!("{} is no kernel module", file.display()))? {
        add(&dependency, files, seen, order)?;
    }
    order.push(Module { name: name.to_owned(), content });
    Ok(())
}

/// Every module below a directory by its name, in which a dash of the file's is an underscore.
fn find(directory: &Path, found: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in directory.read_dir().with_context(|| format!("could not list {}", directory.display()))? {
        let path = entry.with_context(|| format!("could not list {}", directory.display()))?.path();
        if path.is_dir() {
            find(&path, found)?;
        } else if let Some((name, "ko" | "ko.xz")) = path.file_name().and_then(|name| name.to_str()?.split_once('.')) {
            found.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

/// busybox loads no compressed modules.
fn content(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(file).with_context(|| format!("could not read {}", file.display()));
    }
    let output = Command::new("xz").args(["--decompress", "--stdout"]).arg(file).stdin(Stdio::null()).output();
    let output = output.context("could not start xz")?;
    if !output.status.success() {
        bail!("could not decompress {}: {}", file.display(), String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(output.stdout)
}

/// The names in a module's `depends=a,b`; `None` when it has no such entry, which every module has.
fn dependencies(module: &[u8]) -> Option<Vec<String>> {
    const KEY: &[u8] = b"\0depends=";
    let start = module.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    let value = module[start..].split(|byte| *byte == 0).next()?;
    let names = std::str::from_utf8(value).ok()?.split(',').filter(|name| !name.is_empty());
    Some(names.map(|name| name.replace('-', "_")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_says_what_it_depends_on() {
        let module = b"\x7fELF\0license=GPL\0depends=virtio,virtio-ring\0intree=Y\0";
        assert_eq!(dependencies(module), Some(vec!["virtio".to_owned(), "virtio_ring".to_owned()]));
        assert_eq!(dependencies(b"\0depends=\0retpoline=Y\0"), Some(vec![]));
        assert_eq!(dependencies(b"\x7fELF\0softdepends=x\0"), None);
    }

    #[test]
    fn each_module_comes_after_what_it_depends_on_and_built_in_ones_not_at_all() {
        let directory = std::env::temp_dir().join(format!("xtask-modules-{}", std::process::id()));
        fs::create_dir_all(directory.join("drivers")).unwrap();
        for (file, depends) in
            [("virtio_pci", "virtio,virtio_ring"), ("virtio_ring", "virtio"), ("virtio", ""), ("veth", ""), ("bonding", "")]
        {
            fs::write(directory.join("drivers").join(format!("{file}.ko")), format!("\0depends={depends}\0")).unwrap();
        }
        let order = in_load_order(&directory);
        fs::remove_dir_all(&directory).unwrap();
        let names: Vec<_> = order.unwrap().into_iter().map(|module| module.name).collect();
        assert_eq!(names, ["virtio", "virtio_ring", "virtio_pci", "veth"]);
    }
}
