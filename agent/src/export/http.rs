//! OTLP over HTTP with protobuf bodies.

use std::time::SystemTime;

use bytes::Bytes;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use hyper::{HeaderMap, Version};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use prost::Message;

use super::client::Wire;
use super::compress::gunzip;
use super::failure::{Accepted, Retry, SendError, SendErrorKind, one_line, says_too_large};
use super::link::{REPLY_LIMIT, Reply};
use super::{Compression, Destination};
use crate::backoff::retry_after;

const PROTOBUF: &str = "application/x-protobuf";

/// OTLP/HTTP with protobuf bodies.
pub(super) const WIRE: Wire = Wire { version: Version::HTTP_11, headers, outcome };

fn headers(destination: &Destination) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers =
        vec![(CONTENT_TYPE, HeaderValue::from_static(PROTOBUF)), (ACCEPT_ENCODING, HeaderValue::from_static("gzip"))];
    if destination.compression == Compression::Gzip {
        headers.push((CONTENT_ENCODING, HeaderValue::from_static("gzip")));
    }
    headers
}

fn outcome(reply: &Reply) -> Result<Accepted, SendError> {
    if reply.status.is_success() {
        // A reply that cannot be read changes nothing: the collector has taken the request.
        let response =
            if is_protobuf(reply) { ExportMetricsServiceResponse::decode(plain(reply).as_ref()) } else { Ok(Default::default()) };
        return Ok(response.map(Accepted::from).unwrap_or_default());
    }
    let (status, reason) = (reply.status.as_u16(), reason(reply));
    if status == 413 || status == 400 && says_too_large(&reason) {
        return Err(SendError { kind: SendErrorKind::TooLarge, reason, retry: Retry::Smaller });
    }
    let retry = match status {
        429 | 502..=504 => text(&reply.headers, RETRY_AFTER)
            .and_then(|value| retry_after(value, SystemTime::now()))
            .map_or(Retry::Backoff, Retry::After),
        _ => Retry::Never,
    };
    Err(SendError { kind: SendErrorKind::Http(status), reason, retry })
}

/// The status and the reply's text: that of a `google.rpc.Status`, or its beginning.
fn reason(reply: &Reply) -> String {
    let body = plain(reply);
    let said = if is_protobuf(reply) {
        tonic_types::pb::Status::decode(body.as_ref()).map(|status| status.message).unwrap_or_default()
    } else if reply.status.is_redirection() {
        // The query may hold a key.
        let location = text(&reply.headers, LOCATION).unwrap_or_default();
        format!("it redirects to {}", crate::url::shown(location))
    } else {
        String::from_utf8_lossy(&body).into_owned()
    };
    let said = one_line(&said);
    if said.is_empty() { format!("HTTP status {}", reply.status) } else { format!("HTTP status {}: {said}", reply.status) }
}

fn is_protobuf(reply: &Reply) -> bool {
    text(&reply.headers, CONTENT_TYPE).is_some_and(|value| value.starts_with(PROTOBUF))
}

/// The body, uncompressed; empty when it cannot be.
fn plain(reply: &Reply) -> Bytes {
    match text(&reply.headers, CONTENT_ENCODING) {
        Some(encoding) if encoding.eq_ignore_ascii_case("gzip") => {
            gunzip(&reply.body, REPLY_LIMIT).map(Bytes::from).unwrap_or_default()
        }
        _ => reply.body.clone(),
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::StatusCode;

    use super::*;
    use crate::export::compress::gzip;

    fn reply(status: u16, headers: &[(&'static str, &'static str)], body: &[u8]) -> Reply {
        let headers = headers.iter().map(|(k, v)| ((*k).parse().expect("name"), HeaderValue::from_static(v))).collect();
        let status = StatusCode::from_u16(status).expect("a status");
        Reply { status, headers, body: Bytes::copy_from_slice(body), trailers: HeaderMap::new() }
    }

    #[test]
    fn a_status_is_retried_as_the_otlp_specification_says() {
        for status in (300..600).filter(|status| *status != 413) {
            let want = if [429, 502, 503, 504].contains(&status) { Retry::Backoff } else { Retry::Never };
            let failure = outcome(&reply(status, &[], b"")).expect_err("not 2xx");
            assert_eq!((failure.kind, failure.retry), (SendErrorKind::Http(status), want));
            let asked = outcome(&reply(status, &[("retry-after", "7")], b"")).expect_err("not 2xx").retry;
            let want = if want == Retry::Never { want } else { Retry::After(Duration::from_secs(7)) };
            assert_eq!(asked, want, "{status}");
        }
    }

    #[test]
    fn what_is_refused_for_its_size_is_sent_smaller() {
        let of = |status, body: &[u8]| {
            let failure = outcome(&reply(status, &[], body)).expect_err("not 2xx");
            (failure.kind, failure.retry)
        };
        assert_eq!(of(413, b""), (SendErrorKind::TooLarge, Retry::Smaller));
        assert_eq!(of(400, b"http: request body too large"), (SendErrorKind::TooLarge, Retry::Smaller));
        assert_eq!(of(400, b"no such tenant"), (SendErrorKind::Http(400), Retry::Never));
        assert_eq!(of(503, b"queue too large"), (SendErrorKind::Http(503), Retry::Backoff));
    }

    #[test]
    fn the_reason_is_taken_from_whatever_the_reply_says() {
        let status = tonic_types::pb::Status { code: 3, message: "no such tenant".into(), details: vec![] }.encode_to_vec();
        let cases = [
            (reply(400, &[("content-type", PROTOBUF)], &status), "HTTP status 400 Bad Request: no such tenant"),
            (
                reply(400, &[("content-type", PROTOBUF), ("content-encoding", "gzip")], &gzip(&status)),
                "HTTP status 400 Bad Request: no such tenant",
            ),
            (reply(404, &[("content-type", "text/plain")], b"page\nnot found\n"), "HTTP status 404 Not Found: page not found"),
            (reply(500, &[], b"\xff\x00"), "HTTP status 500 Internal Server Error: \u{fffd}"),
            (reply(502, &[("content-encoding", "gzip")], b"not gzip"), "HTTP status 502 Bad Gateway"),
            (
                reply(307, &[("location", "https://other/v1/metrics?key=hunter2")], b""),
                "HTTP status 307 Temporary Redirect: it redirects to https://other/v1/metrics",
            ),
        ];
        for (reply, want) in cases {
            assert_eq!(outcome(&reply).expect_err("not 2xx").reason, want);
        }
    }

    #[test]
    fn a_success_is_one_whatever_its_body() {
        for reply in [
            reply(200, &[], b""),
            reply(204, &[], b""),
            reply(200, &[("content-type", "application/json")], b"{}"),
            reply(200, &[("content-type", PROTOBUF)], b"\xff"),
            reply(200, &[("content-type", PROTOBUF), ("content-encoding", "gzip")], b"not gzip"),
        ] {
            assert_eq!(outcome(&reply), Ok(Accepted::default()), "{reply:?}");
        }
    }
}
