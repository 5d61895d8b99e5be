//! Series as receivers see them (pure): each counter begins at zero, each gauge that ends is marked, and no series has two points
//! at one moment or goes back in time.
//!
//! A receiver knows a series only by its points. The increase before a counter's first point is invisible to it, so that a
//! container that lived between two exports would seem to have used nothing: such a counter gets a point of value 0 at its start.
//! A gauge's last value counts for five more minutes in Prometheus and its like, unless a point marks its end:
//! OTLP's flag NO_RECORDED_VALUE.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use crate::{
    aggregate::Batch,
    join::{CgroupSample, Earlier, Resource, Sample},
    kernel::facts,
    metric::{Attributes, Metric, MetricKind, Point, Value},
    signals::dns,
};

/// Points of one series are at least this far apart: Prometheus and its like keep times in ms, and refuse a second value for one.
const APART_NS: u64 = 1_000_000;

/// How far a point of value 0 may lie in the past: Prometheus refuses what is older than its newest samples by an hour.
const PAST_NS: u64 = 30 * 60 * 1_000_000_000;

/// Batches for which a cgroup that is missing is remembered, and the least time. A service that was started again waits until its
/// predecessor's final values have left, and a container for its name, which may take five minutes (`aggregate/labels.rs`).
const REMEMBERED: u64 = 8;
pub(super) const REMEMBERED_NS: u64 = 6 * 60 * 1_000_000_000;

/// What has been exported of each series.
#[derive(Debug)]
pub struct Series {
    /// Until when an earlier process may have exported: a counter that began later has no point yet.
    before_ns: u64,
    /// The batch before had all that is measured: a counter that it does not have was zero.
    complete: bool,
    /// Number of this batch.
    batch: u64,
    lives: HashMap<SeriesOwner, Life>,
    newest: HashMap<Arc<Resource>, Newest>,
    shapes: Shapes,
}

/// The owner of series: a cgroup by its id, for its name may become known later and its path may pass to another; else a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum SeriesOwner {
    Cgroup(u64),
    Resource(Arc<Resource>),
}

impl SeriesOwner {
    /// `cgroup` is the id, if the series are a cgroup's.
    pub(super) fn of(cgroup: Option<u64>, resource: &Arc<Resource>) -> Self {
        cgroup.map_or_else(|| Self::Resource(Arc::clone(resource)), Self::Cgroup)
    }
}

/// The series of one cgroup, or of one resource.
#[derive(Debug)]
struct Life {
    resource: Arc<Resource>,
    /// All counters so far, and the gauges of its last batch.
    series: Vec<Arc<Shape>>,
    /// When its counters were exported last.
    counted_ns: Option<u64>,
    /// The last batch that had it, and its time.
    batch: u64,
    seen_ns: u64,
}

impl Life {
    /// Its gauges, which it has no more.
    fn end_gauges(&mut self) -> Ended {
        (Arc::clone(&self.resource), self.series.extract_if(.., |shape| shape.is_gauge()).collect())
    }
}

/// When the newest points of a resource's counters are, and the batch that had them.
#[derive(Clone, Copy, Debug)]
struct Newest {
    ns: u64,
    batch: u64,
}

/// The identity of a series within one resource.
#[derive(Debug)]
struct Shape {
    metric: &'static Metric,
    attributes: Attributes,
}

impl Shape {
    fn is(&self, point: &Point) -> bool {
        std::ptr::eq(self.metric, point.metric) && self.attributes == point.attributes
    }

    fn point(&self, value: Value) -> Point {
        Point { attributes: self.attributes.clone(), ..Point::new(self.metric, 0, value) }
    }

    /// Whether it is forgotten when it is not there any more.
    fn ends(&self) -> bool {
        self.is_gauge() || is_listed(self.metric)
    }

    fn is_gauge(&self) -> bool {
        self.metric.kind == MetricKind::Gauge
    }
}

/// Each shape once: a node's cgroups have some hundred between them.
#[derive(Debug, Default)]
struct Shapes(HashMap<u64, Arc<Shape>>);

impl Shapes {
    fn of(&mut self, point: &Point) -> Arc<Shape> {
        let mut hasher = DefaultHasher::new();
        (point.metric.name, &point.attributes).hash(&mut hasher);
        let new = || Arc::new(Shape { metric: point.metric, attributes: point.attributes.clone() });
        let shape = self.0.entry(hasher.finish()).or_insert_with(new);
        if shape.is(point) { Arc::clone(shape) } else { new() }
    }

    /// Forgets those that no life has.
    fn sweep(&mut self) {
        self.0.retain(|_, shape| Arc::strong_count(shape) > 1);
    }
}

/// Gauges that have no value any more, and their resource.
type Ended = (Arc<Resource>, Vec<Arc<Shape>>);

impl Series {
    /// An earlier process may have exported until `before_ns`, in the time of batches: the time of the last batch of whoever counted in
    /// the same maps, else the start of this process.
    pub fn new(before_ns: u64) -> Self {
        Self { before_ns, complete: false, batch: 0, lives: HashMap::new(), newest: HashMap::new(), shapes: Shapes::default() }
    }

    /// Adds to a batch what receivers need: zero points, and markers for what has ended. `complete`: all signals could be read
    /// for it. Returns how many points were left out because another has their series and moment.
    pub fn complete(&mut self, batch: &mut Batch, complete: bool) -> u64 {
        self.batch += 1;
        let now_ns = batch.time_ns;
        let (mut doubles, mut ended) = (0, Vec::new());
        doubles += self.enter(None, &mut batch.node, now_ns, &mut ended);
        for CgroupSample { cgroup, sample } in &mut batch.cgroups {
            doubles += self.enter(Some(cgroup.id), sample, now_ns, &mut ended);
        }
        for sample in &mut batch.pods {
            doubles += self.enter(None, sample, now_ns, &mut ended);
        }
        for life in self.lives.values_mut().filter(|life| life.batch + 1 == self.batch) {
            ended.push(life.end_gauges());
        }
        let remembered = |batch: u64, ns: u64| batch + REMEMBERED > self.batch || ns + REMEMBERED_NS > now_ns;
        self.lives.retain(|_, life| remembered(life.batch, life.seen_ns));
        self.newest.retain(|_, newest| remembered(newest.batch, newest.ns));
        batch.ended.extend(self.markers(ended));
        self.complete = complete;
        self.shapes.sweep();
        doubles
    }

    /// Before the first batch in which these counters have begun once more, for all.
    pub fn begin_anew(&mut self, anew: &[&'static Metric]) {
        let begins = |shape: &Shape| anew.iter().any(|metric| std::ptr::eq(*metric, shape.metric));
        if !anew.is_empty() {
            self.lives.values_mut().for_each(|life| life.series.retain(|shape| !begins(shape)));
        }
    }

    /// Adds the zero points of a sample's new counters to it. `cgroup` is the id, if it is a cgroup's.
    fn enter(&mut self, cgroup: Option<u64>, sample: &mut Sample, now_ns: u64, ended: &mut Vec<Ended>) -> u64 {
        let owner = SeriesOwner::of(cgroup, &sample.resource);
        let mut life = self.lives.remove(&owner).unwrap_or_else(|| Life {
            resource: Arc::clone(&sample.resource),
            series: Vec::new(),
            counted_ns: None,
            batch: self.batch,
            seen_ns: now_ns,
        });
        if life.resource != sample.resource {
            // What the counters had was exported under the former name; they go on.
            ended.push(life.end_gauges());
        }
        // Also where it is equal: two copies need not be kept.
        life.resource = Arc::clone(&sample.resource);
        // In this order there is one series after the other, as in most batches.
        let (mut new, mut expected, mut doubles) = (Vec::new(), 0, 0);
        let mut present = vec![false; life.series.len()];
        // Those of counters that came back out of a sum are there already (`budget/totals.rs`).
        let mut zeros: Vec<Earlier> = std::mem::take(&mut sample.earlier);
        // An earlier process may have exported the final values of what died, but for the last of them.
        let exported = |point: &Point| point.metric.kind != MetricKind::Gauge && point.start_ns <= self.before_ns;
        let before_ns = if life.counted_ns.is_none() && sample.points.iter().any(exported) { self.before_ns } else { 0 };
        let newest_ns = self.newest.get(&sample.resource).map_or(0, |newest| newest.ns);
        let earliest_ns = Some(newest_ns.max(before_ns)).filter(|ns| *ns > 0).map_or(0, |ns| ns + APART_NS);
        for zeros in &mut zeros {
            zeros.time_ns = zeros.time_ns.max(now_ns.saturating_sub(PAST_NS)).max(earliest_ns);
        }
        let mut add_zero = |point: &Point, ns: u64| {
            if point.value.is_nothing() || zeros.iter().flat_map(|zeros| &zeros.points).any(|zero| zero.is_of_series(point)) {
                return;
            }
            let value = point.value.nothing();
            let ns = ns.max(now_ns.saturating_sub(PAST_NS)).max(earliest_ns);
            let point = Point { value, ..point.clone() };
            match zeros.iter_mut().find(|zeros| zeros.time_ns == ns) {
                Some(zeros) => zeros.points.push(point),
                None => zeros.push(Earlier { time_ns: ns, points: vec![point] }),
            }
        };
        sample.points.retain(|point| {
            let known = match life.series.get(expected) {
                Some(shape) if shape.is(point) => Some(expected),
                _ => life.series.iter().position(|shape| shape.is(point)),
            };
            let first = match known {
                Some(at) => {
                    expected = at + 1;
                    !std::mem::replace(&mut present[at], true)
                }
                None if new.iter().any(|shape: &Arc<Shape>| shape.is(point)) => false,
                None => {
                    new.push(self.shapes.of(point));
                    if let Some(ns) = zero_ns(point, life.counted_ns, self.before_ns, self.complete) {
                        add_zero(point, ns);
                    }
                    true
                }
            };
            doubles += u64::from(!first);
            first
        });
        let mut index = 0;
        let gone: Vec<Arc<Shape>> = life
            .series
            .extract_if(.., |shape| {
                index += 1;
                shape.ends() && !present[index - 1]
            })
            .filter(|shape| shape.is_gauge())
            .collect();
        life.series.append(&mut new);
        if !gone.is_empty() {
            ended.push((Arc::clone(&life.resource), gone));
        }
        if sample.points.iter().any(|point| point.metric.kind != MetricKind::Gauge) {
            let after_zeros = zeros.iter().map(|zeros| zeros.time_ns + APART_NS).max();
            let time_ns = sample.time_ns.unwrap_or(now_ns).max(earliest_ns).max(after_zeros.unwrap_or(0));
            sample.time_ns = Some(time_ns).filter(|ns| *ns != now_ns);
            life.counted_ns = Some(time_ns);
            self.newest.insert(Arc::clone(&sample.resource), Newest { ns: time_ns, batch: self.batch });
        }
        zeros.sort_by_key(|zeros| zeros.time_ns);
        sample.earlier = zeros;
        (life.batch, life.seen_ns) = (self.batch, now_ns);
        if life.counted_ns.is_some() || !life.series.is_empty() {
            self.lives.insert(owner, life);
        }
        doubles
    }

    /// The points that end gauges, but for those that a successor of the same name has.
    fn markers(&self, ended: Vec<Ended>) -> Vec<Sample> {
        if ended.is_empty() {
            return Vec::new();
        }
        let resources: HashSet<&Arc<Resource>> = ended.iter().map(|(resource, _)| resource).collect();
        let mut taken: HashMap<&Arc<Resource>, Vec<*const Shape>> = HashMap::new();
        for life in self.lives.values().filter(|life| life.batch == self.batch && resources.contains(&life.resource)) {
            taken.entry(&life.resource).or_default().extend(life.series.iter().map(Arc::as_ptr));
        }
        let mut samples = Vec::new();
        for (resource, mut shapes) in ended.iter().cloned() {
            shapes.retain(|shape| !taken.get(&resource).is_some_and(|taken| taken.contains(&Arc::as_ptr(shape))));
            if !shapes.is_empty() {
                let points = shapes.iter().map(|shape| shape.point(Value::Absent)).collect();
                samples.push(Sample::new(resource, points));
            }
        }
        samples
    }
}

/// When a counter that has no point yet was zero, if that is known. `counted_ns` is when its owner's counters were exported last, by this
/// process.
fn zero_ns(point: &Point, counted_ns: Option<u64>, before_ns: u64, complete: bool) -> Option<u64> {
    if point.metric.kind == MetricKind::Gauge {
        return None;
    }
    match counted_ns {
        None => Some(point.start_ns).filter(|ns| *ns > before_ns),
        Some(counted_ns) if point.start_ns > counted_ns => Some(point.start_ns),
        // What is read from the kernel's own files may have been there all the time, and of a top list what is not in it is not zero.
        Some(counted_ns) => {
            Some(counted_ns).filter(|_| complete && point.start_ns != facts::BOOTED_NS && !is_listed(point.metric))
        }
    }
}

/// Whether a metric is a list of the largest: what is not in it is merely smaller.
fn is_listed(metric: &'static Metric) -> bool {
    std::ptr::eq(metric, &dns::metrics::NAME_QUERIES)
}

#[cfg(test)]
mod tests;
