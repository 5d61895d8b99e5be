//! One directory's name -> what kubelet, a container runtime or systemd has made (pure).

use std::borrow::Cow;

use super::{CgroupKind, Qos, Runtime, escape::unescape};

/// Longest path, in bytes, by which a plain cgroup is called. A longer one is called by its last component.
const SHORT_PATH: usize = 40;
/// Digits of a container's id that people see: those that `docker ps` shows.
pub(super) const SHORT_ID: usize = 12;

/// The meaning of one component of a path.
pub(super) enum PathPart {
    /// A level of kubelet's tree above the pods.
    Level(Option<Qos>),
    Pod {
        uid: String,
        qos: Qos,
    },
    Container {
        id: Option<String>,
        name: String,
        runtime: Option<Runtime>,
    },
    Machine(String),
    /// A pod of podman's, which has containers in it, but no identity in Kubernetes.
    PodmanPod(String),
    /// A systemd unit or a plain cgroup.
    Other,
}

/// Where kubelet uses the systemd driver and containerd does not, one directory has the name `slice:prefix:id`, which is meant
/// for systemd (opencontainers/runc, libcontainer/cgroups: "slice:prefix:name"). It is read as the two it stands for.
pub(super) fn split_colons(component: &str) -> [Option<Cow<'_, str>>; 2] {
    let mut parts = component.split(':');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(slice), Some(prefix), Some(id), None) if is_id(id) && !slice.is_empty() && !prefix.is_empty() => {
            [Some(slice.into()), Some(format!("{prefix}-{id}.scope").into())]
        }
        _ => [Some(component.into()), None],
    }
}

/// The meaning of `component` in the directory `above`, if it is not of kubelet's tree.
pub(super) fn part(component: &str, above: &str, in_pod: bool) -> PathPart {
    if let Some(id) = podman_pod(component, above) {
        return PathPart::PodmanPod(format!("libpod_pod_{}", short(id)));
    }
    let stem = component.strip_suffix(".scope").unwrap_or(component);
    if is_id(stem) {
        // The cgroupfs driver: kubelet's containers, `/docker/<id>`.
        let runtime = Runtime::of_prefix(above);
        return PathPart::Container { id: Some(stem.to_owned()), name: short(stem), runtime };
    }
    if let Some((prefix, id)) = prefixed_id(component) {
        let runtime = Runtime::of_prefix(prefix);
        // Only in a pod is a runtime trusted that is not known, and conmon is not the container but what watches it.
        if runtime.is_some() || in_pod && !prefix.ends_with("conmon") {
            return PathPart::Container { id: Some(id.to_owned()), name: short(id), runtime };
        }
    }
    let named = |name: &str, runtime| PathPart::Container { id: None, name: unescape(name), runtime: Some(runtime) };
    // LXC: src/lxc/cgroups/cgfsng.c; before 4.0 (and in Proxmox) `/lxc/NAME`.
    match component.strip_prefix("lxc.payload.") {
        Some(name) if !name.is_empty() => return named(name, Runtime::Lxc),
        _ if above == "lxc" || above == "lxc.payload" => return named(component, Runtime::Lxc),
        _ => {}
    }
    if let Some(name) = between(component, "systemd-nspawn@", ".service") {
        return named(name, Runtime::Nspawn);
    }
    match between(component, "machine-", ".scope") {
        Some(name) if above == "machine.slice" => PathPart::Machine(machine(&unescape(name))),
        _ => PathPart::Other,
    }
}

/// kubelet's systemd driver: `[root-]kubepods[-qos][-pod<uid>].slice`, where `_` stands for `-` inside each part.
///
/// Source: pkg/kubelet/cm/cgroup_manager_linux.go, `CgroupName.ToSystemd` and `escapeSystemdCgroupName`.
pub(super) fn kubelet_slice(component: &str) -> Option<PathPart> {
    let parts: Vec<&str> = component.strip_suffix(".slice")?.split('-').collect();
    let top = parts.iter().position(|part| *part == "kubepods")?;
    match parts[top + 1..] {
        [] => Some(PathPart::Level(None)),
        [level] if let Some(qos) = Qos::of_level(level) => Some(PathPart::Level(Some(qos))),
        [pod] => Some(PathPart::Pod { uid: pod_uid(pod)?, qos: Qos::Guaranteed }),
        [level, pod] => Some(PathPart::Pod { uid: pod_uid(pod)?, qos: Qos::of_level(level)? }),
        _ => None,
    }
}

/// kubelet's cgroupfs driver: `kubepods[/qos][/pod<uid>]`.
///
/// Source: pkg/kubelet/cm/cgroup_manager_linux.go, `CgroupName.ToCgroupfs`.
pub(super) fn kubelet_directory(component: &str, level: Option<Option<Qos>>) -> Option<PathPart> {
    match level {
        _ if component == "kubepods" => Some(PathPart::Level(None)),
        None => None,
        Some(None) if Qos::of_level(component).is_some() => Some(PathPart::Level(Qos::of_level(component))),
        Some(qos) => Some(PathPart::Pod { uid: pod_uid(component)?, qos: qos.unwrap_or(Qos::Guaranteed) }),
    }
}

/// The UID in `pod<uid>` (`podCgroupNamePrefix` of pkg/kubelet/cm/pod_container_manager_linux.go), with dashes.
///
/// The API server makes UUIDs. kubelet makes the UIDs of static pods: 32 hex digits, an MD5 (pkg/kubelet/config/common.go,
/// `applyDefaults`).
fn pod_uid(component: &str) -> Option<String> {
    let uid = component.strip_prefix("pod")?.replace('_', "-");
    let is_dash = |i: usize| matches!(i, 8 | 13 | 18 | 23);
    let valid = match uid.len() {
        32 => uid.bytes().all(is_hex),
        36 => uid.bytes().enumerate().all(|(i, byte)| if is_dash(i) { byte == b'-' } else { is_hex(byte) }),
        _ => false,
    };
    valid.then_some(uid)
}

/// The id of podman's pod: `machine-libpod_pod_<id>.slice` (of a user `user-libpod_pod_<id>.slice`) with the systemd driver,
/// `libpod_parent/<id>` with cgroupfs. Below another `--cgroup-parent` the latter looks like a container of docker or ctr.
///
/// Source: Podman's libpod/runtime_pod_linux.go, `NewPod`.
fn podman_pod<'a>(component: &'a str, above: &str) -> Option<&'a str> {
    let of_slice = || component.strip_suffix(".slice")?.rsplit_once("libpod_pod_").map(|(_, id)| id);
    Some(component).filter(|_| above == "libpod_parent").or_else(of_slice).filter(|id| is_id(id))
}

/// A unit's name without its escapes and its suffix; of anything else its path when that is short, or else its last component.
pub(super) fn unit(component: &str, path: &str) -> (CgroupKind, String) {
    let suffixes = [(".service", CgroupKind::Service), (".scope", CgroupKind::Scope), (".slice", CgroupKind::Slice)];
    let stem = |suffix| component.strip_suffix(suffix).filter(|stem| !stem.is_empty());
    let known = suffixes.into_iter().find_map(|(suffix, kind)| Some((kind, stem(suffix)?)));
    let (kind, stem) = known.unwrap_or((CgroupKind::Cgroup, component));
    let path = path.trim_matches('/');
    let name = match prefixed_id(component) {
        Some((prefix, id)) => format!("{prefix}-{}", short(id)),
        None if kind == CgroupKind::Cgroup && path.len() <= SHORT_PATH => path.to_owned(),
        None => unescape(stem),
    };
    (kind, name)
}

/// The name of a machine as systemd-machined knows it; libvirt puts its driver and a number before it (src/util/virsystemd.c).
fn machine(name: &str) -> String {
    let mut parts = name.splitn(3, '-');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("qemu" | "lxc" | "ch" | "xen"), Some(number), Some(own))
            if !own.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            own.to_owned()
        }
        _ => name.to_owned(),
    }
}

/// `prefix-<id>`, with or without `.scope`.
fn prefixed_id(component: &str) -> Option<(&str, &str)> {
    let (prefix, id) = component.strip_suffix(".scope").unwrap_or(component).rsplit_once('-')?;
    (!prefix.is_empty() && is_id(id)).then_some((prefix, id))
}

/// Whether this is a container's id: 32 random bytes in lower-case hex in Docker, containerd's CRI, nerdctl, CRI-O and Podman.
pub(super) fn is_id(word: &str) -> bool {
    word.len() == 64 && word.bytes().all(is_hex)
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn short(id: &str) -> String {
    id.chars().take(SHORT_ID).collect()
}

fn between<'a>(word: &'a str, prefix: &str, suffix: &str) -> Option<&'a str> {
    word.strip_prefix(prefix)?.strip_suffix(suffix).filter(|middle| !middle.is_empty())
}
