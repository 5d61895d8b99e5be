//! Cgroups and pods -> resources (pure): what points belong to, as OpenTelemetry's resource attributes.

pub mod identity;
mod resource;
mod sample;

use std::collections::BTreeMap;

use self::identity::Unlisted;
pub use self::resource::{KIND, MOST_ATTRIBUTES, Resource, write_attribute};
pub use self::sample::{CgroupSample, Earlier, Sample, Subject};
use crate::{
    cgroups::{Cgroup, name::CgroupKind},
    config::Pattern,
    pods::{
        index::Found,
        object::{Container, Pod},
    },
};

/// The machine that all resources are on.
#[derive(Clone, Debug, Default)]
pub struct NodeIdentity {
    /// `host.name`, and `k8s.node.name` in a cluster.
    pub name: String,
    /// Whether the name is a Kubernetes node's.
    pub in_cluster: bool,
    /// `k8s.cluster.name`.
    pub cluster: Option<String>,
    /// Attributes that the configuration adds to every resource. They never replace podmeter's own.
    pub attributes: BTreeMap<String, String>,
    /// Attributes that no resource gets.
    pub deny: Vec<Pattern>,
}

impl NodeIdentity {
    /// The node's own resource.
    pub fn resource(&self) -> Resource {
        self.with([("service.name", "podmeter".to_owned()), ("service.instance.id", self.name.clone())])
    }

    /// The resource of a cgroup on this node.
    ///
    /// `service.name` and `service.instance.id` become `job` and `instance` where only those two distinguish series.
    pub fn resource_of(&self, cgroup: &Cgroup) -> Resource {
        self.with(self.of_path(cgroup))
    }

    /// The same of a cgroup whose pod is known.
    pub fn resource_in(&self, cgroup: &Cgroup, found: &Found<'_>, unlisted: Unlisted) -> Resource {
        let by_path = self.of_path(cgroup).into_iter().map(|(key, value)| (key.to_owned(), value));
        self.and(by_path.chain(identity::of_cgroup(cgroup, found, unlisted)))
    }

    /// The resource of a container of a pod, whichever one runs.
    pub fn resource_of_container(&self, pod: &Pod, container: &Container, namespace_labels: &[(Box<str>, Box<str>)]) -> Resource {
        self.and(identity::of_listed(pod, container, namespace_labels))
    }

    /// The resource of a pod.
    pub fn resource_of_pod(&self, pod: &Pod, namespace_labels: &[(Box<str>, Box<str>)]) -> Resource {
        self.and(identity::of_pod_alone(pod, namespace_labels))
    }

    /// The attributes from a cgroup's path alone.
    fn of_path(&self, cgroup: &Cgroup) -> Vec<(&'static str, String)> {
        let name = &cgroup.name;
        let mut own = vec![
            ("podmeter.cgroup.path", cgroup.path.clone()),
            (KIND, name.kind.as_str().to_owned()),
            ("podmeter.workload.name", name.name.clone()),
            ("service.name", name.name.clone()),
            ("service.instance.id", format!("{}{}", self.name, cgroup.path)),
        ];
        if name.kind == CgroupKind::Container {
            own.extend(name.runtime.map(|runtime| ("container.runtime.name", runtime.as_str().to_owned())));
        }
        own.extend(name.container_id.clone().map(|id| ("container.id", id)));
        own.extend(name.qos.map(|qos| ("podmeter.pod.qos", qos.as_str().to_owned())));
        own.extend(name.pod_uid.clone().map(|uid| ("k8s.pod.uid", uid)));
        own
    }

    fn with(&self, own: impl IntoIterator<Item = (&'static str, String)>) -> Resource {
        self.and(own.into_iter().map(|(key, value)| (key.to_owned(), value)))
    }

    /// These and the node's attributes; of two with the same key, podmeter's own.
    fn and(&self, own: impl IntoIterator<Item = (String, String)>) -> Resource {
        let mut attributes = BTreeMap::from([("host.name".to_owned(), self.name.clone())]);
        if self.in_cluster {
            attributes.insert("k8s.node.name".to_owned(), self.name.clone());
        }
        attributes.extend(self.cluster.clone().map(|cluster| ("k8s.cluster.name".to_owned(), cluster)));
        attributes.extend(own);
        let allowed = |key: &str| !self.deny.iter().any(|pattern| pattern.is(key));
        attributes.retain(|key, _| allowed(key));
        let configured: Vec<_> =
            self.attributes.iter().filter(|(key, _)| !attributes.contains_key(*key) && allowed(key)).collect();
        let left_out = (attributes.len() + configured.len()).saturating_sub(MOST_ATTRIBUTES);
        let spare_labels = left_out.saturating_sub(configured.len());
        let kept = configured.len().saturating_sub(left_out);
        let labels = attributes.keys().filter(|key| identity::is_label(key));
        for label in labels.rev().take(spare_labels).cloned().collect::<Vec<_>>() {
            attributes.remove(&label);
        }
        attributes.extend(configured.into_iter().take(kept).map(|(key, value)| (key.clone(), value.clone())));
        Resource::new(&attributes, left_out as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::table::tests::cgroup;

    #[test]
    fn a_containers_resource_names_it_its_pod_and_its_node() {
        let node = NodeIdentity {
            name: "n1".to_owned(),
            in_cluster: true,
            cluster: Some("c".to_owned()),
            attributes: BTreeMap::from([("team".to_owned(), "shop".to_owned()), ("host.name".to_owned(), "liar".to_owned())]),
            deny: Vec::new(),
        };
        let id = "ab".repeat(32);
        let path = format!("/kubepods.slice/kubepods-podaaaaaaaa_bbbb_cccc_dddd_eeeeeeeeeeee.slice/cri-containerd-{id}.scope");
        let resource = node.resource_of(&cgroup(5, &path, None));
        assert_eq!(resource.get("container.id"), Some(id.as_str()));
        assert_eq!(resource.get("k8s.pod.uid"), Some("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"));
        assert_eq!(resource.get("podmeter.cgroup.path"), Some(path.as_str()));
        assert_eq!((resource.get("host.name"), resource.get("k8s.node.name")), (Some("n1"), Some("n1")));
        assert_eq!((resource.get("k8s.cluster.name"), resource.get("team")), (Some("c"), Some("shop")));
        assert!(resource.attributes().is_sorted_by(|a, b| a.0 < b.0), "sorted, each key once");
    }

    #[test]
    fn a_resource_has_no_more_attributes_than_its_bound_and_podmeters_own_stay() {
        let configured = |n: usize| (0..n).map(|i| (format!("configured.{i:03}"), "x".to_owned())).collect();
        let node = NodeIdentity { name: "n1".to_owned(), attributes: configured(100), ..NodeIdentity::default() };
        let id = "ab".repeat(32);
        let cgroup = cgroup(5, &format!("/kubepods/podaaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee/{id}"), None);
        let alone = NodeIdentity { attributes: BTreeMap::new(), ..node.clone() }.resource_of(&cgroup);
        assert_eq!(alone.left_out, 0);
        let resource = node.resource_of(&cgroup);
        assert_eq!(resource.attributes().count(), MOST_ATTRIBUTES);
        assert_eq!(resource.left_out as usize, alone.attributes().count() + 100 - MOST_ATTRIBUTES);
        assert!(alone.attributes().all(|(key, value)| resource.get(key) == Some(value)));
        assert!(resource.attributes().is_sorted_by(|a, b| a.0 < b.0));

        let labels = (0..100).map(|i| (format!("label-{i:03}").into(), "x".into())).collect();
        let pod = Pod { uid: "u".into(), name: "web".into(), namespace: "shop".into(), labels, ..Pod::default() };
        let resource = node.resource_of_pod(&pod, &[]);
        assert_eq!(resource.attributes().count(), MOST_ATTRIBUTES);
        assert_eq!((resource.get("service.instance.id"), resource.get("k8s.pod.uid")), (Some("shop.web"), Some("u")));
        assert_eq!((resource.get("k8s.pod.label.label-000"), resource.get("configured.000")), (Some("x"), None));
    }

    #[test]
    fn the_node_is_not_a_cgroup() {
        let resource = NodeIdentity { name: "n1".to_owned(), ..NodeIdentity::default() }.resource();
        assert_eq!(resource.get("host.name"), Some("n1"));
        assert_eq!((resource.get("podmeter.cgroup.path"), resource.get("k8s.node.name")), (None, None));
    }
}
