//! Burst windows of 100 ms, against what a load read from its own CPU clock.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    libc,
    sys::{
        ptrace,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use podmeter_tests::{
    MS, SECOND,
    agent::{Agent, unix_ns},
    cgroup::Cgroup,
    is_emulated,
    load::{Load, RealtimeUnlimited},
    metric::{BURST, CPU_TIME, CPU_USAGE, WINDOWS_LOST},
    patience, root_test,
    truth::{EXACT, TICK, Tolerance, cpus},
};
use serde_json::json;

use super::{catch_up_with_windows, check_cpu_time};

/// A new cgroup that the agent knows of: what runs before that is in no window.
fn known_cgroup(agent: &Agent, name: &str) -> Result<Cgroup> {
    let cgroup = Cgroup::new(name)?;
    agent.catch_up()?;
    Ok(cgroup)
}

root_test! {
    fn a_task_that_never_lets_go_of_its_cpu_reads_one_cpu_in_every_window_and_the_right_total_at_any_moment() {
        let agent = Agent::start(json!({}))?;
        let cgroup = known_cgroup(&agent, "spinner")?;
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
        catch_up_with_windows(&agent)?;
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
        // An emulated CPU's ticks come late now and then: the agent and the load then cut a burst at different moments, some of
        // the longest among them.
        let (rarest, apart) = if is_emulated() { (10, 0.1) } else { (100, 0.03) };
        let (low, high) = burst.quantile_bounds(1.0 - 1.0 / rarest as f64).context("the burst histogram is empty")?;
        let mut used: Vec<u64> = windows.iter().map(|(_, ns)| *ns).collect();
        used.sort_unstable_by_key(|ns| std::cmp::Reverse(*ns));
        let known = *used.get(burst.count as usize / rarest).context("hardly a burst")? as f64 / 1e8;
        ensure!(
            low * (1.0 - apart) < known && known < high * (1.0 + apart),
            "the rarest of {rarest} bursts is in ({low}, {high}], the load knows of {known}: {burst:?}, {windows:?}"
        );
        ensure!(burst.quantile_bounds(0.5) == Some((0.0, 0.0)), "two of three windows are idle: {burst:?}");
        let busy = burst.count - burst.zero_count;
        let known = windows.len() as u64;
        // It was forked and has ended in windows of their own, and a burst that begins or ends near an edge leaves some µs in the
        // next window. An emulated CPU takes longer to fork, and by its late ticks a part of a burst is laid into the next
        // window.
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
                let info = ptrace::syscall_info(collector).context("could not read the system call")?;
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
        let others = ["memory", "pressure", "network", "dns", "tcp", "drops", "disk"].map(|signal| (signal.to_owned(), false.into()));
        let agent = Agent::start(json!({"signals": serde_json::Map::from_iter(others)}))?;
        let cgroup = known_cgroup(&agent, "late")?;
        let unlimited = RealtimeUnlimited::new()?;
        let load = Load::spin(6 * SECOND).on_cpu(0).realtime().start(&cgroup)?;
        let held_up = hold_up(&agent, 250 * MS, Instant::now() + 6 * SECOND)?;
        let truth = load.wait()?;
        drop(unlimited);
        ensure!(held_up >= 4, "the agent was held up {held_up} times: this would prove nothing");
        catch_up_with_windows(&agent)?;
        let exports = agent.stop()?.exports;
        let burst = exports.histogram(cgroup.path(), BURST).context("no burst histogram")?;
        let lost = exports.node_value(WINDOWS_LOST, &[]).with_context(|| format!("no {WINDOWS_LOST}"))?;
        println!("held up {held_up} times, {lost} windows lost, {burst:?}");
        ensure!(lost == 0.0, "{lost} windows were lost: {burst:?}");
        let share = if is_emulated() { 0.03 } else { 0.01 };
        Tolerance::new(share, 0.01).check("CPU time in the burst windows", burst.sum * 0.1, truth.on_cpu_ns as f64 / 1e9)
    }
}
