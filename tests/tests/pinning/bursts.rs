//! Burst histograms through agents that follow each other, of a load that never rests.

use std::thread;

use anyhow::{Context as _, ensure};
use podmeter_tests::{
    SECOND,
    agent::Agent,
    bpffs::BpfDir,
    cgroup::Cgroup,
    is_emulated,
    load::Load,
    metric::BURST,
    otlp::{Exports, Histogram, Point, Value},
    root_test,
};

use super::is_no_less;

/// The last histogram of a cgroup, and its start.
fn last(exports: &Exports, cgroup: &Cgroup) -> Option<(u64, Histogram)> {
    let of_bursts = |point: &&Point| &*point.metric == BURST;
    match exports.of(cgroup.path()).iter().rfind(of_bursts) {
        Some(Point { start_unix_ns, value: Value::Histogram(burst), .. }) => Some((*start_unix_ns, burst.clone())),
        _ => None,
    }
}

root_test! {
    fn bursts_of_a_spinner_go_on_over_a_kill_a_stop_and_an_upgrade_and_have_no_idle_window_of_the_time_between() {
        let bpf = BpfDir::new()?;
        let agent = Agent::start(bpf.config())?;
        let cgroup = Cgroup::new("spinner")?;
        let load = Load::spin(120 * SECOND).start(&cgroup)?;
        thread::sleep(2 * SECOND);
        agent.catch_up()?;
        let mut known = last(&agent.kill()?, &cgroup).context("no bursts")?;
        let first = known.clone();
        let mut watched = 0;
        for n in 0..3 {
            // Nobody watches these.
            thread::sleep(SECOND);
            let agent = if n < 2 { Agent::start(bpf.config())? } else { Agent::start_of_another_version(bpf.config())? };
            let begun = agent.wait_for("bursts", 10 * SECOND, |exports| last(exports, &cgroup))?;
            thread::sleep(2 * SECOND);
            agent.catch_up()?;
            let now = agent.look(|exports| last(exports, &cgroup)).context("no bursts")?;
            let exports = if n == 0 { agent.kill()? } else { agent.stop()?.exports };
            exports.check_that_counters_only_grow()?;
            ensure!(begun.0 == first.0 && now.0 == first.0, "the start has moved: {} to {}, {}", first.0, begun.0, now.0);
            is_no_less(&known.1, &begun.1)?;
            is_no_less(&begun.1, &now.1)?;
            let more = now.1.since(&begun.1);
            ensure!(more.count >= 15, "only {} windows were watched in two seconds: {more:?}", more.count);
            watched += more.count;
            known = last(&exports, &cgroup).context("no bursts")?;
        }
        let used = load.cpu_by_window();
        load.kill()?;
        let all = known.1.since(&first.1);
        println!("{:?}, then {all:?}, of which {watched} were counted at leisure", first.1);
        // A busy machine may have kept the spinner from its CPU for a window; the time of an emulated CPU's ticks is not known so well.
        let (from, to) = used.first().zip(used.last()).map(|(first, last)| (first.0, last.0)).context("no windows")?;
        let rested = to - from + 1 - used.len() as u64;
        let idle = if is_emulated() { all.count / 4 } else { rested + 2 };
        ensure!(all.zero_count <= idle, "{} windows are idle, and the spinner rested in {rested}: {all:?}", all.zero_count);
        let busy = known.1.count - known.1.zero_count;
        ensure!(busy <= used.len() as u64 + 2, "{busy} busy windows, the spinner knows of {}", used.len());
        let truth = used.iter().map(|(_, ns)| *ns).sum::<u64>() as f64 / 1e8;
        ensure!(known.1.sum <= truth * 1.01 + 2.0, "{} windows' worth of CPU time of {truth}", known.1.sum);
        Ok(())
    }
}
