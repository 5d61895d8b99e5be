//! `cargo xtask tidy`: the house rules that neither rustc nor clippy knows.
//!
//! Each rule is a function from a file's path and text to its complaints. The rules see code through [`source`], so that a
//! comment that mentions a name does not break a rule about it.

mod source;

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use source::{Word, words};

/// The stages of the agent in the order data takes. A module may use those on its own line and on the lines above it.
const STAGES: &[&[&str]] = &[
    &[
        "backoff",
        "bound",
        "causes",
        "config",
        "event",
        "failure_log",
        "files",
        "fuzzing",
        "histogram",
        "interrupt",
        "rate_limit",
        "url",
    ],
    &["addresses", "metric"],
    &["connect"],
    &["kernel"],
    &["cgroups"],
    &["signals"],
    &["pods"],
    &["join"],
    &["aggregate"],
    &["export", "top"],
    &["health"],
    &["registry", "pipeline"],
    &["check", "live", "run"],
    &["main"],
];

/// Lines of a file from which one should look for a second idea in it, and beyond which there is one.
const LONG: usize = 400;
const TOO_LONG: usize = 700;

/// The one file of the agent that may hold unsafe code: its raw system calls.
const UNSAFE_FILE: &str = "agent/src/kernel/sys.rs";

/// Words for work that is not done. In two parts, or this file would break its own rule.
const UNFINISHED: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Files that people write by hand.
const TEXTS: &[&str] = &["rs", "toml", "md", "yaml", "yml", "sh", "json", "tpl"];

#[derive(Debug, PartialEq, Eq)]
struct Complaint {
    file: String,
    /// Counted from 1; 0 when it is about the whole file.
    line: usize,
    what: String,
    /// Whether it fails the check, or is only worth a look.
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

/// Applies every rule to every file of the tree.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut files = Vec::new();
    list(&workspace.root, &workspace.target, &mut files)?;
    let mut complaints = Vec::new();
    for path in &files {
        let text = fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
        let name = path.strip_prefix(&workspace.root).unwrap_or(path).to_string_lossy();
        check(&name, &text, &mut complaints);
    }
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    match complaints.iter().filter(|complaint| complaint.fatal).count() {
        0 => Ok(()),
        count => bail!("{count} of the house rules' complaints must be met"),
    }
}

/// Every file people write, below a directory; not what git and cargo keep there.
fn list(directory: &Path, target: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = directory.read_dir().with_context(|| format!("could not list {}", directory.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("could not list {}", directory.display()))?;
        let (path, kind) = (entry.path(), entry.file_type().context("could not tell a file from a directory")?);
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
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
    unfinished(file, text, complaints);
    if file.ends_with("/Cargo.toml") {
        lints(file, text, complaints);
    }
    if file.ends_with(".rs") {
        length(file, text, complaints);
        let words = words(text);
        if let Some(module) = file.strip_prefix("agent/src/") {
            stages(file, module, &words, complaints);
            unsafe_code(file, &words, complaints);
        }
    }
}

fn unfinished(file: &str, text: &str, complaints: &mut Vec<Complaint>) {
    for (line, text) in (1..).zip(text.lines()) {
        let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        if let Some(word) = words.find(|word| UNFINISHED.contains(word)) {
            complaints.push(Complaint::new(file, line, format!("{word}: finish it, or say in plain words what is so and why")));
        }
    }
}

fn lints(file: &str, text: &str, complaints: &mut Vec<Complaint>) {
    let lines = text.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    if !lines.take_while(|line| !line.starts_with('[')).any(|line| line == "workspace = true") {
        complaints.push(Complaint::new(
            file,
            0,
            "the workspace's lints are not on: add `[lints]` with `workspace = true`".to_owned(),
        ));
    }
}

fn length(file: &str, text: &str, complaints: &mut Vec<Complaint>) {
    let lines = text.lines().count();
    if lines > LONG {
        let what = format!("{lines} lines: look for the second idea in it and give it a file ({TOO_LONG} is the limit)");
        complaints.push(Complaint { fatal: lines > TOO_LONG, ..Complaint::new(file, 0, what) });
    }
}

fn unsafe_code(file: &str, words: &[Word<'_>], complaints: &mut Vec<Complaint>) {
    if file == UNSAFE_FILE {
        return;
    }
    for word in words.iter().filter(|word| word.text == "unsafe") {
        complaints.push(Complaint::new(
            file,
            word.line,
            format!("unsafe code belongs into {UNSAFE_FILE}, behind a safe function"),
        ));
    }
}

/// A module imports only from its own stage and those before it. Tests may use what they like.
fn stages(file: &str, module: &str, words: &[Word<'_>], complaints: &mut Vec<Complaint>) {
    let own = module.split(['/', '.']).next().unwrap_or_default();
    let Some(own_stage) = stage(own) else {
        let what = format!("`{own}` is not in xtask's table of stages: add it there, where data passes it");
        complaints.push(Complaint::new(file, 0, what));
        return;
    };
    for import in source::imports(module, words) {
        match stage(import.text) {
            Some(stage) if stage <= own_stage => {}
            Some(_) => {
                let what = format!("`{own}` uses `{}`, which comes after it: data flows one way", import.text);
                complaints.push(Complaint::new(file, import.line, what));
            }
            // An item of main.rs, the last stage of all.
            None if own != "main" => {
                let what = format!("`{own}` uses `crate::{}`, which is no stage: items live in modules", import.text);
                complaints.push(Complaint::new(file, import.line, what));
            }
            None => {}
        }
    }
}

fn stage(module: &str) -> Option<usize> {
    STAGES.iter().position(|stage| stage.contains(&module))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(file: &str, text: &str) -> Vec<(usize, String)> {
        let mut complaints = Vec::new();
        check(file, text, &mut complaints);
        complaints.into_iter().map(|complaint| (complaint.line, complaint.what)).collect()
    }

    fn lines(file: &str, text: &str) -> Vec<usize> {
        complaints(file, text).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn an_import_from_a_later_stage_is_refused() {
        let text = "use std::io;\nuse crate::kernel::Btf;\nuse crate::export::encode;\n";
        assert_eq!(
            complaints("agent/src/signals/cpu.rs", text),
            [(3, "`signals` uses `export`, which comes after it: data flows one way".to_owned())]
        );
        assert!(lines("agent/src/run.rs", text).is_empty());
    }

    #[test]
    fn every_way_to_write_an_import_is_seen() {
        assert_eq!(lines("agent/src/join.rs", "use crate::{histogram, aggregate::{Batch, Resource}, signals};"), [1]);
        assert_eq!(lines("agent/src/join.rs", "use crate::{\n  histogram,\n  run as r,\n};"), [3]);
        assert_eq!(lines("agent/src/join.rs", "fn f() {\n  let x = crate::top::view();\n}"), [2]);
        assert_eq!(lines("agent/src/join.rs", "use super::aggregate::Batch;"), [1]);
        assert_eq!(lines("agent/src/signals/cpu.rs", "use super::super::aggregate::Batch;\nuse super::metric::Point;"), [1]);
        assert_eq!(lines("agent/src/signals/mod.rs", "use super::aggregate::Batch;"), [1]);
        assert_eq!(lines("agent/src/signals/cpu.rs", "pub(crate) use super::{metric, super::aggregate};\n"), [1]);
    }

    #[test]
    fn tests_comments_and_strings_may_name_any_stage() {
        let text = "//! see crate::run\n/* crate::run /* crate::top */ */\nconst A: &str = \"crate::run\"; // crate::run\n\
            const B: &str = r#\"crate::\"run\"#;\n#[cfg(test)]\nmod tests {\n  use crate::run::x;\n  fn f() { if a { crate::top::b() } }\n}\n";
        assert!(lines("agent/src/join.rs", text).is_empty());
        // What follows the tests is code again.
        assert_eq!(lines("agent/src/join.rs", &format!("{text}use crate::run;\n")), [10]);
        assert_eq!(lines("agent/src/join.rs", "#[cfg(test)]\nuse crate::run::x;\nuse crate::top;\n"), [3]);
    }

    #[test]
    fn an_unknown_module_must_be_put_in_the_table() {
        assert!(complaints("agent/src/zebra.rs", "")[0].1.contains("add it there"));
        assert!(complaints("agent/src/join.rs", "use crate::zebra;")[0].1.contains("no stage"));
        assert!(lines("agent/src/main.rs", "use crate::Arguments;").is_empty());
    }

    #[test]
    fn no_stage_is_listed_twice() {
        let mut all: Vec<_> = STAGES.iter().copied().flatten().collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn long_files_are_noted_and_longer_ones_refused() {
        let fatal = |lines: usize| {
            let mut complaints = Vec::new();
            length("a.rs", &"\n".repeat(lines), &mut complaints);
            complaints.first().map(|complaint| complaint.fatal)
        };
        assert_eq!([fatal(400), fatal(401), fatal(700), fatal(701)], [None, Some(false), Some(false), Some(true)]);
    }

    #[test]
    fn every_crate_takes_the_workspaces_lints() {
        assert!(lines("agent/Cargo.toml", "[package]\n\n[lints]\nworkspace = true\n").is_empty());
        assert_eq!(lines("agent/Cargo.toml", "[package]\nworkspace = true\n"), [0]);
        assert_eq!(lines("agent/Cargo.toml", "[lints]\n[dependencies]\nworkspace = true\n"), [0]);
        assert!(lines("Cargo.toml", "[workspace]\n").is_empty());
    }

    #[test]
    fn unfinished_work_is_found_in_any_text() {
        let [todo, fixme, cross] = [UNFINISHED[0], UNFINISHED[1], UNFINISHED[2]];
        assert_eq!(lines("README.md", &format!("a\nb ({todo})\n")), [2]);
        assert_eq!(lines("tests/src/a.rs", &format!("// {fixme}: x\n// {cross}\n")), [1, 2]);
        assert!(lines("a.sh", &format!("mktemp /tmp/{cross}{cross}\necho {}\n", todo.to_lowercase())).is_empty());
    }

    #[test]
    fn unsafe_code_has_one_place() {
        let text = "#![forbid(unsafe_code)]\n// unsafe\nfn f() {\n  unsafe { g() }\n}\n";
        assert_eq!(lines("agent/src/kernel/load.rs", text), [4]);
        assert!(lines("agent/src/kernel/sys.rs", text).is_empty());
        assert!(lines("agent-ebpf/src/lib.rs", text).is_empty());
    }
}
