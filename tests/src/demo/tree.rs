//! The demo's cgroups: kubelet's paths (systemd driver, containerd) below a cgroup of the demo's own, so that the tree of a real
//! kubelet is never touched.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The demo's cgroup, directly below the root of the cgroup2 hierarchy.
const PARENT: &str = "podmeter-demo";

/// How long killed processes may take to leave a cgroup.
const PATIENCE: Duration = Duration::from_secs(5);

/// A quality of service class and the part of the path that shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Request equals limit.
    Guaranteed,
    /// A request, perhaps a limit above it.
    Burstable,
    /// Neither.
    BestEffort,
}

/// CPUs a container requests and may use.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resources {
    /// Request in thousandths of a CPU.
    pub request_millis: Option<u64>,
    /// Limit in thousandths of a CPU.
    pub limit_millis: Option<u64>,
}

/// The cgroups of one demo; dropping it removes them all.
#[derive(Debug)]
pub struct Tree {
    mount: PathBuf,
    parent: PathBuf,
    has_cpu: bool,
    /// True when the root's children got the cpu controller from this demo.
    enabled_at_root: bool,
    /// Held while the demo runs, so that a second one does not take this one's cgroups for leftovers.
    _lock: Flock<File>,
}

impl Tree {
    /// Makes the demo's parent cgroup. What a killed demo left there is removed first.
    ///
    /// # Errors
    /// No cgroup2 hierarchy, no permission, or another demo that runs.
    pub fn create() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts").context("could not read /proc/mounts")?;
        let mount = cgroup2_mount(&mounts).context("no cgroup2 hierarchy is mounted; mount one or run on a host that has it")?;
        let parent = mount.join(PARENT);
        make(&parent)?;
        let directory = File::open(&parent).with_context(|| format!("could not open {}", parent.display()))?;
        let lock = match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => bail!("another demo is running on this machine; end it first"),
            Err((_, errno)) => return Err(errno).with_context(|| format!("could not lock {}", parent.display())),
        };
        remove_below(&parent)?;
        let mut tree = Self { has_cpu: false, enabled_at_root: false, mount, parent, _lock: lock };
        if has_word(&tree.mount.join("cgroup.controllers"), "cpu") {
            tree.enabled_at_root = !has_word(&tree.mount.join("cgroup.subtree_control"), "cpu");
            tree.has_cpu = give_cpu(&tree.mount).is_ok() && give_cpu(&tree.parent).is_ok();
        }
        Ok(tree)
    }

    /// True when cgroups here have `cpu.weight` and `cpu.max`.
    pub fn has_cpu(&self) -> bool {
        self.has_cpu
    }

    /// Makes the cgroup of a container, and its pod's where that is missing. Resources are set where there is a controller.
    ///
    /// # Errors
    /// A cgroup that cannot be made or written.
    pub fn container(&self, qos: Qos, pod_uid: &str, container_id: &str, resources: Resources) -> Result<PathBuf> {
        let mut path = self.parent.clone();
        let parts = path_parts(qos, pod_uid, container_id);
        for (depth, part) in parts.iter().enumerate() {
            path.push(part);
            make(&path)?;
            if !self.has_cpu {
                continue;
            }
            if depth + 1 < parts.len() {
                give_cpu(&path)?;
            }
            // The pod and its only container.
            if depth + 2 >= parts.len() {
                resources.apply(&path)?;
            }
        }
        Ok(path)
    }

    /// Kills what is left in a container's cgroup and removes it.
    ///
    /// # Errors
    /// A cgroup that stays busy.
    pub fn remove(&self, container: &Path) -> Result<()> {
        remove(container)
    }

    fn remove_all(&self) -> Result<()> {
        remove_below(&self.parent)?;
        remove(&self.parent)?;
        if self.enabled_at_root {
            // Refused when somebody else has come to use it meanwhile; then it must stay.
            let _ = fs::write(self.mount.join("cgroup.subtree_control"), "-cpu");
        }
        Ok(())
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if let Err(error) = self.remove_all() {
            eprintln!("demo: not everything was cleaned up: {error:#}");
        }
    }
}

impl Resources {
    fn apply(self, cgroup: &Path) -> Result<()> {
        write(&cgroup.join("cpu.weight"), &weight(self.request_millis.unwrap_or(0)).to_string())?;
        // 100 ms is the period that kubelet sets; a thousandth of a CPU is a thousandth of it.
        let quota = self.limit_millis.map_or("max".to_owned(), |millis| (millis * 100).to_string());
        write(&cgroup.join("cpu.max"), &format!("{quota} 100000"))
    }
}

/// Where the cgroup2 hierarchy is, in the text of /proc/mounts.
fn cgroup2_mount(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        // Spaces are written as \040 there; no distribution mounts it at such a path.
        (kind == "cgroup2").then(|| PathBuf::from(path))
    })
}

/// The cgroups from kubelet's root down to the container's, as systemd names them: each slice carries its parent's name.
fn path_parts(qos: Qos, pod_uid: &str, container_id: &str) -> Vec<String> {
    let class = match qos {
        Qos::Guaranteed => "kubepods",
        Qos::Burstable => "kubepods-burstable",
        Qos::BestEffort => "kubepods-besteffort",
    };
    // A dash in a slice's name stands for a level, so the UID's dashes are written as underscores.
    let pod = format!("{class}-pod{}.slice", pod_uid.replace('-', "_"));
    let mut parts = vec!["kubepods.slice".to_owned()];
    if qos != Qos::Guaranteed {
        parts.push(format!("{class}.slice"));
    }
    parts.extend([pod, format!("cri-containerd-{container_id}.scope")]);
    parts
}

/// cpu.weight for a request: kubelet turns it into cgroup v1 shares, the runtime turns those into a weight.
fn weight(request_millis: u64) -> u64 {
    let shares = (request_millis * 1024 / 1000).clamp(2, 262_144);
    1 + (shares - 2) * 9999 / 262_142
}

/// Lets the cgroup's children have `cpu.weight` and `cpu.max`.
fn give_cpu(cgroup: &Path) -> Result<()> {
    let control = cgroup.join("cgroup.subtree_control");
    if has_word(&control, "cpu") { Ok(()) } else { write(&control, "+cpu") }
}

fn has_word(file: &Path, word: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.split_whitespace().any(|w| w == word))
}

fn make(cgroup: &Path) -> Result<()> {
    match fs::create_dir(cgroup) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.with_context(|| format!("could not create the cgroup {}; the demo needs root", cgroup.display())),
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("could not write {text} to {}", file.display()))
}

/// Removes all cgroups below this one.
fn remove_below(cgroup: &Path) -> Result<()> {
    let entries = fs::read_dir(cgroup).with_context(|| format!("could not list {}", cgroup.display()))?;
    for child in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir())).map(|entry| entry.path()) {
        remove_below(&child)?;
        remove(&child)?;
    }
    Ok(())
}

/// Kills the processes of one cgroup without children, and removes it once they are gone.
fn remove(cgroup: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match fs::remove_dir(cgroup) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {}
            done => return done.with_context(|| format!("could not remove the cgroup {}", cgroup.display())),
        }
        let pids = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        // 0 stands for a process of another pid namespace, and to kill(2) for the own group.
        for pid in pids.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0) {
            // A process that is gone by now is what is wanted.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_on_hybrid_and_on_unified_hosts() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        assert_eq!(cgroup2_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup2_mount("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n"), Some("/sys/fs/cgroup".into()));
        assert_eq!(cgroup2_mount("proc /proc proc rw 0 0\ncgroup2\n"), None);
    }

    #[test]
    fn paths_are_those_of_kubelet_with_the_systemd_driver() {
        let uid = "12345678-1234-4321-8765-123456789abc";
        assert_eq!(
            path_parts(Qos::Burstable, uid, "f00d").join("/"),
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod12345678_1234_4321_8765_123456789abc.slice/cri-containerd-f00d.scope"
        );
        assert_eq!(
            path_parts(Qos::Guaranteed, uid, "f00d").join("/"),
            "kubepods.slice/kubepods-pod12345678_1234_4321_8765_123456789abc.slice/cri-containerd-f00d.scope"
        );
    }

    #[test]
    fn weights_are_those_that_runtimes_set() {
        for (millis, expected) in [(0, 1), (100, 4), (250, 10), (500, 20), (1000, 39), (256_000, 10_000), (1_000_000, 10_000)] {
            assert_eq!(weight(millis), expected, "{millis}m");
        }
    }
}
