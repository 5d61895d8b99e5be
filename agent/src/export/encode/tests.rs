use std::sync::Arc;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::{Metric as OtlpMetric, ResourceMetrics, metric::Data, number_data_point};
use prost::Message;

use super::objects::attribute;
use super::*;
use crate::export::fixtures::{BURST, Described, IO, Load, Node, TIME, USAGE, batch, node, point, resources, series};
use crate::export::json::to_json;
use crate::export::series::Series;
use crate::join::{Earlier, Sample};

const NOW: u64 = 2_000_000_000;
const START: u64 = 1_000_000_000;

fn encode(batch: &Batch) -> ExportMetricsServiceRequest {
    ExportMetricsServiceRequest { resource_metrics: resources(batch, &Bounds::new(256)) }
}

fn decoded(resources: Vec<Described<'_>>) -> ExportMetricsServiceRequest {
    let bytes = encode(&batch(NOW, resources)).encode_to_vec();
    ExportMetricsServiceRequest::decode(&bytes[..]).expect("what prost wrote")
}

fn only_metrics(points: Vec<Point>) -> Vec<OtlpMetric> {
    let mut request = decoded(vec![(vec![("k8s.pod.name", "web-0")], points)]);
    request.resource_metrics.pop().map(|mut r| r.scope_metrics.remove(0).metrics).unwrap_or_default()
}

/// The bytes of a batch are those of the same messages as objects.
#[track_caller]
fn assert_same(batch: &Batch, most: usize) -> usize {
    let (bounds, of_objects) = (Bounds::new(most), Bounds::new(most));
    let mut points = 0;
    let mut objects = objects::resources(batch, &of_objects);
    super::encode(batch, &bounds, |group| {
        let described = vec![true; group.items.len()];
        let mut bytes = Vec::new();
        group.write(&group.items, &described, &mut bytes);
        let object = objects.next().expect("as many groups");
        let message = protobuf::fields(&bytes).next().expect("a field").value;
        assert_eq!(ResourceMetrics::decode(message).as_ref(), Ok(&object));
        assert!(message == object.encode_to_vec(), "the same fields in another order");
        points += group.items.iter().map(|item| item.count).sum::<u64>() as usize;
    });
    assert_eq!(objects.next(), None);
    drop(objects);
    assert_eq!((bounds.cut(), bounds.left_out()), (of_objects.cut(), of_objects.left_out()));
    points
}

#[test]
fn the_bytes_of_a_node_are_those_of_its_messages() {
    for load in [Load::Idle, Load::Busy] {
        let node = Node::new(5, load);
        let (mut aggregate, mut series) = (Node::aggregate(), Series::new(0));
        let mut batch = node.batch(&mut aggregate, 1_700_000_030_000_000_000, node.readings());
        series.complete(&mut batch, true);
        assert!(batch.cgroups[0].sample.earlier.iter().any(|earlier| !earlier.points.is_empty()), "points of value 0");
        assert!(assert_same(&batch, 256) > 1000);
        assert!(assert_same(&batch, 20) > 1000, "with every value that is longer cut");
        // What is gone is marked.
        let mut less = node.readings();
        less.iter_mut().for_each(|reading| reading.cgroups.truncate(3));
        let mut batch = node.batch(&mut aggregate, 1_700_000_045_000_000_000, less);
        series.complete(&mut batch, true);
        assert!(batch.ended.iter().flat_map(|sample| &sample.points).any(|point| point.value == Value::Absent));
        assert_same(&batch, 256);
    }
}

#[test]
fn the_bytes_of_odd_points_are_those_of_their_messages() {
    let histogram = |offset, buckets: &[u64]| {
        let histogram =
            Histogram { count: 1, sum: f64::INFINITY, zero_count: 0, zero_threshold: 0.5, offset, buckets: buckets.to_vec() };
        point(&BURST, START, Value::Histogram(Arc::new(histogram)))
    };
    let points = vec![
        point(&TIME, 0, Value::Float(0.0)),
        point(&IO, START, Value::Int(0)).with("network.io.direction", ""),
        point(&BURST, START, Value::Histogram(Arc::default())),
        point(&IO, START, Value::Int(u64::MAX)).with("network.io.direction", "x".repeat(300)).with("a", "b"),
        histogram(0, &[0, 1, 0, u64::MAX, 1]),
        histogram(-3, &[0, 0, 0, 5]),
        histogram(7, &[0; 200]),
        histogram(-100, &[200; 200]),
        point(&USAGE, START, Value::Absent),
        point(&USAGE, START, Value::Float(f64::NAN)).with("k", "v"),
        point(&USAGE, START, Value::Float(-0.0)).with("k", "v"),
        point(&TIME, START, Value::Absent).with("k", "v"),
        point(&TIME, START, Value::Histogram(Arc::default())),
    ];
    let mut batch =
        batch(NOW, vec![(vec![], points.clone()), (vec![("service.name", &"\u{20ac}".repeat(200)), ("e", "")], points)]);
    batch.pods[1].earlier = vec![Earlier { time_ns: 7, points: vec![point(&TIME, START, Value::Float(0.0))] }];
    batch.pods.push(Sample { points: vec![point(&TIME, START, Value::Float(f64::NAN))], ..batch.pods[0].clone() });
    for unix in [0, 1_700_000_000_000_000_000] {
        batch.offset = UnixOffset::new(unix);
        assert_same(&batch, 256);
    }
    batch.time_ns = 0;
    batch.offset = UnixOffset::default();
    assert_same(&batch, 64);
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
    let groups = resources(&batch, &bounds);
    assert_eq!(series(&groups).len(), 2, "two values that differ beyond the bound stay two series");
    assert_eq!(bounds.cut(), 3);
    assert!(groups[0].encoded_len() < 2000, "{}", groups[0].encoded_len());
    let attributes = &groups[0].resource.as_ref().expect("a resource").attributes;
    assert_eq!(attributes[1], attribute("k8s.pod.name", "web-0", &bounds));
}

#[test]
fn attributes_without_room_are_counted() {
    let mut batch = batch(NOW, vec![(vec![("k8s.pod.name", "web-0")], vec![point(&IO, START, Value::Int(7))])]);
    batch.pods[0].resource = Arc::new(Resource::new(batch.pods[0].resource.attributes(), 3));
    let bounds = Bounds::new(256);
    assert_eq!((resources(&batch, &bounds).len(), bounds.left_out()), (1, 3));
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
    let attribute = |key, value| attribute(key, value, &Bounds::new(256));
    assert_eq!(*attributes, [attribute("k8s.namespace.name", "shop"), attribute("k8s.pod.name", "web-0")]);
    let scope = first.scope_metrics[0].scope.as_ref().expect("a scope");
    assert_eq!((scope.name.as_str(), scope.version.as_str()), ("podmeter", env!("CARGO_PKG_VERSION")));
    assert_eq!(series(&request.resource_metrics).len(), 2);
}

#[test]
fn points_of_one_metric_are_gathered_under_it() {
    let with = |direction: &'static str, n| point(&IO, START, Value::Int(n)).with("network.io.direction", direction);
    let metrics = only_metrics(vec![with("receive", 7), point(&TIME, START, Value::Float(1.0)), with("transmit", 9)]);
    let names: Vec<_> = metrics.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, [IO.name, TIME.name]);
    assert_eq!((metrics[0].unit.as_str(), metrics[0].description.as_str()), (IO.unit, IO.help));
    let Some(Data::Sum(sum)) = &metrics[0].data else { panic!("not a sum: {:?}", metrics[0].data) };
    assert!(sum.is_monotonic);
    assert_eq!(sum.aggregation_temporality(), AggregationTemporality::Cumulative);
    let got: Vec<_> = sum.data_points.iter().map(|p| (p.attributes.clone(), p.value)).collect();
    let attribute = |key, value| attribute(key, value, &Bounds::new(256));
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
        let histogram = Histogram { count: 42, sum: 2.5, zero_count: 3, zero_threshold: 1e-6, offset, buckets: buckets.to_vec() };
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
    let histogram = Histogram { count: 5, sum: 2.5, zero_count: 1, zero_threshold: 0.001, offset: -3, buckets: vec![0, 3, 1] };
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
