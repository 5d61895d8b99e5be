//! The table of docs/cost.md: what podmeter costs, from the report of `cargo xtask bench`.
//!
//! A row is a figure; a run that measured only some replaces only those. Each row names its run: commit, date and machine.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value as Json;

use super::markers;
use crate::command;
use crate::workspace::Workspace;

const NAME: &str = "bench";

/// The figures that the table begins with: all of podmeter, on what looks like a node.
const FIRST: &str = "node";

/// Where the benchmark leaves its figures.
pub(crate) fn report(workspace: &Workspace) -> PathBuf {
    workspace.target.join("bench/report.json")
}

/// Writes the figures of the last run into the document.
pub(crate) fn write(workspace: &Workspace) -> Result<()> {
    let file = report(workspace);
    let text = fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
    let figures: Json = serde_json::from_str(&text).with_context(|| format!("{} is no JSON", file.display()))?;
    let document = markers::document(workspace, NAME)?;
    let document = document.with_context(|| format!("no document has a table of costs (<!-- {NAME}:begin -->)"))?;
    let kept = markers::between(&document.text, NAME).unwrap_or_default();
    let run = Run { name: run_name(workspace)?, machine: machine()? };
    let table = merged(kept, &figures, &run).with_context(|| format!("{} has another form", file.display()))?;
    let now = markers::replaced(&document.text, NAME, &table);
    let now = now.with_context(|| format!("{} has no end of its part \"{NAME}\"", document.file))?;
    fs::write(workspace.root.join(&document.file), now).with_context(|| format!("could not write {}", document.file))?;
    println!("{} has the figures of this run", document.file);
    Ok(())
}

/// When, of what and on what was measured.
struct Run {
    /// Commit and date.
    name: String,
    machine: String,
}

/// The commit that is measured, with a mark where the tree differs from it, and the date.
fn run_name(workspace: &Workspace) -> Result<String> {
    let git = |arguments: &[&str]| command::output(Command::new("git").arg("-C").arg(&workspace.root).args(arguments));
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!*.md"])?;
    let date = command::output(Command::new("date").args(["--utc", "+%F"]))?;
    Ok(format!("`{}`{} {}", commit.trim(), if changed.is_empty() { "" } else { " with changes," }, date.trim()))
}

fn machine() -> Result<String> {
    let read = |file: &str| fs::read_to_string(file).with_context(|| format!("could not read {file}"));
    let cpuinfo = read("/proc/cpuinfo")?;
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, model)| model));
    let cpus = std::thread::available_parallelism().context("could not count CPUs")?;
    let kernel = read("/proc/sys/kernel/osrelease")?;
    Ok(format!("{}, {cpus} CPUs, Linux {}", model.unwrap_or(std::env::consts::ARCH), kernel.trim()))
}

const HEAD: &str = "| figure | what it is | median (smallest to largest) | target | run |\n|---|---|---|---|---|\n";
const RUNS: &str = "| run | machine |\n|---|---|\n";

/// The rows that are kept, with those of a run in their places.
fn merged(kept: &str, figures: &Json, run: &Run) -> Option<String> {
    let (kept, runs) = kept.split_once(RUNS).unwrap_or((kept, ""));
    let mut rows: Vec<String> = kept.lines().filter(|line| line.starts_with("| `")).map(str::to_owned).collect();
    for figure in figures.as_array()? {
        let (row, name) = (row(figure, &run.name)?, figure["name"].as_str()?);
        let start = |name: &str| format!("| `{name}");
        let group = name.split_once('.').map_or(name, |(group, _)| group);
        let place = rows.iter().position(|row| row.starts_with(&format!("{}` |", start(name))));
        match place {
            Some(place) => rows[place] = row,
            None => {
                let last = rows.iter().rposition(|row| row.starts_with(&start(&format!("{group}."))));
                let end = if group == FIRST { 0 } else { rows.len() };
                rows.insert(last.map_or(end, |last| last + 1), row);
            }
        }
    }
    let machines = runs.lines().filter(|line| line.starts_with("| `")).map(str::to_owned);
    let machines: BTreeSet<String> = machines.chain([format!("| {} | {} |", run.name, run.machine)]).collect();
    let is_named = |machine: &&String| {
        let run = machine.split(" | ").next().unwrap_or_default().trim_start_matches("| ");
        rows.iter().any(|row| row.ends_with(&format!("| {run} |")))
    };
    let mut text = HEAD.to_owned();
    rows.iter().for_each(|row| text.extend([row, "\n"]));
    let _ = write!(text, "\n{RUNS}");
    machines.iter().filter(is_named).for_each(|machine| text.extend([machine, "\n"]));
    Some(text)
}

fn row(figure: &Json, run: &str) -> Option<String> {
    let unit = figure["unit"].as_str()?;
    let [value, min, max] = ["value", "min", "max"].map(|key| figure[key].as_f64().map(shown));
    let (value, min, max) = (value?, min?, max?);
    let spread = if min == max { String::new() } else { format!(" ({min} to {max})") };
    let target = figure["target"].as_f64().map(|target| {
        let missed = if figure["met"].as_bool() == Some(false) { ", missed" } else { "" };
        format!("\u{2264} {} {unit}{missed}", shown(target))
    });
    let (name, what) = (figure["name"].as_str()?, figure["what"].as_str()?);
    Some(format!("| `{name}` | {what} | {} | {} | {run} |", format!("{value} {unit}{spread}").trim(), target.unwrap_or_default()))
}

/// Three digits that count, or the whole number.
fn shown(value: f64) -> String {
    let decimals = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(name: &str) -> Run {
        Run { name: format!("`{name}` 2026-01-01"), machine: "a CPU".to_owned() }
    }

    fn figure(name: &str, value: f64) -> Json {
        json!({"name": name, "what": "w", "unit": "ns", "value": value, "min": 1.0, "max": 40.5, "target": 20, "met": value <= 20.0})
    }

    #[test]
    fn a_row_has_value_spread_target_and_run() {
        assert_eq!(
            row(&figure("cpu.x", 36.04), "`c` d").unwrap(),
            "| `cpu.x` | w | 36 ns (1 to 40.5) | \u{2264} 20 ns, missed | `c` d |"
        );
        let once = json!({"name": "a.b", "what": "w", "unit": "", "value": 1590.4, "min": 1590.4, "max": 1590.4});
        assert_eq!(row(&once, "`c` d").unwrap(), "| `a.b` | w | 1590 |  | `c` d |");
        assert_eq!(row(&json!({"name": "a.b"}), ""), None);
    }

    #[test]
    fn what_a_node_pays_comes_first_whenever_it_was_measured() {
        let before = merged("", &json!([figure("cpu.x", 1.0)]), &run("old")).unwrap();
        let after =
            merged(&before, &json!([figure("node.x", 1.0), figure("node.y", 1.0), figure("soak.x", 1.0)]), &run("new")).unwrap();
        let names: Vec<&str> = after.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        assert_eq!(names[..4], ["node.x", "node.y", "cpu.x", "soak.x"]);
    }

    #[test]
    fn a_partial_run_replaces_only_its_own_rows() {
        let all = json!([figure("cpu.x", 1.0), figure("dns.x", 2.0)]);
        let first = merged("by hand\n", &all, &run("old")).unwrap();
        assert_eq!(merged(&first, &all, &run("old")).as_ref(), Some(&first));
        let second = merged(&first, &json!([figure("cpu.x", 3.0), figure("cpu.y", 4.0)]), &run("new")).unwrap();
        let starts = |text: &str| -> Vec<String> {
            let cells = text.lines().map(|line| line.split(" | ").collect::<Vec<_>>());
            cells.filter(|cells| cells.len() == 5).map(|cells| format!("{} {}", cells[0], cells[4])).collect()
        };
        assert_eq!(
            starts(&second)[1..],
            ["| `cpu.x` `new` 2026-01-01 |", "| `cpu.y` `new` 2026-01-01 |", "| `dns.x` `old` 2026-01-01 |"]
        );
        assert!(second.ends_with("| `new` 2026-01-01 | a CPU |\n| `old` 2026-01-01 | a CPU |\n"), "{second}");
        // A run that no row is of is forgotten.
        assert!(!merged(&second, &json!([figure("dns.x", 5.0)]), &run("new")).unwrap().contains("old"));
    }
}
