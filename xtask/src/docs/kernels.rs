//! README's table of what works on which kernel, from what `podmeter check --json` said on each in `cargo xtask test vm`.
//!
//! `cargo xtask docs` writes it when all kernels were tried. Whether it is true shows where the kernels are: `test vm` fails when
//! one of them says something else.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::Value as Json;

use crate::vm;
use crate::workspace::Workspace;

pub(super) const FILE: &str = "README.md";
const BEGIN: &str = "<!-- kernels:begin -->\n";
const END: &str = "<!-- kernels:end -->";

/// Fails when README's table contradicts what some kernels have just said.
pub(crate) fn check(workspace: &Workspace, kernels: &[&str]) -> Result<()> {
    let file = workspace.root.join(FILE);
    let kept = fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
    let checks = kernels.iter().map(|kernel| Ok((*kernel, said(workspace, kernel)?))).collect::<Result<Vec<_>>>()?;
    let table = table(&checks).context("what `podmeter check` printed in the virtual machines names no signals")?;
    match contradiction(&kept, &table) {
        None => Ok(()),
        Some(line) => {
            bail!("{FILE}'s table of kernels has no row `{line}`, as the kernels say: `cargo xtask docs` writes it anew")
        }
    }
}

/// The first line of `table` that is missing between the marks of `text`.
fn contradiction<'a>(text: &str, table: &'a str) -> Option<&'a str> {
    let kept = text.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).map_or("", |(kept, _)| kept);
    table.lines().find(|line| !kept.lines().any(|kept| kept == *line))
}

/// What `podmeter check --json` said on a kernel.
fn said(workspace: &Workspace, kernel: &str) -> Result<Json> {
    let file = vm::check_file(workspace, kernel);
    let text = fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no JSON", file.display()))
}

/// README as it is and as it should be; `None` where it has no place for the table, or where not every kernel was tried here.
pub(super) fn readme(workspace: &Workspace) -> Result<Option<(String, String)>> {
    let file = workspace.root.join(FILE);
    let Ok(kept) = fs::read_to_string(&file) else { return Ok(None) };
    let mut checks = Vec::new();
    for kernel in vm::kernels() {
        if !vm::check_file(workspace, kernel).exists() {
            return Ok(None);
        }
        checks.push((kernel, said(workspace, kernel)?));
    }
    let table = table(&checks).context("what `podmeter check` printed in the virtual machines names no signals")?;
    Ok(replaced(&kept, &table).map(|now| (kept, now)))
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

/// The text with `table` between the marks; `None` without marks.
fn replaced(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{table}{END}{after}"))
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

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let readme = "a\n<!-- kernels:begin -->\nold\n<!-- kernels:end -->\nb\n";
        let now = replaced(readme, "new\n").unwrap();
        assert_eq!(now, "a\n<!-- kernels:begin -->\nnew\n<!-- kernels:end -->\nb\n");
        assert_eq!(replaced(&now, "new\n").as_deref(), Some(now.as_str()));
        assert_eq!(replaced("a\n<!-- kernels:begin -->\n", "new\n"), None);
    }
}
