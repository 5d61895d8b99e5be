//! The agent as a black box: started as a process, known by what it exports, logs and serves.

mod capture;
mod command;
mod config;
mod namespaces;
mod runner;

use std::{
    any::Any,
    fs,
    io::Write as _,
    net::SocketAddr,
    path::Path,
    process::{Child, Command},
    sync::{Arc, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use serde_json::{Value as Json, json};

pub(crate) use self::command::is_configuration;
use self::{
    capture::{Capture, Written},
    command::{command, other_version, spawn, wait_within},
    config::{merge, over_defaults},
};
pub use self::{
    command::{As, Output, binary, config_file, run, run_in},
    runner::off_here,
};
use crate::{http, otlp::Exports, time::patience};

/// How long a request to stop may take: what the agent promises to Kubernetes.
pub const STOPS_WITHIN: Duration = Duration::from_secs(2);

/// How long the agent may take until its first export.
const STARTS_WITHIN: Duration = Duration::from_secs(15);

/// A running `podmeter run`. It is killed when this value is dropped without [`Agent::stop`], and its log is then shown.
#[derive(Debug)]
pub struct Agent {
    process: Child,
    capture: Arc<Capture>,
    readers: Vec<thread::JoinHandle<()>>,
    address: SocketAddr,
    stopped: bool,
    /// What must stay while it runs.
    _with: Box<dyn Any + Send>,
}

/// How an agent ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Time from SIGTERM to the end.
    pub took: Duration,
    /// All it has exported to standard output, the last export included.
    pub exports: Exports,
    /// Its log.
    pub stderr: String,
}

impl Agent {
    /// Starts it with these keys on top of an interval of 1 s, nothing pinned, a free port and the stdout exporter, and waits for
    /// its first export.
    pub fn start(config: Json) -> Result<Self> {
        Self::spawn(config)?.started()
    }

    /// The same without waiting: for exporters whose exports do not come to standard output, and for what happens during start.
    pub fn spawn(config: Json) -> Result<Self> {
        Self::spawn_in(config, &[])
    }

    /// The same with these variables in its environment.
    pub fn spawn_in(config: Json, environment: &[(&str, &str)]) -> Result<Self> {
        Self::spawn_by(config, environment, |command| spawn(command, As::Root))
    }

    /// As [`Agent::start`], in a PID namespace of its own.
    pub fn start_among_its_own(config: Json) -> Result<Self> {
        Self::spawn_by(config, &[], namespaces::spawn_among_its_own)?.started()
    }

    /// As [`Agent::start`], where CLOCK_BOOTTIME is so many seconds ahead and the wall clock is as it is: to the agent the clock
    /// has been set back by as much. `None` where the kernel cannot do that.
    pub fn start_ahead(config: Json, seconds: u64) -> Result<Option<Self>> {
        let mut cannot = false;
        let agent = Self::spawn_by(config, &[], |command| {
            let process = namespaces::spawn_ahead(command, seconds)?;
            cannot = process.is_none();
            process.context("this kernel has no time namespaces")
        });
        if cannot { Ok(None) } else { agent?.started().map(Some) }
    }

    /// As [`Agent::start`], of another version: see [`Agent::spawn_of_another_version`].
    pub fn start_of_another_version(config: Json) -> Result<Self> {
        Self::spawn_of_another_version(config)?.started()
    }

    /// As [`Agent::spawn`], of a build that differs from this one in its programs: their licence is another one that the kernel takes.
    pub fn spawn_of_another_version(config: Json) -> Result<Self> {
        let directory = tempfile::tempdir().context("could not make a directory")?;
        let other = other_version(directory.path())?;
        Self::spawn_by(config, &[], |first| {
            let arguments: Vec<_> = first.get_args().map(|argument| argument.to_string_lossy()).collect();
            spawn(command(&other, &arguments.iter().map(|argument| &**argument).collect::<Vec<_>>(), &[]), As::Root)
        })
    }

    /// As [`Agent::start`], in the cgroup with this directory as the root of a cgroup namespace, whose hierarchy is mounted at
    /// `root` for it alone: as in a container of a node that is a container itself.
    pub fn start_in_cgroup_namespace(mut config: Json, cgroup: &Path, root: &Path) -> Result<Self> {
        merge(&mut config, json!({"cgroups": {"root": root}}));
        let spawn = |command| namespaces::spawn_in_cgroup_namespace(command, cgroup, root);
        Self::spawn_by(config, &[], spawn)?.started()
    }

    /// As [`Agent::spawn`], where it sees so many possible CPUs. Its maps are as long as on such a machine.
    pub fn spawn_with_cpus(config: Json, cpus: u32) -> Result<Self> {
        let mut list = tempfile::NamedTempFile::new().context("could not make a file")?;
        writeln!(list, "0-{}", cpus.saturating_sub(1)).context("could not write a list of CPUs")?;
        Self::spawn_by(config, &[], |command| namespaces::spawn_with_cpus(command, list.path()))
    }

    fn started(self) -> Result<Self> {
        self.wait_for("a first export", STARTS_WITHIN, |exports| (exports.requests() > 0).then_some(()))?;
        // Its log up to here: what it measures, and what not.
        self.wait_for_log("podmeter runs", STARTS_WITHIN)?;
        Ok(self)
    }

    fn spawn_by(config: Json, environment: &[(&str, &str)], spawn: impl FnOnce(Command) -> Result<Child>) -> Result<Self> {
        let address = http::free_address()?;
        let all = over_defaults(config, address)?;
        let dir = tempfile::tempdir().context("could not make a directory for the configuration")?;
        let file = dir.path().join("config.yaml");
        fs::write(&file, all.to_string()).with_context(|| format!("could not write {}", file.display()))?;
        let file = file.to_str().context("the configuration's path is not UTF-8")?;
        let process = spawn(command(&binary()?, &["run", "--config", file], environment))?;
        Ok(Self::adopt(process, address, Box::new(dir)))
    }

    /// An agent that was started elsewhere, with both outputs piped: the stdout exporter, health endpoints at `address`. `with`
    /// is kept until it has ended.
    pub fn adopt(mut process: Child, address: SocketAddr, with: Box<dyn Any + Send>) -> Self {
        let (capture, readers) = Capture::of(&mut process);
        Self { process, capture, readers, address, stopped: false, _with: with }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.process.id() as i32
    }

    /// Where its health and metrics are served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// True while the process runs.
    pub fn alive(&mut self) -> Result<bool> {
        Ok(self.process.try_wait().context("could not wait for podmeter")?.is_none())
    }

    /// Its log so far.
    pub fn stderr(&self) -> String {
        self.capture.lock().stderr.clone()
    }

    /// The events it has exported to standard output so far.
    pub fn logs(&self) -> Vec<ExportLogsServiceRequest> {
        self.capture.lock().logs.clone()
    }

    /// Looks at what it has exported to standard output so far.
    pub fn look<T>(&self, look: impl FnOnce(&Exports) -> T) -> T {
        look(&self.capture.lock().exports)
    }

    /// Waits until `condition` finds in the exports what it looks for, at most `within`, more on an emulated CPU ([`patience`]).
    pub fn wait_for<T>(&self, what: &str, within: Duration, mut condition: impl FnMut(&Exports) -> Option<T>) -> Result<T> {
        let within = patience(within);
        let deadline = Instant::now() + within;
        let mut written = self.capture.lock();
        loop {
            if let Some(line) = &written.invalid {
                bail!("the agent's standard output is no OTLP JSON: {line}");
            }
            if let Some(found) = condition(&written.exports) {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if written.ended || left.is_zero() {
                let end = if written.ended { "when the agent ended" } else { "in time" };
                bail!(
                    "waited {within:?} for {what}: not there {end}, {} exports, log:\n{}",
                    written.exports.requests(),
                    written.stderr
                );
            }
            written = self.capture.changed.wait_timeout(written, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for an export whose points were all measured after this call, so that what has ended by now is in it.
    pub fn catch_up(&self) -> Result<()> {
        let now = unix_ns();
        self.wait_for("an export of what is now", STARTS_WITHIN, |exports| (exports.latest_unix_ns() > now).then_some(()))
    }

    /// Waits until its log holds `text`, at most `within`, more on an emulated CPU ([`patience`]).
    pub fn wait_for_log(&self, text: &str, within: Duration) -> Result<()> {
        let within = patience(within);
        let deadline = Instant::now() + within;
        let mut written = self.capture.lock();
        while !written.stderr.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "the log does not contain \"{text}\" within {within:?}:\n{}", written.stderr);
            written = self.capture.changed.wait_timeout(written, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Kills it, as the kernel does when memory runs out; what it had exported until then.
    pub fn kill(mut self) -> Result<Exports> {
        self.process.kill().context("could not kill podmeter")?;
        self.process.wait().context("could not wait for podmeter")?;
        Ok(self.read_out().exports)
    }

    /// Takes all that was written until the end.
    fn read_out(&mut self) -> Written {
        for reader in self.readers.drain(..) {
            // A reader that panicked has read nothing more.
            let _ = reader.join();
        }
        self.stopped = true;
        let written = std::mem::take(&mut *self.capture.lock());
        // Shown when the test fails on what was exported.
        println!("the agent's log:\n{}", written.stderr);
        written
    }

    /// Requests it to stop (SIGTERM) and waits until it has ended. Fails when that takes longer than [`STOPS_WITHIN`], when it
    /// does not exit with 0, or when any counter it exported has ever gone down.
    pub fn stop(self) -> Result<Ended> {
        self.stop_within(STOPS_WITHIN)
    }

    /// The same where it may take this long.
    pub fn stop_within(mut self, within: Duration) -> Result<Ended> {
        let began = Instant::now();
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM).context("could not signal podmeter")?;
        // Longer than allowed, to be able to say how long it takes.
        let status = wait_within(&mut self.process, 10 * within)?;
        let took = began.elapsed();
        let written = self.read_out();
        let code = status.and_then(|status| status.code());
        ensure!(
            code == Some(0) && took <= patience(within),
            "after SIGTERM: {status:?} after {took:?}, log:\n{}",
            written.stderr
        );
        ensure!(written.invalid.is_none(), "the agent's standard output is no OTLP JSON: {:?}", written.invalid);
        written.exports.check_that_counters_only_grow()?;
        Ok(Ended { code, took, exports: written.exports, stderr: written.stderr })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if !self.stopped {
            let _ = self.process.kill();
            let _ = self.process.wait();
            eprintln!("the agent's log:\n{}", self.capture.lock().stderr);
        }
    }
}

/// Now, as Unix time in ns.
pub fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
