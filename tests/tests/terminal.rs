//! `podmeter top` at a keyboard: keys, job control, terminals that can do little, and what it leaves behind; against what a
//! terminal of the test received.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use podmeter_tests::{
    agent::{Agent, As, binary, config_file, run},
    bpffs::BpfDir,
    collector::Collector,
    root_test,
    terminal::Terminal,
};
use serde_json::{Value as Json, json};

const ENTER_SCREEN: &str = "\x1b[?1049h";
const LEAVE_SCREEN: &str = "\x1b[?1049l";

/// The place in a BPF file system where an agent would have its directory.
fn place(bpffs: &BpfDir) -> String {
    bpffs.path().join("podmeter").display().to_string()
}

/// `podmeter <arguments>` for a shell.
fn podmeter(arguments: &str) -> Result<String> {
    let quoted = |path: &Path| format!("'{}'", path.display());
    Ok(format!("{} {arguments}", quoted(&binary()?)))
}

root_test! {
    fn ctrl_z_gives_the_terminal_back_and_fg_draws_again() {
        // Echo and line mode are off while top draws: a shell must have them again.
        let script = format!(
            "{}; echo STOPPED; stty -a | grep -o ' -*icanon'; fg; echo ENDED=$?; stty -a | grep -o ' -*icanon'; echo OVER",
            podmeter("top --interval 200ms")?
        );
        let mut terminal = Terminal::run(&script, &[])?;
        terminal.wait_for(ENTER_SCREEN)?;
        terminal.wait_for("KIND")?;
        terminal.press("\x1a")?;
        terminal.wait_for(LEAVE_SCREEN)?;
        terminal.wait_for("STOPPED")?;
        terminal.wait_for(" icanon").context("the terminal was left in raw mode")?;
        terminal.wait_for(ENTER_SCREEN).context("it was not drawn again")?;
        terminal.wait_for("KIND").context("it was not drawn again")?;
        terminal.press("q")?;
        terminal.wait_for(LEAVE_SCREEN)?;
        terminal.wait_for("ENDED=0")?;
        terminal.wait_for(" icanon").context("the terminal was left in raw mode")?;
        terminal.wait_for("OVER").map(drop)
    }
}

root_test! {
    fn ctrl_c_and_sigterm_restore_the_terminal() {
        let file = tempfile::NamedTempFile::new().context("could not make a file")?;
        let top = podmeter("top --interval 200ms")?;
        let script = format!(
            "sh -c 'echo $$ >{}; exec \"$@\"' sh {top}; echo ENDED=$?; stty -a | grep -o ' -*icanon'",
            file.path().display()
        );
        for by_key in [true, false] {
            let mut terminal = Terminal::run(&script, &[])?;
            terminal.wait_for(ENTER_SCREEN)?;
            terminal.wait_for("KIND")?;
            if by_key {
                terminal.press("\x03")?;
            } else {
                let pid = std::fs::read_to_string(file.path()).context("no process id")?;
                kill(Pid::from_raw(pid.trim().parse().context("no process id")?), Signal::SIGTERM).context("no such process")?;
            }
            terminal.wait_for(LEAVE_SCREEN)?;
            terminal.wait_for("ENDED=0")?;
            terminal.wait_for(" icanon").context("the terminal was left in raw mode")?;
        }
        Ok(())
    }
}

root_test! {
    fn a_dumb_terminal_gets_text_in_ascii_without_escapes() {
        let script = format!("{}; echo ENDED=$?", podmeter("top --interval 200ms -n 5")?);
        let mut terminal = Terminal::run(&script, &[("TERM", "dumb")])?;
        let first = terminal.wait_for("STATE").or_else(|_| terminal.wait_for("NAME"))?;
        let second = terminal.wait_for("NAME").context("there was only one table")?;
        terminal.press("\x03")?;
        let rest = terminal.wait_for("ENDED=0")?;
        for text in [first, second, rest] {
            ensure!(text.is_ascii() && !text.contains('\x1b'), "{text:?}");
        }
        Ok(())
    }
}

root_test! {
    fn a_locale_without_unicode_gets_ascii_and_no_color_no_colours() {
        let script = format!("{}; echo ENDED=$?", podmeter("top --interval 200ms")?);
        let mut terminal = Terminal::run(&script, &[("LC_ALL", "C"), ("NO_COLOR", "1")])?;
        let mut shown = terminal.wait_for("KIND")?;
        shown += &terminal.wait_for("quit")?;
        terminal.press("?")?;
        shown += &terminal.wait_for("Keys")?;
        terminal.press("qq")?;
        shown += &terminal.wait_for("ENDED=0")?;
        ensure!(shown.is_ascii(), "{shown:?}");
        // Bold, dim and reverse are no colours; 30 to 37 and 90 to 97 are, and so is 38.
        let codes = shown.split("\x1b[").skip(1).filter_map(|rest| rest.split_once('m')).map(|(codes, _)| codes);
        let colour = codes.flat_map(|codes| codes.split(';')).find(|code| {
            code.parse::<u8>().is_ok_and(|code| matches!(code, 30..=38 | 40..=48 | 90..=97))
        });
        ensure!(colour.is_none(), "{colour:?} in {shown:?}");
        Ok(())
    }
}

root_test! {
    fn nothing_stays_in_bpffs_after_top_and_check() {
        let bpf = BpfDir::new()?;
        let config = config_file(&json!({"bpf": {"directory": place(&bpf)}}).to_string())?;
        let config = config.path().to_str().context("the configuration's path is not UTF-8")?;
        let once = ["top", "--once", "--json", "--interval", "200ms", "--config", config];
        let output = run(&once, As::Root, Duration::from_secs(20))?;
        ensure!(output.code == Some(0), "top ended with {:?}: {}", output.code, output.stderr);
        ensure!(bpf.directories()?.is_empty(), "top --once left {:?}", bpf.directories()?);

        // Whenever it is signalled to end: in the middle of its start, at its end, afterwards. Once: without --foreground,
        // timeout signals its group too, and podmeter ends at once when it is signalled a second time.
        for delay in ["0.05", "0.2", "0.5", "1", "3"] {
            let top = podmeter(&format!("top --once --interval 60s --config '{config}'"))?;
            let mut terminal = Terminal::run(&format!("timeout --foreground -s INT {delay} {top}; echo ENDED=$?"), &[])?;
            terminal.wait_for("ENDED=")?;
            ensure!(bpf.directories()?.is_empty(), "top --once that was interrupted after {delay} s left {:?}", bpf.directories()?);
            let check = podmeter("check")?;
            let environment = [("PODMETER_BPF_DIRECTORY", &*place(&bpf))];
            let mut terminal = Terminal::run(&format!("timeout --foreground -s INT {delay} {check}; echo ENDED=$?"), &environment)?;
            terminal.wait_for("ENDED=")?;
            ensure!(bpf.directories()?.is_empty(), "check that was interrupted after {delay} s left {:?}", bpf.directories()?);
        }
        Ok(())
    }
}

root_test! {
    fn top_once_says_which_signals_are_off_and_why_as_check_does() {
        let check = run(&["check", "--json"], As::Root, Duration::from_secs(20))?;
        let check: Json = serde_json::from_str(&check.stdout).context("check prints no JSON")?;
        let output = run(&["top", "--once", "--json", "--interval", "200ms"], As::Root, Duration::from_secs(20))?;
        let view: Json = serde_json::from_str(&output.stdout).context("top prints no JSON")?;
        let shown = |of: &Json| -> Result<Vec<(Json, Json)>> {
            let signals = of["signals"].as_array().context("no signals")?;
            Ok(signals.iter().map(|signal| (signal["name"].clone(), signal["on"].clone())).collect())
        };
        ensure!(shown(&view)? == shown(&check)?, "top: {}, check: {}", view["signals"], check["signals"]);
        let text = run(&["top", "--once", "--interval", "200ms"], As::Root, Duration::from_secs(20))?.stdout;
        for signal in view["signals"].as_array().context("no signals")? {
            let name = signal["name"].as_str().unwrap_or_default();
            let off = text.lines().any(|line| line.starts_with(&format!("off: {name}")));
            ensure!(off == (signal["on"] == false), "{signal} and the text is\n{text}");
        }
        Ok(())
    }
}

root_test! {
    fn a_replay_is_gone_through_by_keys() {
        let directory = tempfile::tempdir()?;
        let collector = Collector::start()?;
        let agent = Agent::spawn(json!({
            "journal": {"directory": directory.path()},
            "export": {"exporter": "otlp", "protocol": "grpc", "endpoint": collector.grpc_endpoint()},
        }))?;
        collector.wait_until("some exports", |collector| collector.received().len() >= 6)?;
        agent.stop()?;
        let top = podmeter(&format!("top --replay --journal '{}'; echo ENDED=$?", directory.path().display()))?;
        let mut terminal = Terminal::run(&top, &[])?;
        terminal.wait_for("REPLAY 20")?;
        terminal.wait_for("the newest; the oldest is ")?;
        // A key left, then an hour back, and once more.
        terminal.press("\x1b[D")?;
        terminal.press("{{")?;
        terminal.wait_for("oldest")?;
        terminal.press("q")?;
        terminal.wait_for("ENDED=0").map(drop)
    }
}
