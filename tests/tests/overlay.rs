//! A `kustomization.yaml` of one's own over the manifests of `deploy/`, as in its README: the rendered objects and what
//! `uninstall` leaves, against what the README promises.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use podmeter_tests::{
    agent::{self, As},
    deploy, patience,
};
use serde_json::Value as Json;

/// The first block of YAML in README that has this in it.
fn example(of: &str) -> Result<String> {
    let text = deploy::text(&deploy::directory().join("README.md"))?;
    let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0));
    let block = blocks.into_iter().find(|block| block.contains(of)).with_context(|| format!("no example of {of} in README"))?;
    let indent = block.len() - block.trim_start_matches(' ').len();
    Ok(block.lines().map(|line| line.get(indent..).unwrap_or_default().to_owned() + "\n").collect())
}

/// Objects of an overlay that has a checkout of podmeter beside it.
fn rendered_beside_a_checkout(kustomize: &Path, overlay: &str) -> Result<Vec<Json>> {
    let copy = tempfile::tempdir().context("could not make a directory")?;
    std::fs::create_dir_all(copy.path().join("podmeter/deploy")).context("could not make a directory")?;
    let manifests = deploy::directory().join("kubernetes");
    deploy::output(Command::new("cp").arg("-r").arg(manifests).arg(copy.path().join("podmeter/deploy")))?;
    std::fs::write(copy.path().join("kustomization.yaml"), overlay).context("could not write the overlay")?;
    std::fs::write(copy.path().join("config.yaml"), example("cluster_name:")?).context("could not write the configuration")?;
    deploy::yaml(&deploy::output(Command::new(kustomize).arg("build").arg(copy.path()))?)
}

/// The one container of the DaemonSet among these objects.
fn container(objects: &[Json]) -> Result<&Json> {
    let daemon_set = objects.iter().find(|object| object["kind"] == "DaemonSet").context("no DaemonSet")?;
    let containers = &daemon_set["spec"]["template"]["spec"]["containers"];
    ensure!(containers.as_array().is_some_and(|containers| containers.len() == 1), "{containers}");
    Ok(&containers[0])
}

#[test]
fn the_example_of_an_overlay_sets_image_receiver_and_a_configuration_that_the_agent_takes() -> Result<()> {
    const TEST: &str = "the_example_of_an_overlay_sets_image_receiver_and_a_configuration_that_the_agent_takes";
    let Some(kustomize) = deploy::tool("kustomize", TEST) else { return Ok(()) };
    let objects = rendered_beside_a_checkout(&kustomize, &example("kind: Kustomization")?)?;
    let container = container(&objects)?;
    ensure!(container["image"] == "registry.example/podmeter:0.1.0", "{container}");
    let variables = container["env"].as_array().context("no environment")?;
    let named = |name: &str| variables.iter().filter(move |variable| variable["name"] == name).collect::<Vec<_>>();
    ensure!(named("OTEL_EXPORTER_OTLP_ENDPOINT").len() == 1 && named("NODE_NAME").len() == 1, "{variables:?}");
    let configs = objects.iter().filter(|object| object["kind"] == "ConfigMap").collect::<Vec<_>>();
    let [config] = configs[..] else { bail!("not one configuration: {configs:?}") };
    let text = config["data"]["config.yaml"].as_str().with_context(|| format!("no file in {config}"))?;
    ensure!(text.contains("labels: team") && text.contains("cluster_cidrs"), "{text}");
    let nothing = tempfile::tempdir().context("could not make a directory")?;
    let file = agent::config_file(&format!("{text}\nbpf: {{directory: {}/absent}}\n", nothing.path().display()))?;
    let path = file.path().display().to_string();
    let output = agent::run(&["uninstall", "--config", &path], As::Root, Duration::from_secs(5))?;
    ensure!(output.code == Some(0) && output.stdout.contains("nothing is pinned"), "{output:?}");
    Ok(())
}

#[test]
fn an_uninstall_keeps_the_image_and_the_rights_of_the_agents_it_replaces() -> Result<()> {
    const TEST: &str = "an_uninstall_keeps_the_image_and_the_rights_of_the_agents_it_replaces";
    let Some(kustomize) = deploy::tool("kustomize", TEST) else { return Ok(()) };
    let own = example("kind: Kustomization")?;
    let components = |names: &[&str]| {
        let list: String = names.iter().map(|name| format!("\n  - podmeter/deploy/kubernetes/components/{name}")).collect();
        own.replace("components: []", &format!("components:{list}"))
    };
    let agents = rendered_beside_a_checkout(&kustomize, &components(&["openshift", "before-5.11"]))?;
    let removing = rendered_beside_a_checkout(&kustomize, &components(&["openshift", "before-5.11", "uninstall"]))?;
    let [agent, remover] = [container(&agents)?, container(&removing)?];
    for same in ["image", "env", "securityContext", "volumeMounts", "resources"] {
        ensure!(agent[same] == remover[same], "{same}: {} became {}", agent[same], remover[same]);
    }
    ensure!(agent["securityContext"]["capabilities"]["add"].to_string().contains("SYS_RESOURCE"), "{agent}");
    ensure!(remover["args"][0] == "uninstall" && remover["args"][1] == "--stay", "{remover}");
    ensure!(remover["livenessProbe"].is_null() && remover["readinessProbe"].is_null(), "{remover}");
    ensure!(agents.len() == removing.len(), "objects came or went");
    // Only who has stayed is available, so that failures are not taken for success.
    let set = removing.iter().find(|object| object["kind"] == "DaemonSet").context("no DaemonSet")?;
    ensure!(set["spec"]["minReadySeconds"].as_u64() >= Some(5), "{set}");
    Ok(())
}

#[test]
fn an_uninstall_that_stays_does_so_only_after_all_is_removed_and_ends_at_sigterm() -> Result<()> {
    const TEST: &str = "an_uninstall_that_stays_does_so_only_after_all_is_removed_and_ends_at_sigterm";
    if !deploy::is_here(TEST) {
        return Ok(());
    }
    let place = tempfile::tempdir().context("could not make a directory")?;
    let config = |directory: &Path| agent::config_file(&format!("bpf: {{directory: {}}}\n", directory.display()));
    // Not a directory: nothing can be removed.
    let refused = config(Path::new("/dev/null"))?;
    let path = refused.path().display().to_string();
    let output = agent::run(&["uninstall", "--stay", "--config", &path], As::Root, Duration::from_secs(5))?;
    ensure!(output.code.is_some_and(|code| code != 0), "{output:?}");

    let file = config(&place.path().join("absent"))?;
    let mut stays = Command::new(agent::binary()?);
    stays.args(["uninstall", "--stay", "--config"]).arg(file.path()).stdout(Stdio::piped());
    let mut stays = stays.spawn().context("could not start podmeter")?;
    let mut line = String::new();
    let out = stays.stdout.take().context("no output")?;
    BufReader::new(out).read_line(&mut line).context("it writes nothing")?;
    thread::sleep(Duration::from_millis(300));
    let running = stays.try_wait().context("could not wait")?.is_none();
    let pid = Pid::from_raw(i32::try_from(stays.id()).context("a pid")?);
    kill(pid, Signal::SIGTERM).context("could not send SIGTERM")?;
    let began = Instant::now();
    let status = stays.wait().context("could not wait")?;
    ensure!(running && line.contains("nothing is pinned") && status.success(), "{running} {line:?} {status}");
    ensure!(began.elapsed() < patience(agent::STOPS_WITHIN), "it took {:?} to end", began.elapsed());
    Ok(())
}
