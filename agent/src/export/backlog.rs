//! What waits on disk: requests of one payload in a [`journal`](crate::journal), and how far they have been sent.
//!
//! A journal that cannot be opened is tried again once a minute; until then, and whenever it cannot be written, the queue keeps requests
//! in memory.

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::{Payload, request::Form, request::Request};
use crate::{
    causes::chain,
    journal::{Cursor, Dropped, EntryInfo, Journal, JournalError, Kind, Limits, Sequence, Unread},
    span,
};

/// How often a journal that could not be opened is tried again.
const AGAIN: Duration = Duration::from_secs(60);

/// The name of the cursor of the one destination.
const CURSOR: &str = "receiver";

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

/// The journal of one payload.
#[derive(Debug)]
pub(super) struct Backlog {
    directory: PathBuf,
    limits: Limits,
    payload: Payload,
    form: Form,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    open: Option<(Journal, Cursor)>,
    /// When it could not be opened.
    tried: Option<Instant>,
    /// Times that it could not be written.
    failures: u64,
    /// It failed the last time.
    failing: bool,
    /// What was dropped, or found damaged, and not reported yet.
    dropped: Dropped,
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

impl Backlog {
    /// Opens the journal in a directory, or tries later where that fails.
    pub(super) fn open(directory: PathBuf, limits: Limits, payload: Payload, form: Form) -> Self {
        let state = State { open: None, tried: None, failures: 0, failing: false, dropped: Dropped::default() };
        let backlog = Self { directory, limits, payload, form, state: Mutex::new(state) };
        backlog.try_open(&mut backlog.state());
        backlog
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
            let cursor = journal.cursor(CURSOR)?;
            Ok((journal, cursor, recovered))
        });
        match opened {
            Ok((journal, cursor, recovered)) => {
                let (entries, unsent) = (recovered.entries, journal.unread(cursor).entries);
                let damaged = recovered.bad_entries + u64::from(recovered.cut_bytes > 0);
                let directory = self.directory.display();
                // To a microsecond.
                let took_ms = began.elapsed().as_micros() as f64 / 1e3;
                info!(entries, unsent, damaged, took_ms, "the journal of {} is in {directory}", self.payload);
                state.open = Some((journal, cursor));
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
        let Some((journal, cursor)) = &mut state.open else { return false };
        let work = span::work("write to journal");
        work.set("podmeter.bytes", i64::try_from(request.body.len()).unwrap_or(i64::MAX));
        let appended = journal.append(info(request, self.payload, self.form, time_ns), &request.body);
        if let Err(error) = &appended {
            work.failed(&chain(error));
        }
        drop(work);
        let dropped = journal.take_dropped(*cursor);
        state.dropped.add(&dropped);
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

    /// The next request to be sent; `None` when all have been, or while it cannot be read.
    pub(super) fn next(&self) -> Option<Waiting> {
        let mut state = self.state();
        loop {
            let (journal, cursor) = state.open.as_mut()?;
            let read = journal.next(*cursor);
            let dropped = journal.take_dropped(*cursor);
            state.dropped.add(&dropped);
            match read {
                Ok(None) => return None,
                Ok(Some(entry)) => {
                    let body = Form::from_code(entry.info.form).and_then(|form| form.reframe(entry.body, self.form));
                    let Some(body) = body else {
                        // Whole, but of a form that this version does not know.
                        state.dropped.bad_entries += 1;
                        state.dropped.bad_points += entry.info.count;
                        continue;
                    };
                    let request = Request { body, count: entry.info.count, size: entry.info.size as usize };
                    return Some(Waiting { request, sequence: entry.sequence, time_ns: entry.info.time_ns });
                }
                Err(error) => {
                    self.failed(&mut state, &error);
                    return None;
                }
            }
        }
    }

    /// This request, and all before it, need not be sent any more.
    pub(super) fn confirm(&self, sequence: Sequence) {
        let mut state = self.state();
        let Some((journal, cursor)) = &mut state.open else { return };
        if let Err(error) = journal.confirm(*cursor, sequence) {
            self.failed(&mut state, &error);
        }
    }

    /// None that is there now will be sent. Gives the number of points in those that were not.
    pub(super) fn skip_all(&self) -> u64 {
        let mut state = self.state();
        let Some((journal, cursor)) = &mut state.open else { return 0 };
        let points = journal.unread(*cursor).points;
        journal.skip_all(*cursor);
        points
    }

    /// The numbers of the next request to be sent, and of the next to be appended.
    pub(super) fn range(&self) -> (Sequence, Sequence) {
        let state = self.state();
        state.open.as_ref().map_or((0, 0), |(journal, cursor)| (journal.position(*cursor), journal.end()))
    }

    /// What waits to be sent.
    pub(super) fn unread(&self) -> Unread {
        let state = self.state();
        state.open.as_ref().map_or_else(Unread::default, |(journal, cursor)| journal.unread(*cursor))
    }

    /// What was dropped since this was last called.
    pub(super) fn take_dropped(&self) -> Dropped {
        std::mem::take(&mut self.state().dropped)
    }

    pub(super) fn stats(&self) -> JournalStats {
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
