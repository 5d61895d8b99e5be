//! The harness itself: its loads and readings against `/proc/<pid>/schedstat` and `cpu.stat`, before the agent is measured with
//! them.

use std::{thread, time::Instant};

use anyhow::{Result, ensure};
use podmeter_tests::{
    MS,
    cgroup::Cgroup,
    is_emulated,
    load::{Load, RealtimeUnlimited, ping_pong},
    root_test,
    truth::{Schedstat, Tolerance, cpus, schedstat_of_threads},
};

root_test! {
    fn a_burning_load_uses_the_cpu_time_that_was_requested() {
        let cgroup = Cgroup::new("burn")?;
        let account = Load::burn(200 * MS).start(&cgroup)?.wait()?;
        // Fork and exit are part of what the cgroup used.
        Tolerance::new(0.0, 0.003).check("schedstat against what was requested", account.on_cpu_ns as f64 / 1e9, 0.2)?;
        let usage = cgroup.cpu_stat()?.usage_seconds();
        Tolerance::new(0.0, 0.0005).check("cpu.stat against schedstat", usage, account.on_cpu_ns as f64 / 1e9)
    }
}

root_test! {
    fn a_load_is_in_its_cgroup_from_its_first_instruction_to_its_end() {
        let cgroup = Cgroup::new("placed")?;
        let load = Load::sleep(5000 * MS).start(&cgroup)?;
        ensure!(cgroup.procs()? == [load.pid()], "{:?} is not the load {}", cgroup.procs()?, load.pid());
        ensure!(cgroup.populated()?);
        let account = load.kill()?;
        ensure!(account.dispatches >= 1, "a zombie's schedstat is lost: {account:?}");
        ensure!(!cgroup.populated()?);
        Ok(())
    }
}

root_test! {
    fn a_spinning_load_knows_the_cpu_time_of_each_window() {
        let cgroup = Cgroup::new("windows")?;
        let load = Load::spin(650 * MS).on_cpu(cpus() - 1).start(&cgroup)?;
        thread::sleep(700 * MS);
        let windows = load.cpu_by_window();
        let account = load.wait()?;
        ensure!((6..=8).contains(&windows.len()), "650 ms cannot fill {windows:?}");
        // An emulated CPU may be away between the readings of two clocks.
        let full = if is_emulated() { 105_000_000 } else { 100_500_000 };
        ensure!(windows.iter().all(|(_, ns)| *ns < full), "one CPU gave more than 1.0 in a window: {windows:?}");
        let sum: u64 = windows.iter().map(|(_, ns)| ns).sum();
        Tolerance::new(0.0, 0.002).check("sum of windows against schedstat", sum as f64 / 1e9, account.on_cpu_ns as f64 / 1e9)
    }
}

root_test! {
    fn a_duty_cycle_uses_its_share_in_every_period() {
        let cgroup = Cgroup::new("duty")?;
        let account = Load::duty_cycle(10 * MS, 50 * MS, 500 * MS).start(&cgroup)?.wait()?;
        let plan = if is_emulated() { 0.05 } else { 0.005 };
        Tolerance::new(0.0, plan).check("ten times 10 ms", account.on_cpu_ns as f64 / 1e9, 0.1)
    }
}

root_test! {
    fn waiting_loads_on_one_cpu_share_it_and_wait_for_the_rest() {
        let cgroup = Cgroup::new("waiting")?;
        let begin = Instant::now();
        let loads: Vec<_> = (0..3).map(|_| Load::spin(600 * MS).on_cpu(0).start(&cgroup)).collect::<Result<_>>()?;
        let sum: Schedstat = loads.into_iter().map(|load| load.wait()).collect::<Result<Vec<_>>>()?.into_iter().sum();
        // Three that are always runnable: what they did not run, they waited.
        let accounted = (sum.on_cpu_ns + sum.wait_ns) as f64 / 1e9;
        ensure!(accounted > 1.75, "three spinners of 600 ms account for {accounted} s: {sum:?}");
        ensure!(accounted < 3.0 * begin.elapsed().as_secs_f64() + 0.01, "{accounted} s is more than there was: {sum:?}");
        ensure!(sum.wait_ns > sum.on_cpu_ns, "three on one CPU wait at least twice what they run: {sum:?}");
        Ok(())
    }
}

root_test! {
    fn a_ping_pong_switches_twice_per_round() {
        let (a, b) = (Cgroup::new("ping")?, Cgroup::new("pong")?);
        let (ping, pong) = ping_pong(&a, &b, cpus() - 1, 300 * MS)?;
        thread::sleep(350 * MS);
        let rounds = ping.rounds();
        let sum = ping.wait()? + pong.wait()?;
        ensure!(rounds > 1000, "only {rounds} rounds in 300 ms");
        ensure!(sum.dispatches > 2 * rounds - 10, "{rounds} rounds with {sum:?}");
        Ok(())
    }
}

root_test! {
    fn a_dropped_cgroup_takes_its_processes_and_children_along() {
        let parent = Cgroup::new("dropped")?;
        let child = parent.child("inner")?;
        let load = Load::sleep(60_000 * MS).start(&child)?;
        // The child's own drop then comes last and finds nothing.
        let dir = parent.dir().to_owned();
        drop(parent);
        ensure!(!dir.exists(), "{} is still there", dir.display());
        let end = load.wait().expect_err("a killed load does not end well").to_string();
        ensure!(end.contains("SIGKILL"), "{end}");
        Ok(())
    }
}

root_test! {
    fn a_loads_threads_are_those_of_its_process() {
        let cgroup = Cgroup::new("threads")?;
        let load = Load::burn(20 * MS).start(&cgroup)?;
        let threads = schedstat_of_threads(load.pid())?;
        let account = load.wait()?;
        ensure!(threads.on_cpu_ns <= account.on_cpu_ns, "{threads:?} is more than {account:?}");
        Ok(())
    }
}

root_test! {
    fn bursts_that_begin_early_in_a_window_stay_inside_it() {
        let cgroup = Cgroup::new("bursts")?;
        let load = Load::duty_cycle(30 * MS, 300 * MS, 900 * MS).into_window(20 * MS).realtime().start(&cgroup)?;
        thread::sleep(950 * MS);
        let windows = load.cpu_by_window();
        let whole = windows.iter().filter(|(_, ns)| (29_500_000..32_000_000).contains(ns)).count();
        ensure!(whole >= 2, "bursts of 30 ms were cut: {windows:?}");
        load.wait().map(drop)
    }
}

root_test! {
    fn a_realtime_load_has_its_cpu_to_itself() {
        let limit = || std::fs::read_to_string("/proc/sys/kernel/sched_rt_runtime_us").unwrap_or_default();
        let before = limit();
        let cgroup = Cgroup::new("realtime")?;
        let unlimited = RealtimeUnlimited::new()?;
        let rival = Load::spin(700 * MS).on_cpu(cpus() - 1).start(&cgroup)?;
        let account = Load::spin(500 * MS).on_cpu(cpus() - 1).realtime().start(&cgroup)?.wait()?;
        drop(unlimited);
        rival.wait()?;
        ensure!(limit() == before, "the limit was {before} and is now {}", limit());
        // 6.12 and later keep 5 % for the others when those starve for a second.
        Tolerance::new(0.0, 0.06).check("realtime CPU time", account.on_cpu_ns as f64 / 1e9, 0.5)
    }
}
