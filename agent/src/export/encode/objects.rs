//! The same messages as objects of prost: what the bytes must decode to.

use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::{
    DataPointFlags, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Metric as OtlpMetric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource as OtlpResource;

use super::{Bounds, Times};
use crate::aggregate::Batch;
use crate::histogram::{Histogram, SCALE};
use crate::join::{Resource, Sample};
use crate::metric::{Metric, MetricKind, Point, Value};

/// An attribute with a text value.
pub(in crate::export) fn attribute(key: &str, value: &str, bounds: &Bounds) -> KeyValue {
    let value = Some(AnyValue { value: Some(any_value::Value::StringValue(bounds.text(value, bounds.most).into_owned())) });
    KeyValue { key: key.into(), value, ..Default::default() }
}

fn encoded_resource(resource: &Resource, bounds: &Bounds) -> OtlpResource {
    let attributes = resource.attributes().map(|(key, value)| attribute(key, value, bounds)).collect();
    OtlpResource { attributes, ..Default::default() }
}

/// Encodes a batch, resource by resource: one `ResourceMetrics` per moment that has points, one `Metric` per metric in it.
pub(in crate::export) fn resources<'a>(batch: &'a Batch, bounds: &'a Bounds) -> impl Iterator<Item = ResourceMetrics> + 'a {
    let moments = |sample: &'a Sample| {
        let earlier = sample.earlier.iter().map(|earlier| (earlier.time_ns, &earlier.points));
        earlier.chain([(sample.time_ns.unwrap_or(batch.time_ns), &sample.points)]).map(move |moment| (&sample.resource, moment))
    };
    batch.samples().flat_map(moments).filter_map(|(resource, (time_ns, points))| {
        encode_points(resource, points, Times { time_ns, offset: batch.offset, is_delta: batch.is_delta }, bounds)
    })
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
            name: metric.name_of(resource.is_pod()).into(),
            description: metric.help.into(),
            unit: metric.unit.into(),
            metadata: Vec::new(),
            data: Some(data),
        })
        .collect();
    Some(ResourceMetrics {
        resource: Some(encoded_resource(resource, bounds)),
        scope_metrics: vec![ScopeMetrics { scope: Some(scope()), metrics, schema_url: String::new() }],
        schema_url: String::new(),
    })
}

/// One point as the data of a metric that has only this one.
fn encode_point(point: &Point, times: Times, bounds: &Bounds) -> Option<Data> {
    let temporality = times.temporality() as i32;
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
    point.attributes.iter().map(|(key, value)| attribute(key, value, bounds)).collect()
}

/// The scope of everything that podmeter exports.
fn scope() -> InstrumentationScope {
    InstrumentationScope { name: "podmeter".into(), version: env!("CARGO_PKG_VERSION").into(), ..Default::default() }
}
