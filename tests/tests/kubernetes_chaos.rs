//! A thousand pods that come and go in any order while the API server reports them late: CPU time and names against `cpu.stat`
//! and the pods that the test made. No use is lost or exported twice.

use std::{
    collections::{BTreeMap, HashMap},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    MS,
    agent::Agent,
    is_emulated,
    kubernetes::{ApiOptions, ApiServer, Cluster, Container, Driver, Pod, RunningPod, exported::number, objects::container_id},
    load::Load,
    metric::CPU_TIME,
    otlp::{Attributes, Exports},
    root_test,
    truth::{EXACT, Tolerance},
};
use serde_json::json;

/// A pod that lives, and its end.
struct Alive {
    running: RunningPod,
    ends: Instant,
}

/// A container that has ended, and what it used by `cpu.stat`.
struct Gone {
    pod: Pod,
    path: String,
    seconds: f64,
}

/// Numbers that look random, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        // Knuth's multiplier; the high bits are good.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Makes a pod, has it compute for a moment, and reports it to the API before, during or after.
fn make(cluster: &Cluster, dice: &mut Dice, number: usize) -> Result<Alive> {
    let id = container_id();
    let mut pod = Pod::new(&format!("chaos-{}", number % 50), vec![Container::new("app", "")]);
    pod.phase = "Pending";
    let reported = dice.below(3);
    if reported > 0 {
        cluster.server.set_pod(&pod);
    }
    let cgroup = cluster.kubelet.pod(&pod.uid)?;
    let container = cgroup.container(&id)?;
    Load::burn(MS * (1 + dice.below(4) as u32)).start(&container)?.wait()?;
    pod.containers = vec![Container::new("app", &id)];
    pod.phase = "Running";
    if reported > 1 {
        cluster.server.set_pod(&pod);
    }
    Ok(Alive { running: RunningPod { container, cgroup, pod }, ends: Instant::now() + MS * dice.below(2500) as u32 })
}

/// Removes a pod: its cgroup first or its object first.
fn end(server: &ApiServer, dice: &mut Dice, alive: Alive) -> Result<Gone> {
    let RunningPod { container, cgroup, mut pod } = alive.running;
    let gone = Gone { path: container.path().to_owned(), seconds: container.cpu_stat()?.usage_seconds(), pod: pod.clone() };
    let finish = |pod: &mut Pod| {
        pod.succeed();
        server.set_pod(pod);
        server.delete_pod(pod);
    };
    let first = dice.below(2) == 0;
    if first {
        finish(&mut pod);
    }
    container.remove()?;
    drop(cgroup);
    if !first {
        finish(&mut pod);
    }
    Ok(gone)
}

root_test! {
    fn the_sum_of_all_that_was_exported_of_a_thousand_pods_is_what_they_used() {
        let (pods, at_once) = if is_emulated() { (60, 10) } else { (1000, 100) };
        let cluster = Cluster::new(Driver::Systemd, ApiOptions { delay: Duration::from_secs(5), ..ApiOptions::default() })?;
        // Three cgroups a pod, a hundred pods a second, each slot kept for seconds after its cgroup's end.
        let mut config = cluster.server.agent_config()?;
        config["cgroups"] = json!({"slots": 8192});
        let agent = Agent::start(config)?;
        let mut dice = Dice(42);
        let (mut alive, mut gone): (Vec<Alive>, Vec<Gone>) = (Vec::new(), Vec::new());
        let began = Instant::now();
        for number in 0..pods {
            alive.push(make(&cluster, &mut dice, number)?);
            let now = Instant::now();
            while let Some(next) = alive.iter().position(|alive| alive.ends <= now) {
                gone.push(end(&cluster.server, &mut dice, alive.swap_remove(next))?);
            }
            while alive.len() >= at_once {
                let next = dice.below(alive.len() as u64) as usize;
                gone.push(end(&cluster.server, &mut dice, alive.swap_remove(next))?);
            }
            // A watch breaks now and then.
            if number % 300 == 299 {
                cluster.server.close_watches(dice.below(2) == 0);
            }
        }
        while !alive.is_empty() {
            let next = dice.below(alive.len() as u64) as usize;
            gone.push(end(&cluster.server, &mut dice, alive.swap_remove(next))?);
        }
        println!("{pods} pods came and went in {:?}", began.elapsed());
        // Longer than an event may be late, and than final values wait for a name.
        thread::sleep(Duration::from_secs(16));
        (0..2).try_for_each(|_| agent.catch_up())?;
        let exports = agent.stop()?.exports;

        let (mut measured, mut truth, mut named, mut off) = (0.0, 0.0, 0, Vec::new());
        for Gone { pod, path, seconds } in &gone {
            // The last value of each series: what a backend adds up.
            let mut series: BTreeMap<_, f64> = BTreeMap::new();
            for point in exports.of(path).iter().filter(|point| point.is_of(CPU_TIME)) {
                series.insert(point.resource.clone(), number(point));
            }
            ensure!(series.len() == 1, "{path} was exported under {} names: {series:#?}", series.len());
            let (resource, value) = series.pop_first().context("a series")?;
            off.extend(EXACT.check_quietly(path, value, *seconds).err());
            ensure!(resource.get("k8s.pod.uid") == Some(&pod.uid), "{path} has the UID of another pod: {resource:?}");
            if let Some(name) = resource.get("k8s.container.name") {
                ensure!(name == "app" && resource.get("k8s.pod.name") == Some(&pod.name), "{resource:?} is not of {}", pod.name);
                named += 1;
            }
            measured += value;
            truth += seconds;
        }
        Tolerance::new(0.001, 0.0).check("CPU time of all pods", measured, truth)?;
        ensure!(off.is_empty(), "{} of {} pods are off: {off:?}", off.len(), gone.len());
        ensure!(named == gone.len(), "{} of {} were exported without a name", gone.len() - named, gone.len());
        let lives: HashMap<_, usize> = gone.iter().fold(HashMap::new(), |mut lives, gone| {
            *lives.entry(gone.pod.uid.clone()).or_default() += 1;
            lives
        });
        ensure!(lives.len() == pods, "{} pods of {pods}", lives.len());
        Ok(())
    }
}

/// Up to how many series the namespace of the test may have.
const SERIES: usize = 400;

/// What a back end makes of a counter of the pods in `shop`: the sum of its increases, in the pods' own series and in sums of pods.
fn increase(exports: &Exports, metric: &str) -> f64 {
    let mut by_series: HashMap<(&Attributes, &Attributes), Vec<(u64, f64)>> = HashMap::new();
    let is_counted = |resource: &Attributes| {
        let kind = resource.get("podmeter.workload.kind").map(String::as_str);
        matches!(kind, Some("Pod" | "Workload" | "Namespace"))
            && resource.get("k8s.namespace.name").is_some_and(|name| name == "shop")
    };
    for point in exports.points().filter(|point| point.is_of(metric) && is_counted(&point.resource)) {
        by_series.entry((&point.resource, &point.attributes)).or_default().push((point.time_unix_ns, number(point)));
    }
    let of_series = by_series.into_values().map(|mut points| {
        points.sort_by_key(|(time, _)| *time);
        points.windows(2).map(|pair| if pair[1].1 >= pair[0].1 { pair[1].1 - pair[0].1 } else { pair[1].1 }).sum::<f64>()
    });
    of_series.sum()
}

root_test! {
    fn more_pods_than_the_budget_holds_stay_within_it_and_no_sum_changes() {
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        let mut config = cluster.server.agent_config()?;
        config["budget"] = json!({"namespaces": {"shop": SERIES}});
        let agent = Agent::start(config)?;
        let mut pods: Vec<RunningPod> = Vec::new();
        // A few that have series of their own, then as many as have not.
        for (count, folded) in [(4, false), (30, true)] {
            for _ in 0..count {
                let running = cluster.run(&format!("web-{}", pods.len()))?;
                Load::burn(20 * MS).start(&running.container)?.wait()?;
                pods.push(running);
            }
            agent.wait_for("all are exported, folded or not", Duration::from_secs(20), |exports| {
                let truth: f64 = pods.iter().filter_map(|pod| Some(pod.cgroup.cgroup().cpu_stat().ok()?.usage_seconds())).sum();
                let step = exports.of_node().iter().rfind(|point| &*point.metric == "podmeter.agent.series.step").is_some();
                (step == folded && increase(exports, CPU_TIME) > truth * 0.998).then_some(())
            })?;
            // The ones that were folded work on.
            for running in &pods {
                Load::burn(10 * MS).start(&running.container)?.wait()?;
            }
        }
        // Some end: what they used stays in the sum.
        let mut truth = 0.0;
        for running in pods.drain(..10) {
            truth += running.cgroup.cgroup().cpu_stat()?.usage_seconds();
            cluster.server.delete_pod(&running.pod);
        }
        for running in &pods {
            truth += running.cgroup.cgroup().cpu_stat()?.usage_seconds();
        }
        let exports = agent.stop()?.exports;
        exports.check_that_counters_only_grow()?;
        EXACT.check("CPU time of all pods, in their own series and in sums", increase(&exports, CPU_TIME), truth)?;
        let newest: Vec<_> = exports.points().filter(|point| {
            point.time_unix_ns == exports.latest_unix_ns() && point.resource.get("k8s.namespace.name").is_some_and(|name| name == "shop")
        }).collect();
        ensure!(!newest.is_empty() && newest.len() <= SERIES, "{} series in the last export", newest.len());
        let counted = exports.of_node().iter().filter(|point| &*point.metric == "podmeter.agent.series.namespace");
        let most = counted.map(number).fold(0.0, f64::max);
        ensure!(most > 0.0 && most <= SERIES as f64, "{most} series");
        println!("{} series of {} pods in the last export, {most} at most", newest.len(), pods.len());
        Ok(())
    }
}
