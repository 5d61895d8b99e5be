//! What the API server holds: objects, the history of events, what it answers with next, and the requests that it got.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use serde_json::{Value as Json, json};

/// How a request is answered instead of well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// With this status and message, as a `Status` object.
    Status {
        /// The code.
        code: u16,
        /// `Retry-After` in seconds.
        retry_after: Option<u64>,
    },
    /// Well, but only after this long.
    Slow(Duration),
    /// Never.
    Stall,
    /// The connection is closed in the middle of the first object.
    Cut,
    /// With something that is no JSON.
    Garbage,
}

impl Fault {
    /// A status without `Retry-After`.
    pub fn status(code: u16) -> Self {
        Self::Status { code, retry_after: None }
    }
}

/// A request that the server got.
#[derive(Clone, Debug)]
pub struct ApiRequest {
    /// Path and query.
    pub path: String,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The `Accept` header.
    pub accept: Option<String>,
    /// When.
    pub at: Instant,
}

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct ApiOptions {
    /// The token it accepts.
    pub token: String,
    /// Time between two bookmarks; a real one takes a minute.
    pub bookmarks: Duration,
    /// Longest delay of an event: each takes a random part of it, and none overtakes another.
    pub delay: Duration,
}

impl Default for ApiOptions {
    fn default() -> Self {
        Self { token: "first-token".to_owned(), bookmarks: Duration::from_secs(60), delay: Duration::ZERO }
    }
}

#[derive(Debug)]
pub(super) struct ApiState {
    pub(super) options: ApiOptions,
    /// By resource and UID, as of the newest event that can be seen.
    pub(super) objects: BTreeMap<(String, String), Json>,
    /// What happened, oldest first.
    pub(super) history: Vec<ApiEvent>,
    /// What will be seen later.
    pub(super) coming: VecDeque<(Instant, ApiEvent)>,
    /// Resource version of the newest event that can be seen, and of the newest at all.
    pub(super) visible: u64,
    pub(super) newest: u64,
    /// Watches from before this version get 410.
    pub(super) oldest: u64,
    pub(super) script: VecDeque<Fault>,
    pub(super) standing: Option<Fault>,
    /// All watches that began before this number are closed, well or in the middle of an object.
    pub(super) closed: (u64, bool),
    pub(super) watches: u64,
    pub(super) open: usize,
    pub(super) requests: Vec<ApiRequest>,
}

#[derive(Clone, Debug)]
pub(super) struct ApiEvent {
    pub(super) version: u64,
    pub(super) resource: String,
    pub(super) kind: &'static str,
    pub(super) object: Json,
}

impl ApiState {
    /// Nothing has happened yet.
    pub(super) fn new(options: ApiOptions) -> Self {
        Self {
            options,
            objects: BTreeMap::new(),
            history: Vec::new(),
            coming: VecDeque::new(),
            visible: 100,
            newest: 100,
            oldest: 0,
            script: VecDeque::new(),
            standing: None,
            closed: (0, true),
            watches: 0,
            open: 0,
            requests: Vec::new(),
        }
    }

    /// Makes, changes or deletes an object.
    pub(super) fn happen(&mut self, resource: &str, mut object: Json, deleted: bool) {
        self.newest += 1;
        object["metadata"]["resourceVersion"] = json!(self.newest.to_string());
        let event = ApiEvent {
            version: self.newest,
            resource: resource.to_owned(),
            kind: if deleted { "DELETED" } else { "MODIFIED" },
            object,
        };
        let delay = self.options.delay.mul_f64(random());
        let last = self.coming.back().map(|(at, _)| *at);
        let due = Instant::now() + delay;
        self.coming.push_back((last.map_or(due, |last| last.max(due)), event));
        self.arrive();
    }

    /// Makes visible what is due; returns when the next is.
    pub(super) fn arrive(&mut self) -> Option<Instant> {
        while let Some((due, _)) = self.coming.front() {
            if *due > Instant::now() {
                return Some(*due);
            }
            let Some((_, mut event)) = self.coming.pop_front() else { break };
            let key = (event.resource.clone(), event.object["metadata"]["uid"].to_string());
            if event.kind == "DELETED" {
                self.objects.remove(&key);
            } else if self.objects.insert(key, event.object.clone()).is_none() {
                event.kind = "ADDED";
            }
            self.visible = event.version;
            self.history.push(event);
        }
        None
    }
}

/// A number from 0 to 1, another one each time.
fn random() -> f64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}
