//! The keys of `kubernetes`: where pods get their names from.

use std::time::Duration;

use super::Key;
use crate::config::KubernetesSource;
use crate::config::value::{boolean, checked_url, duration, filled, one_of, store, words};

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "kubernetes.source",
        Some("auto"),
        "Source of pod metadata: api (the cluster's API: one watch of this node's pods), kubelet (this node's kubelet), off, or \
         auto: api with a kubeconfig or a pod's service account, else off.",
        |l, v| {
            let known = [
                ("auto", KubernetesSource::Auto),
                ("api", KubernetesSource::Api),
                ("kubelet", KubernetesSource::Kubelet),
                ("off", KubernetesSource::Off),
            ];
            store(&mut l.config.kubernetes.source, one_of(v, &known)?)
        },
    ),
    Key::new(
        "kubernetes.kubeconfig",
        None,
        "Kubeconfig to reach the API with; its current context is used. Default: the pod's service account.",
        |l, v| store(&mut l.config.kubernetes.kubeconfig, Some(filled(v)?.into())),
    )
    .example("/etc/podmeter/kubeconfig"),
    Key::new(
        "kubernetes.labels",
        None,
        "Keys of pod labels, separated by commas, that become attributes k8s.pod.label.<key>. Default: none.",
        |l, v| store(&mut l.config.kubernetes.labels, words(v)?),
    )
    .example("team,app.kubernetes.io/part-of"),
    Key::new(
        "kubernetes.namespace_labels",
        None,
        "Keys of namespace labels, separated by commas, that become attributes k8s.namespace.label.<key>. All namespaces are \
         watched for them. Default: none.",
        |l, v| store(&mut l.config.kubernetes.namespace_labels, words(v)?),
    )
    .example("team"),
    Key::new(
        "kubernetes.service_labels",
        Some("false"),
        "Whether the pod labels app.kubernetes.io/instance and app.kubernetes.io/name give service.name, before the workload's name.",
        |l, v| store(&mut l.config.kubernetes.service_labels, boolean(v)?),
    ),
    Key::new(
        "kubernetes.kubelet_url",
        Some("https://127.0.0.1:10250"),
        "URL of the kubelet, without a path, for source kubelet.",
        |l, v| {
            let url = checked_url(filled(v)?)?.trim_end_matches('/').to_owned();
            store(&mut l.config.kubernetes.kubelet_url, url)
        },
    ),
    Key::new(
        "kubernetes.kubelet_ca",
        None,
        "PEM file with the CA certificates to verify the kubelet by. Default: those the host trusts.",
        |l, v| store(&mut l.config.kubernetes.kubelet_ca, Some(filled(v)?.into())),
    )
    .example("/etc/kubernetes/pki/ca.crt"),
    Key::new(
        "kubernetes.kubelet_verify",
        Some("true"),
        "Whether to verify the kubelet's certificate. Many kubelets have a self-signed one. Without verification, any process that \
         listens at that address gets the token.",
        |l, v| store(&mut l.config.kubernetes.kubelet_verify, boolean(v)?),
    ),
    Key::new(
        "kubernetes.kubelet_token",
        None,
        "File with the token to show to the kubelet. Default: the service account's, where there is one.",
        |l, v| store(&mut l.config.kubernetes.kubelet_token, Some(filled(v)?.into())),
    )
    .example("/etc/podmeter/token"),
    Key::new("kubernetes.kubelet_interval", Some("10s"), "Time between two requests to the kubelet: 1s to 300s.", |l, v| {
        let interval = duration(v, Duration::from_secs(1)..=Duration::from_secs(300))?;
        store(&mut l.config.kubernetes.kubelet_interval, interval)
    }),
    Key::new(
        "kubernetes.spread",
        Some("15s"),
        "Longest random delay before pods are listed: 0s to 300s. It keeps the agents of a cluster from sending their requests to the \
         API server at the same time. At start, container names are delayed by it too.",
        |l, v| store(&mut l.config.kubernetes.spread, duration(v, Duration::ZERO..=Duration::from_secs(300))?),
    ),
    Key::new(
        "kubernetes.finished_pods",
        Some("10m"),
        "How long the state of a pod is exported after its end: 0s to 24h. Each is exported at least once, and at most the \
         latest hundred at a time. podmeter.agent.kubernetes.left_out is the number of the others.",
        |l, v| store(&mut l.config.kubernetes.finished_pods, duration(v, Duration::ZERO..=Duration::from_secs(24 * 3600))?),
    ),
];
