//! Where the file systems that podmeter needs are mounted: cgroup2 and bpffs.

use std::{
    io,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// Where bpffs belongs.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Why a file system could not be found.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// No list of mounts.
    #[error("could not read the list of mounts from /proc/mounts")]
    Read(#[source] io::Error),
    /// Only cgroup v1.
    #[error("no cgroup2 file system is mounted: podmeter needs cgroup v2 (boot with systemd.unified_cgroup_hierarchy=1)")]
    NoCgroup2,
    /// bpffs is missing and could not be mounted.
    #[error("no bpf file system is mounted at {BPFFS}, and mounting one failed: run `mount -t bpf bpf {BPFFS}` as root")]
    NoBpffs(#[source] io::Error),
    /// Pins would be ordinary files there.
    #[error("{} is on no bpf file system: set bpf.directory to a place below one, such as {BPFFS}/podmeter", .0.display())]
    NotBpffs(PathBuf),
}

/// The root of the cgroup2 hierarchy.
///
/// # Errors
/// When none is mounted.
pub fn cgroup2() -> Result<PathBuf, MountError> {
    let mounts = std::fs::read_to_string("/proc/mounts").map_err(MountError::Read)?;
    find(&mounts, "cgroup2").ok_or(MountError::NoCgroup2)
}

/// Where hierarchies of cgroup version 1 are mounted. None where the list of mounts cannot be read, which [`cgroup2`] says.
pub fn cgroup1() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    parse(&mounts).filter(|(_, kind)| *kind == "cgroup").map(|(point, _)| point).collect()
}

/// Makes sure that `directory` will be on a bpf file system: one that is there already, of which a container may have this very
/// directory only, else one that is mounted at [`BPFFS`], as systemd does at boot. Returns what of it is there.
///
/// # Errors
/// When it is on another file system, or nothing is mounted and nothing can be.
pub fn ensure_bpffs(directory: &Path) -> Result<PathBuf, MountError> {
    // Asked of the file system itself: what the list of mounts says of a path may be hidden, or behind a link.
    if let Some(there) = directory.ancestors().find(|path| path.exists())
        && statfs(there).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
    {
        return Ok(there.to_owned());
    }
    if !directory.starts_with(BPFFS) {
        return Err(MountError::NotBpffs(directory.to_owned()));
    }
    let flags = nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV | nix::mount::MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("bpf"), Path::new(BPFFS), Some("bpf"), flags, Some("mode=0700"))
        .map_err(|errno| MountError::NoBpffs(errno.into()))?;
    Ok(BPFFS.into())
}

/// The first mount point of a file system type in the text of /proc/mounts, whose fields escape blanks as octal `\040`.
fn find(mounts: &str, kind: &str) -> Option<PathBuf> {
    parse(mounts).find(|(_, found)| *found == kind).map(|(point, _)| point)
}

/// Mount points and types.
fn parse(mounts: &str) -> impl Iterator<Item = (PathBuf, &str)> {
    mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((PathBuf::from(fields.next()?.replace("\\040", " ")), fields.next()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
        cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
        cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
        none /with\\040blank bpf rw 0 0\n\
        short\n";

    #[test]
    fn finds_cgroup2_on_hybrid_hosts() {
        assert_eq!(find(HYBRID, "cgroup2"), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(parse(HYBRID).filter(|(_, kind)| *kind == "cgroup").count(), 1);
        assert_eq!(find("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n", "cgroup2"), None);
    }

    #[test]
    fn a_directory_on_another_file_system_is_refused() {
        let elsewhere = tempfile::tempdir().unwrap();
        let refused = ensure_bpffs(&elsewhere.path().join("podmeter"));
        assert!(matches!(refused, Err(MountError::NotBpffs(_))), "{refused:?}");
    }
}
