//! Configuration -> the settings of a pipeline and of the source of pods: for `run`, `top` and `check`.

use std::{path::PathBuf, time::Duration};

use crate::{
    config::{self, Config},
    join::NodeIdentity,
    pods::{self, SharedIndex},
};

/// What a pipeline is made for.
pub struct PipelineSettings {
    /// The machine.
    pub node: NodeIdentity,
    /// What is known of the node's pods, where they are followed.
    pub pods: Option<SharedIndex>,
    /// Where cgroup2 is, and slots for cgroups.
    pub cgroups: config::Cgroups,
    /// Directory for pins in bpffs.
    pub pin_directory: PathBuf,
    /// Whether programs and maps outlive the process.
    pub pin: bool,
    /// Programs that are not loaded.
    pub leave_out: Vec<String>,
    /// Whether programs say what they meet.
    pub kernel_log: bool,
    /// What is measured.
    pub signals: config::Signals,
    /// What all of it may cost.
    pub overhead: config::Overhead,
    /// Time between two collections.
    pub interval: Duration,
}

impl PipelineSettings {
    /// Those for what is exported. Whoever follows pods adds them.
    pub fn exported(config: &Config) -> Self {
        let all = Self::of(config);
        Self { node: NodeIdentity { deny: config.resource.deny.clone(), ..all.node }, ..all }
    }

    /// The same for one who looks on: what it costs is measured, and nothing is given up.
    pub fn without_limit(mut self) -> Self {
        self.overhead.cpu = config::OverheadLimit::Off;
        self
    }

    /// Those that the configuration gives. Whoever follows pods adds them.
    pub fn of(config: &Config) -> Self {
        Self {
            node: NodeIdentity {
                name: config.node_name.clone(),
                in_cluster: follow_settings(config).is_some() || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
                cluster: config.cluster_name.clone(),
                attributes: config.resource.attributes.clone(),
                deny: Vec::new(),
            },
            pods: None,
            cgroups: config.cgroups.clone(),
            pin_directory: config.bpf.directory.clone(),
            pin: config.bpf.pin,
            leave_out: config.bpf.leave_out.clone(),
            kernel_log: config.bpf.log,
            signals: config.signals.clone(),
            overhead: config.overhead.clone(),
            interval: config.interval,
        }
    }
}

/// How pods are followed; `None` where they are not.
pub fn follow_settings(config: &Config) -> Option<pods::FollowSettings> {
    use config::KubernetesSource::{Api, Auto, Kubelet, Off};
    let kubernetes = &config.kubernetes;
    let by_api = || Some(pods::PodSource::Api { kubeconfig: kubernetes.kubeconfig.clone() });
    let source = match kubernetes.source {
        Off => None,
        Auto if kubernetes.kubeconfig.is_none() && !pods::in_cluster() => None,
        Auto | Api => by_api(),
        Kubelet => Some(pods::PodSource::Kubelet {
            url: kubernetes.kubelet_url.clone(),
            ca: kubernetes.kubelet_ca.clone(),
            verify: kubernetes.kubelet_verify,
            token: kubernetes.kubelet_token.clone(),
            interval: kubernetes.kubelet_interval,
        }),
    };
    source.map(|source| pods::FollowSettings {
        source,
        node: config.node_name.clone(),
        kept_labels: pods::object::KeptLabels {
            labels: kubernetes.labels.clone(),
            namespace_labels: kubernetes.namespace_labels.clone(),
            service_labels: kubernetes.service_labels,
        },
        proxies: config.proxies.clone(),
        spread: kubernetes.spread,
        finished_kept: kubernetes.finished_pods,
    })
}
