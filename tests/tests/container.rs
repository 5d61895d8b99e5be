//! The container that `deploy/` describes: with its capabilities and mounts the agent measures what `cpu.stat` has, and without
//! one of them it does not.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    MS,
    agent::Output,
    cgroup::Cgroup,
    container::{FakeNode, Manifest, NODE_NAME, static_binary},
    http,
    load::Load,
    metric::CPU_TIME,
    root_test,
    truth::NEARLY_EXACT,
};
use serde_json::Value as Json;

/// Names of the signals that are on in `podmeter check --json`.
fn signals_on(output: &Output) -> Result<Vec<String>> {
    let check: Json = serde_json::from_str(&output.stdout).with_context(|| format!("no JSON: {output:?}"))?;
    let signals = check["signals"].as_array().with_context(|| format!("no signals in {check}"))?.iter();
    Ok(signals.filter(|signal| signal["on"] == true).filter_map(|signal| Some(signal["name"].as_str()?.to_owned())).collect())
}

root_test! {
    fn the_daemonsets_container_measures_what_the_kernel_counts_and_ends_in_time() {
        let Some(binary) = static_binary(TEST)? else { return Ok(()) };
        let node = FakeNode::new(&binary)?;
        // Another agent's, which is none of podmeter's business.
        let other = node.bpf_path("/sys/fs/bpf/other");
        std::fs::create_dir(&other).context("could not make a directory in bpffs")?;
        let agent = node.run()?;
        agent.wait_for("a first export", 15_000 * MS, |exports| (exports.requests() > 0).then_some(()))?;

        let probe = |name: &str| node.manifest().container[name]["httpGet"]["path"].as_str().map(str::to_owned);
        for name in ["livenessProbe", "readinessProbe"] {
            let path = probe(name).with_context(|| format!("{name} has no path"))?;
            let (status, body) = http::get(agent.address(), &path)?;
            ensure!(status == 200, "{name} gets {status} {body} from {path}");
        }

        let cgroup = Cgroup::new("measured")?;
        Load::burn(700 * MS).start(&cgroup)?.wait()?;
        let truth = cgroup.cpu_stat()?.usage_seconds();
        agent.catch_up()?;
        agent.look(|exports| -> Result<()> {
            let measured = exports.value(cgroup.path(), CPU_TIME, &[]).context("the load's cgroup has no CPU time")?;
            NEARLY_EXACT.check("CPU time", measured, truth)?;
            let point = exports.of(cgroup.path()).last().context("no point")?;
            ensure!(point.resource.get("host.name").map(String::as_str) == Some(NODE_NAME), "the resource is {:?}", point.resource);
            Ok(())
        })?;
        // It is process 1 of its namespace, which no signal ends that it does not handle.
        agent.stop()?;

        // What it has left in the kernel stays for the next one.
        let pinned = |node: &FakeNode| -> Result<usize> {
            let own = node.bpf_path("/sys/fs/bpf/podmeter").read_dir().context("podmeter's directory is gone")?;
            Ok(own.count())
        };
        ensure!(pinned(&node)? > 1, "nothing is pinned");
        let next = node.run()?;
        next.wait_for("an export of the next agent", 15_000 * MS, |exports| (exports.requests() > 0).then_some(()))?;
        next.stop()?;
        let removed = node.output(&["uninstall", "--config", "/etc/podmeter/config.yaml"], None)?;
        // The directory itself is a mount point there.
        ensure!(removed.code == Some(0) && removed.stdout.contains("removed all that was pinned"), "{removed:?}");
        ensure!(pinned(&node)? == 0, "{removed:?} left something");
        let again = node.output(&["uninstall", "--config", "/etc/podmeter/config.yaml"], None)?;
        ensure!(again.code == Some(0) && again.stdout.contains("nothing is pinned"), "{again:?}");
        ensure!(node.pins()?.iter().any(|name| name == "other"), "another agent's directory is gone: {:?}", node.pins()?);
        Ok(())
    }
}

root_test! {
    fn the_daemonsets_capabilities_are_enough_for_every_signal_and_none_is_too_many() {
        let Some(binary) = static_binary(TEST)? else { return Ok(()) };
        let node = FakeNode::new(&binary)?;
        // What this kernel has no room for is off for root too.
        let as_root = podmeter_tests::agent::run(&["check", "--json"], podmeter_tests::agent::As::Root, 15_000 * MS)?;
        let all = node.output(&["check", "--json"], None)?;
        ensure!(all.code == Some(0), "{all:?}");
        let on = signals_on(&all)?;
        ensure!(on == signals_on(&as_root)?, "root has {as_root:?}, the container {all:?}");
        for capability in &node.manifest().capabilities {
            let on_cgroups = ["network", "tcp", "dns"].iter().any(|signal| on.iter().any(|on| on == signal));
            if capability == "NET_ADMIN" && !on_cgroups {
                eprintln!("SKIPPED {TEST}, for NET_ADMIN: no signal that is on attaches programs to cgroups");
                continue;
            }
            let without = node.output(&["check", "--json"], Some(capability))?;
            let left = signals_on(&without)?;
            ensure!(left.len() < on.len(), "without {capability} as much is measured: {left:?}, so it is not needed");
        }
        Ok(())
    }
}

#[test]
fn the_manifest_gives_root_nothing_that_it_does_not_need() -> Result<()> {
    let manifest = Manifest::read()?;
    let rights = &manifest.container["securityContext"];
    ensure!(rights["privileged"] == false && rights["allowPrivilegeEscalation"] == false, "{rights}");
    ensure!(rights["readOnlyRootFilesystem"] == true && rights["capabilities"]["drop"][0] == "ALL", "{rights}");
    for namespace in ["hostNetwork", "hostPID", "hostIPC"] {
        ensure!(manifest.pod[namespace] != true, "the pod has {namespace}");
    }
    let written: Vec<&str> = manifest.mounts.iter().filter(|mount| !mount.read_only).map(|mount| mount.path.as_str()).collect();
    ensure!(written == ["/host/sys/fs/bpf/podmeter", "/var/lib/podmeter"], "the container can write to {written:?}");
    // Of the node's bpffs, where others have their pins too, and of its disk only these directories.
    let from: Vec<_> = manifest.mounts.iter().filter(|mount| !mount.read_only).map(|mount| mount.host_path.as_deref()).collect();
    let own = [Some("/sys/fs/bpf/podmeter"), Some("/var/lib/podmeter")];
    ensure!(from == own, "the container can write to the node's {from:?}");
    Ok(())
}

#[test]
fn probes_ask_where_the_agent_listens_and_the_grace_period_suffices_for_its_end() -> Result<()> {
    let manifest = Manifest::read()?;
    let listen = Manifest::config()?["listen"].as_str().map(str::to_owned).context("the configuration sets no address")?;
    let port = &manifest.container["ports"][0];
    ensure!(listen == format!("0.0.0.0:{}", port["containerPort"]), "it listens at {listen}, its port is {port}");
    for probe in ["livenessProbe", "readinessProbe"] {
        ensure!(manifest.container[probe]["httpGet"]["port"] == port["name"], "{probe}: {}", manifest.container[probe]);
    }
    let grace = manifest.pod["terminationGracePeriodSeconds"].as_u64().context("no grace period")?;
    // `podmeter config` has every key with its default.
    let reference = podmeter_tests::agent::run(&["config"], podmeter_tests::agent::As::Root, Duration::from_secs(5))?.stdout;
    let default = reference.lines().find_map(|line| line.trim_start_matches(['#', ' ']).strip_prefix("shutdown_timeout: "));
    let default: u64 = default.and_then(|text| text.trim().strip_suffix('s')?.parse().ok()).context("no shutdown_timeout")?;
    ensure!(
        grace > default + 2,
        "killed after {grace} s, while podmeter may take {default} s, and as a container starts and ends"
    );
    Ok(())
}
