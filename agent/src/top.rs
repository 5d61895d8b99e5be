//! `podmeter top`: what every workload of this node uses now, on the terminal.
//!
//! Snapshots (`Snapshot`) come from a [`SnapshotSource`] on a thread of its own, so that keys are answered while one is read.
//! `state` holds what is known and chosen, `render` draws it; both are pure and tested without a terminal.

use std::error::Error;
use std::io::{self, IsTerminal, Write as _};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossterm::event::{self, Event};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ratatui::DefaultTerminal;
use signal_hook::consts::SIGCONT;

use self::actions::Action;
pub use self::options::TopOptions;
use self::past::Past;
use self::state::{TopFacts, TopState};
pub use self::terminal::{Abilities, to_ascii};
use self::theme::Theme;
use crate::{causes::chain, interrupt::Interrupt, snapshot::document::Snapshot};

mod actions;
mod columns;
mod detail;
mod format;
mod keys;
mod label;
mod layout;
pub mod once;
mod options;
mod order;
mod pages;
pub mod past;
mod render;
mod shares;
mod state;
mod status;
mod terminal;
#[cfg(test)]
mod tests;
mod text_page;
mod theme;
mod tree;

/// How long a key or a signal may wait while nothing else happens.
const PATIENCE: Duration = Duration::from_millis(100);

/// The longest time between two ticks of a source.
pub const TICK: Duration = Duration::from_secs(1);

/// Where snapshots come from.
pub trait SnapshotSource {
    /// Reads the node now: what happened since the call before.
    ///
    /// # Errors
    /// What could not be read. The first failure of all ends the view; later ones are shown, and the next call is the next try.
    fn next(&mut self) -> Result<Snapshot, Box<dyn Error + Send + Sync>>;

    /// What must be done at least every [`TICK`] between two snapshots. A failure shows in the next one.
    fn tick(&mut self) {}
}

/// Why the live view ended.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// There is nothing to draw on.
    #[error("standard output is not a terminal; `podmeter top --once` prints one snapshot as text, with `--json` as JSON")]
    NotATerminal,
    /// The terminal refused.
    #[error("could not {doing} the terminal")]
    Terminal {
        /// What was being done with it.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// No handler for SIGTERM and the like, without which the terminal would stay unusable after one.
    #[error("could not prepare for signals")]
    Signals(#[source] io::Error),
    /// No thread for reading.
    #[error("could not start the thread that reads the snapshots")]
    Thread(#[source] io::Error),
    /// Standard output is gone or full.
    #[error("could not write to standard output")]
    Write(#[source] io::Error),
    /// Not even one snapshot could be read.
    #[error("could not read the first snapshot")]
    Source(#[source] Box<dyn Error + Send + Sync>),
    /// The reading thread ended by itself.
    #[error("the thread that reads the snapshots ended unexpectedly")]
    Ended,
}

/// Shows the snapshots of `source`, one per `interval`, until the user quits or SIGTERM, SIGINT or SIGHUP asks to.
///
/// The terminal is restored in any case, also after a panic and while the user has suspended the process. One that cannot move its
/// cursor gets a table of text per interval instead.
///
/// # Errors
/// No terminal, a terminal that fails, or a source whose first snapshot cannot be read.
pub fn live(
    source: Box<dyn SnapshotSource + Send>,
    interval: Duration,
    options: &TopOptions,
    interrupt: &Interrupt,
) -> Result<(), TopError> {
    if !io::stdout().is_terminal() {
        return Err(TopError::NotATerminal);
    }
    let abilities = Abilities::from_environment();
    let mut reader = SnapshotReader::start(source, interval).map_err(TopError::Thread)?;
    let shown = if abilities.cursor {
        on_terminal(&mut reader, TopState::new(facts(interval), options), abilities, interrupt)
    } else {
        print(&mut reader, facts(interval), options, interrupt)
    };
    reader.finish();
    shown
}

/// Shows the past, until the user quits or SIGTERM, SIGINT or SIGHUP asks to. A terminal that cannot move its cursor gets what is shown
/// first as a table of text.
///
/// # Errors
/// No terminal, a terminal that fails, or a first collection that cannot be read.
pub fn replay(past: &mut dyn Past, options: &TopOptions, interrupt: &Interrupt) -> Result<(), TopError> {
    if !io::stdout().is_terminal() {
        return Err(TopError::NotATerminal);
    }
    let abilities = Abilities::from_environment();
    let (mut feed, mut state) = (Replay(past), TopState::replaying(facts(Duration::ZERO), options));
    if abilities.cursor {
        return on_terminal(&mut feed, state, abilities, interrupt);
    }
    feed.take(&mut state)?;
    let text = state.snapshot().map(|snapshot| once::text(snapshot, options, once::columns())).unwrap_or_default();
    write_text(&text).map(drop)
}

/// Where what is shown comes from.
trait Feed {
    /// Puts what is there into the state; true when there was something.
    fn take(&mut self, state: &mut TopState) -> Result<bool, TopError>;
}

/// The past that is shown, on this thread: nothing comes until a key wants it.
struct Replay<'a>(&'a mut dyn Past);

impl Feed for Replay<'_> {
    fn take(&mut self, state: &mut TopState) -> Result<bool, TopError> {
        let ways = state.past_mut().map(past::PastView::take_wanted).unwrap_or_default();
        for way in &ways {
            match self.0.go(*way) {
                Ok(shown) => state.show_past(shown),
                Err(error) if state.snapshot().is_none() => return Err(TopError::Source(error)),
                Err(error) => state.fail(chain(&*error)),
            }
        }
        Ok(!ways.is_empty())
    }
}

fn on_terminal(feed: &mut dyn Feed, state: TopState, abilities: Abilities, interrupt: &Interrupt) -> Result<(), TopError> {
    let continued = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGCONT, Arc::clone(&continued)).map_err(TopError::Signals)?;
    let theme = Theme::new(abilities.colour, abilities.unicode);
    // Also hooks panics, so that their message comes after the terminal is restored.
    let terminal = ratatui::try_init();
    show_cursor_on_panic();
    let shown = terminal
        .map_err(|source| TopError::Terminal { doing: "set up", source })
        .and_then(|mut terminal| show(&mut terminal, feed, (interrupt, &continued), state, theme));
    if matches!(shown, Err(TopError::Ended)) {
        // The reader's panic has restored the terminal; doing it twice would overwrite its message.
        return shown;
    }
    let restored = ratatui::try_restore().map_err(|source| TopError::Terminal { doing: "restore", source });
    shown.and(restored)
}

fn show(
    terminal: &mut DefaultTerminal,
    feed: &mut dyn Feed,
    (interrupt, continued): (&Interrupt, &AtomicBool),
    mut state: TopState,
    theme: Theme,
) -> Result<(), TopError> {
    let failed = |doing| move |source| TopError::Terminal { doing, source };
    let mut changed = true;
    while !state.wants_to_quit() && !interrupt.came() && !has_hung_up(io::stdout()) {
        if continued.swap(false, Ordering::Relaxed) {
            // Whoever stopped this process has used the screen.
            terminal::take().map_err(failed("take back"))?;
            draw_anew(terminal);
            changed = true;
        }
        changed |= feed.take(&mut state)?;
        if changed {
            terminal.draw(|frame| render::draw(frame, &mut state, theme)).map_err(failed("draw on"))?;
        }
        changed = false;
        // All keys that are there are taken before the next frame, so that a held key does not lag.
        let mut patience = PATIENCE;
        while event::poll(patience).map_err(failed("read from"))? {
            match event::read().map_err(failed("read from"))? {
                Event::Key(key) => match keys::action(key, &state) {
                    Some(Action::Suspend) => {
                        terminal::suspend().map_err(failed("give or take back"))?;
                        draw_anew(terminal);
                        continued.store(false, Ordering::Relaxed);
                    }
                    Some(action) => state.apply(action),
                    None => {}
                },
                Event::Paste(text) if state.is_editing() => {
                    text.chars().filter(|c| !c.is_control()).for_each(|c| state.apply(Action::Type(c)));
                }
                _ => {}
            }
            changed = true;
            patience = Duration::ZERO;
        }
    }
    Ok(())
}

/// Lets the next frame draw everything, for a screen that is blank now. `Terminal::clear` would ask the terminal where its cursor is and
/// wait for the answer.
fn draw_anew(terminal: &mut DefaultTerminal) {
    terminal.swap_buffers();
}

/// A table of text per interval, for a terminal that only prints.
fn print(reader: &mut SnapshotReader, facts: TopFacts, options: &TopOptions, interrupt: &Interrupt) -> Result<(), TopError> {
    let mut state = TopState::new(facts, options);
    while !interrupt.came() && !has_hung_up(io::stdout()) {
        if !reader.take(&mut state)? {
            std::thread::sleep(PATIENCE);
            continue;
        }
        let text = match (state.error(), state.snapshot()) {
            (Some(error), _) => format!("could not read the kernel, retrying: {}\n\n", format::printable(error)),
            (None, Some(snapshot)) => once::text(snapshot, options, once::columns()) + "\n",
            (None, None) => continue,
        };
        if !write_text(&text)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Writes to standard output; false when nobody reads it any more.
fn write_text(text: &str) -> Result<bool, TopError> {
    match io::stdout().write_all(to_ascii(text).as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).map_err(TopError::Write),
    }
}

/// True when the terminal is gone, also where no SIGHUP came (`nohup`, an orphaned session).
fn has_hung_up(terminal: impl AsFd) -> bool {
    let mut polled = [PollFd::new(terminal.as_fd(), PollFlags::empty())];
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    poll(&mut polled, PollTimeout::ZERO).is_ok() && polled[0].revents().is_some_and(|seen| seen.intersects(gone))
}

/// ratatui's hook leaves this to the terminal's destructor, which does not run where a panic aborts.
fn show_cursor_on_panic() {
    let next = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // Nothing more can be done for a terminal that does not take it.
        let _ = crossterm::execute!(io::stdout(), crossterm::cursor::Show);
        next(panic);
    }));
}

fn facts(interval: Duration) -> TopFacts {
    let kernel = nix::sys::utsname::uname()
        .map(|name| format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy()))
        .unwrap_or_default();
    TopFacts { kernel, agent: concat!("v", env!("CARGO_PKG_VERSION")).to_owned(), interval }
}

type ReadResult = Result<Snapshot, Box<dyn Error + Send + Sync>>;

/// The thread that reads the snapshots.
struct SnapshotReader {
    readings: Receiver<ReadResult>,
    /// Dropped to end the thread.
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl SnapshotReader {
    fn start(source: Box<dyn SnapshotSource + Send>, interval: Duration) -> io::Result<Self> {
        let (to, readings) = mpsc::sync_channel(1);
        let (stop, stopped) = mpsc::channel();
        let thread =
            std::thread::Builder::new().name("top-reader".into()).spawn(move || read(source, interval, &to, &stopped))?;
        Ok(Self { readings, stop, thread })
    }

    /// Ends the thread and waits until the source is dropped.
    fn finish(self) {
        drop(self.readings);
        drop(self.stop);
        // A panic in it was already reported by the hook.
        let _ = self.thread.join();
    }
}

impl Feed for SnapshotReader {
    fn take(&mut self, state: &mut TopState) -> Result<bool, TopError> {
        let mut changed = false;
        loop {
            match self.readings.try_recv() {
                Ok(Ok(snapshot)) => state.update(snapshot),
                Ok(Err(error)) if state.snapshot().is_none() => return Err(TopError::Source(error)),
                Ok(Err(error)) => state.fail(chain(&*error)),
                Err(TryRecvError::Empty) => return Ok(changed),
                Err(TryRecvError::Disconnected) => return Err(TopError::Ended),
            }
            changed = true;
        }
    }
}

fn read(mut source: Box<dyn SnapshotSource + Send>, interval: Duration, to: &SyncSender<ReadResult>, stopped: &Receiver<()>) {
    let mut due = Instant::now();
    loop {
        if to.send(source.next()).is_err() {
            return;
        }
        // A reading that took longer than the interval is not made up for.
        due = (due + interval).max(Instant::now());
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if stopped.recv_timeout(left.min(TICK)) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            if left <= TICK {
                break;
            }
            source.tick();
        }
    }
}
