//! Batches -> OTLP, over gRPC, over HTTP or as lines on stdout.
//!
//! [`encode`] makes the messages and `request` cuts them into requests (pure); [`ship::Queue`] keeps these, bounded, as the bytes
//! that go over the wire, and [`ship::Shipper`] sends them by the rules of the OTLP specification (1.9, "OTLP/gRPC" and "OTLP/HTTP"). Nothing here waits for the
//! collector but the shipper's own task.

mod compress;
pub mod encode;
mod endpoint;
mod failure;
mod grpc;
mod http;
mod json;
mod link;
mod logs;
pub mod own;
mod queue;
mod request;
pub mod ship;
mod tls;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Where batches go and how.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// The kind of destination.
    pub exporter: Exporter,
    /// Full URL of the collector, `http://` or `https://`; for HTTP with its path (`/v1/metrics`), for gRPC without one.
    pub endpoint: String,
    /// The same for events; `None` when there is no address that takes logs.
    pub logs_endpoint: Option<String>,
    /// How OTLP is carried.
    pub protocol: Protocol,
    /// Sent with every request. Values carry tokens: they are never shown.
    pub headers: BTreeMap<String, String>,
    /// Compression of requests. Compressed replies are always accepted.
    pub compression: Compression,
    /// Longest time for one attempt, from connecting to the last byte of the reply.
    pub timeout: Duration,
    /// PEM file of the certificate authorities to trust instead of the system's.
    pub certificate: Option<PathBuf>,
    /// PEM file of the certificate chain to show to the collector (mTLS).
    pub client_certificate: Option<PathBuf>,
    /// PEM file of that certificate's private key.
    pub client_key: Option<PathBuf>,
    /// Exports kept while the collector cannot be reached; beyond it the oldest goes.
    pub queue: usize,
    /// Bytes that the requests of these may have, as they are sent; beyond it the oldest goes.
    pub queue_bytes: usize,
    /// Bytes that one request may have before compression.
    pub request_bytes: usize,
    /// Bytes that the value of an attribute may have.
    pub attribute_bytes: usize,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("exporter", &self.exporter)
            .field("endpoint", &endpoint::shown(&self.endpoint))
            .field("logs_endpoint", &self.logs_endpoint.as_deref().map(endpoint::shown))
            .field("protocol", &self.protocol)
            .field("headers", &self.headers.keys())
            .field("compression", &self.compression)
            .field("timeout", &self.timeout)
            .field("certificate", &self.certificate)
            .field("client_certificate", &self.client_certificate)
            .field("client_key", &self.client_key)
            .field("queue", &self.queue)
            .field("queue_bytes", &self.queue_bytes)
            .field("request_bytes", &self.request_bytes)
            .field("attribute_bytes", &self.attribute_bytes)
            .finish()
    }
}

/// The kind of destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exporter {
    /// A collector or backend that speaks OTLP.
    Otlp,
    /// One line of OTLP/JSON per batch on stdout.
    Stdout,
    /// Nowhere: what was measured stays on the node.
    None,
}

/// How OTLP is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC over HTTP/2.
    Grpc,
    /// Protobuf in HTTP/1.1 POST requests.
    HttpProtobuf,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Grpc => "gRPC",
            Self::HttpProtobuf => "HTTP",
        })
    }
}

/// What a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Points.
    Metrics,
    /// Events, as log records.
    Logs,
}

impl std::fmt::Display for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Metrics => "metrics",
            Self::Logs => "events",
        })
    }
}

/// Compression of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// gzip.
    Gzip,
    /// None.
    None,
}

/// Settings that a person must correct: found at start.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The endpoint is no URL a request can go to. Only the part that cannot hold a secret is shown.
    #[error("could not use the OTLP endpoint {endpoint:?}: {reason}")]
    Endpoint {
        /// The endpoint without credentials and query.
        endpoint: String,
        /// What is wrong with it, and what it should look like.
        reason: String,
    },
    /// A header that HTTP does not allow. Its value is not shown.
    #[error("could not use the OTLP header {name:?}: {reason}")]
    Header {
        /// The header's name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A certificate or key file that cannot be read.
    #[error("could not read the OTLP {what} {}: {reason}; give a readable file in PEM format", path.display())]
    Pem {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        reason: String,
    },
    /// One half of a client identity.
    #[error("could not set up the OTLP client certificate: its {missing} is not given; mTLS needs a certificate and its key")]
    HalfIdentity {
        /// The missing half.
        missing: &'static str,
    },
    /// A certificate and key that do not go together, or that TLS cannot use.
    #[error("could not set up TLS for the OTLP endpoint; check that the client certificate and the key belong together")]
    Identity(#[source] rustls::Error),
    /// No certificate authority to check the collector by.
    #[error(
        "could not load the system's certificate authorities for the https OTLP endpoint: {reason}; install ca-certificates or \
         give the collector's CA as a PEM file"
    )]
    SystemRoots {
        /// What went wrong.
        reason: String,
    },
    /// A queue that holds nothing.
    #[error("could not set up the OTLP export queue: its length is 0; give at least 1")]
    Queue,
    /// A timeout in which nothing can be sent.
    #[error("could not set up the OTLP export: the timeout is 0; give a duration such as 10s")]
    Timeout,
}
