//! The kernels that guests boot: the newest of each Debian release, fetched once and never installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::setup::archive::{self, Archive};
use crate::workspace::Workspace;

/// What every Debian release calls its newest kernel for virtual machines: few drivers, quick to boot, with BTF.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// A kernel of the matrix.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// As people call it: `6.1`.
    pub(crate) name: &'static str,
    /// The Debian release that has it.
    release: &'static str,
}

/// From the oldest that podmeter runs on to the newest there is.
pub(crate) const ALL: &[Kernel] = &[
    Kernel { name: "5.10", release: "bullseye" },
    Kernel { name: "6.1", release: "bookworm" },
    Kernel { name: "6.12", release: "trixie" },
    Kernel { name: "7", release: "sid" },
];

/// A kernel's files.
#[derive(Debug)]
pub(crate) struct Files {
    /// What the bootloader takes.
    pub(crate) image: PathBuf,
    /// The modules, in a tree.
    pub(crate) modules: PathBuf,
}

impl Kernel {
    /// The kernel of that name, as an argument names it.
    pub(crate) fn parse(name: &str) -> Result<&'static Self, String> {
        let names = || ALL.iter().map(|kernel| kernel.name).collect::<Vec<_>>().join(", ");
        ALL.iter().find(|kernel| kernel.name == name).ok_or_else(|| format!("there are {}", names()))
    }

    /// Its files, fetched unless they are there. Removing `kernels` from the cache brings newer ones.
    pub(crate) fn files(&self, workspace: &Workspace) -> Result<Files> {
        let kernels = workspace.cache().join("kernels");
        let place = kernels.join(self.name);
        if !place.exists() {
            eprintln!("kernel {} (20 to 40 MB): fetched from Debian {}, not installed", self.name, self.release);
            let scratch = kernels.join(format!("{}.new", self.name));
            if scratch.exists() {
                remove(&scratch)?;
            }
            self.fetch(workspace, &scratch)?;
            let whole = scratch.join("whole");
            // Appears whole or not at all.
            fs::rename(&whole, &place).with_context(|| format!("could not put {} in place", place.display()))?;
            remove(&scratch)?;
        }
        Ok(Files { image: place.join("vmlinuz"), modules: place.join("modules") })
    }

    /// Puts the files into `whole` below `scratch`.
    fn fetch(&self, workspace: &Workspace, scratch: &Path) -> Result<()> {
        let (unpacked, whole) = (scratch.join("unpacked"), scratch.join("whole"));
        fs::create_dir_all(&whole).with_context(|| format!("could not make {}", whole.display()))?;
        let debian = Archive::open(workspace, self.release, scratch)?;
        let image = debian.depends(PACKAGE)?.into_iter().find(|name| name.starts_with("linux-image-"));
        let image = image.with_context(|| format!("{PACKAGE} of Debian {} depends on no kernel", self.release))?;
        // Newer releases have the files in packages that the image depends on.
        let parts = debian.depends(&image)?.into_iter().filter(|name| is_part(name));
        let packages: Vec<String> = parts.chain([image.clone()]).collect();
        debian.download(&packages.iter().map(String::as_str).collect::<Vec<_>>(), scratch)?;
        drop(debian);
        for package in archive::downloaded(scratch) {
            archive::unpack(&package, &unpacked)?;
        }
        let version = image.trim_start_matches("linux-image-");
        let first = |places: [String; 2]| {
            let found = places.iter().map(|place| unpacked.join(place)).find(|place| place.exists());
            found.with_context(|| format!("{} has none of {}", packages.join(" and "), places.join(", ")))
        };
        for (name, source) in [
            ("vmlinuz", first([format!("boot/vmlinuz-{version}"), format!("usr/lib/modules/{version}/vmlinuz")])?),
            ("modules", first([format!("lib/modules/{version}/kernel"), format!("usr/lib/modules/{version}/kernel")])?),
        ] {
            fs::rename(&source, whole.join(name)).with_context(|| format!("could not move {}", source.display()))?;
        }
        Ok(())
    }
}

/// Whether a package that a kernel's image depends on has files of the kernel.
fn is_part(package: &str) -> bool {
    package.starts_with("linux-binary-") || package.starts_with("linux-modules-")
}

fn remove(directory: &Path) -> Result<()> {
    fs::remove_dir_all(directory).with_context(|| format!("could not remove {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_called_by_its_name() {
        assert!(ALL.iter().all(|kernel| Kernel::parse(kernel.name) == Ok(kernel)));
        assert_eq!(Kernel::parse("4.19").unwrap_err(), "there are 5.10, 6.1, 6.12, 7");
    }

    #[test]
    fn tools_beside_a_kernel_are_none_of_its_files() {
        assert!(is_part("linux-binary-7.2.13+deb14-cloud-amd64") && is_part("linux-modules-7.2.13+deb14-cloud-amd64"));
        assert!(!is_part("linux-base") && !is_part("kmod") && !is_part("initramfs-tools"));
    }
}
