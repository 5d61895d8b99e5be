//! Kubernetes: the pods of this node, their names, requests and states.
//!
//! A source follows the pods in the runtime and fills [`PodIndex`]; the collector looks up the ids in cgroup paths there. Nothing waits
//! for the API: while it cannot be reached, the last known state is used, and a pod that is not known has its UID.

mod api;
mod api_error;
pub mod failure;
mod follow;
pub mod follow_metrics;
pub mod follow_stats;
pub mod index;
mod items;
mod kubelet;
pub mod metrics;
pub mod object;
pub mod quantity;
pub mod requests;
mod server;
pub mod starts;
pub mod workload;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use kube::Config;

use self::{
    api::{Api, ApiResponse},
    failure::FollowError,
    follow::Follower,
    follow_stats::{Followed, Verb},
    kubelet::Poller,
    object::{KeptLabels, KubernetesNode, Namespace, Pod},
    server::Server,
    starts::Starts,
};
pub use self::{api_error::ApiError, index::PodIndex};
use crate::{config::Proxies, url::shown};

/// Where Kubernetes puts the token of a pod's service account.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// What is known, shared between the source and the collector. Neither ever waits for the other.
#[derive(Clone, Debug, Default)]
pub struct SharedIndex(Arc<Mutex<Arc<PodIndex>>>);

impl SharedIndex {
    /// What is known now. It stays as it is for as long as it is held.
    pub fn snapshot(&self) -> Arc<PodIndex> {
        Arc::clone(&self.lock())
    }

    /// Changes what is known. While a snapshot is held, a copy is changed, which shares with it all that stays as it was.
    pub fn change<T>(&self, change: impl FnOnce(&mut PodIndex) -> T) -> T {
        change(Arc::make_mut(&mut self.lock()))
    }

    /// Counts a request that is sent now, and how long it takes until its response begins.
    async fn timed(
        &self,
        verb: Verb,
        request: impl Future<Output = Result<ApiResponse, FollowError>>,
    ) -> Result<ApiResponse, FollowError> {
        let began = Instant::now();
        self.change(|known| known.stats.requests += 1);
        let response = request.await;
        let status = response.as_ref().map(|response| response.status);
        self.change(|known| known.stats.requested(verb, began.elapsed(), status));
        response
    }

    fn lock(&self) -> MutexGuard<'_, Arc<PodIndex>> {
        // Whole objects are put in: it is consistent whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where what is known of pods comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodSource {
    /// The cluster's API: by a kubeconfig, or with the pod's service account.
    Api {
        /// The kubeconfig.
        kubeconfig: Option<PathBuf>,
    },
    /// The kubelet of this node.
    Kubelet {
        /// Its address, without a path.
        url: String,
        /// PEM file with the certificates that its own must be signed by; `None`: those the host trusts.
        ca: Option<PathBuf>,
        /// Whether its certificate is checked at all.
        verify: bool,
        /// File with the token to show; `None`: the service account's, if there is one.
        token: Option<PathBuf>,
        /// Time between two requests.
        interval: Duration,
    },
}

/// How the pods are followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowSettings {
    /// Where from.
    pub source: PodSource,
    /// The node whose pods are followed.
    pub node: String,
    /// The labels that are kept.
    pub kept_labels: KeptLabels,
    /// The environment's proxies.
    pub proxies: Proxies,
    /// Lists are put off by up to this long, the first one too: the agents of a cluster may all be started together, or lose their
    /// API server together. Zero where a person waits.
    pub spread: Duration,
    /// How long a pod's state is exported after its end.
    pub finished_kept: Duration,
}

/// Whether this process is a pod with a service account.
pub fn in_cluster() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() && Path::new(TOKEN).exists()
}

/// Begins to follow the pods. Must be called in a runtime with I/O and time.
///
/// # Errors
/// When a person must correct a setting. A server that does not respond is none.
pub async fn follow(settings: FollowSettings) -> Result<SharedIndex, ApiError> {
    let shared = SharedIndex::default();
    let FollowSettings { source, node, kept_labels, proxies, spread, finished_kept } = settings;
    let kept_labels = Arc::new(kept_labels);
    shared.change(|known| {
        known.stats.spread = spread;
        known.finished_kept = finished_kept;
        known.starts = Arc::new(Starts::since(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()));
    });
    match source {
        PodSource::Api { kubeconfig } => {
            let server = Server::of_cluster(kubeconfig.as_ref(), &proxies).await?;
            let api = || Api::new(server.clone());
            let (shared, kept_labels) = (|| shared.clone(), || Arc::clone(&kept_labels));
            tokio::spawn(Follower::new(api(), PODS, shared(), kept_labels(), Some(("spec.nodeName", &node))).run(spread));
            tokio::spawn(Follower::new(api(), NODE, shared(), kept_labels(), Some(("metadata.name", &node))).run(spread));
            if !kept_labels().namespace_labels.is_empty() {
                tokio::spawn(Follower::new(api(), NAMESPACES, shared(), kept_labels(), None).run(spread));
            }
        }
        PodSource::Kubelet { url, ca, verify, token, interval } => {
            let server = Server::kubelet(kubelet_config(&url, ca, verify, token)?);
            tokio::spawn(Poller { api: Api::new(server), shared: shared.clone(), kept_labels, interval }.run(spread));
        }
    }
    Ok(shared)
}

fn kubelet_config(url: &str, ca: Option<PathBuf>, verify: bool, token: Option<PathBuf>) -> Result<Config, ApiError> {
    let url = url.parse().map_err(|source| ApiError::Url { url: shown(url), source })?;
    let mut config = Config::new(url);
    config.accept_invalid_certs = !verify;
    let token = token.or_else(|| Some(PathBuf::from(TOKEN)).filter(|path| path.exists()));
    for path in ca.iter().chain(&token) {
        std::fs::metadata(path).map_err(|source| ApiError::File { path: path.clone(), source })?;
    }
    if verify {
        config.root_cert_file = ca;
    }
    config.auth_info.token_file = token.map(|path| path.to_string_lossy().into_owned());
    Ok(config)
}

/// How the index takes the objects of one kind.
#[derive(Clone, Copy)]
struct ObjectSink<T> {
    followed: Followed,
    set: fn(&mut PodIndex, T),
    forget: fn(&mut PodIndex, T),
    /// These are all that there are.
    keep: fn(&mut PodIndex, &HashSet<Box<str>>),
}

const PODS: ObjectSink<Pod> = ObjectSink {
    followed: Followed::Pods,
    set: PodIndex::set_pod,
    forget: |known, pod| {
        // Its last state may have the ids of containers that were not known yet.
        let uid = pod.uid.clone();
        known.set_pod(pod);
        known.forget_pod(&uid, Instant::now());
    },
    keep: |known, uids| known.keep_pods(uids, Instant::now()),
};

const NODE: ObjectSink<KubernetesNode> = ObjectSink {
    followed: Followed::Node,
    set: PodIndex::set_node,
    forget: |known, _| known.forget_node(),
    keep: |known, names| {
        if names.is_empty() {
            known.forget_node();
        }
    },
};

const NAMESPACES: ObjectSink<Namespace> = ObjectSink {
    followed: Followed::Namespaces,
    set: PodIndex::set_namespace,
    // Its labels go with its last pod.
    forget: |_, _| (),
    keep: PodIndex::keep_namespaces,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_stays_as_it_was_and_holds_up_nobody() {
        let shared = SharedIndex::default();
        let pod = |uid: &str| Pod { uid: uid.into(), ..Pod::default() };
        shared.change(|known| known.set_pod(pod("a")));
        let before = shared.snapshot();
        // With a lock this would hang.
        shared.change(|known| {
            known.set_pod(pod("b"));
            known.forget_pod("a", Instant::now());
            known.stats.requests += 1;
        });
        assert_eq!((before.counts(), before.stats.requests), ((1, 0), 0));
        let after = shared.snapshot();
        assert_eq!((after.counts(), after.stats.requests), ((1, 1), 1));
        assert!(std::ptr::eq(before.find("a", None).unwrap().pod, after.find("a", None).unwrap().pod), "nothing is copied");
    }
}
