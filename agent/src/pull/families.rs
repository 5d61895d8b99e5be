//! A batch -> families of series (pure): all formats want the series of a metric behind each other, and each series once.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use super::labels::{self, Labels};
use crate::{
    aggregate::Batch,
    histogram::Histogram,
    join::Sample,
    metric::{Metric, MetricKind, Point, Value},
};

/// The family that has the attributes of resources.
static TARGET: Declaration = Declaration {
    metric: None,
    of_pods: false,
    help: "What each resource is: its attributes as labels, also those that are no labels of other series.",
};

/// What is the same for all series of a family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Declaration {
    /// `None`: this is `target_info`.
    pub(super) metric: Option<&'static Metric>,
    /// Whether its series are of pods, which may have a name of their own.
    pub(super) of_pods: bool,
    /// One sentence.
    pub(super) help: &'static str,
}

impl Declaration {
    /// Its name: of a counter with `_total`.
    pub(super) fn name(&self) -> String {
        self.metric.map_or_else(|| "target_info".to_owned(), |metric| metric.prometheus_name(self.of_pods))
    }
}

/// All series of one metric.
#[derive(Debug)]
pub(super) struct Family<'a> {
    /// What they are.
    pub(super) declaration: Declaration,
    /// Each once.
    pub(super) series: Vec<Series<'a>>,
}

impl Family<'_> {
    /// How its values behave over time; `None` for `target_info`.
    pub(super) fn kind(&self) -> Option<MetricKind> {
        self.declaration.metric.map(|metric| metric.kind)
    }
}

/// One series.
#[derive(Clone, Debug)]
pub(super) struct Series<'a> {
    /// Those of its resource.
    pub(super) of_resource: Arc<Labels>,
    /// Those of the point.
    pub(super) own: Labels,
    /// When counting began, Unix time in ns; 0 for gauges.
    pub(super) start_unix_ns: u64,
    /// Its value.
    pub(super) value: SeriesValue<'a>,
}

impl Series<'_> {
    /// All labels. No attribute of a point has the name of a resource's.
    pub(super) fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.of_resource.iter().chain(&self.own).map(|(name, value)| (&**name, &**value))
    }

    fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.labels().for_each(|label| label.hash(&mut hasher));
        hasher.finish()
    }
}

/// The value of a series.
#[derive(Clone, Copy, Debug)]
pub(super) enum SeriesValue<'a> {
    /// An integer.
    Int(u64),
    /// A real number.
    Float(f64),
    /// A distribution.
    Histogram(&'a Histogram),
}

impl<'a> SeriesValue<'a> {
    /// What a point shows: nothing where its value is no number, or is not of its metric's kind.
    fn of(point: &'a Point) -> Option<Self> {
        match (&point.value, point.metric.kind) {
            (Value::Histogram(histogram), MetricKind::Histogram) => Some(Self::Histogram(histogram)),
            (Value::Histogram(_) | Value::Absent, _) | (_, MetricKind::Histogram) => None,
            (Value::Int(value), _) => Some(Self::Int(*value)),
            (Value::Float(value), _) => value.is_finite().then_some(Self::Float(*value)),
        }
    }
}

/// The points of a batch by metric.
#[derive(Debug)]
pub(super) struct Families<'a> {
    batch: &'a Batch,
    most: usize,
    /// Each sample with the labels of its resource.
    samples: Vec<(&'a Sample, Arc<Labels>)>,
    /// In order of first appearance: the points, each with the index of its sample.
    metrics: Vec<(Declaration, Vec<(usize, &'a Point)>)>,
}

impl<'a> Families<'a> {
    /// Of a batch. Values of labels have at most `most` bytes.
    pub(super) fn of(batch: &'a Batch, most: usize) -> Self {
        let labelled = |sample: &'a Sample| (sample, Arc::new(labels::promoted(&sample.resource, most)));
        let samples: Vec<_> = batch.samples().map(labelled).collect();
        let mut metrics: Vec<(Declaration, Vec<(usize, &'a Point)>)> = Vec::new();
        let mut places: HashMap<&'static str, usize> = HashMap::new();
        for (index, (sample, _)) in samples.iter().enumerate() {
            for point in &sample.points {
                let (metric, of_pods) = (point.metric, sample.resource.is_pod());
                let place = *places.entry(metric.name_of(of_pods)).or_insert_with(|| {
                    metrics.push((Declaration { metric: Some(metric), of_pods, help: metric.help }, Vec::new()));
                    metrics.len() - 1
                });
                metrics[place].1.push((index, point));
            }
        }
        Self { batch, most, samples, metrics }
    }

    /// Calls `each` with one family after the other: never are all series there at once.
    pub(super) fn each(&self, mut each: impl FnMut(&Family<'a>)) {
        let info = Family { declaration: TARGET, series: self.target_info() };
        if !info.series.is_empty() {
            each(&info);
        }
        for (declaration, points) in &self.metrics {
            let series = points.iter().filter_map(|(index, point)| self.series(*index, point)).collect();
            let declaration = *declaration;
            let family = Family { declaration, series: newest(series) };
            if !family.series.is_empty() {
                each(&family);
            }
        }
    }

    fn series(&self, index: usize, point: &'a Point) -> Option<Series<'a>> {
        let (sample, of_resource) = &self.samples[index];
        let value = SeriesValue::of(point)?;
        let start_unix_ns = match point.metric.kind {
            MetricKind::Gauge => 0,
            // As OTLP has it: never after the sample's time.
            _ => self.batch.offset.unix_ns(point.start_ns.min(sample.time_ns.unwrap_or(self.batch.time_ns))),
        };
        let own = labels::own(&point.attributes, self.most);
        Some(Series { of_resource: Arc::clone(of_resource), own, start_unix_ns, value })
    }

    fn target_info(&self) -> Vec<Series<'a>> {
        let infos = self.samples.iter().filter(|(sample, _)| !sample.points.is_empty()).filter_map(|(sample, _)| {
            let of_resource = Arc::new(labels::target_info(&sample.resource, self.most)?);
            Some(Series { of_resource, own: Labels::new(), start_unix_ns: 0, value: SeriesValue::Int(1) })
        });
        newest(infos.collect())
    }
}

/// Of series with the same labels the last: a service that was started again follows its predecessor in a batch.
fn newest(mut series: Vec<Series<'_>>) -> Vec<Series<'_>> {
    let mut seen = HashSet::with_capacity(series.len());
    series.reverse();
    series.retain(|series| seen.insert(series.hash()));
    series.reverse();
    series
}
