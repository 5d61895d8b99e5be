//! A Kubernetes API server, and a kubelet's, in a thread: real HTTP, over TLS, with everything that makes a client's life hard.
//!
//! It keeps objects and a history of events, answers lists and watches from them by the rules of the real one (resource versions,
//! field selectors, bookmarks, an ERROR event with 410 for what is too long ago), checks the bearer token, and misbehaves as told:
//! any status, slow or no answers, connections that break in the middle of an object, events that come late.

pub mod look;
pub mod objects;
pub mod tree;

mod serve;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value as Json, json};
use tokio::sync::{oneshot, watch};

use crate::collector::Tls;

/// Where a pod has its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The files of a service account.
#[derive(Debug)]
pub struct ServiceAccount {
    dir: PathBuf,
}

impl Drop for ServiceAccount {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
        // Those above it, where nothing else is in them.
        for above in self.dir.ancestors().skip(1).take(2) {
            let _ = std::fs::remove_dir(above);
        }
    }
}

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

/// A request that came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Path and query.
    pub path: String,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The `Accept` header.
    pub accept: Option<String>,
    /// When.
    pub at: Instant,
}

/// How a server is.
#[derive(Clone, Debug)]
pub struct Options {
    /// The token it accepts.
    pub token: String,
    /// Time between two bookmarks; a real one takes a minute.
    pub bookmarks: Duration,
    /// Longest delay of an event: each takes a random part of it, and none overtakes another.
    pub delay: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { token: "first-token".to_owned(), bookmarks: Duration::from_secs(60), delay: Duration::ZERO }
    }
}

/// A running server. It ends with this value.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    tls: Tls,
    dir: tempfile::TempDir,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Changes with the state.
    version: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    options: Options,
    /// By resource and UID, as of the newest event that can be seen.
    objects: BTreeMap<(String, String), Json>,
    /// What happened, oldest first.
    history: Vec<Happened>,
    /// What will be seen later.
    coming: VecDeque<(Instant, Happened)>,
    /// Resource version of the newest event that can be seen, and of the newest at all.
    visible: u64,
    newest: u64,
    /// Watches from before this version are told 410.
    oldest: u64,
    script: VecDeque<Fault>,
    standing: Option<Fault>,
    /// All watches that began before this number are closed, well or in the middle of an object.
    closed: (u64, bool),
    watches: u64,
    open: usize,
    asked: Vec<Asked>,
}

#[derive(Clone, Debug)]
struct Happened {
    version: u64,
    resource: String,
    kind: &'static str,
    object: Json,
}

impl Server {
    /// Starts a server on a free port of 127.0.0.1.
    pub fn start(options: Options) -> Result<Self> {
        let tls = Tls::new()?;
        let acceptor = tls.acceptor()?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("could not listen on 127.0.0.1")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let dir = tempfile::tempdir().context("could not make a directory")?;
        std::fs::write(dir.path().join("token"), &options.token).context("could not write a token")?;
        let state = State {
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
            asked: Vec::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), version: watch::Sender::new(0) });
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("kubernetes".into()).spawn({
            let shared = Arc::clone(&shared);
            move || runtime.block_on(serve::serve(listener, acceptor, shared, stopped))
        })?;
        Ok(Self { address, tls, dir, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// PEM file of the authority that signed its certificate.
    pub fn ca(&self) -> PathBuf {
        self.tls.ca()
    }

    /// The file with the token that clients read.
    pub fn token_file(&self) -> PathBuf {
        self.dir.path().join("token")
    }

    /// Writes a kubeconfig that leads here, with a token file.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        let path = self.dir.path().join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url(), "certificate-authority": self.ca()}}],
            "users": [{"name": "test", "user": {"tokenFile": self.token_file()}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        std::fs::write(&path, config.to_string()).context("could not write a kubeconfig")?;
        Ok(path)
    }

    /// The configuration of an agent on `node-1` that follows this server.
    pub fn agent_config(&self) -> Result<Json> {
        // A cluster of one agent: nobody to make room for.
        Ok(json!({"node_name": "node-1", "kubernetes": {"kubeconfig": self.kubeconfig()?, "labels": "team", "spread": "0s"}}))
    }

    /// Puts the files of a service account where Kubernetes puts them into a pod; they go with the returned value. `None` where
    /// there are such files already.
    pub fn service_account(&self) -> Result<Option<ServiceAccount>> {
        let account = ServiceAccount { dir: PathBuf::from(SERVICE_ACCOUNT) };
        if account.dir.exists() {
            std::mem::forget(account);
            return Ok(None);
        }
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(&account.dir)?;
            std::fs::copy(self.ca(), account.dir.join("ca.crt"))?;
            std::fs::copy(self.token_file(), account.dir.join("token"))?;
            std::fs::write(account.dir.join("namespace"), "podmeter")
        };
        write().context("could not make the files of a service account")?;
        Ok(Some(account))
    }

    /// Accepts this token from now on, and no other.
    pub fn accept_token(&self, token: &str) {
        self.shared.change(|state| state.options.token = token.to_owned());
    }

    /// Puts this token where clients read it.
    pub fn write_token(&self, token: &str) -> Result<()> {
        std::fs::write(self.token_file(), token).context("could not write a token")
    }

    /// Makes or changes an object.
    pub fn set(&self, resource: &str, object: Json) {
        self.shared.change(|state| state.happen(resource, object, false));
    }

    /// Makes or changes a pod.
    pub fn set_pod(&self, pod: &objects::Pod) {
        self.set("pods", pod.json());
    }

    /// Deletes an object, whose last state this is.
    pub fn delete(&self, resource: &str, object: Json) {
        self.shared.change(|state| state.happen(resource, object, true));
    }

    /// Deletes a pod, whose last state this is.
    pub fn delete_pod(&self, pod: &objects::Pod) {
        self.delete("pods", pod.json());
    }

    /// Answers the next `times` requests like this, after those already scripted.
    pub fn next(&self, times: usize, fault: Fault) {
        self.shared.change(|state| state.script.extend(std::iter::repeat_n(fault, times)));
    }

    /// Answers every request like this, or well, when the script is at its end.
    pub fn always(&self, fault: Option<Fault>) {
        self.shared.change(|state| state.standing = fault);
    }

    /// Ends all watches: well, as after their time, or in the middle of an object.
    pub fn close_watches(&self, well: bool) {
        self.shared.change(|state| state.closed = (state.watches, well));
    }

    /// Forgets what has happened: a watch from before now is told 410.
    pub fn compact(&self) {
        self.shared.change(|state| {
            state.newest += 1;
            state.visible = state.newest;
            state.oldest = state.newest;
            state.history.clear();
        });
    }

    /// The requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.state().asked.clone()
    }

    /// Ends it: connections break, and new ones are refused. Its files stay.
    pub fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// Watches that are open now.
    pub fn open_watches(&self) -> usize {
        self.shared.state().open
    }

    /// Waits until something is true of the server, at most 20 s, for which [`crate::patience`] is had.
    pub fn wait_until(&self, what: &str, condition: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + crate::patience(Duration::from_secs(20));
        while !condition(self) {
            if Instant::now() > deadline {
                bail!("the API server did not see in time: {what}; it was asked {:#?}", self.asked());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.version.send_modify(|version| *version += 1);
        result
    }
}

impl State {
    fn happen(&mut self, resource: &str, mut object: Json, deleted: bool) {
        self.newest += 1;
        object["metadata"]["resourceVersion"] = json!(self.newest.to_string());
        let happened = Happened {
            version: self.newest,
            resource: resource.to_owned(),
            kind: if deleted { "DELETED" } else { "MODIFIED" },
            object,
        };
        let delay = self.options.delay.mul_f64(random());
        let last = self.coming.back().map(|(at, _)| *at);
        let due = Instant::now() + delay;
        self.coming.push_back((last.map_or(due, |last| last.max(due)), happened));
        self.arrive();
    }

    /// Lets be seen what is due; when the next is.
    fn arrive(&mut self) -> Option<Instant> {
        while let Some((due, _)) = self.coming.front() {
            if *due > Instant::now() {
                return Some(*due);
            }
            let Some((_, mut happened)) = self.coming.pop_front() else { break };
            let key = (happened.resource.clone(), happened.object["metadata"]["uid"].to_string());
            if happened.kind == "DELETED" {
                self.objects.remove(&key);
            } else if self.objects.insert(key, happened.object.clone()).is_none() {
                happened.kind = "ADDED";
            }
            self.visible = happened.version;
            self.history.push(happened);
        }
        None
    }
}

/// A number from 0 to 1, another one each time.
fn random() -> f64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}
