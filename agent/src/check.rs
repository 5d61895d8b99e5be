//! `podmeter check`: what this kernel allows, and what to do where it does not.

pub mod endpoint;

use std::{fmt::Write as _, path::Path};

use serde_json::json;

use crate::{
    causes::chain,
    cgroups::legacy,
    kernel::{
        btf::Btf,
        capabilities, facts,
        load::{self, LOCKED_DOWN},
        mounts,
    },
    pipeline::{Pipeline, SignalStatus, settings::PipelineSettings},
    signals::{ALL, Signal},
};

/// One condition for measuring at all, or for finding what there is to measure.
#[derive(Debug)]
struct Condition {
    name: &'static str,
    /// What was found, or what is wrong and what to do.
    outcome: Result<String, String>,
}

impl Condition {
    fn mark(&self) -> &'static str {
        match self.outcome {
            Ok(_) => "ok",
            Err(_) if self.name == CONTAINERS => "WARNING",
            Err(_) => "MISSING",
        }
    }
}

/// The condition without which some containers are not measured.
const CONTAINERS: &str = "containers";

/// One signal: on, or off and why.
#[derive(Debug)]
struct CheckedSignal {
    name: &'static str,
    help: &'static str,
    off: Option<String>,
    /// What it does without, and why.
    note: Option<String>,
}

/// Everything that was found.
#[derive(Debug)]
pub struct KernelReport {
    conditions: Vec<Condition>,
    signals: Vec<CheckedSignal>,
}

/// Looks at this kernel and tries every signal: loads and attaches its programs for a moment.
pub fn check(settings: PipelineSettings) -> KernelReport {
    let describe = |error: &(dyn std::error::Error + 'static)| chain(error);
    let rights = match capabilities::missing() {
        Ok(missing) if missing.is_empty() => Ok("all that are needed".to_owned()),
        Ok(missing) => {
            let missing: Vec<_> = missing.iter().map(|c| format!("{} (to {})", c.name, c.purpose)).collect();
            Err(format!("missing {}: run as root, or give the container these capabilities", missing.join(" and ")))
        }
        Err(error) => Err(describe(&error)),
    };
    let root = match &settings.cgroups.root {
        Some(root) => Ok(root.clone()),
        None => mounts::cgroup2().map_err(|e| describe(&e)),
    };
    let containers = root.as_ref().ok().map(|root| Condition { name: CONTAINERS, outcome: containers(root) });
    let mut conditions = vec![
        Condition { name: "kernel", outcome: Ok(facts::release()) },
        Condition {
            name: "btf",
            outcome: Btf::from_sys().map(|_| "/sys/kernel/btf/vmlinux".to_owned()).map_err(|e| describe(&e)),
        },
        Condition { name: "cgroup2", outcome: root.map(|root| root.display().to_string()) },
        Condition { name: "capabilities", outcome: rights },
        Condition { name: "lockdown", outcome: Ok(lockdown()) },
        Condition {
            name: "bpffs",
            outcome: mounts::ensure_bpffs(&settings.pin_directory).map(|at| at.display().to_string()).map_err(|e| describe(&e)),
        },
    ];
    conditions.extend(containers);
    let signals = match Pipeline::start(PipelineSettings { pin: false, ..settings }) {
        Ok(mut pipeline) => {
            pipeline.collect(|_, _| ());
            let state = |state: &SignalStatus| {
                let signal = state.signal;
                CheckedSignal { name: signal.name, help: signal.help, off: state.off.clone(), note: pipeline.note(signal) }
            };
            pipeline.states().iter().map(state).collect()
        }
        Err(error) => {
            let why = chain(&error);
            let off =
                |signal: &Signal| CheckedSignal { name: signal.name, help: signal.help, off: Some(why.clone()), note: None };
            ALL.iter().map(off).collect()
        }
    };
    KernelReport { conditions, signals }
}

/// Whether cgroup2 has the node's containers.
fn containers(root: &Path) -> Result<String, String> {
    match legacy::only_in_v1(&mounts::cgroup1(), root) {
        None => Ok("none is in cgroups of version 1 only".to_owned()),
        Some(only) => Err(only.to_string()),
    }
}

/// What the kernel keeps from root, and what follows.
fn lockdown() -> String {
    // "none integrity [confidentiality]"; securityfs may not be mounted.
    let modes = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    let mode = modes.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(mode, _)| mode);
    match (mode, load::reads_by_address()) {
        (mode, true) => mode.unwrap_or("none").to_owned(),
        (mode, false) => {
            let mode = mode.unwrap_or("confidentiality");
            format!("{mode}: {LOCKED_DOWN}; the notes of each signal below have what it lacks")
        }
    }
}

impl KernelReport {
    /// Whether any signal runs.
    pub fn can_measure(&self) -> bool {
        self.signals.iter().any(|signal| signal.off.is_none())
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for condition in &self.conditions {
            let (Ok(what) | Err(what)) = &condition.outcome;
            let _ = writeln!(text, "{:<13} {:<8} {}", condition.name, condition.mark(), first_line(what));
        }
        text.push('\n');
        for signal in &self.signals {
            let (mark, what) = match &signal.off {
                None => ("on", signal.help),
                Some(why) => ("OFF", first_line(why)),
            };
            let _ = writeln!(text, "{:<13} {mark:<8} {what}", signal.name);
            if let Some(note) = &signal.note {
                let _ = writeln!(text, "{:<22} {note}", "");
            }
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> String {
        let conditions = self.conditions.iter().map(|condition| {
            let (ok, detail) = match &condition.outcome {
                Ok(found) => (true, found),
                Err(wrong) => (false, wrong),
            };
            json!({ "name": condition.name, "ok": ok, "detail": detail })
        });
        let signals = self.signals.iter().map(|signal| match &signal.off {
            None => match &signal.note {
                None => json!({ "name": signal.name, "on": true }),
                Some(note) => json!({ "name": signal.name, "on": true, "note": note }),
            },
            Some(why) => json!({ "name": signal.name, "on": false, "reason": why }),
        });
        let document = json!({
            "schema": 1,
            "podmeter": env!("CARGO_PKG_VERSION"),
            "kernel": facts::release(),
            "conditions": conditions.collect::<Vec<_>>(),
            "signals": signals.collect::<Vec<_>>(),
        });
        format!("{document:#}")
    }
}

/// The verifier's log follows on further lines; `--json` has it whole.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_is_off_and_why() {
        let report = KernelReport {
            conditions: vec![
                Condition { name: "btf", outcome: Err("no types\nlog".to_owned()) },
                Condition { name: CONTAINERS, outcome: Err("2 elsewhere".to_owned()) },
            ],
            signals: vec![CheckedSignal { name: "cpu", help: "CPU", off: Some("no offset".to_owned()), note: None }],
        };
        assert!(!report.can_measure());
        assert!(report.table().contains("btf           MISSING  no types\n"));
        assert!(report.table().contains("containers    WARNING  2 elsewhere\n"));
        assert!(report.table().contains("cpu           OFF      no offset\n"));
        let json: serde_json::Value = serde_json::from_str(&report.json()).expect("a document");
        assert_eq!(json["signals"][0], json!({ "name": "cpu", "on": false, "reason": "no offset" }));
        assert_eq!(json["conditions"][0]["detail"], "no types\nlog");
    }
}
