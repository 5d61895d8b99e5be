//! What is shown beside the rows: the node, signals that are off, the help; and what the command line chooses.

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::super::{
    TopOptions, keys, once, order::Sort, pages::TablePage, render, state::TopState, theme::Theme, tree::RowLayout,
};
use super::{ALL_COLUMNS, lines, names, new, press, text, with, with_options, workload};
use crate::snapshot::document::{KubernetesStatus, SignalStatus};
use crate::snapshot::synthetic;

#[test]
fn the_header_has_the_nodes_memory_and_traffic() {
    let mut state = new();
    state.update(synthetic::snapshot(1));
    for width in [80, 200] {
        let shown = text(&mut state, width, 24);
        let header: Vec<&str> = shown.lines().take(3).collect();
        assert!(header[1].contains("of 8 cores"), "{shown}");
        assert!(
            header[2].contains("11G of 32G  34%") && header[2].contains("NET  rx ") && header[2].contains("  tx "),
            "{shown}"
        );
        let roomy = header[1].contains("load 5.26") && header[2].contains("DISK  /var/lib/containerd 83%");
        assert_eq!(roomy, width >= 100, "{shown}");
    }
}

#[test]
fn what_is_not_measured_is_in_the_header_and_its_whole_reason_on_its_page() {
    let mut snapshot = synthetic::snapshot(1);
    let reason = "could not load tcp_on_walk: Operation not permitted (os error 1)\n0: (b7) r0 = 1".to_owned();
    snapshot.signals = vec![
        SignalStatus { name: "cpu".into(), on: true, ..SignalStatus::default() },
        SignalStatus { name: "tcp".into(), reason: Some(reason), ..SignalStatus::default() },
    ];
    snapshot.kubernetes = Some(KubernetesStatus { current: false, error: Some("403 Forbidden".into()) });
    let mut state = new();
    state.update(snapshot.clone());
    let shown = text(&mut state, 120, 30);
    assert!(shown.contains("off: tcp (could not load") && shown.contains("kubernetes (403 Forbidden)  (s: why)"), "{shown}");
    press(&mut state, "s");
    let shown = text(&mut state, 80, 24);
    for part in
        ["cpu         on", "tcp         off  could not load tcp_on_walk: Operation not", "0: (b7) r0 = 1", "kubernetes  off  403"]
    {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    press(&mut state, "x");
    assert_eq!(state.text_page(), None);
    let table = once::text(&snapshot, &TopOptions::default(), ALL_COLUMNS);
    assert!(table.contains("\noff: tcp (could not load tcp_on_walk: Operation not permitted (os error 1))\n"), "{table}");
    let document: serde_json::Value = serde_json::from_str(&once::json(&snapshot, &TopOptions::default())).expect("is JSON");
    assert_eq!(document["signals"][0], serde_json::json!({ "name": "cpu", "on": true }));
    assert_eq!((&document["signals"][1]["on"], &document["schema"]), (&false.into(), &1.into()));
    assert_eq!(document["kubernetes"], serde_json::json!({ "current": false, "error": "403 Forbidden" }));
}

#[test]
fn nothing_beyond_ascii_is_drawn_where_it_cannot_be_shown() {
    let mut state = new();
    for tick in 0..60 {
        state.update(synthetic::snapshot(tick));
    }
    let mut snapshot = synthetic::snapshot(60);
    snapshot.workloads.push(workload("日本語", 0.2));
    state.update(snapshot);
    for keys in ["", "j\n", "2", "3", "?", "x/日", "\u{1b}s"] {
        press(&mut state, keys);
        for width in [40, 80, 200] {
            let mut terminal = Terminal::new(TestBackend::new(width, 40)).expect("a test backend has no way to fail");
            let theme = Theme::new(true, false);
            terminal.draw(|frame| render::draw(frame, &mut state, theme)).expect("a test backend has no way to fail");
            let shown = lines(terminal.backend().buffer()).join("\n");
            assert!(shown.is_ascii(), "{keys:?}\n{shown}");
        }
    }
}

#[test]
fn a_key_lays_the_rows_out_as_tree_folded_and_flat() {
    let mut state = new();
    state.update(synthetic::snapshot(1));
    press(&mut state, "n");
    let cart = "shop/cart-5c8d7f9b4-q9w8e";
    let below = |state: &TopState| {
        let names = names(state).into_iter().map(str::to_owned).collect::<Vec<_>>();
        let at = names.iter().position(|name| name == cart).expect("is shown");
        names[at + 1..].iter().take_while(|name| name.contains("redis") || name.contains("exporter")).cloned().collect::<Vec<_>>()
    };
    assert_eq!(below(&state), ["  exporter", "  redis"]);
    let tree = text(&mut state, 120, 40);
    assert!(tree.contains("v folded") && tree.contains("Pod") && tree.contains("Container"), "{tree}");
    press(&mut state, "v");
    assert_eq!(state.shape(), RowLayout::Folded);
    assert!(below(&state).is_empty());
    press(&mut state, "v");
    assert_eq!(below(&state), [format!("{cart}/exporter"), format!("{cart}/redis")]);
    press(&mut state, "v");
    assert_eq!((state.shape(), below(&state).len()), (RowLayout::Tree, 2));
}

#[test]
fn the_command_line_chooses_order_filter_and_number_of_rows() {
    let options = TopOptions { sort: Some(Sort::Memory), filter: Some("SHOP".into()), limit: Some(2), view: RowLayout::Folded };
    let mut state = with_options(&options);
    let snapshot = synthetic::snapshot(1);
    state.update(snapshot.clone());
    assert_eq!((state.shown(), state.row_count()), (TablePage::Memory, 2));
    assert!(names(&state).iter().all(|name| name.starts_with("shop/")));
    let table = once::text(&snapshot, &options, ALL_COLUMNS);
    assert_eq!(table.lines().skip(5).filter(|row| row.starts_with("shop/")).count(), 2, "{table}");
    let json = |options: &TopOptions| {
        let document: serde_json::Value = serde_json::from_str(&once::json(&snapshot, options)).expect("is JSON");
        let of = |w: &serde_json::Value| w["cgroup"].as_str().unwrap_or_default().to_owned();
        document["workloads"].as_array().expect("workloads").iter().map(of).collect::<Vec<_>>()
    };
    let by_path = json(&TopOptions::default());
    assert!(by_path.is_sorted() && by_path.len() == snapshot.workloads.len());
    let filtered = json(&TopOptions { filter: Some("cart".into()), ..TopOptions::default() });
    assert!(filtered.is_sorted() && filtered.len() == 3, "{filtered:?}");
    let top = json(&TopOptions { limit: Some(1), ..TopOptions::default() });
    assert!(top.len() == 1 && top[0].contains("pod00000003"), "the one that uses most CPU: {top:?}");
}

#[test]
fn the_help_names_every_key_and_column_and_fits_or_scrolls() {
    let mut state = with(&[("a", 0.3)]);
    press(&mut state, "?");
    let shown = text(&mut state, 140, 31);
    assert!(shown.contains("sort by wait, throttled wait, contention") && shown.contains("its own CPU limit"), "{shown}");
    assert!(shown.contains("After 60 s of watching") && shown.contains("not known, or not set"), "{shown}");
    let first = text(&mut state, 80, 24);
    assert!(first.contains("next page") && !first.contains("not known, or not set"), "{first}");
    press(&mut state, "⇲");
    let last = text(&mut state, 80, 24);
    assert!(last.contains("not known, or not set") && last.contains("Space more"), "{last}");
    press(&mut state, "⇱");
    assert_eq!(text(&mut state, 80, 24), first);
    press(&mut state, "x");
    assert_eq!(state.text_page(), None);
}

#[test]
fn the_help_fits_eighty_columns() {
    for (_, text) in keys::HELP.iter().chain(keys::MEANING) {
        assert!(text.len() <= 78 - 20, "{text}");
    }
}
