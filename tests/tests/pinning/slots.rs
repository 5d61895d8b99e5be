//! More slots while the agent runs, with maps that are pinned and with such that are not.

use std::collections::HashMap;

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    MS,
    agent::Agent,
    bpffs::BpfDir,
    cgroup::{Cgroup, cgroups_in, mount_point},
    dns::{server::DnsServer, stage::v4},
    load::Load,
    metric::{CPU_TIME, UNATTRIBUTED},
    otlp::Exports,
    root_test,
    truth::NEARLY_EXACT,
};
use serde_json::{Value as Json, json};

use super::{LINE_BYTES, Line, check_that_all_is_looked_at, work};

/// Of every cumulative series of an agent, its one start.
fn check_that_no_series_has_two_starts(exports: &Exports) -> Result<()> {
    let mut starts = HashMap::new();
    for point in exports.points().filter(|point| point.counter) {
        let first = *starts.entry((&*point.resource, &*point.metric, &point.attributes)).or_insert(point.start_unix_ns);
        ensure!(first == point.start_unix_ns, "has another start than {first}: {point:?}");
    }
    ensure!(starts.len() > 100, "only {} series were looked at", starts.len());
    Ok(())
}

/// An agent whose cgroups find too few slots gets more while it runs.
fn grows(mut config: Json) -> Result<()> {
    const SEARCH: std::time::Duration = std::time::Duration::from_secs(60);
    let served = Cgroup::new("served")?;
    let server = DnsServer::start(&served, v4())?;
    // No process moves into those whose CPU time is compared.
    let (old, still, busy) = (Cgroup::new("old")?, Cgroup::new("still")?, Cgroup::new("busy")?);
    Load::burn(20 * MS).start(&still)?.wait()?;
    let line = Line::new()?;
    let slots = cgroups_in(mount_point()?)? + 24;
    config["cgroups"] = json!({"slots": slots, "max_slots": 8 * slots});
    let agent = Agent::start(config)?;
    let load = Load::duty_cycle(5 * MS, 10 * MS, SEARCH).start(&busy)?;
    let young = Cgroup::new("young")?;
    [&old, &young].into_iter().try_for_each(|cgroup| work(cgroup, &server))?;
    line.send(7)?;
    agent.catch_up()?;
    let unattributed = |agent: &Agent| agent.look(|exports| exports.node_value(UNATTRIBUTED, &[])).unwrap_or(f64::NAN);
    let before = unattributed(&agent);

    // More than there are slots: some find none, and those that do take more than three quarters.
    let many = (0..2 * slots).map(|n| Cgroup::new(&format!("many-{n}"))).collect::<Result<Vec<_>>>()?;
    agent.wait_for_log("more slots for cgroups", SEARCH)?;
    agent.wait_for("slots for all", SEARCH, |exports| {
        many.iter().all(|cgroup| exports.value(cgroup.path(), CPU_TIME, &[]).is_some()).then_some(())
    })?;
    line.send(11)?;
    [&old, &young].into_iter().try_for_each(|cgroup| work(cgroup, &server))?;
    let late = many.last().context("made none")?;
    for cgroup in [&still, late] {
        Load::burn(30 * MS).start(cgroup)?.wait()?;
    }
    load.kill()?;
    agent.catch_up()?;
    agent.catch_up()?;
    let after = unattributed(&agent);
    ensure!(before == after, "{} s are unattributed that were not before", after - before);
    let truths = [&still, &busy, late].map(|cgroup| Ok((cgroup.path().to_owned(), cgroup.cpu_stat()?.usage_seconds())));
    let log = agent.stderr();
    let exports = agent.stop()?.exports;
    for (path, truth) in truths.into_iter().collect::<Result<Vec<_>>>()? {
        let measured = exports.value(&path, CPU_TIME, &[]).with_context(|| format!("{path} was not exported"))?;
        NEARLY_EXACT.check(&path, measured, truth)?;
    }
    ensure!(line.counted(&exports) == 18.0 * LINE_BYTES, "{} bytes", line.counted(&exports));
    let now = exports.node_value("podmeter.agent.slots", &[]);
    ensure!(now.is_some_and(|now| now >= 2.0 * slots as f64), "{now:?} slots");
    check_that_all_is_looked_at(&exports, [&old, &young])?;
    exports.check_that_counters_only_grow()?;
    check_that_no_series_has_two_starts(&exports)?;
    let lines: Vec<_> = log.lines().filter(|line| line.contains("more slots")).collect();
    println!("{now:?} slots: {lines:?}");
    Ok(())
}

root_test! {
    fn an_agent_that_takes_more_slots_while_it_runs_resets_no_counter() {
        let bpf = BpfDir::new()?;
        grows(bpf.config())?;
        let pinned = bpf.directories()?;
        // The objects that are loaded, and the clock's.
        let names: Vec<_> = pinned.iter().map(|name| name.to_string_lossy().split('-').next().unwrap_or_default().to_owned()).collect();
        let mut once = names.clone();
        once.dedup();
        ensure!(names == once, "of what it had before something is left: {pinned:?}");
        Ok(())
    }
}

root_test! {
    fn so_does_one_that_pins_nothing_and_takes_more_slots() {
        let bpf = BpfDir::new()?;
        let before = bpf.entries()?;
        grows(json!({"bpf": {"pin": false, "directory": bpf.path()}}))?;
        let after = bpf.entries()?;
        ensure!(after == before, "left behind in {}: {after:?}", bpf.path().display());
        Ok(())
    }
}
