//! The bytes of requests -> a batch, and events (pure): what `encode` and `logs` made, read back for looking into the past.
//!
//! What is exported is all there is: a cgroup's inode number and the reasons of a signal that is off are not. Bytes of another version
//! may have metrics and attributes that this one does not know; those are left out and counted. Nothing in the bytes is trusted.

mod subject;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::ResourceLogs;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, DataPointFlags, ExponentialHistogramDataPoint, Metric as OtlpMetric, NumberDataPoint,
    ResourceMetrics, metric::Data, number_data_point,
};
use prost::Message;

use self::subject::subject;
use super::{own, request::Form};
use crate::aggregate::Batch;
use crate::budget;
use crate::histogram::{Histogram, SCALE};
use crate::join::{CgroupSample, Resource, Sample};
use crate::journal::EntryInfo;
use crate::metric::{Attributes, Metric, MetricKind, Point, Value};
use crate::pods;
use crate::protobuf;
use crate::signals;

/// Every metric by its name, and by that of pods' values.
static METRICS: LazyLock<HashMap<&'static str, &'static Metric>> = LazyLock::new(|| {
    let of_signals = signals::ALL.iter().flat_map(|signal| signal.metrics);
    let others = [pods::metrics::METRICS, pods::follow_metrics::METRICS, budget::metrics::METRICS, own::METRICS];
    let all = of_signals.chain(others.into_iter().flatten());
    all.flat_map(|metric| [Some(metric.name), metric.pod_name].into_iter().flatten().map(|name| (name, *metric))).collect()
});

/// Whether a metric of this name is read back.
#[cfg(test)]
pub fn is_known(name: &str) -> bool {
    METRICS.contains_key(name)
}

/// The buckets that a number can be in: those of the doubles that are not 0. What lies outside is damage, and would take memory.
const BUCKETS: std::ops::Range<i64> = (-1100 << SCALE)..(1100 << SCALE);

/// More observations than there can be in one distribution. The sum of many of them is still no overflow.
const MOST_OBSERVATIONS: u64 = 1 << 48;

/// The metrics of one collection.
#[derive(Debug, Default)]
pub struct Decoded {
    moments: Vec<Moment>,
    /// Where a resource's moment is.
    places: HashMap<(Arc<Resource>, u64), usize>,
    /// Points of metrics that this version does not know, or that are none of theirs.
    pub unknown_points: u64,
}

/// The points of one resource at one time.
#[derive(Debug)]
struct Moment {
    resource: Arc<Resource>,
    /// In ns since 1970.
    time_ns: u64,
    points: Vec<Point>,
}

impl Moment {
    /// Whether it may be where counters begin (`series`), and not where something ended.
    fn is_zero(&self) -> bool {
        self.points.iter().all(|point| match &point.value {
            _ if point.metric.kind == MetricKind::Gauge => false,
            Value::Int(n) => *n == 0,
            Value::Float(n) => *n == 0.0,
            Value::Histogram(histogram) => histogram.count == 0,
            Value::Absent => true,
        })
    }
}

impl Decoded {
    /// Adds one request of the collection, as a journal keeps it. `false` when it is no request: what could be read of it is added.
    pub fn add(&mut self, info: &EntryInfo, body: &[u8]) -> bool {
        let Some(message) = Form::from_code(info.form).and_then(|form| form.message(body)) else { return false };
        let mut end = 0;
        for field in protobuf::fields(&message) {
            let Ok(resource) = ResourceMetrics::decode(field.value) else { return false };
            self.add_resource(resource);
            end = field.end;
        }
        end == message.len()
    }

    fn add_resource(&mut self, message: ResourceMetrics) {
        let attributes = message.resource.unwrap_or_default().attributes;
        let attributes = attributes.iter().filter_map(|attribute| Some((attribute.key.as_str(), text(attribute)?)));
        let resource = Arc::new(Resource::new(attributes, 0));
        for metric in message.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
            for (time_ns, point) in points(metric, &mut self.unknown_points) {
                let place = *self.places.entry((Arc::clone(&resource), time_ns)).or_insert_with_key(|(resource, _)| {
                    self.moments.push(Moment { resource: Arc::clone(resource), time_ns, points: Vec::new() });
                    self.moments.len() - 1
                });
                self.moments[place].points.push(point);
            }
        }
    }

    /// All of it as the batch that was read at `time_ns`, ns since 1970, as all times in it.
    ///
    /// The points with which counters begin are left out. A resource with points of several moments is several cgroups: one that was
    /// removed, and its successor of the same name.
    pub fn batch(self, time_ns: u64) -> Batch {
        let mut newest: HashMap<Arc<Resource>, u64> = HashMap::new();
        for Moment { resource, time_ns, .. } in &self.moments {
            let newest = newest.entry(Arc::clone(resource)).or_default();
            *newest = (*newest).max(*time_ns);
        }
        let mut batch = Batch { time_ns, ..Batch::default() };
        for moment in self.moments {
            let is_newest = newest.get(&moment.resource) == Some(&moment.time_ns);
            if !is_newest && moment.is_zero() {
                continue;
            }
            let own_time = Some(moment.time_ns).filter(|ns| *ns != time_ns);
            let sample = Sample { time_ns: own_time, ..Sample::new(moment.resource, moment.points) };
            if sample.resource.get(subject::PATH).is_some() {
                batch.cgroups.extend(subject(&sample, time_ns).map(|cgroup| CgroupSample { cgroup, sample }));
            } else if sample.resource.get("k8s.pod.uid").is_some() {
                batch.pods.push(sample);
            } else if is_newest {
                batch.node = sample;
            }
        }
        batch
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastEvent {
    /// What kind of event it is: `podmeter.oom.kill`.
    pub name: String,
    /// When, in ns since 1970.
    pub time_ns: u64,
    /// One sentence for people.
    pub body: String,
}

/// The events in a request, as a journal keeps it; `None` when it is no request.
pub fn events(info: &EntryInfo, body: &[u8]) -> Option<Vec<PastEvent>> {
    let message = Form::from_code(info.form)?.message(body)?;
    let mut events = Vec::new();
    for field in protobuf::fields(&message) {
        let resource = ResourceLogs::decode(field.value).ok()?;
        let records = resource.scope_logs.into_iter().flat_map(|scope| scope.log_records);
        events.extend(records.map(|record| PastEvent {
            name: record.event_name,
            time_ns: record.time_unix_nano,
            body: match record.body {
                Some(AnyValue { value: Some(any_value::Value::StringValue(text)) }) => text,
                _ => String::new(),
            },
        }));
    }
    Some(events)
}

/// Of points that have what was counted since those before.
const DELTA: i32 = AggregationTemporality::Delta as i32;

fn text(attribute: &KeyValue) -> Option<&str> {
    match attribute.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// The points of a metric with their times. The markers of series that have ended are none.
fn points(message: OtlpMetric, unknown: &mut u64) -> Vec<(u64, Point)> {
    let metric = METRICS.get(message.name.as_str()).copied();
    let of = |kind: MetricKind| metric.filter(|metric| metric.kind == kind);
    let mut all = Vec::new();
    let mut add =
        |metric: Option<&'static Metric>, time_ns, start_ns, value: Option<Value>, attributes: &[KeyValue]| match (metric, value)
        {
            (Some(_), Some(Value::Absent)) => {}
            (Some(metric), Some(value)) => all.push((time_ns, point(metric, start_ns, value, attributes))),
            _ => *unknown += 1,
        };
    match message.data {
        Some(Data::Gauge(gauge)) => {
            for p in gauge.data_points {
                add(of(MetricKind::Gauge), p.time_unix_nano, 0, number(&p), &p.attributes);
            }
        }
        // Rates are made of totals.
        Some(Data::Sum(sum)) if sum.aggregation_temporality == DELTA => *unknown += sum.data_points.len() as u64,
        Some(Data::ExponentialHistogram(histogram)) if histogram.aggregation_temporality == DELTA => {
            *unknown += histogram.data_points.len() as u64;
        }
        Some(Data::Sum(sum)) => {
            for p in sum.data_points {
                add(of(MetricKind::Counter), p.time_unix_nano, p.start_time_unix_nano, number(&p), &p.attributes);
            }
        }
        Some(Data::ExponentialHistogram(histogram)) => {
            for p in histogram.data_points {
                add(of(MetricKind::Histogram), p.time_unix_nano, p.start_time_unix_nano, distribution(&p), &p.attributes);
            }
        }
        _ => *unknown += 1,
    }
    all
}

fn point(metric: &'static Metric, start_ns: u64, value: Value, attributes: &[KeyValue]) -> Point {
    let known = attributes.iter().filter_map(|attribute| {
        let key = metric.attributes.iter().find(|key| **key == attribute.key)?;
        Some((*key, text(attribute)?))
    });
    let point = Point { metric, attributes: Attributes::default(), start_ns, value };
    known.fold(point, |point, (key, value)| point.with(key, value.to_owned()))
}

/// The value of a scalar; `None` when it is none that is exported.
fn number(point: &NumberDataPoint) -> Option<Value> {
    if point.flags & DataPointFlags::NoRecordedValueMask as u32 != 0 {
        return Some(Value::Absent);
    }
    match point.value? {
        number_data_point::Value::AsInt(n) => u64::try_from(n).ok().map(Value::Int),
        number_data_point::Value::AsDouble(n) => Some(Value::Float(n)).filter(|_| n.is_finite()),
    }
}

/// A distribution; `None` when it is none that is exported.
fn distribution(point: &ExponentialHistogramDataPoint) -> Option<Value> {
    let (offset, buckets) = point.positive.as_ref().map_or((0, &[][..]), |positive| (positive.offset, &positive.bucket_counts));
    let end = i64::from(offset).checked_add(i64::try_from(buckets.len()).ok()?)?;
    let is_inside = buckets.is_empty() || BUCKETS.contains(&i64::from(offset)) && end <= BUCKETS.end;
    let counted = buckets.iter().try_fold(point.zero_count, |sum, n| sum.checked_add(*n))?;
    let has_numbers = point.sum.is_none_or(|sum| sum.is_finite()) && point.zero_threshold.is_finite();
    let is_whole = counted == point.count && counted <= MOST_OBSERVATIONS;
    if point.scale != SCALE || !is_inside || !is_whole || !has_numbers {
        return None;
    }
    Some(Value::Histogram(Arc::new(Histogram {
        count: point.count,
        sum: point.sum.unwrap_or_default(),
        zero_count: point.zero_count,
        zero_threshold: point.zero_threshold,
        offset,
        buckets: buckets.to_vec(),
    })))
}

#[cfg(test)]
mod tests;
