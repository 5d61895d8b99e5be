//! What a person sees of long work: one line on stderr for each step, with its time.
//!
//! On a terminal the line moves while the step runs. Elsewhere it is written once. stdout stays free for what was requested.

use std::io::{IsTerminal, Write, stderr};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command;

const FRAMES: [char; 8] = ['⣾', '⣽', '⣻', '⢿', '⡿', '⣟', '⣯', '⣷'];
const FRAME: Duration = Duration::from_millis(200);
/// Characters of a line that moves: one that wraps could not be emptied. It is shown whole when it ends.
const WIDTH: usize = 66;
/// To the first column, and the line emptied.
const CLEAR: &str = "\r\x1b[2K";

/// Does some work under a line that names it. The work writes nothing to the terminal.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let line = Line::begin(what, stderr().is_terminal());
    let result = work();
    line.end(result.is_ok());
    result
}

/// Runs a cargo command that builds. cargo shows its own progress on a terminal; elsewhere only what it has to complain about.
pub(crate) fn build(what: &str, cargo: &mut Command) -> Result<()> {
    let shown = command::shown(cargo);
    let status = if stderr().is_terminal() {
        let begin = Instant::now();
        eprintln!("{what}");
        let status = cargo.status().with_context(|| format!("could not start `{shown}`"))?;
        eprintln!("{what}: {}", ended(begin.elapsed(), status.success()));
        status
    } else {
        let line = Line::begin(what, false);
        let output = cargo.env("CARGO_TERM_QUIET", "true").stdin(Stdio::null()).output();
        line.end(output.as_ref().is_ok_and(|output| output.status.success()));
        let output = output.with_context(|| format!("could not start `{shown}`"))?;
        // Warnings and errors; whoever reads this may have left.
        let _ = stderr().write_all(&output.stderr);
        output.status
    };
    if status.success() { Ok(()) } else { bail!("`{shown}` failed: {status}") }
}

/// A step that has begun.
struct Line {
    what: String,
    begin: Instant,
    /// What moves the line on a terminal; it stops when the channel closes.
    spinner: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Line {
    fn begin(what: &str, moves: bool) -> Self {
        let begin = Instant::now();
        if !moves {
            eprint!("{what} ... ");
            return Self { what: what.to_owned(), begin, spinner: None };
        }
        let (stop, stopped) = mpsc::channel();
        let shown: String = what.chars().take(WIDTH).collect();
        let spin = move || {
            for frame in FRAMES.iter().cycle() {
                eprint!("{CLEAR}{frame} {shown} {}", seconds(begin.elapsed()));
                if stopped.recv_timeout(FRAME) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        Self { what: what.to_owned(), begin, spinner: Some((stop, thread::spawn(spin))) }
    }

    fn end(self, well: bool) {
        let ended = ended(self.begin.elapsed(), well);
        let Some((stop, spinner)) = self.spinner else {
            eprintln!("{ended}");
            return;
        };
        drop(stop);
        let _ = spinner.join();
        eprintln!("{CLEAR}{}: {ended}", self.what);
    }
}

fn ended(time: Duration, well: bool) -> String {
    let time = seconds(time);
    if well { time } else { format!("failed after {time}") }
}

fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        seconds @ 10..120 => format!("{seconds} s"),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let shown = [0.04, 9.5, 59.9, 119.0, 120.0, 707.0].map(|time| seconds(Duration::from_secs_f64(time)));
        assert_eq!(shown, ["0.0 s", "9.5 s", "59 s", "119 s", "2 min 0 s", "11 min 47 s"]);
        assert_eq!(ended(Duration::from_secs(12), false), "failed after 12 s");
    }

    #[test]
    fn a_step_passes_its_result_on() {
        assert_eq!(step("x", || Ok(7)).unwrap(), 7);
        assert_eq!(step("x", || -> Result<()> { bail!("why") }).unwrap_err().to_string(), "why");
        Line::begin("x", true).end(true);
    }
}
