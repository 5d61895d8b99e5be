//! List and watch: follows all objects of a kind that a selector leaves, for as long as the process lives.
//!
//! The API server answers everything from its watch cache: both a list and the begin of a watch ask for `resourceVersion=0`, "any
//! state you have". Where the server can (the feature WatchList), the list is the begin of the watch, object by object
//! (`sendInitialEvents`), so that neither side ever holds all of them as one text; elsewhere it is a list of its own.
//! Bookmarks keep the version current while nothing changes, so that a watch that breaks goes on where it was.

use std::{collections::HashSet, sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::{
    Shared, Sink,
    api::{Answer, Api, Status, refused},
    failure::{Failure, Kind, Log},
    object::{Object, Wanted},
};
use crate::backoff::{Backoff, Pacing};

/// How long the first request is put off at most: the agents of a cluster may all be started at once.
pub const JITTER: Duration = Duration::from_secs(2);

/// Waits between attempts.
const PACING: Pacing = Pacing { initial: Duration::from_millis(500), max: Duration::from_secs(60) };

/// A watch is asked to end after this long, or up to twice as long: what client-go asks for.
const WATCH: Duration = Duration::from_secs(300);

/// The server must have ended it after this much more.
const OVERTIME: Duration = Duration::from_secs(30);

/// An API server sends a bookmark every minute; where one came, silence for so long is that of a dead connection.
const SILENCE: Duration = Duration::from_secs(180);

/// How long the initial objects of a watch may let wait for the next one.
const INITIAL: Duration = Duration::from_secs(30);

/// A watch that ends sooner has not worked.
const SHORT: Duration = Duration::from_secs(5);

/// The annotation of the bookmark that ends the initial objects.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// Follows the objects of one kind.
pub struct Follower<T> {
    api: Api,
    sink: Sink<T>,
    shared: Shared,
    wanted: Arc<Wanted>,
    /// `fieldSelector=…&`, percent-encoded, or nothing.
    selector: String,
    /// The version to go on from; `None` when all objects are to be asked for.
    version: Option<String>,
    /// Whether this server sends the initial objects with the watch.
    streams: bool,
    backoff: Backoff,
    log: Log,
}

#[derive(Deserialize)]
struct List<'a> {
    metadata: ListMetadata,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: String,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// What every object has, readable or not.
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
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// How a watch ended that was not cut off.
enum Ended {
    /// The server ended it, as asked.
    Watch,
    /// It cannot send initial objects.
    NoStream,
}

impl<T: Object> Follower<T> {
    /// Follows what `field` selects, or all, and puts it into the sink.
    pub fn new(api: Api, sink: Sink<T>, shared: Shared, wanted: Arc<Wanted>, field: Option<(&str, &str)>) -> Self {
        let selector = field.map_or(String::new(), |(field, value)| {
            let value = percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC);
            format!("fieldSelector={field}%3D{value}&")
        });
        shared.lock().figures.following_mut(sink.followed).wanted = true;
        let backoff = Backoff::new(PACING);
        Self { api, sink, shared, wanted, selector, version: None, streams: true, backoff, log: Log::default() }
    }

    /// Never ends. Begins within `jitter`.
    pub async fn run(mut self, jitter: Duration) {
        sleep(jitter.mul_f64(fastrand::f64())).await;
        loop {
            let began = Instant::now();
            let failure = match self.step().await {
                Ok(Ended::NoStream) => {
                    debug!("the API server sends no initial objects of {}: lists are asked for", T::RESOURCE);
                    self.streams = false;
                    continue;
                }
                Ok(Ended::Watch) if began.elapsed() < SHORT => Failure::new(Kind::Broken, "the watch ended at once"),
                Ok(Ended::Watch) => continue,
                Err(failure) => failure,
            };
            if failure.kind == Kind::Expired {
                self.version = None;
            }
            self.failed(&failure, began.elapsed() >= SHORT).await;
        }
    }

    /// One round: a list if one is needed, and a watch.
    async fn step(&mut self) -> Result<Ended, Failure> {
        if self.version.is_none() && !self.streams {
            self.list().await?;
        }
        self.watch().await
    }

    async fn failed(&mut self, failure: &Failure, worked: bool) {
        {
            let mut known = self.shared.lock();
            known.figures.failed(failure.kind);
            // A watch that broke is resumed at once, mostly.
            if !worked || !matches!(failure.kind, Kind::Broken | Kind::Expired) {
                known.figures.following_mut(self.sink.followed).current = false;
            }
        }
        if self.log.failed(failure.kind, std::time::Instant::now()) {
            let advice = match failure.kind {
                Kind::Denied => format!(
                    "; podmeter's service account needs the verbs list and watch on {} (see its ClusterRole)",
                    T::RESOURCE
                ),
                Kind::Unauthorized => "; the token is read again before the next attempt".to_owned(),
                _ => String::new(),
            };
            let (what, address, reason) = (T::RESOURCE, self.api.address(), &failure.reason);
            warn!("could not follow {what} at {address}: {reason}{advice}; what is known of them is used until it works again");
        }
        if worked {
            self.backoff.reset();
        }
        let wait = match failure.retry_after {
            Some(asked) => self.backoff.wait_as_asked(asked),
            None => self.backoff.wait(),
        };
        sleep(wait).await;
    }

    /// What is known is current.
    fn works(&mut self) {
        let mut known = self.shared.lock();
        let following = known.figures.following_mut(self.sink.followed);
        let first = !std::mem::replace(&mut following.known, true);
        following.current = true;
        let ((pods, _), no_node) = (known.counts(), known.node().is_none());
        drop(known);
        self.backoff.reset();
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

    async fn list(&mut self) -> Result<(), Failure> {
        let path = format!("/api/v1/{}?{}resourceVersion=0", T::RESOURCE, self.selector);
        let body =
            self.ask(&path, "application/json", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").await?;
        let body = body.all().await?;
        let list: List<'_> = serde_json::from_slice(&body)
            .map_err(|error| Failure::new(Kind::Malformed, format!("the list of {} cannot be read: {error}", T::RESOURCE)))?;
        let mut keys = HashSet::new();
        for item in list.items.unwrap_or_default() {
            keys.extend(self.set(item));
        }
        (self.sink.keep)(&mut self.shared.lock(), &keys);
        self.version = Some(list.metadata.resource_version);
        self.works();
        Ok(())
    }

    async fn watch(&mut self) -> Result<Ended, Failure> {
        let seconds = WATCH.mul_f64(1.0 + fastrand::f64()).as_secs();
        let from = match &self.version {
            Some(version) => format!("resourceVersion={version}"),
            None => "resourceVersion=0&resourceVersionMatch=NotOlderThan&sendInitialEvents=true".to_owned(),
        };
        let mut initial = self.version.is_none().then(HashSet::new);
        let path =
            format!("/api/v1/{}?watch=1&{}{from}&allowWatchBookmarks=true&timeoutSeconds={seconds}", T::RESOURCE, self.selector);
        let asked = self.ask(&path, "application/json", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1").await;
        let mut answer = match asked {
            // 422 where the feature is off, 400 where the parameter is unknown.
            Err(failure) if initial.is_some() && is_invalid(&failure) => return Ok(Ended::NoStream),
            asked => asked?,
        };
        let end = Instant::now() + Duration::from_secs(seconds) + OVERTIME;
        let mut bookmarked = false;
        if initial.is_none() {
            self.works();
        }
        loop {
            let patience = match &initial {
                Some(_) => INITIAL,
                None if bookmarked => SILENCE,
                None => WATCH * 2 + OVERTIME,
            };
            let left = end.saturating_duration_since(Instant::now());
            let line = match answer.line(patience.min(left)).await {
                Ok(Some(line)) => line,
                Ok(None) if initial.is_some() => {
                    return Err(Failure::new(Kind::Broken, "the watch ended among its initial objects"));
                }
                Ok(None) => return Ok(Ended::Watch),
                Err(failure) if failure.kind == Kind::Timeout && initial.is_some() => return Ok(Ended::NoStream),
                Err(failure) => return Err(failure),
            };
            self.shared.lock().figures.heard = Some(std::time::Instant::now());
            let text = String::from_utf8_lossy(&line);
            if text.trim().is_empty() {
                continue;
            }
            let event: Event<'_> = serde_json::from_str(&text)
                .map_err(|error| Failure::new(Kind::Malformed, format!("an event of {} cannot be read: {error}", T::RESOURCE)))?;
            match event.kind {
                "BOOKMARK" => {
                    bookmarked = true;
                    let Some(metadata) = any_metadata(event.object) else { continue };
                    let ends = metadata.annotations.is_some_and(|notes| notes.get(INITIAL_END).is_some_and(|end| end == "true"));
                    if ends && let Some(keys) = initial.take() {
                        (self.sink.keep)(&mut self.shared.lock(), &keys);
                        self.version = metadata.resource_version.or(self.version.take());
                        self.works();
                    } else if initial.is_none() {
                        self.version = metadata.resource_version.or(self.version.take());
                    }
                }
                "ERROR" => {
                    let status: Status = serde_json::from_str(event.object.get()).unwrap_or_default();
                    let code = http::StatusCode::from_u16(status.code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
                    return Err(refused(code, event.object.get().as_bytes(), None));
                }
                "DELETED" => {
                    self.deleted(event.object);
                    self.seen(event.object, initial.is_none());
                }
                // ADDED, MODIFIED
                _ => {
                    let key = self.set(event.object);
                    match &mut initial {
                        Some(keys) => keys.extend(key),
                        None => self.seen(event.object, true),
                    }
                }
            }
        }
    }

    async fn ask(&mut self, path: &str, objects: &'static str, metadata: &'static str) -> Result<Answer, Failure> {
        self.shared.lock().figures.requests += 1;
        let answer = self.api.get(path, if T::METADATA_ONLY { metadata } else { objects }).await?;
        self.shared.lock().figures.heard = Some(std::time::Instant::now());
        Ok(answer)
    }

    /// Takes an object; its key. One that cannot be read is counted and skipped; what was known of it stays.
    fn set(&self, object: &RawValue) -> Option<Box<str>> {
        let read = T::read(object.get(), &self.wanted);
        let mut known = self.shared.lock();
        known.figures.events += 1;
        match read {
            Ok(object) => {
                let key = object.key().into();
                (self.sink.set)(&mut known, object);
                Some(key)
            }
            Err(error) => {
                known.figures.malformed += 1;
                drop(known);
                let metadata = any_metadata(object).unwrap_or_default();
                debug!("one of the {} ({:?}) cannot be read: {error}", T::RESOURCE, metadata.name);
                if T::BY_UID { metadata.uid } else { metadata.name }.map(Into::into)
            }
        }
    }

    fn deleted(&self, object: &RawValue) {
        let mut known = self.shared.lock();
        known.figures.events += 1;
        match T::read(object.get(), &self.wanted) {
            Ok(object) => (self.sink.forget)(&mut known, object),
            Err(_) => known.figures.malformed += 1,
        }
    }

    /// Goes on from this object's version, if the watch breaks now.
    fn seen(&mut self, object: &RawValue, current: bool) {
        if let (true, Some(version)) = (current, any_metadata(object).and_then(|metadata| metadata.resource_version)) {
            self.version = Some(version);
        }
    }
}

fn is_invalid(failure: &Failure) -> bool {
    failure.kind == Kind::Status && (failure.reason.starts_with("422") || failure.reason.starts_with("400"))
}

fn any_metadata(object: &RawValue) -> Option<AnyMetadata> {
    serde_json::from_str::<AnyObject>(object.get()).ok().map(|object| object.metadata)
}
