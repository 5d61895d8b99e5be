//! A kernel that refuses a program: the signals that need it are off, with the reason, and the others still equal the kernel's
//! figures.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    MS, SECOND,
    agent::{Agent, As, Output, run, run_in},
    cgroup::Cgroup,
    load::Load,
    metric::CPU_TIME,
    root_test,
    truth::NEARLY_EXACT,
};
use serde_json::{Value as Json, json};

/// What `podmeter check` reports of each signal without these programs.
fn signals(without: &str) -> Result<Vec<Json>> {
    let output = run_in(&["check", "--json"], As::Root, 60 * SECOND, &[("PODMETER_BPF_LEAVE_OUT", without)])?;
    let report: Json = serde_json::from_str(&output.stdout).with_context(|| format!("no report: {output:?}"))?;
    Ok(report["signals"].as_array().context("no signals")?.clone())
}

fn signal<'a>(signals: &'a [Json], name: &str) -> Result<&'a Json> {
    signals.iter().find(|signal| signal["name"] == name).with_context(|| format!("no signal {name}"))
}

/// Fails unless the signals are on that are on without leaving anything out, but for `off`.
fn check_that_others_stay_on(all: &[Json], left: &[Json], off: &[&str]) -> Result<()> {
    for before in all {
        let name = before["name"].as_str().context("no name")?;
        let on = before["on"] == true && !off.contains(&name);
        ensure!(signal(left, name)?["on"] == on, "{name} is not {}: {left:?}", if on { "on" } else { "off" });
    }
    Ok(())
}

root_test! {
    fn a_refused_program_takes_only_what_hangs_on_it() {
        let all = signals("")?;
        // What a signal can do without goes with a note, also two programs of which each is of no use without the other.
        let optional = "tcp_on_walk,tcp_on_find,tcp_on_reset_sent,memory_on_signal,walk_on_cgroup,memory_on_node_reclaim,cpu_on_fork,cpu_on_move";
        let left = signals(optional)?;
        check_that_others_stay_on(&all, &left, &[])?;
        for (name, notes) in [
            ("tcp", ["no resets: could not load tcp_on_reset_sent", "connections that are older than this start"]),
            ("memory", ["no OOM kills: could not load memory_on_signal", "no reclaim: could not load memory_on_node_reclaim"]),
            ("cpu", ["does not trace the first: could not load cpu_on_fork", "bpf.leave_out names it"]),
        ] {
            let signal = signal(&left, name)?;
            if signal["on"] != true {
                continue;
            }
            let note = signal["note"].as_str().unwrap_or_default();
            ensure!(notes.iter().all(|part| note.contains(part)), "{name}: {note:?} does not say {notes:?}");
        }
        // What it cannot do without takes the signal, and no other.
        let left = signals("tcp_on_event,drops_on_free")?;
        check_that_others_stay_on(&all, &left, &["tcp", "drops"])?;
        let reason = signal(&left, "tcp")?["reason"].as_str().unwrap_or_default();
        ensure!(reason.contains("tcp_on_event") || !reason.contains("leave_out"), "tcp is off because {reason:?}");
        Ok(())
    }
}

root_test! {
    fn a_signal_without_its_capability_names_it() {
        let check = |args: &[&str]| -> Result<Output> { run(args, As::RootWithoutNetAdmin, 60 * SECOND) };
        let table = check(&["check"])?;
        ensure!(table.stdout.contains("missing CAP_NET_ADMIN"), "the capability is not named: {table:?}");
        let output = check(&["check", "--json"])?;
        let report: Json = serde_json::from_str(&output.stdout).with_context(|| format!("no report: {output:?}"))?;
        let signals = report["signals"].as_array().context("no signals")?;
        for name in ["network", "dns", "tcp"] {
            let signal = signal(signals, name)?;
            let reason = signal["reason"].as_str().unwrap_or_default();
            ensure!(signal["on"] == false && reason.contains("CAP_NET_ADMIN"), "{name}: {signal}");
        }
        ensure!(signal(signals, "cpu")?["on"] == true, "cpu is off too: {signals:?}");
        Ok(())
    }
}

/// Cgroups that are older and younger than the agent are exported by their paths, with the CPU time that the kernel counts.
fn check_paths(config: Json) -> Result<()> {
    let older = Cgroup::new("older")?;
    let agent = Agent::start(config)?;
    let born = Cgroup::new("born")?;
    let inner = born.child("inner")?;
    for cgroup in [&older, &inner] {
        Load::burn(60 * MS).start(cgroup)?.wait()?;
        agent.wait_for("a cgroup by its path", Duration::from_secs(10), |exports| {
            exports.value(cgroup.path(), CPU_TIME, &[]).filter(|seconds| *seconds >= 0.055)
        })?;
    }
    let truth = [&older, &born, &inner].map(|cgroup| cgroup.cpu_stat().map(|stat| stat.usage_seconds()));
    agent.catch_up()?;
    let exports = agent.stop()?.exports;
    for (cgroup, truth) in [&older, &born, &inner].into_iter().zip(truth) {
        let exported = exports.value(cgroup.path(), CPU_TIME, &[]).context("no CPU time")?;
        NEARLY_EXACT.check(cgroup.path(), exported, truth?)?;
    }
    Ok(())
}

root_test! {
    fn cgroups_have_their_paths_where_programs_do_not_read_kernel_memory() {
        check_paths(json!({"bpf": {"leave_out": "bpf_probe_read_kernel"}}))
    }
}

/// False where the kernel is not locked down for confidentiality; then reports the test as skipped.
fn is_locked_down(test: &str) -> bool {
    let modes = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    let locked = modes.contains("[confidentiality]");
    if !locked {
        eprintln!("SKIPPED {test}: this kernel is not locked down for confidentiality, which cannot be undone");
    }
    locked
}

root_test! {
    fn locked_down_for_confidentiality_the_kernel_still_counts_and_check_says_why_something_is_missing() {
        if !is_locked_down(TEST) {
            return Ok(());
        }
        let output = run(&["check", "--json"], As::Root, 60 * SECOND)?;
        let report: Json = serde_json::from_str(&output.stdout).with_context(|| format!("no report: {output:?}"))?;
        println!("{report:#}");
        let conditions = report["conditions"].as_array().context("no conditions")?;
        let lockdown = conditions.iter().find(|condition| condition["name"] == "lockdown").context("no word of the lockdown")?;
        ensure!(lockdown["detail"].as_str().is_some_and(|detail| detail.starts_with("confidentiality: ")), "{lockdown}");
        let signals = report["signals"].as_array().context("no signals")?;
        for name in ["cpu", "memory", "network", "dns"] {
            ensure!(signal(signals, name)?["on"] == true, "{name} is off: {}", signal(signals, name)?);
        }
        // A socket's cgroup is a mere number before 5.15, and drops have no reasons before 5.17.
        for name in ["tcp", "drops"] {
            let state = signal(signals, name)?;
            let reason = state["reason"].as_str().unwrap_or_default();
            ensure!(state["on"] == true || reason.contains("locked down") || reason.contains("this kernel has no enum"), "{state}");
        }
        let note = signal(signals, "memory")?["note"].as_str().unwrap_or_default();
        ensure!(note.contains("locked down for confidentiality"), "memory does not say what it does without: {note:?}");
        Ok(())
    }
}

root_test! {
    fn locked_down_for_confidentiality_cgroups_have_their_paths() {
        if !is_locked_down(TEST) {
            return Ok(());
        }
        check_paths(json!({}))
    }
}
