//! What podmeter costs: measured, kept within `overhead.cpu` under a real load, and what was given up comes back after it.

use std::{net::Ipv4Addr, net::UdpSocket, time::Duration};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    SECOND,
    agent::Agent,
    cgroup::{Cgroup, inside},
    load::{self, Load, Process},
    metric::{
        BURST, CPU_TIME, DROPS, OVERHEAD, OVERHEAD_LIMIT, PROGRAM_RUNS, PROGRAM_SAMPLED, PROGRAM_TIME, SHED, SWITCHES, WAIT,
    },
    namespace::{Cable, FAR, Namespace, Resident},
    otlp::Exports,
    root_test,
    truth::{Tolerance, cpus},
};
use serde_json::json;

/// The steps in order. DNS names are one where the configuration wants them.
const STEPS: [&str; 5] = ["dns_names", "bursts", "histograms", "drops", "collections"];

/// All steps take five windows, and as many recoveries back.
const WITHIN: Duration = Duration::from_secs(90);

fn config(percent: &str) -> serde_json::Value {
    json!({"dns": {"top_names": 5}, "overhead": {"cpu": percent, "window": "3s", "recovery": "4s"}})
}

/// Which steps are taken.
fn taken(exports: &Exports) -> Vec<&'static str> {
    STEPS.into_iter().filter(|step| exports.node_value(SHED, &[("step", step)]) == Some(1.0)).collect()
}

/// Two tasks that switch as fast as they can on each CPU.
fn switch(cgroup: &Cgroup) -> Result<Vec<Process>> {
    let pair = |cpu| load::ping_pong(cgroup, cgroup, cpu, 2 * WITHIN);
    Ok((0..cpus()).map(pair).collect::<Result<Vec<_>>>()?.into_iter().flat_map(|(ping, pong)| [ping, pong]).collect())
}

/// Sends packets to a port that is closed.
fn drop_packets(from: &Cgroup, namespace: &Namespace, packets: u32) -> Result<()> {
    inside(from, || {
        namespace.run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("could not bind")?;
            for _ in 0..packets {
                socket.send_to(&[7; 500], (FAR, 9)).context("could not send")?;
                std::thread::sleep(Duration::from_micros(200));
            }
            Ok(())
        })
    })
}

/// When a metric of a cgroup was exported last, Unix time in ns.
fn last_ns(exports: &Exports, cgroup: &Cgroup, metric: &str) -> u64 {
    exports.of(cgroup.path()).iter().filter(|point| point.is_of(metric)).map(|point| point.time_unix_ns).max().unwrap_or(0)
}

root_test! {
    fn a_load_that_costs_more_than_the_limit_makes_the_agent_give_up_what_is_missed_least_and_it_comes_back_after_the_load() {
        let cable = Cable::new()?.without_ipv6()?;
        let (client, served) = (Cgroup::new("client")?, Cgroup::new("server")?);
        let _resident = Resident::new(&served, &cable.far)?;
        let busy = Cgroup::new("switching")?;
        let agent = Agent::start(config("5%"))?;
        ensure!(!agent.stderr().contains("not measuring"), "a signal is off, so not all steps are there");
        // Whom all in a namespace have in common is found out every second.
        agent.catch_up()?;
        agent.catch_up()?;
        drop_packets(&client, &cable.near, 20)?;
        agent.catch_up()?;
        agent.look(|exports| {
            let dropped = exports.value(served.path(), DROPS, &[]);
            ensure!(dropped == Some(20.0), "{dropped:?} packets dropped, not 20");
            ensure!(taken(exports).is_empty(), "without a load nothing is given up: {:?}", taken(exports));
            Ok(())
        })?;

        let load = switch(&busy)?;
        agent.wait_for("all steps", WITHIN, |exports| (taken(exports).len() == STEPS.len()).then_some(()))?;
        // None of these is counted, nor shown once drops are back.
        drop_packets(&client, &cable.near, 10)?;
        agent.catch_up()?;
        agent.look(|exports| {
            let now = last_ns(exports, &busy, CPU_TIME);
            for (cgroup, metric) in [(&busy, BURST), (&busy, WAIT), (&served, DROPS)] {
                let last = last_ns(exports, cgroup, metric);
                ensure!(last > 0 && last + 1_000_000_000 < now, "{metric} is still exported: at {last}, and it is {now}");
            }
            let times: Vec<u64> = exports.history(busy.path(), CPU_TIME).into_iter().map(|(ns, _)| ns).collect();
            let apart = times.windows(2).last().map_or(0, |pair| pair[1] - pair[0]);
            ensure!((1_700_000_000..2_600_000_000).contains(&apart), "collections are {apart} ns apart, not two seconds");
            check_price(exports)
        })?;
        let truth = load.into_iter().map(Process::kill).collect::<Result<Vec<_>>>()?.into_iter().map(|one| one.dispatches).sum::<u64>();

        agent.wait_for("no step taken", WITHIN, |exports| taken(exports).is_empty().then_some(()))?;
        agent.catch_up()?;
        drop_packets(&client, &cable.near, 30)?;
        // What bursts there are is of after the load.
        let truth = truth + Load::burn(SECOND / 2).start(&busy)?.wait()?.dispatches;
        agent.catch_up()?;
        let kernel_s = busy.cpu_stat()?.usage_seconds();
        agent.catch_up()?;
        let log = agent.stderr();
        let exports = agent.stop()?.exports;
        check_log(&log)?;
        Tolerance::new(0.0, 0.000_1).check("CPU time", exports.value(busy.path(), CPU_TIME, &[]).context("no CPU time")?, kernel_s)?;
        let switches = exports.value(busy.path(), SWITCHES, &[]).context("no switches")?;
        // A task that a kill ends is dispatched once more.
        Tolerance::new(0.000_01, 50.0).check("switches", switches, truth as f64)?;
        let waits = exports.histogram(busy.path(), WAIT).context("no waits")?;
        Tolerance::new(0.000_01, 50.0).check("waits, which were counted all the time", waits.count as f64, truth as f64)?;
        let burst = exports.histogram(busy.path(), BURST).context("no bursts")?;
        ensure!((0.04..0.8).contains(&(burst.sum / 10.0)) && burst.count < 600, "bursts are of before they came back: {burst:?}");
        let of_drops: Vec<_> = exports.of(served.path()).iter().filter(|point| &*point.metric == DROPS).collect();
        let (first, last) = (of_drops.first().context("no drops")?, of_drops.last().context("no drops")?);
        ensure!(last.number() == Some(30.0), "{:?} packets dropped since drops are back, not 30", last.number());
        ensure!(last.start_unix_ns > first.start_unix_ns, "the counter goes on, though it missed some");
        let begin = of_drops.iter().find(|point| point.start_unix_ns == last.start_unix_ns).context("no drops")?;
        ensure!(begin.number() == Some(0.0), "the new counter does not begin at 0: {begin:?}");
        Ok(())
    }
}

/// The metrics of the cost are there and fit together.
fn check_price(exports: &Exports) -> Result<()> {
    let of = |metric, attributes: &[(&str, &str)]| {
        exports.node_value(metric, attributes).with_context(|| format!("no {metric} {attributes:?}"))
    };
    let (agent, programs) = (of(OVERHEAD, &[("part", "agent")])?, of(OVERHEAD, &[("part", "programs")])?);
    let limit = of(OVERHEAD_LIMIT, &[])?;
    ensure!((limit - 0.05).abs() < 1e-9 && agent > 0.0 && agent + programs > limit, "{agent} and {programs} of at most {limit}");
    let on_switch: &[_] = &[("program", "cpu_on_switch")];
    let (time, runs, sampled) = (of(PROGRAM_TIME, on_switch)?, of(PROGRAM_RUNS, on_switch)?, of(PROGRAM_SAMPLED, &[])?);
    println!("cpu_on_switch: {:.0} ns a run, {:.0} runs a second", time / runs * 1e9, runs / sampled);
    println!("cost: agent {:.2} %, programs {:.2} % of one core", agent * 100.0, programs * 100.0);
    ensure!((1e-8..1e-5).contains(&(time / runs)), "a run takes {} s", time / runs);
    ensure!((time / sampled) < 1.0 && runs / sampled > 1000.0, "{runs} runs in {sampled} s");
    Ok(())
}

/// Each step is said when it is taken and when it is taken back, in order.
fn check_log(log: &str) -> Result<()> {
    let mut at = 0;
    let given_up = STEPS.iter().map(|step| format!("without=\"{step}\""));
    let again = STEPS.iter().rev().map(|step| format!("again=\"{step}\""));
    for line in given_up.chain(again) {
        let found =
            log[at..].find(&line).with_context(|| format!("the log does not have {line} after the one before:\n{log}"))?;
        at += found;
    }
    Ok(())
}

root_test! {
    fn with_the_limit_off_nothing_is_given_up_and_the_cost_is_still_exported() {
        let agent = Agent::start(config("off"))?;
        let within = Duration::from_secs(20);
        agent.wait_for("the cost", within, |exports| exports.node_value(OVERHEAD, &[("part", "programs")]))?;
        agent.wait_for("programs", within, |exports| exports.node_value(PROGRAM_RUNS, &[("program", "cpu_on_switch")]))?;
        let exports = agent.stop()?.exports;
        ensure!(exports.node_value(SHED, &[]).is_none() && exports.node_value(OVERHEAD_LIMIT, &[]).is_none(), "there is no limit");
        Ok(())
    }
}
