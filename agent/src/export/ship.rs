//! Sending: a bounded queue and the task that empties it.
//!
//! A batch is encoded and compressed once, when it comes in; the queue holds these bytes. The task sends one batch at a time,
//! the oldest first, and repeats what OTLP allows to be repeated until it is taken or newer batches push it out. Counters are
//! cumulative: a later batch makes up for a lost one, except for the last words of containers that ended, which are in one
//! batch only. That is why the queue is as long as an outage should be.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::failure::{Accepted, Failure, Kind, Log, Retry, chain};
use super::grpc::{self, Grpc};
use super::http::{self, Http};
use super::{Compression, ExportError, Exporter, Payload, Protocol, Settings, encode, logs};
use crate::aggregate::Batch;
use crate::backoff::{Backoff, Pacing};
use crate::rate_limit::times;

/// Sends batches in the background.
#[derive(Debug)]
pub struct Shipper {
    form: Form,
    metrics: Lane,
    /// Where events go, unless they share the metrics' way (stdout) or nothing takes them.
    logs: Option<Lane>,
}

/// Where batches go in, from any thread.
#[derive(Clone, Debug)]
pub struct Queue {
    form: Form,
    metrics: Arc<Shared>,
    /// As [`Shipper::logs`].
    logs: Option<Arc<Shared>>,
}

/// A queue and the task that empties it.
#[derive(Debug)]
struct Lane {
    shared: Arc<Shared>,
    /// `Some(deadline)` once no more batches come.
    closing: watch::Sender<Option<Instant>>,
    task: Option<JoinHandle<()>>,
}

/// What became of the batches so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Batches the collector took.
    pub sent_batches: u64,
    /// Points in them, those it rejected included.
    pub sent_points: u64,
    /// Their bytes as sent, without HTTP's headers.
    pub sent_bytes: u64,
    /// Batches given up because the collector refused them for good.
    pub failed_batches: u64,
    /// Points in them.
    pub failed_points: u64,
    /// Points the collector rejected out of batches it took.
    pub rejected_points: u64,
    /// Batches that were pushed out of a full queue, or still waited at the end.
    pub dropped_batches: u64,
    /// Points in them.
    pub dropped_points: u64,
    /// Attempts that failed and are or were repeated.
    pub retries: u64,
    /// Batches waiting, the one being sent included.
    pub queue_length: usize,
    /// Their bytes.
    pub queue_bytes: usize,
    /// How long the oldest of them has waited.
    pub oldest_age: Option<Duration>,
    /// Why the last attempt failed; `None` when it did not.
    pub last_error: Option<String>,
}

/// What a batch is turned into.
#[derive(Clone, Copy, Debug)]
enum Form {
    Grpc(Compression),
    Http(Compression),
    Line,
    Nothing,
}

/// Where it goes.
enum Sink {
    Grpc(Box<Grpc>),
    Http(Box<Http>),
    Lines(Box<dyn AsyncWrite + Send + Unpin>),
}

/// A batch on its way.
#[derive(Clone, Debug)]
struct Parcel {
    body: Bytes,
    points: u64,
    since: Instant,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug)]
struct State {
    /// Oldest first, at most `capacity`.
    waiting: VecDeque<Parcel>,
    capacity: usize,
    /// The one being sent; older than all that wait.
    sending: Option<Parcel>,
    /// Counts; the queue's own figures are filled in when asked for.
    stats: Stats,
    log: Log,
    /// The collector does not take this at all: nothing is queued any more.
    unwanted: bool,
}

impl Shipper {
    /// Checks the settings and starts the task; connects with the first batch. Must be called inside a tokio runtime with
    /// I/O and time.
    ///
    /// # Errors
    /// What a person must correct: the URL, a header, a certificate. A collector that cannot be reached is none.
    pub fn new(settings: &Settings) -> Result<Self, ExportError> {
        Self::with_pacing(settings, Pacing::default())
    }

    /// As [`Shipper::new`], with other waits between attempts.
    ///
    /// # Errors
    /// The same.
    pub fn with_pacing(settings: &Settings, pacing: Pacing) -> Result<Self, ExportError> {
        if settings.queue == 0 {
            return Err(ExportError::Queue);
        }
        let otlp = |payload| -> Result<Option<(Sink, String)>, ExportError> {
            let sink = match settings.protocol {
                Protocol::Grpc => Sink::Grpc(Box::new(Grpc::new(settings, payload)?)),
                Protocol::HttpProtobuf => Sink::Http(Box::new(Http::new(settings, payload)?)),
            };
            let target = sink.target();
            Ok(Some((sink, target)))
        };
        let (form, sink) = match (settings.exporter, settings.protocol) {
            (Exporter::None, _) => (Form::Nothing, None),
            (Exporter::Stdout, _) => (Form::Line, Some((Sink::Lines(Box::new(tokio::io::stdout())), "stdout".into()))),
            (Exporter::Otlp, _) if settings.timeout.is_zero() => return Err(ExportError::Timeout),
            (Exporter::Otlp, Protocol::Grpc) => (Form::Grpc(settings.compression), otlp(Payload::Metrics)?),
            (Exporter::Otlp, Protocol::HttpProtobuf) => (Form::Http(settings.compression), otlp(Payload::Metrics)?),
        };
        let logs = match (settings.exporter, &settings.logs_endpoint) {
            (Exporter::Otlp, Some(_)) => otlp(Payload::Logs)?,
            _ => None,
        };
        let mut shipper = Self::start(form, sink, settings.queue, pacing);
        shipper.logs = logs.map(|sink| Lane::start(Payload::Logs, Some(sink), settings.queue, pacing));
        Ok(shipper)
    }

    fn start(form: Form, sink: Option<(Sink, String)>, capacity: usize, pacing: Pacing) -> Self {
        Self { form, metrics: Lane::start(Payload::Metrics, sink, capacity, pacing), logs: None }
    }

    /// Where to put batches.
    pub fn queue(&self) -> Queue {
        let shared = |lane: &Lane| Arc::clone(&lane.shared);
        Queue { form: self.form, metrics: shared(&self.metrics), logs: self.logs.as_ref().map(shared) }
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

impl Queue {
    /// Encodes a batch and queues it, its events apart. Never waits; when the queue is full, the oldest batch goes and is counted.
    pub fn enqueue(&self, batch: &Batch) {
        if matches!(self.form, Form::Nothing) {
            return;
        }
        let mut points = 0;
        let body = match self.form {
            Form::Line => {
                let request = encode::encode(batch);
                points = encode::points(&request);
                self.form.body([request].into_iter())
            }
            _ => self.form.body(encode::one_by_one(batch).inspect(|request| points += encode::points(request))),
        };
        if points > 0 {
            self.metrics.push(body, points);
        }
        if batch.events.is_empty() {
            return;
        }
        let body = || self.form.body([logs::encode(&batch.events, batch.time_unix_ns)].into_iter());
        match (&self.logs, self.form) {
            (Some(logs), _) => logs.push(body(), batch.events.len() as u64),
            // They are no points: not counted as such.
            (None, Form::Line) => self.metrics.push(body(), 0),
            (None, _) => {}
        }
    }

    /// What became of the events so far; `None` when they have no way of their own.
    pub fn event_stats(&self) -> Option<Stats> {
        Some(self.logs.as_ref()?.state().stats())
    }

    /// What became of the batches so far.
    pub fn stats(&self) -> Stats {
        self.metrics.state().stats()
    }
}

impl Form {
    /// A request, in parts that make it up one after the other, as it goes over the wire; as text each part is a line.
    fn body(self, parts: impl Iterator<Item = impl Message + serde::Serialize>) -> Bytes {
        match self {
            Self::Grpc(compression) => grpc::frame(parts, compression),
            Self::Http(compression) => http::body(parts, compression),
            Self::Line => parts.map(|part| encode::to_json(&part) + "\n").collect::<String>().into(),
            Self::Nothing => Bytes::new(),
        }
    }
}

impl Lane {
    fn start(payload: Payload, sink: Option<(Sink, String)>, capacity: usize, pacing: Pacing) -> Self {
        let (stats, log) = (Stats::default(), Log::default());
        let state = State { waiting: VecDeque::new(), capacity, sending: None, stats, log, unwanted: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), arrived: Notify::new() });
        let (closing, closed) = watch::channel(None);
        let task = sink.map(|(sink, target)| {
            let backoff = Backoff::new(pacing);
            tokio::spawn(Task { payload, shared: shared.clone(), sink, target, backoff, closed }.run())
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
        let left = state.sending.take().into_iter().chain(std::mem::take(&mut state.waiting)).map(|parcel| parcel.points);
        let (batches, points) = left.fold((0, 0), |(batches, points), p| (batches + 1, points + p));
        state.stats.dropped_batches += batches;
        state.stats.dropped_points += points;
        let stats = state.stats();
        if batches > 0 {
            let error = stats.last_error.as_deref().unwrap_or("the time given for it was too short");
            warn!(batches, points, "ended with {payload} unsent: {error}");
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

impl Shared {
    fn push(&self, body: Bytes, points: u64) {
        let mut state = self.state();
        if state.unwanted {
            state.stats.dropped_points += points;
            return;
        }
        state.waiting.push_back(Parcel { body, points, since: Instant::now() });
        state.drop_oldest();
        drop(state);
        self.arrived.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Counts stay usable whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Drops the oldest batches until no more than the queue's length wait.
    fn drop_oldest(&mut self) {
        while self.waiting.len() > self.capacity {
            let Some(oldest) = self.waiting.pop_front() else { return };
            self.stats.dropped_batches += 1;
            self.stats.dropped_points += oldest.points;
            if let Some(silent) = self.log.note(Kind::Dropped, Instant::now()) {
                let (capacity, advice) = (self.capacity, Kind::Dropped.advice());
                let times = times(silent);
                warn!("the export queue of {capacity} batches is full, the oldest was dropped{times}; {advice}");
            }
        }
    }

    fn stats(&self) -> Stats {
        let parcels = || self.sending.iter().chain(&self.waiting);
        Stats {
            queue_length: parcels().count(),
            queue_bytes: parcels().map(|parcel| parcel.body.len()).sum(),
            oldest_age: parcels().next().map(|parcel| parcel.since.elapsed()),
            ..self.stats.clone()
        }
    }
}

impl Sink {
    /// For messages: where requests go.
    fn target(&self) -> String {
        match self {
            Self::Grpc(grpc) => grpc.target().into(),
            Self::Http(http) => http.target().into(),
            Self::Lines(_) => "stdout".into(),
        }
    }

    async fn send(&mut self, body: Bytes) -> Result<Accepted, Failure> {
        match self {
            Self::Grpc(grpc) => grpc.send(body).await,
            Self::Http(http) => http.send(body).await,
            Self::Lines(out) => {
                let failed = |e| Failure { kind: Kind::Stdout, reason: chain(&e), retry: Retry::Never };
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
    shared: Arc<Shared>,
    sink: Sink,
    /// For messages: where to and how.
    target: String,
    backoff: Backoff,
    closed: watch::Receiver<Option<Instant>>,
}

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
        while let Some(parcel) = self.next().await {
            let outcome = self.sink.send(parcel.body.clone()).await;
            let pause = self.settle(parcel, outcome);
            if !self.wait(pause).await {
                return;
            }
        }
    }

    /// The oldest batch, once there is one; `None` when none will come.
    async fn next(&mut self) -> Option<Parcel> {
        loop {
            {
                let mut state = self.shared.state();
                if let Some(parcel) = state.waiting.pop_front() {
                    state.sending = Some(parcel.clone());
                    return Some(parcel);
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
    fn settle(&mut self, parcel: Parcel, outcome: Result<Accepted, Failure>) -> Pause {
        let shared = self.shared.clone();
        let mut state = shared.state();
        state.sending = None;
        match outcome {
            Ok(accepted) => {
                self.taken(&mut state, &parcel, &accepted);
                Pause::None
            }
            Err(failure) => self.refused(&mut state, parcel, failure),
        }
    }

    fn taken(&mut self, state: &mut State, parcel: &Parcel, accepted: &Accepted) {
        let now = Instant::now();
        self.backoff.reset();
        state.stats.sent_batches += 1;
        state.stats.sent_points += parcel.points;
        state.stats.sent_bytes += parcel.body.len() as u64;
        state.stats.rejected_points += accepted.rejected;
        state.stats.last_error = None;
        if let Some(down) = state.log.succeeded(now) {
            info!("{} are sent to {} again, after {} s", self.payload, self.target, down.as_secs());
        }
        if *accepted == Accepted::default() {
            return;
        }
        if let Some(silent) = state.log.note(Kind::Partial, now) {
            let Accepted { rejected, message } = accepted;
            let (target, times, advice) = (&self.target, times(silent), Kind::Partial.advice());
            warn!("the collector at {target} rejected {rejected} points of a batch it took: {message:?}{times}; {advice}");
        }
    }

    fn refused(&mut self, state: &mut State, parcel: Parcel, failure: Failure) -> Pause {
        let (payload, target) = (self.payload, &self.target);
        if payload == Payload::Logs && failure.kind.is_no_such_service() {
            // Many backends take metrics only, and it is no fault of theirs.
            info!("the collector at {target} takes no logs ({}): events are in this log alone from now on", failure.reason);
            state.unwanted = true;
            state.stats.dropped_points += parcel.points + state.waiting.drain(..).map(|parcel| parcel.points).sum::<u64>();
            return Pause::None;
        }
        let error = format!("could not send {payload} to {target}: {}; {}", failure.reason, failure.kind.advice());
        if let Some(silent) = state.log.failed(failure.kind, Instant::now()) {
            let then = if failure.retry == Retry::Never { "the batch is lost" } else { "it will be repeated" };
            warn!("{error}; {then}{}", times(silent));
        }
        state.stats.last_error = Some(error);
        let pause = match failure.retry {
            Retry::Never => {
                state.stats.failed_batches += 1;
                state.stats.failed_points += parcel.points;
                return Pause::None;
            }
            Retry::Backoff => Pause::Backoff(self.backoff.wait()),
            Retry::After(asked) => Pause::Asked(self.backoff.wait_as_asked(asked)),
        };
        state.stats.retries += 1;
        state.waiting.push_front(parcel);
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
    use crate::export::fixtures::counted;

    #[tokio::test]
    async fn every_batch_is_one_line_on_stdout() {
        let (out, read) = tokio::io::duplex(64);
        let sink = Some((Sink::Lines(Box::new(out)), "stdout".into()));
        let shipper = Shipper::start(Form::Line, sink, 8, Pacing::default());
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
        assert_eq!(shipper.shutdown(Duration::from_secs(10)).await.sent_batches, 3);
    }

    #[tokio::test]
    async fn a_reader_of_stdout_that_went_away_is_counted() {
        let (out, read) = tokio::io::duplex(64);
        drop(read);
        let sink = Some((Sink::Lines(Box::new(out)), "stdout".into()));
        let shipper = Shipper::start(Form::Line, sink, 8, Pacing::default());
        shipper.queue().enqueue(&counted(1));
        let stats = shipper.shutdown(Duration::from_secs(10)).await;
        assert_eq!((stats.failed_batches, stats.sent_batches), (1, 0));
        let error = stats.last_error.expect("an error");
        assert!(error.starts_with("could not send metrics to stdout: broken pipe"), "{error}");
    }
}
