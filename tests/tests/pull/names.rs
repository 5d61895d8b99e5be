//! Names: those of `/metrics`, against the exported ones by the rules by which Prometheus names what comes by OTLP, the list of metrics,
//! and the queries of the documents.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    MS, SECOND,
    agent::{self, Agent, As},
    cgroup, deploy,
    kubernetes::{ApiOptions, Cluster, Container, Driver, Pod},
    load::Load,
    otlp::{Exports, Value},
    promql, root_test,
};
use serde_json::{Value as Json, json};

use crate::scrape;

/// Series of the document of what this test's pod does not do or meet: packets to other hosts, lookups, drops, syncs of files; a start, an end
/// and an eviction while the agent runs.
const NOT_DONE: &[&str] = &[
    "dns_lookup_duration_seconds_bucket",
    "podmeter_disk_fsync_duration_seconds_bucket",
    "podmeter_network_drops_total",
    "podmeter_network_egress_bytes_total",
    "podmeter_pod_disruptions_total",
    "podmeter_pod_run_duration_seconds",
    "podmeter_pod_start_duration_seconds_bucket",
];

/// One of what only a memory controller knows.
const OF_MEMORY: &str = "podmeter_memory_unreclaimable_bytes";

/// An entry of the list of metrics.
pub(crate) struct Listed {
    /// As it is exported.
    name: String,
    unit: String,
    kind: String,
    /// As it is fetched.
    pub(crate) fetched: String,
    /// Labels that its series have beside those of their resource.
    pub(crate) labels: BTreeSet<String>,
}

/// What `podmeter metrics` lists, by the names of exports.
pub(crate) fn listed() -> Result<BTreeMap<String, Listed>> {
    let output = agent::run(&["metrics", "--json"], As::Root, Duration::from_secs(5))?;
    let metrics: Vec<Json> = serde_json::from_str(&output.stdout).with_context(|| format!("no list: {output:?}"))?;
    let entry = |metric: &Json| {
        let text = |key: &str| metric[key].as_str().map(str::to_owned).with_context(|| format!("no {key} in {metric}"));
        let labels = metric["attributes"].as_array().into_iter().flatten().filter_map(Json::as_str);
        let labels = labels.map(|attribute| attribute.replace('.', "_")).collect();
        let entry =
            Listed { name: text("name")?, unit: text("unit")?, kind: text("kind")?, fetched: text("prometheus")?, labels };
        anyhow::Ok((entry.name.clone(), entry))
    };
    metrics.iter().map(entry).collect()
}

/// The name by the rules of OpenTelemetry's "Prometheus and OpenMetrics Compatibility": words of letters and digits, the unit written out
/// unless it is one of the words, `ratio` for gauges of the unit 1, `total` at the end of counters.
fn by_the_rules(metric: &Listed) -> Result<String> {
    let mut words: Vec<&str> = metric.name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let unit = match (metric.unit.as_str(), metric.kind.as_str()) {
        ("s", _) => Some("seconds"),
        ("By", _) => Some("bytes"),
        ("1", "gauge") => Some("ratio"),
        (annotation, _) if annotation.starts_with('{') && annotation.ends_with('}') => None,
        (unit, kind) => anyhow::bail!("this test does not know how a {kind} of the unit {unit} is named"),
    };
    if let Some(unit) = unit.filter(|unit| !words.contains(unit)) {
        words.push(unit);
    }
    if metric.kind == "counter" {
        words.retain(|word| *word != "total");
        words.push("total");
    }
    Ok(words.join("_"))
}

/// Names of the metrics that have a value at the time of the newest export, or, without `newest`, ever had one.
fn exported(exports: &Exports, newest: bool) -> BTreeSet<String> {
    let wanted = |time: u64| !newest || time == exports.latest_unix_ns();
    let points = exports.points().filter(|point| wanted(point.time_unix_ns) && !matches!(point.value, Value::Absent));
    points.map(|point| point.metric.to_string()).collect()
}

#[test]
fn every_metric_is_listed_with_the_name_that_the_rules_of_otlp_make_of_it() -> Result<()> {
    for metric in listed()?.values() {
        let expected = by_the_rules(metric)?;
        ensure!(metric.fetched == expected, "{} is listed as {}, not as {expected}", metric.name, metric.fetched);
    }
    Ok(())
}

root_test! {
    fn what_is_fetched_has_the_names_of_what_is_exported_and_of_the_queries_in_the_document() {
        let list = listed()?;
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        let resources = || json!({"cpu": "500m", "memory": "64Mi"});
        let app = Container::started("app").with_resources(resources(), resources());
        let pod = cluster.run_pod(Pod::new("named", vec![app]))?;
        let mut config = cluster.server.agent_config()?;
        config["export"] = json!({"exporter": "stdout", "pull": true});
        let agent = Agent::start(config)?;
        Load::duty_cycle(30 * MS, 300 * MS, 2 * SECOND).start(&pod.container)?.wait()?;
        agent.catch_up()?;
        agent.catch_up()?;
        let before = agent.look(|exports| exported(exports, true));
        let (_, body) = scrape(&agent, "")?;
        agent.catch_up()?;
        let (after, ever) = agent.look(|exports| (exported(exports, true), exported(exports, false)));

        let text = String::from_utf8(body).context("is no text")?;
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let fetched: BTreeMap<&str, &str> = types.filter(|(name, _)| *name != "target_info").collect();
        for (name, kind) in &fetched {
            let of = list.values().find(|metric| metric.fetched == *name).with_context(|| format!("{name} is not in the list"))?;
            ensure!(of.kind.ends_with(kind), "{name} is a {kind}, and {} in the list", of.kind);
            ensure!(ever.contains(&of.name), "{name} is fetched, and {} was never exported", of.name);
        }
        for name in before.intersection(&after) {
            let listed = list.get(name).with_context(|| format!("{name} is not in the list"))?;
            ensure!(fetched.contains_key(&*listed.fetched), "{name} is exported, and {} is not fetched", listed.fetched);
        }

        if deploy::is_here(TEST) {
            let is_fetched = |series: &str| {
                let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| series.strip_suffix(suffix));
                fetched.contains_key(series) || histogram.is_some_and(|name| fetched.get(name) == Some(&"histogram"))
            };
            let has_memory = cgroup::has_controller("memory")?;
            let queries = deploy::documented_queries("docs/querying.md")?;
            let series: BTreeSet<String> = queries.iter().flat_map(|query| promql::names(query).series).collect();
            let absent: Vec<&str> = series.iter().map(String::as_str).filter(|series| !is_fetched(series)).collect();
            println!("{} names, {} series of the document, of which {absent:?} are not there", fetched.len(), series.len());
            let may_be_absent = |series: &str| NOT_DONE.contains(&series) || series == OF_MEMORY && !has_memory;
            ensure!(absent.iter().all(|series| may_be_absent(series)), "not in /metrics: {absent:?}");
        }
        agent.stop().map(drop)
    }
}
