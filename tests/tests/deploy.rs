//! The files of `deploy/`: valid by the schemas of Kubernetes, Prometheus and Grafana, and without a query of what podmeter does
//! not have, by the agent's own registry.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    agent::{self, As},
    deploy, promql,
};
use serde_json::Value as Json;

/// Those that the base promises to work with.
const KUBERNETES: std::ops::RangeInclusive<u32> = 28..=36;

/// What people apply: the base, what is applied to remove it, and the base with each component.
fn variants() -> Result<Vec<(String, String)>> {
    let mut variants = vec![("base".to_owned(), String::new()), ("uninstall".to_owned(), String::new())];
    let components = deploy::directory().join("kubernetes/components");
    for component in components.read_dir().context("could not list the components")? {
        let name = component.context("could not list the components")?.file_name().to_string_lossy().into_owned();
        let overlay = format!(
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [kubernetes/base]\n\
             components: [kubernetes/components/{name}]\n"
        );
        variants.push((name, overlay));
    }
    Ok(variants)
}

/// A variant's objects as kustomize renders them.
fn rendered(kustomize: &std::path::Path, name: &str, overlay: &str) -> Result<String> {
    let copy = tempfile::tempdir().context("could not make a directory")?;
    let manifests = deploy::directory().join("kubernetes");
    deploy::output(Command::new("cp").arg("-r").args([manifests.as_path(), copy.path()]))?;
    let mut at = copy.path().join("kubernetes").join(name);
    if !overlay.is_empty() {
        at = copy.path().to_owned();
        std::fs::write(at.join("kustomization.yaml"), overlay).context("could not write the overlay")?;
    }
    deploy::output(Command::new(kustomize).arg("build").arg(at)).with_context(|| format!("variant {name}"))
}

#[test]
fn every_variant_of_the_manifests_is_valid_in_every_kubernetes_from_1_28_to_1_36() -> Result<()> {
    const TEST: &str = "every_variant_of_the_manifests_is_valid_in_every_kubernetes_from_1_28_to_1_36";
    let Some(kustomize) = deploy::tool("kustomize", TEST) else { return Ok(()) };
    let Some(validate) = deploy::tool("kubernetes-validate/bin/kubernetes-validate", TEST) else { return Ok(()) };
    let directory = tempfile::tempdir().context("could not make a directory")?;
    let mut files = Vec::new();
    let mut expected = 0;
    for (name, overlay) in variants()? {
        let text = rendered(&kustomize, &name, &overlay)?;
        let objects = deploy::yaml(&text)?;
        ensure!(objects.iter().any(|object| object["kind"] == "DaemonSet"), "{name} has no DaemonSet: {text}");
        // The Prometheus Operator's own objects have no schema among those of Kubernetes.
        expected += objects.iter().filter(|object| object["kind"] != "PodMonitor").count();
        files.push(directory.path().join(format!("{name}.yaml")));
        std::fs::write(&files[files.len() - 1], text).context("could not write a file")?;
    }
    for minor in KUBERNETES {
        let mut check = Command::new(&validate);
        check.args(["--strict", "--kubernetes-version", &format!("1.{minor}")]).args(&files);
        let output = deploy::output(&mut check).with_context(|| format!("Kubernetes 1.{minor}"))?;
        // It passes what it has no schema for with a warning.
        let passed = output.lines().filter(|line| line.contains(" passed for resource ")).count();
        ensure!(passed == expected, "Kubernetes 1.{minor}: {expected} objects, but {output}");
    }
    // A check that cannot fail is none.
    let wrong = rendered(&kustomize, "base", "")?.replace("terminationGracePeriodSeconds:", "terminationGracePeriodSecs:");
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().context("could not make a file")?;
    std::fs::write(file.path(), wrong).context("could not write a file")?;
    let refused = deploy::output(Command::new(&validate).args(["--strict", "-k", "1.30"]).arg(file.path()));
    ensure!(refused.is_err(), "a key that does not exist was taken: {refused:?}");
    Ok(())
}

#[test]
fn no_manifest_has_a_field_that_the_api_server_does_not_keep() -> Result<()> {
    const TEST: &str = "no_manifest_has_a_field_that_the_api_server_does_not_keep";
    let Some(kustomize) = deploy::tool("kustomize", TEST) else { return Ok(()) };
    // Fields that Kubernetes' types leave out when they are false (`omitempty` of a plain bool): an object with one differs from
    // what the server has, and every apply reports `configured`.
    const LEFT_OUT: &[&str] = &["hostNetwork", "hostPID", "hostIPC", "readOnly", "stdin", "stdinOnce", "tty"];
    fn collect_dropped(value: &Json, found: &mut Vec<String>) {
        match value {
            Json::Array(list) => list.iter().for_each(|value| collect_dropped(value, found)),
            Json::Object(map) => map.iter().for_each(|(key, value)| {
                let empty = value.as_str() == Some("") || value.as_object().is_some_and(serde_json::Map::is_empty);
                // An empty apiGroup is the core one's name, and stands in a list.
                if empty || value.is_null() || LEFT_OUT.contains(&key.as_str()) && *value == false {
                    found.push(format!("{key}: {value}"));
                }
                collect_dropped(value, found);
            }),
            _ => {}
        }
    }
    for (name, overlay) in variants()? {
        let mut found = Vec::new();
        for object in deploy::yaml(&rendered(&kustomize, &name, &overlay)?)? {
            collect_dropped(&object, &mut found);
        }
        ensure!(found.is_empty(), "{name}: {found:?}");
    }
    let mut found = Vec::new();
    collect_dropped(&serde_json::json!({"spec": {"hostPID": false, "volumes": [{"emptyDir": {}}]}}), &mut found);
    ensure!(found.len() == 2, "a check that cannot fail is none: {found:?}");
    Ok(())
}

#[test]
fn every_component_is_in_the_readme() -> Result<()> {
    if !deploy::is_here("every_component_is_in_the_readme") {
        return Ok(());
    }
    let text = deploy::text(&deploy::directory().join("README.md"))?;
    let missing: Vec<String> = variants()?.into_iter().map(|(name, _)| name).collect();
    let missing: Vec<_> = missing.iter().filter(|name| !text.contains(name.as_str())).collect();
    ensure!(missing.is_empty(), "README does not name {missing:?}");
    // Nothing in it takes kustomize as a program of its own: kubectl has it built in.
    ensure!(!text.contains("kustomize edit") && !text.contains("kustomize build"), "README needs a standalone kustomize");
    Ok(())
}

#[test]
fn the_manifests_name_this_version_and_one_namespace() -> Result<()> {
    const TEST: &str = "the_manifests_name_this_version_and_one_namespace";
    let Some(kustomize) = deploy::tool("kustomize", TEST) else { return Ok(()) };
    for object in deploy::yaml(&rendered(&kustomize, "base", "")?)? {
        if let Some(namespace) = object["metadata"]["namespace"].as_str() {
            ensure!(namespace == "podmeter", "{object}");
        }
        if object["kind"] == "DaemonSet" {
            let pod = &object["spec"]["template"]["spec"];
            ensure!(pod["containers"][0]["image"] == format!("podmeter:{}", env!("CARGO_PKG_VERSION")), "{pod}");
            // The configuration's name holds its hash: a change of it rolls out.
            let config = pod["volumes"].as_array().into_iter().flatten().find(|volume| volume["name"] == "config");
            let config = config.and_then(|volume| volume["configMap"]["name"].as_str()).context("no configuration")?;
            ensure!(config.strip_prefix("podmeter-").is_some_and(|hash| hash.len() >= 8), "{config}");
        }
    }
    Ok(())
}

#[test]
fn no_variant_may_change_anything_in_the_cluster_or_sets_a_variable_that_the_agent_does_not_know() -> Result<()> {
    const TEST: &str = "no_variant_may_change_anything_in_the_cluster_or_sets_a_variable_that_the_agent_does_not_know";
    let Some(kustomize) = deploy::tool("kustomize", TEST) else { return Ok(()) };
    let reference = agent::run(&["config"], As::Root, Duration::from_secs(5))?.stdout;
    let mut unknown = BTreeSet::new();
    for (name, overlay) in variants()? {
        let objects = deploy::yaml(&rendered(&kustomize, &name, &overlay)?)?;
        let role =
            objects.iter().find(|object| object["kind"] == "ClusterRole").with_context(|| format!("{name} has no role"))?;
        for rule in role["rules"].as_array().with_context(|| format!("{name}: no rules in {role}"))? {
            let words = |key: &str| rule[key].as_array().into_iter().flatten().filter_map(Json::as_str).collect::<Vec<_>>();
            ensure!(words("verbs").iter().all(|verb| ["get", "list", "watch"].contains(verb)), "{name}: {rule}");
            let known = ["pods", "nodes", "nodes/pods", "namespaces"];
            ensure!(words("resources").iter().all(|resource| known.contains(resource)), "{name}: {rule}");
        }
        let daemon_set = objects.iter().find(|object| object["kind"] == "DaemonSet").with_context(|| format!("{name}: none"))?;
        let variables = daemon_set["spec"]["template"]["spec"]["containers"][0]["env"].as_array().context("no environment")?;
        for variable in variables.iter().filter_map(|variable| variable["name"].as_str()) {
            // HOST_IP is for other variables' values.
            if variable != "HOST_IP" && !reference.contains(variable) {
                unknown.insert(format!("{variable} in {name}"));
            }
        }
    }
    ensure!(unknown.is_empty(), "`podmeter config` does not have {unknown:?}");
    Ok(())
}

#[test]
fn the_agent_takes_the_configuration_that_the_manifests_give_it() -> Result<()> {
    const TEST: &str = "the_agent_takes_the_configuration_that_the_manifests_give_it";
    if !deploy::is_here(TEST) {
        return Ok(());
    }
    let text = deploy::text(&deploy::directory().join("kubernetes/base/config.yaml"))?;
    // `uninstall` reads it as `run` does, and here finds nothing to remove.
    let nothing = tempfile::tempdir().context("could not make a directory")?;
    let absent = format!("\nbpf:\n  directory: {}/absent\n", nothing.path().display());
    let run = |text: &str| {
        let file = agent::config_file(&format!("{text}{absent}"))?;
        let path = file.path().display().to_string();
        agent::run(&["uninstall", "--config", &path], As::Root, Duration::from_secs(5))
    };
    let output = run(&text)?;
    ensure!(output.code == Some(0) && output.stdout.contains("nothing is pinned"), "{output:?}");
    let output = run(&text.replace("listen:", "listens:"))?;
    ensure!(output.code == Some(2) && output.stderr.contains("listens"), "{output:?}");
    Ok(())
}

/// What podmeter's registry has.
struct Registry {
    /// Series, as Prometheus and VictoriaMetrics name them.
    series: BTreeSet<String>,
    /// Labels that are attributes of single points, not of resources.
    labels: BTreeSet<String>,
}

/// Asks the agent for it.
fn registry() -> Result<Registry> {
    let output = agent::run(&["metrics", "--json"], As::Root, Duration::from_secs(5))?;
    let metrics: Json = serde_json::from_str(&output.stdout).with_context(|| format!("no JSON: {output:?}"))?;
    let metrics = metrics.as_array().context("no list of metrics")?;
    let (mut series, mut labels) = (BTreeSet::new(), BTreeSet::new());
    for metric in metrics {
        labels.extend(metric["attributes"].as_array().into_iter().flatten().filter_map(Json::as_str).map(label));
        let name = metric["prometheus"].as_str().context("a metric without a name")?;
        series.insert(name.to_owned());
        if metric["kind"] == "exponential histogram" {
            series.extend(["_bucket", "_count", "_sum"].map(|suffix| format!("{name}{suffix}")));
        }
    }
    ensure!(series.len() > 20, "the registry has {series:?} only");
    Ok(Registry { series, labels })
}

/// The label that an attribute becomes.
fn label(attribute: &str) -> String {
    attribute.replace('.', "_")
}

/// The resource attributes that the example has Prometheus make labels of.
fn promoted() -> Result<BTreeSet<String>> {
    let text = deploy::text(&deploy::directory().join("collector/prometheus.yaml"))?;
    let config = deploy::yaml(&text)?.pop().context("the example is empty")?;
    let promoted = config["otlp"]["promote_resource_attributes"].as_array().context("nothing is promoted")?.iter();
    Ok(promoted.filter_map(Json::as_str).map(label).collect())
}

/// Documents with queries.
const DOCUMENTS: &[&str] = &["README.md", "docs/operating.md", "docs/patterns.md", "docs/querying.md"];

/// Every expression of the rules, tests of rules, dashboards and documents, with the file it is in.
fn expressions() -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for document in DOCUMENTS {
        let queries = deploy::documented_queries(document)?.into_iter();
        found.extend(queries.map(|query| ((*document).to_owned(), query)));
    }
    for file in [deploy::files("prometheus")?, deploy::files("grafana")?].concat() {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("yaml") => {
                for document in deploy::yaml(&deploy::text(&file)?)? {
                    collect(&document, &["expr", "series"], &mut |expression| found.push((name.clone(), expression.to_owned())));
                }
            }
            Some("json") => {
                let document = serde_json::from_str(&deploy::text(&file)?).with_context(|| format!("{name} is no JSON"))?;
                collect(&document, &["expr", "series"], &mut |expression| found.push((name.clone(), expression.to_owned())));
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Every text under one of these keys.
fn collect(value: &Json, keys: &[&str], found: &mut impl FnMut(&str)) {
    match value {
        Json::Array(list) => list.iter().for_each(|value| collect(value, keys, found)),
        Json::Object(map) => map.iter().for_each(|(key, value)| match value {
            Json::String(text) if keys.contains(&key.as_str()) => found(text),
            value => collect(value, keys, found),
        }),
        _ => {}
    }
}

#[test]
fn every_series_that_rules_dashboards_and_documents_query_is_in_the_registry() -> Result<()> {
    const TEST: &str = "every_series_that_rules_dashboards_and_documents_query_is_in_the_registry";
    if !deploy::is_here(TEST) {
        return Ok(());
    }
    let registry = registry()?.series;
    let expressions = expressions()?;
    let files: BTreeSet<&str> = expressions.iter().map(|(file, _)| file.as_str()).collect();
    for file in ["rules.yaml", "victoriametrics.yaml", "panels.json", "podmeter-victoriametrics.json"] {
        ensure!(files.contains(file), "no expression was found in {file}, only in {files:?}");
    }
    let mut unknown: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (file, expression) in &expressions {
        for series in promql::names(&expression.replace("$__rate_interval", "1m")).series {
            if !registry.contains(&series) {
                unknown.entry(series).or_default().insert(file);
            }
        }
    }
    ensure!(unknown.is_empty(), "not in the registry:\n{unknown:#?}");
    Ok(())
}

#[test]
fn every_label_that_rules_dashboards_and_documents_query_is_a_points_own_or_promoted_by_the_example() -> Result<()> {
    const TEST: &str = "every_label_that_rules_dashboards_and_documents_query_is_a_points_own_or_promoted_by_the_example";
    if !deploy::is_here(TEST) {
        return Ok(());
    }
    let (own, promoted) = (registry()?.labels, promoted()?);
    let mut unknown: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, expression) in expressions()? {
        for name in promql::names(&expression.replace("$__rate_interval", "1m")).labels {
            // Tests of rules and the panels' own words for selectors are no queries of a back end.
            let written = expression.contains(&format!("${name}"));
            if !written && name != "vmrange" && !own.contains(&name) && !promoted.contains(&name) {
                unknown.entry(name).or_default().insert(file.clone());
            }
        }
    }
    ensure!(unknown.is_empty(), "neither in the registry nor promoted:\n{unknown:#?}");
    Ok(())
}

#[test]
fn the_collectors_example_uses_what_it_defines_and_defines_what_it_uses() -> Result<()> {
    const TEST: &str = "the_collectors_example_uses_what_it_defines_and_defines_what_it_uses";
    if !deploy::is_here(TEST) {
        return Ok(());
    }
    let config = deploy::yaml(&deploy::text(&deploy::directory().join("collector/gateway.yaml"))?)?.pop().context("empty")?;
    let names = |value: &Json| -> BTreeSet<String> {
        value.as_array().into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    // What agents send: metrics, and OOM records as logs.
    for (signal, taken_at) in [("metrics", "metrics_endpoint"), ("logs", "logs_endpoint")] {
        let pipeline = &config["service"]["pipelines"][signal];
        for kind in ["receivers", "processors", "exporters"] {
            let defined: BTreeSet<String> =
                config[kind].as_object().with_context(|| format!("no {kind}"))?.keys().cloned().collect();
            let used = names(&pipeline[kind]);
            ensure!(!used.is_empty() && used.is_subset(&defined), "{signal}: {kind}: {used:?} of {defined:?}");
        }
        // What limits memory comes first, or what it refuses was held already.
        ensure!(pipeline["processors"][0] == "memory_limiter", "{pipeline}");
        for exporter in names(&pipeline["exporters"]) {
            let exporter = &config["exporters"][&exporter];
            ensure!(exporter[taken_at].is_string() || exporter["endpoint"].is_string(), "{exporter} takes no {signal}");
        }
    }
    // Names that the collector has given up: it warns of each at every start.
    for exporter in config["exporters"].as_object().context("no exporters")?.keys() {
        let component = exporter.split('/').next().unwrap_or_default();
        ensure!(!["otlp", "otlphttp", "logging"].contains(&component), "{exporter} is a deprecated alias");
    }
    let defined: BTreeSet<String> = config["extensions"].as_object().context("no extensions")?.keys().cloned().collect();
    ensure!(names(&config["service"]["extensions"]) == defined, "extensions: {defined:?}");
    Ok(())
}

#[test]
fn prometheus_takes_the_example_of_its_configuration() -> Result<()> {
    let Some(promtool) = deploy::tool("promtool", "prometheus_takes_the_example_of_its_configuration") else { return Ok(()) };
    let text = deploy::text(&deploy::directory().join("collector/prometheus.yaml"))?;
    let rules = deploy::directory().join("prometheus/rules.yaml").canonicalize().context("the rules are not there")?;
    let config = agent::config_file(&text.replace("/etc/prometheus/podmeter/rules.yaml", &rules.display().to_string()))?;
    let output = deploy::output(Command::new(promtool).args(["check", "config"]).arg(config.path()))?;
    ensure!(output.contains("1 rule files found"), "{output}");
    Ok(())
}
