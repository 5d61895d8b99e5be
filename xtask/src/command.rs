//! Running other programs: shown before they start, with errors that say which one failed.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Once;

use anyhow::{Context, Result, bail};

/// The command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Shows a command and runs it to its end; anything but success is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    eprintln!("$ {}", shown(command));
    let status = command.status().with_context(|| format!("could not start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs a command without showing it and returns what it printed; anything but success is an error with its messages.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().with_context(|| format!("could not start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}\n{}", shown(command), String::from_utf8_lossy(&stderr).trim_end());
    }
    String::from_utf8(stdout).with_context(|| format!("`{}` printed something that is not UTF-8", shown(command)))
}

/// Lines of a log that an error shows.
const TAIL_LINES: usize = 20;

/// Runs a command with all it prints appended to a log file; anything but success is an error with the end of that.
///
/// The first command of a process begins the log anew.
pub(crate) fn logged(command: &mut Command, log: &Path) -> Result<()> {
    static FIRST: Once = Once::new();
    FIRST.call_once(|| {
        let _ = fs::remove_file(log);
    });
    let open = || File::options().append(true).create(true).open(log);
    let mut file = open().with_context(|| format!("could not open {}", log.display()))?;
    let _ = writeln!(file, "$ {}", shown(command));
    let begin = file.metadata().map_or(0, |metadata| metadata.len());
    let errors = file.try_clone().with_context(|| format!("could not open {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(file).stderr(errors);
    let status = command.status().with_context(|| format!("could not start `{}`", shown(command)))?;
    if status.success() {
        return Ok(());
    }
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[(begin as usize).min(text.len())..]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
    bail!("`{}` failed: {status}. The end of {}:\n{tail}", shown(command), log.display())
}

/// Has sudo ask for its password now, where it needs one: a command that runs later in the background could not.
pub(crate) fn become_root() -> Result<()> {
    if is_root() {
        return Ok(());
    }
    let status = Command::new("sudo").arg("--validate").status().context("could not start sudo")?;
    if status.success() { Ok(()) } else { bail!("sudo refuses: this step needs root") }
}

/// A command that runs as root: directly where we are root, else by sudo.
pub(crate) fn as_root(program: impl AsRef<std::ffi::OsStr>) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("--").arg(program);
    command
}

/// Whether this process may do everything.
pub(crate) fn is_root() -> bool {
    // /proc/self belongs to the effective user.
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_passes_on_what_it_said() {
        let error = output(Command::new("sh").args(["-c", "echo no such luck >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("`sh -c") && error.contains("exit status: 3") && error.ends_with("no such luck"), "{error}");
        let error = output(&mut Command::new("/no/such/program")).unwrap_err().to_string();
        assert_eq!(error, "could not start `/no/such/program`");
    }

    #[test]
    fn what_a_logged_command_prints_is_in_the_log_and_its_end_in_the_error() {
        let log = std::env::temp_dir().join(format!("xtask-log-{}", std::process::id()));
        logged(Command::new("sh").args(["-c", "echo quiet; echo too >&2"]), &log).unwrap();
        let error = logged(Command::new("sh").args(["-c", "seq 30; exit 3"]), &log).unwrap_err().to_string();
        let text = fs::read_to_string(&log).unwrap();
        fs::remove_file(&log).unwrap();
        assert!(text.contains("quiet\ntoo\n$ sh -c seq 30; exit 3\n1\n"), "{text}");
        let tail: Vec<&str> = error.lines().skip(1).collect();
        assert!(error.contains("exit status: 3") && error.contains(log.to_str().unwrap()), "{error}");
        assert_eq!((tail.len(), tail[0], tail[19]), (20, "11", "30"));
    }

    #[test]
    fn the_output_is_what_was_printed() {
        assert_eq!(output(Command::new("echo").arg("a b")).unwrap(), "a b\n");
    }
}
