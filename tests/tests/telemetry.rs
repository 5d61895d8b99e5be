//! podmeter's telemetry about itself: what a backend of traces and logs gets of a running agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::MetadataExt as _,
};

use anyhow::{Context as _, Result, ensure};
use opentelemetry_proto::tonic::{
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use podmeter_tests::{SECOND, agent::Agent, cgroup::Cgroup, collector::Collector, root_test};
use serde_json::json;

/// All spans that a collector has.
fn spans(collector: &Collector) -> Vec<Span> {
    let of_resources = collector.traces().into_iter().flat_map(|request| request.resource_spans);
    of_resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
}

fn attribute<'a>(span: &'a Span, key: &str) -> Option<&'a Value> {
    span.attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()
}

fn number(span: &Span, key: &str) -> Result<i64> {
    match attribute(span, key) {
        Some(Value::IntValue(number)) => Ok(*number),
        other => anyhow::bail!("{} has {other:?} as {key}", span.name),
    }
}

/// Whether a collection has all that it consists of, what it is being part of it, and sizes that are true.
fn check(collection: &Span, of_it: &BTreeMap<Vec<u8>, Vec<&Span>>) -> Result<()> {
    let parts = of_it.get(&collection.span_id).context("a collection of nothing")?;
    let named = |name: &str| parts.iter().copied().filter(|span| span.name == name).collect::<Vec<_>>();
    for part in ["walk", "join", "budget and series", "encode"] {
        ensure!(named(part).len() == 1, "{} times {part}", named(part).len());
    }
    let signal = |span: &&Span| match attribute(span, "podmeter.signal") {
        Some(Value::StringValue(signal)) => signal.clone(),
        other => format!("{other:?}"),
    };
    let signals: BTreeSet<_> = named("read").iter().map(signal).collect();
    ensure!(signals.contains("cpu") && signals.contains("memory"), "reads of {signals:?}");
    for part in parts {
        let within = collection.start_time_unix_nano <= part.start_time_unix_nano
            && part.end_time_unix_nano <= collection.end_time_unix_nano;
        ensure!(within, "{} is not within its collection", part.name);
    }
    let encode = named("encode")[0];
    let of_encode = of_it.get(&encode.span_id).map_or(&[][..], |spans| spans);
    // What is written to the journal is read from it and sent.
    let steps = [("write to journal", SpanKind::Internal), ("read from journal", SpanKind::Internal), ("send", SpanKind::Client)];
    let (requests, bytes) = (number(encode, "podmeter.requests")?, number(encode, "podmeter.bytes")?);
    for (step, kind) in steps {
        let spans: Vec<_> = of_encode.iter().filter(|span| span.name == step).collect();
        ensure!(spans.len() as i64 == requests && spans.iter().all(|span| span.kind == kind as i32), "{step}: {spans:?}");
        let sum: i64 = spans.iter().map(|span| number(span, "podmeter.bytes")).sum::<Result<_>>()?;
        ensure!(sum == bytes, "{step}: {sum} of {bytes} bytes");
    }
    ensure!(of_encode.len() as i64 == 3 * requests, "{of_encode:?}");
    ensure!(number(encode, "podmeter.bytes_before_compression")? > bytes, "nothing was compressed");
    Ok(())
}

root_test! {
    fn traces_and_log_lines_of_the_agent_go_where_they_are_configured_to() {
        for protocol in ["grpc", "http/protobuf"] {
            let own = Collector::start()?;
            let journal = tempfile::tempdir().context("could not make a directory")?;
            let agent = Agent::spawn_in(
                json!({
                    "interval": "1s",
                    "journal": {"directory": journal.path()},
                    "export": {"exporter": "otlp", "endpoint": own.grpc_endpoint(), "protocol": protocol},
                    "telemetry": {"traces": true, "logs": true},
                    "resource": {"attributes": {"team": "nodes"}},
                }),
                &[
                    ("OTEL_BSP_SCHEDULE_DELAY", "200"),
                    ("OTEL_BLRP_SCHEDULE_DELAY", "200"),
                    ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
                ],
            )?;
            own.wait_until("four collections", |own| spans(own).iter().filter(|span| span.name == "send").count() >= 4)?;
            own.wait_until("log lines", |own| !own.logs().is_empty())?;
            let lines: BTreeSet<String> = own
                .logs()
                .into_iter()
                .flat_map(|request| request.resource_logs)
                .flat_map(|resource| resource.scope_logs)
                .flat_map(|scope| scope.log_records)
                .filter_map(|record| match record.body?.value? {
                    Value::StringValue(line) => Some(line),
                    _ => None,
                })
                .collect();
            ensure!(lines.contains("podmeter runs"), "{protocol}: log lines {lines:?}");

            let ended = agent.stop()?;
            ensure!(!ended.stderr.contains("could not send podmeter's own"), "{protocol}: {}", ended.stderr);
            let resources: Vec<_> = own.traces().into_iter().flat_map(|request| request.resource_spans).collect();
            let of_agent = resources[0].resource.clone().context("no resource")?.attributes;
            let keys: BTreeSet<_> = of_agent.iter().map(|attribute| attribute.key.as_str()).collect();
            for key in ["service.name", "service.version", "service.instance.id", "host.name", "team"] {
                ensure!(keys.contains(key), "{protocol}: no {key} in {keys:?}");
            }

            let spans = spans(&own);
            let mut of_it: BTreeMap<Vec<u8>, Vec<&Span>> = BTreeMap::new();
            for span in &spans {
                ensure!(span.status.as_ref().is_none_or(|status| status.code != StatusCode::Error as i32), "{span:?}");
                of_it.entry(span.parent_span_id.clone()).or_default().push(span);
            }
            let collections = of_it.get(&Vec::new()).context("no span is the first")?;
            ensure!(collections.iter().all(|span| span.name == "collection"), "{protocol}: {collections:?}");
            for collection in collections {
                check(collection, &of_it).with_context(|| format!("{protocol}, of {} collections", collections.len()))?;
            }
            println!("{protocol}: {} collections, {} spans, {} log lines", collections.len(), spans.len(), lines.len());
        }
        Ok(())
    }
}

root_test! {
    fn a_backend_of_traces_that_is_away_costs_nothing_but_a_line() {
        let nowhere = format!("http://{}", podmeter_tests::http::free_address()?);
        let agent = Agent::start(json!({
            "interval": "1s",
            "export": {"traces": {"endpoint": nowhere, "timeout": "1s"}},
            "telemetry": {"traces": true},
        }))?;
        agent.wait_for_log("could not send podmeter's own traces", 40 * SECOND)?;
        agent.catch_up()?;
        agent.catch_up()?;
        let ended = agent.stop()?;
        let lines = ended.stderr.matches("could not send podmeter's own traces").count();
        ensure!(lines == 1, "{lines} lines: {}", ended.stderr);
        Ok(())
    }
}

root_test! {
    fn with_its_log_on_the_kernel_side_names_the_cgroups_that_found_no_slot() {
        const SLOTS: u32 = 16;
        let config = json!({"interval": "1s", "bpf": {"log": true}, "cgroups": {"slots": SLOTS, "max_slots": SLOTS}});
        let agent = Agent::start(config)?;
        const WITHOUT: &str = "podmeter.agent.cgroups.without_slot";
        agent.catch_up()?;
        // Of those that were there before it the agent itself knows.
        let before = agent.look(|exports| exports.node_value(WITHOUT, &[])).unwrap_or(0.0);
        let cgroups = (0..2 * SLOTS).map(|_| Cgroup::new("log")).collect::<Result<Vec<_>>>()?;
        let ids = cgroups.iter().map(|cgroup| Ok(std::fs::metadata(cgroup.dir())?.ino())).collect::<Result<BTreeSet<u64>>>()?;
        let without = agent.wait_for("cgroups without a slot", 20 * SECOND, |exports| {
            exports.node_value(WITHOUT, &[]).map(|n| n - before).filter(|n| *n >= f64::from(SLOTS))
        })?;
        agent.wait_for_log("found no slot", 20 * SECOND)?;
        let log = agent.stop()?.stderr;
        let named: Vec<u64> = log
            .lines()
            .filter(|line| line.contains("podmeter::kernel_log") && line.contains("found no slot"))
            .filter_map(|line| line.split("cgroup ").nth(1)?.split(' ').next()?.parse().ok())
            .collect();
        let own = named.iter().filter(|id| ids.contains(id)).count();
        println!("{without} cgroups had no slot; {} are named, {own} of them this test's {}", named.len(), ids.len());
        ensure!(named.len() as f64 >= without, "{named:?} of {without}");
        ensure!(own >= SLOTS as usize, "{own} of {} are named", ids.len());
        Ok(())
    }
}
