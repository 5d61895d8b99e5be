//! `cargo xtask test`: checks, builds and runs everything there is to run, and ends with one line of true totals.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::io::{BufRead, BufReader, Write, stdout};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::setup::{self, Purpose};
use crate::tally::{self, Failed, Tally};
use crate::vm::Tests;
use crate::workspace::Workspace;
use crate::{build, command, docs, lint, vm};

/// What the tests on other kernels are called.
const GUESTS: &str = "tests in virtual machines";

/// Which tests to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// The tests of pure code, in parallel.
    Unit,
    /// The tests that use this machine's kernel, one by one, as root.
    Host,
    /// The same tests in virtual machines, on each of Debian's kernels.
    Vm,
    /// Checks, then all of these.
    All,
}

/// Runs a suite. The last line printed is the sum over every runner; what failed is named before it.
pub(crate) fn run(workspace: &Workspace, suite: Suite, guests: &vm::Options) -> ExitCode {
    let mut session = Session::new(stdout());
    let purpose = match suite {
        Suite::Unit => Purpose::Build,
        Suite::Host | Suite::All => Purpose::Test,
        Suite::Vm => Purpose::Vm,
    };
    session.step("setup", || setup::run(workspace, purpose));
    if session.failures.is_empty() {
        thread::scope(|scope| {
            // The network is slow and the compiler busy: kernels come while the checks run. What fails here, fails again below.
            if suite == Suite::All && vm::impossible(workspace).is_none() {
                scope.spawn(|| vm::fetch(workspace, guests));
            }
            tests(workspace, suite, &mut session);
        });
        match suite {
            // Where they alone are wanted, what they lack is an error.
            Suite::Vm => session.guests(workspace, guests),
            Suite::All => match vm::impossible(workspace) {
                None if session.step("setup of virtual machines", || setup::run(workspace, Purpose::Vm)) => {
                    session.guests(workspace, guests);
                }
                None => {}
                Some(why) => {
                    println!("\nSKIPPED {GUESTS}: {why}");
                    session.tally += Tally::SKIPPED_STEP;
                }
            },
            Suite::Unit | Suite::Host => {}
        }
    }
    println!();
    for failure in &session.failures {
        println!("FAILED {failure}");
    }
    println!("{}", session.tally);
    if session.tally.has_failures() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn tests(workspace: &Workspace, suite: Suite, session: &mut Session<impl Write + Send>) {
    let checks = |needs_podmeter: bool, session: &mut Session<_>| {
        for check in lint::CHECKS.iter().filter(|check| suite == Suite::All && check.needs_podmeter == needs_podmeter) {
            session.step(check.name, || (check.run)(workspace));
        }
    };
    // First what fails soonest.
    checks(false, session);
    // A program that does not build has no generated documents, and the tests of the whole program have nothing to run.
    // What is tested is what the image holds.
    let built = matches!(suite, Suite::Unit | Suite::Vm)
        || session.step("static release build", || build::podmeter(workspace, true).map(drop));
    if built {
        checks(true, session);
    }
    if matches!(suite, Suite::Unit | Suite::All) {
        let mut unit = workspace.cargo("test");
        unit.args(["--locked", "--no-fail-fast", "--workspace", "--exclude", "agent-ebpf", "--exclude", "podmeter-tests"]);
        // Five parsers of foreign input, ten seconds each.
        unit.env("PODMETER_FUZZ_SECONDS", "10");
        session.runner("unit tests", &mut unit);
    }
    if matches!(suite, Suite::Host | Suite::All) && built {
        let mut host = build::tests(workspace);
        // The kernel is one, and so are its counters: one test at a time. The output shows which tests skipped themselves.
        host.args(["--no-fail-fast", "--lib", "--bin", "bench", "--bin", "demo", "--test", "*"]);
        host.args(["--", "--test-threads=1", "--show-output"]);
        session.runner("host tests", with_podmeter(workspace, &build::static_podmeter(workspace), &mut host));
    }
}

/// Runs a binary of the tests crate, in release, with what the tests get.
pub(crate) fn measure(workspace: &Workspace, binary: &str, arguments: &[String]) -> Result<ExitCode> {
    setup::run(workspace, Purpose::Test)?;
    let podmeter = build::podmeter(workspace, false)?;
    let mut cargo = workspace.cargo("run");
    cargo.args(["--release", "--locked", "--package", "podmeter-tests", "--bin", binary, "--"]).args(arguments);
    with_podmeter(workspace, &podmeter, &mut cargo);
    eprintln!("$ {}", command::shown(&cargo));
    let status = cargo.status().with_context(|| format!("could not start `{}`", command::shown(&cargo)))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Passes the places of this podmeter and the tools on to what cargo runs, and has it run as root: the compiler stays the user's.
fn with_podmeter<'a>(workspace: &Workspace, podmeter: &Path, cargo: &'a mut Command) -> &'a mut Command {
    cargo.env("PODMETER_BIN", podmeter);
    cargo.env("PODMETER_STATIC_BIN", build::static_podmeter(workspace));
    cargo.env("PODMETER_TOOLS", workspace.tools());
    if !command::is_root() {
        let runner = format!("CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_RUNNER", env::consts::ARCH.to_uppercase());
        cargo.env(runner, "sudo --preserve-env=PODMETER_BIN,PODMETER_STATIC_BIN,PODMETER_TOOLS,PODMETER_TESTS_LEAVE_OUT,RUST_BACKTRACE,RUST_LOG,CI --");
    }
    cargo
}

/// What has been run so far.
struct Session<W> {
    tally: Tally,
    failures: Vec<String>,
    /// Tests that skipped themselves on this machine, with their reasons.
    skipped: BTreeMap<String, String>,
    /// Where the runners' output goes.
    out: W,
}

impl<W: Write + Send> Session<W> {
    fn new(out: W) -> Self {
        Self { tally: Tally::default(), failures: Vec::new(), skipped: BTreeMap::new(), out }
    }

    /// Runs a step that either works or does not.
    fn step(&mut self, name: &str, step: impl FnOnce() -> Result<()>) -> bool {
        eprintln!("\n== {name}");
        match step() {
            Ok(()) => true,
            Err(error) => {
                self.tally += Tally::FAILED_STEP;
                self.fail(name, format_args!("{error:#}"));
                false
            }
        }
    }

    /// Runs a test runner, passes its output on as it comes, and adds up its closing lines.
    fn runner(&mut self, name: &str, command: &mut Command) {
        eprintln!("\n== {name}\n$ {}", command::shown(command));
        let mut tally = Tally::default();
        let mut failed = Failed::default();
        if let Err(error) = watch(command, &mut tally, &mut failed, &mut self.skipped, &mut self.out) {
            if !tally.has_failures() {
                tally += Tally::FAILED_STEP;
            }
            self.fail(name, format_args!("{error:#}"));
            self.failures.extend(failed.texts());
        }
        self.tally += tally;
    }

    /// Runs the tests in guests, which show their own results, and adds up what each reports.
    fn guests(&mut self, workspace: &Workspace, options: &vm::Options) {
        eprintln!("\n== {GUESTS}");
        match vm::test(workspace, options, &mut self.out) {
            Ok(outcomes) => {
                let guests: Vec<&Tests> = outcomes.iter().map(|outcome| &outcome.tests).collect();
                for test in run_by_none(self.skipped.keys(), &guests) {
                    let reason = &self.skipped[test];
                    self.failures.push(format!("{test}: skipped on this machine and in every guest; here since {reason}"));
                    self.tally += Tally::FAILED_STEP;
                }
                for outcome in outcomes {
                    self.tally += outcome.tally;
                    self.failures.extend(outcome.failures);
                }
                if let Err(error) = docs::kernels::check(workspace, &vm::checked(workspace, options)) {
                    self.tally += Tally::FAILED_STEP;
                    self.fail("table of kernels", format_args!("{error:#}"));
                }
            }
            Err(error) => {
                self.tally += Tally::FAILED_STEP;
                self.fail(GUESTS, format_args!("{error:#}"));
            }
        }
    }

    fn fail(&mut self, name: &str, error: fmt::Arguments<'_>) {
        eprintln!("error: {name}: {error}");
        // Its first line is enough for the list at the end.
        self.failures.push(format!("{name}: {}", error.to_string().lines().next().unwrap_or_default()));
    }
}

/// Those of the tests skipped here that guests have and skip as well: nothing has run them. Tests that guests do not have are about
/// programs that this machine lacks.
fn run_by_none<'a>(skipped: impl Iterator<Item = &'a String>, guests: &[&Tests]) -> Vec<&'a String> {
    let has = |test: &String| guests.iter().any(|guest| guest.passed.contains(test));
    let ran = |test: &String| guests.iter().any(|guest| guest.passed.contains(test) && !guest.skipped.contains(test));
    skipped.filter(|test| has(test) && !ran(test)).collect()
}

fn watch(
    command: &mut Command,
    tally: &mut Tally,
    failed: &mut Failed,
    skips: &mut BTreeMap<String, String>,
    out: &mut impl Write,
) -> Result<()> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("could not start it")?;
    let output = child.stdout.take().context("it has no output")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("could not read its output")?;
        let text = String::from_utf8_lossy(&line);
        tally.add_line(&text);
        failed.add_line(&text);
        if let Some((name, reason)) = tally::skipped(&text) {
            skips.insert(name.to_owned(), reason.to_owned());
        }
        // Whoever reads this may have left; the tests' result still counts.
        let _ = out.write_all(&line).and_then(|()| out.write_all(b"\n"));
    }
    let status = child.wait().context("could not wait for its end")?;
    if !status.success() {
        bail!("`{}` failed: {status}", command::shown(command));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its output stays here: these closing lines are not those of a runner that counts.
    fn shell(script: &str) -> Session<Vec<u8>> {
        let mut session = Session::new(Vec::new());
        session.runner("x", Command::new("sh").args(["-c", script]));
        session
    }

    #[test]
    fn a_runner_is_counted_by_its_closing_lines() {
        let session = shell("echo 'test result: ok. 3 passed; 0 failed; 0 ignored'");
        assert_eq!((session.tally.to_string().as_str(), session.failures.len()), ("3 passed, 0 failed", 0));
        assert_eq!(session.out, b"test result: ok. 3 passed; 0 failed; 0 ignored\n");
    }

    #[test]
    fn a_test_that_this_machine_skips_must_have_run_in_some_guest() {
        let session = shell("echo 'SKIPPED a: no tcp'; echo 'SKIPPED b: no tcp'; echo 'SKIPPED c: no dig'");
        assert_eq!(session.skipped["a"], "no tcp");
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let old = Tests { passed: names(&["a", "b"]), skipped: names(&["a", "b"]) };
        let new = Tests { passed: names(&["a", "b"]), skipped: names(&["b"]) };
        assert_eq!(run_by_none(session.skipped.keys(), &[&old, &new]), ["b"]);
    }

    #[test]
    fn failed_tests_are_counted_once_though_their_runner_fails_too() {
        let session = shell(
            "echo failures:; echo '---- a stdout ----'; echo why; echo; echo failures:; echo '    a'; \
             echo 'test result: FAILED. 3 passed; 2 failed; 0 ignored'; exit 101",
        );
        assert_eq!((session.tally.to_string().as_str(), session.failures.len()), ("3 passed, 2 failed", 2));
        assert_eq!(session.failures[1], "a\n    why");
    }

    #[test]
    fn a_runner_that_dies_without_a_result_is_a_failure() {
        let session = shell("echo 'test result: ok. 3 passed; 0 failed; 0 ignored'; exit 1");
        assert_eq!((session.tally.to_string().as_str(), session.failures.len()), ("3 passed, 1 failed", 1));
    }

    #[test]
    fn a_step_that_fails_is_counted_and_named() {
        let mut session = Session::new(Vec::new());
        assert!(session.step("good", || Ok(())));
        assert!(!session.step("bad", || bail!("the reason\nand more")));
        assert_eq!(
            (session.tally.to_string().as_str(), session.failures),
            ("0 passed, 1 failed", vec!["bad: the reason".to_owned()])
        );
    }
}
