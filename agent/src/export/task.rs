//! The task that empties a queue: one request at a time, the oldest first, until it is accepted, refused for good or pushed out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{info, warn};

use super::Payload;
use super::backlog::Backlog;
use super::failure::{Accepted, Retry, SendError, SendErrorKind};
use super::queue::{QueueState, QueuedRequest, SharedQueue};
use super::request::Request;
use super::sink::Sink;
use crate::backoff::Backoff;
use crate::rate_limit::times;
use crate::span;

/// The task's side.
pub(super) struct Task {
    pub(super) payload: Payload,
    pub(super) shared: Arc<SharedQueue>,
    pub(super) sink: Sink,
    /// For messages: where to and how.
    pub(super) target: String,
    pub(super) backoff: Backoff,
    /// Time after which a collector that takes no logs is tried again.
    pub(super) ask_again: Duration,
    pub(super) closed: watch::Receiver<Option<Instant>>,
    /// Until when what is refused for its size is not sent in parts: even the smallest were refused.
    pub(super) whole_until: Option<Instant>,
    /// The least time between two requests that have waited long.
    pub(super) between_overdue: Duration,
}

/// Bytes of a request that is not divided any more: no receiver has such a limit, so one that refuses it for its size refuses
/// every request, and each division would double their number.
const SMALLEST: usize = 16 << 10;

/// A request that has waited longer than this is one of an outage's.
const OVERDUE: Duration = Duration::from_secs(120);

/// The least time between two of them: an hour at an interval of 15 s is sent in half a minute.
pub(super) const BETWEEN_OVERDUE: Duration = Duration::from_millis(100);

/// How long nothing is divided then.
const REST: Duration = Duration::from_secs(300);

/// When the next attempt may be made.
enum Pause {
    None,
    /// A wait of our own choosing: the end cuts it short.
    Backoff(Duration),
    /// A wait that the receiver requested.
    Asked(Duration),
}

impl Task {
    /// Sends until no more batches come and the queue is empty, or no attempt can be made before the deadline.
    pub(super) async fn run(mut self) {
        while let Some(entry) = self.next().await {
            let Some(entry) = self.small_enough(entry) else { continue };
            let (payload, bytes) = (self.payload.name(), entry.request.body.len());
            let sending = span::sending(payload, bytes, &self.target, self.shared.span_of(entry.time_ns));
            let outcome = self.sink.send(entry.request.body.clone()).await;
            sending.ended(outcome.as_ref().err().map(|failure| failure.reason.as_str()));
            let pause = self.settle(entry, outcome);
            if !self.wait(pause).await {
                return;
            }
        }
    }

    /// The oldest request, once there is one; `None` when none will come.
    async fn next(&mut self) -> Option<QueuedRequest> {
        loop {
            if let Some(entry) = self.shared.next() {
                return Some(entry);
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

    /// The request, unless it is larger than this receiver takes: then its parts wait in its place. It may be so where others take larger
    /// ones, and in the journal.
    fn small_enough(&mut self, entry: QueuedRequest) -> Option<QueuedRequest> {
        let most = self.shared.state().request_bytes;
        let parts = if entry.request.size > most { self.halves(&entry.request) } else { Vec::new() };
        if parts.len() < 2 {
            return Some(entry);
        }
        let mut state = self.shared.state();
        state.sending = None;
        state.put_back(&entry, parts, self.shared.backlog.as_ref());
        None
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
                shared.done(&entry);
                // What has waited long comes with much more: the receiver is not to be flooded when it is back.
                if entry.since.elapsed() > OVERDUE { Pause::Backoff(self.between_overdue) } else { Pause::None }
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
        state.put_back(entry, halves, self.shared.backlog.as_ref());
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
            info!("{} accepts {} now", self.target, self.payload);
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
                info!("{target} does not accept logs ({reason}): events are not sent, and the next is tried in {minutes:.0} min");
            }
            state.unwanted_until = Some(Instant::now() + self.ask_again);
            let waiting = state.waiting.drain(..).map(|entry| entry.request.count).sum::<u64>();
            state.stats.dropped_points += entry.request.count + waiting;
            self.shared.done(&entry);
            state.stats.dropped_points += self.shared.backlog.as_ref().map_or(0, Backlog::skip_all);
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
                self.shared.done(&entry);
                return Pause::None;
            }
            Retry::Backoff => Pause::Backoff(self.backoff.wait()),
            Retry::After(asked) => Pause::Asked(self.backoff.wait_at_least(asked)),
        };
        state.stats.retries += 1;
        state.waiting.push_front(QueuedRequest { after: 0, ..entry });
        state.drop_oldest(self.shared.backlog.as_ref());
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
