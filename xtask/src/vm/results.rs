//! What a guest prints: marks around each runner's output, and the output of Rust's test runner between them.

use std::collections::BTreeSet;
use std::io::Write;

use crate::tally::{Failed, Tally, skipped};

/// Begins every line that is the guest's own and not a runner's (see `init.sh`).
const MARK: &str = "@guest ";

/// The runner that prints what this kernel allows, as JSON.
const CHECK: &str = "check";

/// Reads a guest's lines, shows those that people want to see, and counts.
#[derive(Debug)]
pub(super) struct Results {
    kernel: &'static str,
    tally: Tally,
    failures: Vec<String>,
    /// What `podmeter check --json` printed.
    check: String,
    /// Test runners that must still report.
    expected: Vec<String>,
    tests: Tests,
    running: Option<Runner>,
    ended: bool,
    lost: bool,
    began: bool,
}

/// The tests of a guest, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tests {
    /// Those that passed, if only by skipping themselves.
    pub(crate) passed: BTreeSet<String>,
    /// Those that skipped themselves, in whole or in part.
    pub(crate) skipped: BTreeSet<String>,
}

#[derive(Debug)]
struct Runner {
    name: String,
    tally: Tally,
    failed: Failed,
    /// It has printed its closing line.
    closed: bool,
    section: Section,
}

/// The parts of a test runner's output.
#[derive(Debug, PartialEq, Eq)]
enum Section {
    /// `test name ... ok`
    Tests,
    /// What passed tests printed.
    Successes,
    /// What failed tests printed, and their names.
    Failures,
}

impl Results {
    /// Of a guest that runs these test runners.
    pub(super) fn new(kernel: &'static str, runners: impl IntoIterator<Item = String>) -> Self {
        let expected = runners.into_iter().collect();
        Self {
            kernel,
            tally: Tally::default(),
            failures: Vec::new(),
            check: String::new(),
            expected,
            tests: Tests::default(),
            running: None,
            ended: false,
            lost: false,
            began: false,
        }
    }

    /// Takes a line; what a person should see goes to `out`.
    pub(super) fn line(&mut self, line: &str, out: &mut impl Write) {
        let line = line.trim_end_matches('\r');
        if let Some(mark) = line.strip_prefix(MARK) {
            return self.mark(mark);
        }
        let Some(runner) = &mut self.running else { return };
        if runner.name == CHECK {
            self.check.extend([line, "\n"]);
            return;
        }
        runner.tally.add_line(line);
        runner.failed.add_line(line);
        if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... ok")) {
            self.tests.passed.insert(name.to_owned());
        } else if let Some((name, _)) = skipped(line) {
            self.tests.skipped.insert(name.to_owned());
        }
        match line {
            "successes:" => runner.section = Section::Successes,
            "failures:" => runner.section = Section::Failures,
            _ if line.starts_with("test result: ") => {
                runner.section = Section::Tests;
                runner.closed = true;
                return;
            }
            _ => {}
        }
        let shown = match runner.section {
            Section::Tests => line.starts_with("test "),
            Section::Successes => line.starts_with("SKIPPED "),
            Section::Failures => true,
        };
        if shown {
            // Whoever reads this may have left; the tests' result still counts.
            let _ = writeln!(out, "[{}] {line}", self.kernel);
        }
    }

    fn mark(&mut self, mark: &str) {
        match mark.split(' ').collect::<Vec<_>>()[..] {
            ["begin", name] => {
                self.began = true;
                let name = name.to_owned();
                let (tally, failed) = (Tally::default(), Failed::default());
                self.running = Some(Runner { name, tally, failed, closed: false, section: Section::Tests });
            }
            ["end", name, code] => {
                let runner = self.running.take().filter(|runner| runner.name == name);
                self.expected.retain(|expected| expected != name);
                self.end(runner, name, code);
            }
            ["off"] => self.ended = true,
            _ => self.fail(format_args!("the guest printed an unknown mark: {mark}")),
        }
    }

    fn end(&mut self, runner: Option<Runner>, name: &str, code: &str) {
        let Some(mut runner) = runner else { return self.fail(format_args!("{name} ended without having begun")) };
        let closed = runner.closed || name == CHECK;
        if code != "0" || !closed {
            self.failures.push(format!("[{}] {name} ended with {code}", self.kernel));
            self.failures.extend(runner.failed.texts().map(|text| format!("[{}] {text}", self.kernel)));
            if !runner.tally.has_failures() {
                runner.tally += Tally::FAILED_STEP;
            }
        }
        self.tally += runner.tally;
    }

    /// Takes note that the guest will print no more, and why.
    pub(super) fn lose(&mut self, why: std::fmt::Arguments<'_>) {
        self.lost = true;
        self.fail(why);
    }

    /// Counts a failure that is no test's.
    pub(super) fn fail(&mut self, what: std::fmt::Arguments<'_>) {
        self.failures.push(format!("[{}] {what}", self.kernel));
        self.tally += Tally::FAILED_STEP;
    }

    /// True once the guest has reported its end.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// True once a runner has begun.
    pub(super) fn began(&self) -> bool {
        self.began
    }

    /// True once no more is to come.
    pub(super) fn is_over(&self) -> bool {
        self.ended || self.lost
    }

    /// Where the guest is: the runner that has begun and not ended, or before or after one.
    pub(super) fn place(&self) -> &str {
        let between = if self.began { "the pause after a runner" } else { "its start" };
        self.running.as_ref().map_or(between, |runner| runner.name.as_str())
    }

    /// What `podmeter check --json` has printed.
    pub(super) fn check(&self) -> &str {
        self.check.trim()
    }

    /// Which tests ran.
    pub(super) fn tests(&self) -> &Tests {
        &self.tests
    }

    /// The sum, and what failed. A guest that did not report its end has failed; one that did has failed with every runner that is missing.
    pub(super) fn close(mut self) -> (Tally, Vec<String>) {
        if let Some(runner) = self.running.take() {
            self.tally += runner.tally;
        }
        if self.ended {
            for name in std::mem::take(&mut self.expected) {
                self.fail(format_args!("{name} did not run"));
            }
        } else if !self.lost {
            self.fail(format_args!("the guest ended before its tests"));
        }
        (self.tally, self.failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str) -> (Results, String) {
        let mut results = Results::new("6.1", ["cpu".to_owned()]);
        let mut shown = Vec::new();
        output.lines().for_each(|line| results.line(line, &mut shown));
        (results, String::from_utf8(shown).unwrap())
    }

    const CLOSING: &str = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s";

    #[test]
    fn tests_are_shown_with_their_kernel_and_counted() {
        let (results, shown) = read(&format!(
            "noise\n@guest begin check\n{{\"signals\": []}}\n\n@guest end check 0\n@guest begin cpu\n\nrunning 2 tests\r\n\
            test a ... ok\ntest b ... ok\n\nsuccesses:\n\n---- a stdout ----\ntest output of a\n\n---- b stdout ----\n\
            SKIPPED b: needs a moon\n\n\nsuccesses:\n    a\n    b\n\n{CLOSING}\n\n@guest end cpu 0\n@guest off\n"
        ));
        assert_eq!(shown, "[6.1] test a ... ok\n[6.1] test b ... ok\n[6.1] SKIPPED b: needs a moon\n");
        assert_eq!(results.check(), "{\"signals\": []}");
        assert!(results.ended());
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(*results.tests(), Tests { passed: names(&["a", "b"]), skipped: names(&["b"]) });
        assert_eq!(results.place(), "the pause after a runner");
        let (tally, failures) = results.close();
        assert_eq!((tally.to_string().as_str(), failures.len()), ("1 passed, 0 failed, 1 skipped", 0));
    }

    #[test]
    fn what_a_failed_test_printed_is_shown() {
        let (results, shown) = read(
            "@guest begin cpu\ntest a ... FAILED\nsuccesses:\nhidden\nfailures:\n---- a stdout ----\noff by 3\n\
            test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured\n@guest end cpu 101\n@guest off\n",
        );
        assert!(shown.ends_with("[6.1] failures:\n[6.1] ---- a stdout ----\n[6.1] off by 3\n"), "{shown}");
        let (tally, failures) = results.close();
        assert_eq!(
            (tally.to_string().as_str(), failures),
            ("0 passed, 1 failed", vec!["[6.1] cpu ended with 101".to_owned(), "[6.1] a\n    off by 3".to_owned()])
        );
    }

    #[test]
    fn a_runner_without_a_closing_line_or_without_success_has_failed() {
        for (output, expected) in [
            ("@guest begin cpu\ntest a ... \n@guest end cpu 139\n@guest off\n", "[6.1] cpu ended with 139"),
            ("@guest begin cpu\n@guest end cpu 0\n@guest off\n", "[6.1] cpu ended with 0"),
            ("@guest begin check\n@guest end check 1\n@guest begin cpu\n", "[6.1] check ended with 1"),
            ("@guest end cpu 0\n@guest off\n", "[6.1] cpu ended without having begun"),
            ("@guest off\n", "[6.1] cpu did not run"),
            ("@guest begin cpu\ntest a ... ok\n", "[6.1] the guest ended before its tests"),
            ("", "[6.1] the guest ended before its tests"),
            ("@guest ?\n", "[6.1] the guest printed an unknown mark: ?"),
        ] {
            let (tally, failures) = read(output).0.close();
            assert!(tally.has_failures(), "{output}");
            assert_eq!(failures.first().map(String::as_str), Some(expected), "{output}");
        }
    }

    #[test]
    fn tests_that_passed_before_a_crash_are_not_lost() {
        let (mut results, _) = read(&format!("@guest begin cpu\n{CLOSING}\n"));
        assert_eq!((Results::new("6.1", []).place(), results.place()), ("its start", "cpu"));
        results.lose(format_args!("nothing came for 60 s"));
        let (tally, failures) = results.close();
        assert_eq!((tally.to_string().as_str(), failures.len()), ("2 passed, 1 failed", 1));
    }
}
