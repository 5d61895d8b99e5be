//! The points of OTLP metrics: numbers and exponential histograms, with their attributes as strings.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use opentelemetry_proto::tonic::{
    common::v1::{KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, DataPointFlags, ExponentialHistogramDataPoint, NumberDataPoint, metric::Data, number_data_point,
    },
};

/// Attributes by key.
pub type Attributes = BTreeMap<String, String>;

/// One point of one metric.
#[derive(Clone, Debug)]
pub struct Point {
    /// What it is about.
    pub resource: Arc<Attributes>,
    /// The metric's name.
    pub metric: Arc<str>,
    /// The point's own attributes.
    pub attributes: Attributes,
    /// When counting began, Unix time in ns.
    pub start_unix_ns: u64,
    /// When it was measured, Unix time in ns.
    pub time_unix_ns: u64,
    /// True for a cumulative sum that never goes down.
    pub counter: bool,
    /// The value.
    pub value: Value,
}

impl Point {
    /// The value of a sum or gauge that has one.
    pub fn number(&self) -> Option<f64> {
        match self.value {
            Value::Number(value) => Some(value),
            Value::Histogram(_) | Value::Absent => None,
        }
    }

    /// Whether it is of this metric, which has another name where it is a pod's: `container.cpu.time` is `k8s.pod.cpu.time`.
    pub fn is_of(&self, metric: &str) -> bool {
        let of_pod = || self.resource.get("podmeter.workload.kind").is_some_and(|kind| kind == "Pod");
        match metric.strip_prefix("container.").filter(|_| of_pod()) {
            Some(rest) => self.metric.strip_prefix("k8s.pod.") == Some(rest),
            None => &*self.metric == metric,
        }
    }

    /// Whether it is of this metric, by [`is_of`](Self::is_of), and has these attributes.
    pub(super) fn is(&self, metric: &str, attributes: &[(&str, &str)]) -> bool {
        self.is_of(metric) && attributes.iter().all(|(key, value)| self.attributes.get(*key).is_some_and(|own| own == value))
    }
}

/// The value of a point.
#[derive(Clone, Debug)]
pub enum Value {
    /// Of a sum or gauge.
    Number(f64),
    /// Of an exponential histogram.
    Histogram(Histogram),
    /// None any more: the gauge has ended.
    Absent,
}

/// An exponential histogram of positive values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Number of observations, those in the zero bucket included.
    pub count: u64,
    /// Sum of the observations.
    pub sum: f64,
    /// Observations in the zero bucket.
    pub zero_count: u64,
    /// A bucket's upper bound is `2^(2^-scale)` times its lower bound.
    pub scale: i32,
    /// Counts by bucket index: bucket `i` holds `(base^i, base^(i+1)]`. Empty buckets are left out.
    pub buckets: BTreeMap<i32, u64>,
}

impl Histogram {
    fn of(point: &ExponentialHistogramDataPoint) -> Result<Self> {
        let positive = point.positive.clone().unwrap_or_default();
        let buckets: BTreeMap<i32, u64> =
            (positive.offset..).zip(positive.bucket_counts.iter().copied()).filter(|(_, n)| *n > 0).collect();
        let in_buckets: u64 = buckets.values().sum();
        ensure!(
            in_buckets + point.zero_count == point.count,
            "a histogram counts {} observations but its buckets hold {in_buckets} + {}",
            point.count,
            point.zero_count
        );
        let sum = point.sum.context("a histogram without a sum")?;
        Ok(Self { count: point.count, sum, zero_count: point.zero_count, scale: point.scale, buckets })
    }

    /// What was observed after `earlier`, an older state of the same histogram.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut delta = self.clone();
        delta.count -= earlier.count;
        delta.sum -= earlier.sum;
        delta.zero_count -= earlier.zero_count;
        for (index, n) in &earlier.buckets {
            *delta.buckets.entry(*index).or_default() -= n;
        }
        delta.buckets.retain(|_, n| *n > 0);
        delta
    }

    /// Lower and upper bound of the bucket in which the share `q` of the observations ends; `(0, 0)` for the zero bucket.
    pub fn quantile_bounds(&self, q: f64) -> Option<(f64, f64)> {
        let rank = ((q * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        if self.count == 0 || rank <= self.zero_count {
            return (self.count > 0).then_some((0.0, 0.0));
        }
        let mut seen = self.zero_count;
        let (index, _) = self.buckets.iter().find(|(_, n)| {
            seen += **n;
            seen >= rank
        })?;
        Some((self.bound(*index), self.bound(index + 1)))
    }

    /// The lower bound of a bucket.
    pub fn bound(&self, index: i32) -> f64 {
        (f64::from(index) * (-f64::from(self.scale)).exp2()).exp2()
    }
}

/// Attributes as strings; podmeter has no others.
pub(super) fn attributes_of(attributes: &[KeyValue]) -> Attributes {
    let text = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

/// Adds the points of one metric. Fails where they are not valid OTLP.
pub(super) fn add_points(
    resource: &Arc<Attributes>,
    metric: Arc<str>,
    data: Option<&Data>,
    points: &mut Vec<Point>,
) -> Result<()> {
    let cumulative = |temporality| {
        ensure!(temporality == AggregationTemporality::Cumulative as i32, "temporality {temporality} is not cumulative");
        Ok(())
    };
    let mut add = |attributes: &[KeyValue], [start_unix_ns, time_unix_ns]: [u64; 2], counter, value| {
        let (resource, metric, attributes) = (resource.clone(), metric.clone(), attributes_of(attributes));
        points.push(Point { resource, metric, attributes, start_unix_ns, time_unix_ns, counter, value });
    };
    let numbers: (&[NumberDataPoint], bool) = match data.context("no data")? {
        Data::Gauge(gauge) => (&gauge.data_points, false),
        Data::Sum(sum) => {
            cumulative(sum.aggregation_temporality)?;
            (&sum.data_points, sum.is_monotonic)
        }
        Data::ExponentialHistogram(histogram) => {
            cumulative(histogram.aggregation_temporality)?;
            for point in &histogram.data_points {
                let value = Value::Histogram(Histogram::of(point)?);
                add(&point.attributes, [point.start_time_unix_nano, point.time_unix_nano], true, value);
            }
            (&[], false)
        }
        other => anyhow::bail!("podmeter exports no data of this kind: {other:?}"),
    };
    for point in numbers.0 {
        let value = match point.value {
            Some(number_data_point::Value::AsDouble(value)) => Value::Number(value),
            Some(number_data_point::Value::AsInt(value)) => Value::Number(value as f64),
            None => {
                let flagged = point.flags & DataPointFlags::NoRecordedValueMask as u32 != 0;
                ensure!(flagged && !numbers.1, "a point without a value that is not the end of a gauge");
                Value::Absent
            }
        };
        ensure!(!matches!(value, Value::Number(value) if !value.is_finite()), "the value {value:?}");
        add(&point.attributes, [point.start_time_unix_nano, point.time_unix_nano], numbers.1, value);
    }
    Ok(())
}
