//! What was exported: OTLP requests taken apart into points that a test can find.

mod point;

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;

pub use self::point::{Attributes, Histogram, Point, Value};
use self::point::{add_points, attributes_of};

/// The resource attribute with the cgroup's path.
const CGROUP: &str = "podmeter.cgroup.path";

/// All that was exported so far.
#[derive(Debug, Default)]
pub struct Exports {
    requests: usize,
    latest_unix_ns: u64,
    by_cgroup: HashMap<String, Vec<Point>>,
    other: Vec<Point>,
    ended: Vec<Point>,
    newest: HashMap<u64, Newest>,
}

/// The newest point of a series.
#[derive(Debug)]
struct Newest {
    request: usize,
    time_unix_ns: u64,
    value: String,
}

impl Exports {
    /// Adds one request. Fails when it is not valid OTLP, or what Prometheus and its like refuse: a point that is not
    /// later than the one before it in its series, by ms, or that is before its own start. A request that was sent twice is not.
    pub fn add(&mut self, request: &ExportMetricsServiceRequest) -> Result<()> {
        for resource in &request.resource_metrics {
            let attributes = Arc::new(attributes_of(resource.resource.as_ref().map_or(&[], |resource| &resource.attributes)));
            let points = match attributes.get(CGROUP) {
                Some(path) => self.by_cgroup.entry(path.clone()).or_default(),
                None => &mut self.other,
            };
            for metric in resource.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
                let first = points.len();
                add_points(&attributes, Arc::from(metric.name.as_str()), metric.data.as_ref(), points)
                    .with_context(|| format!("metric {} of {attributes:?}", metric.name))?;
                for point in &points[first..] {
                    self.latest_unix_ns = self.latest_unix_ns.max(point.time_unix_ns);
                    follows(point, self.requests, &mut self.newest)?;
                }
                self.ended.extend(points.extract_if(first.., |point| matches!(point.value, Value::Absent)));
            }
        }
        self.requests += 1;
        Ok(())
    }

    /// Number of requests so far.
    pub fn requests(&self) -> usize {
        self.requests
    }

    /// When the newest point was measured, Unix time in ns.
    pub fn latest_unix_ns(&self) -> u64 {
        self.latest_unix_ns
    }

    /// The paths of all cgroups that were ever exported.
    pub fn cgroups(&self) -> impl Iterator<Item = &str> {
        self.by_cgroup.keys().map(String::as_str)
    }

    /// Every point of this cgroup, oldest first.
    pub fn of(&self, cgroup: &str) -> &[Point] {
        self.by_cgroup.get(cgroup).map_or(&[], Vec::as_slice)
    }

    /// Every point of all resources.
    pub fn points(&self) -> impl Iterator<Item = &Point> {
        self.by_cgroup.values().flatten().chain(&self.other)
    }

    /// Every point that is not about a cgroup: the node's and the agent's own.
    pub fn of_node(&self) -> &[Point] {
        &self.other
    }

    /// The points that say of a gauge that it has ended, oldest first.
    pub fn ended(&self) -> &[Point] {
        &self.ended
    }

    /// The last value of a metric of a cgroup; the sum when several points of that moment have these attributes.
    pub fn value(&self, cgroup: &str, metric: &str, attributes: &[(&str, &str)]) -> Option<f64> {
        last(self.of(cgroup), metric, attributes)
    }

    /// The last value of a metric of the node or of the agent.
    pub fn node_value(&self, metric: &str, attributes: &[(&str, &str)]) -> Option<f64> {
        last(&self.other, metric, attributes)
    }

    /// Each value that a metric of a cgroup has had, with the Unix time in ns at which it was measured.
    pub fn history(&self, cgroup: &str, metric: &str) -> Vec<(u64, f64)> {
        let points = self.of(cgroup).iter().filter(|point| point.is(metric, &[]));
        points.filter_map(|point| point.number().map(|value| (point.time_unix_ns, value))).collect()
    }

    /// The last state of a cgroup's histogram.
    pub fn histogram(&self, cgroup: &str, metric: &str) -> Option<&Histogram> {
        self.histograms(cgroup, metric).last().map(|(_, histogram)| histogram)
    }

    /// The last state of the one among a cgroup's histograms that has exactly these attributes.
    pub fn histogram_of(&self, cgroup: &str, metric: &str, attributes: &[(&str, &str)]) -> Option<&Histogram> {
        let mut points = self.of(cgroup).iter().rev();
        let point = points.find(|point| point.is(metric, attributes) && point.attributes.len() == attributes.len())?;
        match &point.value {
            Value::Histogram(histogram) => Some(histogram),
            Value::Number(_) | Value::Absent => None,
        }
    }

    /// Each state that a cgroup's histogram has had, with the Unix time in ns at which it was measured.
    pub fn histograms(&self, cgroup: &str, metric: &str) -> impl Iterator<Item = (u64, &Histogram)> {
        self.of(cgroup).iter().filter(move |point| point.is_of(metric)).filter_map(|point| match &point.value {
            Value::Histogram(histogram) => Some((point.time_unix_ns, histogram)),
            Value::Number(_) | Value::Absent => None,
        })
    }

    /// Fails when a counter or histogram has gone down.
    pub fn check_that_counters_only_grow(&self) -> Result<()> {
        let mut seen: HashMap<_, f64> = HashMap::new();
        for point in self.points().filter(|point| point.counter) {
            let value = match &point.value {
                Value::Number(value) => *value,
                Value::Histogram(histogram) => histogram.count as f64,
                Value::Absent => continue,
            };
            let series = (&point.resource, &point.metric, &point.attributes, point.start_unix_ns);
            let before = seen.insert(series, value).unwrap_or(0.0);
            ensure!(value >= before, "went down from {before}: {point:?}");
        }
        Ok(())
    }
}

/// Whether a point is one that its series may have next.
fn follows(point: &Point, request: usize, newest: &mut HashMap<u64, Newest>) -> Result<()> {
    ensure!(point.start_unix_ns <= point.time_unix_ns, "measured before counting began: {point:?}");
    let mut series = DefaultHasher::new();
    (&point.resource, &point.metric, &point.attributes).hash(&mut series);
    let this = Newest { request, time_unix_ns: point.time_unix_ns, value: format!("{:?}", point.value) };
    if let Some(before) = newest.get(&series.finish()) {
        let sent_twice = before.request != request && before.time_unix_ns >= this.time_unix_ns && before.value == this.value;
        let later = before.time_unix_ns / 1_000_000 < this.time_unix_ns / 1_000_000;
        ensure!(later || sent_twice, "not later than the point before it, at {}: {point:?}", before.time_unix_ns);
    }
    newest.insert(series.finish(), this);
    Ok(())
}

fn last(points: &[Point], metric: &str, attributes: &[(&str, &str)]) -> Option<f64> {
    let time = points.iter().rfind(|point| point.is(metric, attributes))?.time_unix_ns;
    let moment = points.iter().rev().filter(|point| point.time_unix_ns == time && point.is(metric, attributes));
    moment.map(Point::number).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the OTLP specification writes JSON: 64-bit integers are strings, enums are numbers.
    fn export(time: u64, cpu: f64) -> ExportMetricsServiceRequest {
        let text = format!(
            r#"{{"resourceMetrics":[{{"resource":{{"attributes":[
                {{"key":"podmeter.cgroup.path","value":{{"stringValue":"/a/b"}}}}]}},
            "scopeMetrics":[{{"scope":{{"name":"podmeter"}},"metrics":[
                {{"name":"container.cpu.time","unit":"s","sum":{{"aggregationTemporality":2,"isMonotonic":true,"dataPoints":[
                    {{"startTimeUnixNano":"5","timeUnixNano":"{time}","asDouble":{cpu}}}]}}}},
                {{"name":"podmeter.cpu.wait.time","unit":"s","sum":{{"aggregationTemporality":2,"isMonotonic":true,"dataPoints":[
                    {{"startTimeUnixNano":"5","timeUnixNano":"{time}","asDouble":1.0,
                      "attributes":[{{"key":"cause","value":{{"stringValue":"throttled"}}}}]}},
                    {{"startTimeUnixNano":"5","timeUnixNano":"{time}","asDouble":0.5,
                      "attributes":[{{"key":"cause","value":{{"stringValue":"contention"}}}}]}}]}}}},
                {{"name":"podmeter.cpu.burst","unit":"{{cpu}}","exponentialHistogram":{{"aggregationTemporality":2,"dataPoints":[
                    {{"startTimeUnixNano":"5","timeUnixNano":"{time}","count":"10","sum":3.5,"scale":3,"zeroCount":"6",
                      "positive":{{"offset":-2,"bucketCounts":["1","3"]}}}}]}}}}
            ]}}]}}]}}"#
        );
        serde_json::from_str(&text).expect("is OTLP JSON")
    }

    #[test]
    fn an_export_is_taken_apart_by_cgroup_metric_and_attribute() {
        let mut exports = Exports::default();
        exports.add(&export(10_000_000, 1.5)).expect("is valid");
        exports.add(&export(20_000_000, 2.5)).expect("is valid");
        assert_eq!(exports.value("/a/b", "container.cpu.time", &[]), Some(2.5));
        assert_eq!(exports.value("/a/b", "podmeter.cpu.wait.time", &[]), Some(1.5));
        assert_eq!(exports.value("/a/b", "podmeter.cpu.wait.time", &[("cause", "throttled")]), Some(1.0));
        assert_eq!(exports.value("/a/b", "podmeter.cpu.wait.time", &[("cause", "moon")]), None);
        assert_eq!(exports.value("/a", "container.cpu.time", &[]), None);
        assert_eq!(exports.history("/a/b", "container.cpu.time"), [(10_000_000, 1.5), (20_000_000, 2.5)]);
        assert_eq!((exports.requests(), exports.latest_unix_ns()), (2, 20_000_000));
        exports.check_that_counters_only_grow().expect("they do");
    }

    #[test]
    fn a_counter_that_goes_down_is_found() {
        let mut exports = Exports::default();
        exports.add(&export(10_000_000, 1.5)).expect("is valid");
        exports.add(&export(20_000_000, 1.4)).expect("is valid");
        let error = exports.check_that_counters_only_grow().expect_err("it went down").to_string();
        assert!(error.contains("went down from 1.5"), "{error}");
    }

    #[test]
    fn a_point_that_is_not_later_is_found() {
        const MS: u64 = 1_000_000;
        let mut exports = Exports::default();
        exports.add(&export(10 * MS, 1.5)).expect("is valid");
        exports.add(&export(10 * MS, 1.5)).expect("sent twice");
        exports.add(&export(11 * MS, 1.6)).expect("is later");
        for (time, cpu) in [(11 * MS, 1.7), (11 * MS + 999, 1.7), (10 * MS, 1.7), (4, 1.6)] {
            exports.add(&export(time, cpu)).expect_err("is not later, or before its start");
        }
        let mut twice = export(12 * MS, 1.7);
        twice.resource_metrics.extend(twice.resource_metrics.clone());
        exports.add(&twice).expect_err("twice in one request");
    }

    #[test]
    fn a_quantile_is_the_bounds_of_its_bucket() {
        let mut exports = Exports::default();
        exports.add(&export(10_000_000, 1.5)).expect("is valid");
        let burst = exports.histogram("/a/b", "podmeter.cpu.burst").expect("is there");
        assert_eq!(burst.quantile_bounds(0.5), Some((0.0, 0.0)));
        let (low, high) = burst.quantile_bounds(0.99).expect("has observations");
        assert!((low - 0.917).abs() < 0.001 && (high - 1.0).abs() < 1e-12, "{low} {high}");
        assert_eq!(burst.since(burst).count, 0);
    }
}
