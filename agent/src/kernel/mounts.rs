//! Where the file systems that podmeter needs are mounted: cgroup2 and bpffs.

use std::{
    io,
    path::{Path, PathBuf},
};

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

/// Makes sure that `directory` will be on a bpf file system: one that is mounted anywhere above it, else one at [`BPFFS`], as
/// systemd mounts at boot. Returns where that is mounted.
///
/// # Errors
/// When it is on another file system, or nothing is mounted and nothing can be.
pub fn ensure_bpffs(directory: &Path) -> Result<PathBuf, MountError> {
    let mounts = std::fs::read_to_string("/proc/mounts").map_err(MountError::Read)?;
    if let Some((point, "bpf")) = above(&mounts, directory) {
        return Ok(point);
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

/// The mount that a path is on, and its type. What is mounted later at the same place hides what was there.
fn above<'a>(mounts: &'a str, path: &Path) -> Option<(PathBuf, &'a str)> {
    parse(mounts).filter(|(point, _)| path.starts_with(point)).max_by_key(|(point, _)| point.components().count())
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
        assert_eq!(find("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n", "cgroup2"), None);
    }

    #[test]
    fn tells_which_file_system_a_path_is_on() {
        let of = |mounts, path: &str| above(mounts, Path::new(path)).map(|(point, kind)| (point.display().to_string(), kind));
        assert_eq!(of(HYBRID, "/with blank/podmeter"), Some(("/with blank".to_owned(), "bpf")));
        assert_eq!(of(HYBRID, "/sys/fs/bpf/podmeter"), None);
        let container = "overlay / overlay ro 0 0\nsysfs /sys sysfs ro 0 0\nbpf /host/sys/fs/bpf bpf rw 0 0\n";
        assert_eq!(of(container, "/host/sys/fs/bpf/podmeter"), Some(("/host/sys/fs/bpf".to_owned(), "bpf")));
        assert_eq!(of(container, "/sys/fs/bpf/podmeter"), Some(("/sys".to_owned(), "sysfs")));
        let hidden = "bpf /sys/fs/bpf bpf rw 0 0\ntmpfs /sys/fs/bpf tmpfs rw 0 0\n";
        assert_eq!(of(hidden, "/sys/fs/bpf/podmeter"), Some(("/sys/fs/bpf".to_owned(), "tmpfs")));
    }
}
