//! Delta temporality: what a back end adds up is what the kernel counted.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use opentelemetry_proto::tonic::{
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::{AggregationTemporality, NumberDataPoint, metric::Data, number_data_point},
};
use podmeter_tests::{
    MS, SECOND, agent::Agent, cgroup::Cgroup, collector::Collector, load::Load, metric::CPU_TIME, root_test, truth::EXACT,
};
use serde_json::json;

/// The cgroup that a resource is of.
fn path(attributes: &[KeyValue]) -> Option<&str> {
    match attributes.iter().find(|attribute| attribute.key == "podmeter.cgroup.path")?.value.as_ref()?.value.as_ref()? {
        Value::StringValue(path) => Some(path),
        _ => None,
    }
}

/// The points of container.cpu.time by cgroup, in the order in which they came.
fn cpu_times(collector: &Collector) -> Result<BTreeMap<String, Vec<NumberDataPoint>>> {
    let mut times: BTreeMap<String, Vec<NumberDataPoint>> = BTreeMap::new();
    for resource in collector.received().into_iter().flat_map(|received| received.request.resource_metrics) {
        let of = resource.resource.as_ref().and_then(|resource| path(&resource.attributes)).unwrap_or_default().to_owned();
        for metric in resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
            let temporality = match &metric.data {
                Some(Data::Sum(sum)) => sum.aggregation_temporality,
                Some(Data::ExponentialHistogram(histogram)) => histogram.aggregation_temporality,
                _ => AggregationTemporality::Delta as i32,
            };
            ensure!(temporality == AggregationTemporality::Delta as i32, "{} has temporality {temporality}", metric.name);
            if let (CPU_TIME, Some(Data::Sum(sum))) = (metric.name.as_str(), metric.data) {
                times.entry(of.clone()).or_default().extend(sum.data_points);
            }
        }
    }
    Ok(times)
}

/// The sum of points that follow each other without overlap.
fn sum(points: &[NumberDataPoint]) -> Result<f64> {
    for pair in points.windows(2) {
        ensure!(pair[0].time_unix_nano <= pair[1].start_time_unix_nano, "two points overlap: {pair:?}");
    }
    let value = |point: &NumberDataPoint| match point.value {
        Some(number_data_point::Value::AsDouble(value)) => value,
        Some(number_data_point::Value::AsInt(value)) => value as f64,
        None => 0.0,
    };
    ensure!(points.iter().all(|point| value(point) > 0.0 && point.start_time_unix_nano < point.time_unix_nano), "{points:?}");
    Ok(points.iter().map(value).sum())
}

root_test! {
    fn what_a_back_end_adds_up_of_deltas_is_what_the_kernel_counted() {
        let collector = Collector::start()?;
        let export = json!({"exporter": "otlp", "endpoint": collector.grpc_endpoint(), "temporality": "delta", "pull": true});
        let agent = Agent::spawn(json!({"interval": "1s", "export": export}))?;
        collector.wait_until("a first export", |collector| !collector.received().is_empty())?;

        // One works again and again, one lives between two exports.
        let lasting = Cgroup::new("lasting")?;
        for _ in 0..3 {
            Load::burn(60 * MS).start(&lasting)?.wait()?;
            std::thread::sleep(1300 * MS);
        }
        let short = Cgroup::new("short")?;
        Load::burn(20 * MS).start(&short)?.wait()?;
        let (gone, truth_of_gone) = (short.path().to_owned(), short.cpu_stat()?.usage_seconds());
        short.remove()?;
        collector.wait_until("the final values", |collector| {
            cpu_times(collector).is_ok_and(|times| times.contains_key(&gone))
        })?;
        let (path, truth) = (lasting.path().to_owned(), lasting.cpu_stat()?.usage_seconds());
        // Who pulls has totals all the same.
        let (_, pulled) = podmeter_tests::http::get(agent.address(), "/metrics")?;
        let total = pulled.lines().find(|line| line.starts_with("container_cpu_time_seconds_total{") && line.contains(&path));
        let total: f64 = total.and_then(|line| line.split("} ").nth(1)?.split(' ').next()?.parse().ok()).unwrap_or(0.0);
        EXACT.check("the total that is pulled", total, truth)?;
        std::thread::sleep(SECOND);
        agent.stop()?;

        let times = cpu_times(&collector)?;
        let of = |path: &str| times.get(path).map_or(&[][..], |points| points);
        ensure!(of(&path).len() >= 3, "{} exports have something of a cgroup that worked three times", of(&path).len());
        EXACT.check("the sum of deltas", sum(of(&path))?, truth)?;
        EXACT.check("that of a short life", sum(of(&gone))?, truth_of_gone)?;
        println!("{} and {} points, of {} cgroups", of(&path).len(), of(&gone).len(), times.len());
        Ok(())
    }
}
