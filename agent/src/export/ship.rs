//! The shipper: a queue and a task for metrics, and the same for events.
//!
//! A batch is encoded and compressed once, when it comes in; the queue holds these bytes. The task sends one request at a time,
//! the oldest first, and repeats what OTLP allows to be repeated until it is taken or newer ones push it out. What is refused for
//! its size is sent in halves. Counters are cumulative: a later batch makes up for a lost one, except for the final values of
//! containers that ended, which are in one batch only. That is why the queue is as long as an outage should be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::backlog::{Backlog, part};
use super::queue::{QueueLimits, SharedQueue};
use super::request::Form;
use super::sink::Sink;
use super::task::{BETWEEN_OVERDUE, Task};
use super::{Export, ExportError, Exporter, Payload};
use crate::backoff::{Backoff, Pacing};
use crate::config::Journal;
use crate::journal::Limits;

pub use super::queue::{Queue, Stats};

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
            Exporter::Otlp => Some(Sink::new(&settings.metrics, Payload::Metrics.service())?),
        };
        let logs = match settings.logs.as_ref().filter(|_| settings.exporter == Exporter::Otlp) {
            Some(logs) => Some((Form::of(settings.exporter, logs), Sink::new(logs, Payload::Logs.service())?)),
            None => None,
        };
        let mut shipper = Self::start(form, sink, settings, pacing);
        shipper.logs = logs.map(|(form, sink)| Lane::start(form, Payload::Logs, Some(sink), settings, pacing));
        Ok(shipper)
    }

    fn start(form: Form, sink: Option<Sink>, settings: &Export, pacing: Pacing) -> Self {
        let metrics = Lane::start(form, Payload::Metrics, sink, settings, pacing);
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
    fn start(form: Form, payload: Payload, sink: Option<Sink>, settings: &Export, pacing: Pacing) -> Self {
        let journal = settings.journal.directory.as_ref().filter(|_| !matches!(form, Form::Line | Form::Nothing));
        let backlog = journal.map(|directory| {
            let Journal { bytes, age, .. } = settings.journal;
            // Events are few and small.
            let bytes = match payload {
                Payload::Metrics => bytes,
                Payload::Logs => (bytes / EVENTS_SHARE).max(LEAST_JOURNAL),
            };
            Backlog::open(directory.join(part(payload)), Limits { bytes, age }, payload, form)
        });
        let shared = Arc::new(SharedQueue::new(form, QueueLimits::of(settings), backlog));
        let (closing, closed) = watch::channel(None);
        let task = sink.map(|sink| {
            let (shared, target, backoff) = (shared.clone(), sink.target(), Backoff::new(pacing));
            let ask_again = pacing.max * ASK_AGAIN;
            let between_overdue = pacing.initial.min(BETWEEN_OVERDUE);
            let task = Task { payload, shared, sink, target, backoff, ask_again, closed, whole_until: None, between_overdue };
            tokio::spawn(task.run())
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
        let left = state.sending.take().into_iter().chain(std::mem::take(&mut state.waiting));
        // What is in the journal is sent by the next agent.
        let left = left.filter(|entry| entry.sequence.is_none()).map(|entry| entry.request.count);
        let (requests, points) = left.fold((0, 0), |(requests, points), count| (requests + 1, points + count));
        state.stats.dropped_requests += requests;
        state.stats.dropped_points += points;
        drop(state);
        let stats = self.shared.stats();
        if let Some(backlog) = &self.shared.backlog {
            let waiting = backlog.unread().entries;
            backlog.close();
            if waiting > 0 {
                info!(requests = waiting, "{payload} that are not sent yet stay in the journal for the next start");
            }
        }
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncBufReadExt;

    use super::*;
    use crate::config::Protocol;
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
