//! What is drawn, in which place and colour.

use super::*;

#[test]
fn details_have_every_figure() {
    let mut state = new();
    state.update(synthetic::snapshot(1));
    press(&mut state, "/checkout\n\n");
    let shown = text(&mut state, 120, 44);
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
        "open 12   timeouts 2   window full 1.25s   accept p99 400µs   unacknowledged 2.00 KiB",
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
