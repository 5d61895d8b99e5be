//! What waits on disk: requests of one payload in a [`journal`](crate::journal), and how far they have been sent to each receiver.
//!
//! A request is in it once, in the form that the first receiver takes. For a receiver of another form it is made anew from that when it is
//! sent: gRPC and HTTP differ in five bytes, and only another compression takes time, in that receiver's task.
//!
//! A journal that cannot be opened is tried again once a minute; until then, and whenever it cannot be written, the queue keeps requests
//! in memory.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::{Payload, request::Form, request::Request};
use crate::{
    causes::chain,
    config::MAIN_RECEIVER,
    journal::{Cursor, Dropped, Entry, EntryInfo, Journal, JournalError, Kind, Limits, Sequence, Unread},
    span,
};

/// How often a journal that could not be opened is tried again.
const AGAIN: Duration = Duration::from_secs(60);

/// The name of the cursor of the receiver of `export.endpoint`, and what those of the others begin with.
const CURSOR: &str = "receiver";
const OTHERS: &str = "to-";

/// The directory in the journal's that has one payload.
pub(super) fn part(payload: Payload) -> &'static str {
    match payload {
        Payload::Metrics => "metrics",
        Payload::Logs => "events",
    }
}

/// What the journal keeps of a request of the batch that was read at `time_ns`, ns since 1970.
pub(super) fn info(request: &Request, payload: Payload, form: Form, time_ns: u64) -> EntryInfo {
    let kind = match payload {
        Payload::Metrics => Kind::Metrics,
        Payload::Logs => Kind::Logs,
    };
    let size = u32::try_from(request.size).unwrap_or(u32::MAX);
    EntryInfo { time_ns, kind, form: form.code(), collection: time_ns, count: request.count, size }
}

/// The journal of one payload, and how far each receiver has got in it.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    limits: Limits,
    payload: Payload,
    form: Form,
    /// The names of the receivers' cursors, in their order.
    cursors: Vec<String>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// With a cursor for each receiver.
    open: Option<(Journal, Vec<Cursor>)>,
    /// When it could not be opened.
    tried: Option<Instant>,
    /// Times that it could not be written.
    failures: u64,
    /// It failed the last time.
    failing: bool,
    /// Of each receiver, what was dropped, or found damaged, and not reported yet.
    dropped: Vec<Dropped>,
}

/// What waits in a store for one receiver.
#[derive(Debug)]
pub(super) struct Backlog {
    store: Arc<Store>,
    /// Its place among the receivers.
    index: usize,
    /// What its requests are turned into.
    form: Form,
}

/// How a journal does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalStats {
    /// Bytes on disk.
    pub bytes: u64,
    /// Times that it could not be opened, written or read.
    pub failures: u64,
}

/// A request that was read.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) request: Request,
    pub(super) sequence: Sequence,
    /// When its batch was read, in ns since 1970.
    pub(super) time_ns: u64,
}

/// The name of a receiver's cursor; without a name it is the first.
fn cursor_name(receiver: Option<&str>) -> String {
    match receiver {
        None | Some(MAIN_RECEIVER) => CURSOR.to_owned(),
        Some(name) => format!("{OTHERS}{name}"),
    }
}

/// The receiver of a cursor, for people.
fn receiver_of(cursor: &str) -> &str {
    if cursor == CURSOR { MAIN_RECEIVER } else { cursor.strip_prefix(OTHERS).unwrap_or(cursor) }
}

impl Store {
    /// Opens the journal in a directory for receivers of these names, or tries later where that fails. Requests are kept in `form`.
    pub(super) fn open(directory: PathBuf, limits: Limits, payload: Payload, form: Form, receivers: &[Option<&str>]) -> Self {
        let dropped = vec![Dropped::default(); receivers.len()];
        let state = State { open: None, tried: None, failures: 0, failing: false, dropped };
        let cursors = receivers.iter().map(|name| cursor_name(*name)).collect();
        let store = Self { directory, limits, payload, form, cursors, state: Mutex::new(state) };
        store.try_open(&mut store.state());
        store
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The journal stays usable whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_open(&self, state: &mut State) {
        if state.open.is_some() || state.tried.is_some_and(|tried| tried.elapsed() < AGAIN) {
            return;
        }
        let began = Instant::now();
        state.tried = Some(began);
        let opened = Journal::open(&self.directory, self.limits).and_then(|(mut journal, recovered)| {
            let names: Vec<&str> = self.cursors.iter().map(String::as_str).collect();
            for forgotten in journal.forget_all_but(&names)? {
                let receiver = receiver_of(&forgotten);
                info!("the receiver {receiver} is not in the configuration any more: {} wait for it no longer", self.payload);
            }
            let cursors = names.iter().map(|name| journal.cursor(name)).collect::<Result<Vec<_>, _>>()?;
            Ok((journal, cursors, recovered))
        });
        match opened {
            Ok((journal, cursors, recovered)) => {
                let unsent = cursors.iter().map(|cursor| journal.unread(*cursor).entries).max().unwrap_or(0);
                let (entries, damaged) = (recovered.entries, recovered.bad_entries + u64::from(recovered.cut_bytes > 0));
                let directory = self.directory.display();
                // To a microsecond.
                let took_ms = began.elapsed().as_micros() as f64 / 1e3;
                info!(entries, unsent, damaged, took_ms, "the journal of {} is in {directory}", self.payload);
                state.open = Some((journal, cursors));
            }
            Err(error) => self.failed(state, &error),
        }
    }

    /// Counts a failure, and logs the first of several.
    fn failed(&self, state: &mut State, error: &JournalError) {
        state.failures += 1;
        if !std::mem::replace(&mut state.failing, true) {
            warn!(why = chain(error), "{} are kept in memory instead of in the journal", self.payload);
        }
    }

    /// Adds a request of the batch that was read at `time_ns`, ns since 1970. `false` where it could not be written: it is not in there.
    pub(super) fn append(&self, request: &Request, time_ns: u64) -> bool {
        let mut state = self.state();
        self.try_open(&mut state);
        let Some((journal, _)) = &mut state.open else { return false };
        let work = span::work("write to journal");
        work.set("podmeter.bytes", i64::try_from(request.body.len()).unwrap_or(i64::MAX));
        let appended = journal.append(info(request, self.payload, self.form, time_ns), &request.body);
        if let Err(error) = &appended {
            work.failed(&chain(error));
        }
        drop(work);
        state.note_dropped();
        match appended {
            Ok(_) => {
                if std::mem::take(&mut state.failing) {
                    info!("the journal of {} can be written again", self.payload);
                }
                true
            }
            Err(error) => {
                self.failed(&mut state, &error);
                false
            }
        }
    }

    /// The next entry for a receiver; `None` when it has had all, or while it cannot be read.
    fn next(&self, index: usize) -> Option<Entry> {
        let mut state = self.state();
        let (journal, cursors) = state.open.as_mut()?;
        let read = journal.next(cursors[index]);
        state.note_dropped();
        read.unwrap_or_else(|error| {
            self.failed(&mut state, &error);
            None
        })
    }

    fn stats(&self) -> JournalStats {
        let state = self.state();
        JournalStats { bytes: state.open.as_ref().map_or(0, |(journal, _)| journal.bytes()), failures: state.failures }
    }

    /// Writes down how far requests have been sent, and waits until all is on the disk.
    pub(super) fn close(&self) {
        let mut state = self.state();
        let Some((journal, _)) = state.open.take() else { return };
        if let Err(error) = journal.close() {
            self.failed(&mut state, &error);
        }
    }
}

impl State {
    /// Takes note of what receivers have lost.
    fn note_dropped(&mut self) {
        let Some((journal, cursors)) = &mut self.open else { return };
        for (dropped, cursor) in self.dropped.iter_mut().zip(cursors) {
            dropped.add(&journal.take_dropped(*cursor));
        }
    }
}

impl Backlog {
    /// What waits for the receiver in this place, which takes requests of this form.
    pub(super) fn new(store: &Arc<Store>, index: usize, form: Form) -> Self {
        Self { store: Arc::clone(store), index, form }
    }

    /// The next request to be sent; `None` when all have been, or while it cannot be read.
    pub(super) fn next(&self) -> Option<Waiting> {
        loop {
            let entry = self.store.next(self.index)?;
            // Another compression takes some ten ms: the store is free for others meanwhile.
            if let Some(body) = Form::from_code(entry.info.form).and_then(|form| form.reframe(entry.body, self.form)) {
                let request = Request { body, count: entry.info.count, size: entry.info.size as usize };
                return Some(Waiting { request, sequence: entry.sequence, time_ns: entry.info.time_ns });
            }
            // Whole, but of a form that this version does not know.
            let dropped = &mut self.store.state().dropped[self.index];
            dropped.bad_entries += 1;
            dropped.bad_points += entry.info.count;
        }
    }

    /// What `look` finds in the journal for this receiver's cursor; `None` while it cannot be opened.
    fn with<T>(&self, look: impl FnOnce(&mut Journal, Cursor) -> T) -> Option<T> {
        let mut state = self.store.state();
        let (journal, cursors) = state.open.as_mut()?;
        Some(look(journal, cursors[self.index]))
    }

    /// This request, and all before it, need not be sent any more.
    pub(super) fn confirm(&self, sequence: Sequence) {
        if let Some(Err(error)) = self.with(|journal, cursor| journal.confirm(cursor, sequence)) {
            self.store.failed(&mut self.store.state(), &error);
        }
    }

    /// None that is there now will be sent. Gives the number of points in those that were not.
    pub(super) fn skip_all(&self) -> u64 {
        let skipped = self.with(|journal, cursor| {
            let points = journal.unread(cursor).points;
            journal.skip_all(cursor);
            points
        });
        skipped.unwrap_or(0)
    }

    /// The numbers of the next request to be sent, and of the next to be appended.
    pub(super) fn range(&self) -> (Sequence, Sequence) {
        self.with(|journal, cursor| (journal.position(cursor), journal.end())).unwrap_or_default()
    }

    /// What waits to be sent.
    pub(super) fn unread(&self) -> Unread {
        self.with(|journal, cursor| journal.unread(cursor)).unwrap_or_default()
    }

    /// What was dropped since this was last called.
    pub(super) fn take_dropped(&self) -> Dropped {
        std::mem::take(&mut self.store.state().dropped[self.index])
    }

    pub(super) fn stats(&self) -> JournalStats {
        self.store.stats()
    }
}
