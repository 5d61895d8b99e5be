//! The kubelet's own list of its pods, asked again and again: for clusters that want no load on the API server.
//!
//! A kubelet offers no watch. Its list has the pods as the API has them, static pods too, with the statuses that it is about to
//! report. What it does not have is the node's allocatable resources and the namespaces' labels.

use std::{collections::HashSet, sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::{
    Shared,
    api::Api,
    failure::{Failure, Kind, Log},
    figures::Followed,
    object::{Object as _, Pod, Wanted},
};
use crate::backoff::{Backoff, Pacing};

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

/// Asks a kubelet for its pods.
pub struct Poller {
    /// The kubelet.
    pub api: Api,
    /// Where what it says goes.
    pub shared: Shared,
    /// What is wanted of pods.
    pub wanted: Arc<Wanted>,
    /// Time between two requests.
    pub interval: Duration,
}

impl Poller {
    /// Never ends. Begins within `jitter`.
    pub async fn run(mut self, jitter: Duration) {
        self.shared.lock().figures.following_mut(Followed::Pods).wanted = true;
        let mut backoff = Backoff::new(Pacing { initial: self.interval / 2, max: Duration::from_secs(60).max(self.interval) });
        let mut log = Log::default();
        sleep(jitter.min(self.interval).mul_f64(fastrand::f64())).await;
        let mut next = Instant::now();
        loop {
            match self.poll().await {
                Ok(first) => {
                    backoff.reset();
                    let address = self.api.address();
                    if let Some(down) = log.succeeded(std::time::Instant::now()) {
                        info!("the kubelet at {address} answers again, after {} s", down.as_secs());
                    } else if first {
                        info!(pods = self.shared.lock().counts().0, "the kubelet at {address} is asked for its pods");
                    }
                    next = Instant::now().max(next + self.interval);
                }
                Err(failure) => {
                    let wait = match failure.retry_after {
                        Some(asked) => backoff.wait_as_asked(asked),
                        None => backoff.wait(),
                    };
                    {
                        let mut known = self.shared.lock();
                        known.figures.failed(failure.kind);
                        known.figures.following_mut(Followed::Pods).current = false;
                    }
                    if log.failed(failure.kind, std::time::Instant::now()) {
                        let advice = match failure.kind {
                            Kind::Denied => {
                                "; podmeter's service account needs the verb get on nodes/pods (nodes/proxy before 1.33)"
                            }
                            Kind::Unauthorized => "; the token is read again before the next attempt",
                            Kind::Connection => {
                                "; is kubernetes.kubelet_url right, and kubernetes.kubelet_ca for its certificate?"
                            }
                            _ => "",
                        };
                        let (address, reason) = (self.api.address(), &failure.reason);
                        warn!("could not ask the kubelet at {address} for its pods: {reason}{advice}");
                    }
                    next = Instant::now() + wait;
                }
            }
            sleep_until(next).await;
        }
    }

    /// Asks once; whether it was the first time that worked.
    async fn poll(&mut self) -> Result<bool, Failure> {
        self.shared.lock().figures.requests += 1;
        let body = self.api.get("/pods", "application/json").await?.all().await?;
        let list: List<'_> = serde_json::from_slice(&body)
            .map_err(|error| Failure::new(Kind::Malformed, format!("its list of pods cannot be read: {error}")))?;
        let pods = list.items.unwrap_or_default();
        let read: Vec<_> = pods.into_iter().map(|pod| Pod::read(pod.get(), &self.wanted)).collect();
        let now = std::time::Instant::now();
        let mut known = self.shared.lock();
        let mut uids = HashSet::new();
        let mut all = true;
        for pod in read {
            known.figures.events += 1;
            match pod {
                Ok(pod) => {
                    uids.insert(pod.uid.clone());
                    known.set_pod(pod);
                }
                Err(_) => {
                    all = false;
                    known.figures.malformed += 1;
                }
            }
        }
        // Which pod it is that cannot be read is not known, so none is taken for deleted.
        if all {
            known.keep_pods(&uids, now);
        }
        known.figures.heard = Some(now);
        let following = known.figures.following_mut(Followed::Pods);
        following.current = true;
        Ok(!std::mem::replace(&mut following.known, true))
    }
}
