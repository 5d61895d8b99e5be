//! One end of an HTTP connection to the Kubernetes API or to a kubelet: addresses, TLS and tokens are kube's business, what an
//! answer means is decided here.

use std::{path::PathBuf, time::Duration};

use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use kube::{
    Client, Config,
    client::Body,
    config::{ExecInteractiveMode, KubeConfigOptions, Kubeconfig},
};
use serde::Deserialize;
use tokio::time::timeout;

use super::failure::{Failure, Kind};
use crate::{backoff, causes};

/// How long connecting may take, and how long an answer may let wait for itself.
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(60);

/// Of the body of a refusal, no more is read.
const REFUSAL: usize = 64 << 10;

/// Of any other, no more than this: a node's pods are a few MiB.
const LONGEST: usize = 128 << 20;

/// Why the API cannot be used: a setting that a person must correct.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Not in a cluster, or no service account.
    #[error("could not use the pod's service account: set kubernetes.kubeconfig, or kubernetes.source to off")]
    InCluster(#[source] kube::config::InClusterError),
    /// A kubeconfig that cannot be used.
    #[error("could not use the kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// A file that cannot be read.
    #[error("could not read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// An address that is none.
    #[error("{url:?} is no URL of a kubelet")]
    Url {
        /// The setting.
        url: String,
        /// What is wrong.
        #[source]
        source: http::uri::InvalidUri,
    },
}

/// How the API of the cluster is reached: by a kubeconfig, or as a pod of it.
///
/// # Errors
/// When the files are not there or not usable.
pub async fn cluster(kubeconfig: Option<&PathBuf>) -> Result<Config, ApiError> {
    let config = match kubeconfig {
        None => Config::incluster().map_err(ApiError::InCluster)?,
        Some(path) => {
            let wrong = |source| ApiError::Kubeconfig { path: path.clone(), source: Box::new(source) };
            let kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(wrong)?
        }
    };
    Ok(settled(config))
}

/// What is the same for every server.
pub fn settled(mut config: Config) -> Config {
    config.connect_timeout = Some(CONNECT);
    // Retried here, where it is counted, logged and spread.
    config.default_retry = false;
    // A program that is run for a token would take the terminal's keys and write over `top`.
    if let Some(exec) = &mut config.auth_info.exec {
        exec.interactive_mode = Some(ExecInteractiveMode::Never);
    }
    config
}

/// A server that is asked.
pub struct Api {
    config: Config,
    client: Option<Client>,
}

impl Api {
    /// Connects with the first request.
    pub fn new(config: Config) -> Self {
        Self { config, client: None }
    }

    /// For people: where it is.
    pub fn address(&self) -> String {
        self.config.cluster_url.to_string()
    }

    /// Makes a request. The answer's status is one of success.
    ///
    /// # Errors
    /// Any other status, or no answer.
    pub async fn get(&mut self, path: &str, accept: &'static str) -> Result<Answer, Failure> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                // Reads the token, and may run a program for it.
                let config = self.config.clone();
                let made = tokio::task::spawn_blocking(move || Client::try_from(config)).await;
                let made = made.map_err(|error| Failure::new(Kind::Configuration, error.to_string()))?;
                let client = made.map_err(|error| Failure::new(Kind::Configuration, causes::chain(&error)))?;
                self.client.insert(client).clone()
            }
        };
        let request = Request::get(path).header(header::ACCEPT, accept).body(Body::empty());
        let request = request.map_err(|error| Failure::new(Kind::Configuration, error.to_string()))?;
        let response = match timeout(ANSWER, client.send(request)).await {
            Err(_) => {
                // The connection may be dead: the next request opens another.
                self.client = None;
                return Err(Failure::new(Kind::Timeout, format!("no answer within {} s", ANSWER.as_secs())));
            }
            Ok(Err(error)) => {
                self.client = None;
                return Err(unreachable(&error));
            }
            Ok(Ok(response)) => response,
        };
        let (parts, body) = response.into_parts();
        let answer = Answer { body, unread: Vec::new() };
        if parts.status.is_success() {
            return Ok(answer);
        }
        let asked = parts.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let asked = asked.and_then(|value| backoff::retry_after(value, std::time::SystemTime::now()));
        let text = answer.whole(REFUSAL).await.unwrap_or_default();
        if parts.status == StatusCode::UNAUTHORIZED {
            // A new client reads the token anew; kube's own would use the old one for up to a minute.
            self.client = None;
        }
        Err(refused(parts.status, &text, asked))
    }
}

fn unreachable(error: &kube::Error) -> Failure {
    let kind = match error {
        kube::Error::Auth(_) | kube::Error::RustlsTls(_) => Kind::Configuration,
        _ => Kind::Connection,
    };
    Failure::new(kind, causes::chain(error))
}

/// The API's `Status`: the body of refusals, and of ERROR events.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    /// For people.
    pub message: String,
    /// The HTTP status.
    pub code: u16,
}

/// What a refusal means.
pub fn refused(status: StatusCode, body: &[u8], retry_after: Option<Duration>) -> Failure {
    let said = match serde_json::from_slice::<Status>(body) {
        Ok(Status { message, .. }) if !message.is_empty() => message,
        // A kubelet and proxies answer in plain text.
        _ => String::from_utf8_lossy(body).trim().chars().take(300).collect(),
    };
    let kind = match status.as_u16() {
        401 => Kind::Unauthorized,
        403 => Kind::Denied,
        410 => Kind::Expired,
        429 => Kind::Throttled,
        408 | 504 => Kind::Timeout,
        _ => Kind::Status,
    };
    let reason = if said.is_empty() { status.to_string() } else { format!("{status}: {said}") };
    Failure { retry_after, ..Failure::new(kind, reason) }
}

/// An answer, whole or line by line.
#[derive(Debug)]
pub struct Answer {
    body: Body,
    /// Bytes of a line that is not complete.
    unread: Vec<u8>,
}

impl Answer {
    /// All of it.
    ///
    /// # Errors
    /// When it breaks off, comes too slowly or is too long.
    pub async fn all(self) -> Result<Vec<u8>, Failure> {
        self.whole(LONGEST).await
    }

    async fn whole(mut self, limit: usize) -> Result<Vec<u8>, Failure> {
        let mut all = Vec::new();
        while let Some(bytes) = self.more(ANSWER).await? {
            if all.len() + bytes.len() > limit {
                return Err(Failure::new(Kind::Malformed, format!("an answer of more than {limit} bytes")));
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// When it breaks off, in the middle of a line too, or when nothing comes within `patience`.
    pub async fn line(&mut self, patience: Duration) -> Result<Option<Vec<u8>>, Failure> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.unread[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.unread.split_off(searched + end + 1);
                let mut line = std::mem::replace(&mut self.unread, rest);
                line.pop();
                return Ok(Some(line));
            }
            searched = self.unread.len();
            match self.more(patience).await? {
                Some(bytes) if searched + bytes.len() > LONGEST => {
                    return Err(Failure::new(Kind::Malformed, format!("a line of more than {LONGEST} bytes")));
                }
                Some(bytes) => self.unread.extend_from_slice(&bytes),
                None if self.unread.is_empty() => return Ok(None),
                None => return Err(Failure::new(Kind::Broken, "the connection ended in the middle of an object")),
            }
        }
    }

    async fn more(&mut self, patience: Duration) -> Result<Option<bytes::Bytes>, Failure> {
        loop {
            match timeout(patience, self.body.frame()).await {
                Err(_) => return Err(Failure::new(Kind::Timeout, format!("nothing came for {} s", patience.as_secs()))),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(Failure::new(Kind::Broken, causes::chain(&error))),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_tells_what_the_server_said() {
        let status = br#"{"kind":"Status","message":"pods is forbidden: User \"x\" cannot list resource \"pods\"","code":403}"#;
        let denied = refused(StatusCode::FORBIDDEN, status, None);
        assert_eq!(denied.kind, Kind::Denied);
        assert!(denied.reason.contains("403 Forbidden: pods is forbidden: User \"x\" cannot list"), "{}", denied.reason);
        let plain = refused(StatusCode::UNAUTHORIZED, b"Unauthorized\n", None);
        assert_eq!((plain.kind, plain.reason.as_str()), (Kind::Unauthorized, "401 Unauthorized: Unauthorized"));
        let asked = Some(Duration::from_secs(7));
        assert_eq!(refused(StatusCode::TOO_MANY_REQUESTS, b"", asked).retry_after, asked);
        assert_eq!(refused(StatusCode::BAD_GATEWAY, b"", None).reason, "502 Bad Gateway");
    }
}
