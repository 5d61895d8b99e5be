//! What became of the exports, as metrics: the next batch tells of those before it.

use super::ship::Stats;
use crate::metric::{Metric, Point, Scope, Value};

/// Every metric of this stage.
pub const METRICS: &[&Metric] =
    &[&POINTS, &EVENTS, &RETRIES, &QUEUE, &QUEUE_BYTES, &QUEUE_AGE, &CUT_VALUES, &LEFT_OUT_ATTRIBUTES];

/// `podmeter.agent.export.points`
pub static POINTS: Metric = Metric::counter("podmeter.agent.export.points", "{point}", Scope::Agent, "Points by what became of them: sent, rejected (by the collector, out of a request it took), failed (refused for good), dropped (pushed out of the full queue).").attributes(&["outcome"]);
/// `podmeter.agent.export.events`
pub static EVENTS: Metric = Metric::counter("podmeter.agent.export.events", "{event}", Scope::Agent, "Events by what became of them on their way to an OTLP receiver, as for points; dropped also where the receiver takes no logs.").attributes(&["outcome"]);
/// `podmeter.agent.export.retries`
pub static RETRIES: Metric = Metric::counter(
    "podmeter.agent.export.retries",
    "{attempt}",
    Scope::Agent,
    "Attempts to send that failed and were repeated.",
);
/// `podmeter.agent.export.queue.length`
pub static QUEUE: Metric = Metric::gauge(
    "podmeter.agent.export.queue.length",
    "{request}",
    Scope::Agent,
    "Requests that wait to be sent: an export is one or several.",
);
/// `podmeter.agent.export.queue.size`
pub static QUEUE_BYTES: Metric = Metric::gauge(
    "podmeter.agent.export.queue.size",
    "By",
    Scope::Agent,
    "Bytes of the requests that wait to be sent, as they are sent.",
);
/// `podmeter.agent.export.queue.age`
pub static QUEUE_AGE: Metric = Metric::gauge(
    "podmeter.agent.export.queue.age",
    "s",
    Scope::Agent,
    "How long the oldest request has waited. Absent when none waits.",
);
/// `podmeter.agent.attributes.truncated`
pub static CUT_VALUES: Metric = Metric::counter(
    "podmeter.agent.attributes.truncated",
    "{value}",
    Scope::Agent,
    "Values of attributes that were longer than export.attribute_bytes and left cut, in each export anew: an annotation, a path or a name without measure.",
);
/// `podmeter.agent.attributes.dropped`
pub static LEFT_OUT_ATTRIBUTES: Metric = Metric::counter(
    "podmeter.agent.attributes.dropped",
    "{attribute}",
    Scope::Agent,
    "Attributes that were left out of a resource that had 64, in each export anew: configured ones first, then labels.",
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
