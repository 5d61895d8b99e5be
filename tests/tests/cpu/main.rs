//! The cpu signal against the kernel's own accounts: `cpu.stat` of the cgroup and `/proc/<pid>/schedstat` of its tasks.

mod moved;
mod neighbours;
mod windows;

use std::{thread, time::Instant};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    MS, SECOND,
    agent::Agent,
    cgroup::Cgroup,
    is_emulated,
    load::{Load, Process},
    metric::{CPU_TIME, SWITCHES, UNATTRIBUTED, WAIT, WAIT_TIME},
    otlp::Exports,
    patience, root_test,
    truth::{EXACT, Schedstat, Tolerance, cpus},
};
use serde_json::json;

/// CPU time after tasks that may still have run while both sides were read.
const CLOSE: Tolerance = Tolerance::new(0.002, 0.005);

fn cpu_time(exports: &Exports, cgroup: &str) -> Result<f64> {
    exports.value(cgroup, CPU_TIME, &[]).with_context(|| format!("{cgroup} was never exported with {CPU_TIME}"))
}

/// Compares the last exported CPU time of a cgroup with its `cpu.stat`.
fn check_cpu_time(agent: &Agent, cgroup: &Cgroup, tolerance: Tolerance) -> Result<()> {
    let truth = cgroup.cpu_stat()?.usage_seconds();
    let measured = agent.look(|exports| cpu_time(exports, cgroup.path()))?;
    tolerance.check(&format!("CPU time of {}", cgroup.path()), measured, truth)
}

/// Waits for an export with the last windows of what has ended by now: they are closed when two more have ended.
fn catch_up_with_windows(agent: &Agent) -> Result<()> {
    thread::sleep(300 * MS);
    agent.catch_up()
}

fn wait_all(loads: Vec<Process>) -> Result<Schedstat> {
    Ok(loads.into_iter().map(Process::wait).collect::<Result<Vec<_>>>()?.into_iter().sum())
}

root_test! {
    fn cpu_time_and_waiting_of_tasks_that_migrate_equal_the_kernels_accounts() {
        let agent = Agent::start(json!({}))?;
        let cgroup = Cgroup::new("crowd")?;
        // Three times more than the CPUs can run, free to move, and some that come and go between them.
        let spinner = Load::spin(3 * SECOND);
        let sleeper = Load::duty_cycle(2 * MS, 11 * MS, 3 * SECOND);
        let loads = std::iter::repeat_n(spinner, 3 * cpus()).chain(std::iter::repeat_n(sleeper, 4));
        let truth = wait_all(loads.map(|load| load.start(&cgroup)).collect::<Result<_>>()?)?;
        agent.catch_up()?;

        check_cpu_time(&agent, &cgroup, CLOSE)?;
        let waited = truth.wait_ns as f64 / 1e9;
        ensure!(waited > 3.0, "the crowd has hardly waited ({waited} s): this would prove nothing");
        let ended = agent.stop()?;
        let measured = ended.exports.value(cgroup.path(), WAIT_TIME, &[]).context("no wait time")?;
        let share = Tolerance::new(0.01, 0.002);
        share.check("wait time, all causes", measured, waited)?;
        let waits = ended.exports.histogram(cgroup.path(), WAIT).context("no wait histogram")?;
        share.check("sum of the wait histogram", waits.sum, waited)?;
        let dispatches = Tolerance::new(0.02, 20.0);
        dispatches.check("waits in the histogram, one per dispatch", waits.count as f64, truth.dispatches as f64)?;
        let switches = ended.exports.value(cgroup.path(), SWITCHES, &[]).context("no switches")?;
        dispatches.check("switches", switches, truth.dispatches as f64)
    }
}

root_test! {
    fn what_many_cgroups_used_on_one_cpu_between_two_collections_is_all_in_the_second() {
        let agent = Agent::start(json!({}))?;
        // Several times what one run of the settling program flushes.
        let cgroups = if is_emulated() { 150 } else { 400 };
        let parent = Cgroup::new("many")?;
        let alive: Vec<Cgroup> = (0..cgroups).map(|n| parent.child(&format!("c{n}"))).collect::<Result<_>>()?;
        for cgroup in &alive {
            Load::burn(MS / 2).on_cpu(0).start(cgroup)?.wait()?;
        }
        agent.catch_up()?;
        alive.iter().try_for_each(|cgroup| check_cpu_time(&agent, cgroup, EXACT))
    }
}

root_test! {
    fn two_hundred_containers_that_live_50_ms_are_all_exported_with_their_exact_cpu_time() {
        let agent = Agent::start(json!({}))?;
        let parent = Cgroup::new("short-lived")?;
        let mut truths = Vec::new();
        for batch in 0..25 {
            let alive = (0..8).map(|n| {
                let cgroup = parent.child(&format!("c{batch}-{n}"))?;
                let load = Load::duty_cycle(5 * MS, 50 * MS, 50 * MS).start(&cgroup)?;
                Ok((cgroup, load))
            });
            for (cgroup, load) in alive.collect::<Result<Vec<_>>>()? {
                load.wait()?;
                truths.push((cgroup.path().to_owned(), cgroup.cpu_stat()?.usage_seconds()));
                cgroup.remove()?;
            }
        }
        // The last values of a dead cgroup come one or two intervals after its end, and are repeated at most once.
        (0..4).try_for_each(|_| agent.catch_up())?;
        let points = |exports: &Exports| truths.iter().map(|(path, _)| exports.of(path).len()).sum::<usize>();
        let at_end = agent.look(points);
        agent.catch_up()?;
        agent.catch_up()?;
        ensure!(agent.look(points) == at_end, "containers that are long gone are still exported");

        let exports = agent.stop()?.exports;
        let missing: Vec<_> = truths.iter().filter(|(path, _)| exports.of(path).is_empty()).collect();
        ensure!(missing.is_empty(), "{} of {} were never exported: {missing:?}", missing.len(), truths.len());
        for (path, truth) in &truths {
            EXACT.check(path, cpu_time(&exports, path)?, *truth)?;
        }
        Ok(())
    }
}

root_test! {
    fn of_five_thousand_cgroups_that_find_too_few_slots_no_cpu_time_is_lost() {
        // More at once than there are slots, however slow this machine is. On an emulated one a tenth is as much work.
        let (slots, at_once, found) = if is_emulated() { (128, 160, 100) } else { (1024, 1250, 900) };
        let agent = Agent::start(json!({"cgroups": {"slots": slots}}))?;
        let parent = Cgroup::new("flood")?;
        agent.catch_up()?;
        let unattributed = |exports: &Exports| exports.node_value(UNATTRIBUTED, &[]);
        let before = agent.look(unattributed).with_context(|| format!("no {UNATTRIBUTED}"))?;
        let mut paths = Vec::new();
        for batch in 0..4 {
            let mut alive = Vec::new();
            for n in 0..at_once {
                let cgroup = parent.child(&format!("c{batch}-{n}"))?;
                paths.push(cgroup.path().to_owned());
                Load::burn(MS / 2).start(&cgroup)?.wait()?;
                alive.push(cgroup);
            }
            alive.into_iter().try_for_each(Cgroup::remove)?;
        }
        agent.catch_up()?;
        agent.catch_up()?;
        let truth = parent.cpu_stat()?.usage_seconds();
        let exports = agent.stop()?.exports;
        let lost = unattributed(&exports).context("gone")? - before;
        let values: Vec<f64> = paths.iter().filter_map(|path| exports.value(path, CPU_TIME, &[])).collect();
        println!("{} of {} cgroups had a slot", values.len(), paths.len());
        ensure!(lost > 0.0, "more cgroups than slots, but nothing is unattributed");
        ensure!(values.len() >= found, "only {} cgroups were exported with {slots} slots", values.len());
        Tolerance::new(0.005, 0.005).check("cgroups with a slot + unattributed", values.iter().sum::<f64>() + lost, truth)
    }
}

root_test! {
    fn a_cgroup_that_is_older_than_the_agent_is_exported_with_its_whole_life() {
        let parent = Cgroup::new("older")?;
        let child = parent.child("child")?;
        let leaf = child.child("leaf")?;
        let running = parent.child("running")?;
        Load::burn(150 * MS).start(&child)?.wait()?;
        Load::burn(80 * MS).start(&leaf)?.wait()?;
        let spinner = Load::spin(20 * SECOND).start(&running)?;
        thread::sleep(200 * MS);

        let agent = Agent::start(json!({}))?;
        agent.catch_up()?;
        check_cpu_time(&agent, &child, EXACT)?;
        check_cpu_time(&agent, &leaf, EXACT)?;

        Load::burn(60 * MS).start(&leaf)?.wait()?;
        thread::sleep(SECOND);
        spinner.kill()?;
        agent.catch_up()?;
        check_cpu_time(&agent, &leaf, EXACT)?;
        check_cpu_time(&agent, &child, EXACT)?;
        // It ran while counting began: between the agent's readings of cpu.stat and its own counters.
        check_cpu_time(&agent, &running, CLOSE)?;
        check_cpu_time(&agent, &parent, CLOSE)?;
        agent.stop().map(drop)
    }
}

root_test! {
    fn a_cgroup_that_is_made_while_the_agent_starts_is_counted_once() {
        let parent = Cgroup::new("meanwhile")?;
        let agent = Agent::spawn(json!({}))?;
        let begin = Instant::now();
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        let mut first_after_start = None;
        for n in 0.. {
            let started = agent.look(|exports| exports.requests() > 0);
            if started && first_after_start.is_none() {
                first_after_start = Some(n);
            }
            if first_after_start.is_some_and(|first| n >= first + 20) {
                break;
            }
            ensure!(begin.elapsed() < patience(20 * SECOND), "the agent does not export:\n{}", agent.stderr());
            let cgroup = parent.child(&format!("c{n}"))?;
            Load::burn(2 * MS).start(&cgroup)?.wait()?;
            // As many as there are on a node, however long the agent takes to start.
            thread::sleep(patience(10 * MS));
            if n % 2 == 0 {
                kept.push(cgroup);
            } else {
                gone.push((n, cgroup.path().to_owned(), cgroup.cpu_stat()?.usage_seconds()));
                cgroup.remove()?;
            }
        }
        agent.catch_up()?;
        agent.catch_up()?;
        for cgroup in &kept {
            check_cpu_time(&agent, cgroup, EXACT)?;
        }
        check_cpu_time(&agent, &parent, CLOSE)?;
        let exports = agent.stop()?.exports;
        for (n, path, truth) in gone {
            // One that was gone before counting began cannot be known.
            let measured = exports.value(&path, CPU_TIME, &[]);
            ensure!(measured.is_some() || first_after_start.is_some_and(|first| n < first), "{path} was never exported");
            measured.map_or(Ok(()), |measured| EXACT.check(&path, measured, truth))?;
        }
        Ok(())
    }
}

root_test! {
    fn a_parents_total_keeps_what_its_removed_children_used() {
        let agent = Agent::start(json!({}))?;
        let parent = Cgroup::new("nested")?;
        let middle = parent.child("middle")?;
        for n in 0..5 {
            let child = middle.child(&format!("child{n}"))?;
            Load::burn(20 * MS).start(&child)?.wait()?;
            child.remove()?;
        }
        agent.catch_up()?;
        agent.catch_up()?;
        check_cpu_time(&agent, &parent, Tolerance::new(0.002, 0.0005))?;
        check_cpu_time(&agent, &middle, Tolerance::new(0.002, 0.0005))?;

        let last = middle.child("last")?;
        Load::burn(30 * MS).start(&last)?.wait()?;
        last.remove()?;
        middle.remove()?;
        agent.catch_up()?;
        agent.catch_up()?;
        check_cpu_time(&agent, &parent, Tolerance::new(0.002, 0.0005))?;
        agent.stop().map(drop)
    }
}
