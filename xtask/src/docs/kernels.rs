//! The table of what works on which kernel, from what `podmeter check --json` found on each in `cargo xtask test vm`.
//!
//! It stands in the document that has its marks. `cargo xtask docs` writes it when all kernels were tried; `test vm` fails when a
//! kernel contradicts it.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::Value as Json;

use super::markers;
use crate::vm;
use crate::workspace::Workspace;

pub(super) const NAME: &str = "kernels";

/// Fails when the table contradicts what some kernels have just shown.
pub(crate) fn check(workspace: &Workspace, kernels: &[&str]) -> Result<()> {
    let Some(document) = markers::document(workspace, NAME)? else {
        bail!("no document has a table of kernels (<!-- {NAME}:begin -->)");
    };
    let checks = kernels.iter().map(|kernel| Ok((*kernel, found(workspace, kernel)?))).collect::<Result<Vec<_>>>()?;
    let table = table(&checks).context("what `podmeter check` printed in the virtual machines names no signals")?;
    match contradiction(&document.text, &table) {
        None => Ok(()),
        Some(line) => {
            bail!("{}'s table of kernels lacks the row that the kernels show: `{line}`. Run `cargo xtask docs`", document.file)
        }
    }
}

/// The first line of `table` that is missing between the marks of `text`.
fn contradiction<'a>(text: &str, table: &'a str) -> Option<&'a str> {
    let kept = markers::between(text, NAME).unwrap_or_default();
    table.lines().find(|line| !kept.lines().any(|kept| kept == *line))
}

/// What `podmeter check --json` found on a kernel.
fn found(workspace: &Workspace, kernel: &str) -> Result<Json> {
    let file = vm::check_file(workspace, kernel);
    let text = fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no JSON", file.display()))
}

/// The table as it should be; `None` where not every kernel was tried here.
pub(super) fn part(workspace: &Workspace) -> Result<Option<String>> {
    let mut checks = Vec::new();
    for kernel in vm::kernels() {
        if !vm::check_file(workspace, kernel).exists() {
            return Ok(None);
        }
        checks.push((kernel, found(workspace, kernel)?));
    }
    table(&checks).context("what `podmeter check` printed in the virtual machines names no signals").map(Some)
}

/// A row per kernel, a column per signal.
fn table(checks: &[(&str, Json)]) -> Option<String> {
    let signals = |check: &Json| -> Option<Vec<(String, Option<String>)>> {
        let signals = check["signals"].as_array()?.iter();
        signals
            .map(|signal| {
                let off = if signal["on"].as_bool()? { None } else { Some(signal["reason"].as_str()?.to_owned()) };
                Some((signal["name"].as_str()?.to_owned(), off))
            })
            .collect()
    };
    let mut text = String::new();
    for (number, (kernel, check)) in checks.iter().enumerate() {
        let signals = signals(check)?;
        if number == 0 {
            let names: Vec<&str> = signals.iter().map(|(name, _)| name.as_str()).collect();
            let _ = writeln!(text, "| kernel | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()));
        }
        let cells = signals.iter().map(|(_, off)| match off {
            None => "yes".to_owned(),
            // The verifier's log may follow on further lines.
            Some(why) => format!("no: {}", why.lines().next().unwrap_or_default().replace('|', "\\|")),
        });
        let _ = writeln!(text, "| {kernel} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_says_what_is_on_and_why_not() {
        let check = |reason: Option<&str>| {
            let cpu = json!({"name": "cpu", "on": true});
            let memory = reason
                .map_or(json!({"name": "memory", "on": true}), |reason| json!({"name": "memory", "on": false, "reason": reason}));
            json!({"signals": [cpu, memory]})
        };
        assert_eq!(
            table(&[("5.10", check(Some("no a|b\nlog"))), ("6.1", check(None))]).unwrap(),
            "| kernel | cpu | memory |\n|---|---|---|\n| 5.10 | yes | no: no a\\|b |\n| 6.1 | yes | yes |\n"
        );
        assert_eq!(table(&[("6.1", json!({"signals": [{"name": "cpu"}]}))]), None);
    }

    #[test]
    fn a_row_that_readme_does_not_have_is_a_contradiction() {
        let readme =
            "| 7 | no |\n<!-- kernels:begin -->\n| kernel | cpu |\n|---|---|\n| 6.1 | yes |\n| 7 | yes |\n<!-- kernels:end -->\n";
        let header = "| kernel | cpu |\n|---|---|\n";
        assert_eq!(contradiction(readme, &format!("{header}| 7 | yes |\n")), None);
        assert_eq!(contradiction(readme, &format!("{header}| 7 | no |\n")), Some("| 7 | no |"));
        assert_eq!(contradiction(readme, "| kernel | cpu | memory |\n"), Some("| kernel | cpu | memory |"));
        assert_eq!(contradiction("", header), Some("| kernel | cpu |"));
    }
}
