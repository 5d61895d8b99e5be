//! Batches -> OTLP, over gRPC, over HTTP or as lines on stdout.
//!
//! [`encode`] makes the messages and `request` cuts them into requests (pure); [`ship::Queue`] keeps these for each receiver, bounded, as
//! the bytes that go over the wire, and [`ship::Shipper`] sends them by the rules of the OTLP specification (1.9, "OTLP/gRPC" and "OTLP/HTTP").
//! Only the shipper's own task waits for the receiver.

mod backlog;
mod client;
pub mod compress;
pub mod decode;
pub mod delta;
pub mod encode;
mod endpoint;
mod failure;
mod group;
mod grpc;
mod headers;
pub mod history;
mod http;
mod intake;
mod json;
mod link;
mod logs;
pub mod own;
pub mod own_telemetry;
pub mod probe;
mod queue;
mod request;
pub mod series;
pub mod ship;
mod sink;
mod task;
mod tls;

#[cfg(test)]
mod connecting;
#[cfg(test)]
mod cost;
#[cfg(test)]
pub mod fixtures;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use crate::config::{Compression, Destination, Export, Exporter, OtlpService, Protocol};
use crate::connect::proxy::ProxyError;

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

impl Payload {
    /// The service that takes it.
    fn service(self) -> OtlpService {
        match self {
            Self::Metrics => OtlpService::Metrics,
            Self::Logs => OtlpService::Logs,
        }
    }

    /// The field of OTLP/JSON that has the resources.
    fn field(self) -> &'static str {
        match self {
            Self::Metrics => "resourceMetrics",
            Self::Logs => "resourceLogs",
        }
    }

    /// What it is, for people.
    fn name(self) -> &'static str {
        self.service().name()
    }
}

impl std::fmt::Display for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Settings that a person must correct: found at start.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The endpoint is no URL a request can go to. Only the part that cannot hold a secret is shown.
    #[error("could not use the OTLP endpoint {endpoint}: {reason}")]
    Endpoint {
        /// The endpoint without credentials and query.
        endpoint: String,
        /// What is wrong with it, and what it should look like.
        reason: String,
    },
    /// A header that HTTP does not allow. Neither its value is shown nor its name, which may be all of it by mistake.
    #[error("could not use the OTLP header {which}: {reason}")]
    Header {
        /// Its number, from 1.
        which: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file with headers or with a token.
    #[error("could not read the OTLP headers from {}: {reason}", path.display())]
    HeaderFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, without the value.
        reason: String,
    },
    /// OpenTelemetry's SDK, which reads variables of its own.
    #[error("could not send podmeter's own telemetry: {reason}; check the OTEL_ variables")]
    Sdk {
        /// What it says.
        reason: String,
    },
    /// The environment's proxy.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
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
