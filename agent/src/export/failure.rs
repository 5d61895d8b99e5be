//! Why an attempt failed, and whether to repeat it.

use std::error::Error;
use std::time::Duration;

use tonic::Code;

use super::headers::Headers;
pub(super) use crate::causes::one_line;
use crate::{causes, connect::ConnectError};

/// What the collector made of a request it took.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Accepted {
    /// Points it rejected (partial success).
    pub(super) rejected: u64,
    /// Its message about them, or a warning when it rejected none; mostly empty.
    pub(super) message: String,
}

/// A request that was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SendError {
    /// Its kind.
    pub(super) kind: SendErrorKind,
    /// Why, for people.
    pub(super) reason: String,
    /// Whether to repeat it.
    pub(super) retry: Retry,
}

impl SendError {
    /// Where credentials were refused that come from files, those are read again; with new ones the request is another.
    pub(super) fn renewed(mut self, headers: &mut Headers) -> Self {
        if self.kind.is_about_credentials() && headers.renewed() {
            self.retry = Retry::Backoff;
        }
        self
    }
}

/// Whether to repeat a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    /// The same request would fail again.
    Never,
    /// The same, for its size: in parts it may be taken.
    Smaller,
    /// After a wait of our own choosing.
    Backoff,
    /// After the wait that the receiver requested.
    After(Duration),
}

/// Kinds of trouble. Each is logged on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum SendErrorKind {
    /// No connection.
    Connect,
    /// No connection by the proxy.
    Proxy,
    /// A connection that TLS refused.
    Tls,
    /// What answered an attempt at TLS is no TLS.
    NoTls,
    /// What took a connection in plain text speaks TLS.
    WantsTls,
    /// No reply in time.
    Timeout,
    /// A connection that broke.
    Broken,
    /// The same inside TLS. A server that requires a client certificate reports it in an alert that TLS 1.3 sends after the
    /// handshake, and that HTTP/2 mostly loses.
    BrokenTls,
    /// A gRPC status other than OK.
    Grpc(Code),
    /// An HTTP status other than 2xx.
    Http(u16),
    /// stdout cannot be written.
    Stdout,
    /// The collector took a request but not all of its points, or warned.
    Partial,
    /// A request that is too large for the collector.
    TooLarge,
    /// The same, which then was sent in parts.
    Divided,
    /// The queue was full: the oldest request went.
    Dropped,
}

impl SendErrorKind {
    /// Whether the receiver reports that nothing at this address accepts such requests.
    pub(super) fn is_no_such_service(self) -> bool {
        matches!(self, Self::Grpc(Code::Unimplemented) | Self::Http(404 | 405))
    }

    /// Whether the collector refuses the credentials in the headers.
    pub(super) fn is_about_credentials(self) -> bool {
        matches!(self, Self::Grpc(Code::Unauthenticated | Code::PermissionDenied) | Self::Http(401 | 403))
    }

    /// What a person can do about it.
    pub(super) fn advice(self) -> &'static str {
        match self {
            Self::Connect => "check the endpoint's host and port, and that a collector listens there",
            Self::Proxy => "check the proxy, and NO_PROXY for what is reached without it",
            Self::NoTls => "the endpoint does not speak TLS: use http://, or the port where it does",
            Self::WantsTls => "the endpoint speaks TLS: use https://",
            Self::Tls => "check the collector's certificate and the CA and client certificate configured here",
            Self::Timeout => "check that the collector keeps up and that no firewall drops the connection, or raise the timeout",
            Self::Broken => "check that the endpoint speaks the configured protocol (gRPC: port 4317, HTTP: port 4318)",
            Self::BrokenTls => {
                "check that the endpoint speaks TLS and the configured protocol, and whether it demands a client certificate"
            }
            Self::Grpc(Code::Unauthenticated | Code::PermissionDenied) | Self::Http(401 | 403) => {
                "check the credentials in the configured headers"
            }
            Self::Grpc(Code::Unimplemented) => "check that the endpoint is an OTLP/gRPC receiver for metrics that accepts gzip",
            Self::Http(407) => "check the user and the password of the proxy's URL",
            Self::Http(404 | 405) => "check the endpoint's path, which is /v1/metrics for most collectors",
            Self::Http(415) => "check that the endpoint is an OTLP receiver for protobuf",
            Self::Http(300..=399) => "give the URL it redirects to as the endpoint",
            Self::Grpc(_) | Self::Http(_) => "see the collector's log",
            Self::Stdout => "check what stdout is connected to",
            Self::Partial => "see the collector's log for what it does not accept",
            Self::TooLarge | Self::Divided => {
                "raise the limit on the size of requests of the collector, or of a proxy before it (OpenTelemetry Collector: \
                 max_recv_msg_size_mib for gRPC, max_request_body_size for HTTP; nginx: client_max_body_size)"
            }
            Self::Dropped => "bring the collector back, or lengthen the queue",
        }
    }
}

/// Whether a refusal is for the request's size, by its text. There is no status of its own for that in gRPC, and the
/// OpenTelemetry Collector's HTTP receiver answers 400. These are the texts of grpc-go and gRPC's C core ("larger than max"),
/// grpc-java ("exceeds maximum size"), grpc-dotnet ("exceeds the maximum configured message size"), tonic ("too large", "size
/// limit"), Go's net/http ("too large") and VictoriaMetrics ("too big").
pub(super) fn says_too_large(message: &str) -> bool {
    const WORDS: [&str; 6] =
        ["larger than max", "exceeds maximum size", "exceeds the maximum configured", "too large", "too big", "size limit"];
    let message = message.to_lowercase();
    WORDS.iter().any(|words| message.contains(words))
}

/// An error and its causes on one line, without repetition.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    one_line(&causes::chain(error))
}

/// Whether it was the proxy that failed.
pub(super) fn is_proxys(error: &(dyn Error + 'static)) -> bool {
    let ours = causes::causes(error).find_map(|cause| cause.downcast_ref());
    matches!(ours, Some(ConnectError::Unreachable { .. } | ConnectError::Refused { .. }))
}

/// The TLS error among an error's causes.
pub(super) fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    causes::causes(error).find_map(|cause| cause.downcast_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_for_size_is_known_by_its_words() {
        for (message, want) in [
            ("grpc: received message larger than max (4812345 vs. 4194304)", true),
            ("grpc: received message after decompression larger than max 4194304", true),
            ("Received message larger than max (4812345 vs. 4194304)", true),
            ("gRPC message exceeds maximum size 4194304: 4812345", true),
            ("Decompressed gRPC message exceeds maximum size 4194304", true),
            ("Received message exceeds the maximum configured message size.", true),
            ("Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes", true),
            ("Error decompressing: size limit, of 4194304 bytes, exceeded while decompressing message", true),
            ("http: request body too large", true),
            ("the reply is not gRPC's (HTTP status 413 Payload Too Large)", true),
            ("ingestion rate limit (10000) exceeded while adding 2000 samples", false),
            ("too many outstanding requests", false),
            ("", false),
        ] {
            assert_eq!(says_too_large(message), want, "{message}");
        }
    }

    #[test]
    fn the_tls_error_is_found() {
        let inner = std::io::Error::other(rustls::Error::HandshakeNotComplete);
        let outer = std::io::Error::other(inner);
        assert_eq!(tls_error(&outer), Some(&rustls::Error::HandshakeNotComplete));
    }
}
