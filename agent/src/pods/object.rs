//! A pod, a node, a namespace: the parts of the Kubernetes API's objects that podmeter keeps.
//!
//! Objects are reduced while they are read: `wire` has the API's fields that are read, the types here stay in memory. Unknown fields are skipped, missing ones are unknown; only an object without a name and a UID is refused.

mod reduce;
mod wire;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::{quantity::Quantity, workload::Workload};
use crate::{bound::bounded, config::Range};

/// Labels that are kept, beside what every metric needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptLabels {
    /// Keys of pod labels that become attributes.
    pub labels: Vec<String>,
    /// Keys of namespace labels that become attributes.
    pub namespace_labels: Vec<String>,
    /// Whether `app.kubernetes.io/instance` and `app.kubernetes.io/name` name the service.
    pub service_labels: bool,
}

/// Labels by key.
pub type Labels = Vec<(Box<str>, Box<str>)>;

/// One pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    /// `metadata.uid`: of a mirror pod, the mirror's.
    pub uid: Box<str>,
    /// The UID in the paths of its cgroups where that is another one: a static pod's, which the API shows as an annotation.
    pub cgroup_uid: Option<Box<str>>,
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// The workload that made it, if any.
    pub workload: Option<Workload>,
    /// The labels that are kept.
    pub labels: Labels,
    /// Names of its service.
    pub service: Service,
    /// `status.qosClass`.
    pub qos: Option<Box<str>>,
    /// `spec.priorityClassName`.
    pub priority_class: Option<Box<str>>,
    /// `spec.resources`: what all its containers may have together (1.34, or earlier behind a gate).
    pub resources: Resources,
    /// What the status reports of the pod as a whole since 1.36, or earlier behind a gate. The overhead is part of it.
    pub reported: ReportedResources,
    /// Whether its node has refused a resize for good: what the spec requests will not come.
    pub resize_infeasible: bool,
    /// `spec.overhead`: what its sandbox needs beside its containers.
    pub overhead: Resources,
    /// `status.phase`.
    pub phase: Option<PodPhase>,
    /// Its addresses; none for a pod in its node's network.
    pub addresses: Vec<IpAddr>,
    /// When it was made and came as far as it is.
    pub times: PodTimes,
    /// `status.reason`: why it is in its phase, of a pod that its node refused or evicted.
    pub reason: Option<Box<str>>,
    /// Why it is ended from outside, "Other" for a reason that is not Kubernetes' own, and since when, Unix time; of a pod that is.
    pub disruption: Option<(&'static str, Option<Duration>)>,
    /// When it was over, Unix time, of a pod that is: its last container's end, else the last change of its conditions.
    pub finished: Option<Duration>,
    /// Its containers of all kinds.
    pub containers: Vec<Container>,
}

impl Pod {
    /// Whether nothing of it runs or ever will again.
    pub fn is_over(&self) -> bool {
        self.phase.is_some_and(PodPhase::is_over)
    }
}

/// Moments of a pod's start, Unix time. Those of conditions are when they last became true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodTimes {
    /// `metadata.creationTimestamp`.
    pub created: Option<Duration>,
    /// `PodScheduled`: it has a node.
    pub scheduled: Option<Duration>,
    /// `status.startTime`: kubelet has taken it.
    pub accepted: Option<Duration>,
    /// `Initialized`: its init containers are through.
    pub initialized: Option<Duration>,
    /// `ContainersReady`.
    pub ready: Option<Duration>,
}

/// The names of a pod's service, from its annotations and well-known labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// `service.name`.
    pub name: Option<Box<str>>,
    /// `service.namespace`.
    pub namespace: Option<Box<str>>,
    /// `service.instance.id`.
    pub instance: Option<Box<str>>,
    /// `service.version`.
    pub version: Option<Box<str>>,
}

/// One container of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Container {
    /// Its name in the pod.
    pub name: Box<str>,
    /// Its part in the pod's life.
    pub role: ContainerRole,
    /// Requests and limits of the spec.
    pub desired: Resources,
    /// What the status reports since 1.33, or earlier behind the gate of in-place resize.
    pub reported: ReportedResources,
    /// Id of the container that runs now or ran last.
    pub id: Option<Box<str>>,
    /// Id of the one before, where the status still has it.
    pub previous_id: Option<Box<str>>,
    /// When the one that runs now or ran last began, Unix time.
    pub started: Option<Duration>,
    /// Its status.
    pub status: Option<ContainerStatus>,
}

/// A container's part in the life of its pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContainerRole {
    /// `spec.containers`.
    #[default]
    Main,
    /// `spec.initContainers`: runs to its end before the others start.
    Init,
    /// An init container with `restartPolicy: Always`, which goes on beside the others.
    Sidecar,
    /// `spec.ephemeralContainers`: put into a running pod to debug it.
    Ephemeral,
}

impl ContainerRole {
    /// The value of `podmeter.container.type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Main => "container",
            Self::Init => "init",
            Self::Sidecar => "sidecar",
            Self::Ephemeral => "ephemeral",
        }
    }
}

/// CPU and memory: requests and limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// `requests.cpu`.
    pub cpu_request: Option<Quantity>,
    /// `limits.cpu`.
    pub cpu_limit: Option<Quantity>,
    /// `requests.memory`.
    pub memory_request: Option<Quantity>,
    /// `limits.memory`.
    pub memory_limit: Option<Quantity>,
}

impl Resources {
    /// What is requested.
    pub fn requests(&self) -> CpuAndMemory {
        CpuAndMemory { cpu: self.cpu_request, memory: self.memory_request }
    }

    /// What is allowed.
    pub fn limits(&self) -> CpuAndMemory {
        CpuAndMemory { cpu: self.cpu_limit, memory: self.memory_limit }
    }
}

/// CPU and memory, of one list of the API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuAndMemory {
    /// CPUs.
    pub cpu: Option<Quantity>,
    /// Bytes of memory.
    pub memory: Option<Quantity>,
}

/// What a status reports of resources. A list that is there holds as a whole: what it lacks is not requested, or not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportedResources {
    /// `resources.requests`: in force.
    pub requests: Option<CpuAndMemory>,
    /// `resources.limits`: in force.
    pub limits: Option<CpuAndMemory>,
    /// `allocatedResources`: the requests that the node has admitted, in force or about to be.
    pub allocated: Option<CpuAndMemory>,
}

/// `status.phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodPhase {
    /// Not all containers have been started once.
    Pending,
    /// At least one container runs.
    Running,
    /// All have ended well.
    Succeeded,
    /// All have ended, one of them badly.
    Failed,
    /// Its node has not reported.
    Unknown,
}

impl PodPhase {
    /// All phases.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Running, Self::Succeeded, Self::Failed, Self::Unknown];

    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Unknown => "Unknown",
        }
    }

    fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == text)
    }

    /// Whether nothing of the pod runs or ever will again: its requests are free.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// The status of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerStatus {
    /// Whether it is ready for traffic.
    pub ready: bool,
    /// How often it was started again.
    pub restarts: u64,
    /// Its state.
    pub state: ContainerState,
    /// Why it waits, or why it ended.
    pub reason: Option<Box<str>>,
    /// Why the one before it ended.
    pub last_reason: Option<Box<str>>,
}

/// Whether a container runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContainerState {
    /// Not started yet, or to be started again.
    #[default]
    Waiting,
    /// Running.
    Running,
    /// Ended.
    Terminated,
}

/// The node that podmeter runs on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KubernetesNode {
    /// Its name.
    pub name: Box<str>,
    /// `status.allocatable.cpu`: what its pods may request in all.
    pub cpu: Option<Quantity>,
    /// `status.allocatable.memory`.
    pub memory: Option<Quantity>,
    /// `status.allocatable.pods`: how many it takes.
    pub pods: Option<Quantity>,
    /// `spec.podCIDRs`: where its pods have their addresses, if the cluster gives each node a range.
    pub pod_ranges: Vec<Range>,
    /// Its own addresses in the cluster.
    pub addresses: Vec<IpAddr>,
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: Box<str>,
    /// The labels that are kept.
    pub labels: Labels,
}

/// A kind of object that can be requested from the API.
pub trait ApiObject: Sized + Send + 'static {
    /// The resource's name in the API.
    const RESOURCE: &'static str;

    /// Whether only its metadata is requested.
    const METADATA_ONLY: bool;

    /// Whether it is identified by its UID, else by its name.
    const BY_UID: bool;

    /// Reads one from JSON.
    ///
    /// # Errors
    /// When it is not such an object.
    fn read(json: &str, kept_labels: &KeptLabels) -> Result<Self, serde_json::Error>;

    /// What identifies it among others of its kind.
    fn key(&self) -> &str;
}

impl ApiObject for Pod {
    const RESOURCE: &'static str = "pods";
    const METADATA_ONLY: bool = false;
    const BY_UID: bool = true;

    fn read(json: &str, kept_labels: &KeptLabels) -> Result<Self, serde_json::Error> {
        reduce::pod(json, kept_labels)
    }

    fn key(&self) -> &str {
        &self.uid
    }
}

impl ApiObject for KubernetesNode {
    const RESOURCE: &'static str = "nodes";
    const METADATA_ONLY: bool = false;
    const BY_UID: bool = false;

    fn read(json: &str, _: &KeptLabels) -> Result<Self, serde_json::Error> {
        reduce::kubernetes_node(json)
    }

    fn key(&self) -> &str {
        &self.name
    }
}

impl ApiObject for Namespace {
    const RESOURCE: &'static str = "namespaces";
    const METADATA_ONLY: bool = true;
    const BY_UID: bool = false;

    fn read(json: &str, kept_labels: &KeptLabels) -> Result<Self, serde_json::Error> {
        reduce::namespace(json, kept_labels)
    }

    fn key(&self) -> &str {
        &self.name
    }
}

/// The labels with these keys, in the order of the keys.
fn chosen(keys: &[String], labels: &BTreeMap<String, String>) -> Labels {
    keys.iter().filter_map(|key| Some((key.as_str().into(), kept(labels.get(key)?)))).collect()
}

/// Bytes of one text that are kept. Names in Kubernetes are no longer than 253; annotations and reasons hold anything.
const TEXT: usize = 1024;

/// What is kept of a text.
fn kept(text: &str) -> Box<str> {
    bounded(text, TEXT).as_ref().into()
}

#[cfg(test)]
mod tests;
