//! The HTTP connection to the collector, kept open between requests: HTTP/2 for gRPC, HTTP/1.1 otherwise.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::endpoint::Endpoint;
use super::failure::{Failure, Kind, Retry, chain, tls_error};
use super::{ExportError, Protocol, Settings, tls};

/// How much of a reply is read: OTLP's are some bytes, error pages of proxies some thousand.
pub(super) const REPLY_LIMIT: usize = 256 * 1024;

/// A connection to the collector, made when first needed and again after every failure.
#[derive(Debug)]
pub(super) struct Link {
    connector: HttpsConnector<HttpConnector>,
    protocol: Protocol,
    timeout: Duration,
    tls: bool,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
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
    pub(super) fn new(endpoint: &Endpoint, settings: &Settings) -> Result<Self, ExportError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(settings.timeout));
        let https = HttpsConnectorBuilder::new().with_tls_config(tls::config(settings, endpoint.tls)?).https_or_http();
        let connector = match settings.protocol {
            Protocol::Grpc => https.enable_http2().wrap_connector(tcp),
            Protocol::HttpProtobuf => https.enable_http1().wrap_connector(tcp),
        };
        let client = client(&connector, settings.protocol);
        Ok(Self { connector, protocol: settings.protocol, timeout: settings.timeout, tls: endpoint.tls, client })
    }

    /// Sends a request and reads the whole reply, within the timeout.
    pub(super) async fn call(&mut self, request: Request<Full<Bytes>>) -> Result<Reply, Failure> {
        let exchange = async {
            let response = self.client.request(request).await.map_err(|e| not_sent(&e))?;
            read(response).await
        };
        let result = tokio::time::timeout(self.timeout, exchange).await.unwrap_or_else(|_| {
            let reason = format!("no reply within {:?}", self.timeout);
            Err(Failure { kind: Kind::Timeout, reason, retry: Retry::Backoff })
        });
        result.map_err(|mut failure| {
            // An HTTP/2 connection outlives the requests that time out on it: one whose peer vanished would be used until TCP
            // gives up, a quarter of an hour later.
            self.client = client(&self.connector, self.protocol);
            if self.tls && failure.kind == Kind::Broken {
                failure.kind = Kind::BrokenTls;
            }
            failure
        })
    }
}

fn client(connector: &HttpsConnector<HttpConnector>, protocol: Protocol) -> Client<HttpsConnector<HttpConnector>, Full<Bytes>> {
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(1)
        .http2_only(protocol == Protocol::Grpc)
        .build(connector.clone())
}

async fn read(response: Response<Incoming>) -> Result<Reply, Failure> {
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

fn not_sent(error: &Error) -> Failure {
    match error {
        e if tls_error(e).is_some() => broken(e),
        e if e.is_connect() => Failure { kind: Kind::Connect, ..broken(e) },
        e => broken(e),
    }
}

/// A connection that broke. OTLP counts every one as worth another attempt, also where TLS said no: certificates are renewed.
fn broken(error: &(dyn std::error::Error + 'static)) -> Failure {
    let kind = if tls_error(error).is_some() { Kind::Tls } else { Kind::Broken };
    Failure { kind, reason: chain(error), retry: Retry::Backoff }
}
