//! Which signals are off or incomplete, and why (pure): for the header, the page of signals, and text.

use super::format;
use crate::snapshot::document::{Overhead, Snapshot};

/// State of one signal, or of the connection to Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusEntry {
    /// Name of the signal, or `kubernetes`.
    pub name: String,
    /// Whether it is measured.
    pub mark: StatusMark,
    /// Why it is off, or what it lacks; may have several lines.
    pub text: String,
}

/// Whether something is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusMark {
    /// It is measured.
    On,
    /// It is measured, but something is missing or different.
    Note,
    /// It is not measured.
    Off,
}

impl StatusMark {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            StatusMark::On => "on",
            StatusMark::Note => "note",
            StatusMark::Off => "off",
        }
    }
}

/// The name of the entry about Kubernetes.
const PODS: &str = "kubernetes";
/// That of the entry about podmeter's own cost.
const OVERHEAD: &str = "overhead";

/// Everything, one entry each.
pub fn entries(snapshot: &Snapshot) -> Vec<StatusEntry> {
    let signals = snapshot.signals.iter().map(|signal| {
        let (mark, text) = match (&signal.reason, &signal.note) {
            (Some(reason), _) => (StatusMark::Off, reason.as_str()),
            (None, _) if !signal.on => (StatusMark::Off, ""),
            (None, Some(note)) => (StatusMark::Note, note.as_str()),
            (None, None) => (StatusMark::On, ""),
        };
        StatusEntry { name: signal.name.clone(), mark, text: text.to_owned() }
    });
    let pods = match &snapshot.kubernetes {
        Some(kubernetes) if kubernetes.current => Some((StatusMark::On, "pods are named".to_owned())),
        Some(kubernetes) => Some((StatusMark::Off, kubernetes.error.clone().unwrap_or_else(|| "no response yet".to_owned()))),
        None if snapshot.workloads.iter().any(|workload| workload.is_a("Pod")) => Some((
            StatusMark::Off,
            "no Kubernetes API is configured, so pods have no names: set kubernetes.kubeconfig (--config)".to_owned(),
        )),
        None => None,
    };
    let pods = pods.map(|(mark, text)| StatusEntry { name: PODS.to_owned(), mark, text });
    signals.chain(pods).chain(snapshot.overhead.as_ref().map(price)).collect()
}

/// What podmeter costs; a note where it does without something for it.
fn price(overhead: &Overhead) -> StatusEntry {
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let total = percent(overhead.agent_cores + overhead.programs_cores.unwrap_or(0.0));
    let parts = match overhead.programs_cores {
        Some(programs) => format!("agent {}, programs {}", percent(overhead.agent_cores), percent(programs)),
        None => "agent alone".to_owned(),
    };
    let limit = overhead.limit_cores.map_or_else(String::new, |limit| format!(", limit {}", percent(limit)));
    let cost = format!("podmeter takes {total} of one core ({parts}{limit})");
    match &overhead.given_up[..] {
        [] => StatusEntry { name: OVERHEAD.to_owned(), mark: StatusMark::On, text: cost },
        steps => {
            let text = format!("without {} to stay within overhead.cpu: {cost}", steps.join(", "));
            StatusEntry { name: OVERHEAD.to_owned(), mark: StatusMark::Note, text }
        }
    }
}

/// What is off or has a note, one line of text each.
pub fn lines(snapshot: &Snapshot) -> Vec<String> {
    let of = |entry: StatusEntry| {
        let first = first_line(&entry.text);
        let why = if first.is_empty() { String::new() } else { format!(" ({first})") };
        format!("{}: {}{why}", entry.mark.as_str(), entry.name)
    };
    let mut entries = entries(snapshot);
    entries.retain(|entry| entry.mark != StatusMark::On);
    entries.sort_by_key(|entry| entry.mark != StatusMark::Off);
    entries.into_iter().map(of).collect()
}

/// The same in `columns` columns: names always, reasons as far as there is room; and whether anything is off. `None` where all is on.
pub fn line(snapshot: &Snapshot, columns: usize) -> Option<(String, bool)> {
    const MORE: &str = "  (s: why)";
    const LEAST: usize = 24;
    let entries: Vec<StatusEntry> = entries(snapshot).into_iter().filter(|entry| entry.mark != StatusMark::On).collect();
    if entries.is_empty() {
        return None;
    }
    let whole = |(off_room, note_room): (usize, usize)| {
        let group = |mark: StatusMark| {
            let room = if mark == StatusMark::Off { off_room } else { note_room };
            let of: Vec<String> = entries
                .iter()
                .filter(|entry| entry.mark == mark)
                .map(|entry| {
                    let why = format::cut(first_line(&entry.text), room).into_owned();
                    if why.is_empty() { entry.name.clone() } else { format!("{} ({why})", entry.name) }
                })
                .collect();
            (!of.is_empty()).then(|| format!("{}: {}", mark.as_str(), of.join(", ")))
        };
        [StatusMark::Off, StatusMark::Note].into_iter().filter_map(group).collect::<Vec<_>>().join("  ")
    };
    // A few letters of a reason are useless. Reasons come before notes.
    let longest = entries.iter().map(|entry| format::width(first_line(&entry.text))).max().unwrap_or(0).max(LEAST);
    let rooms = (LEAST..=longest).rev().map(|room| (room, room)).chain((LEAST / 2..=longest).rev().map(|room| (room, 0)));
    let fitting = rooms.map(whole).find(|text| format::width(text) + MORE.len() <= columns);
    let text = fitting.unwrap_or_else(|| whole((0, 0)));
    let line = if format::width(&text) + MORE.len() <= columns { text + MORE } else { format::cut(&text, columns).into_owned() };
    let is_off = entries.iter().any(|entry| entry.mark == StatusMark::Off);
    Some((format::printable(&line).into_owned(), is_off))
}

/// The verifier's log follows on further lines.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// `text` in lines of at most `columns` columns, printable.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in format::printable(paragraph).split(' ') {
            let mut word = word.to_owned();
            if !line.is_empty() && format::width(&line) + 1 + format::width(&word) > columns {
                lines.push(std::mem::take(&mut line));
            }
            // A word that is too long for any line is broken.
            while format::width(&word) > columns {
                let (mut fits, mut used) = (0, 0);
                for (at, c) in word.char_indices() {
                    used += format::width(c.encode_utf8(&mut [0; 4]));
                    if used > columns {
                        break;
                    }
                    fits = at + c.len_utf8();
                }
                let rest = word.split_off(fits.max(word.chars().next().map_or(0, char::len_utf8)));
                lines.push(std::mem::replace(&mut word, rest));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line += &word;
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::document::{KubernetesStatus, SignalStatus, WorkloadUsage};

    fn snapshot(signals: &[(&str, Option<&str>, Option<&str>)]) -> Snapshot {
        let some = |text: &Option<&str>| text.map(str::to_owned);
        let state = |(name, reason, note): &(&str, Option<&str>, Option<&str>)| SignalStatus {
            name: (*name).to_owned(),
            on: reason.is_none(),
            reason: some(reason),
            note: some(note),
        };
        Snapshot { signals: signals.iter().map(state).collect(), ..Snapshot::default() }
    }

    const LONG: &str = "could not load tcp_on_walk: Operation not permitted (os error 1)\nverifier log";

    #[test]
    fn what_is_off_is_shown_as_far_as_there_is_room() {
        let some = snapshot(&[("cpu", None, None), ("tcp", Some(LONG), None), ("memory", None, Some("read from files"))]);
        for (columns, wanted) in [
            (
                140,
                "off: tcp (could not load tcp_on_walk: Operation not permitted (os error 1))  note: memory (read from files)  \
                 (s: why)",
            ),
            (90, "off: tcp (could not load tcp…itted (os error 1))  note: memory (read from files)  (s: why)"),
            (80, "off: tcp (could not loa… (os error 1))  note: memory (read from files)  (s: why)"),
            (60, "off: tcp (could not lo…(os error 1))  note: memory  (s: why)"),
            (40, "off: tcp  note: memory  (s: why)"),
            (30, "off: tcp  note: memory"),
            (10, "off:…emory"),
        ] {
            let (line, is_off) = line(&some, columns).expect("something is off");
            assert!(is_off);
            assert!(format::width(&line) <= columns, "{line}");
            assert_eq!(line, wanted, "{columns}");
        }
        assert_eq!(
            lines(&some),
            ["off: tcp (could not load tcp_on_walk: Operation not permitted (os error 1))", "note: memory (read from files)"]
        );
        let well = snapshot(&[("cpu", None, None)]);
        assert_eq!((line(&well, 80), lines(&well)), (None, vec![]));
    }

    #[test]
    fn the_reason_is_shown_why_pods_have_no_names() {
        let with = |kubernetes| Snapshot { kubernetes, ..Snapshot::default() };
        let error = Some("403 Forbidden: pods is forbidden".to_owned());
        assert_eq!(
            lines(&with(Some(KubernetesStatus { current: false, error }))),
            ["off: kubernetes (403 Forbidden: pods is forbidden)"]
        );
        assert_eq!(lines(&with(Some(KubernetesStatus { current: false, error: None }))), ["off: kubernetes (no response yet)"]);
        assert!(lines(&with(Some(KubernetesStatus { current: true, error: None }))).is_empty());
        assert!(lines(&with(None)).is_empty(), "a machine without pods needs no API");
        let pod = WorkloadUsage { cgroup_kind: "Pod".into(), ..WorkloadUsage::default() };
        let lines = lines(&Snapshot { workloads: vec![pod], ..Snapshot::default() });
        assert!(lines[0].contains("no Kubernetes API is configured"), "{lines:?}");
    }

    #[test]
    fn what_podmeter_does_without_is_a_note_and_what_it_costs_is_none() {
        let with = |given_up: &[&str]| {
            let given_up = given_up.iter().map(|step| (*step).to_owned()).collect();
            let overhead = Overhead { agent_cores: 0.004, programs_cores: Some(0.021), limit_cores: Some(0.02), given_up };
            Snapshot { overhead: Some(overhead), ..Snapshot::default() }
        };
        assert!(lines(&with(&[])).is_empty());
        let cost = "podmeter takes 2.5 % of one core (agent 0.4 %, programs 2.1 %, limit 2.0 %)";
        assert_eq!(entries(&with(&[]))[0].text, cost);
        let shown = lines(&with(&["bursts", "drops"]));
        assert_eq!(shown, [format!("note: overhead (without bursts, drops to stay within overhead.cpu: {cost})")]);
    }

    #[test]
    fn text_is_wrapped_at_words_and_long_words_are_broken() {
        assert_eq!(wrap("a bb ccc\ndddddddd e", 4), ["a bb", "ccc", "dddd", "dddd", "e"]);
        assert_eq!(wrap("日本語", 2), ["日", "本", "語"]);
        assert_eq!(wrap("a\u{1b}[2J", 9), ["a\u{fffd}[2J"]);
        assert!(wrap("", 5).is_empty());
    }
}
