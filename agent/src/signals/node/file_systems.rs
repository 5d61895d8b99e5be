//! How full the node's file systems are: `statvfs` of each below the node's root. Their list is read anew when the node's mounts have
//! changed only.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use nix::sys::{
    stat::{major, minor, stat},
    statvfs::{Statvfs, statvfs},
};

use super::{
    kept_file::KeptFile,
    machine::whole,
    metrics::{
        FS_INODES, FS_LIMIT, FS_USAGE, VOLUME_AVAILABLE, VOLUME_CAPACITY, VOLUME_INODES, VOLUME_INODES_FREE, VOLUME_USAGE,
    },
    mounts::{self, FileSystem, Volume},
};
use crate::{
    cgroups::{Cgroups, name::CgroupKind},
    metric::{Metric, Point},
};

/// File systems that have points, at most.
const MOST: usize = 64;
/// Volumes of pods that have points, at most.
const MOST_VOLUMES: usize = 1024;

/// The list of mounts, open, and what it said last.
#[derive(Debug)]
pub(super) struct FileSystems {
    root: PathBuf,
    mounts: KeptFile,
    known: Vec<FileSystem>,
    volumes: Vec<Volume>,
}

impl FileSystems {
    /// Of the node that has its root there. Opens nothing yet.
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            mounts: KeptFile::new(root.join("proc/1/mountinfo")),
            known: Vec::new(),
            volumes: Vec::new(),
        }
    }

    /// Their points, and why some are missing.
    pub(super) fn read(&mut self, points: &mut Vec<Point>, missing: &mut Vec<String>) {
        if self.mounts.has_changed() {
            match self.mounts.read() {
                Ok(text) => {
                    self.known = mounts::file_systems(&text);
                    self.volumes = mounts::volumes(&text);
                }
                Err(error) => {
                    self.known.clear();
                    self.volumes.clear();
                    missing.push(format!("no file systems: {error}"));
                }
            }
        }
        for known in self.known.iter().take(MOST) {
            let path = below(&self.root, &known.point);
            match statvfs(&path) {
                Ok(room) if room.blocks() > 0 && is_there(known, &path) => of(known, &room, points),
                // Of no size: it says nothing of itself. Or another is mounted above it, or it was unmounted meanwhile.
                Ok(_) => {}
                Err(error) => missing.push(format!("not the file system {}, which cannot be reached: {error}", known.point)),
            }
        }
    }
}

impl FileSystems {
    /// The volumes of pods as of the last reading of mounts, by the pods' slots.
    pub(super) fn of_pods(&self, cgroups: &Cgroups) -> Vec<(u32, Vec<Point>)> {
        if self.volumes.is_empty() {
            return Vec::new();
        }
        let pods = cgroups.table().iter().filter(|cgroup| cgroup.name.kind == CgroupKind::Pod && cgroup.lives());
        let slots: HashMap<&str, u32> = pods.filter_map(|pod| Some((pod.name.pod_uid.as_deref()?, pod.slot))).collect();
        let mut by_slot: HashMap<u32, Vec<Point>> = HashMap::new();
        for volume in self.volumes.iter().take(MOST_VOLUMES) {
            let path = below(&self.root, &volume.file_system.point);
            let slot = slots.get(&*volume.pod_uid);
            // One that cannot be reached may be on its way out with its pod.
            let room =
                slot.and_then(|_| statvfs(&path).ok()).filter(|room| room.blocks() > 0 && is_there(&volume.file_system, &path));
            if let (Some(slot), Some(room)) = (slot, room) {
                by_slot.entry(*slot).or_default().extend(of_volume(&volume.name, &room));
            }
        }
        by_slot.into_iter().collect()
    }
}

fn of_volume(name: &str, room: &Statvfs) -> impl Iterator<Item = Point> {
    let block = room.fragment_size();
    let inodes = Some(room.files()).filter(|inodes| *inodes > 0);
    let values = [
        (&VOLUME_CAPACITY, Some(room.blocks() * block)),
        (&VOLUME_AVAILABLE, Some(room.blocks_available() * block)),
        (&VOLUME_USAGE, Some(room.blocks().saturating_sub(room.blocks_free()) * block)),
        (&VOLUME_INODES, inodes),
        (&VOLUME_INODES_FREE, inodes.map(|_| room.files_free())),
    ];
    let name = name.to_owned();
    values.into_iter().filter_map(move |(metric, value)| Some(whole(metric, value)?.with("k8s.volume.name", name.clone())))
}

/// Whether this is what podmeter finds at that path. Files of a file system on several devices have another number than its mount.
fn is_there(known: &FileSystem, path: &Path) -> bool {
    let found = stat(path).map(|found| format!("{}:{}", major(found.st_dev), minor(found.st_dev)));
    known.device.starts_with("0:") || found.is_ok_and(|found| found == known.device)
}

/// A path of the node as podmeter sees it.
fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn of(known: &FileSystem, room: &Statvfs, points: &mut Vec<Point>) {
    let mut add = |metric: &'static Metric, state: Option<&'static str>, value: u64| {
        let point = whole(metric, Some(value)).map(|point| match state {
            Some(state) => point.with("system.filesystem.state", state),
            None => point,
        });
        points.extend(point.map(|point| {
            let mode = if known.read_only { "ro" } else { "rw" };
            let mut point = point
                .with("system.filesystem.mode", mode)
                .with("system.device", known.source.clone())
                .with("system.filesystem.mountpoint", known.point.clone())
                .with("system.filesystem.type", known.kind.clone());
            if !known.roles.is_empty() {
                point = point.with("podmeter.filesystem.role", known.roles.clone());
            }
            point
        }));
    };
    let block = room.fragment_size();
    let (all, free, available) = (room.blocks() * block, room.blocks_free() * block, room.blocks_available() * block);
    add(&FS_LIMIT, None, all);
    add(&FS_USAGE, Some("used"), all.saturating_sub(free));
    add(&FS_USAGE, Some("free"), available);
    add(&FS_USAGE, Some("reserved"), free.saturating_sub(available));
    // btrfs and others make inodes as they need them, and say 0.
    if room.files() > 0 {
        add(&FS_INODES, Some("used"), room.files().saturating_sub(room.files_free()));
        add(&FS_INODES, Some("free"), room.files_free());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_file_system_are_its_size() {
        let known = FileSystem {
            source: "/dev/vda1".to_owned(),
            point: "/".to_owned(),
            device: "254:1".to_owned(),
            kind: "ext4".to_owned(),
            read_only: false,
            roles: "root".to_owned(),
        };
        let room = statvfs("/").expect("the root is there");
        let mut points = Vec::new();
        of(&known, &room, &mut points);
        let sum = |metric: &'static Metric| -> u64 {
            let its = points.iter().filter(|point| std::ptr::eq(point.metric, metric));
            its.map(|point| if let crate::metric::Value::Int(value) = point.value { value } else { 0 }).sum()
        };
        assert_eq!(sum(&FS_USAGE), sum(&FS_LIMIT));
        assert_eq!(sum(&FS_INODES), room.files());
        assert!(points.iter().all(|point| point.attributes.iter().any(|pair| pair == ("podmeter.filesystem.role", "root"))));
    }
}
