//! Where metrics and events go: what the keys of `export` come to, and how addresses follow from them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::value::{checked_url, filled, one_of, store};
use super::{Check, Loading, Proxies, Value};
use crate::url::{shown, socket};

/// The service of an OTLP receiver that requests go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtlpService {
    /// Of points.
    Metrics,
    /// Of log records: events and podmeter's own log lines.
    Logs,
    /// Of spans: podmeter's own work.
    Traces,
}

impl OtlpService {
    /// What it takes, for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Logs => "events",
            Self::Traces => "traces",
        }
    }

    /// Its path with OTLP/HTTP.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Metrics => "/v1/metrics",
            Self::Logs => "/v1/logs",
            Self::Traces => "/v1/traces",
        }
    }
}

/// Where podmeter's telemetry about itself goes; `None` where it is not sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Telemetry {
    /// Spans.
    pub traces: Option<Destination>,
    /// Log lines.
    pub logs: Option<Destination>,
}

/// Where metrics and events go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Export {
    /// By which way.
    pub exporter: Exporter,
    /// Whether `/metrics` answers, too.
    pub pull: bool,
    /// Whether counters leave as what was counted since the export before, and not as totals.
    pub delta: bool,
    /// How metrics are sent.
    pub metrics: Destination,
    /// How events are sent; `None` when no address is known that takes logs.
    pub logs: Option<Destination>,
    /// Further receivers of both, by name.
    pub also: Vec<FurtherReceiver>,
    /// Exports kept while the receiver is away.
    pub queue: usize,
    /// Bytes that they may have, as they are sent.
    pub queue_bytes: usize,
    /// Bytes that one request may have before compression.
    pub request_bytes: usize,
    /// Bytes that the value of an attribute may have.
    pub attribute_bytes: usize,
    /// From SIGTERM to the end, at most.
    pub shutdown_timeout: Duration,
    /// What is kept on disk.
    pub journal: Journal,
}

/// A receiver beside that of `export.endpoint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FurtherReceiver {
    /// Its name: 1 to 40 of the characters a-z, 0-9 and `-`.
    pub name: String,
    /// How metrics are sent to it.
    pub metrics: Destination,
    /// How events are.
    pub logs: Destination,
}

/// What is kept on disk of what was exported and of what waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    /// Where; `None`: not at all, and what waits is in memory.
    pub directory: Option<PathBuf>,
    /// Bytes that it may have.
    pub bytes: u64,
    /// How old it may be.
    pub age: Duration,
}

/// An OTLP receiver and how requests reach it. `Debug` shows no secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Destination {
    /// Its URL: with [`Protocol::HttpProtobuf`] the whole one, with [`Protocol::Grpc`] scheme and authority.
    pub endpoint: String,
    /// How OTLP is carried.
    pub protocol: Protocol,
    /// Headers (metadata with gRPC) of every request.
    pub headers: Headers,
    /// File with more of them.
    pub headers_file: Option<PathBuf>,
    /// File with a token for the header `authorization`.
    pub token_file: Option<PathBuf>,
    /// Compression of requests.
    pub compression: Compression,
    /// Time one request may take.
    pub timeout: Duration,
    /// PEM file with the certificates that the receiver's must be signed by; `None`: those the host trusts.
    pub certificate: Option<PathBuf>,
    /// PEM file with the agent's own certificate.
    pub client_certificate: Option<PathBuf>,
    /// PEM file with its key. Set if and only if the certificate is.
    pub client_key: Option<PathBuf>,
    /// The environment's proxies.
    pub proxies: Proxies,
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination")
            .field("endpoint", &shown(&self.endpoint))
            .field("protocol", &self.protocol)
            .field("headers", &self.headers)
            .field("headers_file", &self.headers_file)
            .field("token_file", &self.token_file)
            .field("compression", &self.compression)
            .field("timeout", &self.timeout)
            .field("certificate", &self.certificate)
            .field("client_certificate", &self.client_certificate)
            .field("client_key", &self.client_key)
            .field("proxies", &self.proxies)
            .finish()
    }
}

/// By which way metrics leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exporter {
    /// To an OTLP receiver.
    #[default]
    Otlp,
    /// As OTLP JSON to stdout.
    Stdout,
    /// Not at all.
    None,
}

/// How OTLP is carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC.
    #[default]
    Grpc,
    /// Protobuf in HTTP POST.
    HttpProtobuf,
}

/// Compression of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// gzip.
    #[default]
    Gzip,
    /// None.
    None,
}

/// Headers by lower-case name, valid in HTTP. `Debug` shows the names only: values are often secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(pub BTreeMap<String, String>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A checked URL; its path depends on the protocol.
pub(super) enum Endpoint {
    /// Gets the signal's path with HTTP.
    Base(String),
    /// Used as it is.
    Signal(String),
}

impl Destination {
    /// Settles the address, once the protocol is known, and checks that the client's certificate and key come in a pair. An
    /// error has the last part of the key's name.
    pub(super) fn settle(&mut self, endpoint: Option<Endpoint>, path: &str) -> Result<(), (&'static str, String)> {
        match (&self.client_certificate, &self.client_key) {
            (Some(_), None) => return Err(("client_certificate", "it needs a client_key beside it".to_owned())),
            (None, Some(_)) => return Err(("client_key", "it needs a client_certificate beside it".to_owned())),
            _ => {}
        }
        // https://opentelemetry.io/docs/specs/otel/protocol/exporter/#endpoint-urls-for-otlphttp
        self.endpoint = match (self.protocol, endpoint) {
            (Protocol::Grpc, None) => "http://localhost:4317".to_owned(),
            (Protocol::HttpProtobuf, None) => format!("http://localhost:4318{path}"),
            // What is requested of who listens there follows from what is sent.
            (_, Some(Endpoint::Base(url) | Endpoint::Signal(url))) if socket(&url).is_some() => url,
            (Protocol::HttpProtobuf, Some(Endpoint::Signal(url))) => url,
            (Protocol::HttpProtobuf, Some(Endpoint::Base(url))) if url.contains('?') => {
                return Err(("endpoint", "a path is appended to it, so it cannot have a query".to_owned()));
            }
            (Protocol::HttpProtobuf, Some(Endpoint::Base(url))) => format!("{}{path}", url.trim_end_matches('/')),
            (Protocol::Grpc, Some(Endpoint::Base(url) | Endpoint::Signal(url))) => {
                let url = url.trim_end_matches('/').to_owned();
                let authority = url.split_once("://").map_or("", |(_, rest)| rest);
                if authority.contains(['/', '?']) {
                    let why = "it has a path, and protocol grpc uses none: remove it, or set http/protobuf";
                    return Err(("endpoint", why.to_owned()));
                }
                url
            }
        };
        Ok(())
    }
}

/// The endpoint of a kind. A URL that ends in its path is used as it is.
pub(super) fn endpoint(l: &mut Loading, value: Value) -> Check {
    let own = l.service;
    let endpoint = match value {
        Value::Signal(url) => Endpoint::Signal(checked_url(url)?),
        Value::Base(url) => Endpoint::Base(checked_url(url)?),
        other_value => {
            let url = checked_url(filled(other_value)?)?;
            match url.strip_suffix(OtlpService::Metrics.path()) {
                _ if url.ends_with(own.path()) => Endpoint::Signal(url),
                // Set for metrics, and used for others: theirs is beside it.
                Some(base) if own != OtlpService::Metrics => Endpoint::Base(base.to_owned()),
                _ => Endpoint::Base(url),
            }
        }
    };
    store(&mut l.sent().endpoint, Some(endpoint))
}

pub(super) fn protocol(l: &mut Loading, value: Value) -> Check {
    let protocol = one_of(value, &[("grpc", Protocol::Grpc), ("http/protobuf", Protocol::HttpProtobuf)])?;
    store(&mut l.destination().protocol, protocol)
}

pub(super) fn compression(l: &mut Loading, value: Value) -> Check {
    store(&mut l.destination().compression, one_of(value, &[("gzip", Compression::Gzip), ("none", Compression::None)])?)
}
