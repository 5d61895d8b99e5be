//! Where batches go in: each is encoded once, and its requests are queued for every receiver.
//!
//! The first receiver's form is the one that is encoded, and that the journal keeps. Who takes the same form shares its bytes; for each other
//! form a request is made anew once. A request is as large as any of the receivers takes: who takes less divides it when it is sent.

use std::sync::Arc;

use super::backlog::Store;
use super::encode::{self, Bounds};
use super::queue::{SharedQueue, Stats};
use super::request::{Form, Packer, Request};
use super::{Payload, logs};
use crate::aggregate::Batch;
use crate::span;

/// Where batches go in, from any thread.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Bytes of an attribute's value.
    pub(super) attribute_bytes: usize,
    pub(super) metrics: Arc<Intake>,
    /// Where events go, unless they share the metrics' way (stdout) or no receiver takes them.
    pub(super) logs: Option<Arc<Intake>>,
}

/// What has become of the requests to one receiver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Its name; `None` where there is one receiver only.
    pub receiver: Option<String>,
    /// Of points.
    pub metrics: Stats,
    /// Of events; `None` when they are not sent to it separately.
    pub events: Option<Stats>,
}

/// The queues of one payload.
#[derive(Debug)]
pub(super) struct Intake {
    /// Of each receiver, one at least.
    pub(super) queues: Vec<Arc<SharedQueue>>,
    /// Where requests wait on disk.
    pub(super) store: Option<Arc<Store>>,
}

/// An export that begins: its number in each queue, and the time of its batch in ns since 1970.
struct Begun {
    exports: Vec<u64>,
    time_ns: u64,
}

impl Queue {
    /// Encodes a batch and queues its requests, its events apart. Never waits; where a queue is full, its oldest request goes
    /// and is counted.
    pub fn enqueue(&self, batch: &Batch) {
        let form = self.metrics.form();
        if matches!(form, Form::Nothing) {
            return;
        }
        let work = span::work("encode");
        let (mut requests, mut bytes, mut encoded_bytes) = (0, 0, 0);
        let bounds = Bounds::new(self.attribute_bytes);
        let (begun, limit) = self.metrics.begin(batch);
        let mut packer = Packer::new(form, Payload::Metrics, limit, |request| {
            (requests, bytes, encoded_bytes) = (requests + 1, bytes + request.body.len(), encoded_bytes + request.size);
            self.metrics.put(request, &begun);
        });
        encode::encode(batch, &bounds, |group| packer.add(group));
        packer.finish();
        work.set("podmeter.requests", requests);
        work.set("podmeter.bytes", bytes as i64);
        work.set("podmeter.bytes_before_compression", encoded_bytes as i64);
        if !batch.events.is_empty() {
            self.enqueue_events(batch, &bounds);
        }
        if let Some(first) = self.metrics.queues.first() {
            let stats = &mut first.state().stats;
            stats.cut_values += bounds.cut();
            stats.left_out_attributes += bounds.left_out();
        }
    }

    fn enqueue_events(&self, batch: &Batch, bounds: &Bounds) {
        let pack = |form, limit, done: &mut dyn FnMut(Request)| {
            let mut packer = Packer::new(form, Payload::Logs, limit, done);
            logs::encode(&batch.events, batch.time_ns, batch.offset, bounds, |group| packer.add(group));
            packer.finish();
        };
        match (&self.logs, self.metrics.form()) {
            (Some(logs), _) => {
                let (begun, limit) = logs.begin(batch);
                pack(logs.form(), limit, &mut |request| logs.put(request, &begun));
            }
            // They are no points: not counted as such.
            (None, form @ Form::Line) => {
                let (begun, limit) = self.metrics.begin(batch);
                pack(form, limit, &mut |line| self.metrics.put(Request { count: 0, ..line }, &begun));
            }
            (None, _) => {}
        }
    }

    /// What has become of requests so far, for each receiver.
    pub fn outcomes(&self) -> Vec<Outcomes> {
        let of = |queue: &Arc<SharedQueue>| {
            let logs = self.logs.iter().flat_map(|logs| &logs.queues).find(|logs| logs.receiver == queue.receiver);
            Outcomes { receiver: queue.receiver.clone(), metrics: queue.stats(), events: logs.map(|logs| logs.stats()) }
        };
        self.metrics.queues.iter().map(of).collect()
    }
}

#[cfg(test)]
impl Queue {
    /// The outcomes of events so far, at the first receiver of them; `None` when they are not sent separately.
    pub(crate) fn event_stats(&self) -> Option<Stats> {
        Some(self.logs.as_ref()?.queues[0].stats())
    }

    /// The outcomes of requests with points so far, at the first receiver.
    pub(crate) fn stats(&self) -> Stats {
        self.metrics.queues[0].stats()
    }
}

impl Intake {
    /// Of these queues; what is in the store, if there is one, waits for all of them.
    pub(super) fn new(queues: Vec<Arc<SharedQueue>>, store: Option<Arc<Store>>) -> Self {
        Self { queues, store }
    }

    /// What requests are turned into before anything else.
    fn form(&self) -> Form {
        self.queues.first().map_or(Form::Nothing, |first| first.form)
    }

    /// Begins the export of a batch. Gives how large its requests may be, too.
    fn begin(&self, batch: &Batch) -> (Begun, usize) {
        let time_ns = batch.offset.unix_ns(batch.time_ns);
        let begin = |queue: &Arc<SharedQueue>| {
            queue.note_span(time_ns);
            queue.next_export()
        };
        let (exports, limits): (Vec<_>, Vec<_>) = self.queues.iter().map(begin).unzip();
        (Begun { exports, time_ns }, limits.into_iter().max().unwrap_or(usize::MAX))
    }

    /// Adds a request for every receiver: to the journal, or to each queue where that cannot be.
    fn put(&self, request: Request, begun: &Begun) {
        let Begun { exports, time_ns } = begun;
        if self.store.as_ref().is_some_and(|store| store.append(&request, *time_ns)) {
            self.queues.iter().for_each(|queue| queue.appended(request.count));
            return;
        }
        let mut made = vec![(self.form(), request)];
        for (queue, export) in self.queues.iter().zip(exports) {
            if let Some(request) = in_form(&mut made, queue.form) {
                queue.push(request, *export, *time_ns);
            }
        }
    }
}

/// A request in this form, made of the first where it has not been made yet. `None` never happens to one that was just encoded.
fn in_form(made: &mut Vec<(Form, Request)>, form: Form) -> Option<Request> {
    if let Some((_, request)) = made.iter().find(|(of, _)| *of == form) {
        return Some(request.clone());
    }
    let (first, request) = made.first()?;
    let request = Request { body: first.reframe(request.body.clone(), form)?, ..*request };
    made.push((form, request.clone()));
    Some(request)
}
