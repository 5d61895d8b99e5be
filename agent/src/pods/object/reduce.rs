//! Objects of the API -> the parts of them that are kept (pure).

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, UNIX_EPOCH},
};

use super::{
    Container, ContainerRole, ContainerState, ContainerStatus, CpuAndMemory, KeptLabels, KubernetesNode, Namespace, Pod,
    PodPhase, PodTimes, ReportedResources, Resources, Service, chosen, kept,
    wire::{
        WireAmounts, WireCondition, WireContainer, WireContainerStatus, WireMetadata, WireNamespace, WireNode, WirePod,
        WirePodAddress, WirePodStatus, WireResources, WireState, WireStateDetail, WireStatusResources,
    },
};
use crate::{
    config::Range,
    pods::workload::{self, PodOwner},
};

/// Annotations by which OpenTelemetry lets a pod name its service
/// (semantic conventions, "Specify resource attributes using Kubernetes annotations").
const SERVICE: &str = "resource.opentelemetry.io/service.";

/// kubelet's annotation of the mirror pod that it makes in the API for a static one (pkg/kubelet/types/pod_update.go,
/// `ConfigMirrorAnnotationKey`): where it is set, the pod is one (`IsMirrorPod`).
const MIRROR: &str = "kubernetes.io/config.mirror";

/// kubelet's annotation of a static pod and its mirror (`ConfigHashAnnotationKey`): the UID that is in the paths of the cgroups.
const STATIC_UID: &str = "kubernetes.io/config.hash";

/// Addresses of one pod or node that are kept, and ranges. Kubernetes has two at most, one of either family.
const ADDRESSES: usize = 4;

/// Containers of one role in one pod that are kept. The API sets no limit but an object's 1.5 MiB.
const CONTAINERS: usize = 64;

pub(super) fn pod(json: &str, kept_labels: &KeptLabels) -> Result<Pod, serde_json::Error> {
    let WirePod { metadata, spec, status } = serde_json::from_str(json)?;
    if metadata.uid.is_empty() {
        return Err(serde::de::Error::missing_field("metadata.uid"));
    }
    let phase = status.phase.as_deref().and_then(PodPhase::of);
    let statuses: BTreeMap<&str, &WireContainerStatus> = [&status.container_statuses, &status.init_container_statuses]
        .into_iter()
        .chain([&status.ephemeral_container_statuses])
        .flatten()
        .map(|status| (status.name.as_str(), status))
        .collect();
    let roles = [
        (spec.init_containers, ContainerRole::Init),
        (spec.containers, ContainerRole::Main),
        (spec.ephemeral_containers, ContainerRole::Ephemeral),
    ];
    let containers = roles.into_iter().flat_map(|(containers, role)| {
        let statuses = &statuses;
        containers.into_iter().take(CONTAINERS).map(move |container| {
            let status = statuses.get(container.name.as_str()).copied();
            container_of(container, role, status)
        })
    });
    let containers: Vec<_> = containers.collect();
    Ok(Pod {
        cgroup_uid: static_uid(&metadata),
        workload: workload_of(&metadata),
        labels: chosen(&kept_labels.labels, &metadata.labels),
        service: service(&metadata, kept_labels.service_labels),
        uid: kept(&metadata.uid),
        namespace: kept(&metadata.namespace),
        name: kept(&metadata.name),
        qos: status.qos_class.as_deref().map(kept),
        priority_class: spec.priority_class_name.as_deref().filter(|name| !name.is_empty()).map(kept),
        resources: spec.resources.into(),
        reported: reported(status.resources.as_ref(), status.allocated_resources),
        resize_infeasible: is_infeasible(&status),
        overhead: Resources { cpu_request: spec.overhead.cpu, memory_request: spec.overhead.memory, ..Resources::default() },
        addresses: if spec.host_network { Vec::new() } else { own_addresses(&status) },
        times: times(&metadata, &status),
        reason: status.reason.as_deref().filter(|reason| !reason.is_empty()).map(kept),
        disruption: disruption(&status),
        finished: if phase.is_some_and(PodPhase::is_over) { finished(&status) } else { None },
        phase,
        containers,
    })
}

/// The UID in the cgroups' paths of the static pod that this is the mirror of. Whoever may make pods may annotate them, so it counts
/// only where all is as kubelet makes it: owned by the node (pkg/kubelet/pod/mirror_client.go, `CreateMirrorPod`), and a hash
/// (pkg/kubelet/config/common.go, `applyDefaults`), which no UID of the API server's is.
fn static_uid(metadata: &WireMetadata) -> Option<Box<str>> {
    let is_mirror = metadata.annotations.get(MIRROR).is_some_and(|value| !value.is_empty());
    let of_node = metadata.owner_references.iter().any(|owner| owner.kind == "Node");
    let is_hash = |uid: &&String| uid.len() == 32 && uid.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let uid = metadata.annotations.get(STATIC_UID).filter(|_| is_mirror && of_node).filter(is_hash)?;
    (*uid != metadata.uid).then(|| kept(uid))
}

/// Whether the node has refused a resize for good (k8s.io/component-helpers/resource, `IsPodResizeInfeasible`; before 1.33 a
/// separate field).
fn is_infeasible(status: &WirePodStatus) -> bool {
    let pending = status.conditions.iter().find(|condition| condition.kind == "PodResizePending");
    pending.map_or(status.resize.as_deref(), |condition| Some(&condition.reason)) == Some("Infeasible")
}

fn reported(resources: Option<&WireStatusResources>, allocated: Option<WireAmounts>) -> ReportedResources {
    ReportedResources {
        requests: resources.and_then(|resources| resources.requests).map(CpuAndMemory::from),
        limits: resources.and_then(|resources| resources.limits).map(CpuAndMemory::from),
        allocated: allocated.map(CpuAndMemory::from),
    }
}

/// A time of the API, since 1970.
fn time(text: &str) -> Option<Duration> {
    humantime::parse_rfc3339_weak(text).ok()?.duration_since(UNIX_EPOCH).ok()
}

fn times(metadata: &WireMetadata, status: &WirePodStatus) -> PodTimes {
    let since = |kind| time(&true_condition(status, kind)?.last_transition_time);
    PodTimes {
        created: time(&metadata.creation_timestamp),
        scheduled: since("PodScheduled"),
        accepted: status.start_time.as_deref().and_then(time),
        initialized: since("Initialized"),
        ready: since("ContainersReady"),
    }
}

fn true_condition<'a>(status: &'a WirePodStatus, kind: &str) -> Option<&'a WireCondition> {
    status.conditions.iter().find(|condition| condition.kind == kind && condition.status == "True")
}

/// Why pods are ended from outside: reasons of the condition `DisruptionTarget` (k8s.io/api/core/v1; kubelet, the taint manager, the garbage
/// collector of pods), and kubelet's own of the status.
const DISRUPTIONS: [&str; 9] = [
    "PreemptionByScheduler",
    "DeletionByTaintManager",
    "EvictionByEvictionAPI",
    "DeletionByPodGC",
    "TerminationByKubelet",
    "PreemptionByKubelet",
    "Evicted",
    "Preempting",
    "Shutdown",
];

/// Why a pod is ended from outside: its condition says so (since 1.26), or kubelet's reason.
fn disruption(status: &WirePodStatus) -> Option<(&'static str, Option<Duration>)> {
    let known = |reason: &str| DISRUPTIONS.into_iter().find(|known| *known == reason);
    match true_condition(status, "DisruptionTarget") {
        // Anything may set a condition.
        Some(condition) => Some((known(&condition.reason).unwrap_or("Other"), time(&condition.last_transition_time))),
        None => Some((known(status.reason.as_deref()?)?, finished(status))),
    }
}

/// When the last container ended; where none has ended, as of a pod that was evicted before one began, when a condition last changed.
fn finished(status: &WirePodStatus) -> Option<Duration> {
    let statuses = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let ends = statuses.into_iter().flatten().filter_map(|status| status.state.terminated.as_ref()?.finished_at.as_deref());
    let changes = status.conditions.iter().map(|condition| condition.last_transition_time.as_str());
    ends.filter_map(time).max().or_else(|| changes.filter_map(time).max())
}

pub(super) fn kubernetes_node(json: &str) -> Result<KubernetesNode, serde_json::Error> {
    let WireNode { metadata, spec, status } = serde_json::from_str(json)?;
    let ranges = spec.pod_cidrs.iter().filter_map(|range| Range::parse(range));
    let internal = status.addresses.iter().filter(|address| address.kind == "InternalIP");
    Ok(KubernetesNode {
        name: metadata.name.into(),
        cpu: status.allocatable.amounts.cpu,
        memory: status.allocatable.amounts.memory,
        pods: status.allocatable.pods,
        pod_ranges: ranges.filter(|range| range.prefix > 0).take(ADDRESSES).collect(),
        addresses: internal.filter_map(|address| address.address.parse().ok()).take(ADDRESSES).collect(),
    })
}

/// A pod's addresses that are not its node's.
fn own_addresses(status: &WirePodStatus) -> Vec<IpAddr> {
    let of = |list: &[WirePodAddress]| list.iter().filter_map(|address| address.ip.parse().ok()).collect::<Vec<IpAddr>>();
    let of_node = of(&status.host_ips);
    let own = of(&status.pod_ips).into_iter().filter(|address| !of_node.contains(address) && !address.is_unspecified());
    own.take(ADDRESSES).collect()
}

pub(super) fn namespace(json: &str, kept_labels: &KeptLabels) -> Result<Namespace, serde_json::Error> {
    let WireNamespace { metadata } = serde_json::from_str(json)?;
    Ok(Namespace { labels: chosen(&kept_labels.namespace_labels, &metadata.labels), name: metadata.name.into() })
}

fn workload_of(metadata: &WireMetadata) -> Option<workload::Workload> {
    let owner = metadata.owner_references.iter().find(|owner| owner.controller)?;
    workload::of(&PodOwner {
        kind: &owner.kind,
        name: &owner.name,
        pod_template_hash: metadata.labels.get("pod-template-hash").map(String::as_str),
        created: &metadata.creation_timestamp,
    })
}

fn service(metadata: &WireMetadata, labels: bool) -> Service {
    let annotation = |name: &str| metadata.annotations.get(&format!("{SERVICE}{name}")).filter(|value| !value.is_empty());
    let label = |name: &str| {
        let value = if labels { metadata.labels.get(&format!("app.kubernetes.io/{name}")) } else { None };
        value.filter(|value| !value.is_empty())
    };
    let kept = |value: Option<&String>| value.map(|value| kept(value));
    Service {
        name: kept(annotation("name").or_else(|| label("instance")).or_else(|| label("name"))),
        namespace: kept(annotation("namespace")),
        instance: kept(annotation("instance.id")),
        version: kept(annotation("version").or_else(|| label("version"))),
    }
}

fn container_of(container: WireContainer, role: ContainerRole, status: Option<&WireContainerStatus>) -> Container {
    let role = match container.restart_policy.as_deref() {
        Some("Always") if role == ContainerRole::Init => ContainerRole::Sidecar,
        _ => role,
    };
    // While a container waits for its next start, the id is that of the one before.
    let ids = status.map(|status| {
        let of = |state: &WireState| state.terminated.as_ref().and_then(|detail| id(detail.container_id.as_deref()?));
        let now = id(&status.container_id).or_else(|| of(&status.state));
        (now.clone(), of(&status.last_state).filter(|previous| Some(previous) != now.as_ref()))
    });
    let (id, previous_id) = ids.unwrap_or_default();
    Container {
        name: kept(&container.name),
        role,
        desired: container.resources.into(),
        reported: status.map(|status| reported(status.resources.as_ref(), status.allocated_resources)).unwrap_or_default(),
        id,
        previous_id,
        started: status.and_then(|status| {
            let WireState { running, terminated, .. } = &status.state;
            time(running.as_ref().or(terminated.as_ref())?.started_at.as_deref()?)
        }),
        status: status.map(WireContainerStatus::reduced),
    }
}

/// `containerd://<id>`, `cri-o://<id>`, `docker://<id>`.
fn id(url: &str) -> Option<Box<str>> {
    let id = url.rsplit_once("://").map_or(url, |(_, id)| id);
    (!id.is_empty()).then(|| kept(id))
}

impl WireContainerStatus {
    fn reduced(&self) -> ContainerStatus {
        let WireState { waiting, running, terminated } = &self.state;
        let (state, detail) = match (running, terminated, waiting) {
            (Some(_), _, _) => (ContainerState::Running, None),
            (None, Some(detail), _) => (ContainerState::Terminated, Some(detail)),
            (None, None, detail) => (ContainerState::Waiting, detail.as_ref()),
        };
        let reason = |detail: &WireStateDetail| detail.reason.as_deref().filter(|reason| !reason.is_empty()).map(kept);
        ContainerStatus {
            ready: self.ready,
            restarts: self.restart_count,
            state,
            reason: detail.and_then(reason),
            last_reason: self.last_state.terminated.as_ref().and_then(reason),
        }
    }
}

impl From<WireAmounts> for CpuAndMemory {
    fn from(WireAmounts { cpu, memory }: WireAmounts) -> Self {
        Self { cpu, memory }
    }
}

impl From<WireResources> for Resources {
    fn from(wire: WireResources) -> Self {
        Self {
            cpu_request: wire.requests.cpu,
            cpu_limit: wire.limits.cpu,
            memory_request: wire.requests.memory,
            memory_limit: wire.limits.memory,
        }
    }
}
