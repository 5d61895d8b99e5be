//! The live view without a terminal: keys and snapshots in, pictures out.

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier};

use super::order::Sort;
use super::pages::TablePage;
use super::state::{TopFacts, TopState};
use super::theme::Theme;
use super::{TopOptions, format, has_hung_up, keys, once, render};
use crate::snapshot::document::{CpuUsage, Snapshot, WorkloadUsage};
use crate::snapshot::synthetic;

mod around;
mod by_hand;
mod drawing;
mod picture;
mod printed;
mod replaying;

/// A width in which no column of text is left out.
const ALL_COLUMNS: usize = 1000;

fn new() -> TopState {
    with_options(&TopOptions::default())
}

fn with_options(options: &TopOptions) -> TopState {
    TopState::new(TopFacts { kernel: "Linux 6.18.0".into(), agent: "v0.1.0".into(), interval: Duration::from_secs(1) }, options)
}

/// A state that saw these `(name, CPUs)` in one snapshot.
fn with(workloads: &[(&str, f64)]) -> TopState {
    let mut state = new();
    state.update(snapshot(workloads));
    state
}

fn snapshot(workloads: &[(&str, f64)]) -> Snapshot {
    Snapshot { workloads: workloads.iter().map(|(name, cores)| workload(name, *cores)).collect(), ..Snapshot::default() }
}

fn workload(name: &str, cores: f64) -> WorkloadUsage {
    let cpu = CpuUsage { usage_cores: Some(cores), ..CpuUsage::default() };
    let kind = "Service".to_owned();
    WorkloadUsage {
        name: name.into(),
        cgroup_kind: kind.clone(),
        kind,
        cgroup: format!("/{name}"),
        cpu,
        ..WorkloadUsage::default()
    }
}

fn press(state: &mut TopState, keys: &str) {
    for c in keys.chars() {
        let code = match c {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '\u{1b}' => KeyCode::Esc,
            '\u{8}' => KeyCode::Backspace,
            '↓' => KeyCode::Down,
            '↑' => KeyCode::Up,
            '⇟' => KeyCode::PageDown,
            '⇞' => KeyCode::PageUp,
            '⇱' => KeyCode::Home,
            '⇲' => KeyCode::End,
            '←' => KeyCode::Left,
            '→' => KeyCode::Right,
            c => KeyCode::Char(c),
        };
        if let Some(action) = keys::action(KeyEvent::new(code, KeyModifiers::NONE), state) {
            state.apply(action);
        }
    }
}

fn names(state: &TopState) -> Vec<&str> {
    (0..state.row_count()).filter_map(|row| state.row(row)).map(|(_, label)| label).collect()
}

fn selected(state: &TopState) -> Option<&str> {
    Some(state.row(state.selected_row()?)?.1)
}

fn draw(state: &mut TopState, width: u16, height: u16, colour: bool) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a test backend has no way to fail");
    terminal.draw(|frame| render::draw(frame, state, Theme::new(colour, true))).expect("a test backend has no way to fail");
    terminal.backend().buffer().clone()
}

fn lines(buffer: &Buffer) -> Vec<String> {
    let row = |y| {
        let mut line = String::new();
        let mut x = 0;
        while x < buffer.area.width {
            let symbol = buffer[(x, y)].symbol();
            line += symbol;
            // The cell after a wide character is hidden by it.
            x += format::width(symbol).max(1) as u16;
        }
        line.trim_end().to_owned()
    };
    (0..buffer.area.height).map(row).collect()
}

fn text(state: &mut TopState, width: u16, height: u16) -> String {
    lines(&draw(state, width, height, true)).join("\n")
}

#[test]
fn rows_are_ordered_by_cpu_and_the_same_key_turns_them() {
    let mut state = with(&[("b", 0.1), ("c", 0.3), ("a", 0.1)]);
    assert_eq!(names(&state), ["c", "a", "b"]);
    press(&mut state, "c");
    assert_eq!(names(&state), ["a", "b", "c"]);
    press(&mut state, "n");
    assert_eq!((names(&state), state.sort()), (vec!["a", "b", "c"], (Sort::Name, false)));
    press(&mut state, "n");
    assert_eq!(names(&state), ["c", "b", "a"]);
}

#[test]
fn every_order_has_its_key_and_its_figure() {
    // Each workload is the largest in one figure only.
    let cpu = CpuUsage { request_cores: Some(10.0), usage_cores: Some(1.0), throttled_rate: Some(0.0), ..CpuUsage::default() };
    let snapshot = Snapshot {
        workloads: [
            ("cpu", CpuUsage { usage_cores: Some(2.0), ..cpu.clone() }),
            ("burst", CpuUsage { burst_p99_cores: Some(9.0), ..cpu.clone() }),
            ("wait", CpuUsage { wait_rate: Some(0.9), ..cpu.clone() }),
            ("throttled", CpuUsage { wait_rate: Some(0.5), throttled_rate: Some(0.5), ..cpu.clone() }),
            ("contention", CpuUsage { contention_rate: Some(0.4), ..cpu.clone() }),
            ("request", CpuUsage { request_cores: Some(0.1), ..cpu.clone() }),
            ("time", CpuUsage { time_seconds: 99.0, ..cpu.clone() }),
            ("a", cpu),
        ]
        .into_iter()
        .map(|(name, cpu)| WorkloadUsage { cpu, ..workload(name, 0.0) })
        .collect(),
        ..Snapshot::default()
    };
    let mut state = new();
    state.update(snapshot);
    for (key, first) in [
        ("b", "burst"),
        ("w", "wait"),
        ("t", "throttled"),
        ("C", "contention"),
        ("r", "request"),
        ("T", "time"),
        ("n", "a"),
        ("c", "cpu"),
    ] {
        press(&mut state, key);
        assert_eq!(names(&state)[0], first, "key {key}");
    }
}

#[test]
fn what_is_not_known_is_last_in_both_directions() {
    let mut snapshot = snapshot(&[("some", 0.5), ("more", 0.9), ("unknown", 0.0), ("broken", f64::NAN)]);
    snapshot.workloads[2].cpu.usage_cores = None;
    let mut state = new();
    state.update(snapshot);
    assert_eq!(names(&state), ["more", "some", "broken", "unknown"]);
    press(&mut state, "c");
    assert_eq!(names(&state), ["some", "more", "broken", "unknown"]);
}

#[test]
fn the_filter_works_while_it_is_typed_and_esc_clears_it() {
    let mut state = with(&[("web", 0.1), ("Worker", 0.2), ("db", 0.3)]);
    press(&mut state, "/w");
    assert_eq!(names(&state), ["Worker", "web"]);
    press(&mut state, "eq");
    assert_eq!(names(&state), [""; 0]);
    assert!(!state.wants_to_quit(), "q is text while a filter is typed");
    assert!(text(&mut state, 80, 20).contains("no workload matches the filter"));
    press(&mut state, "\u{8}");
    assert_eq!(names(&state), ["web"]);
    press(&mut state, "\n");
    assert!(!state.is_editing());
    state.update(snapshot(&[("web2", 0.1), ("db", 0.3)]));
    assert_eq!(names(&state), ["web2"], "it holds for later snapshots");
    press(&mut state, "\u{1b}");
    assert_eq!(names(&state), ["db", "web2"]);
}

#[test]
fn the_words_of_a_filter_may_be_anywhere_in_name_kind_and_cgroup() {
    let mut state = with(&[("web", 0.1), ("db", 0.3)]);
    press(&mut state, "/service /WEB");
    assert_eq!(names(&state), ["web"]);
}

#[test]
fn the_selection_stays_on_its_workload() {
    let mut state = with(&[("a", 0.3), ("b", 0.2), ("c", 0.1)]);
    assert_eq!(selected(&state), None, "nothing is selected until the user moves");
    press(&mut state, "j");
    assert_eq!(selected(&state), Some("b"));
    state.update(snapshot(&[("a", 0.3), ("b", 0.9), ("c", 0.5)]));
    assert_eq!((names(&state), selected(&state)), (vec!["b", "c", "a"], Some("b")));
    press(&mut state, "n");
    assert_eq!(selected(&state), Some("b"));
    state.update(snapshot(&[("a", 0.3), ("c", 0.5)]));
    assert_eq!(selected(&state), Some("c"), "when it is gone, the row that took its place");
    state.update(snapshot(&[]));
    assert_eq!(selected(&state), None);
    press(&mut state, "jk↓↑⇟⇞⇱⇲\n");
    assert_eq!(selected(&state), None);
}

#[test]
fn details_of_a_removed_workload_stay_until_the_user_moves() {
    let mut state = with(&[("a", 0.3), ("b", 0.2)]);
    press(&mut state, "j\n");
    state.update(snapshot(&[("a", 0.3), ("c", 0.2)]));
    let shown = text(&mut state, 100, 40);
    assert!(shown.contains("── b removed; final values"), "{shown}");
    press(&mut state, "k");
    assert!(text(&mut state, 100, 40).contains("── a Service"));
    press(&mut state, "\u{1b}");
    assert!(!state.shows_detail());
}

#[test]
fn a_picture_that_is_held_changes_only_when_it_goes_on() {
    let mut state = with(&[("a", 0.3)]);
    press(&mut state, "p");
    state.update(snapshot(&[("b", 0.3)]));
    state.update(snapshot(&[("c", 0.3)]));
    assert_eq!(names(&state), ["a"]);
    assert!(text(&mut state, 100, 20).contains("PAUSED"));
    press(&mut state, "p");
    assert_eq!(names(&state), ["c"]);
}

#[test]
fn idle_rows_are_shown_until_they_are_not_wanted() {
    let mut state = with(&[("busy", 0.3), ("idle", 0.0)]);
    assert_eq!(names(&state), ["busy", "idle"]);
    press(&mut state, "i");
    assert_eq!(names(&state), ["busy"]);
    let shown = text(&mut state, 100, 20);
    assert!(shown.contains("1 of 2 rows") && shown.contains("i show idle"), "{shown}");
}

#[test]
fn a_failed_read_is_shown_and_the_last_snapshot_stays() {
    let mut state = with(&[("a", 0.3)]);
    state.fail("the map is gone".into());
    let shown = text(&mut state, 120, 20);
    assert!(shown.contains("these values are old: the map is gone") && shown.contains("0.30"), "{shown}");
    state.update(snapshot(&[("a", 0.4)]));
    assert!(!text(&mut state, 120, 20).contains("values are old"));
}

#[test]
fn a_restarted_unit_is_there_twice_and_has_one_history() {
    let mut snapshot = snapshot(&[("a", 0.2), ("a", 0.4)]);
    snapshot.workloads[0].ended = true;
    let mut state = new();
    state.update(snapshot);
    assert_eq!(names(&state), ["a", "a"]);
    let history = state.history(&workload("a", 0.0)).expect("is kept");
    assert_eq!(history.iter().copied().collect::<Vec<_>>(), [Some(0.4)]);
}

#[test]
fn a_terminal_that_hung_up_is_noticed() {
    let pty = nix::pty::openpty(None, None).expect("a pseudo terminal");
    assert!(!has_hung_up(&pty.slave));
    drop(pty.master);
    assert!(has_hung_up(&pty.slave));
}
