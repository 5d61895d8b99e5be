//! List and watch: follows all objects of a kind that a selector leaves, for as long as the process lives.
//!
//! A list with `resourceVersion=0` ("any state you have") comes out of the API server's watch cache, where pods have an index by
//! node, and the watch goes on from the list's version. A watch that sends the initial objects itself (`sendInitialEvents`, or
//! version 0) is not used: the server makes it by copying every pod of the cluster first. ARCHITECTURE.md has the sources.
//! Bookmarks keep the version current while nothing changes, so that a watch that breaks goes on where it was.

use std::{collections::HashSet, sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::{
    ObjectSink, SharedIndex,
    api::{Api, ApiResponse, ApiStatus, refused},
    failure::{FollowError, FollowErrorKind, Log},
    follow_stats::Verb,
    items::ListItem,
    object::{ApiObject, KeptLabels},
};
use crate::backoff::{Backoff, Pacing};

/// Waits between attempts.
const PACING: Pacing = Pacing { initial: Duration::from_millis(500), max: Duration::from_secs(60) };

/// The server is requested to end a watch after this long, or up to twice as long: as client-go does.
const WATCH: Duration = Duration::from_secs(300);

/// The server must have ended it after this much more.
const OVERTIME: Duration = Duration::from_secs(30);

/// An API server sends a bookmark every minute; where one came, silence for so long is that of a dead connection.
const SILENCE: Duration = Duration::from_secs(180);

/// A list must be there by then, however slowly it comes.
const LIST: Duration = Duration::from_secs(120);

/// A watch that ends sooner has not worked.
const SHORT: Duration = Duration::from_secs(5);

/// Follows the objects of one kind.
pub struct Follower<T> {
    api: Api,
    sink: ObjectSink<T>,
    shared: SharedIndex,
    kept_labels: Arc<KeptLabels>,
    /// `fieldSelector=…&`, percent-encoded, or nothing.
    selector: String,
    /// The version to go on from; `None` when a list is needed.
    version: Option<String>,
    /// A list is put off by up to this long, a watch that broke by up to a third of it.
    spread: Duration,
    backoff: Backoff,
    log: Log,
}

/// A list without its items.
#[derive(Deserialize)]
struct WatchedList {
    metadata: WatchedListMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WatchedListMetadata {
    resource_version: String,
}

#[derive(Deserialize)]
struct WatchEvent<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// The metadata of any object, also of one that cannot be read as a whole.
#[derive(Deserialize)]
struct AnyObject {
    metadata: AnyMetadata,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AnyMetadata {
    resource_version: Option<String>,
    uid: Option<String>,
    name: Option<String>,
}

impl<T: ApiObject> Follower<T> {
    /// Follows what `field` selects, or all, and puts it into the sink.
    pub fn new(
        api: Api,
        sink: ObjectSink<T>,
        shared: SharedIndex,
        kept_labels: Arc<KeptLabels>,
        field: Option<(&str, &str)>,
    ) -> Self {
        let selector = field.map_or(String::new(), |(field, value)| {
            let value = percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC);
            format!("fieldSelector={field}%3D{value}&")
        });
        shared.change(|known| known.stats.following_mut(sink.followed).is_followed = true);
        let (spread, backoff) = (Duration::ZERO, Backoff::new(PACING));
        Self { api, sink, shared, kept_labels, selector, version: None, spread, backoff, log: Log::default() }
    }

    /// Never ends. Every list is put off by a random part of `spread`, the first one too.
    pub async fn run(mut self, spread: Duration) {
        self.spread = spread;
        self.put_off(spread).await;
        loop {
            let began = Instant::now();
            let failure = match self.step().await {
                Ok(()) if began.elapsed() < SHORT => FollowError::new(FollowErrorKind::Broken, "the watch ended at once"),
                Ok(()) => {
                    self.backoff.reset();
                    continue;
                }
                Err(failure) => failure,
            };
            let worked = began.elapsed() >= SHORT;
            self.failed(&failure, worked).await;
            if failure.kind == FollowErrorKind::Expired {
                // All agents whose watches went through one server may have got this response at once.
                self.version = None;
                self.put_off(spread).await;
            } else if worked {
                self.put_off(spread / 3).await;
            }
        }
    }

    async fn put_off(&self, most: Duration) {
        sleep(most.mul_f64(fastrand::f64())).await;
    }

    /// One round: a list if one is needed, and a watch.
    async fn step(&mut self) -> Result<(), FollowError> {
        if self.version.is_none() {
            let late =
                |_| FollowError::new(FollowErrorKind::Timeout, format!("the list was not complete within {} s", LIST.as_secs()));
            timeout(LIST, self.list()).await.map_err(late)??;
        }
        self.watch().await
    }

    async fn failed(&mut self, failure: &FollowError, worked: bool) {
        let advice = match failure.kind {
            FollowErrorKind::Denied => {
                format!("; podmeter's service account needs the verbs list and watch on {} (see its ClusterRole)", T::RESOURCE)
            }
            FollowErrorKind::Unauthorized => "; the token is read again before the next attempt".to_owned(),
            _ => String::new(),
        };
        let (what, address, reason) = (T::RESOURCE, self.api.address(), &failure.reason);
        let trouble = format!("could not follow {what} at {address}: {reason}{advice}");
        self.shared.change(|known| {
            known.stats.failed(failure.kind);
            // A watch that broke is resumed at once, mostly.
            if !worked || !failure.kind.is_usual() {
                known.stats.following_mut(self.sink.followed).fails(failure.kind, &trouble);
            }
        });
        if self.log.failed(failure.kind, std::time::Instant::now()) {
            warn!("{trouble}; the last known state is used until it works again");
        }
        if worked {
            self.backoff.reset();
        }
        let wait = match failure.retry_after {
            // Others have got the same response: each failure spreads them further.
            Some(delay) => self.backoff.wait_at_least(delay) + self.backoff.wait(),
            None => self.backoff.wait(),
        };
        sleep(wait).await;
    }

    /// All objects are known and current.
    fn works(&mut self) {
        let (first, pods, no_node) = self.shared.change(|known| {
            let following = known.stats.following_mut(self.sink.followed);
            let first = !following.known;
            following.works();
            (first, known.counts().0, known.node().is_none())
        });
        let address = self.api.address();
        if let Some(down) = self.log.succeeded(std::time::Instant::now()) {
            info!("{} are followed at {address} again, after {} s", T::RESOURCE, down.as_secs());
        } else if first && T::RESOURCE == "pods" {
            info!(pods, "the pods of this node are followed at {address}");
        } else if first && T::RESOURCE == "nodes" && no_node {
            let selector = self.selector.trim_end_matches('&');
            warn!("{address} has no node of this name ({selector}): set node_name, or NODE_NAME by the downward API");
        }
    }

    async fn list(&mut self) -> Result<(), FollowError> {
        let path = format!("/api/v1/{}?{}resourceVersion=0", T::RESOURCE, self.selector);
        let response = self
            .request(Verb::List, &path, "application/json", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")
            .await?;
        let (mut keys, mut all) = (HashSet::new(), true);
        let rest = response.items(|item| match item {
            ListItem::Text(text) => keys.extend(self.set(text)),
            ListItem::Unreadable => {
                all = false;
                self.shared.change(|known| known.stats.malformed += 1);
            }
        });
        let rest = rest.await?;
        let list: WatchedList = serde_json::from_slice(&rest).map_err(|error| {
            FollowError::new(FollowErrorKind::Malformed, format!("the list of {} cannot be read: {error}", T::RESOURCE))
        })?;
        // Which object it is that cannot be read is not known, so none is taken for deleted.
        if all {
            self.shared.change(|known| (self.sink.keep)(known, &keys));
        }
        self.version = Some(list.metadata.resource_version);
        self.works();
        Ok(())
    }

    /// Watches from the version on, until the server ends the watch in time.
    async fn watch(&mut self) -> Result<(), FollowError> {
        let seconds = WATCH.mul_f64(1.0 + fastrand::f64()).as_secs();
        let version = self.version.as_deref().unwrap_or_default();
        let path = format!(
            "/api/v1/{}?watch=1&{}resourceVersion={version}&allowWatchBookmarks=true&timeoutSeconds={seconds}",
            T::RESOURCE,
            self.selector
        );
        let mut response = self
            .request(Verb::Watch, &path, "application/json", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
            .await?;
        let end = Instant::now() + Duration::from_secs(seconds) + OVERTIME;
        let mut bookmarked = false;
        self.works();
        loop {
            let patience = if bookmarked { SILENCE } else { WATCH * 2 + OVERTIME };
            let left = end.saturating_duration_since(Instant::now());
            let Some(line) = response.line(patience.min(left)).await? else { return Ok(()) };
            self.note_response();
            let text = String::from_utf8_lossy(&line);
            if text.trim().is_empty() {
                continue;
            }
            let event: WatchEvent<'_> = serde_json::from_str(&text).map_err(|error| {
                FollowError::new(FollowErrorKind::Malformed, format!("an event of {} cannot be read: {error}", T::RESOURCE))
            })?;
            match event.kind {
                "BOOKMARK" => {
                    bookmarked = true;
                    self.seen(event.object.get());
                }
                "ERROR" => {
                    let status: ApiStatus = serde_json::from_str(event.object.get()).unwrap_or_default();
                    let code = http::StatusCode::from_u16(status.code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
                    return Err(refused(code, event.object.get().as_bytes(), None));
                }
                "DELETED" => {
                    self.deleted(event.object.get());
                    self.seen(event.object.get());
                }
                // ADDED, MODIFIED
                _ => {
                    self.set(event.object.get());
                    self.seen(event.object.get());
                }
            }
        }
    }

    async fn request(
        &mut self,
        verb: Verb,
        path: &str,
        objects: &'static str,
        metadata: &'static str,
    ) -> Result<ApiResponse, FollowError> {
        let response = self.shared.timed(verb, self.api.get(path, if T::METADATA_ONLY { metadata } else { objects })).await?;
        self.note_response();
        Ok(response)
    }

    fn note_response(&self) {
        self.shared.change(|known| known.stats.last_response = Some(std::time::Instant::now()));
    }

    /// Takes an object; its key. One that cannot be read is counted and skipped; what was known of it stays.
    fn set(&self, object: &str) -> Option<Box<str>> {
        let read = T::read(object, &self.kept_labels);
        match read {
            Ok(object) => {
                let key = object.key().into();
                self.shared.change(|known| {
                    known.stats.events += 1;
                    (self.sink.set)(known, object);
                });
                Some(key)
            }
            Err(error) => {
                self.malformed();
                let metadata = any_metadata(object).unwrap_or_default();
                debug!("one of the {} ({:?}) cannot be read: {error}", T::RESOURCE, metadata.name);
                if T::BY_UID { metadata.uid } else { metadata.name }.map(Into::into)
            }
        }
    }

    fn deleted(&self, object: &str) {
        match T::read(object, &self.kept_labels) {
            Ok(object) => self.shared.change(|known| {
                known.stats.events += 1;
                (self.sink.forget)(known, object);
            }),
            Err(_) => self.malformed(),
        }
    }

    fn malformed(&self) {
        self.shared.change(|known| {
            known.stats.events += 1;
            known.stats.malformed += 1;
        });
    }

    /// Goes on from this object's version, if the watch breaks now.
    fn seen(&mut self, object: &str) {
        if let Some(version) = any_metadata(object).and_then(|metadata| metadata.resource_version) {
            self.version = Some(version);
        }
    }
}

fn any_metadata(object: &str) -> Option<AnyMetadata> {
    serde_json::from_str::<AnyObject>(object).ok().map(|object| object.metadata)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;
    use crate::pods::{PODS, server::Server};

    /// When each of 20 followers that begin at once sends its first request.
    fn first_requests(spread: Duration) -> Vec<Duration> {
        const FOLLOWERS: usize = 20;
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", server.local_addr().unwrap());
        let began = std::time::Instant::now();
        let requests = thread::spawn(move || {
            let mut connections = Vec::new();
            (0..FOLLOWERS).map(|_| (connections.push(server.accept().unwrap()), began.elapsed()).1).collect()
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for _ in 0..FOLLOWERS {
                let api = Api::new(Server::kubelet(kube::Config::new(url.parse().unwrap())));
                tokio::spawn(Follower::new(api, PODS, SharedIndex::default(), Arc::default(), None).run(spread));
            }
            while !requests.is_finished() {
                sleep(Duration::from_millis(5)).await;
            }
        });
        requests.join().unwrap()
    }

    #[test]
    fn first_lists_of_agents_that_start_together_are_spread() {
        let spread = Duration::from_secs(3);
        let requests = first_requests(spread);
        // Twenty random moments of three seconds are all within one second once in 100 million runs.
        let (first, last) = (requests.iter().min().unwrap(), requests.iter().max().unwrap());
        assert!(*last - *first > spread / 3, "{requests:?}");
    }
}
