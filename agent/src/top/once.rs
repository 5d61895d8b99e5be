//! One snapshot as text: `podmeter top --once`, with or without `--json`.

use super::options::TopOptions;
use super::tree::{self, RowLayout};
use super::{format, shares, status};
use crate::snapshot::document::{MemoryUsage, Snapshot, WorkloadUsage};

/// A heading, with its unit, and what is below it.
type Column = (&'static str, fn(&WorkloadUsage) -> String);

/// What follows the name. Plain numbers in the units of the headings, one word each, so that `awk` and `sort` can take them.
const COLUMNS: &[Column] = &[
    ("KIND", |w| one_word(&w.cgroup_kind)),
    ("CPU(cores)", |w| number(w.cpu.usage_cores, 3)),
    ("REQUEST(cores)", |w| number(w.cpu.request_cores, 3)),
    ("USE/REQUEST(%)", |w| number(shares::request_share(w).map(|s| s * 100.0), 1)),
    ("LIMIT(cores)", |w| number(w.cpu.limit_cores, 3)),
    ("USE/LIMIT(%)", |w| number(shares::limit_share(w).map(|s| s * 100.0), 1)),
    ("BURST-P50(cores)", |w| number(w.cpu.burst_p50_cores, 3)),
    ("BURST-P99(cores)", |w| number(w.cpu.burst_p99_cores, 3)),
    ("WAIT(ms/s)", |w| number(w.cpu.wait_rate.map(|r| r * 1000.0), 1)),
    ("THROTTLED(ms/s)", |w| number(w.cpu.throttled_rate.map(|r| r * 1000.0), 1)),
    ("CONTENTION(ms/s)", |w| number(w.cpu.contention_rate.map(|r| r * 1000.0), 1)),
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
    ("DNS-NXDOMAIN(%)", |w| number(w.dns.as_ref().and_then(|d| d.no_such_name_ratio).map(|r| r * 100.0), 2)),
    ("DNS-LOOKUPS", |w| number(w.dns.as_ref().map(|d| d.window_lookups as f64), 0)),
    ("STATE", |w| if w.ended { "ended" } else { "alive" }.to_owned()),
];

/// The wanted rows as an aligned table in plain text. `columns`: how wide the terminal is that it goes to; whatever does not fit, or
/// has no value in any row, is left out there, while other programs get everything.
pub fn table(snapshot: &Snapshot, options: &TopOptions, columns: Option<usize>) -> String {
    let rows = tree::rows(&snapshot.workloads, options.view);
    let rows: Vec<_> = tree::arrange(&rows, &options.choice()).into_iter().map(|shown| &rows[shown.row]).collect();
    let heading = std::iter::once("NAME".to_owned()).chain(COLUMNS.iter().map(|(heading, _)| (*heading).to_owned()));
    let mut cells: Vec<Vec<String>> = vec![heading.collect()];
    cells.extend(
        rows.iter().map(|row| {
            std::iter::once(one_word(&row.label)).chain(COLUMNS.iter().map(|(_, cell)| cell(&row.workload))).collect()
        }),
    );
    if let Some(columns) = columns {
        fit(&mut cells, columns);
    }
    head(snapshot) + "\n" + &aligned(&cells)
}

/// The node, and what is not measured.
fn head(snapshot: &Snapshot) -> String {
    let cpu = &snapshot.node.cpu;
    let mut text = format!(
        "node {}: {} of {} cores in use, {} s of CPU time unattributed\n",
        one_word(&snapshot.node.name),
        number(cpu.usage_cores, 3),
        number(Some(cpu.capacity_cores).filter(|c| *c > 0.0), 0),
        number(Some(cpu.unattributed_seconds), 3),
    );
    let as_f64 = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64);
    if let Some(memory) = &snapshot.node.memory {
        let used = memory.working_set_bytes.or(memory.usage_bytes);
        text += &format!("memory: {} of {} bytes in use\n", number(as_f64(used), 0), number(as_f64(memory.capacity_bytes), 0));
    }
    if let Some(network) = &snapshot.node.network {
        let (received, sent) = (number(network.receive_rate, 0), number(network.transmit_rate, 0));
        text += &format!("network: {received} bytes/s received, {sent} bytes/s sent\n");
    }
    for line in status::lines(snapshot) {
        text += &format::printable(&line);
        text.push('\n');
    }
    text
}

/// Leaves out the columns that have no value at all, then the last ones that do not fit; the first figure stays.
fn fit(rows: &mut Vec<Vec<String>>, columns: usize) {
    let width = |rows: &[Vec<String>], c: usize| rows.iter().filter_map(|row| row.get(c)).map(|cell| format::width(cell)).max();
    let all = rows.first().map_or(0, Vec::len);
    let has_value = |c: &usize| rows.iter().skip(1).any(|row| row.get(*c).is_some_and(|cell| cell != format::UNKNOWN));
    let mut used = 0;
    let mut kept = Vec::new();
    for column in (0..all).filter(|c| *c < 3 || has_value(c)) {
        used += width(rows, column).unwrap_or(0) + if column == 0 { 0 } else { GAP };
        if used > columns && column >= 3 {
            break;
        }
        kept.push(column);
    }
    for row in rows {
        *row = kept.iter().filter_map(|column| row.get(*column).cloned()).collect();
    }
}

/// Columns between two columns.
const GAP: usize = 2;

/// The snapshot as one JSON document, indented: every cgroup in order of its path, unless the options want other rows.
pub fn json(snapshot: &Snapshot, options: &TopOptions) -> String {
    let mut snapshot = snapshot.clone();
    if options.sort.is_some() || options.filter.is_some() || options.limit.is_some() {
        let rows = tree::rows(&snapshot.workloads, RowLayout::Flat);
        snapshot.workloads =
            tree::arrange(&rows, &options.choice()).into_iter().map(|shown| rows[shown.row].workload.clone()).collect();
        if options.sort.is_none() && options.limit.is_none() {
            snapshot.workloads.sort_by(|a, b| a.cgroup.cmp(&b.cgroup));
        }
    }
    // A `Snapshot` has only string keys, numbers and text, so this has no way to fail; were that to change, the message is JSON too.
    let document = serde_json::to_string_pretty(&snapshot);
    document.unwrap_or_else(|error| serde_json::json!({ "error": error.to_string() }).to_string()) + "\n"
}

/// How wide the terminal is that standard output goes to; `None` where it goes elsewhere.
pub fn columns() -> Option<usize> {
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
    let (columns, _) = crossterm::terminal::size().ok().filter(|_| is_terminal)?;
    Some(columns.into()).filter(|columns| *columns > 0)
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
            // STATE, where it is there, and what comes before the figures.
            let words = column <= 1 || rows[0][column] == "STATE";
            line += &if words { format!("{gap}{cell}{padding}") } else { format!("{gap}{padding}{cell}") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn bytes(workload: &WorkloadUsage, of: impl Fn(&MemoryUsage) -> Option<u64>) -> String {
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
