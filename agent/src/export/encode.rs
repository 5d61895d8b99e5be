//! Batch -> OTLP as bytes (pure), one resource after the other.
//!
//! Counters become monotonic cumulative sums, gauges gauges, distributions cumulative exponential histograms. What cannot be
//! exported truthfully is left out: a value that is no number, a value whose type contradicts its metric's declaration. What others
//! write - names, annotations, paths - has a bound.
//!
//! A point goes straight into bytes: as objects of the message types a node's points would be ten times as large, and nearly all
//! of the time of an export went into making them.

#[cfg(test)]
pub(super) mod objects;

use std::borrow::Cow;
use std::cell::Cell;

use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, DataPointFlags};
use prost::encoding;

use super::group::{Group, Item};
use crate::aggregate::Batch;
use crate::bound::bounded;
use crate::histogram::{Histogram, SCALE};
use crate::join::{Resource, write_attribute};
use crate::kernel::clock::UnixOffset;
use crate::metric::{Metric, MetricKind, Point, Value};
use crate::protobuf;

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

    /// The value of an attribute.
    pub(super) fn value<'a>(&self, value: &'a str) -> Cow<'a, str> {
        self.text(value, self.most)
    }

    /// Text of at most `most` bytes.
    pub(super) fn text<'a>(&self, text: &'a str, most: usize) -> Cow<'a, str> {
        self.cut.set(self.cut.get() + u64::from(text.len() > most));
        bounded(text, most)
    }

    /// The message of a resource.
    pub(super) fn resource<'a>(&self, resource: &'a Resource) -> Cow<'a, [u8]> {
        self.left_out.set(self.left_out.get() + resource.left_out);
        if let Some(encoded) = resource.encoded(self.most) {
            return Cow::Borrowed(encoded);
        }
        let mut bytes = Vec::new();
        for (key, value) in resource.attributes() {
            write_attribute(Resource::ATTRIBUTES, key, &self.value(value), &mut bytes);
        }
        Cow::Owned(bytes)
    }
}

/// Encodes a batch: `each` gets one group per resource and moment that has points, with one item per metric in it.
pub(super) fn encode<'a>(batch: &'a Batch, bounds: &Bounds, mut each: impl FnMut(&Group<'a>)) {
    let mut group = Group::default();
    for sample in batch.samples() {
        let earlier = sample.earlier.iter().map(|earlier| (earlier.time_ns, &earlier.points));
        for (time_ns, points) in earlier.chain([(sample.time_ns.unwrap_or(batch.time_ns), &sample.points)]) {
            group.clear();
            let times = Times { time_ns, offset: batch.offset, is_delta: batch.is_delta };
            encode_points(points, sample.resource.is_pod(), times, bounds, &mut group);
            if !group.items.is_empty() {
                group.resource = bounds.resource(&sample.resource);
                each(&group);
            }
        }
    }
}

/// When a sample was so, what makes Unix time of its times, and whether its counts are since the batch before.
#[derive(Clone, Copy)]
struct Times {
    time_ns: u64,
    offset: UnixOffset,
    is_delta: bool,
}

impl Times {
    fn temporality(self) -> AggregationTemporality {
        if self.is_delta { AggregationTemporality::Delta } else { AggregationTemporality::Cumulative }
    }

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

/// The metrics in order of first appearance.
fn encode_points(points: &[Point], is_pod: bool, times: Times, bounds: &Bounds, group: &mut Group<'_>) {
    for (at, first) in points.iter().enumerate() {
        let of_metric = |point: &&Point| std::ptr::eq(point.metric, first.metric);
        // Nearly always the points of a metric are side by side.
        let before = points[..at].last().is_some_and(|point| of_metric(&point));
        if before || points[..at].iter().any(|point| of_metric(&point)) {
            continue;
        }
        let begin = group.values.len();
        let count = encode_metric(first.metric, points[at..].iter().filter(of_metric), times, bounds, &mut group.values);
        if count == 0 {
            group.values.truncate(begin);
            continue;
        }
        let rest = begin..group.values.len();
        group.items.push(Item { name: first.metric.name_of(is_pod), description: first.metric.help, rest, count });
    }
}

/// Fields of the message `Metric` from the unit on. Returns the number of points.
fn encode_metric<'a>(
    metric: &Metric,
    points: impl Iterator<Item = &'a Point>,
    times: Times,
    bounds: &Bounds,
    out: &mut Vec<u8>,
) -> u64 {
    /// Points of all three kinds.
    const DATA_POINTS: u32 = 1;
    const TEMPORALITY: u32 = 2;
    const MONOTONIC: u32 = 3;
    protobuf::bytes(3, metric.unit.as_bytes(), out);
    let data = match metric.kind {
        MetricKind::Gauge => 5,
        MetricKind::Counter => 7,
        MetricKind::Histogram => 10,
    };
    let mut count = 0;
    protobuf::message(data, out, |out| {
        for point in points {
            // A gauge has no start: consumers ignore the field.
            let start = if metric.kind == MetricKind::Gauge { 0 } else { times.start(point) };
            match (metric.kind, &point.value) {
                (MetricKind::Histogram, Value::Histogram(histogram)) => {
                    protobuf::message(DATA_POINTS, out, |out| distribution(point, histogram, [start, times.time()], bounds, out));
                }
                (MetricKind::Histogram, _) => continue,
                (_, value) => {
                    let Some(number) = Number::of(value) else { continue };
                    protobuf::message(DATA_POINTS, out, |out| number.encode(point, [start, times.time()], bounds, out));
                }
            }
            count += 1;
        }
        if metric.kind != MetricKind::Gauge {
            encoding::int32::encode(TEMPORALITY, &(times.temporality() as i32), out);
        }
        if metric.kind == MetricKind::Counter {
            encoding::bool::encode(MONOTONIC, &true, out);
        }
    });
    count
}

/// A scalar's value.
enum Number {
    Int(i64),
    Float(f64),
    Absent,
}

impl Number {
    /// `None` when it is not a number.
    fn of(value: &Value) -> Option<Self> {
        match *value {
            // OTLP's integers are signed.
            Value::Int(v) => Some(Self::Int(i64::try_from(v).unwrap_or(i64::MAX))),
            Value::Float(v) if v.is_finite() => Some(Self::Float(v)),
            Value::Absent => Some(Self::Absent),
            Value::Float(_) | Value::Histogram(_) => None,
        }
    }

    /// Fields of `NumberDataPoint`.
    fn encode(&self, point: &Point, times: [u64; 2], bounds: &Bounds, out: &mut Vec<u8>) {
        const ATTRIBUTES: u32 = 7;
        encode_times(times, out);
        match self {
            Self::Float(value) => encoding::double::encode(4, value, out),
            Self::Int(value) => encoding::sfixed64::encode(6, value, out),
            Self::Absent => {}
        }
        for (key, value) in point.attributes.iter() {
            write_attribute(ATTRIBUTES, key, &bounds.value(value), out);
        }
        if matches!(self, Self::Absent) {
            encoding::uint32::encode(8, &(DataPointFlags::NoRecordedValueMask as u32), out);
        }
    }
}

/// Start and time, which have the same numbers in every kind of point.
fn encode_times(times: [u64; 2], out: &mut Vec<u8>) {
    for (field, ns) in [2, 3].into_iter().zip(times).filter(|(_, ns)| *ns != 0) {
        encoding::fixed64::encode(field, &ns, out);
    }
}

/// Fields of `ExponentialHistogramDataPoint`. In proto3 what is 0 is left out.
fn distribution(point: &Point, histogram: &Histogram, times: [u64; 2], bounds: &Bounds, out: &mut Vec<u8>) {
    const ATTRIBUTES: u32 = 1;
    const POSITIVE: u32 = 8;
    for (key, value) in point.attributes.iter() {
        write_attribute(ATTRIBUTES, key, &bounds.value(value), out);
    }
    encode_times(times, out);
    let count = |field, n: u64, out: &mut Vec<u8>| {
        if n != 0 {
            encoding::fixed64::encode(field, &n, out);
        }
    };
    count(4, histogram.count, out);
    if histogram.sum.is_finite() {
        encoding::double::encode(5, &histogram.sum, out);
    }
    encoding::sint32::encode(6, &SCALE, out);
    count(7, histogram.zero_count, out);
    if let Some((offset, buckets)) = trimmed(histogram) {
        protobuf::message(POSITIVE, out, |out| {
            if offset != 0 {
                encoding::sint32::encode(1, &offset, out);
            }
            encoding::uint64::encode_packed(2, buckets, out);
        });
    }
    if histogram.zero_threshold != 0.0 {
        encoding::double::encode(14, &histogram.zero_threshold, out);
    }
}

/// The buckets without the empty ones at both ends, and the index of the first; `None` when all are empty.
fn trimmed(histogram: &Histogram) -> Option<(i32, &[u64])> {
    let first = histogram.buckets.iter().position(|&n| n > 0)?;
    let last = histogram.buckets.iter().rposition(|&n| n > 0)?;
    Some((histogram.offset + first as i32, &histogram.buckets[first..=last]))
}

#[cfg(test)]
mod tests;
