//! The pods of the node (pure): filled by a source, queried by the collector with the ids in a cgroup's path.
//!
//! A pod that the API has deleted stays for a while: its last container may still be on its way out, and its final values are
//! exported later. A container's name stays with its pod, also when the status has moved on to the next container.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    follow_stats::{FollowStats, Followed},
    object::{Container, KubernetesNode, Labels, Namespace, Pod},
    starts::{Counted, Starts},
};

use crate::{addresses::Addresses, config::Range};

/// How long a deleted pod is remembered.
const REMEMBERED: Duration = Duration::from_secs(600);

/// How many deleted pods are remembered at most; beyond that the oldest go.
const GONE: usize = 2048;

/// How many pods that have finished are kept; beyond that the oldest are only counted. They have no cgroups any more.
const FINISHED: usize = 512;

/// How many pods that have not finished are kept. kubelet allows 110 by default, and refuses more.
const LIVING: usize = 4096;

/// How many pods that are not kept are counted, each by its UID.
const COUNTED: usize = 1 << 15;

/// How many namespaces are kept, of which only labels are.
const NAMESPACES: usize = 1 << 14;

/// How many past containers of one pod are remembered; beyond that the oldest go.
const PAST: usize = 32;

/// All that is known. A clone shares everything with its original until one of them changes.
#[derive(Clone, Debug, Default)]
pub struct PodIndex {
    pods: Arc<HashMap<Box<str>, Arc<PodEntry>>>,
    /// UID in cgroup paths -> UIDs of the mirror pods that claim it, oldest first.
    mirrors: Arc<HashMap<Box<str>, Vec<Box<str>>>>,
    /// UIDs of the pods that the API has and that are not kept.
    left_out: Arc<HashSet<Box<str>>>,
    /// How long a pod's state is exported after its end.
    pub finished_kept: Duration,
    node: Option<KubernetesNode>,
    namespaces: Arc<HashMap<Box<str>, (Labels, u64)>>,
    /// Counts changes.
    revision: u64,
    /// Counts changes of [`addresses`](Self::addresses).
    addresses_revision: u64,
    /// How long pods take to start.
    pub starts: Arc<Starts>,
    /// How well the sources work.
    pub stats: FollowStats,
}

#[derive(Clone, Debug, Default)]
struct PodEntry {
    pod: Arc<Pod>,
    revision: u64,
    /// Ids of containers that the status has had, the latest last, and their names.
    ids: Vec<(Box<str>, Box<str>)>,
    /// When the API deleted it.
    gone: Option<Instant>,
    /// Whether it was known before it had finished.
    lived: bool,
    /// What has been counted of it.
    counted: Counted,
}

impl PodEntry {
    /// The pod's addresses, while they are its own.
    fn addresses(&self) -> &[IpAddr] {
        if self.gone.is_some() || self.pod.is_over() { &[] } else { &self.pod.addresses }
    }
}

/// A pod that has finished.
#[derive(Clone, Copy, Debug)]
pub struct FinishedPod<'a> {
    /// The pod, in its last state.
    pub pod: &'a Pod,
    /// Whether the API has deleted it since.
    pub deleted: bool,
    /// Whether the agent has seen it before it finished.
    pub seen: bool,
}

/// What is known of a cgroup that belongs to a pod.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Its pod.
    pub pod: &'a Pod,
    /// Its container, once the status has it.
    pub container: Option<&'a Container>,
    /// The kept labels of its namespace.
    pub namespace_labels: &'a [(Box<str>, Box<str>)],
    /// Another number after every change of any of these.
    pub revision: u64,
    /// The API has deleted it.
    pub gone: bool,
}

impl Found<'_> {
    /// Whether the status of its containers is not complete: one of them has no id so far, and may get one.
    pub fn is_starting(&self) -> bool {
        !self.is_settled() && self.pod.containers.iter().any(|container| container.id.is_none())
    }

    /// Whether the status of its containers will not change any more.
    pub fn is_settled(&self) -> bool {
        self.gone || self.pod.is_over()
    }
}

impl PodIndex {
    /// What is known of the pod with this UID in a cgroup's path, and of the container with this id in it.
    pub fn find(&self, cgroup_uid: &str, container_id: Option<&str>) -> Option<Found<'_>> {
        let entry = self.pods.get(cgroup_uid).or_else(|| self.mirror(cgroup_uid))?;
        let name = container_id.and_then(|id| entry.ids.iter().rfind(|(known, _)| **known == *id)).map(|(_, name)| name);
        let container = name.and_then(|name| entry.pod.containers.iter().find(|container| container.name == *name));
        Some(Found {
            pod: &entry.pod,
            container,
            namespace_labels: self.labels_of(&entry.pod.namespace),
            revision: self.revision(entry),
            gone: entry.gone.is_some(),
        })
    }

    fn revision(&self, entry: &PodEntry) -> u64 {
        entry.revision.max(self.namespaces.get(&entry.pod.namespace).map_or(0, |(_, revision)| *revision))
    }

    /// Another number after every change of this pod of the index, or of its namespace's labels.
    pub fn revision_of(&self, pod: &Pod) -> u64 {
        self.pods.get(&pod.uid).map_or(0, |entry| self.revision(entry))
    }

    /// The mirror of the static pod with this UID, where no pod has it for its own. Of several that of the first, as long as the API has
    /// it: kubelet makes another only when the one before is gone.
    fn mirror(&self, cgroup_uid: &str) -> Option<&Arc<PodEntry>> {
        let mirrors = self.mirrors.get(cgroup_uid).filter(|_| !self.left_out.contains(cgroup_uid))?;
        let mut entries = mirrors.iter().filter_map(|uid| self.pods.get(uid));
        entries.clone().find(|entry| entry.gone.is_none()).or_else(|| entries.next_back())
    }

    /// The pods that the API has now and that have not finished.
    pub fn living(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values().filter(|entry| entry.gone.is_none()).map(|entry| &*entry.pod).filter(|pod| !pod.is_over())
    }

    /// The pods that have finished.
    pub fn finished(&self) -> impl Iterator<Item = FinishedPod<'_>> {
        let over = self.pods.values().filter(|entry| entry.pod.is_over());
        over.map(|entry| FinishedPod { pod: &entry.pod, deleted: entry.gone.is_some(), seen: entry.lived })
    }

    /// How many pods the API has that are not kept.
    pub fn left_out(&self) -> usize {
        self.left_out.len()
    }

    /// The kept labels of a namespace.
    pub fn labels_of(&self, namespace: &str) -> &[(Box<str>, Box<str>)] {
        self.namespaces.get(namespace).map_or(&[], |(labels, _)| labels)
    }

    /// Another number after every change of [`addresses`](Self::addresses); `None` while they are not known.
    pub fn addresses_revision(&self) -> Option<u64> {
        let [pods, node] = [Followed::Pods, Followed::Node].map(|followed| self.stats.following(followed));
        Some(self.addresses_revision).filter(|_| pods.known && (node.known || !node.is_followed))
    }

    /// The addresses of this node and of the cluster's pods, as far as they are known; `None` before all pods of this node have been
    /// read, and the node itself where it is followed.
    ///
    /// Of pods on other nodes and of services nothing is known, and no range is guessed that would have them.
    pub fn addresses(&self) -> Option<Addresses> {
        self.addresses_revision()?;
        let mut cluster: Vec<Range> = self.node.iter().flat_map(|node| &node.pod_ranges).copied().collect();
        let mut pods: Vec<_> = self.living().flat_map(|pod| &pod.addresses).copied().collect();
        pods.sort_unstable();
        pods.dedup();
        let ranges = cluster.clone();
        cluster.extend(pods.into_iter().filter(|pod| !ranges.iter().any(|range| range.has(*pod))).map(Range::of));
        let node = self.node.iter().flat_map(|node| &node.addresses).copied().map(Range::of).collect();
        Some(Addresses { cluster, node })
    }

    /// This node.
    pub fn node(&self) -> Option<&KubernetesNode> {
        self.node.as_ref()
    }

    /// The API has this pod, in this state.
    pub fn set_pod(&mut self, pod: Pod) {
        let over = pod.is_over();
        if !over && !self.pods.contains_key(&pod.uid) && self.living().count() >= LIVING {
            self.leave_out(pod.uid);
            return;
        }
        self.keep_pod(pod);
        if over {
            self.drop_long_finished();
        }
    }

    fn keep_pod(&mut self, pod: Pod) {
        if self.left_out.contains(&pod.uid) {
            Arc::make_mut(&mut self.left_out).remove(&pod.uid);
        }
        self.revision += 1;
        let revision = self.revision;
        self.claim(&pod);
        let is_new = !self.pods.contains_key(&pod.uid);
        let new = || Arc::new(PodEntry { revision, ..PodEntry::default() });
        let entry = Arc::make_mut(Arc::make_mut(&mut self.pods).entry(pod.uid.clone()).or_insert_with(new));
        let before = entry.addresses().to_vec();
        let starts = Arc::make_mut(&mut self.starts);
        starts.changed(&mut entry.counted, Some(&*entry.pod).filter(|_| !is_new), &pod);
        entry.gone = None;
        entry.lived |= !pod.is_over();
        for container in &pod.containers {
            for id in [&container.previous_id, &container.id].into_iter().flatten() {
                // The current ids come last: they are not those that go where a container beside is started again and again.
                entry.ids.retain(|(known, _)| known != id);
                entry.ids.push((id.clone(), container.name.clone()));
            }
        }
        let excess = entry.ids.len().saturating_sub(PAST.max(2 * pod.containers.len()));
        entry.ids.drain(..excess);
        if *entry.pod != pod {
            entry.pod = Arc::new(pod);
            entry.revision = revision;
        }
        self.addresses_revision += u64::from(entry.addresses() != before);
    }

    /// Keeps the claim of a mirror pod to the UID in its cgroups' paths, or drops it.
    fn claim(&mut self, pod: &Pod) {
        let before = self.pods.get(&pod.uid).and_then(|entry| entry.pod.cgroup_uid.as_deref());
        if before == pod.cgroup_uid.as_deref() {
            return;
        }
        let mirrors = Arc::make_mut(&mut self.mirrors);
        if let Some(uids) = before.and_then(|before| mirrors.get_mut(before)) {
            uids.retain(|uid| *uid != pod.uid);
        }
        if let Some(cgroup_uid) = &pod.cgroup_uid {
            mirrors.entry(cgroup_uid.clone()).or_default().push(pod.uid.clone());
        }
    }

    /// Forgets the claims of pods that are not kept.
    fn drop_claims(&mut self) {
        let pods = &self.pods;
        Arc::make_mut(&mut self.mirrors).retain(|_, uids| {
            uids.retain(|uid| pods.contains_key(uid));
            !uids.is_empty()
        });
    }

    /// Of those that have finished, forgets the oldest that are too many: not one at a time, since the rest has to be sorted.
    fn drop_long_finished(&mut self) {
        let finished = self.pods.values().filter(|entry| entry.gone.is_none() && entry.pod.is_over());
        let mut finished: Vec<_> = finished.map(|entry| (entry.pod.finished, entry.revision, entry.pod.uid.clone())).collect();
        if finished.len() <= FINISHED + FINISHED / 8 {
            return;
        }
        finished.sort_unstable();
        for (.., uid) in finished.drain(..finished.len() - FINISHED) {
            Arc::make_mut(&mut self.pods).remove(&uid);
            self.leave_out(uid);
        }
        self.drop_claims();
    }

    fn leave_out(&mut self, uid: Box<str>) {
        if self.left_out.len() < COUNTED {
            Arc::make_mut(&mut self.left_out).insert(uid);
        }
    }

    /// The API has deleted this pod.
    pub fn forget_pod(&mut self, uid: &str, now: Instant) {
        if let Some(entry) = Arc::make_mut(&mut self.pods).get_mut(uid) {
            self.addresses_revision += u64::from(!entry.addresses().is_empty());
            Arc::make_mut(entry).gone.get_or_insert(now);
        }
        if self.left_out.contains(uid) {
            Arc::make_mut(&mut self.left_out).remove(uid);
        }
        self.drop_long_gone(now);
    }

    /// The API has these pods and no others.
    pub fn keep_pods(&mut self, uids: &HashSet<Box<str>>, now: Instant) {
        for (_, entry) in Arc::make_mut(&mut self.pods).iter_mut().filter(|(uid, _)| !uids.contains(*uid)) {
            self.addresses_revision += u64::from(!entry.addresses().is_empty());
            Arc::make_mut(entry).gone.get_or_insert(now);
        }
        Arc::make_mut(&mut self.left_out).retain(|uid| uids.contains(uid));
        self.drop_long_gone(now);
    }

    fn drop_long_gone(&mut self, now: Instant) {
        // Of those that are deleted at one moment, the one with the highest revision has changed last.
        let key = |entry: &PodEntry| entry.gone.map(|gone| (gone, entry.revision));
        let mut gone: Vec<_> = self.pods.values().filter_map(|entry| key(entry)).collect();
        gone.sort_unstable_by(|a, b| b.cmp(a));
        // The newest of those that are too many.
        let limit = gone.get(GONE).copied();
        let stays = |entry: &PodEntry| {
            key(entry)
                .is_none_or(|gone| now.saturating_duration_since(gone.0) < REMEMBERED && limit.is_none_or(|limit| gone > limit))
        };
        if self.pods.values().all(|entry| stays(entry)) {
            return;
        }
        Arc::make_mut(&mut self.pods).retain(|_, entry| stays(entry));
        self.drop_claims();
    }

    /// The API has this node, in this state.
    pub fn set_node(&mut self, node: KubernetesNode) {
        let addresses = |node: &KubernetesNode| (node.pod_ranges.clone(), node.addresses.clone());
        self.addresses_revision += u64::from(self.node.as_ref().map(addresses) != Some(addresses(&node)));
        self.node = Some(node);
    }

    /// The API has no such node.
    pub fn forget_node(&mut self) {
        self.addresses_revision += u64::from(self.node.take().is_some());
    }

    /// The API has this namespace, in this state.
    pub fn set_namespace(&mut self, namespace: Namespace) {
        let Namespace { name, labels } = namespace;
        let known = self.namespaces.get(&name);
        if known.is_none_or(|(known, _)| *known != labels) && (known.is_some() || self.namespaces.len() < NAMESPACES) {
            self.revision += 1;
            Arc::make_mut(&mut self.namespaces).insert(name, (labels, self.revision));
        }
    }

    /// The API has these namespaces and no others. Pods outlive their namespace by a moment, and so do its labels.
    pub fn keep_namespaces(&mut self, names: &HashSet<Box<str>>) {
        let used: HashSet<&str> = self.pods.values().map(|entry| &*entry.pod.namespace).collect();
        Arc::make_mut(&mut self.namespaces).retain(|name, _| names.contains(name) || used.contains(&**name));
    }

    /// How many pods the API has, kept or not, and how many deleted ones are remembered.
    pub fn counts(&self) -> (usize, usize) {
        let gone = self.pods.values().filter(|entry| entry.gone.is_some()).count();
        (self.pods.len() - gone + self.left_out.len(), gone)
    }

    /// How many namespaces are known.
    pub fn namespaces(&self) -> usize {
        self.namespaces.len()
    }
}

#[cfg(test)]
mod tests;
