//! `cargo xtask demo`: a pretend node under `podmeter top`, for people without a cluster.
//!
//! `PODMETER_BIN` is the program to show it with. Everything that is made here is removed at the end, also after Ctrl-C.

use std::io::{IsTerminal, stdout};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podmeter_tests::demo::load::{self, Order};
use podmeter_tests::demo::pods::{self, Pods};
use podmeter_tests::demo::tree::Tree;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// A demo that is left running ends by itself.
const LONGEST: Duration = Duration::from_secs(3600);

/// How often it is looked whether to end.
const TICK: Duration = Duration::from_millis(50);

/// Starts pod-shaped cgroups with real processes and shows them with `podmeter top`.
#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Arguments {
    /// End after this time, as in 20s, 5m or 1h.
    #[arg(long = "for", value_parser = duration)]
    life: Option<Duration>,
    /// The program to show.
    #[arg(long, env = "PODMETER_BIN")]
    podmeter: PathBuf,
    /// Arguments for `podmeter top`, such as --once.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    top: Vec<String>,
}

fn main() -> Result<ExitCode> {
    if std::env::args().nth(1).as_deref() == Some(load::COMMAND) {
        return Order::parse_from(std::env::args().skip(1)).run().map(|()| ExitCode::SUCCESS);
    }
    let arguments = Arguments::parse();
    if !arguments.podmeter.is_file() {
        bail!("{} is not a file: PODMETER_BIN must be the path of podmeter", arguments.podmeter.display());
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("could not prepare for signals")?;
    }
    // Dropped from the last to the first: the processes end, then their cgroups go.
    let tree = Arc::new(Tree::create()?);
    let life = arguments.life.unwrap_or(LONGEST);
    let end = Instant::now() + life;
    let pods = Pods::start(&tree, life)?;
    // Not to standard output: that is top's, perhaps JSON.
    eprintln!("{}", pods::legend(&tree));
    let once = arguments.top.iter().any(|argument| argument == "--once");
    if !once && stdout().is_terminal() {
        eprintln!("podmeter top starts in 5 s and covers this; it comes back at the end.");
        let start = (Instant::now() + Duration::from_secs(5)).min(end);
        while Instant::now() < start && !stop.load(Ordering::Relaxed) {
            sleep(TICK);
        }
    }
    let code = if stop.load(Ordering::Relaxed) { ExitCode::SUCCESS } else { top(&arguments, end, &stop)? };
    drop(pods);
    drop(tree);
    Ok(code)
}

/// Runs `podmeter top` in the foreground until it ends, the time is over or a signal comes.
fn top(arguments: &Arguments, end: Instant, stop: &AtomicBool) -> Result<ExitCode> {
    let program = &arguments.podmeter;
    let mut top = Command::new(program)
        .arg("top")
        .args(&arguments.top)
        .spawn()
        .with_context(|| format!("could not start {}", program.display()))?;
    while Instant::now() < end && !stop.load(Ordering::Relaxed) {
        if let Some(status) = top.try_wait().context("could not look after podmeter top")? {
            // A signal, too, is a failure of top: none was sent here.
            return Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from));
        }
        sleep(TICK);
    }
    finish(&mut top).map(|()| ExitCode::SUCCESS)
}

/// Asks top to end, so that it can restore the terminal; kills it when it does not.
fn finish(top: &mut Child) -> Result<()> {
    // One that has ended meanwhile is what is wanted.
    let _ = kill(Pid::from_raw(top.id().cast_signed()), Signal::SIGTERM);
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        if top.try_wait().context("could not look after podmeter top")?.is_some() {
            return Ok(());
        }
        sleep(TICK);
    }
    top.kill().context("could not kill podmeter top")?;
    top.wait().context("could not wait for podmeter top").map(drop)
}

/// `20s`, `5m`, `1h`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let scale = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        unit => return Err(format!("unknown unit {unit:?}; write 20s, 5m or 1h")),
    };
    let number: u64 = digits.parse().map_err(|error| format!("{error}; write 20s, 5m or 1h"))?;
    match number.checked_mul(scale).map(Duration::from_secs) {
        Some(life) if !life.is_zero() && life <= LONGEST => Ok(life),
        _ => Err("must be more than 0 and at most 1h".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_bounds() {
        assert_eq!(duration("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(duration("20"), Ok(Duration::from_secs(20)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        for wrong in ["", "s", "0s", "2h", "20x", "-5s", "1.5s", "99999999999999999999h", "9é"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn arguments_for_top_are_passed_on_with_and_without_the_dashes() {
        for line in [
            &["demo", "--podmeter", "x", "--for", "5s", "--", "--once", "--json"][..],
            &["demo", "--podmeter", "x", "--once", "--json"],
        ] {
            let read = Arguments::try_parse_from(line).expect("valid");
            assert_eq!(read.top, ["--once", "--json"], "{line:?}");
        }
    }
}
