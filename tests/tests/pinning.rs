//! What is counted survives the agent: pinned programs go on counting while no agent runs, and the next agent goes on from there.

use std::{ffi::OsString, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use podmeter_tests::{
    agent::Agent,
    cgroup::Cgroup,
    load::Load,
    metric::{CPU_TIME, SWITCHES, WAIT, WAIT_TIME},
    otlp::{Exports, Value},
    root_test,
    truth::Tolerance,
};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

const MS: Duration = Duration::from_millis(1);
const EXACT: Tolerance = Tolerance::new(0.002, 0.0002);

/// A BPF filesystem of its own. What is pinned there goes with it.
struct BpfDir(TempDir);

impl BpfDir {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir().context("could not make a directory")?;
        mount(Some("none"), dir.path(), Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("could not mount a BPF filesystem on {}", dir.path().display()))?;
        Ok(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn entries(&self) -> Result<Vec<OsString>> {
        let entries = std::fs::read_dir(self.path()).context("could not list the BPF filesystem")?;
        let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
        names.sort_unstable();
        Ok(names)
    }

    fn config(&self) -> Json {
        json!({"bpf": {"pin": true, "directory": self.path()}})
    }
}

impl Drop for BpfDir {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.path(), MntFlags::MNT_DETACH) {
            eprintln!("could not unmount {}: {error}", self.path().display());
        }
    }
}

/// Fails when a counter or histogram of `cgroup` begins lower, or at another time, than it ended before.
fn check_that_it_goes_on(before: &Exports, after: &Exports, cgroup: &str) -> Result<()> {
    let size = |value: &Value| match value {
        Value::Number(value) => *value,
        Value::Histogram(histogram) => histogram.count as f64,
        Value::Absent => f64::NAN,
    };
    // Bursts are put together by the agent, so they begin anew with it, and say so by a later start.
    for metric in [CPU_TIME, WAIT_TIME, SWITCHES, WAIT] {
        let points = before.of(cgroup).iter().filter(|point| &*point.metric == metric);
        let last = points.clone().map(|point| point.time_unix_ns).max().with_context(|| format!("no {metric} before"))?;
        for old in points.filter(|point| point.time_unix_ns == last) {
            let new = after.of(cgroup).iter().find(|new| new.metric == old.metric && new.attributes == old.attributes);
            let new = new.with_context(|| format!("no {metric} after the restart"))?;
            ensure!(size(&new.value) >= size(&old.value), "went down: {old:?} to {new:?}");
            // The same moment may be computed a little differently from another clock reading.
            ensure!(new.start_unix_ns.abs_diff(old.start_unix_ns) < 10_000_000, "was reset: {old:?} to {new:?}");
        }
    }
    Ok(())
}

/// Two agents, one after the other, and work before, between and after them. `end` ends the first.
fn two_lives(end: fn(Agent) -> Result<Exports>) -> Result<()> {
    let bpf = BpfDir::new()?;
    let (lasting, dying) = (Cgroup::new("lasting")?, Cgroup::new("dying")?);
    let first = Agent::start(bpf.config())?;
    Load::burn(100 * MS).start(&lasting)?.wait()?;
    Load::burn(50 * MS).start(&dying)?.wait()?;
    first.catch_up()?;
    let before = end(first)?;

    Load::burn(70 * MS).start(&lasting)?.wait()?;
    let born = Cgroup::new("born")?;
    Load::burn(60 * MS).start(&born)?.wait()?;
    let short = Cgroup::new("short")?;
    Load::burn(20 * MS).start(&short)?.wait()?;
    Load::burn(30 * MS).start(&dying)?.wait()?;
    let mut gone = Vec::new();
    for cgroup in [dying, short] {
        gone.push((cgroup.path().to_owned(), cgroup.cpu_stat()?.usage_seconds()));
        cgroup.remove()?;
    }

    let second = Agent::start(bpf.config())?;
    Load::burn(40 * MS).start(&lasting)?.wait()?;
    second.catch_up()?;
    second.catch_up()?;
    let truths = [&lasting, &born].map(|cgroup| Ok((cgroup.path().to_owned(), cgroup.cpu_stat()?.usage_seconds())));
    let after = second.stop()?.exports;
    for (path, truth) in truths.into_iter().collect::<Result<Vec<_>>>()?.into_iter().chain(gone) {
        let measured = after.value(&path, CPU_TIME, &[]).with_context(|| format!("{path} was not exported after the restart"))?;
        EXACT.check(&path, measured, truth)?;
    }
    check_that_it_goes_on(&before, &after, lasting.path())
}

root_test! {
    fn after_an_upgrade_of_the_agent_no_counter_is_reset_and_nothing_is_lost_in_between() {
        two_lives(|agent| Ok(agent.stop()?.exports))
    }
}

root_test! {
    fn after_a_crash_of_the_agent_no_counter_is_reset_and_nothing_is_lost_in_between() {
        two_lives(Agent::kill)
    }
}

root_test! {
    fn an_agent_that_pins_nothing_leaves_nothing_behind() {
        let bpf = BpfDir::new()?;
        // The kernel puts files of its own there.
        let before = bpf.entries()?;
        let agent = Agent::start(json!({"bpf": {"pin": false, "directory": bpf.path()}}))?;
        agent.stop()?;
        let after = bpf.entries()?;
        ensure!(after == before, "left behind in {}: {after:?}", bpf.path().display());
        Ok(())
    }
}
