//! Batch -> OTLP messages (pure).
//!
//! Counters become monotonic cumulative sums, gauges gauges, distributions cumulative exponential histograms. What cannot be
//! exported truthfully is left out: a value that is no number, a value whose type contradicts its metric's declaration. What others
//! write - names, annotations, paths - has a bound.

use std::cell::Cell;

use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, DataPointFlags, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Metric as OtlpMetric,
    NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource as OtlpResource;

use crate::aggregate::Batch;
use crate::bound::bounded;
use crate::histogram::{Histogram, SCALE};
use crate::join::{Resource, Sample};
use crate::kernel::clock::UnixOffset;
use crate::metric::{Metric, MetricKind, Point, Value};

/// How long attribute values may be, and how many were longer.
#[derive(Debug)]
pub struct Bounds {
    most: usize,
    cut: Cell<u64>,
    left_out: Cell<u64>,
}

impl Bounds {
    /// Values of at most so many bytes.
    pub fn new(most: usize) -> Self {
        Self { most, cut: Cell::default(), left_out: Cell::default() }
    }

    /// Values that were longer.
    pub fn cut(&self) -> u64 {
        self.cut.get()
    }

    /// Attributes that resources had no room for.
    pub fn left_out(&self) -> u64 {
        self.left_out.get()
    }

    /// An attribute with a text value.
    pub(super) fn attribute(&self, key: &str, value: &str) -> KeyValue {
        let value = Some(AnyValue { value: Some(any_value::Value::StringValue(self.text(value, self.most))) });
        KeyValue { key: key.into(), value, ..Default::default() }
    }

    /// Text of at most `most` bytes.
    pub(super) fn text(&self, text: &str, most: usize) -> String {
        self.cut.set(self.cut.get() + u64::from(text.len() > most));
        bounded(text, most).into_owned()
    }

    /// A resource.
    pub(super) fn resource(&self, resource: &Resource) -> OtlpResource {
        self.left_out.set(self.left_out.get() + resource.left_out);
        let attributes = resource.attributes.iter().map(|(key, value)| self.attribute(key, value)).collect();
        OtlpResource { attributes, ..Default::default() }
    }
}

/// Encodes a batch, resource by resource: one `ResourceMetrics` per moment that has points, one `Metric` per metric in it.
pub fn resources<'a>(batch: &'a Batch, bounds: &'a Bounds) -> impl Iterator<Item = ResourceMetrics> + 'a {
    let moments = |sample: &'a Sample| {
        let earlier = sample.earlier.iter().map(|earlier| (earlier.time_ns, &earlier.points));
        earlier.chain([(sample.time_ns.unwrap_or(batch.time_ns), &sample.points)]).map(move |moment| (&sample.resource, moment))
    };
    batch.samples().flat_map(moments).filter_map(|(resource, (time_ns, points))| {
        encode_points(resource, points, Times { time_ns, offset: batch.offset }, bounds)
    })
}

/// When a sample was so, and what makes Unix time of its times.
#[derive(Clone, Copy)]
struct Times {
    time_ns: u64,
    offset: UnixOffset,
}

impl Times {
    /// Unix time in ns.
    fn time(self) -> u64 {
        self.offset.unix_ns(self.time_ns)
    }

    /// When a point's counting began, Unix time in ns. Never after the sample's time, whatever a signal gives: the counts of a cgroup
    /// that was gone when counting began are from no time at all.
    fn start(self, point: &Point) -> u64 {
        self.offset.unix_ns(point.start_ns.min(self.time_ns))
    }
}

fn encode_points(resource: &Resource, points: &[Point], times: Times, bounds: &Bounds) -> Option<ResourceMetrics> {
    // In order of first appearance. A resource has some dozens of metrics: a scan beats a map.
    let mut metrics: Vec<(&'static Metric, Data)> = Vec::new();
    for point in points {
        let Some(encoded) = encode_point(point, times, bounds) else { continue };
        match metrics.iter().position(|(metric, _)| metric.name == point.metric.name) {
            Some(position) => append(&mut metrics[position].1, encoded),
            None => metrics.push((point.metric, encoded)),
        }
    }
    if metrics.is_empty() {
        return None;
    }
    let metrics = metrics
        .into_iter()
        .map(|(metric, data)| OtlpMetric {
            name: metric.name.into(),
            description: metric.help.into(),
            unit: metric.unit.into(),
            metadata: Vec::new(),
            data: Some(data),
        })
        .collect();
    Some(ResourceMetrics {
        resource: Some(bounds.resource(resource)),
        scope_metrics: vec![ScopeMetrics { scope: Some(scope()), metrics, schema_url: String::new() }],
        schema_url: String::new(),
    })
}

/// One point as the data of a metric that has only this one.
fn encode_point(point: &Point, times: Times, bounds: &Bounds) -> Option<Data> {
    let temporality = AggregationTemporality::Cumulative as i32;
    match (point.metric.kind, &point.value) {
        (MetricKind::Counter, value) => Some(Data::Sum(Sum {
            data_points: vec![number(point, value, times.start(point), times.time(), bounds)?],
            aggregation_temporality: temporality,
            is_monotonic: true,
        })),
        // A gauge has no start: consumers ignore the field.
        (MetricKind::Gauge, value) => {
            Some(Data::Gauge(Gauge { data_points: vec![number(point, value, 0, times.time(), bounds)?] }))
        }
        (MetricKind::Histogram, Value::Histogram(histogram)) => Some(Data::ExponentialHistogram(ExponentialHistogram {
            data_points: vec![distribution(point, histogram, times, bounds)],
            aggregation_temporality: temporality,
        })),
        (MetricKind::Histogram, _) => None,
    }
}

/// Adds the points of `more` to `data`; both come from the same metric, so both are of the same kind.
fn append(data: &mut Data, more: Data) {
    match (data, more) {
        (Data::Sum(sum), Data::Sum(more)) => sum.data_points.extend(more.data_points),
        (Data::Gauge(gauge), Data::Gauge(more)) => gauge.data_points.extend(more.data_points),
        (Data::ExponentialHistogram(histogram), Data::ExponentialHistogram(more)) => {
            histogram.data_points.extend(more.data_points);
        }
        _ => {}
    }
}

/// A scalar's data point; `None` when the value is not a number.
fn number(
    point: &Point,
    value: &Value,
    start_time_unix_nano: u64,
    time_unix_nano: u64,
    bounds: &Bounds,
) -> Option<NumberDataPoint> {
    let value = match *value {
        // OTLP's integers are signed.
        Value::Int(v) => Some(number_data_point::Value::AsInt(i64::try_from(v).unwrap_or(i64::MAX))),
        Value::Float(v) if v.is_finite() => Some(number_data_point::Value::AsDouble(v)),
        Value::Absent => None,
        Value::Float(_) | Value::Histogram(_) => return None,
    };
    let flags = if value.is_none() { DataPointFlags::NoRecordedValueMask as u32 } else { 0 };
    Some(NumberDataPoint {
        attributes: attributes(point, bounds),
        start_time_unix_nano,
        time_unix_nano,
        value,
        flags,
        ..Default::default()
    })
}

fn distribution(point: &Point, histogram: &Histogram, times: Times, bounds: &Bounds) -> ExponentialHistogramDataPoint {
    ExponentialHistogramDataPoint {
        attributes: attributes(point, bounds),
        start_time_unix_nano: times.start(point),
        time_unix_nano: times.time(),
        count: histogram.count,
        sum: histogram.sum.is_finite().then_some(histogram.sum),
        scale: SCALE,
        zero_count: histogram.zero_count,
        zero_threshold: histogram.zero_threshold,
        positive: trimmed(histogram),
        ..Default::default()
    }
}

/// The buckets without the empty ones at both ends; `None` when all are empty.
fn trimmed(histogram: &Histogram) -> Option<Buckets> {
    let first = histogram.buckets.iter().position(|&n| n > 0)?;
    let last = histogram.buckets.iter().rposition(|&n| n > 0)?;
    Some(Buckets { offset: histogram.offset + first as i32, bucket_counts: histogram.buckets[first..=last].to_vec() })
}

fn attributes(point: &Point, bounds: &Bounds) -> Vec<KeyValue> {
    point.attributes.iter().map(|(key, value)| bounds.attribute(key, value)).collect()
}

/// The scope of everything that podmeter exports.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope { name: "podmeter".into(), version: env!("CARGO_PKG_VERSION").into(), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use prost::Message;

    use super::*;
    use crate::export::fixtures::{BURST, Described, IO, Load, TIME, USAGE, batch, node, point, series};
    use crate::export::json::to_json;

    const NOW: u64 = 2_000_000_000;
    const START: u64 = 1_000_000_000;

    fn encode(batch: &Batch) -> ExportMetricsServiceRequest {
        ExportMetricsServiceRequest { resource_metrics: resources(batch, &Bounds::new(256)).collect() }
    }

    fn decoded(resources: Vec<Described<'_>>) -> ExportMetricsServiceRequest {
        let bytes = encode(&batch(NOW, resources)).encode_to_vec();
        ExportMetricsServiceRequest::decode(&bytes[..]).expect("what prost wrote")
    }

    fn only_metrics(points: Vec<Point>) -> Vec<OtlpMetric> {
        let mut request = decoded(vec![(vec![("k8s.pod.name", "web-0")], points)]);
        request.resource_metrics.pop().map(|mut r| r.scope_metrics.remove(0).metrics).unwrap_or_default()
    }

    #[test]
    fn no_series_has_two_points_of_one_time_in_a_batch() {
        for load in [Load::Idle, Load::Busy] {
            let of_all = series(&encode(&node(5, load)).resource_metrics);
            assert!(of_all.len() > 1000, "{}", of_all.len());
        }
    }

    #[test]
    fn a_value_without_measure_is_cut_wherever_it_stands_and_counted() {
        let long = "x".repeat(64_000);
        let points = vec![point(&IO, START, Value::Int(7)).with("network.io.direction", long.clone() + "1")];
        let other = vec![point(&IO, START, Value::Int(7)).with("network.io.direction", long.clone() + "2")];
        let batch = batch(NOW, vec![(vec![("service.name", &long), ("k8s.pod.name", "web-0")], [points, other].concat())]);
        let bounds = Bounds::new(256);
        let groups: Vec<_> = resources(&batch, &bounds).collect();
        assert_eq!(series(&groups).len(), 2, "two values that differ beyond the bound stay two series");
        assert_eq!(bounds.cut(), 3);
        assert!(groups[0].encoded_len() < 2000, "{}", groups[0].encoded_len());
        let attributes = &groups[0].resource.as_ref().expect("a resource").attributes;
        assert_eq!(attributes[1], bounds.attribute("k8s.pod.name", "web-0"));
    }

    #[test]
    fn attributes_without_room_are_counted() {
        let mut batch = batch(NOW, vec![(vec![("k8s.pod.name", "web-0")], vec![point(&IO, START, Value::Int(7))])]);
        batch.pods[0].resource = Arc::new(Resource { left_out: 3, ..Resource::clone(&batch.pods[0].resource) });
        let bounds = Bounds::new(256);
        assert_eq!((resources(&batch, &bounds).count(), bounds.left_out()), (1, 3));
    }

    #[test]
    fn every_resource_carries_its_attributes_and_the_scope() {
        let request = decoded(vec![
            (vec![("k8s.namespace.name", "shop"), ("k8s.pod.name", "web-0")], vec![point(&TIME, START, Value::Float(1.5))]),
            (vec![("k8s.pod.name", "db-0")], vec![point(&TIME, START, Value::Float(2.5))]),
            (vec![("k8s.pod.name", "without points")], vec![]),
        ]);
        assert_eq!(request.resource_metrics.len(), 2);
        let first = &request.resource_metrics[0];
        let attributes = &first.resource.as_ref().expect("a resource").attributes;
        let attribute = |key, value| Bounds::new(256).attribute(key, value);
        assert_eq!(*attributes, [attribute("k8s.namespace.name", "shop"), attribute("k8s.pod.name", "web-0")]);
        let scope = first.scope_metrics[0].scope.as_ref().expect("a scope");
        assert_eq!((scope.name.as_str(), scope.version.as_str()), ("podmeter", env!("CARGO_PKG_VERSION")));
        assert_eq!(series(&request.resource_metrics).len(), 2);
    }

    #[test]
    fn points_of_one_metric_are_gathered_under_it() {
        let with = |direction: &'static str, n| Point {
            attributes: vec![("network.io.direction", direction.into())],
            ..point(&IO, START, Value::Int(n))
        };
        let metrics = only_metrics(vec![with("receive", 7), point(&TIME, START, Value::Float(1.0)), with("transmit", 9)]);
        let names: Vec<_> = metrics.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, [IO.name, TIME.name]);
        assert_eq!((metrics[0].unit.as_str(), metrics[0].description.as_str()), (IO.unit, IO.help));
        let Some(Data::Sum(sum)) = &metrics[0].data else { panic!("not a sum: {:?}", metrics[0].data) };
        assert!(sum.is_monotonic);
        assert_eq!(sum.aggregation_temporality(), AggregationTemporality::Cumulative);
        let got: Vec<_> = sum.data_points.iter().map(|p| (p.attributes.clone(), p.value)).collect();
        let attribute = |key, value| Bounds::new(256).attribute(key, value);
        let want = |direction, n| (vec![attribute("network.io.direction", direction)], Some(number_data_point::Value::AsInt(n)));
        assert_eq!(got, [want("receive", 7), want("transmit", 9)]);
    }

    #[test]
    fn scalars_keep_their_type_and_times() {
        use number_data_point::Value::{AsDouble, AsInt};
        let cases: [(&'static Metric, Value, number_data_point::Value, u64); 5] = [
            (&TIME, Value::Float(1.25), AsDouble(1.25), START),
            (&IO, Value::Int(0), AsInt(0), START),
            (&IO, Value::Int(u64::MAX), AsInt(i64::MAX), START),
            (&USAGE, Value::Float(-0.5), AsDouble(-0.5), 0),
            (&USAGE, Value::Int(4), AsInt(4), 0),
        ];
        for (metric, value, want, start) in cases {
            let metrics = only_metrics(vec![point(metric, START, value.clone())]);
            let data_points = match metrics[0].data.clone() {
                Some(Data::Sum(sum)) if metric.kind == MetricKind::Counter => sum.data_points,
                Some(Data::Gauge(gauge)) if metric.kind == MetricKind::Gauge => gauge.data_points,
                other => panic!("{} became {other:?}", metric.name),
            };
            assert_eq!(data_points.len(), 1);
            assert_eq!(data_points[0].value, Some(want), "{value:?}");
            assert_eq!((data_points[0].start_time_unix_nano, data_points[0].time_unix_nano), (start, NOW));
        }
    }

    #[test]
    fn all_times_follow_the_clock_and_counting_never_begins_after_the_moment() {
        const SECOND: u64 = 1_000_000_000;
        let points = vec![
            point(&TIME, 0, Value::Float(1.0)),
            point(&IO, 9 * SECOND, Value::Int(1)),
            point(&BURST, 7 * SECOND, Value::Histogram(Arc::default())),
        ];
        let mut batch = batch(9 * SECOND, vec![(vec![("service.name", "living")], points.clone())]);
        let ended = Sample { time_ns: Some(8 * SECOND), points, ..batch.pods[0].clone() };
        batch.pods.push(ended);
        let times = |batch: &Batch| -> Vec<[u64; 2]> {
            let encoded = encode(batch);
            let metrics = encoded.resource_metrics.iter().flat_map(|r| &r.scope_metrics[0].metrics);
            let times = metrics.map(|metric| match &metric.data {
                Some(Data::Sum(sum)) => [sum.data_points[0].start_time_unix_nano, sum.data_points[0].time_unix_nano],
                Some(Data::ExponentialHistogram(h)) => [h.data_points[0].start_time_unix_nano, h.data_points[0].time_unix_nano],
                other => panic!("{other:?}"),
            });
            times.map(|times| times.map(|ns| ns / SECOND)).collect()
        };
        let want = |unix: u64| [[0, 9], [9, 9], [7, 9], [0, 8], [8, 8], [7, 8]].map(|times| times.map(|s| s + unix));
        // The node came up in 1970, as far as it knew; then its clock was set, too far, and back.
        for unix in [0, 1_700_003_600, 1_700_000_000] {
            batch.offset = UnixOffset::new((unix * SECOND).cast_signed());
            assert_eq!(times(&batch), want(unix));
        }
    }

    #[test]
    fn what_is_no_number_or_contradicts_its_declaration_is_left_out() {
        let histogram = Value::Histogram(Arc::default());
        for (metric, value) in [
            (&TIME, Value::Float(f64::NAN)),
            (&USAGE, Value::Float(f64::INFINITY)),
            (&USAGE, histogram.clone()),
            (&TIME, histogram),
            (&BURST, Value::Int(1)),
        ] {
            let metrics = only_metrics(vec![point(metric, START, value.clone())]);
            assert_eq!(metrics, [], "{} with {value:?}", metric.name);
        }
    }

    #[test]
    fn a_histogram_decodes_to_the_same_counts_with_its_empty_ends_trimmed() {
        // (offset, buckets) as kept -> as sent.
        type Kept = (i32, &'static [u64]);
        let cases: [(Kept, Option<Kept>); 6] = [
            ((0, &[]), None),
            ((-8, &[0, 0, 0]), None),
            ((5, &[1]), Some((5, &[1]))),
            ((-80, &[0, 0, 3, 0, 4, 0]), Some((-78, &[3, 0, 4]))),
            ((-2, &[0, 0, 0, u64::MAX]), Some((1, &[u64::MAX]))),
            ((7, &[9, 0]), Some((7, &[9]))),
        ];
        for ((offset, buckets), want) in cases {
            let histogram =
                Histogram { count: 42, sum: 2.5, zero_count: 3, zero_threshold: 1e-6, offset, buckets: buckets.to_vec() };
            let metrics = only_metrics(vec![point(&BURST, START, Value::Histogram(Arc::new(histogram)))]);
            let Some(Data::ExponentialHistogram(sent)) = &metrics[0].data else { panic!("not a histogram") };
            assert_eq!(sent.aggregation_temporality(), AggregationTemporality::Cumulative);
            let sent = &sent.data_points[0];
            assert_eq!((sent.start_time_unix_nano, sent.time_unix_nano), (START, NOW));
            assert_eq!((sent.scale, sent.count, sent.sum), (3, 42, Some(2.5)));
            assert_eq!((sent.zero_count, sent.zero_threshold), (3, 1e-6));
            assert_eq!(sent.negative, None);
            let sent = sent.positive.as_ref().map(|b| (b.offset, &b.bucket_counts[..]));
            assert_eq!(sent, want, "{offset} {buckets:?}");
        }
    }

    #[test]
    fn every_observation_is_in_the_bucket_otlp_defines_for_it() {
        let mut histogram = Histogram::default();
        let values = [0.001, 0.3, 1.0, 1.5, 2.0, 900.0];
        for value in values {
            histogram.record(value, 1);
        }
        let metrics = only_metrics(vec![point(&BURST, START, Value::Histogram(Arc::new(histogram)))]);
        let Some(Data::ExponentialHistogram(sent)) = &metrics[0].data else { panic!("not a histogram") };
        let buckets = sent.data_points[0].positive.as_ref().expect("buckets");
        for value in values {
            let index = (value.log2() * 8.0).ceil() as i32 - 1;
            assert_eq!(buckets.bucket_counts[(index - buckets.offset) as usize], 1, "{value}");
        }
        assert_eq!(buckets.bucket_counts.iter().sum::<u64>(), values.len() as u64);
    }

    #[test]
    fn json_is_what_the_otlp_specification_says() {
        let histogram =
            Histogram { count: 5, sum: 2.5, zero_count: 1, zero_threshold: 0.001, offset: -3, buckets: vec![0, 3, 1] };
        let request = encode(&batch(
            1_700_000_000_123_456_789,
            vec![(
                vec![("k8s.pod.name", "web \"0\"\n")],
                vec![
                    point(&IO, START, Value::Int(u64::MAX)),
                    point(&USAGE, START, Value::Float(0.25)),
                    point(&BURST, START, Value::Histogram(Arc::new(histogram))),
                ],
            )],
        ));
        let line = to_json(&request);
        assert!(!line.contains('\n') && !line.contains("null"), "{line}");
        let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let resource = &json["resourceMetrics"][0];
        assert_eq!(resource["resource"]["attributes"][0]["value"], serde_json::json!({"stringValue": "web \"0\"\n"}));
        let metrics = &resource["scopeMetrics"][0]["metrics"];
        let cases = [
            ("/0/name", serde_json::json!(IO.name)),
            ("/0/sum/aggregationTemporality", serde_json::json!(2)),
            ("/0/sum/isMonotonic", serde_json::json!(true)),
            ("/0/sum/dataPoints/0/asInt", serde_json::json!("9223372036854775807")),
            ("/0/sum/dataPoints/0/startTimeUnixNano", serde_json::json!("1000000000")),
            ("/0/sum/dataPoints/0/timeUnixNano", serde_json::json!("1700000000123456789")),
            ("/1/gauge/dataPoints/0/asDouble", serde_json::json!(0.25)),
            ("/2/exponentialHistogram/dataPoints/0/count", serde_json::json!("5")),
            ("/2/exponentialHistogram/dataPoints/0/sum", serde_json::json!(2.5)),
            ("/2/exponentialHistogram/dataPoints/0/scale", serde_json::json!(3)),
            ("/2/exponentialHistogram/dataPoints/0/zeroCount", serde_json::json!("1")),
            ("/2/exponentialHistogram/dataPoints/0/zeroThreshold", serde_json::json!(0.001)),
            ("/2/exponentialHistogram/dataPoints/0/positive", serde_json::json!({"offset": -2, "bucketCounts": ["3", "1"]})),
        ];
        for (path, want) in cases {
            assert_eq!(metrics.pointer(path), Some(&want), "{path}");
        }
        let back: ExportMetricsServiceRequest = serde_json::from_str(&line).expect("OTLP/JSON");
        assert_eq!(back, request);
    }
}
