//! What the kernel keeps of cgroups, against their files; and that no such file is opened, against the kernel's own notices of opens
//! (inotify).

use std::thread;

use anyhow::{Context as _, Result, ensure};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use podmeter_tests::{
    MS, SECOND,
    agent::Agent,
    cgroup::{Cgroup, has_controller, has_controllers},
    load::{Load, Memory},
    metric::{CPU_LIMIT, CPU_TIME, MEMORY_LIMIT, MEMORY_REQUEST, MEMORY_USAGE, PERIODS, PRESSURE, THROTTLED_PERIODS},
    root_test,
    truth::Tolerance,
};
use serde_json::json;

/// Cgroups whose files are watched.
const WATCHED: usize = 50;

/// Whether this kernel can be walked; reports the test as skipped when not.
fn can_walk(test: &str) -> Result<bool> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let can = !release.starts_with("5.");
    if !can {
        eprintln!("SKIPPED {test}: needs a walk over cgroups, which Linux has from 6.1 on and not {}", release.trim());
    }
    Ok(can)
}

/// Lets the children of a cgroup have the controllers that there are.
fn delegate(parent: &Cgroup) -> Result<()> {
    for controller in ["cpu", "memory", "io"] {
        if has_controller(controller)? {
            parent.delegate(controller)?;
        }
    }
    Ok(())
}

/// How many files of the cgroups are opened during three collections, when each has been collected twice before.
fn opened(leave_out: &str) -> Result<usize> {
    let parent = Cgroup::new("opened")?;
    delegate(&parent)?;
    let cgroups = (0..WATCHED).map(|n| parent.child(&format!("c{n}"))).collect::<Result<Vec<_>>>()?;
    let agent = Agent::start(json!({"bpf": {"leave_out": leave_out}}))?;
    agent.catch_up()?;
    agent.catch_up()?;
    let opens = Inotify::init(InitFlags::IN_NONBLOCK).context("no inotify")?;
    for cgroup in &cgroups {
        opens.add_watch(cgroup.dir(), AddWatchFlags::IN_OPEN).context("could not watch a cgroup")?;
    }
    for _ in 0..3 {
        agent.catch_up()?;
    }
    let mut seen = Vec::new();
    while let Ok(events) = opens.read_events() {
        seen.extend(events.into_iter().filter_map(|event| event.name));
    }
    // A cgroup that is not measured has no file opened either.
    let has = |c: &&Cgroup| agent.look(|exports| exports.value(c.path(), CPU_TIME, &[]).is_some());
    ensure!(cgroups.iter().filter(has).count() == WATCHED, "not all cgroups are exported");
    if has_controller("memory")? {
        let has = |c: &&Cgroup| agent.look(|exports| exports.value(c.path(), MEMORY_USAGE, &[]).is_some());
        ensure!(cgroups.iter().filter(has).count() == WATCHED, "not all cgroups have their memory");
    }
    agent.stop()?;
    drop(cgroups);
    println!("{} opens, the first of {:?}", seen.len(), seen.first());
    Ok(seen.len())
}

root_test! {
    fn a_collection_opens_no_file_of_any_cgroup() {
        if !can_walk(TEST)? {
            return Ok(());
        }
        let walked = opened("")?;
        ensure!(walked == 0, "{walked} opens");
        // That is how many there are when files are read: the notices would have shown them.
        let in_files = opened("walk_on_cgroup")?;
        ensure!(in_files >= WATCHED, "only {in_files} opens where files are read");
        Ok(())
    }
}

root_test! {
    fn limits_throttling_and_pressure_are_what_the_files_say() {
        if !has_controllers(TEST, &["cpu", "memory"])? {
            return Ok(());
        }
        let parent = Cgroup::new("kept")?;
        delegate(&parent)?;
        let (limited, high, idle, plain) =
            (parent.child("limited")?, parent.child("high")?, parent.child("idle")?, parent.child("plain")?);
        // Before the agent: a walk is compared with these.
        limited.limit_cpu(25 * MS, 100 * MS)?;
        limited.weigh_cpu(39)?;
        limited.write("memory.min", "4194304")?;
        limited.write("memory.max", "67108864")?;
        high.limit_cpu(7 * MS, 20 * MS)?;
        high.write("memory.low", "8192")?;
        high.write("memory.high", "134217728")?;
        // Since 5.15.
        let _ = idle.write("cpu.idle", "1");
        let agent = Agent::start(json!({}))?;
        let spinners = [Load::spin(2 * SECOND).on_cpu(0).start(&limited)?, Load::spin(2 * SECOND).on_cpu(0).start(&high)?];
        let holder = Load::hold(Memory::Anonymous, 8 << 20, 60 * SECOND).start(&plain)?;
        for spinner in spinners {
            spinner.wait()?;
        }
        holder.kill()?;
        // The kernel averages pressure every two seconds.
        thread::sleep(2500 * MS);
        agent.catch_up()?;
        let value = |c: &Cgroup, metric: &str| agent.look(|exports| exports.value(c.path(), metric, &[]));
        for cgroup in [&limited, &high, &idle, &plain] {
            let text = cgroup.read("cpu.max")?;
            let quota = text.trim().split_once(' ').context("no period")?;
            let cores = quota.0.parse::<f64>().ok().zip(quota.1.parse::<f64>().ok()).map(|(quota, period)| quota / period);
            let request = cgroup.number("memory.min").filter(|n| *n > 0).or(cgroup.number("memory.low")).filter(|n| *n > 0);
            let limit = cgroup.number("memory.max").or(cgroup.number("memory.high"));
            let stat = cgroup.cpu_stat()?;
            for (metric, truth) in [
                (CPU_LIMIT, cores),
                (MEMORY_REQUEST, request.map(|n| n as f64)),
                (MEMORY_LIMIT, limit.map(|n| n as f64)),
                (PERIODS, stat.nr_periods.map(|n| n as f64)),
                (THROTTLED_PERIODS, stat.nr_throttled.map(|n| n as f64)),
            ] {
                let measured = value(cgroup, metric);
                println!("{} {metric}: {measured:?}, {truth:?}", cgroup.path());
                ensure!(measured == truth, "{metric} of {}: {measured:?} is not {truth:?}", cgroup.path());
            }
            for resource in ["cpu", "memory", "io"] {
                for stall in ["some", "full"] {
                    let text = cgroup.read(&format!("{resource}.pressure")).unwrap_or_default();
                    let line = text.lines().find(|line| line.starts_with(stall));
                    let us = line.and_then(|line| line.rsplit_once("total=")?.1.trim().parse::<f64>().ok());
                    let key = [("resource", resource), ("stall", stall)];
                    match (agent.look(|exports| exports.value(cgroup.path(), PRESSURE, &key)), us) {
                        (Some(value), Some(us)) => Tolerance::new(0.001, 0.0005).check(&format!("{resource} {stall}"), value, us / 1e6)?,
                        (None, None) => {}
                        (value, us) => anyhow::bail!("{resource} {stall}: measured {value:?}, truth {us:?}"),
                    }
                }
            }
        }
        // Changed while it runs, as by a resize.
        limited.limit_cpu(150 * MS, 100 * MS)?;
        limited.write("memory.max", "33554432")?;
        high.write("memory.high", "max")?;
        // Where files are read, in every fourth collection.
        for _ in 0..5 {
            agent.catch_up()?;
        }
        let after = [value(&limited, CPU_LIMIT), value(&limited, MEMORY_LIMIT)];
        ensure!(after == [Some(1.5), Some(33_554_432.0)], "{after:?}");
        let log = agent.stderr();
        ensure!(!log.contains("read from the files of cgroups"), "{log}");
        agent.stop().map(drop)
    }
}
