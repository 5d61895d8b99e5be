//! The HTTP connection to the collector, kept open between requests: HTTP/2 for gRPC, HTTP/1.1 otherwise.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::PROXY_AUTHORIZATION;
use hyper::http::uri::Scheme;
use hyper::{HeaderMap, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower::Service as _;

use super::endpoint::Endpoint;
use super::failure::{Retry, SendError, SendErrorKind, chain, is_proxys, one_line, tls_error};
use super::{Destination, ExportError, Protocol, tls};
use crate::connect::Connector;

/// How much of a reply is read: OTLP's are some bytes, error pages of proxies some thousand.
pub(super) const REPLY_LIMIT: usize = 256 * 1024;

/// A connection to the collector, made when first needed and again after every failure.
#[derive(Debug)]
pub(super) struct Link {
    connector: Connector,
    protocol: Protocol,
    timeout: Duration,
    /// `None` for plain text.
    tls: Option<Arc<tls::Current>>,
    client: Client<Connector, Full<Bytes>>,
    /// In plain text: whether somebody looked if the other side wants TLS, since it last answered.
    tried_tls: bool,
}

/// A whole reply.
#[derive(Debug)]
pub(super) struct Reply {
    /// HTTP status.
    pub(super) status: StatusCode,
    /// Headers.
    pub(super) headers: HeaderMap,
    /// Body, as it came, at most [`REPLY_LIMIT`].
    pub(super) body: Bytes,
    /// Trailers; empty when there were none or the body was cut.
    pub(super) trailers: HeaderMap,
}

impl Link {
    /// Prepares TLS; nothing is connected yet.
    pub(super) fn new(endpoint: &Endpoint, destination: &Destination) -> Result<Self, ExportError> {
        let Destination { protocol, timeout, .. } = *destination;
        let tls = Arc::new(tls::Current::new(destination, endpoint.tls)?);
        let current = Arc::clone(&tls);
        let connector = Connector::new(endpoint.proxy.clone(), timeout, Arc::new(move || current.get()));
        let mut connector = connector.by_socket(endpoint.socket.clone());
        if protocol == Protocol::Grpc {
            connector = connector.tunnelling_all();
        }
        let client = client(&connector, protocol);
        Ok(Self { connector, protocol, timeout, tls: endpoint.tls.then_some(tls), client, tried_tls: false })
    }

    /// Sends a request and reads the whole reply, within the timeout.
    pub(super) async fn call(&mut self, mut request: Request<Full<Bytes>>) -> Result<Reply, SendError> {
        if let Some(authorization) = self.connector.proxy_authorization(request.uri()) {
            let authorization = authorization.clone();
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization);
        }
        let (uri, begun) = (request.uri().clone(), Instant::now());
        let exchange = async {
            let response = self.client.request(request).await.map_err(|e| not_sent(&e))?;
            read(response).await
        };
        let result = tokio::time::timeout(self.timeout, exchange).await.unwrap_or_else(|_| {
            let reason = format!("no reply within {:?}", self.timeout);
            Err(SendError { kind: SendErrorKind::Timeout, reason, retry: Retry::Backoff })
        });
        let mut failure = match result {
            Ok(reply) if self.tls.is_none() && wants_tls(&reply) => {
                let reason = one_line(&String::from_utf8_lossy(&reply.body));
                SendError { kind: SendErrorKind::WantsTls, reason, retry: Retry::Backoff }
            }
            Ok(reply) => {
                self.tried_tls = false;
                return Ok(reply);
            }
            Err(failure) => failure,
        };
        // An HTTP/2 connection outlives the requests that time out on it: one with a vanished peer would be used until TCP
        // gives up, a quarter of an hour later.
        self.client = client(&self.connector, self.protocol);
        match (&self.tls, failure.kind) {
            (Some(tls), SendErrorKind::Broken | SendErrorKind::Tls) => {
                tls.suspect();
                if failure.kind == SendErrorKind::Broken {
                    failure.kind = SendErrorKind::BrokenTls;
                }
            }
            (None, SendErrorKind::Broken) if !std::mem::replace(&mut self.tried_tls, true) => {
                let left = self.timeout.saturating_sub(begun.elapsed());
                if tokio::time::timeout(left, self.speaks_tls(&uri)).await == Ok(true) {
                    failure.kind = SendErrorKind::WantsTls;
                }
            }
            _ => {}
        }
        Err(failure)
    }

    /// Whether TLS is spoken where a plain request failed.
    async fn speaks_tls(&self, uri: &Uri) -> bool {
        let mut parts = uri.clone().into_parts();
        parts.scheme = Some(Scheme::HTTPS);
        let (Ok(uri), Ok(config)) = (Uri::from_parts(parts), tls::trusting_nobody()) else { return false };
        let config = Arc::new(config);
        match self.connector.with_tls(Arc::new(move || Arc::clone(&config))).call(uri).await {
            Ok(_) => true,
            // Mostly, its certificate is none to trust: but it showed one.
            Err(error) => tls_error(&*error).is_some_and(|error| !matches!(error, rustls::Error::InvalidMessage(_))),
        }
    }
}

/// Whether a TLS server answers in plain text that it expects TLS, as those of Go and nginx do.
fn wants_tls(reply: &Reply) -> bool {
    reply.status == StatusCode::BAD_REQUEST && reply.body.windows(6).any(|word| word == b"HTTPS ")
}

fn client(connector: &Connector, protocol: Protocol) -> Client<Connector, Full<Bytes>> {
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(1)
        .http2_only(protocol == Protocol::Grpc)
        .build(connector.clone())
}

async fn read(response: Response<Incoming>) -> Result<Reply, SendError> {
    let (head, mut incoming) = response.into_parts();
    let mut body = BytesMut::new();
    let mut trailers = HeaderMap::new();
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|e| broken(&e))?;
        match frame.into_data() {
            Ok(data) if body.len() + data.len() > REPLY_LIMIT => {
                body.extend_from_slice(&data[..REPLY_LIMIT - body.len()]);
                break;
            }
            Ok(data) => body.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    Ok(Reply { status: head.status, headers: head.headers, body: body.freeze(), trailers })
}

fn not_sent(error: &Error) -> SendError {
    match error {
        e if is_proxys(e) => SendError { kind: SendErrorKind::Proxy, ..broken(e) },
        e if tls_error(e).is_some() => broken(e),
        e if e.is_connect() => SendError { kind: SendErrorKind::Connect, ..broken(e) },
        e => broken(e),
    }
}

/// A connection that broke. OTLP retries each of them, also after a TLS error: certificates are renewed.
fn broken(error: &(dyn std::error::Error + 'static)) -> SendError {
    let kind = match tls_error(error) {
        Some(rustls::Error::InvalidMessage(_)) => SendErrorKind::NoTls,
        Some(_) => SendErrorKind::Tls,
        None => SendErrorKind::Broken,
    };
    SendError { kind, reason: chain(error), retry: Retry::Backoff }
}
