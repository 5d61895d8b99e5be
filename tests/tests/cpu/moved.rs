//! Running tasks that are moved between cgroups, against `cpu.stat` of each.

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
    sched::{CpuSet, sched_setaffinity},
    unistd::{Pid, gettid},
};
use podmeter_tests::{
    MS, SECOND,
    agent::Agent,
    cgroup::{self, Cgroup},
    is_emulated,
    load::{Load, RealtimeUnlimited, realtime},
    metric::BURST,
    otlp::Exports,
    patience, root_test,
    truth::{EXACT, Tolerance, cpus},
};
use serde_json::json;

use super::{CLOSE, catch_up_with_windows, check_cpu_time};

/// CPU time of a cgroup between which and others running tasks were moved so often, where the cpu controller is the same for all
/// of them.
///
/// The kernel changes a task's cgroup some µs before its tracepoint. A tick in between charges what was used since the one before
/// to where the task comes into. An emulated CPU may be away for tens of ms right there, and between two ticks.
fn moved(times: u32) -> Tolerance {
    if is_emulated() { Tolerance::new(0.002, 0.05 * f64::from(times)) } else { CLOSE }
}

root_test! {
    fn a_running_task_that_is_moved_leaves_what_it_has_used_with_the_cgroup_it_was_in() {
        let agent = Agent::start(json!({}))?;
        // Where the cpu controller is on, the kernel brings a task's accounts up to date in the midst of a move, and charges what
        // was used since the last tick to where the task comes into. In this parent it is not.
        let parent = Cgroup::new("moves")?;
        let (here, there) = (parent.child("here")?, parent.child("there")?);
        // On an emulated CPU the kernel keeps its 50 ms of each second for others. Without those a move there may take as long as the load:
        // it waits for threads of RCU, which wait for that CPU.
        let unlimited = if is_emulated() { None } else { Some(RealtimeUnlimited::new()?) };
        let load = Load::spin(20 * SECOND).on_cpu(cpus() - 1).realtime().start(&here)?;
        // Once in the midst of a long stretch, as a whole; then several times between two reads of the agent.
        thread::sleep(440 * MS);
        there.attach(load.pid())?;
        thread::sleep(470 * MS);
        for n in 0..8 {
            (if n % 2 == 0 { &here } else { &there }).attach(load.pid())?;
            thread::sleep(if n % 2 == 0 { 40 * MS } else { 170 * MS });
        }
        let truth = load.kill()?;
        drop(unlimited);
        catch_up_with_windows(&agent)?;
        println!("the spinner was dispatched {} times", truth.dispatches);
        for cgroup in [&here, &there] {
            check_cpu_time(&agent, cgroup, moved(9))?;
        }
        check_cpu_time(&agent, &parent, EXACT)?;
        // Where a stretch that is settled ended is known to a tick, which an emulated CPU may take late.
        let tolerance = Tolerance::new(0.01, if is_emulated() { 0.2 } else { 0.02 });
        let used = truth.on_cpu_ns as f64 / 1e9;
        let windows = |exports: &Exports| -> f64 {
            let of = |cgroup: &Cgroup| exports.histogram(cgroup.path(), BURST).map_or(0.0, |burst| burst.sum * 0.1);
            of(&here) + of(&there)
        };
        // A busy machine closes them later; what never comes shows below.
        let all = |exports: &Exports| tolerance.check_quietly("windows so far", windows(exports), used).ok();
        let _ = agent.wait_for("the last windows", Duration::from_secs(10), all);
        tolerance.check("CPU time in the burst windows of both", windows(&agent.stop()?.exports), used)
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
        let home = Home::now()?;
        let own = std::process::id() as i32;
        let done = AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            let (sender, receiver) = mpsc::channel();
            for cpu in 0..cpus() {
                let (sender, done) = (sender.clone(), &done);
                scope.spawn(move || {
                    let mut only = CpuSet::new();
                    let pinned = only.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &only));
                    // So that it does not let go of its CPU but for those 50 ms. The first is left to the thread that moves them.
                    let ready = pinned.map_err(anyhow::Error::from).and_then(|()| if cpu > 0 { realtime(gettid()) } else { Ok(()) });
                    let _ = sender.send(ready.map(|()| (cpu, gettid().to_string())));
                    while !done.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            drop(sender);
            let threads = receiver.iter().take(cpus()).collect::<Result<Vec<_>>>();
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
        agent.catch_up()?;
        for cgroup in [&here, &there] {
            check_cpu_time(&agent, cgroup, moved(5))?;
        }
        agent.stop().map(drop)
    }
}
