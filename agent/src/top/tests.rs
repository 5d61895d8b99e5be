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
mod picture;

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
    assert!(text(&mut state, 80, 20).contains("nothing matches the filter"));
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
fn details_of_what_is_gone_stay_until_the_user_moves() {
    let mut state = with(&[("a", 0.3), ("b", 0.2)]);
    press(&mut state, "j\n");
    state.update(snapshot(&[("a", 0.3), ("c", 0.2)]));
    let shown = text(&mut state, 100, 40);
    assert!(shown.contains("── b gone; its last figures"), "{shown}");
    press(&mut state, "k");
    assert!(text(&mut state, 100, 40).contains("── a Service"));
    press(&mut state, "\u{1b}");
    assert!(!state.shows_detail());
}

#[test]
fn details_have_every_figure() {
    let mut state = new();
    state.update(synthetic::snapshot(1));
    press(&mut state, "/checkout\n\n");
    let shown = text(&mut state, 120, 40);
    for part in [
        "/kubepods.slice/",
        "request 1.00 (101%)",
        "limit 2.00 (51%)",
        "suggested  1.53 cores and 27.6 MiB to request, after 12m01s",
        "p50 0.91   p99 1.92",
        "35.4ms per s   throttled 26.6ms   contention 8.8ms",
        "22m00s   throttled 14m00s   contention 8m00s",
        "CPU time   9h27m",
        "working set 45.2 MiB",
        "unrecl 24.0 MiB   peak 60.0 MiB",
        "request 64.0 MiB (71%)   limit 128 MiB (35%)",
        "killed 0",
        "rx 197K/s   tx 592K/s",
        "retransmits 0.06%   round trip p50 300µs p99 2.0ms of 104   failed connects 7",
        "0.4/s   of the last 100 failed 0%   NXDOMAIN 62%   p50 800µs p99 12.0ms   timeouts 0",
        "app   of Deployment checkout",
        "CPU of the last 1.0s, up to 1.01 cores",
    ] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
}

#[test]
fn each_page_has_its_figures_and_an_order_leads_to_its_page() {
    let mut state = new();
    state.update(synthetic::snapshot(1));
    press(&mut state, "2");
    let memory = text(&mut state, 160, 24);
    for part in [
        "watched for 12m01s",
        "WORKING▾",
        "UNRECL",
        "PEAK",
        "request ─",
        "SUGGEST",
        "limit ─",
        "KILLED",
        "l limit",
        "Tab network",
    ] {
        assert!(memory.contains(part), "{part} is not in\n{memory}");
    }
    assert!(!memory.contains("BURST") && names(&state)[0].contains("cron"), "{memory}");
    press(&mut state, "d");
    let network = text(&mut state, 160, 24);
    for part in ["tcp ─", "dns ─", "RX", "DROPS", "RETR", "P99▾", "1.2%", "0.04%", "Q/S", "LOOKUPS", "NXDOM", "62%", "Tab cpu"]
    {
        assert!(network.contains(part), "{part} is not in\n{network}");
    }
    assert_eq!(names(&state)[0], "data/reindex-28371-kx9z2", "the slowest DNS first");
    press(&mut state, "n");
    assert_eq!((state.shown(), state.sort()), (TablePage::Network, (Sort::Name, false)), "names are on every page");
    press(&mut state, "1");
    assert_eq!((state.shown(), state.sort()), (TablePage::Cpu, (Sort::Name, false)), "and stay the order");
    press(&mut state, "c\t");
    assert_eq!((state.shown(), state.sort()), (TablePage::Memory, (Sort::Memory, false)));
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
fn a_failed_reading_is_said_and_the_last_snapshot_stays() {
    let mut state = with(&[("a", 0.3)]);
    state.fail("the map is gone".into());
    let shown = text(&mut state, 120, 20);
    assert!(shown.contains("the figures are old: the map is gone") && shown.contains("0.30"), "{shown}");
    state.update(snapshot(&[("a", 0.4)]));
    assert!(!text(&mut state, 120, 20).contains("figures are old"));
}

#[test]
fn narrow_terminals_keep_the_name_and_what_matters_most() {
    let mut state = new();
    state.update(synthetic::snapshot(3));
    let shown = text(&mut state, 40, 14);
    assert!(shown.contains("CPU▾") && shown.contains("USED") && shown.contains("P99"), "{shown}");
    assert!(!shown.contains("CONTENTION"), "{shown}");
    let shown = text(&mut state, 40, 5);
    assert!(shown.contains("data/postgres-0 "), "{shown}");
    let wide = text(&mut state, 200, 30);
    for heading in [
        "KIND",
        "request ─",
        "SUGGEST",
        "limit ─",
        "burst ─",
        "wait ─",
        "P50",
        "P99",
        "ALL",
        "THROTTLED",
        "CONTENTION",
        "CPU TIME",
        "of 8 cores",
    ] {
        assert!(wide.contains(heading), "{heading} is not in\n{wide}");
    }
}

#[test]
fn no_size_panics_and_nothing_is_drawn_over_the_edge() {
    for keys in ["", "j", "j\n", "?", "?⇲", "s", "/文字", "w⇲", "inn", "2j\n", "3", "3l", "v", "vv"] {
        let mut state = new();
        draw(&mut state, 80, 24, true);
        for tick in 0..3 {
            state.update(synthetic::snapshot(tick));
        }
        press(&mut state, keys);
        for width in (0..=20).chain([30, 40, 49, 50, 59, 60, 80, 124, 400]) {
            for height in (0..=15).chain([20, 24, 60]) {
                draw(&mut state, width, height, true);
            }
        }
    }
}

#[test]
fn wide_names_keep_the_columns_in_place() {
    let mut state = with(&[("日本語の名前がとても長いサービス.service", 0.25), ("plain", 0.25), ("👩‍👩‍👧-family", 0.25)]);
    for width in [30, 45, 60, 100] {
        let buffer = draw(&mut state, width, 20, true);
        let at: Vec<usize> = lines(&buffer).iter().filter_map(|l| l.find("0.25").map(|at| format::width(&l[..at]))).collect();
        assert_eq!(at.len(), 3, "{width}");
        assert!(at.iter().all(|x| *x == at[0]), "{width}: {at:?}");
    }
}

#[test]
fn a_name_with_escape_codes_is_shown_without_them() {
    let mut state = with(&[("evil\u{1b}[31m", 0.2)]);
    press(&mut state, "j\n");
    assert!(!text(&mut state, 100, 40).contains('\u{1b}'));
    assert!(!once::text(state.snapshot().expect("was given"), &TopOptions::default(), ALL_COLUMNS).contains('\u{1b}'));
}

#[test]
fn five_thousand_workloads_scroll_to_the_end_and_back() {
    let all: Vec<(String, f64)> = (0..5000).map(|i| (format!("unit-{i:04}"), f64::from(i) / 1000.0)).collect();
    let mut state = with(&all.iter().map(|(name, cores)| (name.as_str(), *cores)).collect::<Vec<_>>());
    assert!(text(&mut state, 100, 30).contains("unit-4999"));
    press(&mut state, "⇲");
    let shown = text(&mut state, 100, 30);
    assert!(shown.contains("unit-0000") && !shown.contains("unit-4999"), "{shown}");
    press(&mut state, "⇞");
    // A page is the rows on the screen: 30 lines less title, two of the node, gap, two of heading, keys.
    assert_eq!(selected(&state), Some("unit-0023"));
    press(&mut state, "⇱");
    assert_eq!(selected(&state), Some("unit-4999"));
    assert!(text(&mut state, 100, 30).contains("unit-4999"));
    press(&mut state, "↓↓");
    assert_eq!(selected(&state), Some("unit-4997"));
}

#[test]
fn values_that_are_no_numbers_are_never_printed() {
    let broken = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0];
    let snapshot = Snapshot {
        workloads: broken
            .iter()
            .enumerate()
            .map(|(i, &v)| {
                let cpu = CpuUsage {
                    time_seconds: v,
                    usage_cores: Some(v),
                    wait_seconds: Some(v),
                    contention_rate: Some(v),
                    wait_rate: Some(v),
                    throttled_rate: Some(v),
                    burst_p50_cores: Some(v),
                    burst_p99_cores: Some(v),
                    request_cores: Some(v),
                    limit_cores: Some(v),
                    suggested_request_cores: Some(v),
                    ..CpuUsage::default()
                };
                WorkloadUsage { cpu, ..workload(&format!("w{i}"), 0.0) }
            })
            .collect(),
        ..Snapshot::default()
    };
    let mut state = new();
    state.update(snapshot.clone());
    press(&mut state, "j\n");
    for shown in [text(&mut state, 200, 40), once::text(&snapshot, &TopOptions::default(), ALL_COLUMNS)] {
        assert!(!shown.contains("NaN") && !shown.contains("inf"), "{shown}");
    }
}

#[test]
fn only_what_is_near_its_limit_is_red_and_without_colour_bold() {
    let mut state = new();
    let mut snapshot = synthetic::snapshot(1);
    for workload in &mut snapshot.workloads {
        // Far above the request; one at its limit.
        let limit = workload.pod.as_ref().filter(|pod| pod.starts_with("reindex")).map(|_| 1.0);
        workload.cpu = CpuUsage { usage_cores: Some(0.99), request_cores: Some(0.1), limit_cores: limit, ..CpuUsage::default() };
    }
    state.update(snapshot);
    let shares = |buffer: &Buffer, name: &str| {
        let y = lines(buffer).iter().position(|line| line.contains(name)).expect("is shown") as u16;
        let shares = (0..buffer.area.width).filter(|&x| buffer[(x, y)].symbol() == "%").map(|x| buffer[(x - 1, y)].clone());
        shares.collect::<Vec<_>>()
    };
    let buffer = draw(&mut state, 160, 30, true);
    let colours = |name| shares(&buffer, name).iter().map(|cell| cell.fg).collect::<Vec<_>>();
    assert_eq!(colours("checkout"), [Color::Reset], "990 % of the request");
    assert_eq!(colours("reindex"), [Color::Reset, Color::Red], "99 % of the limit");
    let buffer = draw(&mut state, 160, 30, false);
    assert!(shares(&buffer, "reindex")[1].modifier.contains(Modifier::BOLD));
    assert!(buffer.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
}

#[test]
fn once_prints_every_workload_aligned_and_the_busiest_first() {
    let snapshot = synthetic::snapshot(1);
    let table = once::text(&snapshot, &TopOptions::default(), ALL_COLUMNS);
    let rows: Vec<&str> = table.lines().collect();
    assert!(
        rows[0].starts_with("node worker-3: 4.")
            && rows[0].ends_with(" of 8 cores in use")
            && rows[1].starts_with("memory: ")
            && rows[2].starts_with("network: "),
        "{table}"
    );
    let rows = &rows[4..];
    assert!(rows[1].starts_with("data/postgres-0 "), "{table}");
    // Pods with one container are one row.
    assert_eq!(rows.len(), 1 + snapshot.workloads.len() - 7);
    let fields: Vec<usize> = rows.iter().map(|row| row.split_whitespace().count()).collect();
    assert!(fields.iter().all(|n| *n == fields[0]), "{fields:?}");
    let end_of = |row: &str, field: &str| row.find(field).map(|at| at + field.len());
    assert_eq!(end_of(rows[0], "CPU(cores)"), end_of(rows[1], "1.472"));
}

#[test]
fn once_json_is_the_document_and_leaves_out_what_is_not_known() {
    let snapshot = synthetic::snapshot(1);
    let document: serde_json::Value = serde_json::from_str(&once::json(&snapshot, &TopOptions::default())).expect("is JSON");
    assert_eq!(document["schema"], 1);
    assert_eq!(document["workloads"].as_array().map(Vec::len), Some(snapshot.workloads.len()));
    let unit =
        document["workloads"].as_array().and_then(|all| all.iter().find(|w| w["name"] == "kubelet.service")).expect("is there");
    assert!(unit.get("pod").is_none() && unit["cpu"].get("limit_cores").is_none(), "{unit}");
    assert!(unit["cpu"]["usage_cores"].is_f64() && unit["cpu"]["suggested_request_cores"].is_f64(), "{unit}");
    assert!(unit["memory"]["suggested_request_bytes"].is_u64() && unit["watched_seconds"] == 721.0, "{unit}");
    let bare = Snapshot { workloads: vec![workload("a", 0.1)], ..Snapshot::default() };
    let bare: serde_json::Value = serde_json::from_str(&once::json(&bare, &TopOptions::default())).expect("is JSON");
    let bare = &bare["workloads"][0];
    assert!(bare.get("watched_seconds").is_none() && bare["cpu"].get("suggested_request_cores").is_none(), "{bare}");
}

#[test]
fn a_history_is_one_bar_per_snapshot_and_ends_with_its_workload() {
    let mut state = with(&[("a", 0.2)]);
    state.update(snapshot(&[("a", 0.4)]));
    let shown = text(&mut state, 160, 20);
    assert!(shown.contains(" ▄█"), "{shown}");
    state.update(snapshot(&[("b", 0.1)]));
    state.update(snapshot(&[("a", 0.4)]));
    let (workload, _) = state.row(0).expect("a is there again");
    assert_eq!(state.history(workload).map(|h| h.len()), Some(1));
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
