//! A pod's resource -> that of the sum that the pod is in (pure).

use std::collections::BTreeMap;

use crate::{
    config::Detail,
    join::{KIND, Resource},
};

/// Attributes that name the workload of a pod (`pods/workload.rs`).
const WORKLOADS: [&str; 7] = [
    "k8s.cronjob.name",
    "k8s.daemonset.name",
    "k8s.deployment.name",
    "k8s.job.name",
    "k8s.replicaset.name",
    "k8s.replicationcontroller.name",
    "k8s.statefulset.name",
];

/// What all pods of a sum have in common. A pod of no workload is in its namespace's.
pub(super) fn sum_of(pod: &Resource, detail: Detail) -> Resource {
    let workload = Some(pod)
        .filter(|_| detail == Detail::Workload)
        .and_then(|pod| WORKLOADS.into_iter().find_map(|key| Some((key, pod.get(key)?))));
    let is_of_pod = |key: &str| {
        let of_pod = ["k8s.pod.", "podmeter.pod.", "podmeter.container.", "podmeter.workload.", "container.", "service.version"];
        let of_workload = workload.is_none() && (WORKLOADS.contains(&key) || key.starts_with("service."));
        of_workload
            || of_pod.iter().any(|start| key.starts_with(start))
            || key == "k8s.container.name"
            || key == "podmeter.cgroup.path"
    };
    let mut attributes: BTreeMap<&str, &str> = pod.attributes().filter(|(key, _)| !is_of_pod(key)).collect();
    let namespace = pod.get("k8s.namespace.name").unwrap_or_default();
    let (kind, name) = match workload {
        Some((key, name)) => (key.trim_start_matches("k8s.").trim_end_matches(".name"), name),
        None => ("namespace", namespace),
    };
    // One for each node: the sum is of this node's pods.
    let instance = format!("{}/{namespace}/{kind}/{name}", pod.get("host.name").unwrap_or_default());
    attributes.extend([
        (KIND, if workload.is_some() { "Workload" } else { "Namespace" }),
        ("podmeter.workload.name", name),
        ("service.instance.id", &instance),
    ]);
    attributes.entry("service.name").or_insert(name);
    attributes.entry("service.namespace").or_insert(namespace);
    Resource::new(attributes, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pods_of_a_workload_have_one_sum_and_pods_of_none_their_namespaces() {
        let pod = |name: &str, deployment: Option<&str>| {
            let all = [
                ("host.name", "n1"),
                ("k8s.namespace.label.team", "blue"),
                ("k8s.namespace.name", "shop"),
                ("k8s.pod.label.version", name),
                ("k8s.pod.name", name),
                ("podmeter.cgroup.path", name),
                (KIND, "Pod"),
                ("service.instance.id", name),
                ("service.name", deployment.unwrap_or(name)),
                ("service.namespace", "shop"),
            ];
            let attributes: BTreeMap<_, _> =
                all.into_iter().chain(deployment.map(|name| ("k8s.deployment.name", name))).collect();
            Resource::new(attributes, 0)
        };
        let sum = sum_of(&pod("web-1", Some("web")), Detail::Workload);
        assert_eq!(sum, sum_of(&pod("web-2", Some("web")), Detail::Workload));
        let expected = [
            ("host.name", "n1"),
            ("k8s.deployment.name", "web"),
            ("k8s.namespace.label.team", "blue"),
            ("k8s.namespace.name", "shop"),
            (KIND, "Workload"),
            ("podmeter.workload.name", "web"),
            ("service.instance.id", "n1/shop/deployment/web"),
            ("service.name", "web"),
            ("service.namespace", "shop"),
        ];
        assert_eq!(sum.attributes().collect::<Vec<_>>(), expected);
        let of_namespace = sum_of(&pod("web-1", Some("web")), Detail::Namespace);
        assert_eq!(of_namespace, sum_of(&pod("bare", None), Detail::Workload));
        assert_eq!(of_namespace.get("service.instance.id"), Some("n1/shop/namespace/shop"));
        assert_eq!(of_namespace.get("k8s.deployment.name"), None);
    }
}
