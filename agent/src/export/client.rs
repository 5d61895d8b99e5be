//! A client of one OTLP endpoint: what gRPC and HTTP have in common. What each adds is its [`Wire`].

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, Version};

use super::endpoint::Endpoint;
use super::failure::{Accepted, SendError};
use super::headers::Headers;
use super::link::{Link, Reply};
use super::{Destination, ExportError, OtlpService};

/// What a protocol adds to a POST request.
pub(super) struct Wire {
    /// Version of HTTP.
    pub(super) version: Version,
    /// The protocol's own headers for this destination.
    pub(super) headers: fn(&Destination) -> Vec<(HeaderName, HeaderValue)>,
    /// The outcome of a request by its reply.
    pub(super) outcome: fn(&Reply) -> Result<Accepted, SendError>,
}

/// A client of an OTLP endpoint for metrics or logs.
pub(super) struct Client {
    endpoint: Endpoint,
    headers: Headers,
    link: Link,
    wire: &'static Wire,
}

impl Client {
    /// Checks the settings; connects with the first request.
    pub(super) fn new(destination: &Destination, service: OtlpService, wire: &'static Wire) -> Result<Self, ExportError> {
        let endpoint = Endpoint::new(destination, service)?;
        let link = Link::new(&endpoint, destination)?;
        let mut headers = Headers::new(destination)?;
        for (name, value) in (wire.headers)(destination) {
            headers.insert(name, value);
        }
        Ok(Self { endpoint, headers, link, wire })
    }

    /// For messages: where requests go.
    pub(super) fn target(&self) -> &str {
        &self.endpoint.shown
    }

    /// Sends the bytes of a request.
    pub(super) async fn send(&mut self, body: Bytes) -> Result<Accepted, SendError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.uri.clone();
        *request.version_mut() = self.wire.version;
        *request.headers_mut() = self.headers.current();
        let outcome = (self.wire.outcome)(&self.link.call(request).await?);
        outcome.map_err(|failure| failure.renewed(&mut self.headers))
    }
}
