//! The collector's address and the headers of every request, checked at start.

use hyper::http::uri::{PathAndQuery, Scheme, Uri};
use hyper::{HeaderMap, header::HeaderName, header::HeaderValue};

use super::{ExportError, Payload, Protocol, Settings};

/// The path of the method that OTLP/gRPC requests of that payload go to.
const fn grpc_method(payload: Payload) -> &'static str {
    match payload {
        Payload::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Payload::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    }
}

/// Where requests go.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    /// What every request is sent to, path included.
    pub(super) uri: Uri,
    /// True for TLS.
    pub(super) tls: bool,
    /// For messages: the endpoint as people wrote it, without credentials and query, and the protocol.
    pub(super) shown: String,
}

impl Endpoint {
    /// Checks the endpoint that these settings have for that payload; for logs they must have one.
    pub(super) fn new(settings: &Settings, payload: Payload) -> Result<Self, ExportError> {
        let given = match payload {
            Payload::Metrics => settings.endpoint.as_str(),
            Payload::Logs => settings.logs_endpoint.as_deref().unwrap_or_default(),
        };
        let wrong = |reason: &str| ExportError::Endpoint { endpoint: shown(given), reason: reason.into() };
        let example = match settings.protocol {
            Protocol::Grpc => "give a URL such as http://collector:4317",
            Protocol::HttpProtobuf => "give a URL such as http://collector:4318/v1/metrics",
        };
        let uri: Uri = given.trim().parse().map_err(|e| wrong(&format!("{e}; {example}")))?;
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(wrong(&format!("it does not begin with http:// or https://; {example}"))),
        };
        let authority = uri.authority().map_or("", |a| a.as_str());
        if authority.contains('@') {
            return Err(wrong("it holds credentials, which would show up in logs; give them as a header"));
        }
        if uri.host().unwrap_or_default().is_empty() {
            return Err(wrong(&format!("it names no host; {example}")));
        }
        // `http` parses "host:" and "host:99999" to no port at all.
        let after_host = authority.strip_prefix(uri.host().unwrap_or_default()).unwrap_or_default();
        if !after_host.is_empty() && uri.port_u16().is_none() {
            return Err(wrong(&format!("its port is not a number from 1 to 65535; {example}")));
        }
        let mut parts = uri.into_parts();
        if settings.protocol == Protocol::Grpc {
            if parts.path_and_query.as_ref().is_some_and(|p| p.as_str() != "/") {
                return Err(wrong("gRPC takes no path; leave it out, or set the protocol to http/protobuf"));
            }
            parts.path_and_query = Some(PathAndQuery::from_static(grpc_method(payload)));
        }
        let uri = Uri::from_parts(parts).map_err(|e| wrong(&e.to_string()))?;
        Ok(Self { uri, tls, shown: format!("{} over {}", shown(given), settings.protocol) })
    }
}

/// An endpoint as it may be shown: credentials and query (which may hold a key) are left out.
pub(super) fn shown(endpoint: &str) -> String {
    let endpoint = endpoint.trim();
    let end = endpoint.find(['?', '#']).unwrap_or(endpoint.len());
    let (scheme, rest) = endpoint[..end].split_once("://").map_or(("", &endpoint[..end]), |(s, r)| (s, r));
    let authority_end = rest.find('/').unwrap_or(rest.len());
    let host = rest[..authority_end].rfind('@').map_or(0, |at| at + 1);
    let separator = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{separator}{}", &rest[host..])
}

/// The settings' headers as HTTP wants them, their values marked as secret.
pub(super) fn headers(settings: &Settings) -> Result<HeaderMap, ExportError> {
    let mut headers = HeaderMap::with_capacity(settings.headers.len() + 8);
    for (name, value) in &settings.headers {
        let wrong = |reason| ExportError::Header { name: name.clone(), reason };
        let key = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| wrong("a name has letters, digits and hyphens only; write headers as name=value"))?;
        let mut value = HeaderValue::from_str(value)
            .map_err(|_| wrong("its value (not shown) has a line break or another character HTTP does not allow"))?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    headers.insert(hyper::header::USER_AGENT, HeaderValue::from_static(concat!("podmeter/", env!("CARGO_PKG_VERSION"))));
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::fixtures::settings;

    #[test]
    fn endpoints_become_the_address_of_the_request() {
        use Protocol::{Grpc, HttpProtobuf};
        let cases = [
            ("http://collector:4317", Grpc, false, format!("http://collector:4317{}", grpc_method(Payload::Metrics))),
            ("https://10.0.0.1/", Grpc, true, format!("https://10.0.0.1{}", grpc_method(Payload::Metrics))),
            (" http://[::1]:4317 ", Grpc, false, format!("http://[::1]:4317{}", grpc_method(Payload::Metrics))),
            ("http://collector:4318/v1/metrics", HttpProtobuf, false, "http://collector:4318/v1/metrics".into()),
            ("https://otlp.example/a/b?key=1", HttpProtobuf, true, "https://otlp.example/a/b?key=1".into()),
        ];
        for (given, protocol, tls, want) in cases {
            let endpoint = Endpoint::new(&settings(given, protocol), Payload::Metrics).expect(given);
            assert_eq!((endpoint.tls, endpoint.uri.to_string()), (tls, want));
        }
    }

    #[test]
    fn events_have_a_method_and_an_address_of_their_own() {
        let mut settings = settings("http://collector:4317", Protocol::Grpc);
        settings.logs_endpoint = Some("http://logs:4317".into());
        let endpoint = Endpoint::new(&settings, Payload::Logs).expect("a URL");
        assert_eq!(endpoint.uri.to_string(), "http://logs:4317/opentelemetry.proto.collector.logs.v1.LogsService/Export");
        settings.protocol = Protocol::HttpProtobuf;
        settings.logs_endpoint = Some("http://logs:4318/v1/logs".into());
        let endpoint = Endpoint::new(&settings, Payload::Logs).expect("a URL");
        assert_eq!(endpoint.uri.to_string(), "http://logs:4318/v1/logs");
    }

    #[test]
    fn an_endpoint_nothing_can_be_sent_to_is_an_error_that_says_why_and_shows_no_secret() {
        use Protocol::{Grpc, HttpProtobuf};
        let cases = [
            ("", Grpc, "could not use the OTLP endpoint \"\""),
            ("collector:4317", Grpc, "does not begin with http:// or https://"),
            ("grpc://collector:4317", Grpc, "does not begin with http:// or https://"),
            ("http://", HttpProtobuf, "could not use the OTLP endpoint \"http://\""),
            ("http://collector:99999", Grpc, "port"),
            ("http://collector:", Grpc, "port"),
            ("http://collector:4318/v1/metrics", Grpc, "set the protocol to http/protobuf"),
            ("https://me:hunter2@collector:4317", Grpc, "give them as a header"),
            ("https://me:hunter2@coll ector:4317", Grpc, "could not use"),
            ("ftp://collector/?key=hunter2", HttpProtobuf, "does not begin with"),
        ];
        for (given, protocol, want) in cases {
            let error = Endpoint::new(&settings(given, protocol), Payload::Metrics).expect_err(given).to_string();
            assert!(error.contains(want), "{given:?}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_header_http_does_not_allow_is_an_error_that_names_it_but_not_its_value() {
        for (name, value) in [("api key", "hunter2"), ("", "hunter2"), ("x-token", "hunter2\nx: y")] {
            let mut settings = settings("http://collector:4317", Protocol::Grpc);
            settings.headers = [(name.to_string(), value.to_string())].into();
            let error = headers(&settings).expect_err(name).to_string();
            assert!(error.contains(&format!("{name:?}")) && !error.contains("hunter2"), "{error}");
            assert!(!format!("{settings:?}").contains("hunter2"));
        }
    }

    #[test]
    fn header_values_are_hidden_from_debug_output() {
        let mut settings = settings("http://collector:4317", Protocol::Grpc);
        settings.headers = [("X-Token".to_string(), "hunter2".to_string())].into();
        let headers = headers(&settings).expect("headers");
        assert_eq!(headers["x-token"], "hunter2");
        assert!(!format!("{headers:?} {settings:?}").contains("hunter2"));
    }
}
