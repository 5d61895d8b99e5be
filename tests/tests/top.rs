//! `podmeter top --once --json`: the table of this machine as a document.

use std::{path::Path, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    agent::{As, run},
    cgroup::{Cgroup, cpu_stat_of, mount_point},
    load::Load,
    root_test,
};
use serde_json::Value as Json;

const MS: Duration = Duration::from_millis(1);

/// Below this a tick is more than the 1 % that is promised.
const WORTH_COMPARING_S: f64 = 0.05;

/// The paths of all cgroups below the root.
fn all_cgroups(dir: &Path, found: &mut Vec<String>) -> Result<()> {
    let root = mount_point()?;
    // A cgroup may be removed while it is looked at: what is not there any more has no children.
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
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
                "{path} used {measured} s, cpu.stat said {before} s before and {after} s afterwards"
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
