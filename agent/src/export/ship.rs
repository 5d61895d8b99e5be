//! The shipper: for each receiver a queue and a task for metrics, and the same for events. No receiver waits for another.
//!
//! A batch is encoded and compressed once, when it comes in; the queues hold these bytes. A task sends one request at a time,
//! the oldest first, and repeats what OTLP allows to be repeated until it is taken or newer ones push it out. What is refused for
//! its size is sent in halves. Counters are cumulative: a later batch makes up for a lost one, except for the final values of
//! containers that ended, which are in one batch only. That is why the queue is as long as an outage should be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::backlog::{Backlog, Store, part};
use super::intake::Intake;
use super::queue::{QueueLimits, SharedQueue};
use super::request::Form;
use super::sink::Sink;
use super::task::{BETWEEN_OVERDUE, Task};
use super::{Destination, Export, ExportError, Exporter, Payload};
use crate::backoff::{Backoff, Pacing};
use crate::config::{Journal, MAIN_RECEIVER};
use crate::journal::Limits;

pub use super::intake::{Outcomes, Queue};
pub use super::queue::Stats;

/// How long events are not sent to a collector that takes none, in longest waits between attempts: five minutes.
const ASK_AGAIN: u32 = 10;

/// Of the journal's bytes, those of events: one in so many.
const EVENTS_SHARE: u64 = 16;

/// Bytes that each part of the journal has at least.
const LEAST_JOURNAL: u64 = 1 << 20;

/// Sends batches in the background.
#[derive(Debug)]
pub struct Shipper {
    /// Bytes of an attribute's value.
    attribute_bytes: usize,
    metrics: Lanes,
    /// As [`Queue::logs`].
    logs: Option<Lanes>,
}

/// The way of one payload to all receivers.
#[derive(Debug)]
struct Lanes {
    payload: Payload,
    intake: Arc<Intake>,
    all: Vec<Lane>,
}

/// A queue and the task that empties it.
#[derive(Debug)]
struct Lane {
    shared: Arc<SharedQueue>,
    /// `Some(deadline)` once no more batches come.
    closing: watch::Sender<Option<Instant>>,
    task: Option<JoinHandle<()>>,
}

/// Where one lane leads.
struct Target {
    /// The receiver's name; `None` where there is one only.
    receiver: Option<String>,
    form: Form,
    sink: Option<Sink>,
}

impl Target {
    fn new(receiver: Option<&str>, destination: &Destination, payload: Payload) -> Result<Self, ExportError> {
        let (form, sink) = (Form::of(Exporter::Otlp, destination), Sink::new(destination, payload.service())?);
        Ok(Self { receiver: receiver.map(str::to_owned), form, sink: Some(sink) })
    }

    /// The receivers of a payload: that of `export.endpoint` first, unless it gets none of it.
    fn all(settings: &Export, payload: Payload) -> Result<Vec<Self>, ExportError> {
        let first = match payload {
            Payload::Metrics => Some(&settings.metrics),
            Payload::Logs => settings.logs.as_ref(),
        };
        let name = (!settings.also.is_empty()).then_some(MAIN_RECEIVER);
        let further = settings.also.iter().map(|further| {
            let destination = match payload {
                Payload::Metrics => &further.metrics,
                Payload::Logs => &further.logs,
            };
            (Some(&*further.name), destination)
        });
        let all = first.map(|first| (name, first)).into_iter().chain(further);
        all.map(|(name, destination)| Self::new(name, destination, payload)).collect()
    }
}

impl Shipper {
    /// Checks the settings and starts the tasks; connects with the first batch. Must be called inside a tokio runtime with
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
        let (form, sink) = match settings.exporter {
            Exporter::Otlp => {
                let (metrics, logs) = (Target::all(settings, Payload::Metrics)?, Target::all(settings, Payload::Logs)?);
                return Ok(Self::start(metrics, logs, settings, pacing));
            }
            Exporter::None => (Form::Nothing, None),
            Exporter::Stdout => (Form::Line, Some(Sink::Lines(Box::new(tokio::io::stdout())))),
        };
        Ok(Self::start(vec![Target { receiver: None, form, sink }], Vec::new(), settings, pacing))
    }

    fn start(metrics: Vec<Target>, logs: Vec<Target>, settings: &Export, pacing: Pacing) -> Self {
        let metrics = Lanes::start(metrics, Payload::Metrics, settings, pacing);
        let logs = (!logs.is_empty()).then(|| Lanes::start(logs, Payload::Logs, settings, pacing));
        Self { attribute_bytes: settings.attribute_bytes, metrics, logs }
    }

    /// Where to put batches.
    pub fn queue(&self) -> Queue {
        let intake = |lanes: &Lanes| Arc::clone(&lanes.intake);
        let attribute_bytes = self.attribute_bytes;
        Queue { attribute_bytes, metrics: intake(&self.metrics), logs: self.logs.as_ref().map(intake) }
    }

    /// Tries to send what is queued, for no longer than `within`, and returns the final counts of points, for each receiver. What is left
    /// counts as dropped.
    ///
    /// A name lookup or a write to stdout that hangs goes on in a thread of the runtime: end that with `shutdown_background`.
    pub async fn shutdown(self, within: Duration) -> Vec<Stats> {
        let deadline = Instant::now() + within;
        let Self { metrics, logs, .. } = self;
        let logs = async {
            if let Some(logs) = logs {
                logs.shutdown(deadline).await;
            }
        };
        let (stats, ()) = tokio::join!(metrics.shutdown(deadline), logs);
        stats
    }
}

impl Lanes {
    fn start(targets: Vec<Target>, payload: Payload, settings: &Export, pacing: Pacing) -> Self {
        let store = Self::store(&targets, payload, settings).map(Arc::new);
        let start = |(index, target): (usize, Target)| {
            let backlog = store.as_ref().map(|store| Backlog::new(store, index, target.form));
            Lane::start(target, payload, QueueLimits::of(settings), backlog, pacing)
        };
        let all: Vec<_> = targets.into_iter().enumerate().map(start).collect();
        let queues = all.iter().map(|lane| Arc::clone(&lane.shared)).collect();
        Self { payload, intake: Arc::new(Intake::new(queues, store)), all }
    }

    /// The journal of all receivers, in the form of the first.
    fn store(targets: &[Target], payload: Payload, settings: &Export) -> Option<Store> {
        let form = targets.first()?.form;
        let directory = settings.journal.directory.as_ref().filter(|_| !matches!(form, Form::Line | Form::Nothing))?;
        let Journal { bytes, age, .. } = settings.journal;
        // Events are few and small.
        let bytes = match payload {
            Payload::Metrics => bytes,
            Payload::Logs => (bytes / EVENTS_SHARE).max(LEAST_JOURNAL),
        };
        let receivers: Vec<_> = targets.iter().map(|target| target.receiver.as_deref()).collect();
        Some(Store::open(directory.join(part(payload)), Limits { bytes, age }, payload, form, &receivers))
    }

    async fn shutdown(self, deadline: Instant) -> Vec<Stats> {
        for lane in &self.all {
            lane.closing.send_replace(Some(deadline));
        }
        let mut stats = Vec::new();
        // All of them send meanwhile.
        for lane in self.all {
            stats.push(lane.shutdown(self.payload, deadline).await);
        }
        if let Some(store) = &self.intake.store {
            store.close();
        }
        stats
    }
}

impl Lane {
    fn start(target: Target, payload: Payload, limits: QueueLimits, backlog: Option<Backlog>, pacing: Pacing) -> Self {
        let Target { receiver, form, sink } = target;
        let shared = Arc::new(SharedQueue::new(receiver, form, limits, backlog));
        let (closing, closed) = watch::channel(None);
        let task = sink.map(|sink| {
            let (shared, target, backoff) = (shared.clone(), sink.target(), Backoff::new(pacing));
            let target = shared.receiver.as_ref().map_or(target.clone(), |receiver| format!("{target} ({receiver})"));
            let ask_again = pacing.max * ASK_AGAIN;
            let between_overdue = pacing.initial.min(BETWEEN_OVERDUE);
            let task = Task { payload, shared, sink, target, backoff, ask_again, closed, whole_until: None, between_overdue };
            tokio::spawn(task.run())
        });
        Self { shared, closing, task }
    }

    /// Waits until all is sent, or for the deadline, and counts what is left.
    async fn shutdown(mut self, payload: Payload, deadline: Instant) -> Stats {
        if let Some(task) = &mut self.task {
            // Timed out: the task ends when `self` goes.
            let _ = tokio::time::timeout_at(deadline.into(), &mut *task).await;
            task.abort();
        }
        let mut state = self.shared.state();
        let left = state.sending.take().into_iter().chain(std::mem::take(&mut state.waiting));
        // What is in the journal is sent by the next agent.
        let left = left.filter(|entry| entry.sequence.is_none()).map(|entry| entry.request.count);
        let (requests, points) = left.fold((0, 0), |(requests, points), count| (requests + 1, points + count));
        state.stats.dropped_requests += requests;
        state.stats.dropped_points += points;
        let to = state.to.clone();
        drop(state);
        let stats = self.shared.stats();
        let waiting = self.shared.backlog.as_ref().map_or(0, |backlog| backlog.unread().entries);
        if waiting > 0 {
            info!(requests = waiting, "{payload} that are not sent{to} yet stay in the journal for the next start");
        }
        if requests > 0 {
            let error = stats.last_error.as_deref().unwrap_or("export.shutdown_timeout was too short for it");
            warn!(requests, points, "ended with {payload} unsent{to}: {error}");
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncBufReadExt;

    use super::*;
    use crate::config::Protocol;
    use crate::export::fixtures::{counted, settings};

    fn lines_to(sink: Option<Sink>) -> Shipper {
        let target = Target { receiver: None, form: Form::Line, sink };
        Shipper::start(vec![target], Vec::new(), &settings("", Protocol::Grpc), Pacing::default())
    }

    #[tokio::test]
    async fn every_batch_is_one_line_on_stdout() {
        let (out, read) = tokio::io::duplex(64);
        let sink = Some(Sink::Lines(Box::new(out)));
        let shipper = lines_to(sink);
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
        assert_eq!(shipper.shutdown(Duration::from_secs(10)).await[0].sent_requests, 3);
    }

    #[tokio::test]
    async fn a_reader_of_stdout_that_went_away_is_counted() {
        let (out, read) = tokio::io::duplex(64);
        drop(read);
        let sink = Some(Sink::Lines(Box::new(out)));
        let shipper = lines_to(sink);
        shipper.queue().enqueue(&counted(1));
        let stats = shipper.shutdown(Duration::from_secs(10)).await.remove(0);
        assert_eq!((stats.failed_requests, stats.sent_requests), (1, 0));
        let error = stats.last_error.expect("an error");
        assert!(error.starts_with("could not send metrics to stdout: broken pipe"), "{error}");
    }
}
