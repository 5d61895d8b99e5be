//! The resource of each cgroup, and how long a cgroup waits until Kubernetes has reported its names (pure).
//!
//! All that is counted is cumulative, so nothing is lost by waiting. A cgroup that has no name by then is exported by its pod's UID.

use std::{collections::HashMap, sync::Arc};

use super::PodsNow;
use crate::{
    cgroups::{Cgroup, Table},
    join::{
        NodeIdentity, Resource,
        identity::{BY_ID, Unlisted},
    },
    pods::{PodIndex, follow_stats::Followed, index::Found},
};

/// How long a pod's cgroup waits for its name, from its birth, and once more from its death, where nothing more is to be expected: the
/// pod is over, or what is known is not current.
const PATIENCE_NS: u64 = 10_000_000_000;

/// The same while the API is followed: kubelet's status manager sends what has changed at once and what it could not send every ten
/// seconds (`syncPeriod`, pkg/kubelet/status/status_manager.go), and a slow node takes several of these.
const STATUS_NS: u64 = 60_000_000_000;

/// The same while a container of the pod has not been started: kubelet reports those that have only after it has pulled that one's
/// image as well (`SyncPod`, pkg/kubelet/kuberuntime/kuberuntime_manager.go).
const STARTING_NS: u64 = 300_000_000_000;

/// The labels of cgroups, by the cgroup's id: a slot has many owners in its life.
#[derive(Debug)]
pub struct CgroupLabels {
    node: NodeIdentity,
    by_id: HashMap<u64, CgroupLabel>,
    /// When the first batch was made, CLOCK_BOOTTIME in ns.
    began_ns: Option<u64>,
    /// Whether to wait for names.
    patient: bool,
    /// Cgroups of this batch whose names are not complete.
    unlabelled: u64,
}

/// The names of one cgroup.
#[derive(Clone, Debug)]
struct CgroupLabel {
    resource: Arc<Resource>,
    /// Of the pod index, when this was made.
    revision: u64,
    /// Nothing is missing.
    complete: bool,
    sandbox: bool,
    /// It was exported as a container of its pod without a name. It keeps those attributes, so that names are added to one series and
    /// do not begin another.
    by_id: bool,
}

impl CgroupLabels {
    /// Of cgroups on this node.
    pub fn new(node: NodeIdentity) -> Self {
        Self { node, by_id: HashMap::new(), began_ns: None, patient: true, unlabelled: 0 }
    }

    /// The node.
    pub fn node(&self) -> &NodeIdentity {
        &self.node
    }

    /// From now on every cgroup has a label at once.
    pub fn wait_no_longer(&mut self) {
        self.patient = false;
    }

    /// Begins to count the cgroups without a name anew.
    pub fn begin_batch(&mut self, time_ns: u64) {
        self.began_ns.get_or_insert(time_ns);
        self.unlabelled = 0;
    }

    /// How many cgroups had no name, of those whose [`counted_resource`](Self::counted_resource) was requested for this batch.
    pub fn unlabelled(&self) -> u64 {
        self.unlabelled
    }

    /// Forgets a cgroup that is gone.
    pub fn forget(&mut self, cgroup: &Cgroup) {
        self.by_id.remove(&cgroup.id);
    }

    /// The resource of a cgroup; `None` while it waits for its name. Counts it if it has none.
    pub fn counted_resource(&mut self, cgroup: &Cgroup, table: &Table, pods: Option<PodsNow<'_>>) -> Option<Arc<Resource>> {
        let (resource, complete) = self.label(cgroup, table, pods);
        self.unlabelled += u64::from(!complete);
        resource
    }

    /// The same without counting it: for events.
    pub fn resource(&mut self, cgroup: &Cgroup, table: &Table, pods: Option<PodsNow<'_>>) -> Option<Arc<Resource>> {
        self.label(cgroup, table, pods).0
    }

    /// The resource, if it need not wait, and whether it is complete.
    fn label(&mut self, cgroup: &Cgroup, table: &Table, pods: Option<PodsNow<'_>>) -> (Option<Arc<Resource>>, bool) {
        let Some(pods) = pods.filter(|_| cgroup.name.pod_uid.is_some()) else {
            let node = &self.node;
            let label = self.by_id.entry(cgroup.id).or_insert_with(|| CgroupLabel {
                resource: Arc::new(node.resource_of(cgroup)),
                revision: 0,
                complete: true,
                sandbox: false,
                by_id: false,
            });
            return (Some(Arc::clone(&label.resource)), true);
        };
        let found = find(pods.index, cgroup);
        let revision = found.as_ref().map_or(0, |found| found.revision);
        let before = self.by_id.get(&cgroup.id);
        if let Some(label) = before.filter(|label| label.complete && (label.revision == revision || found.is_none())) {
            return (Some(Arc::clone(&label.resource)), true);
        }
        let sandbox = before.is_some_and(|label| label.sandbox)
            || found.as_ref().is_some_and(|found| found.container.is_none()) && is_sandbox(cgroup, table, pods.index);
        let needs_container = cgroup.name.container_id.is_some();
        let complete = found.as_ref().is_some_and(|found| !needs_container || found.container.is_some() || sandbox);
        if !complete && self.waits(cgroup, &pods, found.as_ref()) {
            return (None, false);
        }
        let unlisted = if sandbox { Unlisted::Sandbox } else { Unlisted::Unknown };
        let mut resource = match &found {
            Some(found) => self.node.resource_in(cgroup, found, unlisted),
            None => self.node.resource_of(cgroup),
        };
        let by_id = before.filter(|label| label.by_id).map(|label| Arc::clone(&label.resource));
        if let Some(before) = &by_id {
            resource.keep(&BY_ID, before);
        }
        let by_id = by_id.is_some() || found.is_some() && !complete;
        let resource = Arc::new(resource);
        self.by_id.insert(cgroup.id, CgroupLabel { resource: Arc::clone(&resource), revision, complete, sandbox, by_id });
        (Some(resource), complete)
    }

    /// Whether a cgroup whose names are not complete waits for them.
    fn waits(&self, cgroup: &Cgroup, pods: &PodsNow<'_>, found: Option<&Found<'_>>) -> bool {
        let since_ns = self.began_ns.unwrap_or(0).max(cgroup.born_ns).max(cgroup.died_ns.unwrap_or(0));
        self.patient && pods.now_ns.saturating_sub(since_ns) < patience_ns(pods.index, found)
    }

    /// Whether this cgroup has a label.
    #[cfg(test)]
    pub fn has(&self, id: u64) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Whether no cgroup has a label.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

fn patience_ns(index: &PodIndex, found: Option<&Found<'_>>) -> u64 {
    if !index.stats.following(Followed::Pods).current {
        // A list may be put off, so that a cluster's agents do not all send their requests at once.
        return PATIENCE_NS + index.stats.spread.as_nanos() as u64;
    }
    match found {
        Some(found) if found.is_settled() => PATIENCE_NS,
        Some(found) if found.is_starting() => STARTING_NS,
        _ => STATUS_NS,
    }
}

/// What is known of the pod and the container that a cgroup belongs to.
pub fn find<'a>(index: &'a PodIndex, cgroup: &Cgroup) -> Option<Found<'a>> {
    index.find(cgroup.name.pod_uid.as_deref()?, cgroup.name.container_id.as_deref())
}

/// Whether a container that Kubernetes does not list is its pod's sandbox: it lives, and it is older than one that is listed. A
/// container whose whole life the API has missed is older too, but dead; one that has just begun is younger.
fn is_sandbox(cgroup: &Cgroup, table: &Table, index: &PodIndex) -> bool {
    let listed = |other: &Cgroup| find(index, other).is_some_and(|found| found.container.is_some());
    let sibling =
        |other: &&Cgroup| other.name.pod_uid == cgroup.name.pod_uid && other.parent == cgroup.parent && other.id > cgroup.id;
    cgroup.lives() && !cgroup.name.nested && table.iter().filter(sibling).any(listed)
}

#[cfg(test)]
mod tests;
