//! The names of a cgroup's directory and of those above it -> the pod, the container or the service that it is.
//!
//! Pure, and by those names alone: names of pods and containers come from Kubernetes, joined by the ids found here. The layouts are
//! those that kubelet, the container runtimes and systemd make; each rule names its source.
//!
//! A container that may make cgroups chooses their names. So a cgroup below a pod's container belongs to that container, whatever its
//! name, and where names come from Kubernetes, only the node's kubelet makes pods ([`Kubelets`]).

mod escape;
mod part;

pub(super) use self::escape::readable;
use self::part::{PathPart, kubelet_directory, kubelet_slice, part, split_colons, unit};

/// What a cgroup is and what it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// What the cgroup itself is.
    pub kind: CgroupKind,
    /// Its name for people: a pod's UID, a container's short id, a unit without its suffix, the path of a plain cgroup.
    pub name: String,
    /// UID of the pod it is, or belongs to: a UUID with dashes, or for a static pod 32 hex digits, which the API shows as
    /// the annotation `kubernetes.io/config.hash` of a pod that has another UID.
    pub pod_uid: Option<String>,
    /// Id of the container it is, or belongs to. Below a pod that is the container that Kubernetes knows, also for the
    /// containers that something makes inside it.
    pub container_id: Option<String>,
    /// The runtime that made that container, where the path shows it.
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
    /// All of them.
    const ALL: [Self; 8] =
        [Self::Root, Self::Pod, Self::Container, Self::Machine, Self::Service, Self::Scope, Self::Slice, Self::Cgroup];

    /// The one that is written like this.
    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// As shown to people and written to JSON.
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
    pub(super) fn of_prefix(prefix: &str) -> Option<Self> {
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
    /// As Kubernetes writes it in `status.qosClass`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// By its level in kubelet's tree (pkg/kubelet/cm/qos_container_manager_linux.go). Guaranteed pods have none.
    pub(super) fn of_level(level: &str) -> Option<Self> {
        match level {
            "burstable" => Some(Self::Burstable),
            "besteffort" => Some(Self::BestEffort),
            _ => None,
        }
    }
}

/// The kubelets whose pods count as pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kubelets {
    /// The node's: where names come from Kubernetes. What a container or a user's service manager made is no pod. A kubelet in a
    /// container (kind, k3d, minikube) is the node's where that container's cgroup is the root: in its cgroup namespace, or by
    /// `cgroups.root`.
    OfTheNode,
    /// Also one that runs in a container outside of pods: on a host without names from Kubernetes.
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

impl Name {
    /// The root's.
    pub fn root() -> Self {
        let name = String::from("/");
        Self { kind: CgroupKind::Root, name, pod_uid: None, container_id: None, runtime: None, qos: None, nested: false }
    }

    /// What the cgroup is that has the directory `directory` in this one's, and where what is made in it is made. `path` is its own,
    /// which may be its name.
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
        // Below a pod's container always: a pod that it claims to be would be joined with that pod's names later.
        let claimed = within.delegated && (kubelets == Kubelets::OfTheNode || self.pod_uid.is_some());
        self.nested = within.inside;
        let level = within.level.take();
        let kubelets = if claimed { None } else { kubelet_slice(component).or_else(|| kubelet_directory(component, level)) };
        match kubelets.unwrap_or_else(|| part(component, &within.above, in_pod)) {
            PathPart::Pod { uid, qos } => {
                let (name, pod_uid) = (uid.clone(), Some(uid));
                let (container_id, runtime, qos) = (None, None, Some(qos));
                *self = Self { kind: CgroupKind::Pod, name, pod_uid, container_id, runtime, qos, nested: false };
                (within.inside, within.delegated) = (false, false);
            }
            PathPart::Container { id, name, runtime } => {
                // One inside another belongs to it; LXC has no ids, so there the inner one's is the only one.
                if !within.inside || self.container_id.is_none() && !claimed {
                    (self.container_id, self.runtime) = (id, runtime);
                }
                (self.kind, self.name) = (CgroupKind::Container, name);
                (within.inside, within.delegated) = (true, true);
            }
            PathPart::Machine(name) => {
                (self.kind, self.name) = (CgroupKind::Machine, name);
                (within.inside, within.delegated) = (true, true);
            }
            PathPart::PodmanPod(name) => (self.kind, self.name) = (unit(component, path).0, name),
            PathPart::Level(qos) => {
                within.level = Some(qos);
                if self.pod_uid.is_none() {
                    self.qos = qos;
                }
                (self.kind, self.name) = unit(component, path);
            }
            PathPart::Other => {
                (self.kind, self.name) = unit(component, path);
                // systemd lets a user's service manager make any cgroup below its unit.
                within.delegated |= component.starts_with("user@") && self.kind == CgroupKind::Service;
            }
        }
    }
}

/// The name of the cgroup with this path. The path is that from the root; every string gives a name.
pub fn parse(path: &str, kubelets: Kubelets) -> Name {
    let components = path.split('/').filter(|component| !component.is_empty());
    components.fold((Name::root(), Within::default()), |(name, within), next| name.child(&within, next, path, kubelets)).0
}

#[cfg(test)]
mod tests;
