//! What the collector keeps: the requests that it took, and what it answers with next.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

use super::Options;

/// The requests of one export arrive within this of each other, and exports are further apart where they are counted.
const ONE_EXPORT: Duration = Duration::from_secs(2);

/// What a request is answered with.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Taken.
    Accept,
    /// Taken, and answered after this long.
    Late(Duration),
    /// Taken but for some points, or with a warning when `rejected` is 0.
    Partial {
        /// Points rejected.
        rejected: i64,
        /// The message about them.
        message: String,
    },
    /// Refused with a gRPC code. A request over HTTP is answered with status 500.
    Grpc {
        /// The code.
        code: tonic::Code,
        /// `RetryInfo` in the status' details.
        retry_info: Option<Duration>,
    },
    /// Refused with an HTTP status, also over gRPC, as a proxy does.
    Http {
        /// The status.
        status: u16,
        /// The `Retry-After` header.
        retry_after: Option<String>,
    },
    /// Never answered; new connections are accepted and nothing is ever read from them.
    Stall,
    /// The connection is reset (RST) after the request's headers.
    Reset,
}

impl Answer {
    /// Whether the data of such a request is kept.
    fn takes(&self) -> bool {
        matches!(self, Self::Accept | Self::Late(_) | Self::Partial { .. })
    }
}

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// HTTP with a protobuf body.
    Http,
}

/// A request that was taken.
#[derive(Clone, Debug)]
pub struct Received {
    /// What it carried.
    pub request: ExportMetricsServiceRequest,
    /// How it came.
    pub protocol: Protocol,
    /// Its path.
    pub path: String,
    /// Its headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// `grpc-encoding` or `content-encoding`.
    pub content_encoding: Option<String>,
    /// When it was complete.
    pub at: Instant,
}

/// Facts of a request that tonic does not hand on, and the answer it is to get.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) path: String,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) answer: Answer,
}

#[derive(Debug)]
pub(super) struct CollectorState {
    pub(super) plain_replies: bool,
    pub(super) limit: Option<usize>,
    pub(super) forgets: bool,
    pub(super) script: VecDeque<Answer>,
    pub(super) standing: Answer,
    pub(super) received: Vec<Received>,
    /// What requests with logs are answered with: the script is for metrics.
    pub(super) logs_answer: Answer,
    pub(super) logs: Vec<ExportLogsServiceRequest>,
    pub(super) logs_headers: Vec<BTreeMap<String, String>>,
    pub(super) log_attempts: usize,
    pub(super) traces: Vec<ExportTraceServiceRequest>,
    pub(super) attempts: usize,
    /// Groups of requests with metrics that arrived within [`ONE_EXPORT`] of each other, and when the last of all did.
    pub(super) exports: usize,
    pub(super) last_attempt: Option<Instant>,
    pub(super) connections: usize,
}

impl CollectorState {
    /// It accepts everything and has seen nothing yet.
    pub(super) fn new(options: &Options) -> Self {
        Self {
            plain_replies: options.plain_replies,
            limit: options.limit,
            forgets: options.forgets,
            script: VecDeque::new(),
            standing: Answer::Accept,
            received: Vec::new(),
            logs_answer: Answer::Accept,
            logs: Vec::new(),
            logs_headers: Vec::new(),
            log_attempts: 0,
            traces: Vec::new(),
            attempts: 0,
            exports: 0,
            last_attempt: None,
            connections: 0,
        }
    }

    /// The answer to a request that has just begun.
    pub(super) fn answer(&mut self) -> Answer {
        self.attempts += 1;
        let now = Instant::now();
        self.exports += usize::from(self.last_attempt.is_none_or(|last| now - last > ONE_EXPORT));
        self.last_attempt = Some(now);
        self.script.pop_front().unwrap_or_else(|| self.standing.clone())
    }

    /// The answer to a request with logs that has just begun.
    pub(super) fn answer_to_logs(&mut self, headers: BTreeMap<String, String>) -> Answer {
        self.logs_headers.push(headers);
        self.log_attempts += 1;
        self.logs_answer.clone()
    }

    /// Refuses a message that is larger than the limit, as grpc-go does.
    pub(super) fn limited(&self, message: &impl Message) -> Result<(), tonic::Status> {
        match self.limit.filter(|limit| message.encoded_len() > *limit) {
            Some(limit) => {
                let why = format!("grpc: received message after decompression larger than max {limit}");
                Err(tonic::Status::resource_exhausted(why))
            }
            None => Ok(()),
        }
    }

    /// Whether a connection made now is to be left unread.
    pub(super) fn stalls(&mut self) -> bool {
        self.connections += 1;
        *self.script.front().unwrap_or(&self.standing) == Answer::Stall
    }

    /// Keeps a request if its answer takes it; the answer's body.
    pub(super) fn take(
        &mut self,
        call: Call,
        request: ExportMetricsServiceRequest,
        protocol: Protocol,
    ) -> ExportMetricsServiceResponse {
        let encoding = match protocol {
            Protocol::Grpc => "grpc-encoding",
            Protocol::Http => "content-encoding",
        };
        let content_encoding = call.headers.get(encoding).cloned();
        if call.answer.takes() && !self.forgets {
            let Call { path, headers, .. } = call;
            let received = Received { request, protocol, path, headers, content_encoding, at: Instant::now() };
            self.received.push(received);
        }
        let partial_success = match call.answer {
            Answer::Partial { rejected, message } => {
                Some(ExportMetricsPartialSuccess { rejected_data_points: rejected, error_message: message })
            }
            _ => None,
        };
        ExportMetricsServiceResponse { partial_success }
    }
}
