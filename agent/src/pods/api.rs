//! HTTP requests to the Kubernetes API or to a kubelet, and their responses. The kube crate does addresses, TLS and tokens.

use std::time::Duration;

use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use kube::{
    Client,
    client::{AuthError, Body},
};
use serde::Deserialize;
use tokio::time::timeout;

use super::{
    failure::{FollowError, FollowErrorKind},
    items::{LONGEST, ListItem, ListItems},
    server::Server,
};
use crate::{backoff, causes, files::Watched};

/// How long a response may take to begin or to go on.
const RESPONSE: Duration = Duration::from_secs(60);

/// Of the body of a refusal, no more is read.
const REFUSAL: usize = 64 << 10;

/// Characters of a refusal's message that are shown.
const SHOWN: usize = 300;

/// Characters of a program's stderr that are shown.
const STDERR: usize = 200;

/// A server that requests are sent to.
pub struct Api {
    server: Server,
    client: Option<Client>,
    /// The files that the client comes from.
    watched: Watched,
    /// Whether there was a client before, so that files may have changed.
    again: bool,
}

impl Api {
    /// Connects with the first request.
    pub fn new(server: Server) -> Self {
        let watched = server.watched();
        Self { server, client: None, watched, again: false }
    }

    /// For people: where it is.
    pub fn address(&self) -> String {
        self.server.address()
    }

    async fn client(&mut self) -> Result<Client, FollowError> {
        let changed = self.watched.changed();
        if let Some(client) = self.client.as_ref().filter(|_| !changed) {
            return Ok(client.clone());
        }
        if std::mem::replace(&mut self.again, true) || changed {
            self.watched = self.server.watched();
            self.server.read_again().await;
        }
        let mut server = self.server.clone();
        let made = tokio::task::spawn_blocking(move || {
            let made = server.client();
            (server, made)
        });
        let (server, made) = made.await.map_err(|error| FollowError::new(FollowErrorKind::Configuration, error.to_string()))?;
        self.server = server;
        let client = made.map_err(|error| FollowError::new(FollowErrorKind::Configuration, shown(&error)))?;
        Ok(self.client.insert(client).clone())
    }

    /// Sends a request. The response's status is one of success.
    ///
    /// # Errors
    /// Any other status, or no response.
    pub async fn get(&mut self, path: &str, accept: &'static str) -> Result<ApiResponse, FollowError> {
        let client = self.client().await?;
        let request = Request::get(path).header(header::ACCEPT, accept).body(Body::empty());
        let request = request.map_err(|error| FollowError::new(FollowErrorKind::Configuration, error.to_string()))?;
        let response = match timeout(RESPONSE, client.send(request)).await {
            Err(_) => {
                // The connection may be dead: the next request opens another.
                self.client = None;
                return Err(FollowError::new(FollowErrorKind::Timeout, format!("no response within {} s", RESPONSE.as_secs())));
            }
            Ok(Err(error)) => {
                self.client = None;
                return Err(unreachable(&error));
            }
            Ok(Ok(response)) => response,
        };
        let (parts, body) = response.into_parts();
        let response_body = ApiResponse { status: parts.status.as_u16(), body, unread: Vec::new() };
        if parts.status.is_success() {
            return Ok(response_body);
        }
        let retry_after = parts.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|value| backoff::retry_after(value, std::time::SystemTime::now()));
        let text = response_body.whole(REFUSAL).await.unwrap_or_default();
        if parts.status == StatusCode::UNAUTHORIZED {
            // A new client reads the token anew; kube's own would use the old one for up to a minute.
            self.client = None;
        }
        Err(refused(parts.status, &text, retry_after))
    }
}

fn unreachable(error: &kube::Error) -> FollowError {
    let kind = match error {
        kube::Error::Auth(_) | kube::Error::RustlsTls(_) => FollowErrorKind::Configuration,
        _ => FollowErrorKind::Connection,
    };
    FollowError::new(kind, shown(error))
}

/// An error as it may be logged: what a program printed that was run for a token may have one in it.
fn shown(error: &kube::Error) -> String {
    match causes::causes(error).find_map(|cause| cause.downcast_ref::<AuthError>()) {
        // Its arguments and its stdout stay out.
        Some(AuthError::AuthExecRun { out, .. }) => {
            let stderr: String = String::from_utf8_lossy(&out.stderr).trim().chars().take(STDERR).collect();
            format!("the kubeconfig's program for credentials failed with {}: {stderr}", out.status)
        }
        Some(AuthError::AuthExecParse(_)) => "the kubeconfig's program for credentials printed no credential".to_owned(),
        _ => causes::chain(error),
    }
}

/// The API's `ApiStatus`: the body of refusals, and of ERROR events.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ApiStatus {
    /// For people.
    pub message: String,
    /// The HTTP status.
    pub code: u16,
    /// More of it.
    pub details: Option<ApiStatusDetails>,
}

/// The part of an [`ApiStatus`] that is for programs.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ApiStatusDetails {
    /// How long the server wants no further request, in seconds: also in events of a watch, which have no headers.
    pub retry_after_seconds: Option<u64>,
}

/// What a refusal means.
pub fn refused(status: StatusCode, body: &[u8], retry_after: Option<Duration>) -> FollowError {
    // A kubelet and proxies answer in plain text.
    let decoded: ApiStatus = serde_json::from_slice(body).unwrap_or_default();
    let plain = || String::from_utf8_lossy(body).trim().to_owned();
    let message = if decoded.message.is_empty() { plain() } else { decoded.message };
    let message: String = message.chars().take(SHOWN).collect();
    let retry_after = retry_after.or(decoded.details.and_then(|details| details.retry_after_seconds).map(Duration::from_secs));
    let kind = match status.as_u16() {
        401 => FollowErrorKind::Unauthorized,
        403 => FollowErrorKind::Denied,
        410 => FollowErrorKind::Expired,
        429 => FollowErrorKind::Throttled,
        408 | 504 => FollowErrorKind::Timeout,
        _ => FollowErrorKind::Status,
    };
    let reason = if message.is_empty() { status.to_string() } else { format!("{status}: {message}") };
    FollowError { retry_after, status: Some(status.as_u16()), ..FollowError::new(kind, reason) }
}

/// A response, read as a whole, as a list or line by line.
#[derive(Debug)]
pub struct ApiResponse {
    /// Its HTTP status: one of success.
    pub status: u16,
    body: Body,
    /// Bytes of a line that is not complete.
    unread: Vec<u8>,
}

impl ApiResponse {
    /// The items of a list, one by one as they come; what the list has beside them.
    ///
    /// # Errors
    /// When it breaks off, comes too slowly or is no list.
    pub async fn items(mut self, mut found: impl FnMut(ListItem<'_>)) -> Result<Vec<u8>, FollowError> {
        let malformed = |error: super::items::MalformedList| FollowError::new(FollowErrorKind::Malformed, error.to_string());
        let mut items = ListItems::default();
        while let Some(bytes) = self.more(RESPONSE).await? {
            items.push(&bytes, &mut found).map_err(malformed)?;
        }
        items.finish().map_err(malformed)
    }

    /// All of it, where that is no more than `limit` bytes.
    async fn whole(mut self, limit: usize) -> Result<Vec<u8>, FollowError> {
        let mut all = Vec::new();
        while let Some(bytes) = self.more(RESPONSE).await? {
            if all.len() + bytes.len() > limit {
                return Err(FollowError::new(FollowErrorKind::Malformed, format!("a response of more than {limit} bytes")));
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// When it breaks off, in the middle of a line too, or when nothing comes within `patience`.
    pub async fn line(&mut self, patience: Duration) -> Result<Option<Vec<u8>>, FollowError> {
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
                    return Err(FollowError::new(FollowErrorKind::Malformed, format!("a line of more than {LONGEST} bytes")));
                }
                Some(bytes) => self.unread.extend_from_slice(&bytes),
                None if self.unread.is_empty() => return Ok(None),
                None => return Err(FollowError::new(FollowErrorKind::Broken, "the connection ended in the middle of an object")),
            }
        }
    }

    async fn more(&mut self, patience: Duration) -> Result<Option<bytes::Bytes>, FollowError> {
        loop {
            match timeout(patience, self.body.frame()).await {
                Err(_) => {
                    return Err(FollowError::new(FollowErrorKind::Timeout, format!("nothing came for {} s", patience.as_secs())));
                }
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(FollowError::new(FollowErrorKind::Broken, causes::chain(&error))),
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
    fn a_refusal_contains_the_servers_message() {
        let status =
            br#"{"kind":"ApiStatus","message":"pods is forbidden: User \"x\" cannot list resource \"pods\"","code":403}"#;
        let denied = refused(StatusCode::FORBIDDEN, status, None);
        assert_eq!(denied.kind, FollowErrorKind::Denied);
        assert!(denied.reason.contains("403 Forbidden: pods is forbidden: User \"x\" cannot list"), "{}", denied.reason);
        let plain = refused(StatusCode::UNAUTHORIZED, b"Unauthorized\n", None);
        assert_eq!((plain.kind, plain.reason.as_str()), (FollowErrorKind::Unauthorized, "401 Unauthorized: Unauthorized"));
        let seven = Some(Duration::from_secs(7));
        assert_eq!(refused(StatusCode::TOO_MANY_REQUESTS, b"", seven).retry_after, seven);
        assert_eq!(refused(StatusCode::BAD_GATEWAY, b"", None).reason, "502 Bad Gateway");
        // In an event of a watch there is no header.
        let event = br#"{"kind":"ApiStatus","message":"later","code":429,"details":{"retryAfterSeconds":3}}"#;
        assert_eq!(refused(StatusCode::TOO_MANY_REQUESTS, event, None).retry_after, Some(Duration::from_secs(3)));
        let page = refused(StatusCode::BAD_GATEWAY, &b"x".repeat(9999), None);
        assert!(page.reason.len() < 400, "{} bytes", page.reason.len());
    }
}
