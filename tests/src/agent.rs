//! The agent as a black box: started as a process, known by what it exports, logs and answers.

use std::{
    any::Any,
    fs::{self, Permissions},
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::{Gid, Pid, Uid},
};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use serde_json::{Value as Json, json};

use crate::{http, is_emulated, otlp::Exports, patience};

/// Names programs, by comma, that every agent of the tests does without: `bpf.leave_out`.
const LEAVE_OUT: &str = "PODMETER_TESTS_LEAVE_OUT";

/// How long a request to stop may take: what the agent promises to Kubernetes.
pub const STOPS_WITHIN: Duration = Duration::from_secs(2);

/// How long the agent may take until its first export.
const STARTS_WITHIN: Duration = Duration::from_secs(15);

/// The agent's executable: `PODMETER_BIN`, or what cargo has built beside this test.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("PODMETER_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "PODMETER_BIN names {}, which is no file", path.display());
        return Ok(path);
    }
    // <target>/<profile>/deps/<test>
    let test = std::env::current_exe().context("could not find this test's own executable")?;
    let target = test.ancestors().nth(3).context("this test is not in a cargo target directory: set PODMETER_BIN")?;
    let built = ["release", "debug"].map(|profile| target.join(profile).join("podmeter"));
    built
        .iter()
        .find(|path| path.is_file())
        .cloned()
        .with_context(|| format!("no agent at {built:?}: run `cargo build -p podmeter` or set PODMETER_BIN"))
}

/// A run of the binary that ends by itself.
#[derive(Debug)]
pub struct Output {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Who runs the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum As {
    /// Whoever runs the test.
    Root,
    /// The user and group 65534, without any capability.
    Nobody,
    /// Whoever runs the test, without the right to attach programs to sockets, nor that to do everything.
    RootWithoutNetAdmin,
}

/// Runs `podmeter` with these arguments; it must end within `within`, for which [`patience`] is had.
pub fn run(args: &[&str], user: As, within: Duration) -> Result<Output> {
    run_in(args, user, within, &[])
}

/// [`run`] with these variables in its environment.
pub fn run_in(args: &[&str], user: As, within: Duration, environment: &[(&str, &str)]) -> Result<Output> {
    // A directory on the way to the binary may be closed to others.
    let open = tempfile::tempdir().context("could not make a directory")?;
    let mut binary = binary()?;
    if user == As::Nobody {
        fs::set_permissions(open.path(), Permissions::from_mode(0o755)).context("could not open a directory to all")?;
        let copy = open.path().join("podmeter");
        fs::copy(&binary, &copy).with_context(|| format!("could not copy {}", binary.display()))?;
        binary = copy;
    }
    let mut process = spawn(command(&binary, args, environment), user)?;
    let stdout = read_all(process.stdout.take());
    let stderr = read_all(process.stderr.take());
    let within = patience(within);
    let status = wait_within(&mut process, within)?;
    let [stdout, stderr] = [stdout, stderr].map(|reader| reader.join().unwrap_or_default());
    let status = status.with_context(|| format!("podmeter {args:?} still ran after {within:?}; it said: {stdout}{stderr}"))?;
    Ok(Output { code: status.code(), stdout, stderr })
}

fn read_all<R: std::io::Read + Send + 'static>(pipe: Option<R>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is all there is to show.
        let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The binary with these arguments, both outputs piped.
fn command(binary: &Path, args: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // The environment can configure the agent too; a test says all it wants in its configuration.
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_configuration(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command.envs(environment.iter().copied());
    command
}

/// Starts it; it ends with the thread that calls this.
fn spawn(mut command: Command, user: As) -> Result<Child> {
    // SAFETY: system calls only between fork and exec.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            if user == As::Nobody {
                nix::unistd::setgroups(&[])?;
                nix::unistd::setgid(Gid::from_raw(65534))?;
                nix::unistd::setuid(Uid::from_raw(65534))?;
            }
            if user == As::RootWithoutNetAdmin {
                const CAP_NET_ADMIN: nix::libc::c_int = 12;
                const CAP_SYS_ADMIN: nix::libc::c_int = 21;
                // Root gets what the bounding set has when it executes a program (capabilities(7)).
                for capability in [CAP_NET_ADMIN, CAP_SYS_ADMIN] {
                    if nix::libc::prctl(nix::libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
            }
            Ok(())
        });
    }
    command.spawn().with_context(|| format!("could not start {}", command.get_program().display()))
}

/// Starts it as the first process of a PID namespace, in which it sees no process but itself, as in a pod.
fn spawn_among_its_own(mut command: Command) -> Result<Child> {
    let apart = thread::spawn(move || {
        // What this thread starts from now on is in the new namespace; the thread itself, and all others, stay.
        unshare(CloneFlags::CLONE_NEWPID).context("could not make a PID namespace")?;
        command.spawn().with_context(|| format!("could not start {}", command.get_program().display()))
    });
    apart.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// Starts it where CLOCK_BOOTTIME is so many seconds ahead. `None` where the kernel has no such namespaces (CONFIG_TIME_NS).
fn spawn_ahead(mut command: Command, seconds: u64) -> Result<Option<Child>> {
    const CLONE_NEWTIME: i32 = 0x80;
    if !Path::new("/proc/self/ns/time").exists() {
        return Ok(None);
    }
    let apart = thread::spawn(move || {
        // As above; the offset can be set until the first process is in it.
        unshare(CloneFlags::from_bits_retain(CLONE_NEWTIME)).context("could not make a time namespace")?;
        let offsets = format!("/proc/{}/timens_offsets", nix::unistd::gettid());
        fs::write(&offsets, format!("boottime {seconds} 0")).with_context(|| format!("could not write {offsets}"))?;
        // SAFETY: nothing is done. It makes a fork of what would be a `vfork`, which older kernels refuse here (before 6.3 `copy_namespaces`
        // lets no child share memory with a parent in another time namespace).
        unsafe { command.pre_exec(|| Ok(())) };
        command.spawn().map(Some).with_context(|| format!("could not start {}", command.get_program().display()))
    });
    apart.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// Whether an environment variable would configure the agent.
pub(crate) fn is_configuration(name: &str) -> bool {
    name.starts_with("OTEL_")
        || (name.starts_with("PODMETER_") && !["PODMETER_BIN", "PODMETER_STATIC_BIN", "PODMETER_TOOLS"].contains(&name))
}

/// `None` when it did not end in time; it is then killed.
fn wait_within(process: &mut Child, within: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        if let Some(status) = process.try_wait().context("could not wait for podmeter")? {
            return Ok(Some(status));
        }
        thread::sleep(Duration::from_millis(2));
    }
    process.kill().context("could not kill podmeter")?;
    process.wait().context("could not wait for podmeter")?;
    Ok(None)
}

/// Writes a configuration to a file of its own. JSON is YAML.
pub fn config_file(config: &str) -> Result<tempfile::NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix("podmeter-").suffix(".yaml").tempfile().context("could not make a file")?;
    file.write_all(config.as_bytes()).with_context(|| format!("could not write {}", file.path().display()))?;
    Ok(file)
}

/// What the agent has said so far.
#[derive(Debug, Default)]
struct Said {
    exports: Exports,
    logs: Vec<ExportLogsServiceRequest>,
    stderr: String,
    /// The first line of standard output that was no valid export.
    invalid: Option<String>,
    /// Standard output is at its end.
    ended: bool,
}

#[derive(Debug, Default)]
struct Ears {
    said: Mutex<Said>,
    news: Condvar,
}

impl Ears {
    fn lock(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, change: impl FnOnce(&mut Said)) {
        change(&mut self.lock());
        self.news.notify_all();
    }
}

/// A running `podmeter run`. It is killed when this value is dropped without [`Agent::stop`], and its log is then shown.
#[derive(Debug)]
pub struct Agent {
    process: Child,
    ears: Arc<Ears>,
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
        Self::spawn_by(config, &[], spawn_among_its_own)?.started()
    }

    /// As [`Agent::start`], where CLOCK_BOOTTIME is so many seconds ahead and the wall clock is as it is: to the agent the clock has been
    /// set back by as much. `None` where the kernel cannot do that.
    pub fn start_ahead(config: Json, seconds: u64) -> Result<Option<Self>> {
        let mut cannot = false;
        let agent = Self::spawn_by(config, &[], |command| {
            let process = spawn_ahead(command, seconds)?;
            cannot = process.is_none();
            process.context("this kernel has no time namespaces")
        });
        if cannot { Ok(None) } else { agent?.started().map(Some) }
    }

    /// As [`Agent::start`], in the cgroup with this directory as the root of a cgroup namespace, whose hierarchy is mounted at `root`
    /// for it alone: as in a container of a node that is a container itself.
    pub fn start_in_cgroup_namespace(mut config: Json, cgroup: &Path, root: &Path) -> Result<Self> {
        merge(&mut config, json!({"cgroups": {"root": root}}));
        let [procs, root] = [cgroup.join("cgroup.procs"), root.to_owned()];
        let enter = move || {
            fs::write(&procs, "0")?;
            unshare(CloneFlags::CLONE_NEWCGROUP | CloneFlags::CLONE_NEWNS)?;
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            mount(Some("none"), &root, Some("cgroup2"), MsFlags::empty(), none)?;
            Ok(())
        };
        let spawn = |mut command: Command| {
            // SAFETY: the child has one thread, and what it allocates it does not share.
            unsafe { command.pre_exec(enter) };
            spawn(command, As::Root)
        };
        Self::spawn_by(config, &[], spawn)?.started()
    }

    fn started(self) -> Result<Self> {
        self.wait_for("a first export", STARTS_WITHIN, |exports| (exports.requests() > 0).then_some(()))?;
        // Its log up to here: what it measures, and what not.
        self.wait_for_log("podmeter runs", STARTS_WITHIN)?;
        Ok(self)
    }

    fn spawn_by(config: Json, environment: &[(&str, &str)], spawn: impl FnOnce(Command) -> Result<Child>) -> Result<Self> {
        let address = http::free_address()?;
        let mut all = json!({
            "interval": "1s", "listen": address.to_string(), "bpf": {"pin": false},
            // One request for each export, so that an export is seen whole or not at all.
            "export": {"exporter": "stdout", "request_bytes": "64MiB"},
        });
        if is_emulated() {
            merge(&mut all, json!({"signals": not_looked_at(&runner()?)}));
        }
        // Every agent of a run as on a kernel that refuses these programs, where its test does not say otherwise.
        if let Ok(programs) = std::env::var(LEAVE_OUT) {
            merge(&mut all, json!({"bpf": {"leave_out": programs}}));
        }
        merge(&mut all, config);
        let dir = tempfile::tempdir().context("could not make a directory for the configuration")?;
        let file = dir.path().join("config.yaml");
        fs::write(&file, all.to_string()).with_context(|| format!("could not write {}", file.display()))?;
        let file = file.to_str().context("the configuration's path is not UTF-8")?;
        let process = spawn(command(&binary()?, &["run", "--config", file], environment))?;
        Ok(Self::adopt(process, address, Box::new(dir)))
    }

    /// An agent that was started elsewhere, with both outputs piped: the stdout exporter, health endpoints at `address`. `with` is
    /// kept until it has ended.
    pub fn adopt(mut process: Child, address: SocketAddr, with: Box<dyn Any + Send>) -> Self {
        let ears = Arc::new(Ears::default());
        let readers = vec![
            listen(process.stdout.take(), ears.clone(), hear_export, |said| said.ended = true),
            listen(process.stderr.take(), ears.clone(), |said, line| said.stderr.extend([line, "\n"]), |_| ()),
        ];
        Self { process, ears, readers, address, stopped: false, _with: with }
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
        self.ears.lock().stderr.clone()
    }

    /// The events it has exported to standard output so far.
    pub fn logs(&self) -> Vec<ExportLogsServiceRequest> {
        self.ears.lock().logs.clone()
    }

    /// Looks at what it has exported to standard output so far.
    pub fn look<T>(&self, look: impl FnOnce(&Exports) -> T) -> T {
        look(&self.ears.lock().exports)
    }

    /// Waits until `condition` finds in the exports what it looks for, at most `within`, for which [`patience`] is had.
    pub fn wait_for<T>(&self, what: &str, within: Duration, mut condition: impl FnMut(&Exports) -> Option<T>) -> Result<T> {
        let within = patience(within);
        let deadline = Instant::now() + within;
        let mut said = self.ears.lock();
        loop {
            if let Some(line) = &said.invalid {
                bail!("the agent's standard output is no OTLP JSON: {line}");
            }
            if let Some(found) = condition(&said.exports) {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if said.ended || left.is_zero() {
                let end = if said.ended { "when the agent ended" } else { "in time" };
                bail!(
                    "waited {within:?} for {what}: not there {end}, {} exports, log:\n{}",
                    said.exports.requests(),
                    said.stderr
                );
            }
            said = self.ears.news.wait_timeout(said, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for an export whose points were all measured after this call, so that what has ended by now is in it.
    pub fn catch_up(&self) -> Result<()> {
        let now = unix_ns();
        self.wait_for("an export of what is now", STARTS_WITHIN, |exports| (exports.latest_unix_ns() > now).then_some(()))
    }

    /// Waits until its log holds `text`, at most `within`, for which [`patience`] is had.
    pub fn wait_for_log(&self, text: &str, within: Duration) -> Result<()> {
        let within = patience(within);
        let deadline = Instant::now() + within;
        let mut said = self.ears.lock();
        while !said.stderr.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "the log does not say \"{text}\" within {within:?}:\n{}", said.stderr);
            said = self.ears.news.wait_timeout(said, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Kills it, as the kernel does when memory runs out; what it had exported until then.
    pub fn kill(mut self) -> Result<Exports> {
        self.process.kill().context("could not kill podmeter")?;
        self.process.wait().context("could not wait for podmeter")?;
        Ok(self.hear_out().exports)
    }

    /// Takes all that was said until the end.
    fn hear_out(&mut self) -> Said {
        for reader in self.readers.drain(..) {
            // A reader that panicked has said nothing more.
            let _ = reader.join();
        }
        self.stopped = true;
        let said = std::mem::take(&mut *self.ears.lock());
        // Shown when the test fails on what was exported.
        println!("the agent's log:\n{}", said.stderr);
        said
    }

    /// Asks it to stop (SIGTERM) and waits until it has ended. Fails when that takes longer than [`STOPS_WITHIN`], when it does
    /// not exit with 0, or when any counter it exported has ever gone down.
    pub fn stop(self) -> Result<Ended> {
        self.stop_within(STOPS_WITHIN)
    }

    /// The same where it may take this long.
    pub fn stop_within(mut self, within: Duration) -> Result<Ended> {
        let asked = Instant::now();
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM).context("could not signal podmeter")?;
        // Longer than allowed, to be able to say how long it takes.
        let status = wait_within(&mut self.process, 10 * within)?;
        let took = asked.elapsed();
        let said = self.hear_out();
        let code = status.and_then(|status| status.code());
        ensure!(code == Some(0) && took <= patience(within), "asked to stop: {status:?} after {took:?}, log:\n{}", said.stderr);
        ensure!(said.invalid.is_none(), "the agent's standard output is no OTLP JSON: {:?}", said.invalid);
        said.exports.check_that_counters_only_grow()?;
        Ok(Ended { code, took, exports: said.exports, stderr: said.stderr })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if !self.stopped {
            let _ = self.process.kill();
            let _ = self.process.wait();
            eprintln!("the agent's log:\n{}", self.ears.lock().stderr);
        }
    }
}

/// Reads a pipe line by line until it ends.
fn listen<R: std::io::Read + Send + 'static>(
    pipe: Option<R>,
    ears: Arc<Ears>,
    hear: fn(&mut Said, &str),
    end: fn(&mut Said),
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let lines = pipe.into_iter().flat_map(|pipe| BufReader::new(pipe).lines().map_while(Result::ok));
        lines.for_each(|line| ears.hear(|said| hear(said, &line)));
        ears.hear(end);
    })
}

fn hear_export(said: &mut Said, line: &str) {
    let added = if line.starts_with("{\"resourceLogs\"") {
        serde_json::from_str(line).context("does not parse").map(|logs| said.logs.push(logs))
    } else {
        serde_json::from_str(line).context("does not parse").and_then(|request| said.exports.add(&request))
    };
    if let Err(error) = added {
        let start: String = line.chars().take(400).collect();
        said.invalid.get_or_insert(format!("{error:#}: {start}"));
    }
}

/// The signals that a runner's tests look at. On an emulated CPU their agents have no others, unless a test asks for them: to verify,
/// run and export them all takes longer there than what is tested. Runners that are not here have all.
const LOOKED_AT: &[(&str, &[&str])] = &[
    ("cgroups", &["cpu", "pressure"]),
    ("cpu", &["cpu"]),
    ("dns", &["network", "dns"]),
    ("drops", &["drops"]),
    ("kubernetes_chaos", &["cpu"]),
    ("limits", &["cpu"]),
    ("memory", &["memory", "pressure"]),
    ("network", &["network", "dns"]),
    ("shares", &["cpu", "memory", "network", "dns"]),
    ("tcp", &["tcp"]),
];

/// The signals that can be switched off: keys of `signals` in the configuration.
const SIGNALS: &[&str] = &["cpu", "memory", "pressure", "network", "dns", "tcp", "drops"];

/// The name of the runner that this is.
fn runner() -> Result<String> {
    let program = std::env::current_exe().context("could not find this test's own executable")?;
    Ok(without_hash(&program.file_stem().unwrap_or_default().to_string_lossy()).to_owned())
}

/// A runner's name as its source file has it: cargo appends a hash to the executable's.
fn without_hash(executable: &str) -> &str {
    match executable.rsplit_once('-') {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => name,
        _ => executable,
    }
}

/// Why this machine cannot run the tests of this runner: a signal that it looks at is off, for the reason that `podmeter check`
/// gives. Asked once for each runner. `None` also where the check fails, so that the tests show how.
pub fn off_here() -> Option<&'static str> {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    let ask = || {
        let runner = runner().ok()?;
        let (_, looked_at) = LOOKED_AT.iter().find(|(name, _)| *name == runner)?;
        let output = run(&["check", "--json"], As::Root, Duration::from_secs(60)).ok()?;
        off_among(looked_at, &serde_json::from_str(&output.stdout).ok()?)
    };
    REASON.get_or_init(ask).as_deref()
}

/// The first of these signals that a report of `podmeter check --json` says is off, and why.
fn off_among(looked_at: &[&str], report: &Json) -> Option<String> {
    let off = report["signals"]
        .as_array()?
        .iter()
        .find(|signal| signal["on"] == false && signal["name"].as_str().is_some_and(|name| looked_at.contains(&name)))?;
    let reason = off["reason"].as_str().and_then(|reason| reason.lines().next()).unwrap_or("podmeter check gives no reason");
    Some(format!("{} is off here: {reason}", off["name"].as_str().unwrap_or_default()))
}

/// The configuration of signals that switches off what a runner does not look at.
fn not_looked_at(runner: &str) -> Json {
    let looked_at = LOOKED_AT.iter().find(|(name, _)| *name == runner).map_or(SIGNALS, |(_, signals)| signals);
    SIGNALS.iter().filter(|signal| !looked_at.contains(signal)).map(|signal| ((*signal).to_owned(), json!(false))).collect()
}

/// Puts the keys of `over` into `base`, level by level.
fn merge(base: &mut Json, over: Json) {
    match (base, over) {
        (Json::Object(base), Json::Object(over)) => {
            over.into_iter().for_each(|(key, value)| merge(base.entry(key).or_insert(Json::Null), value));
        }
        (base, over) => *base = over,
    }
}

/// Now, as Unix time in ns.
pub fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_in_emulation_has_the_signals_that_it_looks_at() {
        assert_eq!(not_looked_at("pinning"), json!({}));
        let all_but = json!({"cpu": false, "network": false, "dns": false, "tcp": false, "drops": false});
        assert_eq!(not_looked_at("memory"), all_but);
        assert!(LOOKED_AT.iter().flat_map(|(_, signals)| *signals).all(|signal| SIGNALS.contains(signal)));
    }

    #[test]
    fn a_runner_is_skipped_for_the_reason_that_check_gives() {
        let report = json!({"signals": [
            {"name": "cpu", "on": true},
            {"name": "drops", "on": false, "reason": "no enum\nthe verifier's log"},
        ]});
        assert_eq!(off_among(&["cpu"], &report), None);
        assert_eq!(off_among(&["cpu", "drops"], &report).as_deref(), Some("drops is off here: no enum"));
        assert_eq!(
            (without_hash("tcp-0123456789abcdef"), without_hash("bad-input"), without_hash("tcp")),
            ("tcp", "bad-input", "tcp")
        );
    }

    #[test]
    fn a_tests_keys_go_over_the_harness_defaults_level_by_level() {
        let mut all = json!({"interval": "1s", "bpf": {"pin": false}});
        merge(&mut all, json!({"bpf": {"directory": "/x"}, "interval": "2s"}));
        assert_eq!(all, json!({"interval": "2s", "bpf": {"pin": false, "directory": "/x"}}));
    }
}
