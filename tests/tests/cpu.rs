//! The cpu signal against the kernel's own accounts: `cpu.stat` of the cgroup and `/proc/<pid>/schedstat` of its tasks.

use std::{
    fs,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    libc,
    sched::{CpuSet, sched_setaffinity},
    sys::{
        ptrace,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, gettid},
};
use podmeter_tests::{
    MS, SECOND,
    agent::{Agent, unix_ns},
    cgroup::{self, Cgroup},
    is_emulated,
    load::{Load, Process, RealtimeUnlimited, realtime},
    metric::{BURST, CPU_TIME, CPU_USAGE, SWITCHES, UNATTRIBUTED, WAIT, WAIT_TIME, WINDOWS_LOST},
    otlp::Exports,
    patience, root_test,
    truth::{EXACT, Schedstat, TICK, Tolerance, cpus},
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
    fn a_task_that_never_lets_go_of_its_cpu_reads_one_cpu_in_every_window_and_the_right_total_at_any_moment() {
        let agent = Agent::start(json!({}))?;
        let cgroup = Cgroup::new("spinner")?;
        let unlimited = RealtimeUnlimited::new()?;
        let begin = Instant::now();
        let load = Load::spin(4200 * MS).on_cpu(cpus() - 1).realtime().start(&cgroup)?;
        let mut samples = Vec::new();
        while begin.elapsed() < 4100 * MS {
            let before = unix_ns();
            samples.push((before, cgroup.cpu_stat()?.usage_seconds(), unix_ns()));
            thread::sleep(3 * MS);
        }
        thread::sleep(150 * MS);
        let windows = load.cpu_by_window();
        let truth = load.wait()?;
        drop(unlimited);
        println!("the spinner was dispatched {} times", truth.dispatches);
        agent.catch_up()?;
        check_cpu_time(&agent, &cgroup, EXACT)?;
        let exports = agent.stop()?.exports;

        // The kernel brings cpu.stat of a running task up to date once per tick, and an export's time is that of its begin. An
        // emulated CPU's ticks come late: what it runs is then known up to an older moment.
        let slack = TICK.as_secs_f64() + patience(5 * MS).as_secs_f64();
        let mut compared = 0;
        for (time, value) in exports.history(cgroup.path(), CPU_TIME) {
            let before = samples.iter().rfind(|(_, _, after)| *after <= time);
            let after = samples.iter().find(|(before, _, _)| *before >= time);
            let (Some((_, low, _)), Some((_, high, _))) = (before, after) else { continue };
            ensure!(
                (low - slack..=high + slack).contains(&value),
                "exported {value} s when cpu.stat went from {low} to {high} s"
            );
            compared += 1;
        }
        ensure!(compared >= 3, "only {compared} exports in 4 s at an interval of 1 s");

        // What the spinner read from its own CPU clock decides how many windows were full: the machine may have taken some time.
        let interior = &windows[1..windows.len() - 1];
        let at_least = |share: f64| interior.iter().filter(|(_, ns)| *ns as f64 >= share * 1e8).count() as u64;
        ensure!(at_least(0.93) >= 25, "the spinner had too little of its CPU: {windows:?}");
        let burst = exports.histogram(cgroup.path(), BURST).context("no burst histogram")?;
        let full = burst.buckets.get(&-1).copied().unwrap_or(0);
        // Bucket -1 is (0.917, 1.0]; the first and the last window may be full too.
        // Where a stretch of a running task ended is known by its CPU's ticks. An emulated CPU may be away for several: it then
        // looks as if one window had less and the next had more, of which what does not fit is dropped.
        let (missed, lost) = if is_emulated() { (6, 0.03) } else { (0, 0.01) };
        ensure!(
            (at_least(0.93) - missed..=at_least(0.90) + 2 + missed).contains(&full),
            "{full} windows of 1.0 CPU in {burst:?}, the spinner knows of {windows:?}"
        );
        let above = burst.buckets.range(0..).map(|(_, n)| n).sum::<u64>();
        ensure!(above == 0, "{above} windows with more than the one CPU it was pinned to: {burst:?}");
        Tolerance::new(lost, 0.01).check("CPU time in the burst windows", burst.sum * 0.1, truth.on_cpu_ns as f64 / 1e9)
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
    fn a_burst_of_30_ms_every_300_ms_shows_in_the_histogram_though_the_average_hides_it() {
        let agent = Agent::start(json!({"interval": "3s"}))?;
        let cgroup = Cgroup::new("bursts")?;
        // The whole burst inside one window: begun 20 ms into it, with 50 ms to spare.
        let begin = unix_ns();
        let load = Load::duty_cycle(30 * MS, 300 * MS, 9900 * MS).into_window(20 * MS).realtime().start(&cgroup)?;
        thread::sleep(9850 * MS);
        let windows = load.cpu_by_window();
        let end = unix_ns();
        load.wait()?;
        agent.catch_up()?;
        let exports = agent.stop()?.exports;

        // Emulated CPUs are now and then late to notice that 30 ms are over.
        let (longest, least) = if is_emulated() { (60_000_000, 25) } else { (32_000_000, 30) };
        let whole = windows.iter().filter(|(_, ns)| (29_500_000..longest).contains(ns)).count();
        ensure!(whole >= least, "the machine was too busy for bursts of 30 ms: {windows:?}");
        let burst = exports.histogram(cgroup.path(), BURST).context("no burst histogram")?;
        // An emulated CPU's ticks come late now and then: the agent and the load then cut a burst at different moments, some of the
        // longest among them.
        let rarest = if is_emulated() { 10 } else { 100 };
        let (low, high) = burst.quantile_bounds(1.0 - 1.0 / rarest as f64).context("the burst histogram is empty")?;
        let mut used: Vec<u64> = windows.iter().map(|(_, ns)| *ns).collect();
        used.sort_unstable_by_key(|ns| std::cmp::Reverse(*ns));
        let known = *used.get(burst.count as usize / rarest).context("hardly a burst")? as f64 / 1e8;
        ensure!(
            low * 0.97 < known && known < high * 1.03,
            "the rarest of {rarest} bursts is in ({low}, {high}], the load knows of {known}: {burst:?}, {windows:?}"
        );
        ensure!(burst.quantile_bounds(0.5) == Some((0.0, 0.0)), "two of three windows are idle: {burst:?}");
        let busy = burst.count - burst.zero_count;
        let known = windows.len() as u64;
        // It was forked and has ended in windows of their own, and a burst that begins or ends near an edge leaves some µs in the
        // next window. An emulated CPU takes longer to fork, and by its late ticks a part of a burst is laid into the next window.
        let others = if is_emulated() { known / 2 } else { 4 };
        ensure!((known..=known + others).contains(&busy), "{busy} busy windows, the load knows of {windows:?}");

        // Gauges whose whole interval lies in the run: ten bursts, one more or less.
        let history = exports.history(cgroup.path(), CPU_USAGE);
        let inside = history.iter().filter(|(time, _)| *time > begin + 3_000_000_000 && *time < end);
        let usages: Vec<f64> = inside.map(|(_, usage)| *usage).collect();
        ensure!(!usages.is_empty(), "no export in 10 s at an interval of 3 s");
        let plan = if is_emulated() { 0.05 } else { 0.012 };
        usages.iter().try_for_each(|usage| Tolerance::new(0.0, plan).check("average over 3 s", *usage, 0.1))
    }
}

root_test! {
    fn of_five_thousand_cgroups_that_find_too_few_slots_no_cpu_time_is_lost() {
        // More at once than there are slots, however slow this machine is. Of an emulated one a tenth asks as much.
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

/// CPU time of a cgroup between which and others running tasks were moved so often, where the cpu controller is the same for all of them.
///
/// The kernel changes a task's cgroup some µs before its tracepoint. A tick in between charges what was used since the one before to where
/// the task comes into. An emulated CPU may be away for tens of ms right there, and between two ticks.
fn moved(times: u32) -> Tolerance {
    if is_emulated() { Tolerance::new(0.002, 0.05 * f64::from(times)) } else { CLOSE }
}

root_test! {
    fn a_running_task_that_is_moved_leaves_what_it_has_used_with_the_cgroup_it_was_in() {
        let agent = Agent::start(json!({}))?;
        // Where the cpu controller is on, the kernel brings a task's accounts up to date in the midst of a move, and charges what was used
        // since the last tick to where the task comes into. In this parent it is not.
        let parent = Cgroup::new("moves")?;
        let (here, there) = (parent.child("here")?, parent.child("there")?);
        let unlimited = RealtimeUnlimited::new()?;
        let load = Load::spin(20 * SECOND).on_cpu(cpus() - 1).realtime().start(&here)?;
        // Once in the midst of a long stretch, as a whole; then several times between two looks of the agent.
        thread::sleep(440 * MS);
        there.attach(load.pid())?;
        thread::sleep(470 * MS);
        for n in 0..8 {
            (if n % 2 == 0 { &here } else { &there }).attach(load.pid())?;
            thread::sleep(if n % 2 == 0 { 40 * MS } else { 170 * MS });
        }
        let truth = load.kill()?;
        drop(unlimited);
        // Its last windows are closed 300 ms after it has ended.
        (0..2).try_for_each(|_| agent.catch_up())?;
        println!("the spinner was dispatched {} times", truth.dispatches);
        for cgroup in [&here, &there] {
            check_cpu_time(&agent, cgroup, moved(9))?;
        }
        check_cpu_time(&agent, &parent, EXACT)?;
        let exports = agent.stop()?.exports;
        let mut windows = 0.0;
        for cgroup in [&here, &there] {
            windows += exports.histogram(cgroup.path(), BURST).context("no burst histogram")?.sum * 0.1;
        }
        Tolerance::new(0.01, 0.02).check("CPU time in the burst windows of both", windows, truth.on_cpu_ns as f64 / 1e9)
    }
}

/// The cgroup that this process was in, to which it goes back when this value is dropped.
struct Home(std::path::PathBuf);

impl Home {
    fn now() -> Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").context("could not read /proc/self/cgroup")?;
        let path = own.lines().find_map(|line| line.strip_prefix("0::/")).context("this process is in no cgroup2")?;
        Ok(Self(cgroup::mount_point()?.join(path).join("cgroup.procs")))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.0, std::process::id().to_string()) {
            eprintln!("could not go back to {}: {error}", self.0.display());
        }
    }
}

/// Waits until a cgroup has used so many more seconds of CPU time.
fn wait_for_use(cgroup: &Cgroup, seconds: f64) -> Result<()> {
    let (begin, before) = (Instant::now(), cgroup.cpu_stat()?.usage_seconds());
    while cgroup.cpu_stat()?.usage_seconds() < before + seconds {
        ensure!(begin.elapsed() < patience(20 * SECOND), "{} does not use {seconds} s of CPU time", cgroup.path());
        thread::sleep(5 * MS);
    }
    Ok(())
}

root_test! {
    fn running_threads_that_are_moved_one_by_one_or_with_their_process_leave_what_they_have_used() {
        let agent = Agent::start(json!({}))?;
        let parent = Cgroup::new("process")?;
        let (here, there, start) = (parent.child("here")?, parent.child("there")?, parent.child("start")?);
        // Threads of one process may be in all of them. No cpu controller changes between them: see above.
        [&here, &there, &start].into_iter().try_for_each(|cgroup| cgroup.write("cgroup.type", "threaded"))?;
        let unlimited = RealtimeUnlimited::new()?;
        let home = Home::now()?;
        let own = std::process::id() as i32;
        let done = AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            let (tell, told) = mpsc::channel();
            for cpu in 0..cpus() {
                let (tell, done) = (tell.clone(), &done);
                scope.spawn(move || {
                    let mut only = CpuSet::new();
                    let pinned = only.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &only));
                    // So that it does not let go of its CPU. The first is left to the thread that moves them.
                    let ready = pinned.map_err(anyhow::Error::from).and_then(|()| if cpu > 0 { realtime(gettid()) } else { Ok(()) });
                    let _ = tell.send(ready.map(|()| (cpu, gettid().to_string())));
                    while !done.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            drop(tell);
            let threads = told.iter().take(cpus()).collect::<Result<Vec<_>>>();
            let moved = threads.and_then(|threads| {
                let (_, thread) = threads.into_iter().max().context("no thread")?;
                start.attach(own)?;
                wait_for_use(&start, 0.05)?;
                here.attach(own)?;
                wait_for_use(&here, 0.15)?;
                there.write("cgroup.threads", &thread)?;
                wait_for_use(&there, 0.15)?;
                there.attach(own)?;
                wait_for_use(&there, 0.15)?;
                here.write("cgroup.threads", &thread)?;
                wait_for_use(&here, 0.15)?;
                start.attach(own)?;
                wait_for_use(&start, 0.05)
            });
            drop(home);
            done.store(true, Ordering::Relaxed);
            moved
        })?;
        drop(unlimited);
        agent.catch_up()?;
        for cgroup in [&here, &there] {
            check_cpu_time(&agent, cgroup, moved(5))?;
        }
        agent.stop().map(drop)
    }
}

/// Holds up the agent's collector for `delay` after each time it has run a program of its own on a CPU, until `until`.
fn hold_up(agent: &Agent, delay: Duration, until: Instant) -> Result<u32> {
    // `BPF_PROG_TEST_RUN` of linux/bpf.h.
    const TEST_RUN: u64 = 10;
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid())).context("could not list the agent's threads")?;
    let collects =
        |task: &fs::DirEntry| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "collector");
    let collector = tasks.flatten().find(collects).context("the agent has no thread named collector")?.file_name();
    let collector = Pid::from_raw(collector.to_string_lossy().parse().context("no thread id")?);
    let stopped = || waitpid(collector, Some(WaitPidFlag::__WALL)).context("could not wait for the collector");
    ptrace::seize(collector, ptrace::Options::PTRACE_O_TRACESYSGOOD).context("could not trace the collector")?;
    ptrace::interrupt(collector).context("could not stop the collector")?;
    let (mut held_up, mut entered) = (0, 0);
    loop {
        let mut signal = None;
        match stopped()? {
            WaitStatus::PtraceSyscall(_) => {
                let info = ptrace::syscall_info(collector).context("could not ask for the system call")?;
                if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
                    // SAFETY: what is of an entry.
                    let entry = unsafe { info.u.entry };
                    entered = if entry.nr == libc::SYS_bpf as u64 { entry.args[0] } else { 0 };
                } else if entered == TEST_RUN {
                    thread::sleep(delay);
                    held_up += 1;
                }
            }
            WaitStatus::Stopped(_, other) => signal = Some(other),
            WaitStatus::PtraceEvent(..) => {}
            other => anyhow::bail!("the collector has ended: {other:?}"),
        }
        if Instant::now() >= until {
            break;
        }
        ptrace::syscall(collector, signal).context("could not let the collector go on")?;
    }
    ptrace::detach(collector, None).context("could not let go of the collector")?;
    Ok(held_up)
}

root_test! {
    fn windows_are_whole_where_the_agent_is_late_between_one_cpu_and_the_next() {
        // Each system call of a process that is traced takes long: it makes as few as can be.
        let others = ["memory", "pressure", "network", "dns", "tcp", "drops"].map(|signal| (signal.to_owned(), false.into()));
        let agent = Agent::start(json!({"signals": serde_json::Map::from_iter(others)}))?;
        let cgroup = Cgroup::new("late")?;
        let unlimited = RealtimeUnlimited::new()?;
        let load = Load::spin(6 * SECOND).on_cpu(0).realtime().start(&cgroup)?;
        let held_up = hold_up(&agent, 250 * MS, Instant::now() + 6 * SECOND)?;
        let truth = load.wait()?;
        drop(unlimited);
        ensure!(held_up >= 4, "the agent was held up {held_up} times: this would prove nothing");
        // Its last windows are closed 300 ms after it has ended.
        (0..2).try_for_each(|_| agent.catch_up())?;
        let exports = agent.stop()?.exports;
        let burst = exports.histogram(cgroup.path(), BURST).context("no burst histogram")?;
        let lost = exports.node_value(WINDOWS_LOST, &[]).with_context(|| format!("no {WINDOWS_LOST}"))?;
        println!("held up {held_up} times, {lost} windows lost, {burst:?}");
        ensure!(lost == 0.0, "{lost} windows were lost: {burst:?}");
        let share = if is_emulated() { 0.03 } else { 0.01 };
        Tolerance::new(share, 0.01).check("CPU time in the burst windows", burst.sum * 0.1, truth.on_cpu_ns as f64 / 1e9)
    }
}
