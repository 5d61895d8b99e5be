//! A Kubernetes API server, and a kubelet's, in a thread: real HTTP, over TLS, with everything that makes a client's life hard.
//!
//! It keeps objects and a history of events, answers lists and watches from them by the rules of the real one (resource versions,
//! field selectors, bookmarks, an ERROR event with 410 for what is too long ago), checks the bearer token, and misbehaves as
//! scripted: any status, slow or no answers, connections that break in the middle of an object, events that come late.

mod cluster;
pub mod exported;
pub mod objects;
pub mod tree;

mod serve;
mod state;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value as Json, json};
use tokio::sync::oneshot;

use self::state::ApiState;
pub use self::state::{ApiOptions, ApiRequest, Fault};
pub use self::{
    cluster::{Cluster, RunningPod},
    objects::{Container, Pod},
    tree::Driver,
};
use crate::{collector::Tls, watched::Watched};

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

/// A running server. It ends with this value.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    tls: Tls,
    dir: tempfile::TempDir,
    shared: Arc<Watched<ApiState>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// Starts a server on a free port of 127.0.0.1.
    pub fn start(options: ApiOptions) -> Result<Self> {
        let tls = Tls::new()?;
        let acceptor = tls.acceptor()?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("could not listen on 127.0.0.1")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let dir = tempfile::tempdir().context("could not make a directory")?;
        std::fs::write(dir.path().join("token"), &options.token).context("could not write a token")?;
        let shared = Arc::new(Watched::new(ApiState::new(options)));
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
        // A cluster of one agent: no others to wait for.
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
    pub fn set_pod(&self, pod: &Pod) {
        self.set("pods", pod.json());
    }

    /// Deletes an object, whose last state this is.
    pub fn delete(&self, resource: &str, object: Json) {
        self.shared.change(|state| state.happen(resource, object, true));
    }

    /// Deletes a pod, whose last state this is.
    pub fn delete_pod(&self, pod: &Pod) {
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

    /// Forgets what has happened: a watch from before now gets 410.
    pub fn compact(&self) {
        self.shared.change(|state| {
            state.newest += 1;
            state.visible = state.newest;
            state.oldest = state.newest;
            state.history.clear();
        });
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<ApiRequest> {
        self.shared.get().requests.clone()
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
        self.shared.get().open
    }

    /// Waits until something is true of the server, at most 20 s, more on an emulated CPU ([`crate::patience`]).
    pub fn wait_until(&self, what: &str, condition: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + crate::time::patience(Duration::from_secs(20));
        while !condition(self) {
            if Instant::now() > deadline {
                bail!("the API server did not see in time: {what}; its requests: {:#?}", self.requests());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.end();
    }
}
