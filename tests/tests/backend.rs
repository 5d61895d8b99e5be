//! End to end with a real back end: what VictoriaMetrics answers, against `cpu.stat` and a histogram of known values.

use std::thread;

use anyhow::{Context as _, Result, ensure};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use podmeter_tests::{
    MS, SECOND,
    agent::{Agent, unix_ns},
    bpffs::BpfDir,
    cgroup::Cgroup,
    http,
    load::Load,
    root_test,
    truth::Tolerance,
    victoria::{OTLP_PATH, VictoriaMetrics},
};
use prost::Message as _;
use serde_json::json;

#[test]
fn the_backend_gives_back_a_histogram_whose_percentiles_are_known() -> Result<()> {
    let Some(backend) = VictoriaMetrics::for_test("the_backend_gives_back_a_histogram_whose_percentiles_are_known")? else {
        return Ok(());
    };
    // 60 idle windows, 30 with 0.3 CPU, 10 with one CPU.
    let mut counts = [0u64; 14];
    (counts[0], counts[13]) = (30, 10);
    let counts: Vec<String> = counts.iter().map(u64::to_string).collect();
    let now = unix_ns();
    let request = json!({"resourceMetrics": [{
    "resource": {"attributes": [{"key": "podmeter.cgroup.path", "value": {"stringValue": "/known"}}]},
    "scopeMetrics": [{"metrics": [
        {"name": "podmeter.cpu.burst", "unit": "{cpu}", "exponentialHistogram": {"aggregationTemporality": 2, "dataPoints": [{
            "startTimeUnixNano": (now - 10_000_000_000).to_string(), "timeUnixNano": now.to_string(), "count": "100",
            "sum": 19.0, "scale": 3, "zeroCount": "60", "positive": {"offset": -14, "bucketCounts": counts}}]}},
        {"name": "container.cpu.time", "unit": "s", "sum": {"aggregationTemporality": 2, "isMonotonic": true, "dataPoints": [{
            "startTimeUnixNano": (now - 10_000_000_000).to_string(), "timeUnixNano": now.to_string(), "asDouble": 1.9}]}},
    ]}]}]});
    let request: ExportMetricsServiceRequest = serde_json::from_value(request).context("is no OTLP")?;
    let (status, body) = http::post(backend.address(), OTLP_PATH, "application/x-protobuf", &request.encode_to_vec())?;
    ensure!(status == 200, "{status} {body}");

    backend.wait_for_value(r#"container_cpu_time_seconds_total{podmeter_cgroup_path="/known"}"#, |value| value == 1.9)?;
    let quantile = |q: &str| {
        backend.value(&format!(r#"histogram_quantile({q}, podmeter_cpu_burst_bucket{{podmeter_cgroup_path="/known"}})"#))
    };
    // A bucket is 9 % wide and the query interpolates in it.
    let share = Tolerance::new(0.09, 0.0);
    share.check("p75", quantile("0.75")?.context("no p75")?, 0.3)?;
    share.check("p99", quantile("0.99")?.context("no p99")?, 1.0)?;
    ensure!(quantile("0.5")?.context("no p50")? < 0.01, "the median of 60 idle windows in 100 is {:?}", quantile("0.5")?);
    Ok(())
}

root_test! {
    fn the_backends_cpu_time_and_burst_percentile_are_the_kernels() {
        let Some(backend) = VictoriaMetrics::for_test(TEST)? else { return Ok(()) };
        let agent = Agent::spawn(json!({"export": backend.exporter()}))?;
        let cgroup = Cgroup::new("victoria")?;
        let selector = format!(r#"{{podmeter_cgroup_path="{}"}}"#, cgroup.path());
        backend.wait_for_value(&format!("container_cpu_time_seconds_total{selector}"), |_| true)?;
        let load = Load::duty_cycle(30 * MS, 300 * MS, 6 * SECOND).into_window(20 * MS).realtime().start(&cgroup)?;
        thread::sleep(5900 * MS);
        let windows = load.cpu_by_window();
        load.wait()?;
        let whole = windows.iter().filter(|(_, ns)| (29_500_000..32_000_000).contains(ns)).count();
        ensure!(whole >= 17, "the machine was too busy for bursts of 30 ms: {windows:?}");

        let truth = cgroup.cpu_stat()?.usage_seconds();
        let name = format!("container_cpu_time_seconds_total{selector}");
        let measured = backend.wait_for_value(&name, |value| value > truth * 0.99)?;
        Tolerance::new(0.01, 0.0).check(&name, measured, truth)?;
        let p99 = backend.value(&format!("histogram_quantile(0.99, podmeter_cpu_burst_bucket{selector})"))?.context("no p99")?;
        // A bucket is 9 % wide and the query interpolates in it.
        Tolerance::new(0.1, 0.0).check("p99 of the bursts", p99, 0.3)?;
        let p50 = backend.value(&format!("histogram_quantile(0.5, podmeter_cpu_burst_bucket{selector})"))?.context("no p50")?;
        ensure!(p50 < 0.01, "two of three windows are idle, but the median is {p50}");
        agent.stop().map(drop)
    }
}

/// How many agents follow each other in the test of restarts, where another number than [`RESTARTS`] is wanted.
const RESTARTS_VARIABLE: &str = "PODMETER_TESTS_RESTARTS";
const RESTARTS: usize = 12;

root_test! {
    fn through_stops_kills_and_an_upgrade_no_counter_goes_back_in_the_backend_and_no_rate_leaps() {
        let Some(backend) = VictoriaMetrics::for_test(TEST)? else { return Ok(()) };
        let restarts: usize = match std::env::var(RESTARTS_VARIABLE) {
            Ok(number) => number.parse().with_context(|| format!("{RESTARTS_VARIABLE} is no number: {number}"))?,
            Err(_) => RESTARTS,
        };
        let bpf = BpfDir::new()?;
        let journal = tempfile::tempdir().context("could not make a directory")?;
        let mut config = bpf.config();
        config["export"] = backend.exporter();
        config["journal"] = json!({"directory": journal.path()});
        let cgroup = Cgroup::new("restarts")?;
        let selector = format!(r#"podmeter_cgroup_path="{}""#, cgroup.path());
        let cpu_time = format!("container_cpu_time_seconds_total{{{selector}}}");
        let load = Load::duty_cycle(20 * MS, 40 * MS, u32::try_from(restarts)? * 10 * SECOND).start(&cgroup)?;
        let mut seen = 0.0;
        for n in 0..restarts {
            // Half of them of one version, and half of the other.
            let start = if n < restarts / 2 { Agent::spawn } else { Agent::spawn_of_another_version };
            let agent = start(config.clone())?;
            seen = backend.wait_for_value(&cpu_time, |value| value > seen + 0.2)?;
            if n % 2 == 0 { agent.stop().map(drop)? } else { agent.kill().map(drop)? }
        }
        load.kill()?;
        let truth = cgroup.cpu_stat()?.usage_seconds();
        let agent = Agent::spawn_of_another_version(config)?;
        agent.wait_for_log("podmeter runs", 60 * SECOND)?;
        let close = Tolerance::new(0.002, 0.005);
        // A busy machine sends later; what never comes shows below.
        let _ = backend.wait_for_value(&cpu_time, |value| close.check_quietly("so far", value, truth).is_ok());
        agent.stop()?;
        close.check(&cpu_time, backend.value(&cpu_time)?.context("no CPU time")?, truth)?;

        // What the process counts itself is not of a cgroup.
        let resets = backend.query(&format!(r#"resets({{__name__=~".+_total|podmeter_cpu_burst_.+", {selector}}}[1d]) keep_metric_names"#))?;
        ensure!(resets.len() > 10, "only {} counters: {resets:?}", resets.len());
        let of_bursts = resets.iter().filter(|(series, _)| series["__name__"] == "podmeter_cpu_burst_bucket").count();
        ensure!(of_bursts > 1, "only {of_bursts} buckets of bursts: {resets:?}");
        let back: Vec<_> = resets.iter().filter(|(_, resets)| *resets > 0.0).collect();
        ensure!(back.is_empty(), "went back: {back:?}");
        let rate = backend.value(&format!("max_over_time(rate({cpu_time}[5s])[1d:1s])"))?.context("no rate")?;
        println!("{restarts} restarts, {} counters, the highest rate {rate}", resets.len());
        ensure!(rate < 0.8, "half a CPU is used, and the rate over 5 s was {rate}");
        Ok(())
    }
}
