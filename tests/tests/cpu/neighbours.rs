//! Who made whom wait: spinners that share a CPU, and one that has another to itself.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    MS, SECOND,
    agent::Agent,
    cgroup::{Cgroup, has_controllers},
    load::Load,
    metric::{CONTENDED, CPU_TIME, NEIGHBOUR_WAIT, WAIT_TIME},
    otlp::Exports,
    root_test,
    truth::{NEARLY_EXACT, cpus, last_cpu},
};
use serde_json::json;

/// What lies in waits of less than a millisecond, and behind more than 16 short stretches of others, is not seen: so much less is allowed
/// on a busy machine. On a quiet one it was 2 % less.
const LEAST: f64 = 0.5;

const SPINS: Duration = Duration::from_secs(4);

fn waited_for(exports: &Exports, waited: &Cgroup, ran: &str) -> Option<f64> {
    exports.value(waited.path(), NEIGHBOUR_WAIT, &[("neighbour", ran)])
}

/// Each of the two on one CPU waits for the other as long as that has run, and nobody for the third.
fn check(exports: &Exports, sharing: [(&Cgroup, u64); 2], elsewhere: &Cgroup) -> Result<()> {
    let [one, other] = sharing;
    for ((waited, _), (ran, ran_ns)) in [(one, other), (other, one)] {
        let measured = waited_for(exports, waited, ran.path()).context("it waited, and the neighbour is not named")?;
        // Whenever one runs, the other waits: both want this CPU all the time.
        let truth = ran_ns as f64 / 1e9;
        ensure!(measured >= truth * LEAST && measured <= truth * 1.05 + 0.01, "waited {measured} s, the neighbour ran {truth} s");
        let wait = exports.value(waited.path(), WAIT_TIME, &[("cause", "contention")]).context("no wait")?;
        ensure!(measured <= wait * 1.01 + 0.01, "{measured} s of {wait} s of contention");
        let contended = exports.value(ran.path(), CONTENDED, &[]).context("it ran while another waited")?;
        let ran_s = exports.value(ran.path(), CPU_TIME, &[]).context("no CPU time")?;
        ensure!(contended <= ran_s * 1.01, "contended for {contended} s of {ran_s} s");
        ensure!(contended >= ran_s * 0.4, "contended for {contended} s of {ran_s} s, and another waited all the time");
        for (waited, ran) in [(waited, elsewhere), (elsewhere, waited)] {
            let waited_s = waited_for(exports, waited, ran.path());
            ensure!(waited_s.is_none(), "{} waited {waited_s:?} s for {}, which has another CPU", waited.path(), ran.path());
        }
    }
    Ok(())
}

root_test! {
    fn a_cgroup_that_waits_names_the_one_that_has_its_cpu_and_not_one_elsewhere() {
        if cpus() < 2 {
            eprintln!("SKIPPED {TEST}: needs two CPUs");
            return Ok(());
        }
        let agent = Agent::start(json!({}))?;
        let (one, other, elsewhere) = (Cgroup::new("one")?, Cgroup::new("other")?, Cgroup::new("elsewhere")?);
        let shared = last_cpu()?;
        let spin = |cgroup: &Cgroup, cpu| Load::spin(SPINS).on_cpu(cpu).start(cgroup);
        let loads = [spin(&one, shared)?, spin(&other, shared)?, spin(&elsewhere, 0)?];
        let [one_ran, other_ran, elsewhere_ran] = loads.map(|load| load.wait());
        let (one_ran, other_ran, elsewhere_ran) = (one_ran?, other_ran?, elsewhere_ran?);
        ensure!(elsewhere_ran.on_cpu_ns > 0, "the third has not run");
        agent.catch_up()?;

        agent.look(|exports| check(exports, [(&one, one_ran.on_cpu_ns), (&other, other_ran.on_cpu_ns)], &elsewhere))
    }
}

root_test! {
    fn nobody_is_named_for_the_time_in_which_a_limit_holds_a_cgroup_back() {
        if !has_controllers(TEST, &["cpu"])? {
            return Ok(());
        }
        let agent = Agent::start(json!({}))?;
        let parent = Cgroup::new("throttled")?;
        parent.delegate("cpu")?;
        let (limited, free) = (parent.child("limited")?, parent.child("free")?);
        limited.limit_cpu(10 * MS, 100 * MS)?;
        let cpu = last_cpu()?;
        let loads = [Load::spin(4 * SECOND).on_cpu(cpu).start(&limited)?, Load::spin(4 * SECOND).on_cpu(cpu).start(&free)?];
        for load in loads {
            load.wait()?;
        }
        thread::sleep(200 * MS);
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        let cause = |cause| exports.value(limited.path(), WAIT_TIME, &[("cause", cause)]);
        let throttled = cause("throttled").context("no throttled wait")?;
        ensure!(throttled > 1.0, "throttled for {throttled} s only: this would prove nothing");
        let waited = waited_for(&exports, &limited, free.path()).unwrap_or(0.0);
        let contention = cause("contention").context("no contention")?;
        ensure!(
            waited <= contention + 0.1,
            "{waited} s for the neighbour, of {contention} s in contention and {throttled} s for its own limit"
        );
        Ok(())
    }
}

root_test! {
    /// Before Linux 5.12 a load through a null pointer is a page fault, which takes the lock that these tasks hold: in a program of
    /// `sched_switch`, with the run queue locked, that stops the kernel.
    fn tasks_that_change_their_address_space_while_others_wait_for_their_cpu_go_on() {
        let agent = Agent::start(json!({}))?;
        let (changing, waiting) = (Cgroup::new("changing")?, Cgroup::new("waiting")?);
        // So that whoever is switched in has waited for long.
        let spinners = (0..cpus()).map(|cpu| Load::spin(SPINS).on_cpu(cpu).start(&waiting)).collect::<Result<Vec<_>>>()?;
        let changes = [Load::remap(SPINS).start(&changing)?, Load::remap(SPINS).start(&changing)?];
        for load in changes.into_iter().chain(spinners) {
            load.wait()?;
        }
        let truth = [changing.cpu_stat()?, waiting.cpu_stat()?].map(|stat| stat.usage_seconds());
        agent.catch_up()?;
        agent.look(|exports| {
            for (cgroup, truth) in [&changing, &waiting].into_iter().zip(truth) {
                let measured = exports.value(cgroup.path(), CPU_TIME, &[]).context("it has no CPU time")?;
                NEARLY_EXACT.check("CPU time", measured, truth)?;
            }
            Ok(())
        })
    }
}
