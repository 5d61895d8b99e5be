//! A cgroup's path and its sample's resource -> what a workload is called (pure): the names of Kubernetes where the pod is
//! known, else those of the path.

use super::document::WorkloadUsage;
use crate::{
    cgroups::name::CgroupKind,
    join::{Resource, Subject},
    pods::workload,
};

/// A workload with its names and without figures.
pub fn of(subject: &Subject, resource: &Resource) -> WorkloadUsage {
    let name = &subject.name;
    let mut workload = WorkloadUsage {
        name: name.name.clone(),
        kind: name.kind.as_str().to_owned(),
        cgroup_kind: name.kind.as_str().to_owned(),
        pod: name.pod_uid.clone(),
        container: name.container_id.clone().filter(|_| name.kind == CgroupKind::Container),
        cgroup: subject.path.clone(),
        ended: subject.ended,
        ..WorkloadUsage::default()
    };
    let get = |key: &str| resource.get(key).map(str::to_owned);
    // A cgroup outside of pods may have such attributes too: the configuration's.
    let Some(pod) = name.pod_uid.as_ref().and_then(|_| get("k8s.pod.name")) else { return workload };
    workload.pod = Some(pod);
    workload.namespace = get("k8s.namespace.name");
    workload.container = workload.container.and_then(|id| get("k8s.container.name").or(Some(id)));
    workload.container_type = get("podmeter.container.type").filter(|_| name.kind == CgroupKind::Container && !name.nested);
    // What a container made inside itself is no workload of Kubernetes.
    let known = matches!(name.kind, CgroupKind::Pod | CgroupKind::Container) && !name.nested;
    let controller = workload::WorkloadKind::ALL.into_iter().find_map(|kind| Some((kind, get(kind.attribute())?)));
    match controller.filter(|_| known) {
        Some((kind, name)) => (workload.kind, workload.name) = (kind.as_str().to_owned(), name),
        // A pod that somebody made by hand, or a static one.
        None => workload.name = get("podmeter.workload.name").unwrap_or(workload.name),
    }
    workload
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cgroups::table::tests::cgroup,
        join::{NodeIdentity, identity::Unlisted},
        pods::{
            index::Found,
            object::{Container, Pod},
        },
    };

    const UID: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";

    /// Kind, name, namespace, pod and container of the cgroup at `path` below the pod's.
    fn names_of(below: &str, pod: Option<&Pod>, container: Option<&Container>) -> [Option<String>; 5] {
        let cgroup = cgroup(1, &format!("/kubepods/pod{UID}{below}"), None);
        // As a configuration may add them to everything.
        let attributes = [("k8s.deployment.name", "liar"), ("k8s.namespace.name", "liar")];
        let node =
            NodeIdentity { attributes: attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into(), ..NodeIdentity::default() };
        let resource = match pod {
            Some(pod) => node.resource_in(
                &cgroup,
                &Found { pod, container, namespace_labels: &[], revision: 1, gone: false },
                Unlisted::Unknown,
            ),
            None => node.resource_of(&cgroup),
        };
        let workload = of(&Subject::of(&cgroup), &resource);
        [Some(workload.kind), Some(workload.name), workload.namespace, workload.pod, workload.container]
    }

    #[test]
    fn a_workload_is_called_as_kubernetes_calls_it_once_that_is_known() {
        let id = "ab".repeat(32);
        let of = |kind, name: &str| Some(workload::Workload { kind, name: name.into() });
        let pod = |workload| Pod { namespace: "shop".into(), name: "web-5d-x".into(), workload, ..Pod::default() };
        let web = pod(of(workload::WorkloadKind::Deployment, "web"));
        let app = Container { name: "app".into(), ..Container::default() };
        let (container, inner) = (format!("/{id}"), format!("/{id}/inner"));
        for (path, pod, container, wanted) in [
            ("", None, None::<&Container>, ["Pod", UID, "", UID, ""]),
            ("", Some(&web), None, ["Deployment", "web", "shop", "web-5d-x", ""]),
            (container.as_str(), None, None, ["Container", &id[..12], "", UID, &id]),
            (container.as_str(), Some(&web), None, ["Deployment", "web", "shop", "web-5d-x", &id]),
            (container.as_str(), Some(&web), Some(&app), ["Deployment", "web", "shop", "web-5d-x", "app"]),
        ] {
            assert_eq!(names_of(path, pod, container).map(Option::unwrap_or_default), wanted, "{path:?} {container:?}");
        }
        let [kind, _, namespace, pod, container] = names_of(&inner, Some(&web), Some(&app));
        assert_eq!((kind.as_deref(), namespace.as_deref(), pod.as_deref()), (Some("Cgroup"), Some("shop"), Some("web-5d-x")));
        assert_eq!(container, None);
    }

    #[test]
    fn every_kind_of_workload_has_its_kubernetes_kind() {
        for kind in workload::WorkloadKind::ALL {
            let workload = Some(workload::Workload { kind, name: "it".into() });
            let pod = Pod { namespace: "shop".into(), name: "it-0".into(), workload, ..Pod::default() };
            let [called, name, ..] = kind_and_name(&pod);
            assert_eq!((called.as_str(), name.as_str()), (kind.as_str(), "it"));
        }
        let bare = Pod { namespace: "shop".into(), name: "by-hand".into(), ..Pod::default() };
        assert_eq!(kind_and_name(&bare), ["Pod", "by-hand"]);
    }

    fn kind_and_name(pod: &Pod) -> [String; 2] {
        let cgroup = cgroup(1, &format!("/kubepods/pod{UID}"), None);
        let found = Found { pod, container: None, namespace_labels: &[], revision: 1, gone: false };
        let workload = of(&Subject::of(&cgroup), &NodeIdentity::default().resource_in(&cgroup, &found, Unlisted::Unknown));
        [workload.kind, workload.name]
    }
}
