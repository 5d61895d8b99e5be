//! Resource and point attributes -> labels (pure), by the rules by which Prometheus makes them of OTLP.

use std::collections::BTreeMap;

use crate::{
    bound::bounded,
    join::{KIND, Resource},
    metric::Attributes,
};

/// Resource attributes that are labels of each series: those that `deploy/collector/prometheus.yaml` has Prometheus promote.
const PROMOTED: &[&str] = &[
    "k8s.cluster.name",
    "k8s.node.name",
    "k8s.namespace.name",
    "k8s.pod.name",
    "k8s.pod.uid",
    "k8s.container.name",
    "k8s.deployment.name",
    "k8s.statefulset.name",
    "k8s.daemonset.name",
    "k8s.job.name",
    "k8s.cronjob.name",
    "container.id",
    "host.name",
    "service.name",
    "service.namespace",
    "podmeter.cgroup.path",
    KIND,
    "podmeter.workload.name",
];

/// Beginnings of attributes that are promoted, too: labels that `kubernetes.labels` and `kubernetes.namespace_labels` name are there
/// to be queried by.
const PROMOTED_PREFIXES: &[&str] = &["k8s.pod.label.", "k8s.namespace.label."];

/// Labels by name.
pub(super) type Labels = BTreeMap<String, String>;

/// Whether a resource attribute is a label of each series.
fn is_promoted(key: &str) -> bool {
    PROMOTED.contains(&key) || PROMOTED_PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

/// The labels that each series of a resource has. Values have at most `most` bytes.
pub(super) fn promoted(resource: &Resource, most: usize) -> Labels {
    labels(resource.attributes().filter(|(key, _)| is_promoted(key)), most)
}

/// The labels of a resource's `target_info`: all attributes. `None` where each series has them all already.
pub(super) fn target_info(resource: &Resource, most: usize) -> Option<Labels> {
    let more = resource.attributes().any(|(key, _)| !is_promoted(key));
    more.then(|| labels(resource.attributes(), most))
}

/// The labels of a point's own attributes.
pub(super) fn own(attributes: &Attributes, most: usize) -> Labels {
    labels(attributes.iter(), most)
}

/// Attributes whose names become the same have their values joined. An empty label is none.
fn labels<'k, 'v>(attributes: impl Iterator<Item = (&'k str, &'v str)>, most: usize) -> Labels {
    let mut labels = Labels::new();
    for (key, value) in attributes.filter(|(_, value)| !value.is_empty()) {
        let value = bounded(value, most);
        labels
            .entry(name(key))
            .and_modify(|joined: &mut String| {
                joined.push(';');
                joined.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    labels
}

/// The name of an attribute's label.
fn name(key: &str) -> String {
    let name: String = key.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("key_{name}") } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(labels: &Labels) -> Vec<(&str, &str)> {
        labels.iter().map(|(name, value)| (&**name, &**value)).collect()
    }

    #[test]
    fn labels_are_named_as_prometheus_names_them() {
        for (key, expected) in [
            ("k8s.pod.label.app.kubernetes.io/part-of", "k8s_pod_label_app_kubernetes_io_part_of"),
            ("container.id", "container_id"),
            ("1st", "key_1st"),
            ("\u{fc}ber", "_ber"),
        ] {
            assert_eq!(name(key), expected);
        }
    }

    #[test]
    fn what_the_example_promotes_is_a_label_and_all_else_is_in_target_info() {
        let resource = Resource::new(
            [("container.id", "c1"), ("container.runtime", "x"), ("k8s.pod.label.team", "blue"), ("service.name", "")],
            0,
        );
        let own = promoted(&resource, 64);
        assert_eq!(pairs(&own), [("container_id", "c1"), ("k8s_pod_label_team", "blue")]);
        let info = target_info(&resource, 64).expect("more than labels");
        assert_eq!(pairs(&info), [("container_id", "c1"), ("container_runtime", "x"), ("k8s_pod_label_team", "blue")]);
        assert_eq!(target_info(&Resource::new([("host.name", "n")], 0), 64), None);
    }

    #[test]
    fn names_that_become_the_same_are_one_label_and_long_values_are_cut() {
        let long = "x".repeat(100);
        let labels = labels([("a.b", "1"), ("a/b", "2"), ("c", &long)].into_iter(), 64);
        assert_eq!((&*labels["a_b"], labels["c"].len()), ("1;2", 64));
    }

    #[test]
    fn the_example_for_prometheus_promotes_the_same() {
        let example = include_str!("../../../deploy/collector/prometheus.yaml");
        let listed: Vec<&str> = example
            .lines()
            .skip_while(|line| !line.contains("promote_resource_attributes"))
            .skip(1)
            .map_while(|line| line.trim().strip_prefix("- "))
            .collect();
        assert_eq!(listed, PROMOTED);
    }
}
