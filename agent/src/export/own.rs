//! The outcome of exports, as metrics: each batch has those of the batches before it. With several receivers each has its own series.

use super::ship::{Outcomes, Stats};
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

/// Which receiver it is about: `main` or a name in `export.also`. Absent where there is one only.
const RECEIVER: &str = "receiver";

/// `podmeter.agent.export.points`
pub static POINTS: Metric = Metric::counter(
    "podmeter.agent.export.points",
    "{point}",
    Scope::Agent,
    "Points by outcome: sent, rejected (by the receiver, out of a request that it accepted), failed (refused for \
     good) or dropped (the queue was full). With export.also each receiver has its own, by the attribute receiver, which is absent \
     otherwise; so it is for the next ones.",
)
.attributes(&["outcome", RECEIVER]);
/// `podmeter.agent.export.events`
pub static EVENTS: Metric = Metric::counter(
    "podmeter.agent.export.events",
    "{event}",
    Scope::Agent,
    "Events by outcome, as for podmeter.agent.export.points; also dropped where the receiver accepts no logs.",
)
.attributes(&["outcome", RECEIVER]);
/// `podmeter.agent.export.retries`
pub static RETRIES: Metric =
    Metric::counter("podmeter.agent.export.retries", "{attempt}", Scope::Agent, "Failed attempts to send that were repeated.")
        .attributes(&[RECEIVER]);
/// `podmeter.agent.export.queue.length`
pub static QUEUE: Metric = Metric::gauge(
    "podmeter.agent.export.queue.length",
    "{request}",
    Scope::Agent,
    "Requests in the queue; an export is one or several.",
)
.attributes(&[RECEIVER]);
/// `podmeter.agent.export.queue.size`
pub static QUEUE_BYTES: Metric = Metric::gauge(
    "podmeter.agent.export.queue.size",
    "By",
    Scope::Agent,
    "Bytes of the requests in the queue, as they are sent.",
)
.attributes(&[RECEIVER]);
/// `podmeter.agent.export.queue.age`
pub static QUEUE_AGE: Metric = Metric::gauge(
    "podmeter.agent.export.queue.age",
    "s",
    Scope::Agent,
    "Age of the oldest request in the queue. Absent while it is empty.",
)
.attributes(&[RECEIVER]);
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

/// The counts as points, for each receiver.
pub fn points(outcomes: &[Outcomes], started_ns: u64) -> Vec<Point> {
    let mut points: Vec<Point> = outcomes.iter().flat_map(|outcomes| of_receiver(outcomes, started_ns)).collect();
    // They are encoded once for all, and wait in one journal.
    let Some(Outcomes { metrics: first, .. }) = outcomes.first() else { return points };
    points.push(Point::new(&CUT_VALUES, started_ns, Value::Int(first.cut_values)));
    points.push(Point::new(&LEFT_OUT_ATTRIBUTES, started_ns, Value::Int(first.left_out_attributes)));
    if let Some(journal) = &first.journal {
        let other = outcomes.iter().find_map(|outcomes| outcomes.events.as_ref()?.journal).unwrap_or_default();
        points.push(Point::new(&JOURNAL_BYTES, 0, Value::Int(journal.bytes + other.bytes)));
        points.push(Point::new(&JOURNAL_FAILURES, started_ns, Value::Int(journal.failures + other.failures)));
    }
    points
}

/// What has become of requests to one receiver.
fn of_receiver(outcomes: &Outcomes, started_ns: u64) -> Vec<Point> {
    let Outcomes { receiver, metrics: stats, events } = outcomes;
    let mut points = vec![
        Point::new(&RETRIES, started_ns, Value::Int(stats.retries)),
        Point::new(&QUEUE, 0, Value::Int(stats.queue_length as u64)),
        Point::new(&QUEUE_BYTES, 0, Value::Int(stats.queue_bytes as u64)),
    ];
    points.extend(by_outcome(&POINTS, stats, started_ns));
    points.extend(events.iter().flat_map(|events| by_outcome(&EVENTS, events, started_ns)));
    points.extend(stats.oldest_age.map(|age| Point::new(&QUEUE_AGE, 0, Value::Float(age.as_secs_f64()))));
    match receiver {
        None => points,
        Some(receiver) => points.into_iter().map(|point| point.with(RECEIVER, receiver.clone())).collect(),
    }
}

fn by_outcome(metric: &'static Metric, stats: &Stats, started_ns: u64) -> [Point; 4] {
    let outcome = |n, outcome: &'static str| Point::new(metric, started_ns, Value::Int(n)).with("outcome", outcome);
    [
        outcome(stats.sent_points - stats.rejected_points.min(stats.sent_points), "sent"),
        outcome(stats.rejected_points, "rejected"),
        outcome(stats.failed_points, "failed"),
        outcome(stats.dropped_points, "dropped"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::backlog::JournalStats;

    fn stats() -> Stats {
        Stats { sent_points: 10, rejected_points: 3, dropped_points: 2, ..Stats::default() }
    }

    #[test]
    fn every_outcome_is_told_and_rejected_points_are_not_sent() {
        let points = points(&[Outcomes { metrics: stats(), ..Outcomes::default() }], 1);
        let of = |outcome: &str| points.iter().find(|p| p.attributes.iter().any(|(_, v)| v == outcome)).map(|p| p.value.clone());
        assert_eq!(of("sent"), Some(Value::Int(7)));
        assert_eq!(of("rejected"), Some(Value::Int(3)));
        assert_eq!(of("dropped"), Some(Value::Int(2)));
        assert!(points.iter().all(|p| METRICS.contains(&p.metric)), "declared");
        assert!(points.iter().all(|p| p.attributes.iter().all(|(key, _)| key != RECEIVER)), "there is one only");
    }

    #[test]
    fn of_several_receivers_each_has_its_own_series_and_the_journal_and_the_encoder_have_one() {
        let journal = Some(JournalStats { bytes: 5, failures: 1 });
        let one = |receiver: &str, events| Outcomes {
            receiver: Some(receiver.to_owned()),
            metrics: Stats { journal, ..stats() },
            events,
        };
        let events = Some(Stats { journal, ..Stats::default() });
        let points = points(&[one("main", None), one("a", events.clone()), one("b", events)], 1);
        let of = |metric: &Metric, receiver: &str| {
            let is =
                |p: &&Point| p.metric.name == metric.name && p.attributes.iter().any(|(k, v)| (k, v) == (RECEIVER, receiver));
            points.iter().filter(is).count()
        };
        for receiver in ["main", "a", "b"] {
            let counts = [&POINTS, &RETRIES, &QUEUE, &QUEUE_BYTES].map(|metric| of(metric, receiver));
            assert_eq!(counts, [4, 1, 1, 1], "{receiver}");
        }
        assert_eq!([of(&EVENTS, "main"), of(&EVENTS, "a")], [0, 4]);
        let all =
            |metric: &Metric| points.iter().filter(|p| p.metric.name == metric.name).map(|p| p.value.clone()).collect::<Vec<_>>();
        assert_eq!((all(&JOURNAL_BYTES), all(&JOURNAL_FAILURES)), (vec![Value::Int(10)], vec![Value::Int(2)]));
        assert_eq!((all(&CUT_VALUES).len(), all(&LEFT_OUT_ATTRIBUTES).len()), (1, 1));
        assert!(points.iter().all(|p| p.attributes.iter().all(|(key, _)| p.metric.attributes.contains(&key))), "declared");
    }
}
