//! When counting began: as `/metrics` has it, against the start times of the same series in exports.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{MS, SECOND, agent::Agent, cgroup::Cgroup, load::Load, otlp::Exports, root_test};
use serde_json::json;

use crate::{
    PROTOBUF, Timestamp, families,
    names::{Listed, listed},
    scrape,
};

/// The label with the cgroup, where a series has one.
const PATH: &str = "podmeter_cgroup_path";

/// A name without `_total`, the cgroup, and the labels of the series' own.
type Series = (String, String, BTreeMap<String, String>);

/// Names and own labels of what is fetched, by name without `_total`.
type Own = BTreeMap<String, BTreeSet<String>>;

fn base(name: &str) -> &str {
    name.strip_suffix("_total").unwrap_or(name)
}

fn own(list: &BTreeMap<String, Listed>) -> Own {
    list.values().map(|metric| (base(&metric.fetched).to_owned(), metric.labels.clone())).collect()
}

/// A series by its name and all its labels. `None` where the name is not in the list.
fn series(name: &str, mut labels: BTreeMap<String, String>, own: &Own) -> Option<Series> {
    let cgroup = labels.remove(PATH).unwrap_or_default();
    let of_metric = own.get(base(name))?;
    labels.retain(|label, _| of_metric.contains(label));
    Some((base(name).to_owned(), cgroup, labels))
}

/// The start times in ns that each counter and histogram has had in exports, and those at the time of the newest one.
fn exported(exports: &Exports, list: &BTreeMap<String, Listed>) -> (BTreeMap<Series, BTreeSet<u64>>, BTreeSet<Series>) {
    let (mut starts, mut newest) = (BTreeMap::<_, BTreeSet<u64>>::new(), BTreeSet::new());
    for point in exports.points().filter(|point| point.counter) {
        let Some(listed) = list.get(&*point.metric) else { continue };
        let labels = point.attributes.iter().filter(|(_, value)| !value.is_empty());
        let labels = labels.map(|(name, value)| (name.replace('.', "_"), value.clone())).collect();
        let cgroup = point.resource.get("podmeter.cgroup.path").cloned().unwrap_or_default();
        let series = (base(&listed.fetched).to_owned(), cgroup, labels);
        if point.time_unix_ns == exports.latest_unix_ns() {
            newest.insert(series.clone());
        }
        starts.entry(series).or_default().insert(point.start_unix_ns);
    }
    (starts, newest)
}

/// Labels as text has them: `a="b",c="d"`.
fn labels(text: &str) -> Result<BTreeMap<String, String>> {
    let (mut labels, mut rest) = (BTreeMap::new(), text);
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"").with_context(|| format!("no label: {rest}"))?;
        let (mut unescaped, mut end, mut escaped) = (String::new(), None, false);
        for (at, c) in value.char_indices() {
            match c {
                'n' if escaped => unescaped.push('\n'),
                '\\' if !escaped => {
                    escaped = true;
                    continue;
                }
                '"' if !escaped => {
                    end = Some(at);
                    break;
                }
                c => unescaped.push(c),
            }
            escaped = false;
        }
        let end = end.with_context(|| format!("no end of a label: {rest}"))?;
        labels.insert(name.to_owned(), unescaped);
        rest = value[end + 1..].trim_start_matches(',');
    }
    Ok(labels)
}

/// When each series began in ns, to a ms, by its line `_created`.
fn created(text: &str, own: &Own) -> Result<BTreeMap<Series, u64>> {
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').with_context(|| format!("no value: {line}"))?;
        let (name, text) = name.split_once('{').map_or((name, ""), |(name, rest)| (name, rest.trim_end_matches('}')));
        let Some(name) = name.strip_suffix("_created") else { continue };
        let (seconds, ms) = value.split_once('.').with_context(|| format!("no time in ms: {line}"))?;
        ensure!(ms.len() == 3, "no time in ms: {line}");
        let ms = seconds.parse::<u64>()? * 1000 + ms.parse::<u64>()?;
        let series = series(name, labels(text)?, own).with_context(|| format!("{name} is not in the list"))?;
        found.insert(series, ms * 1_000_000);
    }
    Ok(found)
}

/// When each series began in ns, by protobuf.
fn created_timestamps(body: &[u8], own: &Own) -> Result<BTreeMap<Series, u64>> {
    let mut found = BTreeMap::new();
    for family in families(body)? {
        for metric in family.metric {
            let of_counter = metric.counter.and_then(|counter| counter.created_timestamp);
            let of_histogram = metric.histogram.and_then(|histogram| histogram.created_timestamp);
            let Some(Timestamp { seconds, nanos }) = of_counter.or(of_histogram) else { continue };
            let labels = metric.label.into_iter().map(|pair| (pair.name, pair.value)).collect();
            let series = series(&family.name, labels, own).with_context(|| format!("{} is not in the list", family.name))?;
            found.insert(series, seconds.cast_unsigned() * 1_000_000_000 + u64::from(nanos.cast_unsigned()));
        }
    }
    Ok(found)
}

root_test! {
    fn a_series_that_is_fetched_began_when_the_exported_one_did() {
        let list = listed()?;
        let own = own(&list);
        let agent = Agent::start(json!({"export": {"pull": true}}))?;
        let cgroup = Cgroup::new("began")?;
        Load::duty_cycle(30 * MS, 300 * MS, 2 * SECOND).start(&cgroup)?.wait()?;
        agent.catch_up()?;
        agent.catch_up()?;
        let (_, before) = agent.look(|exports| exported(exports, &list));
        let (_, text) = scrape(&agent, "Accept: application/openmetrics-text;version=1.0.0\r\n")?;
        let (_, messages) = scrape(&agent, &format!("Accept: {PROTOBUF}\r\n"))?;
        agent.catch_up()?;
        let (starts, after) = agent.look(|exports| exported(exports, &list));

        let text = created(&String::from_utf8(text).context("is no text")?, &own)?;
        let messages = created_timestamps(&messages, &own)?;
        for (what, fetched, exact_ns) in [("OpenMetrics", &text, 1_000_000), ("protobuf", &messages, 1)] {
            let of_cgroup = fetched.keys().filter(|(_, path, _)| path == cgroup.path()).count();
            println!("{what}: {} series with a start, {of_cgroup} of them of {}", fetched.len(), cgroup.path());
            ensure!(of_cgroup >= 5, "{what}: {of_cgroup} series of {}", cgroup.path());
            for (series, start) in fetched {
                let exported = starts.get(series).with_context(|| format!("{what}: {series:?} was never exported"))?;
                let same = exported.iter().any(|exported| exported.abs_diff(*start) < exact_ns);
                ensure!(same, "{what}: {series:?} began at {start}, by exports at {exported:?}");
            }
            let missing: Vec<_> = before.intersection(&after).filter(|series| !fetched.contains_key(*series)).collect();
            ensure!(missing.is_empty(), "{what}: exported, and without a start here: {missing:?}");
        }
        agent.stop().map(drop)
    }
}
