//! The node's mounts, and which of them are file systems to look at: `mountinfo` of the node's first process.
//!
//! A file system counts once, however often it is mounted, and where it is mounted with the shortest path. It counts where it is on a block
//! device, or is btrfs, zfs or bcachefs, which have several; an overlay only as the node's root. Not: what is in memory, images that are
//! always full, what a network or a process answers for, since a question to that may never return, and what is mounted inside such. A
//! volume of a pod, which is one that is mounted in kubelet's directory of pods only, is apart.

use std::collections::{HashMap, HashSet};

/// File systems without a block device of their own that are on disks all the same.
const ON_SEVERAL_DEVICES: [&str; 3] = ["btrfs", "zfs", "bcachefs"];
/// Images that cannot be written: always full.
const IMAGES: [&str; 5] = ["squashfs", "erofs", "iso9660", "udf", "cramfs"];
/// Where a mount may wait for an answer for ever, by how its type begins.
const ANSWERED_BY_OTHERS: [&str; 12] =
    ["nfs", "cifs", "smb", "ceph", "fuse", "9p", "afs", "glusterfs", "lustre", "autofs", "virtiofs", "beegfs"];

/// What kubelet mounts for pods and for its plugins, below its directory.
pub(super) const KUBELET: &str = "/var/lib/kubelet";
/// What the path of a volume has in it.
const VOLUMES: &str = "/volumes/kubernetes.io~";
/// Where images and what containers write are, by runtime.
const OF_IMAGES: [&str; 3] = ["/var/lib/containerd", "/var/lib/containers", "/var/lib/docker"];

/// One line of the file.
#[derive(Debug)]
struct Mount<'a> {
    id: u32,
    parent: u32,
    /// `major:minor`
    device: &'a str,
    point: String,
    read_only: bool,
    kind: &'a str,
    source: &'a str,
}

impl<'a> Mount<'a> {
    /// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
    fn parse(line: &'a str) -> Option<Self> {
        let (own, of_file_system) = line.split_once(" - ")?;
        let mut words = own.split(' ');
        let (id, parent, device) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?);
        let _root = words.next()?;
        let (point, options) = (unescaped(words.next()?), words.next()?);
        let mut words = of_file_system.split(' ');
        let (kind, source) = (words.next()?, words.next()?);
        let is_read_only = |options: &str| options.split(',').any(|option| option == "ro");
        let read_only = is_read_only(options) || words.next().is_some_and(is_read_only);
        Some(Self { id, parent, device, point, read_only, kind, source })
    }

    /// Whether it has room of its own that can run out.
    fn is_looked_at(&self) -> bool {
        let on_device = !self.device.starts_with("0:") && !IMAGES.contains(&self.kind);
        on_device || ON_SEVERAL_DEVICES.contains(&self.kind) || self.kind == "overlay" && self.point == "/"
    }

    fn is_answered_by_others(&self) -> bool {
        ANSWERED_BY_OTHERS.iter().any(|kind| self.kind.starts_with(kind))
    }

    fn file_system(&self, roles: String) -> FileSystem {
        FileSystem {
            source: self.source.to_owned(),
            point: self.point.clone(),
            device: self.device.to_owned(),
            kind: self.kind.to_owned(),
            read_only: self.read_only,
            roles,
        }
    }

    /// Whether kubelet has mounted it for a pod or a plugin.
    fn is_kubelets(&self) -> bool {
        let below = self.point.strip_prefix(KUBELET);
        below.is_some_and(|below| below.starts_with("/pods/") || below.starts_with("/plugins/"))
    }
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescaped(path: &str) -> String {
    if !path.contains('\\') {
        return path.to_owned();
    }
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(path.to_owned(), |path, (escape, meant)| path.replace(escape, meant))
}

/// A file system to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileSystem {
    /// What is mounted, such as `/dev/vda1`.
    pub source: String,
    /// Where, as the node sees it.
    pub point: String,
    /// `major:minor`
    pub device: String,
    /// ext4, xfs, ...
    pub kind: String,
    /// Whether nothing can be written there.
    pub read_only: bool,
    /// What of the node is on it, such as `kubelet,images`.
    pub roles: String,
}

/// Those of the node itself, in the order of their mount points.
pub(super) fn file_systems(text: &str) -> Vec<FileSystem> {
    let mounts: Vec<Mount<'_>> = text.lines().filter_map(Mount::parse).collect();
    let hidden = hidden(&mounts);
    let mut by_device: HashMap<&str, &Mount<'_>> = HashMap::new();
    for mount in mounts.iter().filter(|mount| mount.is_looked_at() && !mount.is_kubelets() && !hidden.contains(&mount.id)) {
        let shortest = by_device.entry(mount.device).or_insert(mount);
        if mount.point.len() < shortest.point.len() {
            *shortest = mount;
        }
    }
    let mut devices: Vec<_> = by_device.into_values().collect();
    devices.sort_by(|a, b| a.point.cmp(&b.point));
    devices.iter().map(|mount| mount.file_system(roles(mount.device, &mounts))).collect()
}

/// A volume of a pod that has room of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Volume {
    /// The pod's.
    pub pod_uid: String,
    /// The name of the directory that kubelet gives it: of a claim that of its PersistentVolume, of others that in the pod's spec.
    pub name: String,
    /// What is mounted there.
    pub file_system: FileSystem,
}

/// Those of the node's pods: a directory that kubelet has mounted for one, `pods/<uid>/volumes/<plugin>/<name>`, for CSI with `/mount`.
pub(super) fn volumes(text: &str) -> Vec<Volume> {
    let mounts: Vec<Mount<'_>> = text.lines().filter(|line| line.contains(VOLUMES)).filter_map(Mount::parse).collect();
    let volume = |mount: &Mount<'_>| {
        let rest = mount.point.strip_prefix(KUBELET)?.strip_prefix("/pods/")?;
        let mut words = rest.split('/');
        let (pod_uid, volumes, _plugin, name) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let is_whole = matches!((words.next(), words.next()), (None | Some("mount"), None));
        (volumes == "volumes" && is_whole && mount.is_looked_at()).then(|| Volume {
            pod_uid: pod_uid.to_owned(),
            name: name.to_owned(),
            file_system: mount.file_system(String::new()),
        })
    };
    mounts.iter().filter_map(volume).collect()
}

/// What is on a device: the node's root, kubelet's directory, images. A runtime without a directory of its own mount has its images where
/// that would be.
fn roles(device: &str, mounts: &[Mount<'_>]) -> String {
    let holds = |path: &str| holder(path, mounts).is_some_and(|mount| mount.device == device);
    let mut roles = Vec::new();
    for (role, paths) in [("root", &["/"][..]), ("kubelet", &[KUBELET]), ("images", &OF_IMAGES)] {
        // Most nodes have one runtime: a mount of its own tells where its images are, else all three are in one place.
        let own = paths.iter().find(|path| mounts.iter().any(|mount| mount.point == **path));
        if own.or(paths.first()).is_some_and(|path| holds(path)) {
            roles.push(role);
        }
    }
    roles.join(",")
}

/// The mount that a path is on.
fn holder<'a, 'm>(path: &str, mounts: &'m [Mount<'a>]) -> Option<&'m Mount<'a>> {
    let is_on = |mount: &&Mount<'_>| {
        mount.point == "/" || path.strip_prefix(&*mount.point).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    // Of two at one place the later one is above.
    mounts.iter().filter(is_on).max_by_key(|mount| mount.point.len())
}

/// Ids of mounts that are not to be reached: inside a file system that others answer for.
fn hidden(mounts: &[Mount<'_>]) -> HashSet<u32> {
    let mut hidden: HashSet<u32> = mounts.iter().filter(|mount| mount.is_answered_by_others()).map(|mount| mount.id).collect();
    if hidden.is_empty() {
        return hidden;
    }
    loop {
        let inside: Vec<u32> =
            mounts.iter().filter(|m| hidden.contains(&m.parent) && !hidden.contains(&m.id)).map(|mount| mount.id).collect();
        if inside.is_empty() {
            return hidden;
        }
        hidden.extend(inside);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
23 22 0:5 / /proc rw - proc proc rw
24 22 0:23 / /run rw - tmpfs tmpfs rw
30 22 254:2 / /boot ro,relatime - vfat /dev/vda2 rw
31 22 254:16 / /var/lib/containerd rw - xfs /dev/vdb rw
32 22 254:16 /x /srv/with\\040space/of\\040it rw - xfs /dev/vdb rw
33 22 7:1 / /snap/core/1 ro - squashfs /dev/loop1 ro
34 22 0:40 / /data rw - btrfs /dev/vdc rw
35 22 0:50 / /mnt/far rw - nfs4 server:/x rw
36 35 254:48 / /mnt/far/near rw - ext4 /dev/vdd rw
40 22 254:32 / /var/lib/kubelet/plugins/kubernetes.io/csi/x/globalmount rw - ext4 /dev/vde rw
41 22 254:32 / /var/lib/kubelet/pods/u-1/volumes/kubernetes.io~csi/pvc-1/mount rw - ext4 /dev/vde rw
42 22 254:1 /a /var/lib/kubelet/pods/u-1/volume-subpaths/a/b/0 rw - ext4 /dev/vda1 rw
43 22 0:60 / /run/containerd/io.containerd.runtime.v2.task/k8s.io/c/rootfs rw - overlay overlay rw
what is no line
";

    #[test]
    fn a_file_system_counts_once_and_others_do_not_count() {
        let found = file_systems(MOUNTS);
        let points: Vec<_> = found.iter().map(|found| (&*found.point, &*found.source, &*found.kind, found.read_only)).collect();
        let expected = [
            ("/", "/dev/vda1", "ext4", false),
            ("/boot", "/dev/vda2", "vfat", true),
            ("/data", "/dev/vdc", "btrfs", false),
            ("/var/lib/containerd", "/dev/vdb", "xfs", false),
        ];
        assert_eq!(points, expected);
        let roles: Vec<_> = found.iter().map(|found| &*found.roles).collect();
        assert_eq!(roles, ["root,kubelet", "", "", "images"]);
    }

    #[test]
    fn volumes_of_pods_are_those_that_kubelet_mounts_from_a_device() {
        let more = "\
50 22 254:64 / /var/lib/kubelet/pods/u-2/volumes/kubernetes.io~local-volume/pv-2 rw - xfs /dev/vdf rw
51 22 0:70 / /var/lib/kubelet/pods/u-2/volumes/kubernetes.io~projected/token rw - tmpfs tmpfs rw
52 22 0:71 / /var/lib/kubelet/pods/u-2/volumes/kubernetes.io~nfs/far rw - nfs4 server:/x rw
";
        let found = volumes(&format!("{MOUNTS}{more}"));
        let names: Vec<_> = found.iter().map(|volume| (&*volume.pod_uid, &*volume.name, &*volume.file_system.source)).collect();
        assert_eq!(names, [("u-1", "pvc-1", "/dev/vde"), ("u-2", "pv-2", "/dev/vdf")]);
    }

    #[test]
    fn a_node_that_is_a_container_has_an_overlay_as_its_root() {
        let found = file_systems("22 1 0:60 / / rw - overlay overlay rw\n23 22 254:1 /v /var rw - ext4 /dev/vda1 rw\n");
        let roles: Vec<_> = found.iter().map(|found| (&*found.point, &*found.roles)).collect();
        assert_eq!(roles, [("/", "root"), ("/var", "kubelet,images")]);
    }

    #[test]
    fn a_path_of_the_kernel_has_its_spaces_back() {
        assert_eq!(unescaped("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescaped("/plain"), "/plain");
    }
}
