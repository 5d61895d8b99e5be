//! What waits to be sent to one receiver: requests in their order, bounded in exports and in bytes.
//!
//! Requests of one batch succeed or fail independently. They wait in the journal where there is one, and in memory what could not be
//! written there. When either is full the oldest requests go.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::SpanContext;
use tokio::sync::Notify;
use tracing::warn;

use super::Export;
use super::backlog::{Backlog, JournalStats};
use super::failure::SendErrorKind;
use super::request::{Form, Request};
use crate::failure_log::FailureLog;
use crate::journal::Sequence;
use crate::moment;
use crate::rate_limit::times;
use crate::span;

/// At most one line per kind of trouble in this time.
const QUIET: Duration = Duration::from_secs(60);

/// Batches of which is known what work they came of.
const SPANS: usize = 64;

/// The outcomes of requests so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests the collector took.
    pub sent_requests: u64,
    /// Points in them, those it rejected included.
    pub sent_points: u64,
    /// Their bytes as sent, without HTTP's headers.
    pub sent_bytes: u64,
    /// Requests given up because the collector refused them for good.
    pub failed_requests: u64,
    /// Points in them.
    pub failed_points: u64,
    /// Points the collector rejected out of requests it took.
    pub rejected_points: u64,
    /// Requests that were pushed out of a full queue, or still waited at the end.
    pub dropped_requests: u64,
    /// Points in them.
    pub dropped_points: u64,
    /// Attempts that failed and are or were repeated.
    pub retries: u64,
    /// Values of attributes that were too long and were cut.
    pub cut_values: u64,
    /// Attributes that resources had no room for.
    pub left_out_attributes: u64,
    /// Requests waiting, the one being sent included.
    pub queue_length: usize,
    /// Their bytes.
    pub queue_bytes: usize,
    /// How long the oldest of them has waited.
    pub oldest_age: Option<Duration>,
    /// Why the last attempt failed; `None` when it did not.
    pub last_error: Option<String>,
    /// The journal, where there is one.
    pub journal: Option<JournalStats>,
    /// For how long every attempt has failed: nothing was taken since the first of them. `None` when the last one did not fail.
    pub failing_for: Option<Duration>,
}

/// How much may wait, and how large a request may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueLimits {
    /// Exports that requests wait of.
    pub(super) exports: usize,
    /// Bytes of all requests, as they are sent.
    pub(super) bytes: usize,
    /// Bytes of a request before compression.
    pub(super) request_bytes: usize,
}

impl QueueLimits {
    pub(super) fn of(settings: &Export) -> Self {
        Self { exports: settings.queue, bytes: settings.queue_bytes, request_bytes: settings.request_bytes }
    }
}

/// A request on its way.
#[derive(Clone, Debug)]
pub(super) struct QueuedRequest {
    pub(super) request: Request,
    /// Which export it is part of.
    pub(super) export: u64,
    /// The time of its batch, ns since 1970.
    pub(super) time_ns: u64,
    /// When it came in.
    pub(super) since: Instant,
    /// Its number in the journal, where it is in there and nothing else of it waits after it.
    pub(super) sequence: Option<Sequence>,
    /// The journal's next number when it came in: what is below is older.
    pub(super) after: Sequence,
}

/// The queue of one receiver, shared by who fills it and who empties it.
#[derive(Debug)]
pub(super) struct SharedQueue {
    /// The receiver's name; `None` where there is one only.
    pub(super) receiver: Option<String>,
    /// What its requests are turned into.
    pub(super) form: Form,
    /// What waits on disk; `None` where there is no journal.
    pub(super) backlog: Option<Backlog>,
    state: Mutex<QueueState>,
    pub(super) arrived: Notify,
}

#[derive(Debug)]
pub(super) struct QueueState {
    /// For messages: ` to ` and the receiver's name; empty where there is one only.
    pub(super) to: String,
    /// Oldest first.
    pub(super) waiting: VecDeque<QueuedRequest>,
    /// The one being sent; older than all that wait.
    pub(super) sending: Option<QueuedRequest>,
    pub(super) limits: QueueLimits,
    /// Bytes of the requests to come: fewer than the limit allows where the collector has refused larger ones.
    pub(super) request_bytes: usize,
    /// Exports so far.
    exports: u64,
    /// By the time of a batch, the span it was encoded in.
    spans: VecDeque<(u64, SpanContext)>,
    /// Counts; the queue's length, bytes and age are filled in at each call.
    pub(super) stats: Stats,
    pub(super) log: FailureLog<SendErrorKind>,
    /// When the first of the attempts failed that all failed since.
    pub(super) failing: Option<Instant>,
    /// The receiver has reported that it accepts no such requests: until then nothing is queued. The next request after that is a new
    /// attempt.
    pub(super) unwanted_until: Option<Instant>,
    /// Whether that was logged since it last took one.
    pub(super) unwanted_logged: bool,
}

impl SharedQueue {
    /// An empty one of a receiver that takes this form.
    pub(super) fn new(receiver: Option<String>, form: Form, limits: QueueLimits, backlog: Option<Backlog>) -> Self {
        let to = receiver.as_ref().map(|receiver| format!(" to {receiver}")).unwrap_or_default();
        let state = QueueState {
            to,
            waiting: VecDeque::new(),
            sending: None,
            limits,
            request_bytes: limits.request_bytes,
            exports: 0,
            spans: VecDeque::new(),
            stats: Stats::default(),
            log: FailureLog::new(1, QUIET),
            failing: None,
            unwanted_until: None,
            unwanted_logged: false,
        };
        Self { receiver, form, backlog, state: Mutex::new(state), arrived: Notify::new() }
    }

    /// The requests of the batch of this time are of the work that this thread does.
    pub(super) fn note_span(&self, time_ns: u64) {
        let Some(span) = span::current() else { return };
        let spans = &mut self.state().spans;
        spans.push_back((time_ns, span));
        if spans.len() > SPANS {
            spans.pop_front();
        }
    }

    /// The work that the requests of the batch of this time came of, if it is not long ago.
    pub(super) fn span_of(&self, time_ns: u64) -> Option<SpanContext> {
        self.state().spans.iter().find(|(of, _)| *of == time_ns).map(|(_, span)| span.clone())
    }

    /// The number of an export that begins, and how large its requests may be.
    pub(super) fn next_export(&self) -> (u64, usize) {
        let mut state = self.state();
        state.exports += 1;
        (state.exports, state.request_bytes)
    }

    /// Adds a request of the batch that was read at `time_ns`, ns since 1970. It is not in the journal.
    pub(super) fn push(&self, request: Request, export: u64, time_ns: u64) {
        let after = self.backlog.as_ref().map_or(0, |backlog| backlog.range().1);
        self.came(request.count, |state| {
            state.waiting.push_back(QueuedRequest { request, export, time_ns, since: Instant::now(), sequence: None, after });
        });
    }

    /// A request with so many points or events is in the journal now.
    pub(super) fn appended(&self, count: u64) {
        self.came(count, |_| {});
    }

    /// Takes a request in, unless the receiver accepts none for now.
    fn came(&self, count: u64, add: impl FnOnce(&mut QueueState)) {
        let mut state = self.state();
        if state.unwanted_until.is_some_and(|until| Instant::now() < until) {
            // In the journal it stays for who looks back.
            state.stats.dropped_points += count;
            self.backlog.as_ref().map(Backlog::skip_all);
            return;
        }
        state.unwanted_until = None;
        add(&mut state);
        state.drop_oldest(self.backlog.as_ref());
        self.note_dropped(&mut state);
        drop(state);
        self.arrived.notify_one();
    }

    /// The oldest request that waits, which is being sent from now on.
    pub(super) fn next(&self) -> Option<QueuedRequest> {
        let read = self.backlog.as_ref().map_or(Sequence::MAX, |backlog| backlog.range().0);
        let older_in_memory = self.state().waiting.front().is_some_and(|front| front.after <= read);
        let began = SystemTime::now();
        let from_disk = if older_in_memory { None } else { self.backlog.as_ref().and_then(Backlog::next) };
        if let Some(waiting) = &from_disk {
            span::done("read from journal", began, waiting.request.body.len(), self.span_of(waiting.time_ns));
        }
        let mut state = self.state();
        let entry = match from_disk {
            Some(waiting) => {
                let since = Instant::now().checked_sub(age(waiting.time_ns)).unwrap_or_else(Instant::now);
                let (export, sequence) = (waiting.time_ns, Some(waiting.sequence));
                Some(QueuedRequest { request: waiting.request, export, time_ns: waiting.time_ns, since, sequence, after: 0 })
            }
            None => state.waiting.pop_front(),
        };
        self.note_dropped(&mut state);
        state.sending.clone_from(&entry);
        entry
    }

    /// A request is sent, or given up: the journal need not keep it.
    pub(super) fn done(&self, entry: &QueuedRequest) {
        if let (Some(backlog), Some(sequence)) = (&self.backlog, entry.sequence) {
            backlog.confirm(sequence);
        }
    }

    /// Counts what the journal had no room for, or could not read.
    fn note_dropped(&self, state: &mut QueueState) {
        let Some(dropped) = self.backlog.as_ref().map(Backlog::take_dropped) else { return };
        state.stats.dropped_requests += dropped.entries + dropped.bad_entries;
        state.stats.dropped_points += dropped.points.saturating_add(dropped.bad_points);
        if dropped.entries + dropped.bad_entries == 0 {
            return;
        }
        if let Some(silent) = state.log.note(SendErrorKind::Dropped, Instant::now()) {
            let (entries, bad) = (dropped.entries, dropped.bad_entries);
            let (to, times, advice) = (&state.to, times(silent), SendErrorKind::Dropped.advice());
            warn!(
                "{entries} requests{to} had no room in the journal any more, and {bad} are damaged there: dropped{times}; {advice}"
            );
        }
    }

    /// Counts so far, and what waits.
    pub(super) fn stats(&self) -> Stats {
        let mut stats = self.state().stats();
        let Some(backlog) = &self.backlog else { return stats };
        let unread = backlog.unread();
        stats.queue_length += unread.entries as usize;
        stats.queue_bytes += unread.bytes as usize;
        stats.oldest_age = stats.oldest_age.max(unread.oldest_ns.map(age));
        stats.journal = Some(backlog.stats());
        stats
    }

    pub(super) fn state(&self) -> MutexGuard<'_, QueueState> {
        // Counts stay usable whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long ago a moment was, in ns since 1970.
fn age(unix_ns: u64) -> Duration {
    Duration::from_nanos(moment::unix_ns(SystemTime::now()).saturating_sub(unix_ns))
}

impl QueueState {
    /// Puts a request that is not sent as it is back where it was, in parts.
    pub(super) fn put_back(&mut self, entry: &QueuedRequest, parts: Vec<Request>, backlog: Option<&Backlog>) {
        let mut sequence = entry.sequence;
        for request in parts.into_iter().rev() {
            // The last part is the last that waits of it.
            self.waiting.push_front(QueuedRequest { request, sequence: sequence.take(), after: 0, ..entry.clone() });
        }
        self.drop_oldest(backlog);
    }

    /// Drops the oldest requests until no more wait than may.
    pub(super) fn drop_oldest(&mut self, backlog: Option<&Backlog>) {
        while self.is_full() {
            let Some(oldest) = self.waiting.pop_front() else { return };
            if let (Some(backlog), Some(sequence)) = (backlog, oldest.sequence) {
                backlog.confirm(sequence);
            }
            self.stats.dropped_requests += 1;
            self.stats.dropped_points += oldest.request.count;
            if let Some(silent) = self.log.note(SendErrorKind::Dropped, Instant::now()) {
                let QueueLimits { exports, bytes, .. } = self.limits;
                let (to, times, advice) = (&self.to, times(silent), SendErrorKind::Dropped.advice());
                warn!(
                    "the export queue{to} of {exports} exports and {bytes} bytes is full, the oldest was dropped{times}; {advice}"
                );
            }
        }
    }

    /// Whether more waits than may; never for the bytes of a single request.
    fn is_full(&self) -> bool {
        let changes = self.waiting.iter().zip(self.waiting.iter().skip(1)).filter(|(one, next)| one.export != next.export);
        let exports = usize::from(!self.waiting.is_empty()) + changes.count();
        exports > self.limits.exports || self.waiting.len() > 1 && self.bytes() > self.limits.bytes
    }

    /// Of all requests, the one being sent included.
    fn bytes(&self) -> usize {
        self.sending.iter().chain(&self.waiting).map(|entry| entry.request.body.len()).sum()
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            queue_length: self.waiting.len() + usize::from(self.sending.is_some()),
            queue_bytes: self.bytes(),
            oldest_age: self.sending.iter().chain(&self.waiting).next().map(|entry| entry.since.elapsed()),
            failing_for: self.failing.map(|since| since.elapsed()),
            ..self.stats.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::export::Compression;
    use crate::export::encode::{self, Bounds};
    use crate::export::fixtures::{Load, node};
    use crate::export::intake::{Intake, Queue};

    fn queue(limits: QueueLimits) -> Queue {
        let intake = || {
            let queue = SharedQueue::new(None, Form::Grpc(Compression::Gzip), limits, None);
            Arc::new(Intake::new(vec![Arc::new(queue)], None))
        };
        Queue { attribute_bytes: 256, metrics: intake(), logs: Some(intake()) }
    }

    #[test]
    fn no_more_bytes_wait_than_may_and_the_oldest_go_first() {
        let limits = QueueLimits { exports: 1000, bytes: 400 << 10, request_bytes: 128 << 10 };
        let queue = queue(limits);
        let mut points = 0;
        let batch = node(20, Load::Busy);
        for _ in 0..10 {
            queue.enqueue(&batch);
            let stats = queue.stats();
            assert!(stats.queue_bytes <= limits.bytes, "{stats:?}");
            points = stats.dropped_points
                + queue.metrics.queues[0].state().waiting.iter().map(|entry| entry.request.count).sum::<u64>();
        }
        let stats = queue.stats();
        assert!(stats.dropped_requests > 0 && stats.queue_bytes > limits.bytes / 2, "{stats:?}");
        let exports: Vec<u64> = queue.metrics.queues[0].state().waiting.iter().map(|entry| entry.export).collect();
        assert!(exports.is_sorted() && exports.last() == Some(&10), "{exports:?}");
        // Every point is counted where it is.
        let mut one = 0;
        encode::encode(&batch, &Bounds::new(256), |group| one += group.items.iter().map(|item| item.count).sum::<u64>());
        assert_eq!(points, 10 * one);
    }

    #[test]
    fn an_export_of_several_requests_counts_once_and_the_last_request_of_all_stays_however_large() {
        let queue = queue(QueueLimits { exports: 2, bytes: 1, request_bytes: 1 });
        queue.enqueue(&node(1, Load::Busy));
        assert_eq!(queue.stats().queue_length, 1, "one waits though it is too large");
        let queue = self::queue(QueueLimits { exports: 2, bytes: usize::MAX, request_bytes: 32 << 10 });
        queue.enqueue(&node(20, Load::Busy));
        let of_one = queue.stats().queue_length;
        assert!(of_one > 2, "{of_one}");
        for _ in 0..3 {
            queue.enqueue(&node(20, Load::Busy));
        }
        let stats = queue.stats();
        assert_eq!((stats.queue_length, stats.dropped_requests), (2 * of_one, 2 * of_one as u64));
    }
}
