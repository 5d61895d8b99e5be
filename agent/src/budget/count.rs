//! How many series the back end has of a batch (pure).

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::Arc,
};

use super::{
    Budget, Level, address,
    resource::sum_of,
    rows::{self, Row},
};
use crate::{
    aggregate::Batch,
    config::{Detail, HistogramSeries},
    histogram::Histogram,
    metric::{MetricKind, Point, Value},
};

/// Series by what they are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Of no pod, or of a container whose pod is not measured.
    pub(super) others: u64,
    /// Of containers.
    pub(super) containers: u64,
    /// Of pods.
    pub(super) pods: u64,
    /// Of workloads and namespaces.
    pub(super) sums: u64,
    /// Those that containers and pods would have without folding.
    pub(super) folded_containers: u64,
    pub(super) folded_pods: u64,
}

impl Counts {
    /// All that there are.
    pub(super) fn total(&self) -> u64 {
        self.others + self.containers + self.pods + self.sums
    }
}

fn hash_of(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// Buckets that are not empty: their index, the bucket of zero as none.
fn buckets(histogram: &Histogram) -> impl Iterator<Item = Option<i32>> {
    let filled = histogram.buckets.iter().enumerate().filter(|(_, n)| **n > 0);
    let zero = (histogram.zero_count > 0).then_some(None);
    filled.map(|(at, _)| Some(histogram.offset + at as i32)).chain(zero)
}

impl Budget {
    /// How many series a point is.
    pub(super) fn series(&self, point: &Point) -> u64 {
        match &point.value {
            Value::Histogram(histogram) if self.settings.histogram_series == HistogramSeries::Buckets => {
                buckets(histogram).count() as u64 + 2
            }
            _ => 1,
        }
    }

    /// How many series a namespace has after a step.
    pub(super) fn count(&self, batch: &Batch, namespace: &str, rows: &[Row], step: usize) -> Counts {
        let details = self.details(namespace, step);
        let (mut counts, mut sums) = (Counts::default(), HashSet::new());
        for row in rows {
            let sample = rows::sample(batch, row.place);
            // A hash of what each sum is of, once it is needed.
            let mut of_sums: [Option<u64>; 2] = [None; 2];
            for point in &sample.points {
                let series = self.series(point);
                let detail = self.detail(details, row, point.metric);
                match row.level {
                    Level::Top => counts.others += series,
                    Level::Inner if detail == Detail::Container => counts.others += series,
                    Level::Container if detail == Detail::Container => counts.containers += series,
                    Level::Pod if detail <= Detail::Pod => counts.pods += series,
                    Level::Inner | Level::Container => counts.folded_containers += series,
                    Level::Pod => counts.folded_pods += series,
                }
                let into_sum = match row.level {
                    Level::Pod => detail > Detail::Pod,
                    // What a cgroup has, its pod's has too.
                    Level::Container => detail > Detail::Container && row.cgroup == 0 && row.adds_to_pod,
                    _ => false,
                };
                if !into_sum || !point.metric.adds_up {
                    continue;
                }
                let of = match detail {
                    Detail::Container | Detail::Pod => hash_of(&row.pod),
                    detail => {
                        let place = usize::from(detail == Detail::Namespace);
                        *of_sums[place].get_or_insert_with(|| hash_of(sum_of(&sample.resource, detail)))
                    }
                };
                self.enter(of, point, &mut sums);
            }
        }
        counts.sums = sums.len() as u64;
        counts
    }

    /// Notes the series that the sum of such points has.
    fn enter(&self, of: u64, point: &Point, sums: &mut HashSet<u64>) {
        let shape = (of, address(point.metric), &point.attributes);
        match &point.value {
            Value::Histogram(histogram) if self.settings.histogram_series == HistogramSeries::Buckets => {
                sums.extend(buckets(histogram).map(|bucket| hash_of((&shape, bucket))));
                sums.extend([i32::MIN, i32::MIN + 1].map(|count_or_sum| hash_of((&shape, count_or_sum, 0))));
            }
            _ => drop(sums.insert(hash_of(shape))),
        }
    }
}

/// Adds a value to a sum of the same kind. Counters and distributions only grow by that.
pub(super) fn add(sum: &mut Value, value: &Value) {
    match (sum, value) {
        (Value::Int(sum), Value::Int(value)) => *sum = sum.saturating_add(*value),
        (Value::Float(sum), Value::Float(value)) => *sum += value,
        (Value::Histogram(sum), Value::Histogram(value)) => Arc::make_mut(sum).merge(value),
        // One whose type is not that of the others' is left out, as the encoder leaves out what contradicts its declaration.
        _ => {}
    }
}

/// Whether a metric is of a kind that ends with a marker, and has no start.
pub(super) fn is_gauge(point: &Point) -> bool {
    point.metric.kind == MetricKind::Gauge
}
