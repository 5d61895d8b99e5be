//! Keys -> actions, and the texts of the help page.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::actions::{Action, TextPage};
use super::order::Sort;
use super::pages::TablePage;
use super::past::Way;
use super::state::TopState;

/// What a key means now; `None` when nothing.
pub fn action(key: KeyEvent, state: &TopState) -> Option<Action> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Some(Action::Quit),
            KeyCode::Char('z') => Some(Action::Suspend),
            KeyCode::Char('u') if state.is_editing() => Some(Action::EraseAll),
            KeyCode::Char('d' | 'f') => Some(Action::Page(1)),
            KeyCode::Char('u' | 'b') => Some(Action::Page(-1)),
            _ => None,
        };
    }
    if state.text_page().is_some() {
        return Some(reading(key.code, state));
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
        code if state.past().is_some() => replaying(code),
        KeyCode::Char(c) => command(c),
        _ => None,
    }
}

/// While a page of text is open: a key that does not move it closes it.
fn reading(code: KeyCode, state: &TopState) -> Action {
    match code {
        KeyCode::Down | KeyCode::Char('j') => Action::Scroll(1),
        KeyCode::Up | KeyCode::Char('k') => Action::Scroll(-1),
        KeyCode::PageDown | KeyCode::Char(' ') => Action::Scroll(state.page()),
        KeyCode::PageUp => Action::Scroll(-state.page()),
        KeyCode::Home | KeyCode::Char('g') => Action::Scroll(isize::MIN),
        KeyCode::End | KeyCode::Char('G') => Action::Scroll(isize::MAX),
        KeyCode::Char('?' | 'h') => Action::Open(TextPage::Help),
        KeyCode::Char('s') => Action::Open(TextPage::Signals),
        _ => Action::Close,
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

/// In a replay, where nothing comes by itself.
fn replaying(code: KeyCode) -> Option<Action> {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    Some(Action::Go(match code {
        KeyCode::Left => Way::Step(-1),
        KeyCode::Right => Way::Step(1),
        KeyCode::Char('[') => Way::Jump(-MINUTE),
        KeyCode::Char(']') => Way::Jump(MINUTE),
        KeyCode::Char('{') => Way::Jump(-HOUR),
        KeyCode::Char('}') => Way::Jump(HOUR),
        KeyCode::Char('(') => Way::Kill { later: false },
        KeyCode::Char(')') => Way::Kill { later: true },
        KeyCode::Char('p') => return None,
        KeyCode::Char(c) => return command(c),
        _ => return None,
    }))
}

fn command(c: char) -> Option<Action> {
    Some(match c {
        'c' => Action::Sort(Sort::Cpu),
        'b' => Action::Sort(Sort::Burst),
        'w' => Action::Sort(Sort::Wait),
        't' => Action::Sort(Sort::Throttled),
        'C' => Action::Sort(Sort::Contention),
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
        '1' => Action::Show(TablePage::Cpu),
        '2' => Action::Show(TablePage::Memory),
        '3' => Action::Show(TablePage::Network),
        'j' => Action::Move(1),
        'k' => Action::Move(-1),
        ' ' => Action::Page(1),
        'g' => Action::First,
        'G' => Action::Last,
        '/' => Action::EditFilter,
        'i' => Action::ToggleIdle,
        'v' => Action::NextShape,
        's' => Action::Open(TextPage::Signals),
        '?' | 'h' => Action::Open(TextPage::Help),
        'p' => Action::Pause,
        'q' => Action::Quit,
        _ => return None,
    })
}

/// Every key and what it does, for the help.
pub const HELP: &[(&str, &str)] = &[
    ("Tab  1 2 3", "next page; CPU, memory, network"),
    ("c b r", "sort by CPU now, burst P99, share of the request"),
    ("w t C", "sort by wait, throttled wait, contention"),
    ("T n", "sort by total CPU time, by name"),
    ("m l o", "sort by memory, share of its limit, kills"),
    ("x D", "sort by bytes, drops"),
    ("e R d", "sort by retransmits, round trip P99, DNS P99"),
    ("", "the same key again reverses the order"),
    ("Up Down  j k", "select a row"),
    ("PgUp PgDn Home End", "move by a page, to the first or last row"),
    ("Enter", "details of the selected row"),
    ("/", "filter: words of name, kind or cgroup"),
    ("v", "layout: tree, folded, flat"),
    ("i", "hide or show rows that used no CPU"),
    ("s", "signals: what is off or missing, and why"),
    ("p", "pause, continue"),
    ("Esc", "back"),
    ("Ctrl-Z", "suspend; fg continues"),
    ("q  Ctrl-C", "quit"),
];

/// What other keys do in a replay, for the help.
pub const REPLAY: &[(&str, &str)] = &[
    ("Left Right", "the collection before, the next one"),
    ("[ ]", "a minute back, a minute on"),
    ("{ }", "an hour back, an hour on"),
    ("( )", "the OOM kill before, the next one"),
];

/// What the columns mean, for the help.
pub const MEANING: &[(&str, &str)] = &[
    ("tree", "pods and services, containers below them;"),
    ("", "a pod with one container is one row"),
    ("folded, flat", "pods and services only; every cgroup by itself"),
    ("KIND", "what the cgroup is: Pod, Container, Service"),
    ("CPU", "cores used in the last interval; 12.3m is 0.0123"),
    ("request, limit", "what the pod or its cgroup is configured with"),
    ("USED", "CPU or working set as a share of request or limit"),
    ("SUGGEST", "request that fits the use: P95 of CPU per 100 ms;"),
    ("", "largest UNRECL + 15%. After 60 s of watching"),
    ("burst P50 P99", "cores used per 100 ms: median, 99th percentile"),
    ("wait ALL", "time ready to run but not running, per second"),
    ("THROTTLED", "of that, because of its own CPU limit"),
    ("CONTENTION", "of that, because others had the CPU; all of it"),
    ("", "where no CPU limit can be set"),
    ("WORKING", "memory in use without inactive page cache"),
    ("UNRECL", "memory that the kernel cannot reclaim"),
    ("KILLED", "processes killed by the OOM killer, in total"),
    ("RX TX DROPS", "bytes and dropped packets per second"),
    ("RETR", "share of TCP segments that were sent again"),
    ("tcp P50 P99", "round-trip time; FAILED: failed connections"),
    ("dns Q/S FAIL", "queries per second; share of lookups that failed"),
    ("NXDOM P50 P99", "share that ended with NXDOMAIN; response time"),
    ("LOOKUPS", "lookups behind these shares: last 100, or 5 min"),
    ("-", "not known, or not set"),
    ("yellow, red", "80%, 95% of a limit; waiting 0.1, 1 s per s"),
];
