//! Which cgroup is which: in a cgroup namespace, under long paths and names that are not UTF-8, and whatever a container names
//! its own. Paths, pods and CPU time are compared with what the test made and with `cpu.stat`.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    MS,
    agent::{self, Agent, As},
    cgroup::{Cgroup, CpuStat},
    kubernetes::{
        ApiOptions, Cluster, Container, Driver, Pod,
        exported::{SOON, wait_for_attributes},
        objects::container_id,
    },
    load::Load,
    metric::{CPU_TIME, PRESSURE},
    otlp::Exports,
    root_test,
    truth::NEARLY_EXACT,
};
use serde_json::{Value as Json, json};

/// Without Kubernetes, and with paths whole.
fn alone() -> Json {
    json!({"kubernetes": {"source": "off"}, "export": {"attribute_bytes": "1KiB"}})
}

/// An attribute of a cgroup's resource, by its path as the agent has it.
fn attribute(exports: &Exports, path: &str, key: &str) -> Option<String> {
    exports.of(path).last().and_then(|point| point.resource.get(key).cloned())
}

/// Checks that the cgroup with this path, as the agent has it, has the CPU time that the kernel has, and the pressure if the
/// kernel has that.
fn check(agent: &Agent, path: &str, truth: CpuStat, has_pressure: bool) -> Result<()> {
    let value = |metric, attributes: &[(&str, &str)]| agent.look(|exports| exports.value(path, metric, attributes));
    let measured = value(CPU_TIME, &[]).with_context(|| format!("no CPU time of {path}"))?;
    NEARLY_EXACT.check(&format!("CPU time of {path}"), measured, truth.usage_seconds())?;
    let pressure = value(PRESSURE, &[("resource", "cpu"), ("stall", "some")]);
    ensure!(pressure.is_some() == has_pressure, "pressure of {path}: {pressure:?}");
    Ok(())
}

root_test! {
    fn in_a_cgroup_namespace_paths_begin_at_its_root_files_are_found_and_what_is_outside_is_ignored() {
        let (outside, node) = (Cgroup::new("outside")?, Cgroup::new("node")?);
        let above = "/kubelet/kubepods/pod0a1b2c3d-1111-2222-3333-444455556666";
        let mut made = vec![node.child("kubelet")?, node.child("kubelet/kubepods")?, node.child(&above[1..])?];
        let (old, new) = (container_id(), container_id());
        made.push(node.child(&format!("{}/{old}", &above[1..]))?);
        Load::burn(60 * MS).start(&made[3])?.wait()?;
        let mount = tempfile::tempdir().context("could not make a directory")?;
        let agent = Agent::start_in_cgroup_namespace(alone(), node.dir(), mount.path())?;
        made.push(node.child(&format!("{}/{new}", &above[1..]))?);
        for cgroup in [&made[3], &made[4], &outside] {
            Load::burn(40 * MS).start(cgroup)?.wait()?;
        }
        let later_outside = Cgroup::new("outside-later")?;
        Load::burn(20 * MS).start(&later_outside)?.wait()?;
        agent.catch_up()?;
        for (cgroup, id) in [(&made[3], &old), (&made[4], &new)] {
            let path = format!("{above}/{id}");
            check(&agent, &path, cgroup.cpu_stat()?, cgroup.dir().join("cpu.pressure").exists())?;
            let found = agent.look(|exports| attribute(exports, &path, "container.id"));
            ensure!(found.as_ref() == Some(id), "{found:?} is the id of {path}");
        }
        agent.look(|exports| {
            let foreign = exports.cgroups().find(|path| path.contains("podmeter-test-"));
            ensure!(foreign.is_none(), "{foreign:?} is exported");
            ensure!(exports.cgroups().any(|path| path == "/"), "the root is not");
            Ok(())
        })?;
        agent.stop()?;
        // Children first.
        while made.pop().is_some() {}
        Ok(())
    }
}

root_test! {
    fn cgroups_with_long_paths_have_their_own_names_their_files_and_all_their_cpu_time() {
        let top = Cgroup::new("long")?;
        let (mut names, mut made) = (Vec::new(), Vec::new());
        for n in 0..6 {
            names.push(format!("{n}{}", "x".repeat(100)));
            made.push(top.child(&names.join("/"))?);
        }
        let ids = [container_id(), container_id(), container_id()];
        let container = |id: &str| top.child(&format!("{}/docker-{id}.scope", names.join("/")));
        let mut containers = vec![container(&ids[0])?];
        Load::burn(60 * MS).start(&containers[0])?.wait()?;
        let agent = Agent::start(alone())?;
        for id in &ids[1..] {
            containers.push(container(id)?);
        }
        for (n, cgroup) in containers.iter().enumerate() {
            Load::burn((20 + 10 * n as u32) * MS).start(cgroup)?.wait()?;
        }
        agent.catch_up()?;
        for (cgroup, id) in containers.iter().zip(&ids) {
            ensure!(cgroup.path().len() > 600, "{} is not long", cgroup.path());
            check(&agent, cgroup.path(), cgroup.cpu_stat()?, cgroup.dir().join("cpu.pressure").exists())?;
            let found = agent.look(|exports| attribute(exports, cgroup.path(), "container.id"));
            ensure!(found.as_ref() == Some(id), "{found:?} is the id of {}", cgroup.path());
        }
        agent.stop()?;
        drop(containers);
        while made.pop().is_some() {}
        Ok(())
    }
}

root_test! {
    fn a_cgroup_whose_name_is_not_utf_8_has_its_files_and_all_its_cpu_time() {
        let top = Cgroup::new("bytes")?;
        let directory = top.dir().join(OsStr::from_bytes(b"a\xff"));
        fs::create_dir(&directory).context("could not make a cgroup")?;
        let below = top.path().to_owned();
        // It moves in its sleep, and uses its CPU time there.
        let burn = || -> Result<()> {
            let script = "sleep 0.3; i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done";
            let mut shell = Command::new("sh").args(["-c", script]).spawn().context("could not start a shell")?;
            thread::sleep(100 * MS);
            fs::write(directory.join("cgroup.procs"), shell.id().to_string()).context("could not move the shell")?;
            shell.wait().map(drop).context("could not wait for the shell")
        };
        burn()?;
        let agent = Agent::start(alone())?;
        burn()?;
        agent.catch_up()?;
        let text = fs::read(directory.join("cpu.stat")).map(|text| String::from_utf8_lossy(&text).into_owned())?;
        let usec: f64 = text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok()).context("no usage_usec")?;
        let measured = agent.look(|exports| exports.value(&format!("{below}/a\\xff"), CPU_TIME, &[])).context("no CPU time")?;
        NEARLY_EXACT.check("CPU time", measured, usec / 1e6)?;
        agent.stop()?;
        fs::remove_dir(directory).context("could not remove a cgroup")
    }
}

root_test! {
    fn a_container_that_makes_cgroups_like_another_pods_and_a_pod_that_claims_its_uid_change_nothing_of_it() {
        let cluster = Cluster::new(Driver::Cgroupfs, ApiOptions::default())?;
        let ids = [container_id(), container_id()];
        let victim = Pod { namespace: "bank".to_owned(), ..Pod::new("victim", vec![Container::new("till", &ids[0])]) };
        let mut evil = Pod::new("evil", vec![Container::new("app", &ids[1])]);
        evil.annotations = json!({"kubernetes.io/config.hash": victim.uid, "kubernetes.io/config.mirror": victim.uid});
        evil.owner = Some(("Node".to_owned(), "node-1".to_owned()));
        // The claim comes last, and again with each change.
        cluster.server.set_pod(&victim);
        cluster.server.set_pod(&evil);
        let pods = [cluster.kubelet.pod(&victim.uid)?, cluster.kubelet.pod(&evil.uid)?];
        let (own, foreign) = (pods[0].container(&ids[0])?, pods[1].container(&ids[1])?);
        let claimed = format!("kubepods/pod{}/{}", victim.uid, ids[0]);
        let mut made = Vec::new();
        for (end, _) in claimed.match_indices('/').chain([(claimed.len(), "")]) {
            made.push(foreign.child(&claimed[..end])?);
        }
        let mut config = cluster.server.agent_config()?;
        config["export"]["attribute_bytes"] = json!("1KiB");
        let agent = Agent::start(config)?;
        Load::burn(30 * MS).start(&own)?.wait()?;
        Load::burn(50 * MS).start(made.last().context("made none")?)?.wait()?;
        let of_victim = [("k8s.pod.name", "victim"), ("k8s.namespace.name", "bank"), ("k8s.container.name", "till"), ("k8s.pod.uid", &*victim.uid)];
        wait_for_attributes(&agent, &own, &of_victim)?;
        let of_evil = [("k8s.pod.name", "evil"), ("k8s.container.name", "app"), ("k8s.pod.uid", &*evil.uid), ("container.id", &*ids[1])];
        wait_for_attributes(&agent, &foreign, &of_evil)?;
        for cgroup in &made {
            wait_for_attributes(&agent, cgroup, &of_evil)?;
        }
        agent.stop()?;
        while made.pop().is_some() {}
        Ok(())
    }
}

/// A cgroup of version 1 with this process's child in it, gone when dropped.
struct InV1(PathBuf);

impl Drop for InV1 {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
        let _ = self.0.parent().map(fs::remove_dir);
    }
}

root_test! {
    fn containers_in_cgroups_of_version_1_only_are_warned_of() {
        let Some(hierarchy) = ["pids", "cpuacct", "freezer"].map(|name| Path::new("/sys/fs/cgroup").join(name)).into_iter().find(|at| at.join("tasks").exists()) else {
            eprintln!("SKIPPED {TEST}: needs a hierarchy of cgroup version 1");
            return Ok(());
        };
        let report = || -> Result<(Json, String)> {
            let output = agent::run(&["check", "--json"], As::Root, 20_000 * MS)?;
            let report: Json = serde_json::from_str(&output.stdout).context("check wrote no JSON")?;
            let conditions = report["conditions"].as_array().context("no conditions")?;
            let own = conditions.iter().find(|condition| condition["name"] == "containers").context("has nothing about containers")?;
            Ok((own["ok"].clone(), own["detail"].as_str().unwrap_or_default().to_owned()))
        };
        ensure!(report()?.0 == true, "{:?}", report()?);
        let parent = hierarchy.join("podmeter-test-docker");
        let container = InV1(parent.join(container_id()));
        fs::create_dir_all(&container.0).with_context(|| format!("could not make {}", container.0.display()))?;
        let elsewhere = Cgroup::new("v2")?;
        let load = Load::spin(60_000 * MS).start(&elsewhere)?;
        fs::write(container.0.join("cgroup.procs"), load.pid().to_string()).context("could not move a process")?;
        let (ok, detail) = report()?;
        ensure!(ok == false && detail.contains("systemd.unified_cgroup_hierarchy=1"), "{ok} {detail}");
        ensure!(detail.contains(&*container.0.to_string_lossy()), "{detail}");
        let agent = Agent::start(alone())?;
        agent.wait_for_log("containers are not measured", SOON)?;
        agent.stop()?;
        load.kill()?;
        Ok(())
    }
}
