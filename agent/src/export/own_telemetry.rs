//! podmeter's own spans and log lines. OpenTelemetry's SDK makes requests of them; they go out as those with metrics do: over gRPC or HTTP, by
//! the same TLS, proxies, sockets and headers from files.

use std::fmt;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use hyper::header::RETRY_AFTER;
use hyper::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{ExporterBuildError, LogExporter, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use tokio::{runtime::Handle, sync::Mutex};
use tracing::{info, warn};

use super::failure::{Retry, SendError, SendErrorKind};
use super::request::Form;
use super::sink::Sink;
use super::{Destination, ExportError, Exporter, OtlpService};
use crate::failure_log::FailureLog;
use crate::rate_limit::times;

/// At most one line per kind of trouble in this time.
const QUIET: Duration = Duration::from_secs(300);

/// An exporter of spans that sends on `runtime`.
///
/// # Errors
/// What a person must correct: the URL, a header, a certificate.
pub fn spans(destination: &Destination, runtime: &Handle) -> Result<SpanExporter, ExportError> {
    let carrier = Carrier::new(destination, OtlpService::Traces, runtime)?;
    let exporter =
        SpanExporter::builder().with_http().with_http_client(carrier).with_endpoint(AS_GIVEN).with_protocol(Protocol::HttpBinary);
    exporter.with_timeout(destination.timeout).build().map_err(|error| refused(&error))
}

/// An exporter of log records that sends on `runtime`.
///
/// # Errors
/// As [`spans`].
pub fn logs(destination: &Destination, runtime: &Handle) -> Result<LogExporter, ExportError> {
    let carrier = Carrier::new(destination, OtlpService::Logs, runtime)?;
    let exporter =
        LogExporter::builder().with_http().with_http_client(carrier).with_endpoint(AS_GIVEN).with_protocol(Protocol::HttpBinary);
    exporter.with_timeout(destination.timeout).build().map_err(|error| refused(&error))
}

/// An address for the SDK, which must have one. The carrier has its own.
const AS_GIVEN: &str = "http://localhost";

fn refused(error: &ExporterBuildError) -> ExportError {
    ExportError::Sdk { reason: error.to_string() }
}

/// Carries the SDK's requests.
struct Carrier {
    /// One request at a time. It is spawned on the runtime: the SDK waits in threads of its own.
    sink: Arc<Mutex<Sink>>,
    runtime: Handle,
    form: Form,
    service: OtlpService,
    target: String,
    log: StdMutex<FailureLog<SendErrorKind>>,
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carrier").field("service", &self.service).field("target", &self.target).finish_non_exhaustive()
    }
}

impl Carrier {
    fn new(destination: &Destination, service: OtlpService, runtime: &Handle) -> Result<Self, ExportError> {
        let sink = Sink::new(destination, service)?;
        Ok(Self {
            target: sink.target(),
            sink: Arc::new(Mutex::new(sink)),
            runtime: runtime.clone(),
            form: Form::of(Exporter::Otlp, destination),
            service,
            log: StdMutex::new(FailureLog::new(1, QUIET)),
        })
    }

    /// What is logged of an outcome: what repeats, a few times.
    fn note(&self, failure: Option<&SendError>) {
        // Counts stay usable whoever panicked.
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let what = match self.service {
            OtlpService::Logs => "podmeter's own log lines",
            OtlpService::Traces | OtlpService::Metrics => "podmeter's own traces",
        };
        let (target, now) = (&self.target, Instant::now());
        match failure {
            None => {
                if let Some(down) = log.succeeded(now) {
                    info!("{what} are sent to {target} again, after {} s", down.as_secs());
                }
            }
            Some(failure) => {
                if let Some(silent) = log.failed(failure.kind, now) {
                    let (reason, advice, times) = (&failure.reason, failure.kind.advice(), times(silent));
                    warn!(
                        "could not send {what} to {target}: {reason}; {advice}; what is not taken after some attempts is lost{times}"
                    );
                }
            }
        }
    }
}

#[async_trait]
impl HttpClient for Carrier {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // Never compressed by the SDK, which is built without that.
        let (sink, body) = (Arc::clone(&self.sink), self.form.body(request.body()));
        let outcome = self.runtime.spawn(async move { sink.lock().await.send(body).await }).await?;
        self.note(outcome.as_ref().err());
        let Err(failure) = outcome else { return Ok(Response::new(Bytes::new())) };
        let reply = match failure.retry {
            Retry::Never => Response::builder().status(400),
            Retry::Smaller => Response::builder().status(413),
            Retry::Backoff => Response::builder().status(503),
            Retry::After(wait) => Response::builder().status(503).header(RETRY_AFTER, wait.as_secs().to_string()),
        };
        Ok(reply.body(Bytes::from(failure.reason))?)
    }
}
