//! A cgroup's exported attributes -> the cgroup (pure): its names as they were, and a number to know it by.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::cgroups::name::{self, CgroupKind, Kubelets, Name};
use crate::join::{KIND, Resource, Sample, Subject};
use crate::signals::cpu;

/// The attribute that only cgroups have.
pub(super) const PATH: &str = "podmeter.cgroup.path";

/// The cgroup that a sample is of, in the collection that was read at `collected_ns`.
///
/// Its inode number is not exported. Its path and when its CPU time began are the same in each collection, and another's under the same
/// path are not. What was read before its collection is of a cgroup that was gone by then.
pub(super) fn subject(sample: &Sample, collected_ns: u64) -> Option<Subject> {
    let resource = &sample.resource;
    let path = resource.get(PATH)?;
    let began = sample.points.iter().find(|point| std::ptr::eq(point.metric, &cpu::metrics::TIME)).map(|point| point.start_ns);
    let mut hasher = DefaultHasher::new();
    (path, began).hash(&mut hasher);
    Some(Subject {
        id: hasher.finish(),
        path: path.to_owned(),
        name: named(path, resource),
        ended: sample.time_ns.is_some_and(|ns| ns < collected_ns),
    })
}

/// What was exported of the name; the rest from the path, which may have been cut.
fn named(path: &str, resource: &Resource) -> Name {
    let get = |key: &str| resource.get(key).map(str::to_owned);
    let (kind, container_id, pod_uid) = (resource.get(KIND), get("container.id"), get("k8s.pod.uid"));
    let readings = [Kubelets::Any, Kubelets::OfTheNode].map(|kubelets| name::parse(path, kubelets));
    let agrees = |name: &&Name| {
        Some(name.kind.as_str()) == kind && name.container_id == container_id && name.pod_uid.is_some() == pod_uid.is_some()
    };
    let [any, _] = &readings;
    let read = readings.iter().find(agrees).unwrap_or(any);
    Name {
        kind: kind.and_then(CgroupKind::of).unwrap_or(read.kind),
        name: get("podmeter.workload.name").unwrap_or_else(|| read.name.clone()),
        pod_uid,
        container_id,
        ..read.clone()
    }
}
