//! `cpu.max` on real controllers: why tasks waited, against `cpu.stat` of the cgroup and `/proc/<pid>/schedstat` of its tasks.
//!
//! `throttled_usec` is the time that the cgroup's queues were held back, one queue per CPU; a task's `run_delay` is its waiting,
//! whatever for. With one task per CPU both speak of the same time. Both causes together are always the waiting of all tasks.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    MS,
    agent::Agent,
    cgroup::{Cgroup, has_controllers},
    is_emulated,
    load::{Load, Process},
    metric::{PERIODS, THROTTLED_PERIODS, WAIT_TIME},
    otlp::Exports,
    root_test,
    truth::{Schedstat, Tolerance, cpus},
};
use serde_json::json;

/// How long loads spin: 24 enforcement periods of 100 ms.
const SPINS: Duration = Duration::from_millis(2400);

/// Waiting, and the part of it that the kernel counts itself: 1 %; the floor is what the last moments of a task add.
const SHARE: Tolerance = Tolerance::new(0.01, 0.002);

/// False, with a line on standard error, where no cgroup can be limited.
fn can_limit(test: &str) -> Result<bool> {
    has_controllers(test, &["cpu"])
}

/// A cgroup whose children can be limited, and two of them.
fn family() -> Result<(Cgroup, Cgroup, Cgroup)> {
    let parent = Cgroup::new("limits")?;
    parent.delegate("cpu")?;
    let (limited, free) = (parent.child("limited")?, parent.child("free")?);
    limited.limit_cpu(20 * MS, 100 * MS)?;
    Ok((parent, limited, free))
}

/// Starts a spinner that shares one CPU with all others of these tests.
fn spin(cgroup: &Cgroup) -> Result<Process> {
    Load::spin(SPINS).on_cpu(cpus() - 1).start(cgroup)
}

fn wait_s(tasks: &[Schedstat]) -> f64 {
    tasks.iter().map(|task| task.wait_ns).sum::<u64>() as f64 / 1e9
}

/// What was exported last: throttled, in contention, in s.
fn causes(exports: &Exports, cgroup: &Cgroup) -> Result<(f64, f64)> {
    let cause = |cause| exports.value(cgroup.path(), WAIT_TIME, &[("cause", cause)]).context("no wait time by cause");
    Ok((cause("throttled")?, cause("contention")?))
}

/// Compares both causes of a cgroup with the kernel's accounts; returns them.
fn check_causes(exports: &Exports, cgroup: &Cgroup, tasks: &[Schedstat]) -> Result<(f64, f64)> {
    let (throttled, contention) = causes(exports, cgroup)?;
    let truth = cgroup.cpu_stat()?.throttled_usec.context("no throttled_usec")? as f64 / 1e6;
    SHARE.check("throttled, against cpu.stat", throttled, truth)?;
    SHARE.check("both causes, against the tasks' waiting", throttled + contention, wait_s(tasks))?;
    Ok((throttled, contention))
}

root_test! {
    fn the_wait_of_a_spinner_at_its_limit_is_throttled_and_next_to_nothing_is_contention() {
        if !can_limit(TEST)? {
            return Ok(());
        }
        let agent = Agent::start(json!({}))?;
        let (_parent, limited, _free) = family()?;
        let tasks = [spin(&limited)?.wait()?];
        let before = limited.cpu_stat()?;
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        let after = limited.cpu_stat()?;
        let (throttled, contention) = check_causes(&exports, &limited, &tasks)?;
        ensure!(throttled > 1.2, "one fifth of a CPU was allowed, but throttled for only {throttled} s");
        // The agent and the kernel's threads want the CPU too, and take long where it is emulated on a busy machine. That both
        // causes are what the kernel counts was checked above.
        let others = if is_emulated() { 0.25 } else { 0.05 };
        ensure!(contention < others * wait_s(&tasks), "{contention} s of contention beside {throttled} s of throttling");
        // Periods go on for a moment without the spinner.
        let periods = (PERIODS, before.nr_periods, after.nr_periods);
        for (metric, before, after) in [periods, (THROTTLED_PERIODS, before.nr_throttled, after.nr_throttled)] {
            let measured = exports.value(limited.path(), metric, &[]).with_context(|| format!("no {metric}"))?;
            let truth = before.context("not in cpu.stat")? as f64..=after.context("not in cpu.stat")? as f64;
            ensure!(truth.contains(&measured), "{metric}: {measured}, in cpu.stat {truth:?}");
        }
        Ok(())
    }
}

root_test! {
    fn the_wait_of_two_spinners_on_one_cpu_without_a_limit_is_contention() {
        if !can_limit(TEST)? {
            return Ok(());
        }
        let agent = Agent::start(json!({}))?;
        let (_parent, _limited, free) = family()?;
        let both = [spin(&free)?, spin(&free)?];
        let tasks = both.into_iter().map(Process::wait).collect::<Result<Vec<_>>>()?;
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        let (throttled, contention) = check_causes(&exports, &free, &tasks)?;
        ensure!(throttled == 0.0, "throttled for {throttled} s without a limit");
        ensure!(contention > 2.0, "two on one CPU for 2.4 s waited for only {contention} s");
        Ok(())
    }
}

root_test! {
    fn a_limited_spinner_beside_an_unlimited_one_waits_for_both_causes() {
        if !can_limit(TEST)? {
            return Ok(());
        }
        let agent = Agent::start(json!({}))?;
        let (_parent, limited, free) = family()?;
        let both = [spin(&limited)?, spin(&free)?];
        let [in_limited, in_free] = both.map(Process::wait);
        let (in_limited, in_free) = ([in_limited?], [in_free?]);
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        let (throttled, contention) = check_causes(&exports, &limited, &in_limited)?;
        ensure!(throttled > 0.8 && contention > 0.2, "throttled for {throttled} s, in contention for {contention} s: proves nothing");
        let (throttled, contention) = check_causes(&exports, &free, &in_free)?;
        ensure!(throttled == 0.0 && contention > 0.2, "the free one: throttled for {throttled} s, in contention for {contention} s");
        Ok(())
    }
}

root_test! {
    fn of_two_spinners_in_one_held_back_queue_the_queues_time_is_throttled_and_the_rest_of_their_wait_is_contention() {
        if !can_limit(TEST)? {
            return Ok(());
        }
        let agent = Agent::start(json!({}))?;
        let (_parent, limited, _free) = family()?;
        let both = [spin(&limited)?, spin(&limited)?];
        let tasks = both.into_iter().map(Process::wait).collect::<Result<Vec<_>>>()?;
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        let (throttled, contention) = check_causes(&exports, &limited, &tasks)?;
        ensure!(throttled > 1.2, "one fifth of a CPU was allowed, but throttled for only {throttled} s");
        // While the queue is held back one of them waits beyond the queue's time, and while it is not, one waits for the other.
        ensure!(contention > 0.8 * throttled, "throttled for {throttled} s, but only {contention} s of contention");
        Ok(())
    }
}
