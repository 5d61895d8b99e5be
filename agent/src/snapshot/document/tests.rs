//! docs/top-json.schema.json and docs/top-json.md against the document that these types make.

use std::collections::BTreeSet;

use podmeter_tests::json_schema::{keys, of_top, violations};
use serde_json::{Value as Json, to_value};

use super::*;
use crate::snapshot::{builder::SnapshotBuilder, synthetic};

/// A snapshot in which each key is set somewhere.
fn full() -> Snapshot {
    let mut snapshot = synthetic::snapshot(1);
    snapshot.at = Some("2026-11-28T03:10:00Z".into());
    snapshot.signals = vec![
        SignalStatus { name: "cpu".into(), on: true, reason: None, note: Some("a note".into()) },
        SignalStatus { name: "tcp".into(), on: false, reason: Some("a reason".into()), note: None },
    ];
    snapshot.kubernetes = Some(KubernetesStatus { current: false, error: Some("403".into()) });
    snapshot.overhead = Some(Overhead {
        agent_cores: 0.01,
        programs_cores: Some(0.02),
        limit_cores: Some(0.02),
        given_up: vec!["bursts".into()],
    });
    for workload in &mut snapshot.workloads {
        workload.ended = true;
        workload.container_type = Some("container".into());
        workload.cpu.contended_seconds = Some(1.0);
        workload.cpu.neighbours = vec![NeighbourWait { name: "shop/web/app".into(), seconds: 2.0 }];
    }
    snapshot
}

fn keys_of(document: &Json, path: &str, found: &mut BTreeSet<String>) {
    for item in document.as_array().into_iter().flatten() {
        keys_of(item, &format!("{path}[]"), found);
    }
    for (key, value) in document.as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        found.insert(path.clone());
        keys_of(value, &path, found);
    }
}

#[test]
fn the_schema_accepts_full_and_empty_documents() {
    let empty = SnapshotBuilder::new("n".to_owned(), 2.0).next(&crate::aggregate::Batch::default());
    let bare = Snapshot { schema: 1, workloads: vec![WorkloadUsage::default()], ..Snapshot::default() };
    for snapshot in [full(), empty, bare] {
        let document = to_value(&snapshot).expect("is JSON");
        assert_eq!(violations(&of_top(), &document), [""; 0], "{document}");
    }
}

#[test]
fn every_key_of_the_document_is_in_the_schema_and_every_key_of_the_schema_is_made() {
    let mut made = BTreeSet::new();
    keys_of(&to_value(full()).expect("is JSON"), "", &mut made);
    assert_eq!(made.into_iter().collect::<Vec<_>>(), keys(&of_top()));
}

#[test]
fn the_page_about_the_document_has_each_key_of_the_schema_once() {
    let page = include_str!("../../../../docs/top-json.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let mut listed: Vec<String> = rows.map(|(key, _)| key.to_owned()).collect();
    listed.sort_unstable();
    assert_eq!(listed, keys(&of_top()));
}
