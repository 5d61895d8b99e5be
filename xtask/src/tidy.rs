//! `cargo xtask tidy`: the house rules that neither rustc nor clippy knows.
//!
//! Each rule is a file of its own. The rules see code through [`source`], so that a comment that mentions a name does not break a
//! rule about it.

mod circles;
mod form;
mod glossary;
mod links;
mod source;
pub(crate) mod stages;
mod words;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// Files that people write by hand.
const TEXTS: &[&str] = &["rs", "toml", "md", "yaml", "yml", "sh", "json", "tpl"];

#[derive(Debug, PartialEq, Eq)]
struct Complaint {
    file: String,
    /// Counted from 1; 0 when it is about the whole file.
    line: usize,
    what: String,
    /// Whether it fails the check, or is only a note.
    fatal: bool,
}

impl Complaint {
    fn new(file: &str, line: usize, what: String) -> Self {
        Self { file: file.to_owned(), line, what, fatal: true }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = if self.line == 0 { String::new() } else { format!(":{}", self.line) };
        write!(f, "{}: {}{line}: {}", if self.fatal { "error" } else { "note" }, self.file, self.what)
    }
}

/// The files of the tree by name, with their texts.
type Files = BTreeMap<String, String>;

/// Applies every rule to every file of the tree.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut paths = Vec::new();
    list(&workspace.root, &workspace.target, &mut paths)?;
    let mut files = Files::new();
    for path in &paths {
        let text = fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
        let name = path.strip_prefix(&workspace.root).unwrap_or(path).to_string_lossy();
        files.insert(name.into_owned(), text);
    }
    let mut complaints = Vec::new();
    for (name, text) in &files {
        check(name, text, &mut complaints);
    }
    circles::check(&files, &mut complaints);
    links::check(&files, |path| workspace.root.join(path).exists(), &mut complaints);
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    match complaints.iter().filter(|complaint| complaint.fatal).count() {
        0 => Ok(()),
        1 => bail!("one complaint about the house rules must be met"),
        count => bail!("{count} complaints about the house rules must be met"),
    }
}

/// Every file people write, below a directory; not what git and cargo keep there.
fn list(directory: &Path, target: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = directory.read_dir().with_context(|| format!("could not list {}", directory.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("could not list {}", directory.display()))?;
        let (path, kind) = (entry.path(), entry.file_type().context("could not tell a file from a directory")?);
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".") && entry.file_name() != ".github";
        if kind.is_dir() && !hidden && path != target && !path.join("CACHEDIR.TAG").exists() {
            list(&path, target, files)?;
        } else if kind.is_file() && path.extension().and_then(OsStr::to_str).is_some_and(|kind| TEXTS.contains(&kind)) {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(())
}

fn check(file: &str, text: &str, complaints: &mut Vec<Complaint>) {
    form::unfinished(file, text, complaints);
    form::length(file, text, complaints);
    words::check(file, text, complaints);
    if file.ends_with("/Cargo.toml") {
        form::lints(file, text, complaints);
    }
    if let Some(module) = file.strip_prefix("agent/src/").filter(|module| module.ends_with(".rs")) {
        let words = source::words(text);
        stages::check(file, module, &words, complaints);
        form::unsafe_code(file, &words, complaints);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn complaints(file: &str, text: &str) -> Vec<(usize, String)> {
        let mut complaints = Vec::new();
        check(file, text, &mut complaints);
        complaints.into_iter().map(|complaint| (complaint.line, complaint.what)).collect()
    }

    pub(super) fn lines(file: &str, text: &str) -> Vec<usize> {
        complaints(file, text).into_iter().map(|(line, _)| line).collect()
    }
}
