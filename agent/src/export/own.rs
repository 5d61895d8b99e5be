//! The outcome of exports, as metrics: each batch has those of the batches before it.

use super::ship::Stats;
use crate::metric::{Metric, Point, Scope, Value};

/// Every metric of this stage.
pub const METRICS: &[&Metric] = &[
    &POINTS,
    &EVENTS,
    &RETRIES,
    &QUEUE,
    &QUEUE_BYTES,
    &QUEUE_AGE,
    &JOURNAL_BYTES,
    &JOURNAL_FAILURES,
    &CUT_VALUES,
    &LEFT_OUT_ATTRIBUTES,
];

/// `podmeter.agent.export.points`
pub static POINTS: Metric = Metric::counter(
    "podmeter.agent.export.points",
    "{point}",
    Scope::Agent,
    "Points by outcome: sent, rejected (by the receiver, out of a request that it accepted), failed (refused for \
     good) or dropped (the queue was full).",
)
.attributes(&["outcome"]);
/// `podmeter.agent.export.events`
pub static EVENTS: Metric = Metric::counter(
    "podmeter.agent.export.events",
    "{event}",
    Scope::Agent,
    "Events by outcome, as for podmeter.agent.export.points; also dropped where the receiver accepts no logs.",
)
.attributes(&["outcome"]);
/// `podmeter.agent.export.retries`
pub static RETRIES: Metric =
    Metric::counter("podmeter.agent.export.retries", "{attempt}", Scope::Agent, "Failed attempts to send that were repeated.");
/// `podmeter.agent.export.queue.length`
pub static QUEUE: Metric = Metric::gauge(
    "podmeter.agent.export.queue.length",
    "{request}",
    Scope::Agent,
    "Requests in the queue; an export is one or several.",
);
/// `podmeter.agent.export.queue.size`
pub static QUEUE_BYTES: Metric = Metric::gauge(
    "podmeter.agent.export.queue.size",
    "By",
    Scope::Agent,
    "Bytes of the requests in the queue, as they are sent.",
);
/// `podmeter.agent.export.queue.age`
pub static QUEUE_AGE: Metric = Metric::gauge(
    "podmeter.agent.export.queue.age",
    "s",
    Scope::Agent,
    "Age of the oldest request in the queue. Absent while it is empty.",
);
/// `podmeter.agent.journal.size`
pub static JOURNAL_BYTES: Metric = Metric::gauge(
    "podmeter.agent.journal.size",
    "By",
    Scope::Agent,
    "Bytes of the journal on disk, of metrics and events. Absent without a journal.",
);
/// `podmeter.agent.journal.failures`
pub static JOURNAL_FAILURES: Metric = Metric::counter(
    "podmeter.agent.journal.failures",
    "{failure}",
    Scope::Agent,
    "Times that the journal could not be opened, written or read. What cannot be written is kept in memory. Absent without a journal.",
);
/// `podmeter.agent.attributes.truncated`
pub static CUT_VALUES: Metric = Metric::counter(
    "podmeter.agent.attributes.truncated",
    "{value}",
    Scope::Agent,
    "Attribute values that were cut to export.attribute_bytes, counted in each export.",
);
/// `podmeter.agent.attributes.dropped`
pub static LEFT_OUT_ATTRIBUTES: Metric = Metric::counter(
    "podmeter.agent.attributes.dropped",
    "{attribute}",
    Scope::Agent,
    "Attributes left out of a resource with 64, counted in each export: configured ones first, then labels.",
);

/// The counts as points; `events` are those of what is sent apart.
pub fn points(stats: &Stats, events: Option<&Stats>, started_ns: u64) -> Vec<Point> {
    let outcomes = |metric: &'static Metric, stats: &Stats| {
        let outcome = |n, outcome: &'static str| Point::new(metric, started_ns, Value::Int(n)).with("outcome", outcome);
        [
            outcome(stats.sent_points - stats.rejected_points.min(stats.sent_points), "sent"),
            outcome(stats.rejected_points, "rejected"),
            outcome(stats.failed_points, "failed"),
            outcome(stats.dropped_points, "dropped"),
        ]
    };
    let mut points = vec![
        Point::new(&RETRIES, started_ns, Value::Int(stats.retries)),
        Point::new(&QUEUE, 0, Value::Int(stats.queue_length as u64)),
        Point::new(&QUEUE_BYTES, 0, Value::Int(stats.queue_bytes as u64)),
        Point::new(&CUT_VALUES, started_ns, Value::Int(stats.cut_values)),
        Point::new(&LEFT_OUT_ATTRIBUTES, started_ns, Value::Int(stats.left_out_attributes)),
    ];
    if let Some(journal) = &stats.journal {
        let other = events.and_then(|events| events.journal).unwrap_or_default();
        points.push(Point::new(&JOURNAL_BYTES, 0, Value::Int(journal.bytes + other.bytes)));
        points.push(Point::new(&JOURNAL_FAILURES, started_ns, Value::Int(journal.failures + other.failures)));
    }
    points.extend(outcomes(&POINTS, stats));
    points.extend(events.into_iter().flat_map(|events| outcomes(&EVENTS, events)));
    points.extend(stats.oldest_age.map(|age| Point::new(&QUEUE_AGE, 0, Value::Float(age.as_secs_f64()))));
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_told_and_rejected_points_are_not_sent() {
        let stats = Stats { sent_points: 10, rejected_points: 3, dropped_points: 2, ..Stats::default() };
        let points = points(&stats, None, 1);
        let of = |outcome: &str| points.iter().find(|p| p.attributes.iter().any(|(_, v)| v == outcome)).map(|p| p.value.clone());
        assert_eq!(of("sent"), Some(Value::Int(7)));
        assert_eq!(of("rejected"), Some(Value::Int(3)));
        assert_eq!(of("dropped"), Some(Value::Int(2)));
        assert!(points.iter().all(|p| METRICS.contains(&p.metric)), "declared");
    }
}
