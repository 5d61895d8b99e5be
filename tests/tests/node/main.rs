//! The node signal against `/proc` and `sysinfo`, read by the test before and after the agent's reading.

mod file_systems;
mod interfaces;

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result, ensure};
use nix::sys::sysinfo::sysinfo;
use podmeter_tests::{agent::Agent, root_test};
use serde_json::{Value as Json, json};

/// An agent with this signal and no other.
fn agent(mut config: Json) -> Result<Agent> {
    let off = ["cpu", "memory", "pressure", "network", "dns", "tcp", "drops", "disk"];
    config["signals"] = off.map(|signal| (signal.to_owned(), json!(false))).into_iter().collect();
    Agent::start(config)
}

fn text(file: &str) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("could not read {file}"))
}

/// A word of the line of `/proc/<file>` that begins with `key`, by its place after that.
fn word(file: &str, key: &str, place: usize) -> Result<f64> {
    let text = text(&format!("/proc/{file}"))?;
    let mut words =
        text.lines().map(|line| line.split_ascii_whitespace()).filter_map(|mut words| (words.next()? == key).then_some(words));
    let word = words.next().and_then(|mut words| words.nth(place)).with_context(|| format!("{file} has no {key}"))?;
    word.parse().with_context(|| format!("{file} has {word} as {key}"))
}

type Figures = BTreeMap<String, f64>;

/// Counters, by metric and value of the attribute: what is measured between two readings is between them.
fn counters() -> Result<Figures> {
    let mut figures = Figures::new();
    let mut add = |metric: &str, key: &str, value: &str, figure: f64| figures.insert(format!("{metric} {key} {value}"), figure);
    for (place, mode) in ["user", "nice", "system", "idle", "iowait"].into_iter().enumerate() {
        add("system.cpu.time", "cpu.mode", mode, word("stat", "cpu", place)? / 100.0);
    }
    add("system.cpu.time", "cpu.mode", "interrupt", (word("stat", "cpu", 5)? + word("stat", "cpu", 6)?) / 100.0);
    add("system.cpu.time", "cpu.mode", "steal", word("stat", "cpu", 7)? / 100.0);
    add("system.process.created", "", "", word("stat", "processes", 0)?);
    add("system.paging.operations", "system.paging.direction", "in", word("vmstat", "pswpin", 0)?);
    add("system.paging.operations", "system.paging.direction", "out", word("vmstat", "pswpout", 0)?);
    add("system.paging.faults", "system.paging.fault.type", "major", word("vmstat", "pgmajfault", 0)?);
    let up = text("/proc/uptime")?;
    add("system.uptime", "", "", up.split(' ').next().context("no uptime")?.parse()?);
    Ok(figures)
}

/// A metric, its attribute, its value, and by how much that may differ.
type Gauge = (&'static str, [&'static str; 2], f64, f64);

/// Gauges that stay, or nearly.
fn gauges() -> Result<Vec<Gauge>> {
    const KIB: f64 = 1024.0;
    // Other programs take and give back memory between two readings.
    const SOME_MEMORY: f64 = 512.0 * 1024.0 * 1024.0;
    let memory = |key: &str| Ok::<_, anyhow::Error>(word("meminfo", key, 0)? * KIB);
    let info = sysinfo().context("no sysinfo")?;
    ensure!(info.ram_total() as f64 == memory("MemTotal:")?, "sysinfo and meminfo differ");
    let least = |file| Ok::<f64, anyhow::Error>(text(file)?.trim().parse()?);
    let file_max = text("/proc/sys/fs/file-nr")?.split_whitespace().nth(2).context("no maximum")?.parse()?;
    let threads: f64 = least("/proc/sys/kernel/threads-max")?;
    let running = text("/proc/loadavg")?;
    let all = running.split_whitespace().nth(3).and_then(|word| word.split_once('/')).context("no threads")?.1.parse()?;
    Ok(vec![
        ("system.memory.limit", ["", ""], memory("MemTotal:")?, 0.0),
        ("system.memory.linux.available", ["", ""], memory("MemAvailable:")?, SOME_MEMORY),
        ("system.memory.linux.shared", ["", ""], memory("Shmem:")?, SOME_MEMORY),
        ("system.memory.usage", ["system.memory.state", "free"], memory("MemFree:")?, SOME_MEMORY),
        ("system.memory.usage", ["system.memory.state", "cached"], memory("Cached:")?, SOME_MEMORY),
        (
            "system.memory.linux.slab.usage",
            ["system.memory.linux.slab.state", "unreclaimable"],
            memory("SUnreclaim:")?,
            SOME_MEMORY,
        ),
        ("system.paging.usage", ["system.paging.state", "free"], memory("SwapFree:")?, SOME_MEMORY),
        ("podmeter.node.memory", ["kind", "anonymous"], memory("AnonPages:")?, SOME_MEMORY),
        ("podmeter.node.memory", ["kind", "page_tables"], memory("PageTables:")?, SOME_MEMORY),
        ("system.memory.linux.hugepages.limit", ["", ""], word("meminfo", "HugePages_Total:", 0)?, 0.0),
        ("podmeter.node.threads", ["", ""], all, 400.0),
        ("podmeter.node.threads.limit", ["", ""], threads.min(least("/proc/sys/kernel/pid_max")?), 0.0),
        ("podmeter.node.file_handles.limit", ["", ""], file_max, 0.0),
        ("system.cpu.load_average.1m", ["", ""], info.load_average().0, 1.0),
    ])
}

fn attributes<'a>(key: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    if key.is_empty() { Vec::new() } else { vec![(key, value)] }
}

root_test! {
    fn what_the_kernel_counts_of_the_node_is_between_two_readings_of_it() {
        let agent = agent(json!({}))?;
        let before = counters()?;
        agent.catch_up()?;
        let (measured, after) = (agent.look(|exports| {
            let figure = |name: &String| {
                let mut words = name.split(' ');
                let mut next = || words.next().unwrap_or_default();
                let (metric, key, value) = (next(), next(), next());
                exports.node_value(metric, &attributes(key, value)).with_context(|| format!("no {name}"))
            };
            before.keys().map(|name| Ok((name.clone(), figure(name)?))).collect::<Result<Figures>>()
        })?, counters()?);
        for (name, value) in measured {
            // Both files have hundredths of a second; idle and iowait are read while they go on, and may be counted back.
            let slack = if name.contains("idle") || name.contains("iowait") { 0.5 } else { 0.02 };
            let (least, most) = (before[&name] - slack, after[&name] + slack);
            ensure!((least..=most).contains(&value), "{name}: {value}, of {least} to {most}");
        }
        agent.stop().map(drop)
    }
}

root_test! {
    fn what_the_node_has_and_uses_is_as_the_kernel_says() {
        let agent = agent(json!({}))?;
        agent.catch_up()?;
        let expected = gauges()?;
        let cpus = text("/proc/stat")?.lines().filter(|line| line.starts_with("cpu")).count() - 1;
        agent.look(|exports| {
            for (metric, [key, value], figure, by) in &expected {
                let measured = exports.node_value(metric, &attributes(key, value)).with_context(|| format!("no {metric} {value}"))?;
                ensure!((measured - figure).abs() <= *by, "{metric} {value}: {measured}, the kernel says {figure}");
            }
            let of = |metric: &str| exports.node_value(metric, &[]).with_context(|| format!("no {metric}"));
            ensure!(of("system.cpu.logical.count")? == cpus as f64, "of {cpus} CPUs");
            ensure!(of("podmeter.node.file_handles")? > 0.0 && of("podmeter.node.clock.error")? >= 0.0, "nothing is open");
            let synchronized = of("podmeter.node.clock.synchronized")?;
            ensure!([0.0, 1.0].contains(&synchronized), "synchronized: {synchronized}");
            Ok(())
        })?;
        agent.stop().map(drop)
    }
}

root_test! {
    fn each_cpu_has_its_own_time_on_request() {
        let agent = agent(json!({"node": {"per_cpu": true}}))?;
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        let first = exports.node_value("system.cpu.time", &[("cpu.mode", "user"), ("cpu.logical_number", "0")]);
        ensure!(first.is_some_and(|first| first > 0.0), "CPU 0 has {first:?}");
        let all = exports.of_node().iter().filter(|point| &*point.metric == "system.cpu.time");
        ensure!(all.clone().count() > 0 && all.clone().all(|point| point.attributes.contains_key("cpu.logical_number")), "a sum too");
        Ok(())
    }
}
