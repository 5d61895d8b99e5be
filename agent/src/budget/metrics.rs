//! How many series there are, and what is folded, as metrics.

use std::collections::BTreeMap;

use super::count::Counts;
use crate::{
    config,
    metric::{Metric, Point, Scope, Value},
};

/// Namespaces that have series of their own here: the largest. More would be a series for each.
const MOST_NAMESPACES: usize = 20;

/// Every metric of this stage.
pub const METRICS: &[&Metric] = &[&SERIES, &LIMIT, &OF_NAMESPACE, &FOLDED, &STEP];

/// `podmeter.agent.series`
static SERIES: Metric = Metric::gauge(
    "podmeter.agent.series",
    "{series}",
    Scope::Agent,
    "Series in this export as the back end counts them (export.histograms), by level: container, pod, sum (workloads and \
     namespaces with pods that are folded), other (the node, services, slices, the agent).",
)
.attributes(&["level"]);
/// `podmeter.agent.series.limit`
static LIMIT: Metric = Metric::gauge(
    "podmeter.agent.series.limit",
    "{series}",
    Scope::Agent,
    "Series that there may be: budget.series. Absent where that is off.",
);
/// `podmeter.agent.series.namespace`
static OF_NAMESPACE: Metric = Metric::gauge(
    "podmeter.agent.series.namespace",
    "{series}",
    Scope::Agent,
    "Series in this export by namespace: the 20 with the most.",
)
.attributes(&["namespace"]);
/// `podmeter.agent.series.folded`
static FOLDED: Metric = Metric::gauge(
    "podmeter.agent.series.folded",
    "{series}",
    Scope::Agent,
    "Series that this export would have beside, were nothing folded, by level: container or pod. Their values are in the sums of what \
     they belong to.",
)
.attributes(&["level"]);
/// `podmeter.agent.series.step`
static STEP: Metric = Metric::gauge(
    "podmeter.agent.series.step",
    "{step}",
    Scope::Agent,
    "How far a namespace is folded for the budget: 1 histograms per pod, 2 histograms per workload, 3 also counters and gauges per pod, \
     4 those per workload, 5 everything per namespace. Absent where nothing is folded for it; of at most 20 namespaces, those folded \
     furthest.",
)
.attributes(&["namespace"]);

/// The metrics of one batch. `steps` are those of the namespaces that are folded.
pub(super) fn points<'a>(
    settings: &config::Budget,
    of_node: u64,
    counts: &BTreeMap<String, Counts>,
    steps: impl Iterator<Item = (&'a str, usize)>,
) -> Vec<Point> {
    let sum = |of: fn(&Counts) -> u64| counts.values().map(of).sum::<u64>();
    let gauge = |metric, value| Point::new(metric, 0, Value::Int(value));
    let mut points = vec![
        gauge(&SERIES, sum(|counts| counts.containers)).with("level", "container"),
        gauge(&SERIES, sum(|counts| counts.pods)).with("level", "pod"),
        gauge(&SERIES, sum(|counts| counts.sums)).with("level", "sum"),
        gauge(&FOLDED, sum(|counts| counts.folded_containers)).with("level", "container"),
        gauge(&FOLDED, sum(|counts| counts.folded_pods)).with("level", "pod"),
    ];
    points.extend(settings.series.map(|limit| gauge(&LIMIT, limit.into())));
    let named = counts.iter().filter(|(name, _)| !name.is_empty());
    points.extend(
        largest(named.map(|(name, counts)| (name.as_str(), counts.total())))
            .map(|(name, series)| gauge(&OF_NAMESPACE, series).with("namespace", name.to_owned())),
    );
    points.extend(
        largest(steps.map(|(name, step)| (name, step as u64)))
            .map(|(name, step)| gauge(&STEP, step).with("namespace", name.to_owned())),
    );
    // These too, and the one that is added here.
    let others = sum(|counts| counts.others) + of_node + points.len() as u64 + 1;
    points.push(gauge(&SERIES, others).with("level", "other"));
    points
}

fn largest<'a>(all: impl Iterator<Item = (&'a str, u64)>) -> impl Iterator<Item = (&'a str, u64)> {
    let mut all: Vec<_> = all.collect();
    all.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    all.into_iter().take(MOST_NAMESPACES)
}
