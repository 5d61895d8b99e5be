//! The runner that this is: which signals its tests look at, and whether this machine has them.

use std::{sync::OnceLock, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::{Value as Json, json};

use super::command::{As, run};

/// The signals that a runner's tests look at. On an emulated CPU their agents have no others, unless a test requests them: to
/// verify, run and export them all takes longer there than what is tested. Runners that are not here have all.
const LOOKED_AT: &[(&str, &[&str])] = &[
    ("cgroups", &["cpu", "pressure"]),
    ("cpu", &["cpu"]),
    ("disk", &["disk"]),
    ("dns", &["network", "dns"]),
    ("drops", &["drops"]),
    ("kubernetes_chaos", &["cpu"]),
    ("limits", &["cpu"]),
    ("memory", &["memory", "pressure"]),
    ("network", &["network", "dns"]),
    ("node", &["node"]),
    ("shares", &["cpu", "memory", "network", "dns"]),
    ("tcp", &["tcp"]),
    ("walk", &["cpu", "memory", "pressure"]),
];

/// The signals that can be switched off: keys of `signals` in the configuration.
const SIGNALS: &[&str] = &["cpu", "memory", "pressure", "network", "dns", "tcp", "drops", "disk", "node"];

/// The name of the runner that this is.
pub(super) fn runner() -> Result<String> {
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
/// gives. Checked once for each runner. `None` also where the check fails, so that the tests show how.
pub fn off_here() -> Option<&'static str> {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    let reason = || {
        let runner = runner().ok()?;
        let (_, looked_at) = LOOKED_AT.iter().find(|(name, _)| *name == runner)?;
        let output = run(&["check", "--json"], As::Root, Duration::from_secs(60)).ok()?;
        off_among(looked_at, &serde_json::from_str(&output.stdout).ok()?)
    };
    REASON.get_or_init(reason).as_deref()
}

/// What begins the reason of an object that no kernel would load: a fault, for which no test is skipped.
const BROKEN: &str = "error parsing BPF object";

/// The first of these signals that is off in a report of `podmeter check --json`, and why; not where its object is broken.
fn off_among(looked_at: &[&str], report: &Json) -> Option<String> {
    let off = report["signals"]
        .as_array()?
        .iter()
        .find(|signal| signal["on"] == false && signal["name"].as_str().is_some_and(|name| looked_at.contains(&name)))?;
    let reason = off["reason"].as_str().and_then(|reason| reason.lines().next()).unwrap_or("podmeter check gives no reason");
    Some(format!("{} is off here: {reason}", off["name"].as_str().unwrap_or_default())).filter(|why| !why.contains(BROKEN))
}

/// The configuration of signals that switches off what a runner does not look at.
pub(super) fn not_looked_at(runner: &str) -> Json {
    let looked_at = LOOKED_AT.iter().find(|(name, _)| *name == runner).map_or(SIGNALS, |(_, signals)| signals);
    SIGNALS.iter().filter(|signal| !looked_at.contains(signal)).map(|signal| ((*signal).to_owned(), json!(false))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_in_emulation_has_the_signals_that_it_looks_at() {
        assert_eq!(not_looked_at("pinning"), json!({}));
        let all_but =
            json!({"cpu": false, "network": false, "dns": false, "tcp": false, "drops": false, "disk": false, "node": false});
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
        let broken =
            json!({"signals": [{"name": "cpu", "on": false, "reason": "could not: error parsing BPF object: no symbol"}]});
        assert_eq!(off_among(&["cpu"], &broken), None);
        assert_eq!(
            (without_hash("tcp-0123456789abcdef"), without_hash("bad-input"), without_hash("tcp")),
            ("tcp", "bad-input", "tcp")
        );
    }
}
