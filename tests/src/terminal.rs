//! A shell on a terminal of its own: what a person at the keyboard does, and what the screen gets.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    libc,
    pty::{Winsize, openpty},
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::{agent::is_configuration, time::patience};

/// How long the screen may take to show something.
const PATIENCE: Duration = Duration::from_secs(20);

/// The shell and its terminal; both end with this value.
pub struct Terminal {
    keyboard: File,
    shell: Child,
    screen: Arc<Mutex<String>>,
    /// How much of the screen's text was waited for.
    read: usize,
}

impl Terminal {
    /// Runs a script in a shell with job control, on a terminal of 120 x 40, with these variables besides `TERM` and `LANG`.
    ///
    /// # Errors
    /// When there is no terminal or no shell.
    pub fn run(script: &str, environment: &[(&str, &str)]) -> Result<Self> {
        let size = Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).context("could not open a terminal")?;
        let slave = || pty.slave.try_clone().map(Stdio::from).context("could not open the terminal");
        let mut command = Command::new("sh");
        command.args(["-m", "-c", script]).stdin(slave()?).stdout(slave()?).stderr(slave()?);
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_configuration(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        for name in ["LC_ALL", "LC_CTYPE", "NO_COLOR"] {
            command.env_remove(name);
        }
        command.env("TERM", "xterm").env("LANG", "C.UTF-8").envs(environment.iter().copied());
        // SAFETY: system calls only between fork and exec.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let shell = command.spawn().context("could not start a shell")?;
        // The shell has the only descriptors of its side, so that the reader below ends with it.
        drop(command);
        drop(pty.slave);
        let keyboard = File::from(pty.master);
        let mut output = keyboard.try_clone().context("could not read the terminal")?;
        let screen = Arc::new(Mutex::new(String::new()));
        let text = Arc::clone(&screen);
        thread::spawn(move || {
            let mut bytes = [0; 65536];
            // A terminal that no process has open any more fails with EIO.
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                *text.lock().unwrap_or_else(PoisonError::into_inner) += &String::from_utf8_lossy(&bytes[..length]);
            }
        });
        Ok(Self { keyboard, shell, screen, read: 0 })
    }

    /// Presses keys.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        self.keyboard.write_all(keys.as_bytes()).with_context(|| format!("could not press {keys:?}; {}", self.text()))
    }

    /// Waits until the screen gets `text` after what was waited for before; returns what came up to there.
    ///
    /// # Errors
    /// When it does not come.
    pub fn wait_for(&mut self, text: &str) -> Result<String> {
        let end = Instant::now() + patience(PATIENCE);
        while Instant::now() < end {
            let screen = self.text();
            let new = screen.get(self.read..).unwrap_or_default();
            if let Some(at) = new.find(text) {
                let end = at + text.len();
                self.read += end;
                return Ok(new[..end].to_owned());
            }
            thread::sleep(Duration::from_millis(10));
        }
        let screen = self.text();
        bail!("{text:?} did not come; what came: {:?}", screen.get(self.read..).unwrap_or_default());
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Its jobs have process groups of their own; they get SIGHUP as the terminal goes.
        let _ = killpg(Pid::from_raw(self.shell.id().cast_signed()), Signal::SIGKILL);
        let _ = self.shell.wait();
    }
}
