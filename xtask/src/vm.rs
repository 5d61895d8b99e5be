//! `cargo xtask test vm` and `cargo xtask vm shell`: the tests of the tests crate, and some of the agent's unit tests, on other kernels.
//!
//! Each kernel is booted by QEMU with a file system in memory that holds podmeter and the test runners as static binaries. What
//! a guest leaves behind is in `target/vm`: the kernel's messages, all that the tests printed, and what `podmeter check` found.

mod guest;
mod image;
mod kernel;
mod modules;
mod results;
mod units;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};

pub(crate) use self::guest::Accel;
use self::guest::{Guest, LogFiles};
use self::image::Programs;
pub(crate) use self::kernel::Kernel;
use self::results::Results;
pub(crate) use self::results::Tests;
use crate::setup::{archive, qemu};
use crate::tally::Tally;
use crate::workspace::Workspace;
use crate::{build, command};

/// Size of a guest's disk. The file is sparse.
const DISK_BYTES: u64 = 256 << 20;

/// Guests at a time: two CPUs have this many well in hand, since tests wait most of the time.
const GUESTS: u8 = 4;

/// How long each guest starts after the one before: the first runners, which start the agent most often, are not at once.
const STAGGER: Duration = Duration::from_secs(30);

/// How often an emulated kernel is booted until it gets through its tests.
///
/// QEMU sometimes lets one CPU execute code that another is patching: jump labels, while the kernel starts, and later where the first
/// program is attached to a tracepoint. The kernel then panics with [`PATCHED`], which no program of podmeter can cause. Anything else that
/// goes wrong once a test has begun is never tried again.
const BOOTS: usize = 3;

/// What the console of such a kernel shows.
const PATCHED: &str = "Oops: int3";

/// Tests that guests leave to the host, since they are not about the kernel.
struct LeftOut {
    runner: &'static str,
    /// What the names of the tests begin with; all of them when there is none.
    tests: &'static [&'static str],
}

const LEFT_OUT: &[LeftOut] = &[
    // Of back ends, dashboards, rules, manifests, probes and the Kubernetes API.
    LeftOut { runner: "backend", tests: &[] },
    LeftOut { runner: "churn", tests: &[] },
    LeftOut { runner: "dashboard", tests: &[] },
    LeftOut { runner: "deploy", tests: &[] },
    LeftOut { runner: "health", tests: &[] },
    LeftOut { runner: "kubernetes", tests: &[] },
    LeftOut { runner: "kubernetes_api", tests: &[] },
    LeftOut { runner: "overlay", tests: &[] },
    LeftOut { runner: "pull", tests: &[] },
    LeftOut { runner: "rules", tests: &[] },
    LeftOut { runner: "workloads", tests: &[] },
    // Of the agent's own cost under a load, whatever the kernel.
    LeftOut { runner: "overhead", tests: &[] },
    // Of a shell, its terminal and what is shown there.
    LeftOut { runner: "terminal", tests: &[] },
    LeftOut { runner: "top", tests: &[] },
    // Of many pods at once: that each birth and death is counted, `cpu` and `pinning` test.
    LeftOut { runner: "kubernetes_chaos", tests: &[] },
    // Of programs that are left out on purpose, each by loading all signals several times, or in a second way.
    LeftOut { runner: "tcp", tests: &["an_older_tcp_", "a_living_tcp_connection_is_counted_where_sockets_"] },
    // Of a Kubernetes API.
    LeftOut { runner: "node", tests: &["a_volume_of_a_pod_"] },
    // Of the loads and not of the agent.
    LeftOut { runner: "harness", tests: &[] },
    // Of programs with many libraries, and the kernel's side is what the runner `dns` tests.
    LeftOut { runner: "resolvers", tests: &[] },
    // Of what is sent again when a collector fails or the agent is killed, and of how large requests are.
    LeftOut {
        runner: "export",
        tests: &["a_collector_that_", "a_stalling_collector_", "a_node_of_250_pods_", "an_agent_that_is_killed_"],
    },
    // Second ways to the same: guests have a crash, an upgrade, and more slots where maps are pinned.
    LeftOut {
        runner: "pinning",
        tests: &["a_service_that_", "after_a_stop_", "slots::so_does_one_", "what_is_configured_anew_", "with_more_slots_"],
    },
    // Locked down: run after all others, as [`LOCKDOWN`].
    LeftOut { runner: "refused", tests: &["a_refused_", "a_signal_without_", "locked_down_"] },
    // Of the configuration, and of exports without a receiver.
    LeftOut {
        runner: "bad_input",
        tests: &["a_key_", "a_value_", "text_that_is_no_yaml_", "an_endpoint_", "an_argument_", "a_backend_that_"],
    },
];

/// The agent's own crate: what its unit tests are called where they are built.
const AGENT: &str = "podmeter";

/// The runner of the tests that need a kernel which is locked down: see `init.sh`.
const LOCKDOWN: &str = "lockdown";

/// What goes wrong on purpose after a guest's first runner, to see that it is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Provoked {
    Panic,
    Hang,
}

/// Which guests, and how.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Kernels to boot; all of them when none is named.
    #[arg(long, value_delimiter = ',', value_parser = Kernel::parse)]
    kernel: Vec<&'static Kernel>,
    /// What executes a guest's instructions.
    #[arg(long, value_enum, default_value_t)]
    accel: Accel,
    /// Guests at a time.
    #[arg(long, default_value_t = GUESTS, value_parser = clap::value_parser!(u8).range(1..))]
    guests: u8,
    /// Run only tests whose name contains this, in guests.
    #[arg(long)]
    filter: Option<String>,
    /// Let every guest panic or hang, which must fail.
    #[arg(long, value_enum, hide = true)]
    provoke: Option<Provoked>,
}

impl Options {
    /// The kernels to boot.
    fn kernels(&self) -> Vec<&'static Kernel> {
        if self.kernel.is_empty() { kernel::ALL.iter().collect() } else { self.kernel.clone() }
    }

    /// The settings of `init.sh`, by way of the kernel's command line.
    fn kernel_arguments(&self) -> String {
        let filter = self.filter.iter().map(|filter| format!("FILTER={filter}"));
        let provoke = self.provoke.iter().map(|what| match what {
            Provoked::Panic => "PROVOKE=panic".to_owned(),
            Provoked::Hang => "PROVOKE=hang".to_owned(),
        });
        filter.chain(provoke).collect::<Vec<_>>().join(" ")
    }
}

impl Default for Options {
    fn default() -> Self {
        Self { kernel: Vec::new(), accel: Accel::default(), guests: GUESTS, filter: None, provoke: None }
    }
}

/// How a kernel's tests ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    pub(crate) failures: Vec<String>,
    pub(crate) tests: Tests,
}

/// Why no virtual machine can be booted on this kind of machine, or `None`.
pub(crate) fn impossible(workspace: &Workspace) -> Option<String> {
    if std::env::consts::ARCH != "x86_64" {
        let arch = std::env::consts::ARCH;
        return Some(format!("the kernels of the virtual machines are for x86_64, and this machine builds for {arch}"));
    }
    if bpf_toolchain::program("apt-get").is_none() {
        return Some("there is no apt-get to fetch the kernels with".to_owned());
    }
    archive::found_mirror(workspace).err().map(|error| format!("their kernels come from Debian's archive: {error:#}"))
}

/// The kernels, by name, that a matrix of results has a row for.
pub(crate) fn kernels() -> impl Iterator<Item = &'static str> {
    kernel::ALL.iter().map(|kernel| kernel.name)
}

/// Where the result of `podmeter check --json` on a kernel is kept.
pub(crate) fn check_file(workspace: &Workspace, kernel: &str) -> PathBuf {
    directory(workspace).join(format!("check-{kernel}.json"))
}

/// Fetches the kernels that are not here yet.
pub(crate) fn fetch(workspace: &Workspace, options: &Options) -> Result<()> {
    options.kernels().iter().try_for_each(|kernel| kernel.files(workspace).map(drop))
}

/// Builds all that guests need and runs the tests in each, a few at a time. Results are passed on as they come.
pub(crate) fn test(workspace: &Workspace, options: &Options, out: &mut (impl Write + Send)) -> Result<Vec<Outcome>> {
    let chosen = options.kernels();
    let programs = thread::scope(|scope| {
        // The network is slow and the compiler busy: both at once.
        let fetched = scope.spawn(|| fetch(workspace, options));
        let programs = programs(workspace, options.filter.as_deref())?;
        fetched.join().map_err(|_| anyhow!("fetching kernels panicked"))??;
        anyhow::Ok(programs)
    })?;
    let waiting = Mutex::new(chosen.iter().copied().collect::<VecDeque<_>>());
    // A function of its own, since a lock taken in the head of a loop is held in its body.
    let next = || lock(&waiting).pop_front();
    let (outcomes, out) = (Mutex::new(Vec::new()), Mutex::new(out));
    thread::scope(|scope| {
        for number in 0..u32::from(options.guests).min(chosen.len() as u32) {
            let (next, outcomes, out, programs) = (&next, &outcomes, &out, &programs);
            scope.spawn(move || {
                thread::sleep(number * STAGGER);
                while let Some(kernel) = next() {
                    let outcome = run(workspace, kernel, programs, options, &mut Shared(out));
                    lock(outcomes).push(outcome);
                }
            });
        }
    });
    Ok(outcomes.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// The kernels of these options on which `podmeter check` ran; one where it did not has failed already.
pub(crate) fn checked(workspace: &Workspace, options: &Options) -> Vec<&'static str> {
    let chosen = options.kernels().into_iter().map(|kernel| kernel.name);
    chosen.filter(|name| check_file(workspace, name).exists()).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An output that guests share: what is written in one piece stays in one piece.
struct Shared<'a, W>(&'a Mutex<W>);

impl<W: Write> Write for Shared<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut out = lock(self.0);
        out.write_all(bytes).map(|()| bytes.len())
    }

    fn write_fmt(&mut self, text: std::fmt::Arguments<'_>) -> std::io::Result<()> {
        let mut out = lock(self.0);
        out.write_fmt(text)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        lock(self.0).flush()
    }
}

/// Runs the tests on one kernel and reports in one line how that ended.
fn run(workspace: &Workspace, kernel: &Kernel, programs: &Programs, options: &Options, out: &mut impl Write) -> Outcome {
    let name = kernel.name;
    let begin = Instant::now();
    let last = options.filter.is_none().then(|| LOCKDOWN.to_owned());
    let fresh = || Results::new(name, programs.tests.iter().map(|(name, _)| name.clone()).chain(last.clone()));
    let mut results = fresh();
    let place = directory(workspace);
    let [console, log, registers] = ["-console.log", ".log", "-registers.log"].map(|what| place.join(format!("{name}{what}")));
    // Not below the target directory: the path of a socket has at most 107 bytes.
    let monitor = std::env::temp_dir().join(format!("podmeter-{}-{name}", std::process::id()));
    let files = LogFiles { console, log, monitor, registers };
    // What an earlier run found is not this one's.
    let _ = fs::remove_file(check_file(workspace, name));
    let tested = prepare(workspace, kernel, programs, options.accel)
        .and_then(|guest| {
            for left in (0..BOOTS).rev() {
                results = fresh();
                guest.test(&options.kernel_arguments(), &mut results, &files, out)?;
                let patched = fs::read_to_string(&files.console).is_ok_and(|console| console.contains(PATCHED));
                if (results.began() && !patched) || options.accel != Accel::Tcg || left == 0 {
                    break;
                }
                let what = if patched { "stopped in code that it was patching" } else { "did not get as far as its tests" };
                eprintln!("note: kernel {name} {what} and is booted again: {}", files.console.display());
            }
            Ok(())
        })
        .and_then(|()| keep_check(&check_file(workspace, name), results.check()));
    if let Err(error) = &tested {
        results.lose(format_args!("{error:#}"));
    }
    let _ = fs::remove_file(&files.monitor);
    let said_all = results.ended();
    let tests = results.tests().clone();
    let (tally, failures) = results.close();
    if tested.is_ok() && !said_all {
        let _ = writeln!(out, "{}", files.tail());
    }
    let _ = writeln!(out, "[{name}] {tally}, in {} s", begin.elapsed().as_secs());
    Outcome { tally, failures, tests }
}

/// Boots one kernel into a shell on this terminal.
pub(crate) fn shell(workspace: &Workspace, kernel: &Kernel, accel: Accel) -> Result<ExitCode> {
    let guest = prepare(workspace, kernel, &programs(workspace, None)?, accel)?;
    let status = guest.shell()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn directory(workspace: &Workspace) -> PathBuf {
    workspace.target.join("vm")
}

/// Puts a guest's files in place.
fn prepare(workspace: &Workspace, kernel: &Kernel, programs: &Programs, accel: Accel) -> Result<Guest> {
    let place = directory(workspace);
    fs::create_dir_all(&place).with_context(|| format!("could not make {}", place.display()))?;
    let files = kernel.files(workspace).with_context(|| format!("could not fetch kernel {}", kernel.name))?;
    let [initramfs, tree, disk] = ["initramfs", "tree", "disk"].map(|what| place.join(format!("{}-{what}", kernel.name)));
    image::write(&initramfs, &tree, programs, &files)?;
    let empty = File::create(&disk).and_then(|file| file.set_len(DISK_BYTES));
    empty.with_context(|| format!("could not make {}", disk.display()))?;
    Ok(Guest { image: files.image, initramfs, disk, accel, qemu: qemu::words(workspace) })
}

/// Keeps what `podmeter check --json` printed, if anything.
fn keep_check(file: &Path, json: &str) -> Result<()> {
    if json.is_empty() {
        return Ok(());
    }
    serde_json::from_str::<serde_json::Value>(json).context("`podmeter check --json` printed no JSON")?;
    fs::write(file, format!("{json}\n")).with_context(|| format!("could not write {}", file.display()))
}

/// Builds podmeter and the test runners as static binaries. Of the agent's unit tests those stay that have the filter in their name.
fn programs(workspace: &Workspace, filter: Option<&str>) -> Result<Programs> {
    if let Some(why) = impossible(workspace) {
        bail!(why);
    }
    let podmeter = build::podmeter(workspace, true)?;
    let mut cargo = build::tests(workspace);
    cargo
        .args(["--no-run", "--bin", AGENT, "--test", "*", "--message-format=json-render-diagnostics"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    eprintln!("$ {}", command::shown(&cargo));
    let output = cargo.output().with_context(|| format!("could not start `{}`", command::shown(&cargo)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", command::shown(&cargo), output.status);
    }
    let mut tests = runners(&String::from_utf8_lossy(&output.stdout));
    let Some(agent) = tests.iter().position(|(name, _)| name == AGENT) else {
        bail!("`{}` built no unit tests of the agent", command::shown(&cargo));
    };
    let (_, agent) = tests.swap_remove(agent);
    if tests.is_empty() {
        bail!("`{}` built no test", command::shown(&cargo));
    }
    if let Some(left_out) = LEFT_OUT.iter().find(|left_out| tests.iter().all(|(name, _)| name != left_out.runner)) {
        bail!("{} is left out of guests, and there is no such runner", left_out.runner);
    }
    tests.retain(|(name, _)| !LEFT_OUT.iter().any(|left_out| left_out.runner == name && left_out.tests.is_empty()));
    let skip = |left_out: &LeftOut| left_out.tests.iter().map(|test| format!("--skip {test}")).collect::<Vec<_>>().join(" ");
    let some = LEFT_OUT.iter().filter(|left_out| !left_out.tests.is_empty());
    let mut arguments: Vec<_> = some.map(|left_out| (left_out.runner.to_owned(), skip(left_out))).collect();
    let units = units::chosen(&agent, filter)?;
    if !units.is_empty() {
        arguments.push((units::RUNNER.to_owned(), units::arguments(&units)));
        tests.push((units::RUNNER.to_owned(), agent));
    }
    Ok(Programs { podmeter, tests, arguments })
}

/// Names and files of the test runners that cargo's messages name, the agent's unit tests among them.
fn runners(messages: &str) -> Vec<(String, PathBuf)> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let runner = |message: serde_json::Value| {
        let target = &message["target"];
        let is_agent = target["name"] == AGENT && message["profile"]["test"] == true;
        let is_runner = message["reason"] == "compiler-artifact" && (target["kind"][0] == "test" || is_agent);
        let executable = message["executable"].as_str().filter(|_| is_runner)?;
        Some((message["target"]["name"].as_str()?.to_owned(), PathBuf::from(executable)))
    };
    messages.filter_map(runner).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_runners_are_found_in_cargos_messages() {
        let messages = "not json\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"kind\":[\"lib\"],\"name\":\"podmeter_tests\"},\"executable\":null}\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"kind\":[\"bin\"],\"name\":\"demo\"},\"executable\":\"/t/demo\"}\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"kind\":[\"test\"],\"name\":\"cpu\"},\"executable\":\"/t/cpu-1f\"}\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"kind\":[\"bin\"],\"name\":\"podmeter\"},\"profile\":{\"test\":true},\
            \"executable\":\"/t/podmeter-2e\"}\n\
            {\"reason\":\"build-finished\",\"success\":true}\n";
        let expected = [("cpu", "/t/cpu-1f"), ("podmeter", "/t/podmeter-2e")];
        assert_eq!(runners(messages), expected.map(|(name, file)| (name.to_owned(), PathBuf::from(file))));
    }
}
