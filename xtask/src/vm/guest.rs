//! One virtual machine: its command line, its life, and how long it may be silent.

use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::results::Results;
use crate::command;

/// How long a guest may print nothing. The longest test takes a third of this where the machine is busy with others.
const SILENT_FOR: Duration = Duration::from_secs(180);

/// How long a guest may run, and be brought to its end.
const RUNS_FOR: Duration = Duration::from_secs(2700);

/// How much of the kernel's console is shown after a failure.
const TAIL_LINES: usize = 60;

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accel {
    /// QEMU itself: works everywhere, ten to thirty times slower.
    #[default]
    Tcg,
    /// The processor, where /dev/kvm works.
    Kvm,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        })
    }
}

/// A guest that has not started yet.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) image: PathBuf,
    pub(super) initramfs: PathBuf,
    /// A file of zeros, the guest's `/dev/vda`.
    pub(super) disk: PathBuf,
    pub(super) accel: Accel,
    /// The words that start QEMU.
    pub(super) qemu: Vec<String>,
}

impl Guest {
    /// QEMU with all that every guest has: two CPUs, no network but its own loopback, a kernel that prints only what is wrong.
    fn qemu(&self, mode: &str, kernel_arguments: &str) -> Command {
        // A guest does not outlive who watches it, however that ends.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL"]).args(&self.qemu);
        qemu.args(match self.accel {
            // A small CPU: what newer ones have costs more to emulate (30 % of podmeter's start). Its random numbers save waiting for others.
            Accel::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "Nehalem,+rdrand"],
            Accel::Kvm => ["-accel", "kvm", "-cpu", "host"],
        });
        qemu.args(["-smp", "2", "-m", "1536", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        qemu.arg("-kernel").arg(&self.image).arg("-initrd").arg(&self.initramfs);
        qemu.arg("-drive").arg(format!("file={},if=virtio,format=raw,cache=unsafe", self.disk.display()));
        // On a busy machine an emulated clock misses ticks: the kernel must neither test its timer nor doubt its clock, nor take
        // a CPU that did not get to run for one that hangs. The rest saves time.
        let busy = "no_timer_check tsc=reliable nowatchdog rcupdate.rcu_cpu_stall_suppress=1";
        let quick = "quiet nokaslr mitigations=off random.trust_cpu=on raid=noautodetect";
        let emulated = if self.accel == Accel::Tcg { "PODMETER_EMULATED=1" } else { "" };
        qemu.arg("-append").arg(format!("console=ttyS0 panic=-1 {busy} {quick} {emulated} {kernel_arguments} MODE={mode}"));
        qemu
    }

    /// Boots into a shell on this terminal and returns when it is left.
    pub(super) fn shell(&self) -> Result<ExitStatus> {
        let mut qemu = self.qemu("shell", "");
        qemu.args(["-serial", "mon:stdio"]);
        eprintln!("$ {}", command::shown(&qemu));
        qemu.status().context("could not start QEMU")
    }

    /// Boots, runs the tests, and passes on what they print until the guest is off or has to be switched off.
    ///
    /// The kernel's messages go to the file `console`, all that the tests print to `log`.
    pub(super) fn test(
        &self,
        kernel_arguments: &str,
        results: &mut Results,
        files: &LogFiles,
        out: &mut impl Write,
    ) -> Result<()> {
        let mut qemu = self.qemu("test", kernel_arguments);
        qemu.arg("-serial").arg(format!("file:{}", files.console.display())).args(["-serial", "stdio"]);
        qemu.arg("-monitor").arg(format!("unix:{},server=on,wait=off", files.monitor.display()));
        let mut log = fs::File::create(&files.log).with_context(|| format!("could not make {}", files.log.display()))?;
        let child = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
        let mut process = Process(child.context("could not start QEMU")?);
        let (chunks, output) = mpsc::channel();
        let mut stdout = process.0.stdout.take().context("qemu has no output")?;
        // Ends with the guest, when its output ends.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut buffer) {
                if chunks.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });

        let deadline = Instant::now() + RUNS_FOR;
        let mut unfinished = Vec::new();
        while !results.is_over() {
            let left = deadline.saturating_duration_since(Instant::now());
            match output.recv_timeout(left.min(SILENT_FOR)) {
                Ok(chunk) => {
                    // All of it is in memory too; a full disk is no test's failure.
                    let _ = log.write_all(&chunk);
                    unfinished.extend(chunk);
                    while let Some(end) = unfinished.iter().position(|byte| *byte == b'\n') {
                        let line: Vec<u8> = unfinished.drain(..=end).collect();
                        results.line(String::from_utf8_lossy(&line[..end]).as_ref(), out);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let limit = if left > SILENT_FOR { ("printed nothing for", SILENT_FOR) } else { ("ran for", RUNS_FOR) };
                    let last = String::from_utf8_lossy(&unfinished).trim().to_owned();
                    let running = results.place().to_owned();
                    results.lose(format_args!("switched off: {} {} s, in {running}: {last}", limit.0, limit.1.as_secs()));
                    let found = registers(&files.monitor).unwrap_or_else(|error| format!("{error:#}"));
                    let _ = fs::write(&files.registers, found);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let running = results.place().to_owned();
                    results.lose(format_args!("the kernel ended in {running}: see its messages"));
                }
            }
        }
        drop(process);
        Ok(())
    }
}

/// The registers of every CPU of a guest that runs: where it is in the kernel, if that has stopped.
fn registers(monitor: &Path) -> Result<String> {
    let mut qemu = UnixStream::connect(monitor).with_context(|| format!("could not reach QEMU at {}", monitor.display()))?;
    qemu.set_read_timeout(Some(Duration::from_secs(2)))?;
    qemu.write_all(b"info registers -a\n").context("could not ask QEMU")?;
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    // It says no more than that, and keeps the connection.
    while let Ok(length @ 1..) = qemu.read(&mut buffer) {
        text.extend(&buffer[..length]);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Where a guest's output is kept.
#[derive(Debug)]
pub(super) struct LogFiles {
    /// The kernel's messages.
    pub(super) console: PathBuf,
    /// All that the tests printed.
    pub(super) log: PathBuf,
    /// QEMU's socket for people and programs that look into the guest.
    pub(super) monitor: PathBuf,
    /// The CPUs' registers when it was switched off for its silence.
    pub(super) registers: PathBuf,
}

impl LogFiles {
    /// The end of what the kernel and the tests printed.
    pub(super) fn tail(&self) -> String {
        let [console, log] = [&self.console, &self.log].map(|file| last_lines(file));
        format!("---- end of {} ----\n{log}\n---- end of {} ----\n{console}\n----", self.log.display(), self.console.display())
    }
}

fn last_lines(file: &Path) -> String {
    let bytes = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// A QEMU that does not outlive its guard. What it holds is in memory only, so nothing is lost by killing it.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(accel: Accel) -> Guest {
        Guest { image: "k".into(), initramfs: "i".into(), disk: "d".into(), accel, qemu: vec!["qemu".to_owned()] }
    }

    #[test]
    fn only_an_emulated_guest_knows_that_it_is() {
        assert!(command::shown(&guest(Accel::Tcg).qemu("test", "")).contains("PODMETER_EMULATED=1"));
        assert!(!command::shown(&guest(Accel::Kvm).qemu("test", "")).contains("PODMETER_EMULATED"));
    }

    #[test]
    fn the_tail_is_the_last_lines_that_are_not_empty() {
        let file = std::env::temp_dir().join(format!("xtask-tail-{}", std::process::id()));
        let lines: Vec<String> = (0..200).map(|n| format!("line {n}\r\n\r\n")).collect();
        fs::write(&file, lines.concat()).unwrap();
        let tail = last_lines(&file);
        fs::remove_file(&file).unwrap();
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.starts_with("line 140\n") && tail.ends_with("line 199"), "{tail}");
        assert_eq!(last_lines(&file), "");
    }
}
