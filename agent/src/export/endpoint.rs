//! The collector's address, checked at start.

use std::path::PathBuf;

use hyper::http::uri::{Authority, InvalidUriParts, Parts, PathAndQuery, Scheme, Uri};

use super::{Destination, ExportError, OtlpService, Protocol};
use crate::connect::proxy::{self, Proxy};
use crate::url::{shown, socket};

/// The path of a service's method with OTLP/gRPC.
const fn grpc_method(service: OtlpService) -> &'static str {
    match service {
        OtlpService::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        OtlpService::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        OtlpService::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    }
}

/// Where requests go.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    /// What every request is sent to, path included.
    pub(super) uri: Uri,
    /// True for TLS.
    pub(super) tls: bool,
    /// What leads there.
    pub(super) proxy: Option<Proxy>,
    /// The file of the Unix socket that is connected to instead of the URI's host.
    pub(super) socket: Option<PathBuf>,
    /// For messages: the endpoint as people wrote it, without credentials and query, the protocol and the proxy.
    pub(super) shown: String,
}

impl Endpoint {
    /// Checks a destination of such requests.
    pub(super) fn new(destination: &Destination, service: OtlpService) -> Result<Self, ExportError> {
        let given = destination.endpoint.as_str();
        if let Some(path) = socket(given) {
            let method = match (destination.protocol, service) {
                (Protocol::Grpc, service) => grpc_method(service),
                (Protocol::HttpProtobuf, service) => service.path(),
            };
            let mut parts = Parts::default();
            parts.scheme = Some(Scheme::HTTP);
            parts.authority = Some(Authority::from_static("localhost"));
            parts.path_and_query = Some(PathAndQuery::from_static(method));
            let wrong = |error: InvalidUriParts| ExportError::Endpoint { endpoint: shown(given), reason: error.to_string() };
            let shown = format!("{} over {}", shown(given), destination.protocol);
            let uri = Uri::from_parts(parts).map_err(wrong)?;
            return Ok(Self { uri, tls: false, proxy: None, socket: Some(path.to_owned()), shown });
        }
        let wrong = |reason: &str| ExportError::Endpoint { endpoint: shown(given), reason: reason.into() };
        let example = match destination.protocol {
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
        if destination.protocol == Protocol::Grpc {
            if parts.path_and_query.as_ref().is_some_and(|p| p.as_str() != "/") {
                return Err(wrong("gRPC takes no path; leave it out, or set the protocol to http/protobuf"));
            }
            parts.path_and_query = Some(PathAndQuery::from_static(grpc_method(service)));
        }
        let uri = Uri::from_parts(parts).map_err(|e| wrong(&e.to_string()))?;
        let proxy = proxy::from_environment(&destination.proxies, &uri)?;
        let by = proxy.as_ref().map(|proxy| format!(" by the proxy {proxy}")).unwrap_or_default();
        Ok(Self { uri, tls, proxy, socket: None, shown: format!("{} over {}{by}", shown(given), destination.protocol) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::fixtures::destination;

    #[test]
    fn endpoints_become_the_address_of_the_request() {
        use Protocol::{Grpc, HttpProtobuf};
        let cases = [
            ("http://collector:4317", Grpc, false, format!("http://collector:4317{}", grpc_method(OtlpService::Metrics))),
            ("https://10.0.0.1/", Grpc, true, format!("https://10.0.0.1{}", grpc_method(OtlpService::Metrics))),
            (" http://[::1]:4317 ", Grpc, false, format!("http://[::1]:4317{}", grpc_method(OtlpService::Metrics))),
            ("http://collector:4318/v1/metrics", HttpProtobuf, false, "http://collector:4318/v1/metrics".into()),
            ("unix:///run/otel.sock", HttpProtobuf, false, "http://localhost/v1/metrics".into()),
            ("unix:/run/otel.sock", Grpc, false, format!("http://localhost{}", grpc_method(OtlpService::Metrics))),
            ("https://otlp.example/a/b?key=1", HttpProtobuf, true, "https://otlp.example/a/b?key=1".into()),
        ];
        for (given, protocol, tls, want) in cases {
            let endpoint = Endpoint::new(&destination(given, protocol), OtlpService::Metrics).expect(given);
            assert_eq!((endpoint.tls, endpoint.uri.to_string()), (tls, want));
        }
    }

    #[test]
    fn events_have_a_method_and_an_address_of_their_own() {
        let grpc = destination("http://logs:4317", Protocol::Grpc);
        let endpoint = Endpoint::new(&grpc, OtlpService::Logs).expect("a URL");
        assert_eq!(endpoint.uri.to_string(), "http://logs:4317/opentelemetry.proto.collector.logs.v1.LogsService/Export");
        let http = destination("http://logs:4318/v1/logs", Protocol::HttpProtobuf);
        let endpoint = Endpoint::new(&http, OtlpService::Logs).expect("a URL");
        assert_eq!(endpoint.uri.to_string(), "http://logs:4318/v1/logs");
    }

    #[test]
    fn an_endpoint_nothing_can_be_sent_to_is_an_error_that_says_why_and_shows_no_secret() {
        use Protocol::{Grpc, HttpProtobuf};
        let cases = [
            ("", Grpc, "could not use the OTLP endpoint \"\""),
            ("collector:4317", Grpc, "does not begin with http:// or https://"),
            ("grpc://collector:4317", Grpc, "does not begin with http:// or https://"),
            ("http://", HttpProtobuf, "could not use the OTLP endpoint"),
            ("http://collector:99999", Grpc, "port"),
            ("http://collector:", Grpc, "port"),
            ("http://collector:4318/v1/metrics", Grpc, "set the protocol to http/protobuf"),
            ("https://me:hunter2@collector:4317", Grpc, "give them as a header"),
            ("https://me:hunter2@coll ector:4317", Grpc, "could not use"),
            ("ftp://collector/?key=hunter2", HttpProtobuf, "does not begin with"),
        ];
        for (given, protocol, want) in cases {
            let error = Endpoint::new(&destination(given, protocol), OtlpService::Metrics).expect_err(given).to_string();
            assert!(error.contains(want), "{given:?}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
