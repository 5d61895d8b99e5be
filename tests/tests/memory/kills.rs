//! OOM kills, against `memory.events`, the kernel's own log of a kill and the test's loads.

use anyhow::{Context as _, Result, ensure};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use podmeter_tests::{
    SECOND,
    agent::{Agent, unix_ns},
    cgroup::Cgroup,
    collector::Collector,
    load::{Load, Memory},
    metric::OOM_KILLS,
    root_test,
    truth::Tolerance,
};
use serde_json::json;

use super::{BATCH, MIB, can_run, container, meminfo};

/// One value of an OOM kill's line in the log: `usage_bytes=123`.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(&format!(" {name}="))?;
    Some(rest.split_whitespace().next()?.trim_matches('"'))
}

fn bytes_field(line: &str, name: &str) -> Result<f64> {
    field(line, name).and_then(|text| text.parse().ok()).with_context(|| format!("no {name} in {line}"))
}

/// The one line of the log about a kill.
fn kill_line(agent: &Agent) -> Result<String> {
    agent.wait_for_log("a process was killed", 5 * SECOND)?;
    let log = agent.stderr();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("a process was killed")).collect();
    ensure!(lines.len() == 1, "one process was killed: {lines:?}");
    println!("{}", lines[0]);
    Ok(lines[0].to_owned())
}

fn kills(agent: &Agent, cgroup: &Cgroup, cause: &str) -> Result<f64> {
    agent.look(|exports| exports.value(cgroup.path(), OOM_KILLS, &[("cause", cause)])).context("no OOM kills")
}

root_test! {
    fn a_container_at_its_limit_is_killed_once_and_the_kill_is_logged_with_its_memory() {
        if !can_run(TEST)? {
            return Ok(());
        }
        let agent = Agent::start(json!({}))?;
        let (pod, cgroup) = container("limited")?;
        let limit = 32 * MIB;
        cgroup.write("memory.max", &limit.to_string())?;
        let load = Load::hold(Memory::Anonymous, 256 * MIB, 60 * SECOND).start(&cgroup)?;
        let pid = load.pid();
        ensure!(load.wait_for_signal()? == nix::sys::signal::Signal::SIGKILL, "not by SIGKILL");
        agent.catch_up()?;
        agent.catch_up()?;
        let truth = cgroup.field("memory.events", "oom_kill").context("no oom_kill")? as f64;
        ensure!(truth == 1.0, "the kernel counts {truth} kills");
        ensure!(kills(&agent, &cgroup, "cgroup")? == 1.0, "not counted once");
        ensure!(kills(&agent, &cgroup, "node")? == 0.0, "it was the cgroup's limit");
        ensure!(kills(&agent, &pod, "cgroup")? == 1.0, "a pod counts its containers'");

        let line = kill_line(&agent)?;
        ensure!(field(&line, "pid") == Some(&pid.to_string()), "the victim was {pid}: {line}");
        ensure!(field(&line, "cgroup") == Some(cgroup.path()), "{line}");
        ensure!(field(&line, "limiting") == Some(cgroup.path()), "{line}");
        ensure!(bytes_field(&line, "limit_bytes")? == limit as f64, "{line}");
        let batch = Tolerance::new(0.0, BATCH);
        let usage = bytes_field(&line, "usage_bytes")?;
        batch.check("usage at the kill", usage, limit as f64)?;
        let mut sum = 0.0;
        for part in ["anon_bytes", "file_bytes", "shmem_bytes", "kernel_bytes"] {
            sum += bytes_field(&line, part)?;
        }
        batch.check("its parts", sum, usage)?;
        ensure!(bytes_field(&line, "anon_bytes")? > 0.8 * limit as f64, "it was anonymous memory: {line}");
        agent.stop().map(drop)
    }
}

root_test! {
    fn a_kill_reaches_the_collector_as_a_log_record_of_its_container() {
        if !can_run(TEST)? {
            return Ok(());
        }
        let collector = Collector::start()?;
        let export = json!({"exporter": "otlp", "protocol": "grpc", "endpoint": collector.grpc_endpoint()});
        let agent = Agent::spawn(json!({"export": export}))?;
        collector.wait_until("metrics", |collector| !collector.received().is_empty())?;
        let (_pod, cgroup) = container("logged")?;
        cgroup.write("memory.max", &(16 * MIB).to_string())?;
        let load = Load::hold(Memory::Anonymous, 64 * MIB, 60 * SECOND).start(&cgroup)?;
        let pid = load.pid();
        load.wait_for_signal()?;
        collector.wait_until("a log record", |collector| !collector.logs().is_empty())?;
        let logs = collector.logs();
        let group = &logs[0].resource_logs[0];
        let resource = &group.resource.as_ref().context("no resource")?.attributes;
        ensure!(text(resource, "podmeter.cgroup.path").as_deref() == Some(cgroup.path()), "{resource:?}");
        let record = &group.scope_logs[0].log_records[0];
        println!("{record:?}");
        ensure!(record.event_name == "podmeter.oom.kill", "{record:?}");
        ensure!(text(&record.attributes, "process.pid") == Some(pid.to_string()), "the victim was {pid}: {record:?}");
        ensure!(text(&record.attributes, "podmeter.oom.cause").as_deref() == Some("cgroup"), "{record:?}");
        ensure!(text(&record.attributes, "podmeter.memory.limit") == Some((16 * MIB).to_string()), "{record:?}");
        let age_ns = unix_ns().saturating_sub(record.time_unix_nano);
        ensure!(age_ns < 60_000_000_000, "it happened {age_ns} ns ago");
        agent.stop().map(drop)
    }
}

/// An attribute as text.
fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.clone()?;
    match value {
        any_value::Value::StringValue(text) => Some(text),
        any_value::Value::IntValue(n) => Some(n.to_string()),
        _ => None,
    }
}

root_test! {
    fn a_child_process_that_is_killed_is_counted_though_the_container_lives_on() {
        if !can_run(TEST)? {
            return Ok(());
        }
        let agent = Agent::start(json!({}))?;
        let (pod, cgroup) = container("parent")?;
        // The pod's limit, not the container's own.
        pod.write("memory.max", &(32 * MIB).to_string())?;
        let load = Load::breed(256 * MIB, 60 * SECOND).start(&cgroup)?;
        load.wait_for_rounds(1, 20 * SECOND)?;
        ensure!(cgroup.procs()? == [load.pid()], "the parent lives, and it alone");
        agent.catch_up()?;
        agent.catch_up()?;
        ensure!(cgroup.field("memory.events", "oom_kill") == Some(1), "the kernel counts another number");
        ensure!(kills(&agent, &cgroup, "cgroup")? == 1.0, "not counted once");
        let line = kill_line(&agent)?;
        ensure!(field(&line, "pid") != Some(&load.pid().to_string()), "the child was killed: {line}");
        ensure!(field(&line, "cgroup") == Some(cgroup.path()), "{line}");
        ensure!(field(&line, "limiting") == Some(pod.path()), "the pod was at its limit: {line}");
        load.kill()?;
        agent.stop().map(drop)
    }
}

root_test! {
    fn a_kill_because_the_node_ran_out_has_another_cause_than_one_at_a_limit() {
        if !can_run(TEST)? {
            return Ok(());
        }
        let total = meminfo("MemTotal").context("no MemTotal")?;
        if total > 4 << 30 || !podmeter_tests::is_emulated() {
            eprintln!("SKIPPED {TEST}: would use up a machine that is not made for it");
            return Ok(());
        }
        let agent = Agent::start(json!({}))?;
        let (_pod, cgroup) = container("glutton")?;
        let load = Load::hold(Memory::Anonymous, total as usize, 60 * SECOND).expendable().start(&cgroup)?;
        load.wait_for_signal()?;
        agent.catch_up()?;
        agent.catch_up()?;
        ensure!(kills(&agent, &cgroup, "node")? == 1.0, "not counted once");
        ensure!(kills(&agent, &cgroup, "cgroup")? == 0.0, "there was no limit");
        let line = kill_line(&agent)?;
        ensure!(field(&line, "cause") == Some("node") && field(&line, "limiting").is_none(), "{line}");
        agent.stop().map(drop)
    }
}
