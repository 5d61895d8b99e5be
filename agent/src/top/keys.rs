//! Keys -> actions.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::order::Sort;
use super::pages::Page;
use super::state::{Action, State};

/// What a key means now; `None` when nothing.
pub fn action(key: KeyEvent, state: &State) -> Option<Action> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Some(Action::Quit),
            KeyCode::Char('u') if state.is_editing() => Some(Action::EraseAll),
            KeyCode::Char('d' | 'f') => Some(Action::Page(1)),
            KeyCode::Char('u' | 'b') => Some(Action::Page(-1)),
            _ => None,
        };
    }
    if state.shows_help() {
        // Whatever is pressed, the help has been read.
        return Some(Action::Help);
    }
    match key.code {
        KeyCode::Down => Some(Action::Move(1)),
        KeyCode::Up => Some(Action::Move(-1)),
        KeyCode::PageDown => Some(Action::Page(1)),
        KeyCode::PageUp => Some(Action::Page(-1)),
        KeyCode::Home => Some(Action::First),
        KeyCode::End => Some(Action::Last),
        KeyCode::Esc => Some(Action::Back),
        code if state.is_editing() => typed(code),
        KeyCode::Enter => Some(Action::Detail),
        KeyCode::Tab => Some(Action::NextPage),
        KeyCode::Char(c) => command(c),
        _ => None,
    }
}

fn typed(code: KeyCode) -> Option<Action> {
    match code {
        KeyCode::Enter => Some(Action::Accept),
        KeyCode::Backspace => Some(Action::Erase),
        KeyCode::Char(c) => Some(Action::Type(c)),
        _ => None,
    }
}

fn command(c: char) -> Option<Action> {
    Some(match c {
        'c' => Action::Sort(Sort::Cpu),
        'b' => Action::Sort(Sort::Burst),
        'w' => Action::Sort(Sort::Wait),
        't' => Action::Sort(Sort::Throttled),
        'r' => Action::Sort(Sort::Request),
        'n' => Action::Sort(Sort::Name),
        'T' => Action::Sort(Sort::Time),
        'm' => Action::Sort(Sort::Memory),
        'l' => Action::Sort(Sort::MemoryLimit),
        'o' => Action::Sort(Sort::OomKills),
        'x' => Action::Sort(Sort::Traffic),
        'D' => Action::Sort(Sort::Drops),
        'e' => Action::Sort(Sort::Retransmits),
        'R' => Action::Sort(Sort::RoundTrip),
        'd' => Action::Sort(Sort::Dns),
        '1' => Action::Show(Page::Cpu),
        '2' => Action::Show(Page::Memory),
        '3' => Action::Show(Page::Network),
        'j' => Action::Move(1),
        'k' => Action::Move(-1),
        ' ' => Action::Page(1),
        'g' => Action::First,
        'G' => Action::Last,
        '/' => Action::EditFilter,
        'i' => Action::ToggleIdle,
        '?' | 'h' => Action::Help,
        'p' => Action::Pause,
        'q' => Action::Quit,
        _ => return None,
    })
}

/// Every key and what it does, for the help.
pub const HELP: &[(&str, &str)] = &[
    ("Tab  1 2 3", "pages: CPU, memory, network"),
    ("c b r", "order by CPU now, burst p99, use of the request"),
    ("w t", "order by waiting, throttled waiting"),
    ("T n", "order by CPU time in total, by name"),
    ("m l o", "order by memory, use of its limit, kills"),
    ("x D", "order by bytes, drops"),
    ("e R d", "order by retransmits, round trip p99, DNS p99"),
    ("", "the same key again: the other way round"),
    ("j k ↑ ↓", "select a workload"),
    ("PgUp PgDn Home End", "go far"),
    ("Enter", "everything about the selected one"),
    ("/", "filter by words of name, kind, cgroup"),
    ("i", "hide or show what used no CPU"),
    ("p", "hold the picture"),
    ("Esc", "back"),
    ("q  Ctrl-C", "quit"),
];

/// What the figures mean, for the help.
pub const MEANING: &[(&str, &str)] = &[
    ("CPU", "CPUs used in the last interval; 12.3m is 0.0123"),
    ("used", "CPU, or the working set, of what was requested or allowed"),
    ("suggest", "to request: p95 of burst; most fixed + 15%"),
    ("burst", "CPUs used per 100 ms: median and 99th percentile"),
    ("wait", "runnable but not running, per second of time"),
    ("throttled", "… because of its own limit"),
    ("contention", "… because others had the CPU"),
    ("working", "memory in use without inactive page cache"),
    ("fixed", "memory that the kernel cannot take back"),
    ("killed", "processes killed for want of memory, ever"),
    ("rx tx drops", "bytes and dropped packets per s"),
    ("retr", "TCP segments sent again, of those sent"),
    ("p50 p99", "round trips; times to a DNS answer"),
    ("-", "not known, or not set"),
];
