//! Memory, reclaim and pressure against the cgroup's own files and loads of known size.

mod kills;

use std::{fs::File, io::Write as _, thread};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    MS, SECOND,
    agent::{Agent, As, run},
    bench::{Effort, memory, report::table},
    cgroup::{Cgroup, has_controllers},
    load::{Load, Memory},
    metric::{
        FAULTS, MEMORY_AVAILABLE, MEMORY_PEAK, MEMORY_STATE, MEMORY_USAGE, NODE_MEMORY_USAGE, PRESSURE, RECLAIM, RECLAIM_TIME,
        RSS, UNRECLAIMABLE, WORKING_SET,
    },
    root_test,
    truth::Tolerance,
};
use serde_json::{Value as Json, json};

const MIB: usize = 1 << 20;

/// A page batch: what two CPUs charge in advance (64 pages each), and as much that they have not added to the statistics yet.
const BATCH: f64 = 4.0 * 64.0 * 4096.0;

/// Something to read whose page cache is charged to the reader: a guest's disk, else a file that is on disk.
fn disk(bytes: usize) -> Result<File> {
    if let Ok(disk) = File::open("/dev/vda") {
        return Ok(disk);
    }
    let mut file = tempfile::tempfile().context("could not make a file")?;
    file.write_all(&vec![1; bytes]).context("could not write a file")?;
    file.sync_all().context("could not write a file to disk")?;
    Ok(file)
}

/// Whether the memory controller is here; reports the test as skipped when not.
fn can_run(test: &str) -> Result<bool> {
    has_controllers(test, &["memory"])
}

/// A cgroup that has the memory controller, in one of its own.
fn container(name: &str) -> Result<(Cgroup, Cgroup)> {
    let pod = Cgroup::new(name)?;
    pod.delegate("memory")?;
    let container = pod.child("container")?;
    Ok((pod, container))
}

/// Compares what was exported of a cgroup whose memory rests with its files.
fn check_against_files(agent: &Agent, cgroup: &Cgroup) -> Result<()> {
    // The kernel brings statistics up to date every two seconds at the latest.
    thread::sleep(2500 * MS);
    agent.catch_up()?;
    let stat = |name: &str| cgroup.field("memory.stat", name).map(|n| n as f64);
    let value =
        |metric: &str, attributes: &[(&str, &str)]| agent.look(|exports| exports.value(cgroup.path(), metric, attributes));
    let near = Tolerance::new(0.0, BATCH);
    let usage = cgroup.number("memory.current").context("no memory.current")? as f64;
    let expected = [
        (MEMORY_USAGE, "", Some(usage)),
        (MEMORY_PEAK, "", cgroup.number("memory.peak").map(|n| n as f64)),
        (RSS, "", stat("anon")),
        (WORKING_SET, "", Some(usage - stat("inactive_file").context("no inactive_file")?)),
        (MEMORY_STATE, "file", stat("file")),
        (MEMORY_STATE, "shmem", stat("shmem")),
        (MEMORY_STATE, "kernel", stat("kernel")),
        (MEMORY_STATE, "slab_reclaimable", stat("slab_reclaimable")),
        (MEMORY_STATE, "slab_unreclaimable", stat("slab_unreclaimable")),
    ];
    for (metric, state, truth) in expected {
        let attributes: &[(&str, &str)] = if state.is_empty() { &[] } else { &[("state", state)] };
        let what = format!("{metric} {state}");
        match (value(metric, attributes), truth) {
            (Some(measured), Some(truth)) => near.check(&what, measured, truth)?,
            (None, None) => println!("{what}: not on this kernel"),
            (measured, truth) => anyhow::bail!("{what}: measured {measured:?}, truth {truth:?}"),
        }
    }
    let major = stat("pgmajfault").context("no pgmajfault")?;
    let minor = stat("pgfault").context("no pgfault")? - major;
    let faults = |kind| value(FAULTS, &[("system.paging.fault.type", kind)]).with_context(|| format!("no {kind} faults"));
    Tolerance::new(0.02, 256.0).check("minor faults", faults("minor")?, minor)?;
    Tolerance::new(0.02, 16.0).check("major faults", faults("major")?, major)
}

/// Loads of every kind in cgroups of their own, each against what is known of it and against the files.
fn check_every_kind(config: Json) -> Result<()> {
    let agent = Agent::start(config)?;
    let size = 24 * MIB;
    for (kind, memory) in [("anonymous", Memory::Anonymous), ("locked", Memory::Locked), ("shared", Memory::Shared)] {
        println!("-- {kind}");
        let (_pod, cgroup) = container(kind)?;
        cgroup.write("memory.max", &(256 * MIB).to_string())?;
        let load = Load::hold(memory, size, 60 * SECOND).start(&cgroup)?;
        load.wait_for_rounds(1, 10 * SECOND)?;
        check_against_files(&agent, &cgroup)?;
        let value = |metric, attributes: &[(&str, &str)]| {
            agent.look(|exports| exports.value(cgroup.path(), metric, attributes)).with_context(|| format!("no {metric}"))
        };
        // What the process itself needs beside it: page tables, its stack, copied pages.
        let known = Tolerance::new(0.0, 2.0 * MIB as f64);
        let holds = if memory == Memory::Shared { value(MEMORY_STATE, &[("state", "shmem")])? } else { value(RSS, &[])? };
        known.check("what was filled", holds, size as f64)?;
        let usage = value(MEMORY_USAGE, &[])?;
        known.check("usage", usage, size as f64)?;
        // The guests have no swap: nothing of it could be freed.
        known.check("unreclaimable", value(UNRECLAIMABLE, &[])?, size as f64)?;
        known.check("available", value(MEMORY_AVAILABLE, &[])?, (256 * MIB) as f64 - value(WORKING_SET, &[])?)?;
        load.kill()?;
    }
    println!("-- page cache");
    let (_pod, cgroup) = container("cache")?;
    let disk = disk(size)?;
    std::fs::write("/proc/sys/vm/drop_caches", "1").context("could not drop the page cache")?;
    let load = Load::read(&disk, size as u64, false, 60 * SECOND).start(&cgroup)?;
    load.wait_for_rounds(1, 20 * SECOND)?;
    check_against_files(&agent, &cgroup)?;
    let value = |metric| agent.look(|exports| exports.value(cgroup.path(), metric, &[])).with_context(|| format!("no {metric}"));
    ensure!(value(MEMORY_USAGE)? >= 0.95 * size as f64, "the page cache was not charged");
    ensure!(value(UNRECLAIMABLE)? <= 2.0 * MIB as f64, "page cache can be freed");
    ensure!(value(WORKING_SET)? <= 2.0 * MIB as f64, "no process has used that page cache twice");
    load.kill()?;
    agent.stop().map(drop)
}

root_test! {
    fn memory_of_every_kind_is_what_the_load_has_filled_and_the_files_say() {
        if can_run(TEST)? {
            check_every_kind(json!({}))?;
        }
        Ok(())
    }
}

root_test! {
    fn memory_of_every_kind_is_the_same_when_only_files_are_read() {
        if can_run(TEST)? {
            check_every_kind(json!({"bpf": {"leave_out": "walk_on_cgroup"}}))?;
        }
        Ok(())
    }
}

root_test! {
    fn memory_is_read_by_a_walk_where_this_kernel_has_one() {
        if !can_run(TEST)? {
            return Ok(());
        }
        // Something to compare a walk with.
        let (_pod, cgroup) = container("compared")?;
        let load = Load::hold(Memory::Anonymous, 8 * MIB, 60 * SECOND).start(&cgroup)?;
        load.wait_for_rounds(1, 10 * SECOND)?;
        let check = run(&["check", "--json"], As::Root, 20 * SECOND)?;
        let check: Json = serde_json::from_str(&check.stdout).context("no JSON")?;
        let signals = check["signals"].as_array().context("no signals")?;
        let memory = signals.iter().find(|signal| signal["name"] == "memory").context("no memory signal")?;
        println!("{memory}");
        ensure!(memory["on"] == true, "{memory}");
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        if release.starts_with("5.") {
            let note = memory["note"].as_str().context("files are read, and no reason is given")?;
            ensure!(note.contains("read from files: this kernel cannot walk over cgroups"), "{note}");
        } else {
            ensure!(memory["note"].is_null(), "{memory}");
        }
        load.kill().map(drop)
    }
}

root_test! {
    fn a_container_that_reads_more_than_its_limit_is_held_up_by_reclaim() {
        if !can_run(TEST)? {
            return Ok(());
        }
        let agent = Agent::start(json!({}))?;
        let (_pod, cgroup) = container("reclaimed")?;
        let (_other, quiet) = container("quiet")?;
        cgroup.write("memory.max", &(16 * MIB).to_string())?;
        let rest = Load::hold(Memory::Anonymous, MIB, 60 * SECOND).start(&quiet)?;
        let disk = disk(64 * MIB)?;
        let load = Load::read(&disk, 64 * MIB as u64, true, 3 * SECOND).start(&cgroup)?;
        load.wait()?;
        agent.catch_up()?;
        agent.catch_up()?;
        let time = |cgroup: &Cgroup, cause| agent.look(|exports| exports.value(cgroup.path(), RECLAIM_TIME, &[("cause", cause)]));
        let stalled = time(&cgroup, "cgroup").context("no reclaim")?;
        println!("{stalled} s in reclaim");
        ensure!(stalled > 0.005 && stalled < 30.0, "{stalled} s in reclaim");
        ensure!(time(&quiet, "cgroup").is_none(), "the other one was never at its limit");
        let histogram = agent.look(|exports| exports.histogram(cgroup.path(), RECLAIM).cloned()).context("no histogram")?;
        let all = stalled + time(&cgroup, "node").unwrap_or(0.0);
        Tolerance::new(0.001, 0.001).check("sum of the histogram", histogram.sum, all)?;
        // The kernel counts what it scanned for this cgroup, and each reclaim scans some pages at least.
        let scanned = cgroup.field("memory.stat", "pgscan").context("no pgscan")?;
        ensure!(scanned > 0 && histogram.count > 0 && histogram.count <= scanned, "{} of {scanned}", histogram.count);
        rest.kill()?;
        agent.stop().map(drop)
    }
}

root_test! {
    fn pressure_is_what_the_files_say_and_absent_where_the_kernel_has_none() {
        let agent = Agent::start(json!({}))?;
        let cgroup = Cgroup::new("pressed")?;
        let spinners: Vec<_> = (0..2).map(|_| Load::spin(2 * SECOND).on_cpu(0).start(&cgroup)).collect::<Result<_>>()?;
        for spinner in spinners {
            spinner.wait()?;
        }
        thread::sleep(2500 * MS);
        agent.catch_up()?;
        let mut compared = 0;
        for resource in ["cpu", "memory", "io"] {
            let text = cgroup.read(&format!("{resource}.pressure")).unwrap_or_default();
            for stall in ["some", "full"] {
                let line = text.lines().find(|line| line.starts_with(stall));
                let total = line.and_then(|line| line.rsplit_once("total=")?.1.trim().parse::<f64>().ok());
                let key = [("resource", resource), ("stall", stall)];
                let value = agent.look(|exports| exports.value(cgroup.path(), PRESSURE, &key));
                match (value, total) {
                    (Some(value), Some(us)) => {
                        Tolerance::new(0.001, 0.0005).check(&format!("{resource} {stall}"), value, us / 1e6)?;
                        compared += 1;
                    }
                    (None, None) => println!("{resource} {stall}: not on this kernel"),
                    (value, total) => anyhow::bail!("{resource} {stall}: measured {value:?}, truth {total:?}"),
                }
            }
        }
        println!("{compared} totals were compared");
        agent.stop().map(drop)
    }
}

root_test! {
    fn a_cgroup_without_the_memory_controller_has_no_memory_and_the_node_has() {
        let agent = Agent::start(json!({}))?;
        let pod = Cgroup::new("plain")?;
        let child = pod.child("child")?;
        let load = Load::hold(Memory::Anonymous, MIB, 60 * SECOND).start(&child)?;
        load.wait_for_rounds(1, 10 * SECOND)?;
        agent.catch_up()?;
        agent.catch_up()?;
        ensure!(child.number("memory.current").is_none(), "the child has a memory controller that was not delegated");
        let value = agent.look(|exports| exports.value(child.path(), MEMORY_USAGE, &[]));
        ensure!(value.is_none(), "usage {value:?} of a cgroup without a memory controller");
        let used = agent.look(|exports| exports.node_value(NODE_MEMORY_USAGE, &[])).context("no memory of the node")?;
        let (total, free) = (meminfo("MemTotal").context("no total")?, meminfo("MemFree").context("no free")?);
        Tolerance::new(0.05, 64.0 * MIB as f64).check("the node's memory", used, (total - free) as f64)?;
        load.kill()?;
        agent.stop().map(drop)
    }
}

root_test! {
    fn cgroups_that_vanish_while_they_are_read_do_no_harm() {
        if !can_run(TEST)? {
            return Ok(());
        }
        for walks in [true, false] {
            // What becomes of their final values is another test's.
            let mut agent = Agent::spawn(json!({"bpf": {"leave_out": if walks { "" } else { "walk_on_cgroup" }}, "export": {"exporter": "none"}}))?;
            agent.wait_for_log("podmeter runs", 15 * SECOND)?;
            let pod = Cgroup::new("vanishing")?;
            pod.delegate("memory")?;
            let begin = std::time::Instant::now();
            let mut made = 0;
            while begin.elapsed() < 3 * SECOND {
                let alive = (0..10).map(|n| pod.child(&format!("c{made}-{n}"))).collect::<Result<Vec<_>>>()?;
                made += alive.len();
                alive.into_iter().try_for_each(Cgroup::remove)?;
            }
            println!("{made} cgroups came and went");
            ensure!(agent.alive()?, "the agent has ended: {}", agent.stderr());
            ensure!(!agent.stderr().contains("could not read"), "{}", agent.stderr());
            agent.stop()?;
        }
        Ok(())
    }
}

root_test! {
    fn the_memory_of_a_nodes_cgroups_is_read_in_one_pass() {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        if !can_run(TEST)? {
            return Ok(());
        }
        if release.starts_with("5.") {
            eprintln!("SKIPPED {TEST}: this kernel cannot walk over cgroups");
            return Ok(());
        }
        let figures = memory::passes(Effort::Quick)?;
        println!("{}", table(&figures));
        // No time is compared: only that a walk is what it is there for.
        ensure!(figures[2].value.median < 0.5, "a walk takes {} of the time that files take", figures[2].value.median);
        Ok(())
    }
}

/// A line of /proc/meminfo in bytes.
fn meminfo(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}
