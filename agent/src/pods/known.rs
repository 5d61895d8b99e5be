//! What is known of the node's pods (pure): filled by a source, asked by the collector with what a cgroup's path says.
//!
//! A pod that the API has deleted stays for a while: its last container may still be on its way out, and its last words are
//! exported later. What a container was called stays with its pod, also when the status has moved on to the next one.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    figures::Figures,
    object::{Container, Labels, Namespace, Node, Pod},
};

/// How long a deleted pod is remembered.
const REMEMBERED: Duration = Duration::from_secs(600);

/// How many deleted pods are remembered at most; beyond that the oldest go.
const GONE: usize = 2048;

/// How many past containers of one pod are remembered; beyond that the oldest go.
const PAST: usize = 32;

/// All that is known.
#[derive(Debug, Default)]
pub struct Known {
    pods: HashMap<Box<str>, Entry>,
    /// UID in cgroup paths -> UID of the pod, where the two differ.
    by_cgroup_uid: HashMap<Box<str>, Box<str>>,
    node: Option<Node>,
    namespaces: HashMap<Box<str>, (Labels, u64)>,
    /// Counts changes.
    revision: u64,
    /// How the sources fare.
    pub figures: Figures,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<Pod>,
    revision: u64,
    /// Ids of containers that the status has told of, oldest first, and their names.
    ids: Vec<(Box<str>, Box<str>)>,
    /// When the API deleted it.
    gone: Option<Instant>,
}

/// What is known of a cgroup that belongs to a pod.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Its pod.
    pub pod: &'a Pod,
    /// Its container, once the status has told of it.
    pub container: Option<&'a Container>,
    /// The wanted labels of its namespace.
    pub namespace_labels: &'a [(Box<str>, Box<str>)],
    /// Another number after every change of any of these.
    pub revision: u64,
}

impl Known {
    /// What is known of the pod with this UID in a cgroup's path, and of the container with this id in it.
    pub fn find(&self, cgroup_uid: &str, container_id: Option<&str>) -> Option<Found<'_>> {
        let uid = self.by_cgroup_uid.get(cgroup_uid).map_or(cgroup_uid, |uid| uid);
        let entry = self.pods.get(uid)?;
        let name = container_id.and_then(|id| entry.ids.iter().rfind(|(known, _)| **known == *id)).map(|(_, name)| name);
        let container = name.and_then(|name| entry.pod.containers.iter().find(|container| container.name == *name));
        let namespace = self.namespaces.get(&entry.pod.namespace);
        Some(Found {
            pod: &entry.pod,
            container,
            namespace_labels: namespace.map_or(&[], |(labels, _)| labels),
            revision: entry.revision.max(namespace.map_or(0, |(_, revision)| *revision)),
        })
    }

    /// The pods that the API has now.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values().filter(|entry| entry.gone.is_none()).map(|entry| &*entry.pod)
    }

    /// The wanted labels of a namespace.
    pub fn labels_of(&self, namespace: &str) -> &[(Box<str>, Box<str>)] {
        self.namespaces.get(namespace).map_or(&[], |(labels, _)| labels)
    }

    /// This node.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// The API has this pod, in this state.
    pub fn set_pod(&mut self, pod: Pod) {
        self.revision += 1;
        let revision = self.revision;
        if let Some(cgroup_uid) = &pod.cgroup_uid {
            self.by_cgroup_uid.insert(cgroup_uid.clone(), pod.uid.clone());
        }
        let entry = self.pods.entry(pod.uid.clone()).or_insert_with(|| Entry {
            pod: Arc::new(Pod::default()),
            revision,
            ids: Vec::new(),
            gone: None,
        });
        entry.gone = None;
        for container in &pod.containers {
            for id in [&container.previous_id, &container.id].into_iter().flatten() {
                if !entry.ids.iter().any(|(known, _)| known == id) {
                    entry.ids.push((id.clone(), container.name.clone()));
                }
            }
        }
        let excess = entry.ids.len().saturating_sub(PAST.max(2 * pod.containers.len()));
        entry.ids.drain(..excess);
        if *entry.pod != pod {
            entry.pod = Arc::new(pod);
            entry.revision = revision;
        }
    }

    /// The API has deleted this pod.
    pub fn forget_pod(&mut self, uid: &str, now: Instant) {
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.gone.get_or_insert(now);
        }
        self.drop_long_gone(now);
    }

    /// The API has these pods and no others.
    pub fn keep_pods(&mut self, uids: &HashSet<Box<str>>, now: Instant) {
        for (_, entry) in self.pods.iter_mut().filter(|(uid, _)| !uids.contains(*uid)) {
            entry.gone.get_or_insert(now);
        }
        self.drop_long_gone(now);
    }

    fn drop_long_gone(&mut self, now: Instant) {
        let mut gone: Vec<Instant> = self.pods.values().filter_map(|entry| entry.gone).collect();
        gone.sort_unstable_by(|a, b| b.cmp(a));
        // The newest of those that are too many.
        let limit = gone.get(GONE).copied();
        self.pods.retain(|_, entry| {
            entry
                .gone
                .is_none_or(|gone| now.saturating_duration_since(gone) < REMEMBERED && limit.is_none_or(|limit| gone > limit))
        });
        let pods = &self.pods;
        self.by_cgroup_uid.retain(|_, uid| pods.contains_key(uid));
    }

    /// The API has this node, in this state.
    pub fn set_node(&mut self, node: Node) {
        self.node = Some(node);
    }

    /// The API has no such node.
    pub fn forget_node(&mut self) {
        self.node = None;
    }

    /// The API has this namespace, in this state.
    pub fn set_namespace(&mut self, namespace: Namespace) {
        let Namespace { name, labels } = namespace;
        if self.namespaces.get(&name).is_none_or(|(known, _)| *known != labels) {
            self.revision += 1;
            self.namespaces.insert(name, (labels, self.revision));
        }
    }

    /// The API has these namespaces and no others. Pods outlive their namespace by a moment, and so do its labels.
    pub fn keep_namespaces(&mut self, names: &HashSet<Box<str>>) {
        let used: HashSet<&str> = self.pods.values().map(|entry| &*entry.pod.namespace).collect();
        self.namespaces.retain(|name, _| names.contains(name) || used.contains(&**name));
    }

    /// How many pods the API has, and how many deleted ones are remembered.
    pub fn counts(&self) -> (usize, usize) {
        let gone = self.pods.values().filter(|entry| entry.gone.is_some()).count();
        (self.pods.len() - gone, gone)
    }

    /// How many namespaces are known.
    pub fn namespaces(&self) -> usize {
        self.namespaces.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "11111111-2222-3333-4444-555555555555";

    fn pod(uid: &str, ids: &[(&str, Option<&str>)]) -> Pod {
        let containers =
            ids.iter().map(|(name, id)| Container { name: (*name).into(), id: id.map(Into::into), ..Container::default() });
        Pod { uid: uid.into(), name: "web".into(), namespace: "shop".into(), containers: containers.collect(), ..Pod::default() }
    }

    fn name<'a>(known: &'a Known, uid: &str, id: &str) -> Option<&'a str> {
        known.find(uid, Some(id))?.container.map(|container| &*container.name)
    }

    #[test]
    fn a_container_that_was_started_again_leaves_its_name_to_its_old_id() {
        let mut known = Known::default();
        known.set_pod(pod(UID, &[("app", None)]));
        assert!(known.find(UID, Some("one")).is_some_and(|found| found.container.is_none()));
        let unnamed = known.find(UID, None).map(|found| found.revision);
        known.set_pod(pod(UID, &[("app", Some("one"))]));
        assert_ne!(known.find(UID, None).map(|found| found.revision), unnamed);
        let before = known.find(UID, None).map(|found| found.revision);
        known.set_pod(pod(UID, &[("app", Some("one"))]));
        assert_eq!(known.find(UID, None).map(|found| found.revision), before, "nothing has changed");
        known.set_pod(pod(UID, &[("app", Some("two")), ("proxy", Some("three"))]));
        assert_eq!(
            (name(&known, UID, "one"), name(&known, UID, "two"), name(&known, UID, "three")),
            (Some("app"), Some("app"), Some("proxy"))
        );
        assert_eq!(name(&known, "other", "one"), None, "an id counts in its own pod only");
    }

    #[test]
    fn the_previous_container_is_known_though_its_time_was_missed() {
        let mut known = Known::default();
        let mut now = pod(UID, &[("app", Some("two"))]);
        now.containers[0].previous_id = Some("one".into());
        known.set_pod(now);
        assert_eq!(name(&known, UID, "one"), Some("app"));
    }

    #[test]
    fn a_deleted_pod_is_remembered_for_a_while_and_not_for_ever() {
        let mut known = Known::default();
        let start = Instant::now();
        known.set_pod(pod(UID, &[("app", Some("one"))]));
        known.forget_pod(UID, start);
        assert_eq!((name(&known, UID, "one"), known.counts()), (Some("app"), (0, 1)));
        assert_eq!(known.pods().count(), 0);
        // Deleted again, as a list that comes later tells once more: remembered from the first time.
        known.keep_pods(&HashSet::new(), start + REMEMBERED / 2);
        known.forget_pod("another", start + REMEMBERED);
        assert_eq!(known.counts(), (0, 0));
    }

    #[test]
    fn too_many_deleted_pods_are_not_remembered() {
        let mut known = Known::default();
        let start = Instant::now();
        for n in 0..GONE as u64 + 100 {
            known.set_pod(pod(&n.to_string(), &[]));
            known.forget_pod(&n.to_string(), start + Duration::from_millis(n));
        }
        assert_eq!(known.counts(), (0, GONE));
        assert!(known.find("99", None).is_none() && known.find("100", None).is_some(), "the oldest went");
    }

    #[test]
    fn a_static_pod_is_found_by_the_uid_that_kubelet_gave_it() {
        let mut known = Known::default();
        let hash = "0123456789abcdef0123456789abcdef";
        known.set_pod(Pod { cgroup_uid: Some(hash.into()), ..pod(UID, &[]) });
        assert_eq!(known.find(hash, None).map(|found| &*found.pod.uid), Some(UID));
        // Its mirror was deleted and made again, while it ran on.
        known.forget_pod(UID, Instant::now());
        known.set_pod(Pod { cgroup_uid: Some(hash.into()), ..pod("next", &[]) });
        assert_eq!(known.find(hash, None).map(|found| &*found.pod.uid), Some("next"));
    }

    #[test]
    fn labels_of_a_namespace_that_is_gone_stay_while_its_pods_are_known() {
        let mut known = Known::default();
        let labels = vec![("team".into(), "shop".into())];
        known.set_pod(pod(UID, &[]));
        let without = known.find(UID, None).map(|found| found.revision);
        known.set_namespace(Namespace { name: "shop".into(), labels: labels.clone() });
        known.set_namespace(Namespace { name: "empty".into(), labels: Labels::new() });
        let found = known.find(UID, None).expect("is known");
        assert_eq!(found.namespace_labels, labels);
        assert_ne!(Some(found.revision), without, "what was cached is stale");
        known.keep_namespaces(&HashSet::new());
        assert_eq!((known.labels_of("shop"), known.namespaces()), (&labels[..], 1));
    }

    #[test]
    fn past_containers_are_bounded() {
        let mut known = Known::default();
        for n in 0..1000 {
            known.set_pod(pod(UID, &[("app", Some(&n.to_string()))]));
        }
        assert_eq!(known.pods[UID].ids.len(), PAST);
        assert_eq!((name(&known, UID, "999"), name(&known, UID, "10")), (Some("app"), None));
    }
}
