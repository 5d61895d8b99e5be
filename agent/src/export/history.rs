//! The journal of an agent on this node -> OTLP JSON, for looking back: beside an agent that runs, or without one.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{Payload, backlog::part, request::Form};
use crate::journal::{Entry, JournalError, Reader};
use crate::protobuf;

/// No agent keeps a journal in this directory.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no journal in {}; set journal.directory in the agent's configuration, and give that configuration here with --config",
    .0.display()
)]
pub struct NoJournal(pub PathBuf);

/// Why the journal cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// There is none.
    #[error(transparent)]
    None(#[from] NoJournal),
    /// It cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The lines cannot be written.
    #[error("could not write to stdout")]
    Write(#[source] io::Error),
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Lines: requests.
    pub lines: u64,
    /// Requests that are damaged, or of a form that this version does not know.
    pub damaged: u64,
}

/// Writes what was exported from `from_ns` until before `until_ns`, both in ns since 1970: one request a line, in the order of time.
///
/// # Errors
/// When there is no journal in the directory, or it cannot be read, or nothing can be written.
pub fn write(directory: &Path, from_ns: u64, until_ns: u64, out: &mut impl Write) -> Result<Written, HistoryError> {
    let mut written = Written::default();
    let mut readings = Vec::new();
    for (payload, part) in [Payload::Metrics, Payload::Logs].into_iter().zip(parts(directory)) {
        if part.is_dir() {
            readings.push((payload, Reader::open(&part)?.between(from_ns, until_ns)?, None));
        }
    }
    if readings.is_empty() {
        return Err(NoJournal(directory.to_owned()).into());
    }
    loop {
        for (_, entries, next) in readings.iter_mut().filter(|(.., next)| next.is_none()) {
            *next = entries.next().transpose()?;
        }
        let time = |next: &Option<Entry>| next.as_ref().map(|entry| entry.info.time_ns);
        let earliest = readings.iter_mut().filter(|(.., next)| next.is_some()).min_by_key(|(.., next)| time(next));
        let Some((payload, _, next)) = earliest else { break };
        let Some(line) = next.take().and_then(|entry| line(*payload, &entry)) else {
            written.damaged += 1;
            continue;
        };
        out.write_all(line.as_bytes()).map_err(HistoryError::Write)?;
        written.lines += 1;
    }
    written.damaged += readings.iter().map(|(_, entries, _)| entries.bad_entries()).sum::<u64>();
    out.flush().map_err(HistoryError::Write)?;
    Ok(written)
}

/// The directories in a journal's that have metrics and events.
pub fn parts(directory: &Path) -> [PathBuf; 2] {
    [Payload::Metrics, Payload::Logs].map(|payload| directory.join(part(payload)))
}

fn line(payload: Payload, entry: &Entry) -> Option<String> {
    let message = Form::from_code(entry.info.form)?.message(&entry.body)?;
    let resources: Vec<String> = protobuf::fields(&message).map(|resource| payload.json(resource.value)).collect();
    Some(format!("{{\"{}\":[{}]}}\n", payload.field(), resources.join(",")))
}
