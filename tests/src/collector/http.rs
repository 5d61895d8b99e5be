//! OTLP over HTTP.

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use hyper::{Request, Response};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use prost::Message;
use tonic::body::Body;

use super::state::{Answer, Call, CollectorState, Protocol};
use crate::watched::Watched;

/// Where logs are taken over HTTP.
pub(super) const LOGS_PATH: &str = "/v1/logs";

/// Where traces are.
pub(super) const TRACES_PATH: &str = "/v1/traces";

/// Answers a request.
pub(super) async fn answer(request: Request<Incoming>, call: Call, shared: &Arc<Watched<CollectorState>>) -> Response<Body> {
    let refuse =
        |status: u16, why: String| body(Response::builder().status(status).header(CONTENT_TYPE, "text/plain"), why.into());
    if !["/v1/metrics", LOGS_PATH, TRACES_PATH].contains(&request.uri().path()) {
        return refuse(404, format!("nothing at {}", request.uri().path()));
    }
    if request.method() != hyper::Method::POST {
        return refuse(405, format!("{} is not allowed", request.method()));
    }
    if !matches!(call.answer, Answer::Accept | Answer::Partial { .. }) {
        return refuse(500, "the fake collector refuses".into());
    }
    let (head, incoming) = request.into_parts();
    let Ok(collected) = incoming.collect().await else { return refuse(400, "the request breaks off".into()) };
    let plain = match plain_body(&head.headers, &collected.to_bytes()) {
        Ok(plain) if shared.get().limit.is_some_and(|limit| plain.len() > limit) => {
            return refuse(413, "http: request body too large\n".into());
        }
        Ok(plain) => plain,
        Err(error) => return refuse(400, format!("{error:#}")),
    };
    let taken = if call.path == LOGS_PATH {
        ExportLogsServiceRequest::decode(&plain[..]).map(|logs| {
            shared.change(|state| state.logs.push(logs));
            ExportLogsServiceResponse::default().encode_to_vec()
        })
    } else if call.path == TRACES_PATH {
        ExportTraceServiceRequest::decode(&plain[..]).map(|traces| {
            shared.change(|state| state.traces.push(traces));
            ExportTraceServiceResponse::default().encode_to_vec()
        })
    } else {
        ExportMetricsServiceRequest::decode(&plain[..])
            .map(|metrics| shared.change(|state| state.take(call, metrics, Protocol::Http)).encode_to_vec())
    };
    let reply = match taken {
        Ok(reply) => reply,
        Err(error) => return refuse(400, format!("the body is not OTLP: {error}")),
    };
    let response = Response::builder().header(CONTENT_TYPE, "application/x-protobuf");
    let takes_gzip = head.headers.get(ACCEPT_ENCODING).is_some_and(|v| v.as_bytes().windows(4).any(|w| w == b"gzip"));
    if !takes_gzip || shared.get().plain_replies {
        return body(response, reply.into());
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing into a Vec does not fail.
    let _ = encoder.write_all(&reply);
    body(response.header(CONTENT_ENCODING, "gzip"), encoder.finish().unwrap_or_default().into())
}

/// A whole response.
pub(super) fn body(response: hyper::http::response::Builder, bytes: Bytes) -> Response<Body> {
    response.body(Body::new(Full::new(bytes))).unwrap_or_default()
}

/// The body of a request, uncompressed.
fn plain_body(headers: &HeaderMap, bytes: &Bytes) -> Result<Bytes> {
    let header = |name| headers.get(name).map(|value: &hyper::header::HeaderValue| value.as_bytes());
    if header(CONTENT_TYPE) != Some(b"application/x-protobuf") {
        bail!("the content type is not application/x-protobuf");
    }
    match header(CONTENT_ENCODING) {
        None => Ok(bytes.clone()),
        Some(b"gzip") => {
            let mut plain = Vec::new();
            std::io::Read::read_to_end(&mut GzDecoder::new(&bytes[..]), &mut plain).context("the body is not gzip")?;
            Ok(plain.into())
        }
        Some(other) => bail!("unknown content encoding {:?}", String::from_utf8_lossy(other)),
    }
}
