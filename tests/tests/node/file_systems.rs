//! File systems, against `statvfs` by the test, while one fills up.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statvfs::statvfs,
};
use podmeter_tests::{
    agent::Agent,
    disk::Disk,
    kubernetes::{ApiOptions, Cluster, Driver},
    root_test,
};
use serde_json::json;

use super::agent;

/// A file system on a disk of its own, mounted for as long as this value is there.
pub(super) struct Mounted {
    points: Vec<PathBuf>,
    _disk: Disk,
}

impl Mounted {
    /// Makes and mounts one; `None`, and the test is reported as skipped, where none can be made.
    pub(super) fn new(test: &str, point: &Path) -> Result<Option<Self>> {
        let Some(disk) = Disk::scratch(test)? else { return Ok(None) };
        let device = format!("/dev/{}", disk.name());
        // Without a journal, as BusyBox makes it too.
        let Ok(made) = Command::new("mke2fs").args(["-q", "-F", &device]).output() else {
            eprintln!("SKIPPED {test}: there is no mke2fs, of the package e2fsprogs");
            return Ok(None);
        };
        ensure!(made.status.success(), "mke2fs {device}: {}", String::from_utf8_lossy(&made.stderr));
        fs::create_dir_all(point).context("could not make a directory")?;
        match mount(Some(&*device), point, Some("ext4"), MsFlags::empty(), None::<&str>) {
            Err(Errno::ENODEV) => {
                eprintln!("SKIPPED {test}: this kernel has no ext4");
                return Ok(None);
            }
            mounted => mounted.with_context(|| format!("could not mount {device}"))?,
        }
        Ok(Some(Self { points: vec![point.to_owned()], _disk: disk }))
    }

    /// Mounts it at another place too.
    pub(super) fn also_at(&mut self, point: &Path) -> Result<()> {
        fs::create_dir_all(point).context("could not make a directory")?;
        mount(self.points.first(), point, None::<&str>, MsFlags::MS_BIND, None::<&str>).context("could not bind")?;
        self.points.push(point.to_owned());
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for point in self.points.iter().rev() {
            let _ = umount2(point, MntFlags::MNT_DETACH);
        }
    }
}

/// A figure of the file system that is mounted there.
fn figure(agent: &Agent, metric: &str, point: &Path, state: Option<&str>) -> Option<f64> {
    let point = point.to_string_lossy();
    let mut attributes = vec![("system.filesystem.mountpoint", &*point)];
    attributes.extend(state.map(|state| ("system.filesystem.state", state)));
    agent.look(|exports| exports.node_value(metric, &attributes))
}

fn check(agent: &Agent, point: &Path) -> Result<f64> {
    agent.catch_up()?;
    let truth = statvfs(point).context("no statvfs")?;
    let block = truth.fragment_size();
    let (all, free, available) = (truth.blocks() * block, truth.blocks_free() * block, truth.blocks_available() * block);
    let used = (all - free) as f64;
    for (metric, state, expected) in [
        ("system.filesystem.limit", None, all as f64),
        ("system.filesystem.usage", Some("used"), used),
        ("system.filesystem.usage", Some("free"), available as f64),
        ("system.filesystem.usage", Some("reserved"), (free - available) as f64),
        ("system.filesystem.inodes.usage", Some("used"), (truth.files() - truth.files_free()) as f64),
        ("system.filesystem.inodes.usage", Some("free"), truth.files_free() as f64),
    ] {
        let measured =
            figure(agent, metric, point, state).with_context(|| format!("no {metric} {state:?} of {}", point.display()))?;
        ensure!(measured == expected, "{metric} {state:?}: {measured}, statvfs has {expected}");
    }
    Ok(used)
}

root_test! {
    fn a_file_system_that_fills_up_is_as_full_as_statvfs_says_and_counts_once() {
        let place = tempfile::tempdir().context("could not make a directory")?;
        let (point, longer) = (place.path().join("full"), place.path().join("bound/elsewhere"));
        let agent = agent(json!({}))?;
        let Some(mut mounted) = Mounted::new(TEST, &point)? else { return agent.stop().map(drop) };
        mounted.also_at(&longer)?;
        let empty = check(&agent, &point)?;
        fs::write(point.join("large"), vec![7; 20 << 20]).context("could not write")?;
        // Until then ext4 has not decided where it goes.
        fs::File::open(point.join("large")).and_then(|file| file.sync_all()).context("could not sync")?;
        let full = check(&agent, &point)?;
        ensure!(full - empty >= f64::from(20 << 20), "from {empty} to {full}");
        ensure!(figure(&agent, "system.filesystem.limit", &longer, None).is_none(), "it counts twice");
        // Unmounted, it has no series any more.
        drop(mounted);
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        let ended = exports.ended().iter().any(|ended| ended.attributes.get("system.filesystem.mountpoint").is_some_and(|at| Path::new(at) == point));
        ensure!(ended, "its series have not ended");
        let kinds = exports.of_node().iter().filter_map(|found| found.attributes.get("system.filesystem.type"));
        ensure!(kinds.clone().count() > 0, "no file system has a type");
        ensure!(kinds.clone().all(|kind| !["tmpfs", "proc", "sysfs", "cgroup2"].contains(&kind.as_str())), "{:?}", kinds.collect::<Vec<_>>());
        Ok(())
    }
}

root_test! {
    fn a_volume_of_a_pod_is_as_full_as_statvfs_says_and_is_no_file_system_of_the_node() {
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        let pod = cluster.run("with-volume")?;
        let kubelet = Directories::below("/var/lib/kubelet", &format!("pods/{}/volumes/kubernetes.io~csi/pvc-1/mount", pod.pod.uid))?;
        let point = kubelet.last().context("no directory")?.to_owned();
        let mut config = cluster.server.agent_config()?;
        config["signals"] = json!({"network": false, "dns": false, "tcp": false, "drops": false, "disk": false});
        let agent = Agent::start(config)?;
        let Some(_mounted) = Mounted::new(TEST, &point)? else { return agent.stop().map(drop) };
        fs::write(point.join("large"), vec![7; 8 << 20]).context("could not write")?;
        fs::File::open(point.join("large")).and_then(|file| file.sync_all()).context("could not sync")?;
        let truth = statvfs(&point).context("no statvfs")?;
        agent.wait_for("the volume", std::time::Duration::from_secs(15), |exports| {
            exports.value(pod.cgroup.cgroup().path(), "k8s.pod.volume.usage", &[]).filter(|used| *used >= f64::from(8 << 20))
        })?;
        agent.catch_up()?;
        let block = truth.fragment_size();
        for (metric, expected) in [
            ("k8s.pod.volume.capacity", truth.blocks() * block),
            ("k8s.pod.volume.available", truth.blocks_available() * block),
            ("k8s.pod.volume.usage", (truth.blocks() - truth.blocks_free()) * block),
            ("k8s.pod.volume.inode.count", truth.files()),
            ("k8s.pod.volume.inode.free", truth.files_free()),
        ] {
            let measured = agent.look(|exports| exports.value(pod.cgroup.cgroup().path(), metric, &[("k8s.volume.name", "pvc-1")]));
            ensure!(measured == Some(expected as f64), "{metric}: {measured:?}, statvfs has {expected}");
        }
        ensure!(figure(&agent, "system.filesystem.limit", &point, None).is_none(), "the node has the pod's volume");
        let exports = agent.stop()?.exports;
        let named = exports.of(pod.cgroup.cgroup().path()).iter().rfind(|point| &*point.metric == "k8s.pod.volume.usage");
        ensure!(named.is_some_and(|point| point.resource.get("k8s.pod.name").is_some_and(|name| name == "with-volume")), "{named:?}");
        Ok(())
    }
}

/// Directories that are made one below the other, where they are not there, and go with this value.
struct Directories(Vec<PathBuf>);

impl Directories {
    fn below(first: &str, rest: &str) -> Result<Self> {
        let mut made = Self(Vec::new());
        let mut path = PathBuf::from(first);
        for part in std::iter::once("").chain(rest.split('/')) {
            path = if part.is_empty() { path } else { path.join(part) };
            if !path.exists() {
                fs::create_dir_all(&path).with_context(|| format!("could not make {}", path.display()))?;
                made.0.push(path.clone());
            }
        }
        Ok(made)
    }

    fn last(&self) -> Option<&PathBuf> {
        self.0.last()
    }
}

impl Drop for Directories {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            let _ = fs::remove_dir(path);
        }
    }
}
