//! Reads figures off the points of a sample (pure). A figure without a point is not known.

use std::sync::Arc;

use crate::{
    histogram::Histogram,
    join::Sample,
    metric::{Metric, Point, Value},
};

/// All points of a metric.
pub fn points<'a>(sample: &'a Sample, metric: &'static Metric) -> impl Iterator<Item = &'a Point> {
    sample.points.iter().filter(move |point| std::ptr::eq(point.metric, metric))
}

/// A point's own attribute.
pub fn attribute<'a>(point: &'a Point, key: &str) -> Option<&'a str> {
    point.attributes.iter().find(|(k, _)| *k == key).map(|(_, value)| value)
}

/// The sum of all points of a metric.
pub fn sum(sample: &Sample, metric: &'static Metric) -> Option<f64> {
    points(sample, metric).filter_map(value).reduce(|a, b| a + b)
}

/// The sum of the points of a metric that have the wanted attribute.
pub fn sum_where(sample: &Sample, metric: &'static Metric, key: &str, wanted: impl Fn(&str) -> bool) -> Option<f64> {
    let of = points(sample, metric).filter(|point| attribute(point, key).is_some_and(&wanted));
    of.filter_map(value).reduce(|a, b| a + b)
}

/// The wanted distributions of a metric, together.
pub fn histogram(sample: &Sample, metric: &'static Metric, wanted: impl Fn(&Point) -> bool) -> Option<Arc<Histogram>> {
    let mut of = points(sample, metric).filter(|point| wanted(point)).filter_map(|point| match &point.value {
        Value::Histogram(histogram) => Some(Arc::clone(histogram)),
        _ => None,
    });
    let first = of.next()?;
    Some(of.fold(first, |sum, next| {
        let mut sum = (*sum).clone();
        sum.merge(&next);
        Arc::new(sum)
    }))
}

/// The value of the only point of a metric.
pub fn number(sample: &Sample, metric: &'static Metric) -> Option<f64> {
    points(sample, metric).next().and_then(value)
}

/// A point's value, if it is one number.
pub fn value(point: &Point) -> Option<f64> {
    match &point.value {
        Value::Int(n) => Some(*n as f64),
        Value::Float(n) => Some(*n),
        Value::Histogram(_) | Value::Absent => None,
    }
}
