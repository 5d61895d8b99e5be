//! The rows of a snapshot as a table of text that fits a width (pure).

use crate::snapshot::document::{MemoryUsage, WorkloadUsage};
use crate::top::{format, shares, tree::TableRow};

/// One column beside the name.
struct TextColumn {
    /// With its unit.
    heading: &'static str,
    /// Its place in the order in which columns are kept where room is scarce, from 0.
    importance: usize,
    cell: fn(&WorkloadUsage) -> String,
}

const fn column(heading: &'static str, importance: usize, cell: fn(&WorkloadUsage) -> String) -> TextColumn {
    TextColumn { heading, importance, cell }
}

/// From left to right. Plain numbers in the units of the headings, one word each, so that `awk` and `sort` can take them.
const COLUMNS: &[TextColumn] = &[
    column("KIND", 9, |w| one_word(&w.cgroup_kind)),
    column("CPU(cores)", 0, |w| number(w.cpu.usage_cores, 3)),
    column("REQUEST(cores)", 14, |w| number(w.cpu.request_cores, 3)),
    column("USE/REQUEST(%)", 5, |w| percent(shares::request_share(w), 1)),
    column("LIMIT(cores)", 15, |w| number(w.cpu.limit_cores, 3)),
    column("USE/LIMIT(%)", 3, |w| percent(shares::limit_share(w), 1)),
    column("BURST-P50(cores)", 23, |w| number(w.cpu.burst_p50_cores, 3)),
    column("BURST-P99(cores)", 7, |w| number(w.cpu.burst_p99_cores, 3)),
    column("WAIT(ms/s)", 21, |w| milliseconds(w.cpu.wait_rate, 1)),
    column("THROTTLED(ms/s)", 2, |w| milliseconds(w.cpu.throttled_rate, 1)),
    column("CONTENTION(ms/s)", 4, |w| milliseconds(w.cpu.contention_rate, 1)),
    column("CPU-TIME(s)", 16, |w| number(Some(w.cpu.time_seconds), 3)),
    column("MEMORY(bytes)", 22, |w| memory(w, |m| m.usage_bytes)),
    column("WORKING-SET(bytes)", 1, |w| memory(w, |m| m.working_set_bytes)),
    column("MEMORY-LIMIT(bytes)", 8, |w| memory(w, |m| m.limit_bytes)),
    column("OOM-KILLS", 6, |w| memory(w, |m| m.oom_kills)),
    column("RX(bytes/s)", 12, |w| number(w.network.as_ref().and_then(|n| n.receive_rate), 0)),
    column("TX(bytes/s)", 13, |w| number(w.network.as_ref().and_then(|n| n.transmit_rate), 0)),
    column("DROPS(1/s)", 18, |w| number(w.network.as_ref().and_then(|n| n.drop_rate), 1)),
    column("RETRANSMITS(%)", 10, |w| percent(w.tcp.as_ref().and_then(|t| t.retransmit_ratio), 2)),
    column("RTT-P99(ms)", 19, |w| milliseconds(w.tcp.as_ref().and_then(|t| t.rtt_p99_seconds), 2)),
    column("DNS-P99(ms)", 20, |w| milliseconds(w.dns.as_ref().and_then(|d| d.p99_seconds), 2)),
    column("DNS-FAILURES(%)", 11, |w| percent(w.dns.as_ref().and_then(|d| d.failure_ratio), 2)),
    column("DNS-NXDOMAIN(%)", 24, |w| percent(w.dns.as_ref().and_then(|d| d.no_such_name_ratio), 2)),
    column("DNS-LOOKUPS", 25, |w| number(w.dns.as_ref().map(|d| d.window_lookups as f64), 0)),
    column("STATE", 17, |w| if w.ended { "ended".to_owned() } else { format::UNKNOWN.to_owned() }),
];

/// Columns of the terminal between two columns of the table.
const GAP: usize = 2;

/// So many of the most important columns stay: names are shortened to make room for them.
const KEPT: usize = 3;

/// Names are not shortened further than this.
const SHORTEST_NAME: usize = 12;

/// The rows, aligned, in lines of at most `width` columns. Columns without a value in any row are left out, then the least important
/// ones; names are shortened last.
pub fn table(rows: &[&TableRow], width: usize) -> String {
    let names = || std::iter::once("NAME".to_owned()).chain(rows.iter().map(|row| one_word(&row.label)));
    let longest = widest(names());
    let mut columns: Vec<(&TextColumn, Vec<String>)> = COLUMNS.iter().map(|column| (column, cells(column, rows))).collect();
    columns.retain(|(column, cells)| column.importance == 0 || cells.iter().skip(1).any(|cell| cell != format::UNKNOWN));
    let mut by_importance: Vec<(usize, usize)> =
        columns.iter().map(|(column, cells)| (column.importance, GAP + widest(cells))).collect();
    by_importance.sort_unstable();
    let fitting = |name: usize, at_most: usize| {
        let mut free = width.saturating_sub(name);
        let fits = |(_, wanted): &&(usize, usize)| free.checked_sub(*wanted).map(|rest| free = rest).is_some();
        by_importance.iter().take(at_most).take_while(fits).count()
    };
    let least = fitting(SHORTEST_NAME.min(longest), KEPT).max(1);
    let kept = fitting(longest, usize::MAX).max(least).min(by_importance.len());
    let used: usize = by_importance[..kept].iter().map(|(_, wanted)| wanted).sum();
    let name = width.saturating_sub(used).max(SHORTEST_NAME).min(longest);
    let kept: Vec<usize> = by_importance[..kept].iter().map(|(importance, _)| *importance).collect();
    columns.retain(|(column, _)| kept.contains(&column.importance));

    let mut text = String::new();
    for (index, full) in names().enumerate() {
        let mut line = left(&format::cut(&full, name), name);
        for (column, cells) in &columns {
            let width = widest(cells);
            line += &" ".repeat(GAP);
            line += &if matches!(column.heading, "KIND" | "STATE") {
                left(&cells[index], width)
            } else {
                right(&cells[index], width)
            };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// The heading of a column and its cells.
fn cells(column: &TextColumn, rows: &[&TableRow]) -> Vec<String> {
    std::iter::once(column.heading.to_owned()).chain(rows.iter().map(|row| (column.cell)(&row.workload))).collect()
}

fn widest(cells: impl IntoIterator<Item = impl AsRef<str>>) -> usize {
    cells.into_iter().map(|cell| format::width(cell.as_ref())).max().unwrap_or(0)
}

fn left(cell: &str, width: usize) -> String {
    cell.to_owned() + &" ".repeat(width.saturating_sub(format::width(cell)))
}

fn right(cell: &str, width: usize) -> String {
    " ".repeat(width.saturating_sub(format::width(cell))) + cell
}

fn memory(workload: &WorkloadUsage, of: impl Fn(&MemoryUsage) -> Option<u64>) -> String {
    number(workload.memory.as_ref().and_then(of).map(|bytes| bytes as f64), 0)
}

fn percent(ratio: Option<f64>, digits: usize) -> String {
    number(ratio.map(|ratio| ratio * 100.0), digits)
}

fn milliseconds(seconds: Option<f64>, digits: usize) -> String {
    number(seconds.map(|seconds| seconds * 1000.0), digits)
}

fn number(value: Option<f64>, digits: usize) -> String {
    match value.filter(|v| v.is_finite() && *v >= 0.0) {
        Some(v) => format!("{:.digits$}", v.abs()),
        None => format::UNKNOWN.into(),
    }
}

/// Text that stays one field of its line.
pub fn one_word(text: &str) -> String {
    let word = format::printable(text).replace(char::is_whitespace, "_");
    if word.is_empty() { format::UNKNOWN.into() } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{document::Snapshot, synthetic};
    use crate::top::tree::{self, RowChoice, RowLayout};

    fn table_of(snapshot: &Snapshot, width: usize) -> String {
        let rows = tree::rows(&snapshot.workloads, RowLayout::Tree);
        let shown: Vec<&TableRow> =
            tree::arrange(&rows, &RowChoice::default()).into_iter().map(|shown| &rows[shown.row]).collect();
        table(&shown, width)
    }

    fn headings(table: &str) -> Vec<&str> {
        table.lines().next().expect("a heading").split_whitespace().collect()
    }

    #[test]
    fn the_most_important_columns_that_fit_are_kept_beside_whole_names() {
        let snapshot = synthetic::snapshot(1);
        for (width, wanted) in [
            (80, &["NAME", "CPU(cores)", "THROTTLED(ms/s)", "WORKING-SET(bytes)"][..]),
            (120, &["NAME", "CPU(cores)", "USE/LIMIT(%)", "THROTTLED(ms/s)", "CONTENTION(ms/s)", "WORKING-SET(bytes)"][..]),
        ] {
            let table = table_of(&snapshot, width);
            assert!(table.lines().all(|line| format::width(line) <= width), "{width}\n{table}");
            assert_eq!(headings(&table), wanted, "{table}");
            assert!(table.contains("shop/checkout-7d9f8c6b5-x2x7k "), "{table}");
        }
        let wide = table_of(&snapshot, 200);
        assert!(wide.lines().all(|line| format::width(line) <= 200), "{wide}");
        assert!(headings(&wide).len() > 8, "{wide}");
        assert_eq!(headings(&table_of(&snapshot, 1000)).len(), COLUMNS.len(), "all but STATE, since nothing ended, and the name");
    }

    #[test]
    fn a_wider_terminal_never_shows_fewer_columns_and_no_line_is_too_long() {
        let mut before = 0;
        for width in 24..500 {
            let table = table_of(&synthetic::snapshot(1), width);
            assert!(table.lines().all(|line| format::width(line) <= width), "{width}\n{table}");
            let shown = headings(&table).len();
            assert!(shown >= before, "{width}\n{table}");
            before = shown;
        }
    }

    #[test]
    fn a_column_without_a_value_in_any_row_makes_room_for_the_next_one() {
        let mut snapshot = synthetic::snapshot(1);
        for workload in &mut snapshot.workloads {
            workload.cpu.throttled_rate = None;
            workload.memory = None;
        }
        let table = table_of(&snapshot, 80);
        assert_eq!(headings(&table), ["NAME", "CPU(cores)", "USE/LIMIT(%)", "CONTENTION(ms/s)"], "{table}");
        snapshot.workloads[0].ended = true;
        assert!(headings(&table_of(&snapshot, 1000)).contains(&"STATE"));
    }

    #[test]
    fn without_values_there_are_names_and_the_cpu_column() {
        let workload = WorkloadUsage { name: "a".into(), cgroup: "/a".into(), ..WorkloadUsage::default() };
        let snapshot = Snapshot { workloads: vec![workload], ..Snapshot::default() };
        for width in [0, 80, 120, 200] {
            let table = table_of(&snapshot, width);
            assert!(table.starts_with("NAME  CPU(cores)") && table.contains("\na              -"), "{width}\n{table}");
        }
        assert_eq!(table_of(&Snapshot::default(), 80), "NAME  CPU(cores)\n");
    }

    #[test]
    fn names_are_shortened_only_where_the_most_important_columns_would_not_fit() {
        let mut snapshot = synthetic::snapshot(1);
        for workload in &mut snapshot.workloads {
            workload.namespace = Some("a-namespace-with-a-very-long-name-indeed".into());
        }
        let table = table_of(&snapshot, 80);
        assert!(table.lines().all(|line| format::width(line) <= 80) && table.contains('…'), "{table}");
        assert_eq!(headings(&table).len(), 1 + KEPT, "{table}");
        assert!(!table_of(&snapshot, 200).contains('…'));
    }

    #[test]
    fn every_column_has_its_own_importance() {
        let mut all: Vec<usize> = COLUMNS.iter().map(|column| column.importance).collect();
        all.sort_unstable();
        assert_eq!(all, (0..COLUMNS.len()).collect::<Vec<_>>());
    }
}
