//! The kubelet's own list of its pods, requested at intervals: for clusters that want no load on the API server.
//!
//! A kubelet offers no watch. Its list has the pods as the API has them, static pods too, with the statuses that it is about to
//! report. What it does not have is the node's allocatable resources and the namespaces' labels.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::{
    SharedIndex,
    api::Api,
    failure::{FollowError, FollowErrorKind, Log},
    follow_stats::{Followed, Verb},
    items::ListItem,
    object::{ApiObject as _, KeptLabels, Pod},
};
use crate::backoff::{Backoff, Pacing};

/// Requests the pods of a kubelet.
pub struct Poller {
    /// The kubelet.
    pub api: Api,
    /// The index that it fills.
    pub shared: SharedIndex,
    /// Labels of pods that are kept.
    pub kept_labels: Arc<KeptLabels>,
    /// Time between two requests.
    pub interval: Duration,
}

impl Poller {
    /// Never ends. Begins within `spread` and within an interval: no kubelet serves more than one agent.
    pub async fn run(mut self, spread: Duration) {
        self.shared.change(|known| known.stats.following_mut(Followed::Pods).is_followed = true);
        let mut backoff = Backoff::new(Pacing { initial: self.interval / 2, max: Duration::from_secs(60).max(self.interval) });
        let mut log = Log::default();
        sleep(spread.min(self.interval).mul_f64(fastrand::f64())).await;
        let mut next = Instant::now();
        loop {
            match self.poll().await {
                Ok(first) => {
                    backoff.reset();
                    let address = self.api.address();
                    if let Some(down) = log.succeeded(std::time::Instant::now()) {
                        info!("pods are read from the kubelet at {address} again, after {} s", down.as_secs());
                    } else if first {
                        info!(pods = self.shared.snapshot().counts().0, "pods are read from the kubelet at {address}");
                    }
                    next = Instant::now().max(next + self.interval);
                }
                Err(failure) => {
                    let wait = match failure.retry_after {
                        Some(delay) => backoff.wait_at_least(delay),
                        None => backoff.wait(),
                    };
                    let advice = match failure.kind {
                        FollowErrorKind::Denied => {
                            "; podmeter's service account needs the verb get on nodes/pods (nodes/proxy before 1.33)"
                        }
                        FollowErrorKind::Unauthorized => "; the token is read again before the next attempt",
                        FollowErrorKind::Connection => {
                            "; check kubernetes.kubelet_url, and kubernetes.kubelet_ca for its certificate"
                        }
                        _ => "",
                    };
                    let (address, reason) = (self.api.address(), &failure.reason);
                    let trouble = format!("could not read pods from the kubelet at {address}: {reason}{advice}");
                    self.shared.change(|known| {
                        known.stats.failed(failure.kind);
                        known.stats.following_mut(Followed::Pods).fails(failure.kind, &trouble);
                    });
                    if log.failed(failure.kind, std::time::Instant::now()) {
                        warn!("{trouble}; the last known state is used until it works again");
                    }
                    next = Instant::now() + wait;
                }
            }
            sleep_until(next).await;
        }
    }

    /// Requests the pods once; returns whether it was the first time that worked.
    async fn poll(&mut self) -> Result<bool, FollowError> {
        let response = self.shared.timed(Verb::Get, self.api.get("/pods", "application/json")).await?;
        let (mut uids, mut all) = (HashSet::new(), true);
        let rest = response.items(|item| {
            let pod = match item {
                ListItem::Text(text) => Pod::read(text, &self.kept_labels).ok(),
                ListItem::Unreadable => None,
            };
            self.shared.change(|known| {
                known.stats.events += 1;
                match pod {
                    Some(pod) => {
                        uids.insert(pod.uid.clone());
                        known.set_pod(pod);
                    }
                    None => {
                        all = false;
                        known.stats.malformed += 1;
                    }
                }
            });
        });
        let rest = rest.await?;
        let valid: Result<serde_json::Value, _> = serde_json::from_slice(&rest);
        valid
            .map_err(|error| FollowError::new(FollowErrorKind::Malformed, format!("the list of pods cannot be read: {error}")))?;
        let now = std::time::Instant::now();
        Ok(self.shared.change(|known| {
            // Which pod it is that cannot be read is not known, so none is taken for deleted.
            if all {
                known.keep_pods(&uids, now);
            }
            known.stats.last_response = Some(now);
            let following = known.stats.following_mut(Followed::Pods);
            let first = !following.known;
            following.works();
            first
        }))
    }
}
