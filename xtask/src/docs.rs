//! `cargo xtask docs`: documents that are generated, so that they cannot disagree with the code.

pub(crate) mod cost;
mod dashboard;
mod deploy;
pub(crate) mod kernels;
mod markers;
mod victoria_metrics;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use crate::{command, tidy};

/// The part of a document that lists the stages of the agent.
const STAGES: &str = "stages";

/// A generated document and the arguments that make podmeter print it.
struct Document {
    file: &'static str,
    arguments: &'static [&'static str],
}

impl Document {
    /// What podmeter prints now.
    fn text(&self, podmeter: &Path) -> Result<String> {
        let text = command::output(Command::new(podmeter).args(self.arguments))?;
        if text.trim().is_empty() {
            bail!("`podmeter {}` prints nothing, which cannot be {}", self.arguments.join(" "), self.file);
        }
        Ok(text)
    }
}

const DOCUMENTS: &[Document] = &[Document { file: "METRICS.md", arguments: &["metrics", "--markdown"] }];

/// Writes every generated document.
pub(crate) fn write(workspace: &Workspace, podmeter: &Path) -> Result<()> {
    for document in DOCUMENTS {
        let text = document.text(podmeter)?;
        let file = workspace.root.join(document.file);
        fs::write(&file, text).with_context(|| format!("could not write {}", file.display()))?;
        println!("{} is up to date", document.file);
    }
    for (name, text) in deploy::files(workspace)? {
        let file = workspace.root.join(name);
        fs::write(&file, text).with_context(|| format!("could not write {}", file.display()))?;
        println!("{name} is up to date");
    }
    for (document, now) in parts(workspace, kernels::part(workspace)?)? {
        let file = workspace.root.join(&document.file);
        fs::write(&file, now).with_context(|| format!("could not write {}", file.display()))?;
        println!("{} is up to date", document.file);
    }
    Ok(())
}

/// The documents with generated parts, each as it is and as it should be.
fn parts(workspace: &Workspace, kernels: Option<String>) -> Result<Vec<(markers::Document, String)>> {
    let mut documents = Vec::new();
    let stages = Some(tidy::stages::text());
    for (name, part) in [(STAGES, stages), (kernels::NAME, kernels)] {
        let (Some(part), Some(document)) = (part, markers::document(workspace, name)?) else { continue };
        let now = markers::replaced(&document.text, name, &part);
        let now = now.with_context(|| format!("{} has no end of its part \"{name}\"", document.file))?;
        documents.push((document, now));
    }
    Ok(documents)
}

/// Fails when a generated document is not what podmeter prints now. The table of kernels is checked where the kernels are, by
/// `test vm`.
pub(crate) fn check(workspace: &Workspace, podmeter: &Path) -> Result<()> {
    for document in DOCUMENTS {
        let text = document.text(podmeter)?;
        let file = workspace.root.join(document.file);
        let kept = fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
        compare(document.file, &kept, &text)?;
    }
    for (name, text) in deploy::files(workspace)? {
        let file = workspace.root.join(name);
        let kept = fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
        compare(name, &kept, &text)?;
    }
    for (document, now) in parts(workspace, None)? {
        compare(&document.file, &document.text, &now)?;
    }
    Ok(())
}

/// Fails when a file is not what it should be now.
fn compare(file: &str, kept: &str, now: &str) -> Result<()> {
    if let Some((line, kept, now)) = first_difference(kept, now) {
        bail!("{file}:{line} is stale: it has `{kept}` in place of `{now}`. Run `cargo xtask docs`");
    }
    Ok(())
}

/// The first line, counted from 1, in which two texts differ, with what each has there.
fn first_difference<'a>(kept: &'a str, now: &'a str) -> Option<(usize, &'a str, &'a str)> {
    if kept == now {
        return None;
    }
    let (mut kept, mut now) = (kept.split('\n'), now.split('\n'));
    (1..).find_map(|line| match (kept.next(), now.next()) {
        (None, None) => Some((line, "", "")),
        (left, right) if left == right => None,
        (left, right) => Some((line, left.unwrap_or_default(), right.unwrap_or_default())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_stale_line_is_named() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), Some((2, "b", "c")));
        assert_eq!(first_difference("a\n", "a\nb\n"), Some((2, "", "b")));
        assert_eq!(first_difference("a\nb\n", "a\n"), Some((2, "b", "")));
        assert_eq!(first_difference("a", "a\n"), Some((2, "", "")));
    }
}
