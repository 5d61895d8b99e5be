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
}

/// The root of the cgroup2 hierarchy.
///
/// # Errors
/// When none is mounted.
pub fn cgroup2() -> Result<PathBuf, MountError> {
    let mounts = std::fs::read_to_string("/proc/mounts").map_err(MountError::Read)?;
    find(&mounts, "cgroup2").ok_or(MountError::NoCgroup2)
}

/// Makes sure that bpffs is mounted at [`BPFFS`], as systemd does at boot.
///
/// # Errors
/// When it is not and cannot be.
pub fn ensure_bpffs() -> Result<(), MountError> {
    let mounts = std::fs::read_to_string("/proc/mounts").map_err(MountError::Read)?;
    if at(&mounts, BPFFS, "bpf") {
        return Ok(());
    }
    let flags = nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV | nix::mount::MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("bpf"), Path::new(BPFFS), Some("bpf"), flags, Some("mode=0700"))
        .map_err(|errno| MountError::NoBpffs(errno.into()))
}

/// The first mount point of a file system type in the text of /proc/mounts, whose fields escape blanks as octal `\040`.
fn find(mounts: &str, kind: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let point = fields.next()?;
        (fields.next()? == kind).then(|| PathBuf::from(point.replace("\\040", " ")))
    })
}

fn at(mounts: &str, point: &str, kind: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(point) && fields.next() == Some(kind)
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
    fn tells_where_bpffs_is() {
        assert_eq!(find(HYBRID, "bpf"), Some("/with blank".into()));
        assert!(!at(HYBRID, BPFFS, "bpf"));
        assert!(at("bpf /sys/fs/bpf bpf rw 0 0", BPFFS, "bpf"));
    }
}
