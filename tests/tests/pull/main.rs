//! `/metrics`: what comes out of it, against what the same agent exports, by promtool, and by a back end that fetches it.

mod names;
mod starts;

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{MS, SECOND, agent::Agent, cgroup::Cgroup, deploy, http, load::Load, root_test, victoria::VictoriaMetrics};
use prost::Message;
use serde_json::json;

const PROTOBUF: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";

/// As far as the tests read it: `io.prometheus.client.MetricFamily`.
#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Counter>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct Counter {
    #[prost(message, optional, tag = "3")]
    created_timestamp: Option<Timestamp>,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, PartialEq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, tag = "1")]
    count: u64,
    #[prost(double, tag = "2")]
    sum: f64,
    #[prost(sint32, tag = "5")]
    schema: i32,
    #[prost(uint64, tag = "7")]
    zero_count: u64,
    #[prost(message, repeated, tag = "12")]
    span: Vec<Span>,
    #[prost(sint64, repeated, tag = "13")]
    delta: Vec<i64>,
    #[prost(message, optional, tag = "15")]
    created_timestamp: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

impl Histogram {
    /// Counts by the index that OTLP gives a bucket: Prometheus numbers them by their upper bounds.
    fn buckets(&self) -> Result<BTreeMap<i32, u64>> {
        let (mut buckets, mut index, mut count) = (BTreeMap::new(), -1, 0);
        let mut deltas = self.delta.iter();
        for span in &self.span {
            index += span.offset;
            for _ in 0..span.length {
                count += deltas.next().context("a bucket without a count")?;
                if count > 0 {
                    buckets.insert(index, count.cast_unsigned());
                }
                index += 1;
            }
        }
        ensure!(deltas.next().is_none(), "a count without a bucket: {self:?}");
        Ok(buckets)
    }
}

fn scrape(agent: &Agent, headers: &str) -> Result<(String, Vec<u8>)> {
    let (status, head, body) = http::get_with(agent.address(), "/metrics", headers)?;
    ensure!(status == 200, "{head}\n{}", String::from_utf8_lossy(&body));
    Ok((head.to_lowercase(), body))
}

/// All families of a scrape in protobuf.
fn families(body: &[u8]) -> Result<Vec<MetricFamily>> {
    let (mut rest, mut families) = (body, Vec::new());
    while !rest.is_empty() {
        families.push(MetricFamily::decode_length_delimited(&mut rest).context("is no MetricFamily")?);
    }
    Ok(families)
}

root_test! {
    fn metrics_are_served_only_where_that_is_switched_on() {
        let agent = Agent::start(json!({}))?;
        let (status, text) = http::get(agent.address(), "/metrics")?;
        ensure!(status == 404 && text.contains("export.pull"), "{status} {text}");
        agent.stop().map(drop)
    }
}

root_test! {
    fn what_is_fetched_is_what_is_exported_and_promtool_finds_no_fault_in_it() {
        let agent = Agent::start(json!({"export": {"pull": true}}))?;
        let cgroup = Cgroup::new("pull")?;
        Load::duty_cycle(30 * MS, 300 * MS, 2 * SECOND).start(&cgroup)?.wait()?;
        agent.catch_up()?;
        agent.catch_up()?;
        let (head, body) = scrape(&agent, "")?;
        let text = String::from_utf8(body).context("is no text")?;
        ensure!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        let path = format!("podmeter_cgroup_path=\"{}\"", cgroup.path());
        let value = |name: &str| -> Result<f64> {
            let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")) && line.contains(&path));
            let value = line.and_then(|line| line.rsplit(' ').next()).with_context(|| format!("no {name} of {path}"))?;
            value.parse().with_context(|| value.to_owned())
        };
        let time = value("container_cpu_time_seconds_total")?;
        let exported = agent.look(|exports| exports.history(cgroup.path(), "container.cpu.time"));
        ensure!(time > 0.1 && exported.iter().any(|(_, value)| *value == time), "{time} is none of {exported:?}");

        let (head, body) = scrape(&agent, "Accept: application/openmetrics-text;version=1.0.0\r\nAccept-Encoding: gzip\r\n")?;
        ensure!(head.contains("content-encoding: gzip") && head.contains("openmetrics-text; version=1.0.0"), "{head}");
        let mut open = String::new();
        flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut open).context("is no gzip")?;
        ensure!(open.ends_with("\n# EOF\n") && open.contains("container_cpu_time_seconds_created{"), "{open}");

        if let Some(promtool) = deploy::tool("promtool", TEST) {
            let mut check = Command::new(promtool).args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
            check.stdin.take().context("no input")?.write_all(text.as_bytes())?;
            let output = check.wait_with_output()?;
            // What OpenTelemetry names so for a system is a count, and no part of a histogram.
            let named_so = |line: &&str| line.starts_with("system_") && line.contains("should not have \"_count\" suffix");
            let complaints = String::from_utf8_lossy(&output.stderr);
            let complaints: Vec<&str> = complaints.lines().filter(|line| !line.is_empty() && !named_so(line)).collect();
            ensure!(complaints.is_empty(), "{complaints:?}");
            ensure!(output.status.success() || !output.stderr.is_empty(), "promtool ended with {}", output.status);
        }
        agent.stop().map(drop)
    }
}

root_test! {
    fn native_histograms_have_the_buckets_of_the_export() {
        let agent = Agent::start(json!({"export": {"pull": true}}))?;
        let cgroup = Cgroup::new("native")?;
        Load::duty_cycle(30 * MS, 300 * MS, 2 * SECOND).start(&cgroup)?.wait()?;
        agent.catch_up()?;
        let began = Instant::now();
        let (head, body) = scrape(&agent, &format!("Accept: {PROTOBUF}\r\n"))?;
        println!("{} bytes of protobuf in {:?}", body.len(), began.elapsed());
        ensure!(head.contains("application/vnd.google.protobuf"), "{head}");
        let bursts = families(&body)?.into_iter().find(|family| family.name == "podmeter_cpu_burst").context("no bursts")?;
        let of_cgroup = |pair: &LabelPair| pair.name == "podmeter_cgroup_path" && pair.value == cgroup.path();
        let metric = bursts.metric.into_iter().find(|metric| metric.label.iter().any(of_cgroup));
        let native = metric.and_then(|metric| metric.histogram).context("no bursts of the cgroup")?;
        let exported: Vec<_> = agent.look(|exports| {
            exports.histograms(cgroup.path(), "podmeter.cpu.burst").map(|(_, histogram)| histogram.clone()).collect()
        });
        let same = exported.iter().find(|exported| exported.count == native.count).with_context(|| format!("{native:?}: {exported:?}"))?;
        ensure!(native.sum == same.sum && native.zero_count == same.zero_count && native.schema == 3, "{native:?} is not {same:?}");
        ensure!(native.buckets()? == same.buckets, "{native:?} is not {same:?}");
        agent.stop().map(drop)
    }
}

root_test! {
    fn a_back_end_that_fetches_finds_the_series_by_the_same_query() {
        let agent = Agent::start(json!({"export": {"pull": true}}))?;
        let cgroup = Cgroup::new("fetched")?;
        Load::duty_cycle(30 * MS, 300 * MS, SECOND).start(&cgroup)?.wait()?;
        let Some(backend) = VictoriaMetrics::scraping(TEST, agent.address())? else { return Ok(()) };
        let truth = cgroup.cpu_stat()?.usage_seconds();
        let query = format!(r#"container_cpu_time_seconds_total{{podmeter_cgroup_path="{}"}}"#, cgroup.path());
        backend.wait_for_value(&query, |value| (value / truth - 1.0).abs() < 0.01)?;
        agent.stop().map(drop)
    }
}
