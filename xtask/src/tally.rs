//! Adding up what test runners report.

use std::fmt;
use std::ops::AddAssign;

/// What ran, and how it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that their runner reports as passed, those that skipped themselves among them.
    ended_well: u64,
    failed: u64,
    /// Tests that their runner left out.
    ignored: u64,
    /// Tests that reported that they cannot run here.
    skipped: u64,
}

impl Tally {
    /// A step without tests of its own that failed: a compiler error, a lint. It counts as one, so that a failure never ends in
    /// a line with `0 failed`.
    pub(crate) const FAILED_STEP: Self = Self { ended_well: 0, failed: 1, ignored: 0, skipped: 0 };

    /// A step that cannot run here, in the sum as one.
    pub(crate) const SKIPPED_STEP: Self = Self { ended_well: 1, failed: 0, ignored: 0, skipped: 1 };

    /// Adds what one line of a runner's output reports; most lines report nothing.
    ///
    /// A test that cannot run here prints `SKIPPED <name>: <reason>` and returns. To its runner it has passed, to us it has not.
    pub(crate) fn add_line(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.ended_well += count(result, "passed");
            self.failed += count(result, "failed");
            self.ignored += count(result, "ignored");
        } else if skipped(line).is_some() {
            self.skipped += 1;
        }
    }

    /// Whether anything failed.
    pub(crate) fn has_failures(&self) -> bool {
        self.failed > 0
    }
}

/// The name and the reason in a line of a test that cannot run here.
pub(crate) fn skipped(line: &str) -> Option<(&str, &str)> {
    let (name, reason) = line.strip_prefix("SKIPPED ")?.split_once(": ")?;
    (!name.is_empty() && !reason.is_empty()).then_some((name, reason))
}

/// The tests that a runner reports as failed, each with what it printed. They are repeated at the end, for whoever sees only the
/// last lines.
#[derive(Debug, Default)]
pub(crate) struct Failed {
    tests: Vec<(String, Vec<String>)>,
    section: Section,
}

/// Where in a runner's output a line is.
#[derive(Debug, Default, PartialEq, Eq)]
enum Section {
    #[default]
    Elsewhere,
    /// What failed tests printed, before the list of their names.
    Failures,
    /// Within that, the calls that led to a panic.
    Backtrace,
}

/// Lines that are kept of what a failed test printed before its error, the last ones, and from there on.
const BEFORE: usize = 6;
const FROM: usize = 24;

impl Failed {
    /// Takes a line of a runner's output.
    pub(crate) fn add_line(&mut self, line: &str) {
        if line == "failures:" {
            // The second time it is the list of names.
            self.section = if self.section == Section::Elsewhere { Section::Failures } else { Section::Elsewhere };
        } else if line == "successes:" || line.starts_with("test result: ") {
            self.section = Section::Elsewhere;
        } else if self.section != Section::Elsewhere {
            if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
                self.section = Section::Failures;
                self.tests.push((name.to_owned(), Vec::new()));
            } else if line == "stack backtrace:" {
                self.section = Section::Backtrace;
            } else if line.starts_with("note: ") || line.trim().is_empty() {
                self.section = Section::Failures;
            } else if let (Section::Failures, Some((_, lines))) = (&self.section, self.tests.last_mut()) {
                let is_error = |line: &String| line.starts_with("Error: ") || line.starts_with("thread '");
                let error = lines.iter().position(is_error);
                if error.is_none_or(|error| lines.len() - error < FROM) {
                    lines.push(line.to_owned());
                }
                if error.is_none() && lines.len() > BEFORE + 1 {
                    lines.remove(0);
                }
            }
        }
    }

    /// The name of each, and what it printed.
    pub(crate) fn texts(self) -> impl Iterator<Item = String> {
        self.tests.into_iter().map(|(name, lines)| {
            let lines: String = lines.iter().map(|line| format!("\n    {line}")).collect();
            format!("{name}{lines}")
        })
    }
}

/// The number before a word, as in `ok. 12 passed; 0 failed; 1 ignored; …`.
fn count(result: &str, word: &str) -> u64 {
    let words: Vec<&str> = result.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
    words.windows(2).find(|pair| pair[1] == word).and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.ended_well += other.ended_well;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.ended_well.saturating_sub(self.skipped), self.failed)?;
        match self.ignored + self.skipped {
            0 => Ok(()),
            skipped => write!(f, ", {skipped} skipped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(output: &str) -> Tally {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.add_line(line));
        tally
    }

    #[test]
    fn closing_lines_are_summed() {
        let output = "running 2 tests\n..\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\n\
            test result: FAILED. 11 passed; 3 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.20s\n";
        assert_eq!(tally(output).to_string(), "13 passed, 3 failed");
        assert!(tally(output).has_failures());
    }

    #[test]
    fn a_skipped_test_is_not_a_passed_one() {
        let output = "SKIPPED throttling: the cpu controller is not in cgroup2\n\
            test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";
        assert_eq!(tally(output).to_string(), "4 passed, 0 failed, 2 skipped");
        assert!(!tally(output).has_failures());
    }

    #[test]
    fn failed_tests_are_named_with_their_errors() {
        let log: String = (0..100).map(|n| format!("log {n}\n")).collect();
        let output = format!(
            "test a ... FAILED\n\nsuccesses:\n\n---- b stdout ----\nfine\n\nfailures:\n\n---- a stdout ----\n{log}\n\
             thread 'a' panicked at x.rs:1:\nleft: 1\nstack backtrace:\n  0: main\n  at x.rs\nnote: more\n\n\
             failures:\n    a\n\ntest result: FAILED. 1 passed; 1 failed\n\nfailures:\n\n---- c stdout ----\nbad\n\nfailures:\n    c\n"
        );
        let mut failed = Failed::default();
        output.lines().for_each(|line| failed.add_line(line));
        let texts: Vec<String> = failed.texts().collect();
        assert_eq!(texts.len(), 2);
        let lines: Vec<&str> = texts[0].lines().map(str::trim).collect();
        assert_eq!(lines[..2], ["a", "log 94"]);
        assert_eq!(lines[lines.len() - 3..], ["log 99", "thread 'a' panicked at x.rs:1:", "left: 1"]);
        assert_eq!((lines.len(), texts[1].as_str()), (1 + BEFORE + 2, "c\n    bad"));
    }

    #[test]
    fn other_lines_count_nothing() {
        let output =
            "test result_is_kept ... ok\nSKIPPED\nSKIPPED : x\nSKIPPED name: \n12 passed; 3 failed\ntest result: nonsense\n";
        assert_eq!(tally(output), Tally::default());
    }

    #[test]
    fn a_failed_step_shows_in_the_sum() {
        let mut sum = tally("test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n");
        sum += Tally::FAILED_STEP;
        assert_eq!(sum.to_string(), "5 passed, 1 failed");
        sum += Tally::SKIPPED_STEP;
        assert_eq!(sum.to_string(), "5 passed, 1 failed, 1 skipped");
    }
}
