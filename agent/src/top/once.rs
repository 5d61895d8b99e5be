//! One snapshot as text: `podmeter top --once`, with or without `--json`.

mod table;

use self::table::one_word;
use super::format;
use super::options::TopOptions;
use super::status;
use super::tree::{self, RowLayout};
use crate::snapshot::document::Snapshot;

/// Columns where the width is not known.
const USUAL_COLUMNS: usize = 80;

/// The node in a few lines, and the wanted rows as a table that fits `columns`.
pub fn text(snapshot: &Snapshot, options: &TopOptions, columns: usize) -> String {
    let rows = tree::rows(&snapshot.workloads, options.view);
    let rows: Vec<_> = tree::arrange(&rows, &options.choice()).into_iter().map(|shown| &rows[shown.row]).collect();
    header(snapshot) + "\n" + &table::table(&rows, columns)
}

/// The node, and what is not measured.
fn header(snapshot: &Snapshot) -> String {
    let cpu = &snapshot.node.cpu;
    let capacity = Some(cpu.capacity_cores).filter(|cores| *cores > 0.0);
    let mut text = format!(
        "node {}{}: {} of {} cores in use",
        one_word(&snapshot.node.name),
        snapshot.at.as_ref().map(|at| format!(" at {at}")).unwrap_or_default(),
        format::cores(cpu.usage_cores),
        capacity.map_or(format::UNKNOWN.into(), format::whole_cores),
    );
    if cpu.unattributed_seconds > 0.0 {
        text += &format!(", {} of CPU time not attributed to any cgroup", format::duration(Some(cpu.unattributed_seconds)));
    }
    text.push('\n');
    if let Some(memory) = &snapshot.node.memory {
        let used = memory.working_set_bytes.or(memory.usage_bytes);
        text += &format!("memory: {} of {} in use\n", format::bytes(used), format::bytes(memory.capacity_bytes));
    }
    if let Some(network) = &snapshot.node.network {
        let rate = |rate: Option<f64>| format::bytes(rate.filter(|rate| rate.is_finite()).map(|rate| rate as u64));
        text += &format!("network: {}/s received, {}/s sent\n", rate(network.receive_rate), rate(network.transmit_rate));
    }
    for line in status::lines(snapshot) {
        text += &format::printable(&line);
        text.push('\n');
    }
    text
}

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

/// How wide the text may be: `COLUMNS` where that is set, else the width of the terminal, else 80.
pub fn columns() -> usize {
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
    let terminal = || crossterm::terminal::size().ok().filter(|_| is_terminal).map(|(columns, _)| columns.into());
    columns_by(std::env::var("COLUMNS").ok().as_deref(), terminal)
}

fn columns_by(variable: Option<&str>, terminal: impl FnOnce() -> Option<usize>) -> usize {
    let wanted = variable.and_then(|columns| columns.trim().parse().ok()).filter(|columns| *columns > 0);
    wanted.or_else(|| terminal().filter(|columns| *columns > 0)).unwrap_or(USUAL_COLUMNS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::document::{NodeCpu, NodeMemory, NodeNetwork, NodeUsage};

    #[test]
    fn the_width_is_that_of_columns_else_of_the_terminal_else_80() {
        for (variable, terminal, wanted) in [
            (Some("132"), Some(200), 132),
            (Some("0"), Some(200), 200),
            (Some("wide"), None, 80),
            (Some("-1"), Some(0), 80),
            (None, Some(200), 200),
            (None, None, 80),
        ] {
            assert_eq!(columns_by(variable, || terminal), wanted, "{variable:?} {terminal:?}");
        }
    }

    #[test]
    fn the_header_has_the_nodes_figures_in_the_units_that_people_read() {
        let cpu = NodeCpu { usage_cores: Some(1.5), capacity_cores: 4.0, unattributed_seconds: 0.0, ..NodeCpu::default() };
        let memory =
            NodeMemory { working_set_bytes: Some(3_762_626_560), capacity_bytes: Some(25_276_502_016), ..NodeMemory::default() };
        let network = NodeNetwork { receive_rate: Some(2048.0), transmit_rate: None, ..NodeNetwork::default() };
        let node = NodeUsage { name: "n".into(), cpu, memory: Some(memory), network: Some(network), ..NodeUsage::default() };
        let mut snapshot = Snapshot { node, ..Snapshot::default() };
        let expected =
            "node n: 1.50 of 4 cores in use\nmemory: 3.50 GiB of 23.5 GiB in use\nnetwork: 2.00 KiB/s received, -/s sent\n";
        assert_eq!(header(&snapshot), expected);
        snapshot.node.cpu.unattributed_seconds = 2.0;
        assert!(header(&snapshot).contains("cores in use, 2.0s of CPU time not attributed to any cgroup\n"));
    }
}
