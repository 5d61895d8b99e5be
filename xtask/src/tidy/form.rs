//! Rules about the form of files: length, lints, unsafe code, unfinished work.

use super::Complaint;
use super::source::Word;

/// Lines of a file from which one should look for a second idea in it, and beyond which there is one.
const LONG: usize = 400;
const TOO_LONG: usize = 500;

/// The one file of the agent that may hold unsafe code: its raw system calls.
const UNSAFE_FILE: &str = "agent/src/kernel/sys.rs";

/// Words for work that is not done. In two parts, or this file would break its own rule.
const UNFINISHED: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Lines of README, which is for the visitor.
const README_LINES: usize = 150;

pub(super) fn unfinished(file: &str, text: &str, complaints: &mut Vec<Complaint>) {
    for (line, text) in (1..).zip(text.lines()) {
        let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        if let Some(word) = words.find(|word| UNFINISHED.contains(word)) {
            complaints.push(Complaint::new(file, line, format!("{word}: finish it, or say in plain words what is so and why")));
        }
    }
}

pub(super) fn lints(file: &str, text: &str, complaints: &mut Vec<Complaint>) {
    let lines = text.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    if !lines.take_while(|line| !line.starts_with('[')).any(|line| line == "workspace = true") {
        complaints.push(Complaint::new(
            file,
            0,
            "the workspace's lints are not on: add `[lints]` with `workspace = true`".to_owned(),
        ));
    }
}

pub(super) fn length(file: &str, text: &str, complaints: &mut Vec<Complaint>) {
    let lines = text.lines().count();
    if file == "README.md" && lines > README_LINES {
        let what = format!("{lines} lines of at most {README_LINES}: README is for the visitor, the rest has a place in docs/");
        complaints.push(Complaint::new(file, 0, what));
    }
    if file.ends_with(".rs") && lines > LONG {
        let what = format!("{lines} lines: look for the second idea in it and give it a file ({TOO_LONG} is the limit)");
        complaints.push(Complaint { fatal: lines > TOO_LONG, ..Complaint::new(file, 0, what) });
    }
}

pub(super) fn unsafe_code(file: &str, words: &[Word<'_>], complaints: &mut Vec<Complaint>) {
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

#[cfg(test)]
mod tests {
    use super::super::tests::lines;
    use super::*;

    #[test]
    fn long_files_are_noted_and_longer_ones_refused() {
        let fatal = |lines: usize| {
            let mut complaints = Vec::new();
            length("a.rs", &"\n".repeat(lines), &mut complaints);
            complaints.first().map(|complaint| complaint.fatal)
        };
        assert_eq!([fatal(400), fatal(401), fatal(500), fatal(501)], [None, Some(false), Some(false), Some(true)]);
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

    #[test]
    fn readme_is_short() {
        assert_eq!(lines("README.md", &"\n".repeat(151)), [0]);
        assert!(lines("README.md", &"\n".repeat(150)).is_empty() && lines("METRICS.md", &"\n".repeat(900)).is_empty());
    }
}
