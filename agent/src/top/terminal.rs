//! What the terminal can show, by its environment (pure), and how it is given back and taken again.

use std::borrow::Cow;
use std::io;

use crossterm::{
    cursor,
    terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ratatui::buffer::Buffer;

use super::format;

/// What a terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Colours: not where the user set `NO_COLOR` (<https://no-color.org>).
    pub colour: bool,
    /// Characters beyond ASCII: not where the locale has none, nor on the console, whose font lacks them.
    pub unicode: bool,
    /// Moving the cursor. A dumb terminal only prints line after line.
    pub cursor: bool,
}

impl Abilities {
    /// By this process's environment.
    pub fn from_environment() -> Self {
        Self::of(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn of(get: impl Fn(&str) -> Option<String>) -> Self {
        let term = get("TERM").unwrap_or_default();
        // The first one that is set counts. Where none is, as in most containers, the terminal outside may well show everything.
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(get_lower(&get));
        let dumb = term == "dumb";
        Self {
            colour: get("NO_COLOR").is_none(),
            unicode: !dumb && term != "linux" && locale.is_none_or(|l| l.contains("utf-8") || l.contains("utf8")),
            cursor: !dumb,
        }
    }
}

fn get_lower(get: impl Fn(&str) -> Option<String>) -> impl Fn(&str) -> Option<String> {
    move |name| get(name).map(|value| value.to_lowercase())
}

/// `text` in ASCII alone: what it is drawn with has something like it there, of names only a `?` stays.
pub fn to_ascii(text: &str) -> Cow<'_, str> {
    if text.is_ascii() { Cow::Borrowed(text) } else { Cow::Owned(text.chars().map(ascii_for).collect()) }
}

/// The same for a drawn picture.
pub fn picture_to_ascii(buffer: &mut Buffer) {
    for cell in buffer.content.iter_mut().filter(|cell| !cell.symbol().is_ascii()) {
        let columns = format::width(cell.symbol()).max(1);
        let text: String = cell.symbol().chars().take(1).map(ascii_for).collect();
        // The cell after a wide one is not written, so that one is filled here.
        cell.set_symbol(&format!("{text:?<columns$}"));
    }
}

fn ascii_for(c: char) -> char {
    match c {
        c if c.is_ascii() => c,
        '━' => '#',
        '─' => '-',
        '▾' => 'v',
        '▴' => '^',
        '▏' => '_',
        '…' => '~',
        'µ' => 'u',
        '▁' => '.',
        '▂' => ':',
        '▃' => '-',
        '▄' => '=',
        '▅' => '+',
        '▆' => '*',
        '▇' => '%',
        '█' => '#',
        _ => '?',
    }
}

/// Stops this process as Ctrl-Z does, and whoever it shares its job with; returns when it goes on. Meanwhile the terminal is as it
/// was before.
///
/// In raw mode the terminal sends no signal for Ctrl-Z. Where no shell could continue it, the kernel ignores the signal.
pub fn suspend() -> io::Result<()> {
    crossterm::execute!(io::stdout(), LeaveAlternateScreen, cursor::Show)?;
    disable_raw_mode()?;
    kill(Pid::from_raw(0), Signal::SIGTSTP)?;
    take()
}

/// Takes the terminal for drawing, also one that a shell has set back meanwhile. It is blank then.
pub fn take() -> io::Result<()> {
    // What crossterm remembers of the mode may be wrong by now.
    disable_raw_mode()?;
    enable_raw_mode()?;
    crossterm::execute!(io::stdout(), EnterAlternateScreen, Clear(ClearType::All), cursor::Hide)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_what_can_be_shown() {
        // Variables, and whether colour, Unicode and a cursor can be used.
        for (set, wanted) in [
            (&[][..], [true, true, true]),
            (&[("TERM", "xterm"), ("LANG", "en_US.UTF-8")], [true, true, true]),
            (&[("LANG", "C.utf8"), ("NO_COLOR", "1")], [false, true, true]),
            (&[("LANG", "en_US.UTF-8"), ("LC_ALL", "C")], [true, false, true]),
            (&[("LANG", "C"), ("LC_CTYPE", "de_DE.UTF-8")], [true, true, true]),
            (&[("LANG", "C")], [true, false, true]),
            (&[("LANG", "de_DE.ISO-8859-1")], [true, false, true]),
            (&[("TERM", "linux"), ("LANG", "en_US.UTF-8")], [true, false, true]),
            (&[("TERM", "dumb"), ("LANG", "en_US.UTF-8")], [true, false, false]),
        ] {
            let get = |name: &str| set.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
            let Abilities { colour, unicode, cursor } = Abilities::of(get);
            assert_eq!([colour, unicode, cursor], wanted, "{set:?}");
        }
    }

    #[test]
    fn ascii_has_something_for_everything() {
        assert_eq!(to_ascii("shop/web"), "shop/web");
        assert_eq!(to_ascii("85µs ▁▄█ a…b ─ ü"), "85us .=# a~b - ?");
        let mut buffer = Buffer::with_lines(["日a━"]);
        picture_to_ascii(&mut buffer);
        assert!(buffer.content.iter().all(|cell| cell.symbol().is_ascii()));
        assert_eq!(buffer[(0, 0)].symbol(), "??", "as wide as before");
    }
}
