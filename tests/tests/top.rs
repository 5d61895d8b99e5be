//! `podmeter top --once --json`: every cgroup of this machine, against `cpu.stat`, with the names that the API server has for it; and
//! what was exported, looked back at in the journal.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    MS,
    agent::{Agent, As, Output, config_file, run},
    cgroup::{Cgroup, cpu_stat_of, mount_point},
    collector::Collector,
    json_schema,
    kubernetes::{ApiOptions, Cluster, Container, Driver, Fault, Pod, RunningPod},
    load::Load,
    metric::CPU_TIME,
    root_test,
};
use serde_json::{Value as Json, json};

/// Below this a tick is more than the 1 % that is promised.
const WORTH_COMPARING_S: f64 = 0.05;

/// The paths of all cgroups below the root.
fn all_cgroups(dir: &Path, found: &mut Vec<String>) -> Result<()> {
    let root = mount_point()?;
    // A cgroup may be removed while it is looked at: what is not there any more has no children.
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let path = entry.path();
            found.push(format!("/{}", path.strip_prefix(root).context("outside of the hierarchy")?.display()));
            all_cgroups(&path, found)?;
        }
    }
    Ok(())
}

fn usage(cgroup: &str) -> Option<f64> {
    cpu_stat_of(cgroup).ok().map(|stat| stat.usage_seconds())
}

root_test! {
    fn top_once_prints_every_cgroup_of_this_machine_with_the_kernels_cpu_time() {
        let ended = Cgroup::new("top-idle")?;
        let inner = ended.child("inner")?;
        Load::burn(120 * MS).start(&inner)?.wait()?;
        let busy = Cgroup::new("top-busy")?;
        let _spinner = Load::spin(60_000 * MS).start(&busy)?;
        thread::sleep(100 * MS);
        let mut paths = Vec::new();
        all_cgroups(mount_point()?, &mut paths)?;
        let before: Vec<(String, f64)> = paths.into_iter().filter_map(|path| usage(&path).map(|usage| (path, usage))).collect();

        let output = run(&["top", "--once", "--json", "--interval", "1s"], As::Root, Duration::from_secs(20))?;
        ensure!(output.code == Some(0), "top ended with {:?}: {}", output.code, output.stderr);
        let view: Json = serde_json::from_str(&output.stdout).context("top --once --json does not print one JSON document")?;
        ensure!(view["schema"] == 1, "schema {}", view["schema"]);
        let violations = json_schema::violations(&json_schema::of_top(), &view);
        ensure!(violations.is_empty(), "the document does not follow docs/top-json.schema.json: {violations:?}");
        let workloads = view["workloads"].as_array().context("no workloads")?;
        let time_of = |path: &str| {
            let workload = workloads.iter().find(|workload| workload["cgroup"] == path);
            workload.with_context(|| format!("{path} is not listed"))?["cpu"]["time_seconds"].as_f64().context("no time_seconds")
        };

        let mut compared = 0;
        for (path, before) in before.iter().filter(|(_, before)| *before >= WORTH_COMPARING_S) {
            // Gone meanwhile: then it may or may not be listed.
            let Some(after) = usage(path) else { continue };
            let measured = time_of(path)?;
            ensure!(
                (before * 0.99..=after * 1.01).contains(&measured),
                "{path} used {measured} s, cpu.stat had {before} s before and {after} s afterwards"
            );
            compared += 1;
        }
        ensure!(compared >= 3, "only {compared} cgroups to compare");

        let of_busy = workloads.iter().find(|workload| workload["cgroup"] == busy.path()).context("not listed")?;
        let cores = of_busy["cpu"]["usage_cores"].as_f64().context("no usage_cores")?;
        ensure!(cores > 0.1 && cores < 1.02, "one spinner uses {cores} cores");
        Ok(())
    }
}

/// The document, by the configuration of an agent that follows this server; and standard error.
fn once_in(cluster: &Cluster) -> Result<(Json, String)> {
    let config = config_file(&cluster.server.agent_config()?.to_string())?;
    let config = config.path().to_str().context("the configuration's path is not UTF-8")?;
    let output = run(&["top", "--once", "--json", "--interval", "1s", "--config", config], As::Root, Duration::from_secs(30))?;
    ensure!(output.code == Some(0), "top ended with {:?}: {}", output.code, output.stderr);
    let document = serde_json::from_str(&output.stdout).context("top --once --json does not print one JSON document")?;
    let violations = json_schema::violations(&json_schema::of_top(), &document);
    ensure!(violations.is_empty(), "the document does not follow docs/top-json.schema.json: {violations:?}");
    Ok((document, output.stderr))
}

fn workload_of<'a>(view: &'a Json, cgroup: &Cgroup) -> Result<&'a Json> {
    let workloads = view["workloads"].as_array().context("no workloads")?;
    let of = workloads.iter().find(|workload| workload["cgroup"] == cgroup.path());
    of.with_context(|| format!("{} is not listed", cgroup.path()))
}

root_test! {
    fn top_once_calls_a_pods_cgroups_as_kubernetes_does() {
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        let app = Container::started("app").with_resources(json!({"cpu": "250m", "memory": "64Mi"}), json!({}));
        let running = cluster.run_pod(Pod::new("web-5d8f7c9b4-abcde", vec![app]))?;
        let _spinner = Load::spin(60_000 * MS).start(&running.container)?;

        let (view, stderr) = once_in(&cluster)?;
        ensure!(stderr.is_empty(), "nothing is wrong: {stderr}");
        ensure!(view["node"]["name"] == "node-1", "the node is {}", view["node"]["name"]);
        let entry = workload_of(&view, &running.container)?;
        for (key, value) in
            [("namespace", "shop"), ("pod", "web-5d8f7c9b4-abcde"), ("container", "app"), ("kind", "Deployment"), ("name", "web")]
        {
            ensure!(entry[key] == value, "{key} of the container is {}, not {value}: {entry}", entry[key]);
        }
        let pod_entry = workload_of(&view, running.cgroup.cgroup())?;
        ensure!(pod_entry["pod"] == "web-5d8f7c9b4-abcde" && pod_entry["name"] == "web", "the pod's own: {pod_entry}");
        ensure!(pod_entry.get("container").is_none(), "a pod is no container: {pod_entry}");
        ensure!(entry["cpu"]["request_cores"] == 0.25, "the request is that of the pod's spec: {entry}");

        let number = |what: &Json| what.as_f64().with_context(|| format!("not known of {entry}"));
        let watched = number(&entry["watched_seconds"])?;
        ensure!((0.9..30.0).contains(&watched), "watched for {watched} s");
        ensure!(entry["cpu"].get("suggested_request_cores").is_none(), "nothing is suggested after {watched} s: {entry}");
        ensure!(entry["memory"]["request_bytes"] == 64 << 20, "no file of the cgroup has it: {entry}");
        ensure!(entry["memory"].get("suggested_request_bytes").is_none(), "nothing is suggested after {watched} s: {entry}");
        ensure!(entry["cgroup_kind"] == "Container" && pod_entry["cgroup_kind"] == "Pod", "{entry} in {pod_entry}");
        ensure!(view["kubernetes"] == json!({"current": true}), "the pods are followed: {}", view["kubernetes"]);
        ensure!(view["node"]["memory"]["capacity_bytes"].as_u64().is_some_and(|n| n > 1 << 26), "{}", view["node"]);
        Ok(())
    }
}

root_test! {
    fn top_once_does_not_wait_for_an_api_server_that_says_nothing() {
        let cluster = Cluster::new(Driver::Cgroupfs, ApiOptions::default())?;
        cluster.server.always(Some(Fault::Stall));
        let RunningPod { container, cgroup: _cgroup, pod } = cluster.run("web-1")?;
        Load::burn(20 * MS).start(&container)?.wait()?;

        let began = Instant::now();
        let (view, stderr) = once_in(&cluster)?;
        ensure!(stderr.starts_with("podmeter: pod names are not available: ") && stderr.lines().count() == 1, "the reason is written once: {stderr}");
        // Less than the agent waits for a name alone.
        ensure!(began.elapsed() < podmeter_tests::patience(Duration::from_secs(10)), "it took {:?}", began.elapsed());
        ensure!(!cluster.server.requests().is_empty(), "the server got no request");
        let entry = workload_of(&view, &container)?;
        ensure!(entry["pod"] == *pod.uid && entry["container"] == *pod.containers[0].bare_id(), "without names, the ids: {entry}");
        ensure!(view["kubernetes"]["current"] == false, "the pods are shown as known: {}", view["kubernetes"]);
        Ok(())
    }
}

/// A copy of a directory that everybody may read.
fn copy_for_all(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    fs::set_permissions(to, Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(from)? {
        let (from, to) = (entry.as_ref().map(fs::DirEntry::path).unwrap_or_default(), to.join(entry?.file_name()));
        if from.is_dir() {
            copy_for_all(&from, &to)?;
            continue;
        }
        fs::copy(&from, &to)?;
        fs::set_permissions(&to, Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// `top --once --json` of the past.
fn past(journal: &Path, when: &[&str], user: As) -> Result<Output> {
    let journal = journal.to_str().context("the path is not UTF-8")?;
    run(&[&["top", "--once", "--json", "--journal", journal], when].concat(), user, Duration::from_secs(30))
}

fn document(output: &Output) -> Result<Json> {
    ensure!(output.code == Some(0) && output.stderr.is_empty(), "{output:?}");
    let document = serde_json::from_str(&output.stdout).context("not one JSON document")?;
    let violations = json_schema::violations(&json_schema::of_top(), &document);
    ensure!(violations.is_empty(), "the document does not follow docs/top-json.schema.json: {violations:?}");
    Ok(document)
}

root_test! {
    fn top_shows_what_was_exported_at_a_time_in_the_past_to_whoever_may_read_the_journal() {
        let directory = tempfile::tempdir()?;
        let journal = directory.path().join("journal");
        let collector = Collector::start()?;
        let agent = Agent::spawn(json!({
            "interval": "2s",
            "journal": {"directory": journal},
            "export": {"exporter": "otlp", "protocol": "grpc", "endpoint": collector.grpc_endpoint()},
        }))?;
        let busy = Cgroup::new("looked-back-at")?;
        let _spinner = Load::spin(120_000 * MS).start(&busy)?;
        let history = |metric: &str| collector.exports().map(|exports| exports.history(busy.path(), metric));
        collector.wait_until("five exports of it", |_| history(CPU_TIME).is_ok_and(|history| history.len() >= 6))?;
        // Beside the agent.
        let newest = document(&past(&journal, &["--replay"], As::Root)?)?;
        ensure!(workload_of(&newest, &busy)?["cpu"]["time_seconds"].as_f64() > Some(1.0), "{newest}");
        agent.stop()?;

        fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
        let copy = directory.path().join("copy");
        copy_for_all(&journal, &copy)?;
        let exported = history(CPU_TIME)?;
        let (measured_ns, seconds) = exported[exported.len() - 3];
        // The next whole second: the next collection is two seconds later.
        let at = measured_ns / 1_000_000_000 + 1;
        let time_of_day = format!("{:02}:{:02}:{:02}", at / 3600 % 24, at / 60 % 60, at % 60);
        let view = document(&past(&copy, &["--at", &time_of_day], As::Nobody)?)?;
        let cpu = &workload_of(&view, &busy)?["cpu"];
        // But for how numbers are read back from decimals.
        let equals = |shown: &Json, exported: f64| shown.as_f64().is_some_and(|shown| (shown - exported).abs() <= exported.abs() * 1e-12);
        ensure!(equals(&cpu["time_seconds"], seconds), "{seconds} s were exported at {time_of_day}: {cpu}");
        let usage = history("container.cpu.usage")?.into_iter().find(|(ns, _)| *ns == measured_ns).map(|(_, cores)| cores);
        ensure!(usage.is_some_and(|usage| equals(&cpu["usage_cores"], usage)), "{usage:?} cores were exported at {time_of_day}: {cpu}");
        ensure!(cpu["wait_rate"].as_f64().is_some_and(|rate| rate >= 0.0), "a rate against the collection before: {cpu}");
        ensure!(view["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{}", view["at"]);
        ensure!(view["node"]["cpu"]["capacity_cores"].as_f64() > Some(0.0), "{}", view["node"]);
        ensure!(view["signals"].as_array().is_some_and(|signals| signals.iter().any(|s| s["name"] == "cpu" && s["on"] == true)), "{view}");

        for (journal, when, expected) in [
            (&copy, ["--at", "2001-01-01T00:00:00Z"], "has nothing of 2001-01-01 00:00:00 UTC: it has collections from 20"),
            (&directory.path().join("none"), ["--at", "1m"], "there is no journal in /"),
            (&journal, ["--at", "1m"], "Permission denied"),
        ] {
            let refused = past(journal, &when, As::Nobody)?;
            ensure!(refused.code == Some(1) && refused.stdout.is_empty() && refused.stderr.contains(expected), "{refused:?}");
        }
        Ok(())
    }
}
