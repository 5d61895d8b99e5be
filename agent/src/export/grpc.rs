//! OTLP over gRPC.
//!
//! One unary method with one small reply. The queue keeps requests compressed and framed, and a generated client would take
//! messages and compress them anew at every attempt. So HTTP/2 and the reading of statuses are left to hyper and tonic, and
//! no generated client is used.

use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, TE};
use hyper::{StatusCode, Version};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use prost::Message;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::client::Wire;
use super::compress::gunzip;
use super::failure::{Accepted, Retry, SendError, SendErrorKind, one_line, says_too_large};
use super::link::{REPLY_LIMIT, Reply};
use super::{Compression, Destination};

/// OTLP/gRPC.
pub(super) const WIRE: Wire = Wire { version: Version::HTTP_2, headers, outcome };

fn headers(destination: &Destination) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = vec![
        (CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
        (TE, HeaderValue::from_static("trailers")),
        (HeaderName::from_static("grpc-accept-encoding"), HeaderValue::from_static("gzip,identity")),
    ];
    if destination.compression == Compression::Gzip {
        headers.push((HeaderName::from_static("grpc-encoding"), HeaderValue::from_static("gzip")));
    }
    if let Ok(timeout) = HeaderValue::from_str(&grpc_timeout(destination.timeout)) {
        headers.push((HeaderName::from_static("grpc-timeout"), timeout));
    }
    headers
}

/// A duration as gRPC writes it: at most eight digits and a unit.
fn grpc_timeout(timeout: std::time::Duration) -> String {
    match timeout.as_millis() {
        ms @ 0..=99_999_999 => format!("{}m", ms.max(1)),
        ms => format!("{}S", (ms / 1000).min(99_999_999)),
    }
}

fn outcome(reply: &Reply) -> Result<Accepted, SendError> {
    // A refusal may come in the headers alone.
    let status = Status::from_header_map(&reply.trailers).or_else(|| Status::from_header_map(&reply.headers));
    let status = status.unwrap_or_else(|| no_status(reply.status));
    if status.code() == Code::Ok {
        return Ok(accepted(reply));
    }
    let retry = retry(&status);
    Err(SendError {
        kind: if retry == Retry::Smaller { SendErrorKind::TooLarge } else { SendErrorKind::Grpc(status.code()) },
        reason: one_line(&format!("{}: {}", name(status.code()), status.message())),
        retry,
    })
}

/// The OTLP specification's table of retryable codes; a receiver out of resources must give a time to retry. What is refused
/// for its size would be for ever, whatever the code: RESOURCE_EXHAUSTED of most, OUT_OF_RANGE of tonic, INTERNAL of older ones,
/// UNKNOWN of a proxy's 413.
fn retry(status: &Status) -> Retry {
    let asked = status.get_details_retry_info();
    let delay = asked.as_ref().and_then(|info| info.retry_delay);
    match status.code() {
        Code::ResourceExhausted | Code::OutOfRange | Code::Internal | Code::Unknown | Code::InvalidArgument
            if asked.is_none() && says_too_large(status.message()) =>
        {
            Retry::Smaller
        }
        Code::ResourceExhausted if asked.is_none() => Retry::Never,
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss
        | Code::ResourceExhausted => delay.map_or(Retry::Backoff, Retry::After),
        _ => Retry::Never,
    }
}

/// The status of a reply without one, by the gRPC specification's mapping of HTTP statuses: it comes from a proxy.
fn no_status(status: StatusCode) -> Status {
    let code = match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502..=504 => Code::Unavailable,
        _ => Code::Unknown,
    };
    Status::new(code, format!("the reply is not gRPC's (HTTP status {status})"))
}

/// The outcome of an OK. A reply that cannot be read changes nothing: the receiver has accepted the request.
fn accepted(reply: &Reply) -> Accepted {
    let message = match reply.body.split_first_chunk::<5>() {
        Some(([1, ..], gzipped)) => gunzip(gzipped, REPLY_LIMIT).unwrap_or_default(),
        Some((_, message)) => message.to_vec(),
        None => Vec::new(),
    };
    ExportMetricsServiceResponse::decode(&message[..]).map(Accepted::from).unwrap_or_default()
}

/// The reply to logs is the same on the wire: a partial success with a number rejected and a message.
impl From<ExportMetricsServiceResponse> for Accepted {
    fn from(response: ExportMetricsServiceResponse) -> Self {
        let partial = response.partial_success.unwrap_or_default();
        Self { rejected: u64::try_from(partial.rejected_data_points).unwrap_or(0), message: one_line(&partial.error_message) }
    }
}

/// A code as the gRPC and OTLP specifications spell it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use hyper::HeaderMap;
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_code_is_retried_as_the_otlp_specification_says() {
        use Code::*;
        let retryable = [Cancelled, DeadlineExceeded, Aborted, OutOfRange, Unavailable, DataLoss];
        for code in (1..=16).map(Code::from_i32) {
            let plain = if retryable.contains(&code) { Retry::Backoff } else { Retry::Never };
            assert_eq!(retry(&Status::new(code, "")), plain, "{code:?}");
            let asked = |delay| Status::with_error_details(code, "", ErrorDetails::with_retry_info(delay));
            let throttled = retryable.contains(&code) || code == ResourceExhausted;
            let want = |retry| if throttled { retry } else { Retry::Never };
            let delay = Duration::from_millis(1500);
            assert_eq!(retry(&asked(Some(delay))), want(Retry::After(delay)), "{code:?}");
            assert_eq!(retry(&asked(None)), want(Retry::Backoff), "{code:?}");
        }
    }

    #[test]
    fn what_is_refused_for_its_size_is_sent_smaller_unless_a_time_is_named_to_send_it_again() {
        let message = "grpc: received message after decompression larger than max 4194304";
        for code in [Code::ResourceExhausted, Code::OutOfRange, Code::Internal, Code::Unknown] {
            assert_eq!(retry(&Status::new(code, message)), Retry::Smaller, "{code:?}");
        }
        assert_eq!(retry(&Status::new(Code::Unavailable, message)), Retry::Backoff);
        let delay = Duration::from_secs(1);
        let asked = Status::with_error_details(Code::ResourceExhausted, message, ErrorDetails::with_retry_info(Some(delay)));
        assert_eq!(retry(&asked), Retry::After(delay));
    }

    #[test]
    fn a_reply_without_a_grpc_status_is_judged_by_its_http_status() {
        for (http, code, want) in [
            (200, Code::Unknown, Retry::Never),
            (401, Code::Unauthenticated, Retry::Never),
            (404, Code::Unimplemented, Retry::Never),
            (503, Code::Unavailable, Retry::Backoff),
            (413, Code::Unknown, Retry::Smaller),
        ] {
            let status = StatusCode::from_u16(http).expect("a status");
            let reply = Reply { status, headers: HeaderMap::new(), body: Bytes::new(), trailers: HeaderMap::new() };
            let failure = outcome(&reply).expect_err("no status");
            let kind = if want == Retry::Smaller { SendErrorKind::TooLarge } else { SendErrorKind::Grpc(code) };
            assert_eq!((failure.kind, failure.retry), (kind, want), "{http}");
            assert!(failure.reason.contains(&http.to_string()), "{}", failure.reason);
        }
    }

    #[test]
    fn a_timeout_has_at_most_eight_digits() {
        for (timeout, want) in [
            (Duration::from_micros(10), "1m"),
            (Duration::from_secs(10), "10000m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::MAX, "99999999S"),
        ] {
            assert_eq!(grpc_timeout(timeout), want);
        }
    }
}
