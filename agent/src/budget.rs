//! Batches -> what leaves of them (pure): which metrics, in which detail, in how many series.
//!
//! Series are counted as the back end keeps them. Beyond the budget detail is folded step by step ([`STEPS`]): what has no series of
//! its own any more is in the sum of what it belongs to. A container's values are in its pod's already, since a cgroup's have those of
//! the cgroups in it; pods are summed here (`totals.rs`).

mod count;
pub mod metrics;
mod resource;
mod rows;
mod totals;

use std::collections::{BTreeMap, HashMap};

use self::{
    count::Counts,
    rows::{Level, Row, Rows},
    totals::Totals,
};
use crate::{
    aggregate::Batch,
    config::{self, Detail},
    metric::{Metric, MetricKind, Point},
    signals,
};

/// How long a namespace stays folded at least, and for how many batches: one near its budget would else go to and fro.
const STAYS_NS: u64 = 600 * 1_000_000_000;
const STAYS: u64 = 10;

/// A namespace is unfolded by a step where it then takes at most so many of ten series of its budget, and the node too.
const TENTHS: u64 = 9;

/// What has series of its own after each step: histograms, then counters and gauges.
const STEPS: [(Detail, Detail); 6] = [
    (Detail::Container, Detail::Container),
    (Detail::Pod, Detail::Container),
    (Detail::Workload, Detail::Container),
    (Detail::Workload, Detail::Pod),
    (Detail::Workload, Detail::Workload),
    (Detail::Namespace, Detail::Namespace),
];

/// Sees to it that the back end has no more series than it may.
#[derive(Debug)]
pub struct Budget {
    settings: config::Budget,
    /// Whether a metric leaves, by its address and whether it is a pod's.
    leaves: HashMap<(usize, bool), bool>,
    /// By a metric's address.
    of_signals: HashMap<usize, Detail>,
    namespaces: BTreeMap<String, Namespace>,
    totals: Totals,
    batch: u64,
}

/// How far a namespace is folded.
#[derive(Debug, Default)]
struct Namespace {
    /// Index in [`STEPS`].
    step: usize,
    /// Since when it would fit with less folded: time, and number of the batch.
    fits: Option<(u64, u64)>,
}

/// What has series of its own in a namespace.
#[derive(Clone, Copy, Debug)]
struct Details {
    histograms: Detail,
    scalars: Detail,
    /// By the step alone: for cgroups of no pod.
    step: (Detail, Detail),
}

/// A metric's address: what is declared once is at one.
fn address(metric: &'static Metric) -> usize {
    std::ptr::from_ref(metric).addr()
}

fn is_histogram(metric: &Metric) -> bool {
    metric.kind == MetricKind::Histogram
}

impl Budget {
    /// With these settings. An earlier process may have exported until `before_ns`, in the time of batches.
    pub fn new(settings: config::Budget, before_ns: u64) -> Self {
        let of_signal = |signal: &signals::Signal| {
            let detail = *settings.signal_detail.get(signal.name)?;
            Some(signal.metrics.iter().map(move |metric| (address(metric), detail)))
        };
        let of_signals = signals::ALL.iter().filter_map(of_signal).flatten().collect();
        Self {
            leaves: HashMap::new(),
            of_signals,
            namespaces: BTreeMap::new(),
            totals: Totals::new(before_ns),
            batch: 0,
            settings,
        }
    }

    /// Leaves in a batch what may be exported of it, and adds how many series that is. `complete`: all signals could be read for it.
    pub fn apply(&mut self, batch: &mut Batch, complete: bool) {
        self.batch += 1;
        self.filter(batch);
        let rows = Rows::of(batch);
        let of_node = batch.node.points.iter().map(|point| self.series(point)).sum();
        let counts = self.plan(batch, &rows, of_node);
        self.fold(batch, &rows, complete);
        let steps = self.namespaces.iter().filter(|(_, namespace)| namespace.step > 0);
        let mut own =
            metrics::points(&self.settings, of_node, &counts, steps.map(|(name, namespace)| (name.as_str(), namespace.step)));
        own.retain(|point| self.leaves(point, false));
        batch.node.points.extend(own);
    }

    /// Before the first batch in which these counters have begun once more, for all.
    pub fn begin_anew(&mut self, anew: &[&'static Metric]) {
        self.totals.begin_anew(anew);
    }

    /// Takes out the metrics that are not exported.
    fn filter(&mut self, batch: &mut Batch) {
        if self.settings.allow.is_empty() && self.settings.deny.is_empty() {
            return;
        }
        let cgroups = batch.cgroups.iter_mut().map(|cgroup| &mut cgroup.sample);
        for sample in std::iter::once(&mut batch.node).chain(cgroups).chain(&mut batch.pods) {
            let is_pod = sample.resource.is_pod();
            sample.points.retain(|point| self.leaves(point, is_pod));
        }
    }

    fn leaves(&mut self, point: &Point, is_pod: bool) -> bool {
        let settings = &self.settings;
        let is_in = |list: &[config::Pattern]| list.iter().any(|pattern| pattern.is(point.metric.name_of(is_pod)));
        let check = || (settings.allow.is_empty() || is_in(&settings.allow)) && !is_in(&settings.deny);
        *self.leaves.entry((address(point.metric), is_pod)).or_insert_with(check)
    }

    /// Decides how far each namespace is folded. Returns the number of series of each.
    fn plan(&mut self, batch: &Batch, rows: &Rows, of_node: u64) -> BTreeMap<String, Counts> {
        self.namespaces.retain(|name, _| rows.by_namespace.contains_key(name));
        let mut counts = BTreeMap::new();
        let mut raised = false;
        for (name, of_namespace) in &rows.by_namespace {
            let step = self.namespaces.entry(name.clone()).or_default().step;
            let mut count = self.count(batch, name, of_namespace, step);
            for step in step + 1..STEPS.len() {
                if count.total() <= self.limit(name) {
                    break;
                }
                raised |= self.raise(batch, name, of_namespace, step, &mut count);
            }
            counts.insert(name.clone(), count);
        }
        let limit = self.settings.series.map_or(u64::MAX, u64::from);
        let all = |counts: &BTreeMap<String, Counts>| counts.values().map(Counts::total).sum::<u64>() + of_node;
        'fits: for step in 1..STEPS.len() {
            if all(&counts) <= limit {
                break;
            }
            let mut largest: Vec<_> = counts.iter().map(|(name, count)| (count.total(), name.clone())).collect();
            // Of two as large as each other the first by name.
            largest.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
            for (_, name) in largest {
                let Some(count) = counts.get_mut(&name).filter(|_| self.namespaces[&name].step < step) else { continue };
                raised |= self.raise(batch, &name, &rows.by_namespace[&name], step, count);
                if all(&counts) <= limit {
                    break 'fits;
                }
            }
        }
        if !raised {
            self.unfold(batch, rows, &mut counts, of_node);
        }
        counts
    }

    /// Folds a namespace up to a step, where that makes its series fewer.
    fn raise(&mut self, batch: &Batch, name: &str, rows: &[Row], step: usize, count: &mut Counts) -> bool {
        let then = self.count(batch, name, rows, step);
        let fewer = then.total() < count.total();
        if fewer {
            *count = then;
            self.set(name, step);
        }
        fewer
    }

    /// Unfolds the namespace that is folded furthest by a step, where that has fitted for long enough.
    fn unfold(&mut self, batch: &Batch, rows: &Rows, counts: &mut BTreeMap<String, Counts>, of_node: u64) {
        let total = counts.values().map(Counts::total).sum::<u64>() + of_node;
        let within = |series: u64, limit: u64| series <= limit / 10 * TENTHS;
        let node_limit = self.settings.series.map_or(u64::MAX, u64::from);
        let folded = self.namespaces.iter().filter(|(_, namespace)| namespace.step > 0);
        let folded: Vec<_> = folded.map(|(name, namespace)| (name.clone(), namespace.step)).collect();
        let mut ready: Option<(usize, String, Counts)> = None;
        for (name, step) in folded {
            let count = self.count(batch, &name, &rows.by_namespace[&name], step - 1);
            let new_total = total - counts[&name].total() + count.total();
            let fits = within(count.total(), self.limit(&name)) && within(new_total, node_limit);
            let now = (batch.time_ns, self.batch);
            let Some(namespace) = self.namespaces.get_mut(&name) else { continue };
            namespace.fits = namespace.fits.or(Some(now)).filter(|_| fits);
            let long = namespace.fits.is_some_and(|(ns, number)| now.0 >= ns + STAYS_NS && now.1 >= number + STAYS);
            if long && ready.as_ref().is_none_or(|(furthest, ..)| step > *furthest) {
                ready = Some((step, name, count));
            }
        }
        if let Some((step, name, count)) = ready {
            self.set(&name, step - 1);
            counts.insert(name, count);
        }
    }

    fn set(&mut self, name: &str, step: usize) {
        if let Some(namespace) = self.namespaces.get_mut(name).filter(|namespace| namespace.step != step) {
            *namespace = Namespace { step, fits: None };
        }
    }

    fn limit(&self, namespace: &str) -> u64 {
        let limit = self.settings.namespaces.get(namespace).copied().or(self.settings.namespace_series);
        // What belongs to no pod is bounded with the node.
        limit.filter(|_| !namespace.is_empty()).map_or(u64::MAX, u64::from)
    }

    fn details(&self, namespace: &str, step: usize) -> Details {
        let least = self.settings.namespace_detail.get(namespace).copied().unwrap_or_default();
        let step = STEPS[step];
        let [histograms, scalars] = [self.settings.histograms.max(step.0), self.settings.scalars.max(step.1)];
        Details { histograms: histograms.max(least), scalars: scalars.max(least), step }
    }

    /// What a point leaves as.
    fn detail(&self, details: Details, row: &Row, metric: &'static Metric) -> Detail {
        if row.level == Level::Inner {
            return if is_histogram(metric) { details.step.0 } else { details.step.1 };
        }
        let of_kind = if is_histogram(metric) { details.histograms } else { details.scalars };
        of_kind.max(self.of_signals.get(&address(metric)).copied().unwrap_or_default())
    }

    /// Folds what the plan folds.
    fn fold(&mut self, batch: &mut Batch, rows: &Rows, complete: bool) {
        let mut totals = std::mem::replace(&mut self.totals, Totals::new(0));
        totals.begin(batch.time_ns);
        for (name, of_namespace) in &rows.by_namespace {
            let details = self.details(name, self.namespaces.get(name).map_or(0, |namespace| namespace.step));
            // Containers first: their pod's row may get something of theirs.
            for row in of_namespace.iter().filter(|row| matches!(row.level, Level::Container | Level::Inner)) {
                let sample = rows::sample_mut(batch, row.place);
                let mut folded = Vec::new();
                sample.points.retain(|point| {
                    let stays = self.detail(details, row, point.metric) == Detail::Container;
                    if !stays && row.adds_to_pod && point.metric.kind == MetricKind::Gauge && point.metric.adds_up {
                        folded.push(point.clone());
                    }
                    stays
                });
                folded.into_iter().for_each(|point| totals.add_gauge(&row.pod, point));
            }
            for row in of_namespace.iter().filter(|row| row.level == Level::Pod) {
                let sample = rows::sample_mut(batch, row.place);
                totals.pod(row, sample, |metric| self.detail(details, row, metric));
            }
        }
        totals.end(batch, complete);
        self.totals = totals;
    }
}

#[cfg(test)]
mod tests;
