//! The names of a cgroup's directory and of those above it -> what people call it: the pod, the container, the service.
//!
//! Pure, and by those names alone: names of pods and containers come from Kubernetes, joined by the ids found here. The layouts are
//! those that kubelet, the container runtimes and systemd make; each rule names its source.
//!
//! A container that may make cgroups calls them what it likes. So what is below a pod's container belongs to that container,
//! whatever it is called, and where Kubernetes is asked for names, a pod is what the node's kubelet made ([`Kubelets`]).

use std::borrow::Cow;

/// Longest path, in bytes, by which a plain cgroup is called. A longer one is called by its last component.
const SHORT_PATH: usize = 40;
/// Digits of a container's id that people see: those that `docker ps` shows.
const SHORT_ID: usize = 12;

/// What a cgroup is and what it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// What the cgroup itself is.
    pub kind: CgroupKind,
    /// What people call it: a pod's UID, a container's short id, a unit without its suffix, the path of a plain cgroup.
    pub name: String,
    /// UID of the pod it is, or belongs to: a UUID with dashes, or for a static pod 32 hex digits, which the API shows as
    /// the annotation `kubernetes.io/config.hash` of a pod that has another UID.
    pub pod_uid: Option<String>,
    /// Id of the container it is, or belongs to. Below a pod that is the container that Kubernetes knows, also for the
    /// containers that something makes inside it.
    pub container_id: Option<String>,
    /// What made that container, where the path tells.
    pub runtime: Option<Runtime>,
    /// QoS class of that pod, or of the level of kubelet's tree.
    pub qos: Option<Qos>,
    /// True below a container or machine: its CPU is part of that one's.
    pub nested: bool,
}

/// What a cgroup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CgroupKind {
    /// The root: the whole machine.
    Root,
    /// A Kubernetes pod.
    Pod,
    /// A container of any runtime.
    Container,
    /// A virtual machine or container that is registered with systemd-machined.
    Machine,
    /// A systemd service.
    Service,
    /// A systemd scope: a login session, an application.
    Scope,
    /// A systemd slice.
    Slice,
    /// Any other.
    Cgroup,
}

impl CgroupKind {
    /// The word shown to people and written to JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "Root",
            Self::Pod => "Pod",
            Self::Container => "Container",
            Self::Machine => "Machine",
            Self::Service => "Service",
            Self::Scope => "Scope",
            Self::Slice => "Slice",
            Self::Cgroup => "Cgroup",
        }
    }
}

/// What makes and runs containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// containerd, by CRI or nerdctl.
    Containerd,
    /// CRI-O.
    CriO,
    /// Docker, also under Kubernetes by cri-dockerd.
    Docker,
    /// Podman.
    Podman,
    /// LXC, LXD, Incus.
    Lxc,
    /// systemd-nspawn.
    Nspawn,
}

impl Runtime {
    /// The value of `container.runtime.name`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Lxc => "lxc",
            Self::Nspawn => "systemd-nspawn",
        }
    }

    /// By what a runtime writes before a container's id, in the name of a scope or directory.
    fn of_prefix(prefix: &str) -> Option<Self> {
        match prefix {
            // containerd: internal/cri/server/podsandbox/helpers.go, `getCgroupsPath`; nerdctl: pkg/cmd/container/run_cgroup_linux.go
            "cri-containerd" | "nerdctl" => Some(Self::Containerd),
            // CRI-O: internal/config/cgmgr, `CrioPrefix`
            "crio" => Some(Self::CriO),
            // moby: daemon/oci_linux.go, `WithCgroups`
            "docker" => Some(Self::Docker),
            // Podman: libpod/container_internal_linux.go, `getOCICgroupPath`; the payload is that of `--cgroups=split` (Quadlet).
            "libpod" | "libpod-payload" => Some(Self::Podman),
            _ => None,
        }
    }
}

/// A pod's quality of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Qos {
    /// Every request equals its limit.
    Guaranteed,
    /// Some request or limit.
    Burstable,
    /// None.
    BestEffort,
}

impl Qos {
    /// The word Kubernetes uses in `status.qosClass`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// By its level in kubelet's tree (pkg/kubelet/cm/qos_container_manager_linux.go). Guaranteed pods have none.
    fn of_level(level: &str) -> Option<Self> {
        match level {
            "burstable" => Some(Self::Burstable),
            "besteffort" => Some(Self::BestEffort),
            _ => None,
        }
    }
}

/// Whose pods count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kubelets {
    /// The node's: where Kubernetes is asked for names. What a container or a user's own service manager made is no pod. A kubelet in a
    /// container (kind, k3d, minikube) is the node's where that container's cgroup is the root: in its cgroup namespace, or by
    /// `cgroups.root`.
    OfTheNode,
    /// Also one that runs in a container outside of pods: on a host that asks nobody for names.
    Any,
}

/// Where what is made in a cgroup is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Within {
    /// Below a container or machine.
    inside: bool,
    /// Whoever runs there may make cgroups and name them.
    delegated: bool,
    /// A level of kubelet's tree above the pods, and its QoS class.
    level: Option<Option<Qos>>,
    /// Name of the directory.
    above: String,
}

/// What one component of a path says.
enum Part {
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

impl Name {
    /// The root's.
    pub fn root() -> Self {
        let name = String::from("/");
        Self { kind: CgroupKind::Root, name, pod_uid: None, container_id: None, runtime: None, qos: None, nested: false }
    }

    /// What the cgroup is that has the directory `directory` in this one's, and where what is made in it is made. `path` is its own,
    /// by which it may be called.
    pub fn child(&self, within: &Within, directory: &str, path: &str, kubelets: Kubelets) -> (Self, Within) {
        let (mut name, mut within) = (self.clone(), within.clone());
        for component in split_colons(directory).into_iter().flatten() {
            name.descend(&mut within, &component, path, kubelets);
            within.above = component.into_owned();
        }
        (name, within)
    }

    fn descend(&mut self, within: &mut Within, component: &str, path: &str, kubelets: Kubelets) {
        let in_pod = self.pod_uid.is_some() && !within.inside;
        // Below a pod's container always: what it claims would be taken for another pod's by whoever joins names later.
        let claimed = within.delegated && (kubelets == Kubelets::OfTheNode || self.pod_uid.is_some());
        self.nested = within.inside;
        let level = within.level.take();
        let kubelets = if claimed { None } else { kubelet_slice(component).or_else(|| kubelet_directory(component, level)) };
        match kubelets.unwrap_or_else(|| part(component, &within.above, in_pod)) {
            Part::Pod { uid, qos } => {
                let (name, pod_uid) = (uid.clone(), Some(uid));
                let (container_id, runtime, qos) = (None, None, Some(qos));
                *self = Self { kind: CgroupKind::Pod, name, pod_uid, container_id, runtime, qos, nested: false };
                (within.inside, within.delegated) = (false, false);
            }
            Part::Container { id, name, runtime } => {
                // One inside another belongs to it; LXC has no ids, so there the inner one's is the only one.
                if !within.inside || self.container_id.is_none() && !claimed {
                    (self.container_id, self.runtime) = (id, runtime);
                }
                (self.kind, self.name) = (CgroupKind::Container, name);
                (within.inside, within.delegated) = (true, true);
            }
            Part::Machine(name) => {
                (self.kind, self.name) = (CgroupKind::Machine, name);
                (within.inside, within.delegated) = (true, true);
            }
            Part::PodmanPod(name) => (self.kind, self.name) = (unit(component, path).0, name),
            Part::Level(qos) => {
                within.level = Some(qos);
                if self.pod_uid.is_none() {
                    self.qos = qos;
                }
                (self.kind, self.name) = unit(component, path);
            }
            Part::Other => {
                (self.kind, self.name) = unit(component, path);
                // systemd lets a user's own service manager make what it likes below its unit.
                within.delegated |= component.starts_with("user@") && self.kind == CgroupKind::Service;
            }
        }
    }
}

/// Tells what the cgroup with this path is. The path is that from the root; every string gives a name.
pub fn parse(path: &str, kubelets: Kubelets) -> Name {
    let components = path.split('/').filter(|component| !component.is_empty());
    components.fold((Name::root(), Within::default()), |(name, within), next| name.child(&within, next, path, kubelets)).0
}

/// Where kubelet uses the systemd driver and containerd does not, one directory has the name `slice:prefix:id`, which is meant
/// for systemd (opencontainers/runc, libcontainer/cgroups: "slice:prefix:name"). It is read as the two it stands for.
fn split_colons(component: &str) -> [Option<Cow<'_, str>>; 2] {
    let mut parts = component.split(':');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(slice), Some(prefix), Some(id), None) if is_id(id) && !slice.is_empty() && !prefix.is_empty() => {
            [Some(slice.into()), Some(format!("{prefix}-{id}.scope").into())]
        }
        _ => [Some(component.into()), None],
    }
}

/// What `component` says in the directory `above`, if it is not of kubelet's tree.
fn part(component: &str, above: &str, in_pod: bool) -> Part {
    if let Some(id) = podman_pod(component, above) {
        return Part::PodmanPod(format!("libpod_pod_{}", short(id)));
    }
    let stem = component.strip_suffix(".scope").unwrap_or(component);
    if is_id(stem) {
        // The cgroupfs driver: kubelet's containers, `/docker/<id>`.
        let runtime = Runtime::of_prefix(above);
        return Part::Container { id: Some(stem.to_owned()), name: short(stem), runtime };
    }
    if let Some((prefix, id)) = prefixed_id(component) {
        let runtime = Runtime::of_prefix(prefix);
        // Only in a pod is a runtime trusted that is not known, and conmon is not the container but what watches it.
        if runtime.is_some() || in_pod && !prefix.ends_with("conmon") {
            return Part::Container { id: Some(id.to_owned()), name: short(id), runtime };
        }
    }
    let named = |name: &str, runtime| Part::Container { id: None, name: unescape(name), runtime: Some(runtime) };
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
        Some(name) if above == "machine.slice" => Part::Machine(machine(&unescape(name))),
        _ => Part::Other,
    }
}

/// kubelet's systemd driver: `[root-]kubepods[-qos][-pod<uid>].slice`, where `_` stands for `-` inside each part.
///
/// Source: pkg/kubelet/cm/cgroup_manager_linux.go, `CgroupName.ToSystemd` and `escapeSystemdCgroupName`.
fn kubelet_slice(component: &str) -> Option<Part> {
    let parts: Vec<&str> = component.strip_suffix(".slice")?.split('-').collect();
    let top = parts.iter().position(|part| *part == "kubepods")?;
    match parts[top + 1..] {
        [] => Some(Part::Level(None)),
        [level] if let Some(qos) = Qos::of_level(level) => Some(Part::Level(Some(qos))),
        [pod] => Some(Part::Pod { uid: pod_uid(pod)?, qos: Qos::Guaranteed }),
        [level, pod] => Some(Part::Pod { uid: pod_uid(pod)?, qos: Qos::of_level(level)? }),
        _ => None,
    }
}

/// kubelet's cgroupfs driver: `kubepods[/qos][/pod<uid>]`.
///
/// Source: pkg/kubelet/cm/cgroup_manager_linux.go, `CgroupName.ToCgroupfs`.
fn kubelet_directory(component: &str, level: Option<Option<Qos>>) -> Option<Part> {
    match level {
        _ if component == "kubepods" => Some(Part::Level(None)),
        None => None,
        Some(None) if Qos::of_level(component).is_some() => Some(Part::Level(Qos::of_level(component))),
        Some(qos) => Some(Part::Pod { uid: pod_uid(component)?, qos: qos.unwrap_or(Qos::Guaranteed) }),
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
/// `libpod_parent/<id>` with cgroupfs. Below a `--cgroup-parent` of one's own the latter looks like a container of docker or ctr.
///
/// Source: Podman's libpod/runtime_pod_linux.go, `NewPod`.
fn podman_pod<'a>(component: &'a str, above: &str) -> Option<&'a str> {
    let of_slice = || component.strip_suffix(".slice")?.rsplit_once("libpod_pod_").map(|(_, id)| id);
    Some(component).filter(|_| above == "libpod_parent").or_else(of_slice).filter(|id| is_id(id))
}

/// A unit's name without its escapes and its suffix; of anything else its path when that is short, or else its last component.
fn unit(component: &str, path: &str) -> (CgroupKind, String) {
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
fn is_id(word: &str) -> bool {
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

/// A name or path as text. What is not UTF-8 is written as `\xNN`, as systemd does: two names that differ only there stay two.
pub(super) fn readable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

/// Replaces systemd's `\xNN` by the byte it stands for (`systemd-escape --unescape`, without its `-` for `/`: people call units
/// by the name that `systemctl` shows). What is no escape stays as it is.
fn unescape(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        match *rest {
            [b'\\', b'x', high, low, ref after @ ..] if let (Some(high), Some(low)) = (digit(high), digit(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = after;
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests;
