//! Sending: the task that empties the queue.
//!
//! A batch is encoded and compressed once, when it comes in; the queue holds these bytes. The task sends one request at a time,
//! the oldest first, and repeats what OTLP allows to be repeated until it is taken or newer ones push it out. What is refused for
//! its size is sent in halves. Counters are cumulative: a later batch makes up for a lost one, except for the final values of
//! containers that ended, which are in one batch only. That is why the queue is as long as an outage should be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::failure::{Accepted, Retry, SendError, SendErrorKind, chain};
use super::grpc::Grpc;
use super::http::Http;
use super::queue::{QueueLimits, QueueState, QueuedRequest, SharedQueue};
use super::request::{Form, Request};
use super::{Destination, Export, ExportError, Exporter, Payload, Protocol};
use crate::backoff::{Backoff, Pacing};
use crate::rate_limit::times;

pub use super::queue::{Queue, Stats};

/// How long events are not sent to a collector that takes none, in longest waits between attempts: five minutes.
const ASK_AGAIN: u32 = 10;

/// Sends batches in the background.
#[derive(Debug)]
pub struct Shipper {
    /// Bytes of an attribute's value.
    attribute_bytes: usize,
    metrics: Lane,
    /// As [`Queue::logs`].
    logs: Option<Lane>,
}

/// A queue and the task that empties it.
#[derive(Debug)]
struct Lane {
    shared: Arc<SharedQueue>,
    /// `Some(deadline)` once no more batches come.
    closing: watch::Sender<Option<Instant>>,
    task: Option<JoinHandle<()>>,
}

/// Where requests go.
pub(super) enum Sink {
    Grpc(Box<Grpc>),
    Http(Box<Http>),
    Lines(Box<dyn AsyncWrite + Send + Unpin>),
}

impl Shipper {
    /// Checks the settings and starts the task; connects with the first batch. Must be called inside a tokio runtime with
    /// I/O and time.
    ///
    /// # Errors
    /// What a person must correct: the URL, a header, a certificate. A collector that cannot be reached is none.
    pub fn new(settings: &Export) -> Result<Self, ExportError> {
        Self::with_pacing(settings, Pacing::default())
    }

    /// As [`Shipper::new`], with other waits between attempts.
    ///
    /// # Errors
    /// The same.
    pub fn with_pacing(settings: &Export, pacing: Pacing) -> Result<Self, ExportError> {
        if settings.queue == 0 {
            return Err(ExportError::Queue);
        }
        let form = Form::of(settings.exporter, &settings.metrics);
        let sink = match settings.exporter {
            Exporter::None => None,
            Exporter::Stdout => Some(Sink::Lines(Box::new(tokio::io::stdout()))),
            Exporter::Otlp => Some(Sink::new(&settings.metrics, Payload::Metrics)?),
        };
        let logs = match settings.logs.as_ref().filter(|_| settings.exporter == Exporter::Otlp) {
            Some(logs) => Some((Form::of(settings.exporter, logs), Sink::new(logs, Payload::Logs)?)),
            None => None,
        };
        let mut shipper = Self::start(form, sink, settings, pacing);
        shipper.logs = logs.map(|(form, sink)| Lane::start(form, Payload::Logs, Some(sink), QueueLimits::of(settings), pacing));
        Ok(shipper)
    }

    fn start(form: Form, sink: Option<Sink>, settings: &Export, pacing: Pacing) -> Self {
        let metrics = Lane::start(form, Payload::Metrics, sink, QueueLimits::of(settings), pacing);
        Self { attribute_bytes: settings.attribute_bytes, metrics, logs: None }
    }

    /// Where to put batches.
    pub fn queue(&self) -> Queue {
        let shared = |lane: &Lane| Arc::clone(&lane.shared);
        let attribute_bytes = self.attribute_bytes;
        Queue { attribute_bytes, metrics: shared(&self.metrics), logs: self.logs.as_ref().map(shared) }
    }

    /// Tries to send what is queued, for no longer than `within`, and returns the final counts. What is left counts as
    /// dropped.
    ///
    /// A name lookup or a write to stdout that hangs goes on in a thread of the runtime: end that with `shutdown_background`.
    pub async fn shutdown(self, within: Duration) -> Stats {
        let deadline = Instant::now() + within;
        let Self { metrics, logs, .. } = self;
        let logs = async {
            if let Some(logs) = logs {
                logs.shutdown(Payload::Logs, deadline).await;
            }
        };
        let (stats, ()) = tokio::join!(metrics.shutdown(Payload::Metrics, deadline), logs);
        stats
    }
}

impl Lane {
    fn start(form: Form, payload: Payload, sink: Option<Sink>, limits: QueueLimits, pacing: Pacing) -> Self {
        let shared = Arc::new(SharedQueue::new(form, limits));
        let (closing, closed) = watch::channel(None);
        let task = sink.map(|sink| {
            let (shared, target, backoff) = (shared.clone(), sink.target(), Backoff::new(pacing));
            let ask_again = pacing.max * ASK_AGAIN;
            tokio::spawn(Task { payload, shared, sink, target, backoff, ask_again, closed, whole_until: None }.run())
        });
        Self { shared, closing, task }
    }

    async fn shutdown(mut self, payload: Payload, deadline: Instant) -> Stats {
        self.closing.send_replace(Some(deadline));
        if let Some(task) = &mut self.task {
            // Timed out: the task ends when `self` goes.
            let _ = tokio::time::timeout_at(deadline.into(), &mut *task).await;
            task.abort();
        }
        let mut state = self.shared.state();
        let left = state.sending.take().into_iter().chain(std::mem::take(&mut state.waiting)).map(|entry| entry.request.count);
        let (requests, points) = left.fold((0, 0), |(requests, points), count| (requests + 1, points + count));
        state.stats.dropped_requests += requests;
        state.stats.dropped_points += points;
        let stats = state.stats();
        if requests > 0 {
            let error = stats.last_error.as_deref().unwrap_or("export.shutdown_timeout was too short for it");
            warn!(requests, points, "ended with {payload} unsent: {error}");
        }
        stats
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Sink {
    /// A client of an OTLP receiver.
    pub(super) fn new(destination: &Destination, payload: Payload) -> Result<Self, ExportError> {
        if destination.timeout.is_zero() {
            return Err(ExportError::Timeout);
        }
        Ok(match destination.protocol {
            Protocol::Grpc => Self::Grpc(Box::new(Grpc::new(destination, payload)?)),
            Protocol::HttpProtobuf => Self::Http(Box::new(Http::new(destination, payload)?)),
        })
    }

    /// Sends a request without anything in it.
    pub(super) async fn send_nothing(&mut self, destination: &Destination) -> Result<Accepted, SendError> {
        self.send(Form::of(Exporter::Otlp, destination).nothing()).await
    }

    /// For messages: where requests go.
    pub(super) fn target(&self) -> String {
        match self {
            Self::Grpc(grpc) => grpc.target().into(),
            Self::Http(http) => http.target().into(),
            Self::Lines(_) => "stdout".into(),
        }
    }

    async fn send(&mut self, body: Bytes) -> Result<Accepted, SendError> {
        match self {
            Self::Grpc(grpc) => grpc.send(body).await,
            Self::Http(http) => http.send(body).await,
            Self::Lines(out) => {
                let failed = |e| SendError { kind: SendErrorKind::Stdout, reason: chain(&e), retry: Retry::Never };
                out.write_all(&body).await.map_err(failed)?;
                out.flush().await.map_err(failed)?;
                Ok(Accepted::default())
            }
        }
    }
}

/// The task's side.
struct Task {
    payload: Payload,
    shared: Arc<SharedQueue>,
    sink: Sink,
    /// For messages: where to and how.
    target: String,
    backoff: Backoff,
    /// Time after which a collector that takes no logs is asked again.
    ask_again: Duration,
    closed: watch::Receiver<Option<Instant>>,
    /// Until when what is refused for its size is not sent in parts: even the smallest were refused.
    whole_until: Option<Instant>,
}

/// Bytes of a request that is not divided any more: no receiver has such a limit, so one that refuses it for its size refuses
/// every request, and each division would double their number.
const SMALLEST: usize = 16 << 10;

/// How long nothing is divided then.
const REST: Duration = Duration::from_secs(300);

/// When the next attempt may be made.
enum Pause {
    None,
    /// A wait of our own choosing: the end cuts it short.
    Backoff(Duration),
    /// A wait the collector asked for.
    Asked(Duration),
}

impl Task {
    /// Sends until no more batches come and the queue is empty, or no attempt can be made before the deadline.
    async fn run(mut self) {
        while let Some(entry) = self.next().await {
            let outcome = self.sink.send(entry.request.body.clone()).await;
            let pause = self.settle(entry, outcome);
            if !self.wait(pause).await {
                return;
            }
        }
    }

    /// The oldest request, once there is one; `None` when none will come.
    async fn next(&mut self) -> Option<QueuedRequest> {
        loop {
            {
                let mut state = self.shared.state();
                if let Some(entry) = state.waiting.pop_front() {
                    state.sending = Some(entry.clone());
                    return Some(entry);
                }
            }
            if self.closed.borrow_and_update().is_some() {
                return None;
            }
            tokio::select! {
                () = self.shared.arrived.notified() => {}
                changed = self.closed.changed() => changed.ok()?,
            }
        }
    }

    /// Counts and logs the outcome of an attempt.
    fn settle(&mut self, entry: QueuedRequest, outcome: Result<Accepted, SendError>) -> Pause {
        let halves = match &outcome {
            // Before the lock is taken, which the collecting thread may wait for: it takes some ten ms.
            Err(failure) if failure.retry == Retry::Smaller => self.halves(&entry.request),
            _ => Vec::new(),
        };
        let shared = self.shared.clone();
        let mut state = shared.state();
        state.sending = None;
        match outcome {
            Ok(accepted) => {
                self.taken(&mut state, &entry.request, &accepted);
                Pause::None
            }
            Err(failure) if halves.len() > 1 => {
                self.divided(&mut state, &entry, halves, &failure);
                Pause::None
            }
            Err(failure) => self.refused(&mut state, entry, failure),
        }
    }

    /// A request that was refused for its size, in parts that may be taken; fewer than two where it is to be given up.
    fn halves(&mut self, request: &Request) -> Vec<Request> {
        let now = Instant::now();
        if self.whole_until.is_some_and(|until| now < until) {
            return Vec::new();
        }
        if request.size <= SMALLEST {
            self.whole_until = Some(now + REST);
            return Vec::new();
        }
        request.halves(self.shared.form, self.payload)
    }

    /// Puts the parts of a request where it was; the next ones are made so small.
    fn divided(&mut self, state: &mut QueueState, entry: &QueuedRequest, halves: Vec<Request>, failure: &SendError) {
        let size = entry.request.size;
        state.request_bytes = state.request_bytes.min((size / 2).max(SMALLEST));
        state.stats.retries += 1;
        if let Some(silent) = state.log.note(SendErrorKind::Divided, Instant::now()) {
            let (payload, target, reason, bytes) = (self.payload, &self.target, &failure.reason, state.request_bytes);
            let times = times(silent);
            info!(
                "{target} refused {payload} of {size} bytes for their size ({reason}): sent in requests of {bytes} bytes{times}"
            );
        }
        for request in halves.into_iter().rev() {
            state.waiting.push_front(QueuedRequest { request, ..entry.clone() });
        }
        state.drop_oldest();
    }

    fn taken(&mut self, state: &mut QueueState, request: &Request, accepted: &Accepted) {
        let now = Instant::now();
        self.backoff.reset();
        state.stats.sent_requests += 1;
        state.stats.sent_points += request.count;
        state.stats.sent_bytes += request.body.len() as u64;
        state.stats.rejected_points += accepted.rejected;
        state.stats.last_error = None;
        state.failing = None;
        if std::mem::take(&mut state.unwanted_logged) {
            info!("the collector at {} accepts {} now", self.target, self.payload);
        }
        if let Some(down) = state.log.succeeded(now) {
            info!("{} are sent to {} again, after {} s", self.payload, self.target, down.as_secs());
        }
        if *accepted == Accepted::default() {
            return;
        }
        if let Some(silent) = state.log.note(SendErrorKind::Partial, now) {
            let Accepted { rejected, message } = accepted;
            let (target, times, advice) = (&self.target, times(silent), SendErrorKind::Partial.advice());
            warn!("the collector at {target} rejected {rejected} points of an accepted request: {message:?}{times}; {advice}");
        }
    }

    fn refused(&mut self, state: &mut QueueState, entry: QueuedRequest, failure: SendError) -> Pause {
        let (payload, target) = (self.payload, &self.target);
        if payload == Payload::Logs && failure.kind.is_no_such_service() {
            // Many backends take metrics only, and it is no fault of theirs; others start up, or have a route changed.
            if !std::mem::replace(&mut state.unwanted_logged, true) {
                let (reason, minutes) = (failure.reason, self.ask_again.as_secs_f64() / 60.0);
                info!("the collector at {target} does not accept logs ({reason}): X                     {minutes:.0} min");
            }
            state.unwanted_until = Some(Instant::now() + self.ask_again);
            let waiting = state.waiting.drain(..).map(|entry| entry.request.count).sum::<u64>();
            state.stats.dropped_points += entry.request.count + waiting;
            return Pause::None;
        }
        let error = format!("could not send {payload} to {target}: {}; {}", failure.reason, failure.kind.advice());
        if let Some(silent) = state.log.failed(failure.kind, Instant::now()) {
            let Request { count, size, .. } = entry.request;
            match failure.retry {
                Retry::Never | Retry::Smaller => warn!("{error}; {count} points ({size} bytes) are lost{}", times(silent)),
                Retry::Backoff | Retry::After(_) => warn!("{error}; it will be retried{}", times(silent)),
            }
        }
        state.stats.last_error = Some(error);
        state.failing.get_or_insert_with(Instant::now);
        let pause = match failure.retry {
            Retry::Never | Retry::Smaller => {
                if failure.retry == Retry::Smaller && entry.request.size <= SMALLEST {
                    state.request_bytes = state.limits.request_bytes;
                }
                state.stats.failed_requests += 1;
                state.stats.failed_points += entry.request.count;
                return Pause::None;
            }
            Retry::Backoff => Pause::Backoff(self.backoff.wait()),
            Retry::After(asked) => Pause::Asked(self.backoff.wait_as_asked(asked)),
        };
        state.stats.retries += 1;
        state.waiting.push_front(entry);
        state.drop_oldest();
        pause
    }

    /// Waits before the next attempt; false when the deadline comes first.
    async fn wait(&mut self, pause: Pause) -> bool {
        let (wait, ours) = match pause {
            Pause::None => return true,
            Pause::Backoff(wait) => (wait, true),
            Pause::Asked(wait) => (wait, false),
        };
        let until = Instant::now() + wait;
        if self.closed.borrow_and_update().is_none() {
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => return true,
                changed = self.closed.changed() => if changed.is_err() { return false },
            }
            if ours {
                self.backoff.reset();
                return true;
            }
        }
        if self.closed.borrow().is_some_and(|deadline| until >= deadline) {
            return false;
        }
        tokio::time::sleep_until(until.into()).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncBufReadExt;

    use super::*;
    use crate::export::fixtures::{counted, settings};

    #[tokio::test]
    async fn every_batch_is_one_line_on_stdout() {
        let (out, read) = tokio::io::duplex(64);
        let sink = Some(Sink::Lines(Box::new(out)));
        let shipper = Shipper::start(Form::Line, sink, &settings("", Protocol::Grpc), Pacing::default());
        for second in 1..=3 {
            shipper.queue().enqueue(&counted(second));
        }
        let mut lines = tokio::io::BufReader::new(read).lines();
        for second in 1..=3 {
            let line = lines.next_line().await.expect("readable").expect("a line");
            let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            let point = &json["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["sum"]["dataPoints"][0];
            assert_eq!(point["asDouble"], f64::from(second));
        }
        assert_eq!(shipper.shutdown(Duration::from_secs(10)).await.sent_requests, 3);
    }

    #[tokio::test]
    async fn a_reader_of_stdout_that_went_away_is_counted() {
        let (out, read) = tokio::io::duplex(64);
        drop(read);
        let sink = Some(Sink::Lines(Box::new(out)));
        let shipper = Shipper::start(Form::Line, sink, &settings("", Protocol::Grpc), Pacing::default());
        shipper.queue().enqueue(&counted(1));
        let stats = shipper.shutdown(Duration::from_secs(10)).await;
        assert_eq!((stats.failed_requests, stats.sent_requests), (1, 0));
        let error = stats.last_error.expect("an error");
        assert!(error.starts_with("could not send metrics to stdout: broken pipe"), "{error}");
    }
}
