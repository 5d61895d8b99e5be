//! Samples -> what each is of: a container, a pod, or something of no pod (pure).

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use crate::{
    aggregate::Batch,
    cgroups::name::CgroupKind,
    join::{CgroupSample, Sample},
};

/// Where a sample is in its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A cgroup's.
    Cgroup(usize),
    /// What Kubernetes reports.
    Pods(usize),
}

/// What a sample is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// Nothing that has it in its sum is exported.
    Top,
    /// A cgroup of no pod, which is in the values of the cgroup above it.
    Inner,
    /// A container, or a cgroup in one.
    Container,
    /// A pod.
    Pod,
}

/// A sample, and what it is of.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) place: Place,
    pub(super) level: Level,
    /// UID of its pod, else empty.
    pub(super) pod: Arc<str>,
    /// The cgroup's id; 0 of what Kubernetes reports.
    pub(super) cgroup: u64,
    /// Its cgroup is gone: these are its final values.
    pub(super) ended: bool,
    /// A gauge of it that its pod's sample does not have is added to that. No cgroup in a container: its values are the container's.
    pub(super) adds_to_pod: bool,
}

/// The samples of a batch beside the node's, by namespace; those of none under the empty name.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) by_namespace: BTreeMap<String, Vec<Row>>,
}

impl Rows {
    /// Of a batch.
    pub(super) fn of(batch: &Batch) -> Self {
        let mut rows = Self::default();
        let none: Arc<str> = Arc::from("");
        let measured = batch.cgroups.iter().filter(|row| row.cgroup.name.kind == CgroupKind::Pod);
        let measured: HashSet<&str> = measured.filter_map(|row| row.cgroup.name.pod_uid.as_deref()).collect();
        for (at, CgroupSample { cgroup, sample }) in batch.cgroups.iter().enumerate() {
            let name = &cgroup.name;
            let (level, pod) = match name.pod_uid.as_deref() {
                Some(uid) if name.kind == CgroupKind::Pod => (Level::Pod, Arc::from(uid)),
                Some(uid) if measured.contains(uid) => (Level::Container, Arc::from(uid)),
                Some(uid) => (Level::Top, Arc::from(uid)),
                None if is_in_another(name.kind, &cgroup.path) => (Level::Inner, Arc::clone(&none)),
                None => (Level::Top, Arc::clone(&none)),
            };
            let adds_to_pod = level == Level::Container && !name.nested && !cgroup.ended;
            let place = Place::Cgroup(at);
            rows.add(sample, Row { place, level, pod, cgroup: cgroup.id, ended: cgroup.ended, adds_to_pod });
        }
        let of_container = |sample: &Sample| sample.resource.get("k8s.container.name").is_some();
        let uid = |sample: &Sample| sample.resource.get("k8s.pod.uid").unwrap_or_default().to_owned();
        let reported: HashSet<String> = batch.pods.iter().filter(|sample| !of_container(sample)).map(uid).collect();
        for (at, sample) in batch.pods.iter().enumerate() {
            let pod = uid(sample);
            let level = match of_container(sample) {
                true if reported.contains(&pod) => Level::Container,
                true => Level::Top,
                false => Level::Pod,
            };
            let (place, pod, adds_to_pod) = (Place::Pods(at), Arc::from(pod), level == Level::Container);
            rows.add(sample, Row { place, level, pod, cgroup: 0, ended: false, adds_to_pod });
        }
        rows
    }

    fn add(&mut self, sample: &Sample, row: Row) {
        let namespace = Some(sample).filter(|_| !row.pod.is_empty()).and_then(|sample| sample.resource.get("k8s.namespace.name"));
        match self.by_namespace.get_mut(namespace.unwrap_or_default()) {
            Some(rows) => rows.push(row),
            None => drop(self.by_namespace.insert(namespace.unwrap_or_default().to_owned(), vec![row])),
        }
    }
}

/// Whether a cgroup of no pod is in the values of one above it that stays.
fn is_in_another(kind: CgroupKind, path: &str) -> bool {
    !matches!(kind, CgroupKind::Root | CgroupKind::Slice) && path.split('/').filter(|part| !part.is_empty()).count() > 1
}

pub(super) fn sample(batch: &Batch, place: Place) -> &Sample {
    match place {
        Place::Cgroup(at) => &batch.cgroups[at].sample,
        Place::Pods(at) => &batch.pods[at],
    }
}

pub(super) fn sample_mut(batch: &mut Batch, place: Place) -> &mut Sample {
    match place {
        Place::Cgroup(at) => &mut batch.cgroups[at].sample,
        Place::Pods(at) => &mut batch.pods[at],
    }
}
