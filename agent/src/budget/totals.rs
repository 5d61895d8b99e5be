//! Sums of pods that have no series of their own (pure).
//!
//! What is counted goes forward and is counted once. A pod's counter that is folded is exported on its own a last time, and what it
//! counts from then on is in the sum. One that is folded from its birth is in the sum from zero. A counter that is unfolded begins
//! anew: at zero, with the time of the last sum that it was in as its start. So the increases of a pod's own series and of its sum
//! together are the pod's, over any time. A sum begins at zero when its first pod is folded, ends when it has none, and does not have
//! what an earlier process may have exported.

use std::{collections::HashMap, sync::Arc};

use super::{
    count::{add, is_gauge},
    is_histogram,
    resource::sum_of,
    rows::{Place, Row},
};
use crate::{
    aggregate::Batch,
    config::Detail,
    join::{Earlier, Resource, Sample},
    kernel::facts,
    metric::{Metric, Point, Scope},
};

/// Sums, and up to where each pod is in one.
#[derive(Debug)]
pub(super) struct Totals {
    /// Until when an earlier process may have exported.
    before_ns: u64,
    /// Time of the batch before, and whether it had all that is measured.
    last: Option<(u64, bool)>,
    now_ns: u64,
    batch: u64,
    /// By cgroup id.
    pods: HashMap<u64, PodState>,
    sums: HashMap<Arc<Resource>, Sum>,
    /// Gauges that pods get of their containers, by UID.
    of_containers: HashMap<Arc<str>, Vec<Point>>,
}

/// What is known of a pod's cgroup.
#[derive(Debug, Default)]
struct PodState {
    /// The last batch that had it.
    batch: u64,
    /// Whether its counters and its histograms were exported on their own, in the last batch that had any.
    own: [bool; 2],
    parts: Vec<Part>,
}

/// A counter that is, or was, in a sum.
#[derive(Debug)]
struct Part {
    /// Its value up to where it is in sums, or was exported before it was in one.
    taken: Point,
    /// Since when it has a series of its own again.
    own_since_ns: Option<u64>,
}

impl Part {
    /// What it has counted in its own series, as of `point`; `false` where it has begun anew.
    fn as_own(&self, since_ns: u64, point: &mut Point) -> bool {
        let value = point.value.since(&self.taken.value);
        if let Some(value) = value {
            (point.value, point.start_ns) = (value, since_ns.max(point.start_ns));
            return true;
        }
        false
    }
}

/// A counter of a sum.
#[derive(Debug)]
struct Counter {
    total: Point,
    /// Whether a pod has it in this batch. What none has is not exported: it is not known whether it counts.
    used: bool,
}

/// A sum of pods.
#[derive(Debug, Default)]
struct Sum {
    counters: Vec<Counter>,
    gauges: Vec<Point>,
    /// Whether a pod is in it.
    used: bool,
}

impl Sum {
    fn add_counter(&mut self, point: Point) {
        match self.counters.iter_mut().find(|known| known.total.is_of_series(&point)) {
            Some(known) => {
                add(&mut known.total.value, &point.value);
                known.used = true;
            }
            None => self.counters.push(Counter { total: point, used: true }),
        }
    }

    fn add_gauge(&mut self, point: Point) {
        self.used = true;
        add_to(&mut self.gauges, point);
    }
}

fn add_to(points: &mut Vec<Point>, point: Point) {
    match points.iter_mut().find(|known| known.is_of_series(&point)) {
        Some(known) => add(&mut known.value, &point.value),
        None => points.push(point),
    }
}

impl Totals {
    /// An earlier process may have exported until `before_ns`.
    pub(super) fn new(before_ns: u64) -> Self {
        Self {
            before_ns,
            last: None,
            now_ns: 0,
            batch: 0,
            pods: HashMap::new(),
            sums: HashMap::new(),
            of_containers: HashMap::new(),
        }
    }

    /// A batch of this time begins.
    pub(super) fn begin(&mut self, now_ns: u64) {
        (self.now_ns, self.batch) = (now_ns, self.batch + 1);
    }

    /// Before the first batch in which these counters have begun once more, for all.
    pub(super) fn begin_anew(&mut self, anew: &[&'static Metric]) {
        if anew.is_empty() {
            return;
        }
        for pod in self.pods.values_mut() {
            pod.parts.retain(|part| !anew.iter().any(|metric| std::ptr::eq(*metric, part.taken.metric)));
        }
    }

    /// A container's gauge, which its pod gets where it has none itself.
    pub(super) fn add_gauge(&mut self, pod: &Arc<str>, point: Point) {
        add_to(self.of_containers.entry(Arc::clone(pod)).or_default(), point);
    }

    /// Leaves in a pod's sample what is exported on its own; the rest is in sums from now on.
    pub(super) fn pod(&mut self, row: &Row, sample: &mut Sample, detail: impl Fn(&'static Metric) -> Detail) {
        let of_kubernetes = matches!(row.place, Place::Pods(_));
        let known = if of_kubernetes { None } else { self.pods.remove(&row.cgroup) };
        let is_new = known.is_none();
        let mut pod = known.unwrap_or_default();
        if let Some(points) = self.of_containers.remove(&row.pod) {
            self.add_missing(row, sample, points);
        }
        let was_own = std::mem::take(&mut pod.own);
        let resource = Arc::clone(&sample.resource);
        let last_ns = self.last.map_or(self.before_ns, |last| last.0);
        let mut zeros = Vec::new();
        let mut present = [false; 2];
        let mut sum_resources: [Option<Arc<Resource>>; 2] = [None, None];
        sample.points.retain_mut(|point| {
            let kind = usize::from(is_histogram(point.metric));
            present[kind] |= !is_gauge(point);
            let detail = detail(point.metric);
            let part = pod.parts.iter().position(|part| part.taken.is_of_series(point));
            if detail <= Detail::Pod {
                pod.own[kind] |= !is_gauge(point);
                if let Some(at) = part {
                    let came_back = pod.parts[at].own_since_ns.is_none();
                    let since_ns = *pod.parts[at].own_since_ns.get_or_insert(last_ns);
                    if !pod.parts[at].as_own(since_ns, point) {
                        pod.parts.remove(at);
                    } else if came_back {
                        zeros.push(Point { value: point.value.nothing(), ..point.clone() });
                    }
                }
                return true;
            }
            if !point.metric.adds_up {
                return false;
            }
            let place = usize::from(detail == Detail::Namespace);
            let of = sum_resources[place].get_or_insert_with(|| Arc::new(sum_of(&resource, detail)));
            let sum = self.sums.entry(Arc::clone(of)).or_default();
            sum.used = true;
            if is_gauge(point) {
                sum.add_gauge(point.clone());
                return false;
            }
            let (stays, value) = match part {
                Some(at) if pod.parts[at].own_since_ns.is_none() => {
                    let part = &mut pod.parts[at];
                    let value = point.value.since(&part.taken.value).unwrap_or_else(|| point.value.clone());
                    part.taken.value = point.value.clone();
                    (false, value)
                }
                Some(at) => {
                    let part = &mut pod.parts[at];
                    let since_ns = part.own_since_ns.take().unwrap_or_default();
                    let whole = point.value.clone();
                    part.as_own(since_ns, point);
                    part.taken.value = whole;
                    (true, point.value.nothing())
                }
                None => {
                    pod.parts.push(Part { taken: point.clone(), own_since_ns: None });
                    let seen = if is_new { None } else { self.last };
                    let value =
                        if is_from_zero(point, seen, self.before_ns) { point.value.clone() } else { point.value.nothing() };
                    if was_own[kind] { (true, point.value.nothing()) } else { (false, value) }
                }
            };
            // All of it was counted after the batch before, or it is of a pod that no batch had.
            let start_ns = self.last.map_or(self.before_ns + 1, |last| last.0);
            sum.add_counter(Point { value, start_ns, ..point.clone() });
            stays
        });
        for kind in (0..2).filter(|kind| !present[*kind]) {
            pod.own[kind] = was_own[kind];
        }
        if !zeros.is_empty() {
            sample.earlier.push(Earlier { time_ns: last_ns, points: zeros });
        }
        if !of_kubernetes && !row.ended {
            pod.batch = self.batch;
            self.pods.insert(row.cgroup, pod);
        }
    }

    /// Adds to a pod's sample the gauges of its containers that it does not have. Those of cgroups go to its cgroup's, the others to
    /// what Kubernetes reports of it.
    fn add_missing(&mut self, row: &Row, sample: &mut Sample, points: Vec<Point>) {
        let of_kubernetes = matches!(row.place, Place::Pods(_));
        for point in points {
            if (point.metric.scope == Scope::Cgroup) == of_kubernetes {
                add_to(self.of_containers.entry(Arc::clone(&row.pod)).or_default(), point);
            } else if !sample.points.iter().any(|known| known.is_of_series(&point)) {
                sample.points.push(point);
            }
        }
    }

    /// Adds the sums to the batch.
    pub(super) fn end(&mut self, batch: &mut Batch, complete: bool) {
        self.last = Some((self.now_ns, complete));
        self.of_containers.clear();
        self.pods.retain(|_, pod| pod.batch == self.batch);
        self.sums.retain(|_, sum| std::mem::take(&mut sum.used));
        let samples = self.sums.iter_mut().map(|(resource, sum)| {
            let counters = sum.counters.iter_mut().filter_map(|counter| {
                let used = std::mem::take(&mut counter.used);
                used.then(|| counter.total.clone())
            });
            let points = counters.chain(std::mem::take(&mut sum.gauges)).collect();
            Sample::new(Arc::clone(resource), points)
        });
        let mut samples: Vec<Sample> = samples.collect();
        samples.sort_by(|a, b| a.resource.get("service.instance.id").cmp(&b.resource.get("service.instance.id")));
        batch.pods.extend(samples);
    }
}

/// Whether all that a counter has is in no export yet, of one that was on its own in none. `seen` is the time of the batch before, and
/// whether it had all that is measured, if that had the counter's pod.
fn is_from_zero(point: &Point, seen: Option<(u64, bool)>, before_ns: u64) -> bool {
    match seen {
        None => point.start_ns > before_ns,
        Some((last_ns, complete)) => point.start_ns > last_ns || complete && point.start_ns != facts::BOOTED_NS,
    }
}
