//! One snapshot as text: `podmeter top --once`, with or without `--json`.

use super::view::{Memory, View, Workload};
use super::{figures, format, order};

/// A heading, with its unit, and what is below it.
type Column = (&'static str, fn(&Workload) -> String);

/// What follows the name. Plain numbers in the units of the headings, one word each, so that `awk` and `sort` can take them.
const COLUMNS: &[Column] = &[
    ("KIND", |w| one_word(&w.kind)),
    ("CPU(cores)", |w| number(w.cpu.usage_cores, 3)),
    ("REQUEST(cores)", |w| number(w.cpu.request_cores, 3)),
    ("USE/REQUEST(%)", |w| number(figures::request_share(w).map(|s| s * 100.0), 1)),
    ("LIMIT(cores)", |w| number(w.cpu.limit_cores, 3)),
    ("USE/LIMIT(%)", |w| number(figures::limit_share(w).map(|s| s * 100.0), 1)),
    ("BURST-P50(cores)", |w| number(w.cpu.burst_p50_cores, 3)),
    ("BURST-P99(cores)", |w| number(w.cpu.burst_p99_cores, 3)),
    ("WAIT(ms/s)", |w| number(w.cpu.wait_rate.map(|r| r * 1000.0), 1)),
    ("THROTTLED(ms/s)", |w| number(w.cpu.throttled_rate.map(|r| r * 1000.0), 1)),
    ("CONTENTION(ms/s)", |w| number(figures::contention_rate(w).map(|r| r * 1000.0), 1)),
    ("CPU-TIME(s)", |w| number(Some(w.cpu.time_seconds), 3)),
    ("MEMORY(bytes)", |w| bytes(w, |m| m.usage_bytes)),
    ("WORKING-SET(bytes)", |w| bytes(w, |m| m.working_set_bytes)),
    ("MEMORY-LIMIT(bytes)", |w| bytes(w, |m| m.limit_bytes)),
    ("OOM-KILLS", |w| bytes(w, |m| m.oom_kills)),
    ("RX(bytes/s)", |w| number(w.network.as_ref().and_then(|n| n.receive_rate), 0)),
    ("TX(bytes/s)", |w| number(w.network.as_ref().and_then(|n| n.transmit_rate), 0)),
    ("DROPS(1/s)", |w| number(w.network.as_ref().and_then(|n| n.drop_rate), 1)),
    ("RETRANSMITS(%)", |w| number(w.tcp.as_ref().and_then(|t| t.retransmit_ratio).map(|r| r * 100.0), 2)),
    ("RTT-P99(ms)", |w| number(w.tcp.as_ref().and_then(|t| t.rtt_p99_seconds).map(|s| s * 1000.0), 2)),
    ("DNS-P99(ms)", |w| number(w.dns.as_ref().and_then(|d| d.p99_seconds).map(|s| s * 1000.0), 2)),
    ("DNS-FAILURES(%)", |w| number(w.dns.as_ref().and_then(|d| d.failure_ratio).map(|r| r * 100.0), 2)),
    ("STATE", |w| if w.ended { "ended" } else { "alive" }.to_owned()),
];

/// All workloads as an aligned table in plain text, the one that uses most CPU first.
pub fn table(view: &View) -> String {
    let cpu = &view.node.cpu;
    let mut rows =
        vec![std::iter::once("NAME".to_owned()).chain(COLUMNS.iter().map(|(heading, _)| (*heading).to_owned())).collect()];
    rows.extend(order::by_cpu(view).into_iter().map(|workload| {
        std::iter::once(one_word(&figures::label(workload))).chain(COLUMNS.iter().map(|(_, cell)| cell(workload))).collect()
    }));
    let node = format!(
        "node {}: {} of {} cores in use, {} s of CPU time unattributed\n\n",
        one_word(&view.node.name),
        number(cpu.usage_cores, 3),
        number(Some(cpu.capacity_cores).filter(|c| *c > 0.0), 0),
        number(Some(cpu.unattributed_seconds), 3),
    );
    node + &aligned(&rows)
}

/// The snapshot as one JSON document, indented.
pub fn json(view: &View) -> String {
    // A `View` has only string keys, numbers and text, so this has no way to fail; were that to change, the message is JSON too.
    let document = serde_json::to_string_pretty(view);
    document.unwrap_or_else(|error| serde_json::json!({ "error": error.to_string() }).to_string()) + "\n"
}

/// Names at the left, numbers at the right of their columns.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|c| rows.iter().filter_map(|row| row.get(c)).map(|cell| format::width(cell)).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let padding = " ".repeat(width - format::width(cell));
            let gap = if column == 0 { "" } else { "  " };
            let words = column <= 1 || column + 1 == columns;
            line += &if words { format!("{gap}{cell}{padding}") } else { format!("{gap}{padding}{cell}") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn bytes(workload: &Workload, of: impl Fn(&Memory) -> Option<u64>) -> String {
    number(workload.memory.as_ref().and_then(of).map(|bytes| bytes as f64), 0)
}

fn number(value: Option<f64>, digits: usize) -> String {
    match value.filter(|v| v.is_finite() && *v >= 0.0) {
        Some(v) => format!("{:.digits$}", v.abs()),
        None => format::UNKNOWN.into(),
    }
}

/// Text that stays one field of its line.
fn one_word(text: &str) -> String {
    let word = format::printable(text).replace(char::is_whitespace, "_");
    if word.is_empty() { format::UNKNOWN.into() } else { word }
}
