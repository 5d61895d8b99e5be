//! The metrics of how Kubernetes is followed.

use std::{sync::Arc, time::Instant};

use super::{follow_stats::Followed, index::PodIndex};
use crate::metric::{Metric, Point, Scope, Value};

/// Every metric of this module.
pub const METRICS: &[&Metric] =
    &[&CURRENT, &OBJECTS, &SILENCE, &REQUESTS, &DURATION, &EVENTS, &MALFORMED, &ERRORS, &UNLABELLED, &LEFT_OUT];

/// `podmeter.agent.kubernetes.current`
pub static CURRENT: Metric = Metric::gauge(
    "podmeter.agent.kubernetes.current",
    "1",
    Scope::Agent,
    "1 while what is known of pods, nodes or namespaces is current, 0 while the API cannot be reached: then the \
     last known state is used.",
)
.attributes(&["resource"]);
static OBJECTS: Metric = Metric::gauge(
    "podmeter.agent.kubernetes.objects",
    "{object}",
    Scope::Agent,
    "Objects that the API has; \"pods.deleted\" are deleted ones that are remembered, for the final values of their containers.",
)
.attributes(&["resource"]);
static SILENCE: Metric = Metric::gauge(
    "podmeter.agent.kubernetes.silence",
    "s",
    Scope::Agent,
    "How long ago the Kubernetes API last sent something; about a minute at most while all is well. Absent before \
     its first response.",
);
static REQUESTS: Metric = Metric::counter(
    "podmeter.agent.kubernetes.requests",
    "{request}",
    Scope::Agent,
    "Requests to the Kubernetes API or to the kubelet.",
);
/// `podmeter.kubernetes.request.duration`
pub static DURATION: Metric = Metric::histogram(
    "podmeter.kubernetes.request.duration",
    "s",
    Scope::Agent,
    "Time of the agent's own requests to the Kubernetes API until the response began, or until they failed: by verb (list, watch; \
     get is the kubelet's) and HTTP status, or error.type where there was no response. What the API server is like from this node.",
)
.attributes(&["verb", "http.response.status_code", "error.type"]);
static EVENTS: Metric = Metric::counter(
    "podmeter.agent.kubernetes.events",
    "{event}",
    Scope::Agent,
    "Objects that the Kubernetes API has sent, again and again as they change.",
);
static MALFORMED: Metric = Metric::counter(
    "podmeter.agent.kubernetes.malformed",
    "{object}",
    Scope::Agent,
    "Objects of the Kubernetes API that could not be read and were skipped.",
);
static ERRORS: Metric = Metric::counter(
    "podmeter.agent.kubernetes.errors",
    "{error}",
    Scope::Agent,
    "Requests to the Kubernetes API that failed, or watches that broke, by kind.",
)
.attributes(&["error.type"]);
static UNLABELLED: Metric = Metric::gauge(
    "podmeter.agent.kubernetes.unlabelled",
    "{cgroup}",
    Scope::Agent,
    "Cgroups of pods that Kubernetes has not reported: exported by pod UID and container id after a wait of 10 s \
     to 5 min.",
);

static LEFT_OUT: Metric = Metric::gauge(
    "podmeter.agent.kubernetes.left_out",
    "{pod}",
    Scope::Agent,
    "Pods without an exported state: finished ones that have been exported and are older than \
     kubernetes.finished_pods, or not among the latest hundred; and pods beyond those that one node can have.",
);

/// Cgroups and pods that a batch lacks.
#[derive(Clone, Copy, Debug)]
pub struct Missing {
    /// Cgroups that have no name yet.
    pub unlabelled: u64,
    /// Pods whose states are not in it.
    pub left_out: u64,
}

/// The points of these metrics. `started_ns` is when counting began, CLOCK_BOOTTIME.
pub fn points(index: &PodIndex, started_ns: u64, missing: Missing, now: Instant) -> Vec<Point> {
    let stats = &index.stats;
    let counter = |metric, value| Point::new(metric, started_ns, Value::Int(value));
    let mut points = vec![
        counter(&REQUESTS, stats.requests),
        counter(&EVENTS, stats.events),
        counter(&MALFORMED, stats.malformed),
        Point::new(&UNLABELLED, 0, Value::Int(missing.unlabelled)),
        Point::new(&LEFT_OUT, 0, Value::Int(missing.left_out)),
    ];
    let followed = Followed::ALL.into_iter().filter(|followed| stats.following(*followed).is_followed);
    points.extend(followed.map(|followed| {
        let current = u64::from(stats.following(followed).current);
        Point::new(&CURRENT, 0, Value::Int(current)).with("resource", followed.as_str())
    }));
    let (pods, deleted) = index.counts();
    let counts = [("pods", pods), ("pods.deleted", deleted), ("namespaces", index.namespaces())];
    points.extend(counts.map(|(resource, n)| Point::new(&OBJECTS, 0, Value::Int(n as u64)).with("resource", resource)));
    points.extend(stats.durations.iter().map(|((verb, outcome), histogram)| {
        let point = Point::new(&DURATION, started_ns, Value::Histogram(Arc::new(histogram.clone()))).with("verb", verb.as_str());
        match outcome {
            Ok(status) => point.with("http.response.status_code", status.to_string()),
            Err(kind) => point.with("error.type", *kind),
        }
    }));
    points.extend(stats.errors().map(|(kind, count)| counter(&ERRORS, count).with("error.type", kind.as_str())));
    points.extend(
        stats.last_response.map(|last| Point::new(&SILENCE, 0, Value::Float(now.saturating_duration_since(last).as_secs_f64()))),
    );
    points
}
