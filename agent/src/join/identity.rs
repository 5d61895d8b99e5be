//! A pod, a container -> resource attributes (pure).
//!
//! `service.*` follow OpenTelemetry's rules for Kubernetes (semantic conventions, "Specify resource attributes using Kubernetes
//! annotations"): annotation, well-known label where that is wanted, workload, pod.

use crate::{
    cgroups::{Cgroup, name::CgroupKind},
    pods::{
        index::Found,
        object::{Container, Pod},
    },
};

/// Attributes by key.
pub type Attributes = Vec<(String, String)>;

/// What a container that Kubernetes does not list may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unlisted {
    /// The pod's sandbox: the pause container that holds its namespaces.
    Sandbox,
    /// Not reported yet.
    Unknown,
}

/// Attributes that a container has with or without a known name, with another value.
pub const BY_ID: [&str; 2] = ["podmeter.workload.name", "service.instance.id"];

/// Of a cgroup that belongs to a known pod.
pub fn of_cgroup(cgroup: &Cgroup, found: &Found<'_>, unlisted: Unlisted) -> Attributes {
    let Found { pod, container, namespace_labels, .. } = *found;
    let id = cgroup.name.container_id.as_deref();
    let mut attributes = of_pod(pod, namespace_labels);
    match (container, id) {
        (Some(container), _) => attributes.extend(of_container(container)),
        (None, Some(_)) if unlisted == Unlisted::Sandbox => attributes.push(own("podmeter.container.type", "sandbox")),
        _ => {}
    }
    let what = container.map(|container| container.name.to_string()).or_else(|| id.map(|id| id.chars().take(12).collect()));
    let below = id.filter(|_| cgroup.name.nested).map(|id| below(&cgroup.path, id)).unwrap_or_default();
    attributes.push(("service.instance.id".to_owned(), instance(pod, what.as_deref()) + below));
    let name = match cgroup.name.kind {
        CgroupKind::Pod => Some(&pod.name),
        CgroupKind::Container if !cgroup.name.nested => container.map(|container| &container.name),
        _ => None,
    };
    attributes.extend(name.map(|name| own("podmeter.workload.name", name)));
    attributes
}

/// Of a container as the pod's spec has it, whichever one runs.
pub fn of_listed(pod: &Pod, container: &Container, namespace_labels: &[(Box<str>, Box<str>)]) -> Attributes {
    let mut attributes = of_pod(pod, namespace_labels);
    attributes.extend(of_container(container));
    attributes.push(("service.instance.id".to_owned(), instance(pod, Some(&container.name))));
    attributes
}

/// Of a pod.
pub fn of_pod_alone(pod: &Pod, namespace_labels: &[(Box<str>, Box<str>)]) -> Attributes {
    let mut attributes = of_pod(pod, namespace_labels);
    attributes.push(("service.instance.id".to_owned(), instance(pod, None)));
    attributes
}

fn own(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

fn of_container(container: &Container) -> [(String, String); 2] {
    [own("k8s.container.name", &container.name), own("podmeter.container.type", container.role.as_str())]
}

fn of_pod(pod: &Pod, namespace_labels: &[(Box<str>, Box<str>)]) -> Attributes {
    let mut attributes = vec![
        own("k8s.namespace.name", &pod.namespace),
        own("k8s.pod.name", &pod.name),
        own("k8s.pod.uid", &pod.uid),
        own("service.namespace", pod.service.namespace.as_ref().unwrap_or(&pod.namespace)),
    ];
    let workload = pod.workload.as_ref();
    attributes.extend(workload.map(|workload| own(workload.kind.attribute(), &workload.name)));
    let name = pod.service.name.as_ref().or(workload.map(|workload| &workload.name)).unwrap_or(&pod.name);
    attributes.push(own("service.name", name));
    attributes.extend(pod.service.version.as_ref().map(|version| own("service.version", version)));
    attributes.extend(pod.qos.as_ref().map(|qos| own("podmeter.pod.qos", qos)));
    attributes.extend(pod.priority_class.as_ref().map(|class| own("podmeter.pod.priority_class", class)));
    attributes.extend(pod.labels.iter().map(|(key, value)| (format!("{POD_LABEL}{key}"), value.to_string())));
    attributes.extend(namespace_labels.iter().map(|(key, value)| (format!("{NAMESPACE_LABEL}{key}"), value.to_string())));
    attributes
}

const POD_LABEL: &str = "k8s.pod.label.";
const NAMESPACE_LABEL: &str = "k8s.namespace.label.";

/// Whether an attribute is a label that somebody chose.
pub fn is_label(key: &str) -> bool {
    key.starts_with(POD_LABEL) || key.starts_with(NAMESPACE_LABEL)
}

/// `service.instance.id`: the pod's annotation, else namespace, pod and container joined by dots.
fn instance(pod: &Pod, container: Option<&str>) -> String {
    match (&pod.service.instance, container) {
        (Some(instance), _) => instance.to_string(),
        (None, Some(container)) => format!("{}.{}.{container}", pod.namespace, pod.name),
        (None, None) => format!("{}.{}", pod.namespace, pod.name),
    }
}

/// What follows a container's own cgroup in the path of one that it made: that has a service instance of its own, or its series would
/// be the container's where only job and instance tell them apart. Of a path that was cut before there it is the whole.
fn below<'a>(path: &'a str, container_id: &str) -> &'a str {
    let after = path.find(container_id).map_or(path, |at| &path[at + container_id.len()..]);
    after.find('/').map_or(after, |slash| &after[slash..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cgroups::table::tests::cgroup,
        pods::{
            object::{ContainerRole, Service},
            workload::{self, Workload},
        },
    };

    const UID: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";

    fn pod() -> Pod {
        Pod {
            uid: UID.into(),
            namespace: "shop".into(),
            name: "web-1".into(),
            workload: Some(Workload { kind: workload::WorkloadKind::Deployment, name: "web".into() }),
            labels: vec![("team".into(), "blue".into())],
            qos: Some("Burstable".into()),
            priority_class: Some("high".into()),
            ..Pod::default()
        }
    }

    fn get<'a>(attributes: &'a Attributes, key: &str) -> Option<&'a str> {
        attributes.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    fn found<'a>(pod: &'a Pod, container: Option<&'a Container>) -> Found<'a> {
        Found { pod, container, namespace_labels: &[], revision: 1, gone: false }
    }

    #[test]
    fn a_container_has_the_names_of_everything_above_it() {
        let (pod, container) = (pod(), Container { name: "app".into(), role: ContainerRole::Sidecar, ..Container::default() });
        let id = "ab".repeat(32);
        let path = format!("/kubepods/pod{UID}/{id}");
        let namespace_labels = [("team".into(), "shop".into())];
        let found = Found { namespace_labels: &namespace_labels, ..found(&pod, Some(&container)) };
        let attributes = of_cgroup(&cgroup(1, &path, None), &found, Unlisted::Unknown);
        for (key, value) in [
            ("k8s.namespace.name", "shop"),
            ("k8s.pod.name", "web-1"),
            ("k8s.pod.uid", UID),
            ("k8s.deployment.name", "web"),
            ("k8s.container.name", "app"),
            ("podmeter.container.type", "sidecar"),
            ("podmeter.pod.qos", "Burstable"),
            ("podmeter.pod.priority_class", "high"),
            ("k8s.pod.label.team", "blue"),
            ("k8s.namespace.label.team", "shop"),
            ("service.namespace", "shop"),
            ("service.name", "web"),
            ("service.instance.id", "shop.web-1.app"),
        ] {
            assert_eq!(get(&attributes, key), Some(value), "{key}");
        }
        let inner = of_cgroup(&cgroup(2, &format!("{path}/init/deeper"), None), &found, Unlisted::Unknown);
        assert_eq!(get(&inner, "service.instance.id"), Some("shop.web-1.app/init/deeper"));
    }

    #[test]
    fn the_pods_own_cgroup_and_its_sandbox_are_not_containers() {
        let pod = pod();
        let path = format!("/kubepods/pod{UID}");
        let attributes = of_cgroup(&cgroup(1, &path, None), &found(&pod, None), Unlisted::Unknown);
        assert_eq!((get(&attributes, "k8s.container.name"), get(&attributes, "podmeter.container.type")), (None, None));
        assert_eq!(get(&attributes, "service.instance.id"), Some("shop.web-1"));
        let pause = cgroup(2, &format!("{path}/{}", "cd".repeat(32)), None);
        let attributes = of_cgroup(&pause, &found(&pod, None), Unlisted::Sandbox);
        assert_eq!(
            (get(&attributes, "k8s.container.name"), get(&attributes, "podmeter.container.type")),
            (None, Some("sandbox"))
        );
        assert_eq!(get(&attributes, "service.instance.id"), Some("shop.web-1.cdcdcdcdcdcd"));
    }

    #[test]
    fn annotations_name_the_service_before_anything_else_does() {
        let service = Service {
            name: Some("checkout".into()),
            namespace: Some("money".into()),
            instance: Some("one".into()),
            version: Some("1.2".into()),
        };
        let attributes = of_pod_alone(&Pod { service, ..pod() }, &[]);
        let values =
            ["service.name", "service.namespace", "service.instance.id", "service.version"].map(|key| get(&attributes, key));
        assert_eq!(values, [Some("checkout"), Some("money"), Some("one"), Some("1.2")]);
        let bare = of_pod_alone(&Pod { workload: None, ..pod() }, &[]);
        assert_eq!(get(&bare, "service.name"), Some("web-1"));
    }
}
