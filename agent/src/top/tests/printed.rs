//! What `top --once` prints, and what must never be printed.

use super::*;

#[test]
fn a_name_with_escape_codes_is_shown_without_them() {
    let mut state = with(&[("evil\u{1b}[31m", 0.2)]);
    press(&mut state, "j\n");
    assert!(!text(&mut state, 100, 40).contains('\u{1b}'));
    assert!(!once::text(state.snapshot().expect("was given"), &TopOptions::default(), ALL_COLUMNS).contains('\u{1b}'));
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
