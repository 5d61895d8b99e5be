//! The binary as a command: where it is, as whom it runs, and runs of it that end by themselves.

use std::{
    fs::{self, Permissions},
    io::Write as _,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::Signal,
    unistd::{Gid, Uid},
};

use crate::time::patience;

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

/// A copy of the binary in a directory, whose programs are others in nothing but their licence.
pub(super) fn other_version(directory: &Path) -> Result<PathBuf> {
    const LICENCE: &[u8] = b"Dual MIT/GPL\0";
    const ANOTHER: &[u8] = b"Dual MPL/GPL\0";
    let (binary, copy) = (binary()?, directory.join("podmeter"));
    let mut bytes = fs::read(&binary).with_context(|| format!("could not read {}", binary.display()))?;
    let found = |(at, text): (usize, &[u8])| (text == LICENCE).then_some(at);
    let places: Vec<usize> = bytes.windows(LICENCE.len()).enumerate().filter_map(found).collect();
    ensure!(!places.is_empty(), "{} has no programs with the licence {:?}", binary.display(), LICENCE.escape_ascii());
    places.iter().for_each(|at| bytes[*at..*at + ANOTHER.len()].copy_from_slice(ANOTHER));
    fs::write(&copy, &bytes).with_context(|| format!("could not write {}", copy.display()))?;
    fs::set_permissions(&copy, Permissions::from_mode(0o755)).with_context(|| format!("could not open {}", copy.display()))?;
    Ok(copy)
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

/// Runs `podmeter` with these arguments; it must end within `within`, more on an emulated CPU ([`patience`]).
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
    let status = status.with_context(|| format!("podmeter {args:?} still ran after {within:?}; its output: {stdout}{stderr}"))?;
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
pub(super) fn command(binary: &Path, args: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // The environment can configure the agent too; a test has all it wants in its configuration.
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_configuration(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command.envs(environment.iter().copied());
    command
}

/// Starts it; it ends with the thread that calls this.
pub(super) fn spawn(mut command: Command, user: As) -> Result<Child> {
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

/// Whether an environment variable would configure the agent.
pub(crate) fn is_configuration(name: &str) -> bool {
    name.starts_with("OTEL_")
        || (name.starts_with("PODMETER_") && !["PODMETER_BIN", "PODMETER_STATIC_BIN", "PODMETER_TOOLS"].contains(&name))
}

/// `None` when it did not end in time; it is then killed.
pub(super) fn wait_within(process: &mut Child, within: Duration) -> Result<Option<ExitStatus>> {
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
