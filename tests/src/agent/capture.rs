//! What a running agent writes: exports on standard output, its log on standard error, read by threads.

use std::{
    io::{BufRead as _, BufReader},
    process::Child,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::Context as _;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;

use crate::otlp::Exports;

/// What the agent has written so far.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) exports: Exports,
    pub(super) logs: Vec<ExportLogsServiceRequest>,
    pub(super) stderr: String,
    /// The first line of standard output that was no valid export.
    pub(super) invalid: Option<String>,
    /// Standard output is at its end.
    pub(super) ended: bool,
}

/// The agent's output while threads read it.
#[derive(Debug, Default)]
pub(super) struct Capture {
    pub(super) written: Mutex<Written>,
    pub(super) changed: Condvar,
}

impl Capture {
    /// Reads the process's outputs until they end.
    pub(super) fn of(process: &mut Child) -> (Arc<Self>, Vec<thread::JoinHandle<()>>) {
        let capture = Arc::new(Self::default());
        let readers = vec![
            read(process.stdout.take(), capture.clone(), take_export, |written| written.ended = true),
            read(process.stderr.take(), capture.clone(), |written, line| written.stderr.extend([line, "\n"]), |_| ()),
        ];
        (capture, readers)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Written)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// Reads a pipe line by line until it ends.
fn read<R: std::io::Read + Send + 'static>(
    pipe: Option<R>,
    capture: Arc<Capture>,
    take: fn(&mut Written, &str),
    end: fn(&mut Written),
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let lines = pipe.into_iter().flat_map(|pipe| BufReader::new(pipe).lines().map_while(Result::ok));
        lines.for_each(|line| capture.change(|written| take(written, &line)));
        capture.change(end);
    })
}

fn take_export(written: &mut Written, line: &str) {
    let added = if line.starts_with("{\"resourceLogs\"") {
        serde_json::from_str(line).context("does not parse").map(|logs| written.logs.push(logs))
    } else {
        serde_json::from_str(line).context("does not parse").and_then(|request| written.exports.add(&request))
    };
    if let Err(error) = added {
        let start: String = line.chars().take(400).collect();
        written.invalid.get_or_insert(format!("{error:#}: {start}"));
    }
}
