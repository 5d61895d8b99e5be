//! How the sources fare: what podmeter says of its own watch.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{failure::Kind, index::PodIndex};
use crate::metric::{Metric, MetricKind, Point, Scope, Value};

/// The kinds of objects that are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// The pods of this node.
    Pods,
    /// This node.
    Node,
    /// The namespaces.
    Namespaces,
}

impl Followed {
    const ALL: [Self; 3] = [Self::Pods, Self::Node, Self::Namespaces];

    /// As the API calls them.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Node => "nodes",
            Self::Namespaces => "namespaces",
        }
    }
}

/// How one kind of objects is followed.
#[derive(Clone, Debug, Default)]
pub struct Following {
    /// Whether it is followed at all.
    pub wanted: bool,
    /// Whether all of them have been told once. What is known may be old since.
    pub known: bool,
    /// Whether what is known is current as far as can be told: the last request has not failed.
    pub current: bool,
    /// Why it is not, once that is known.
    pub trouble: Option<Trouble>,
}

/// Why objects are not followed at the moment, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What kind of failure it is.
    pub kind: Kind,
    /// What was tried, where, and what came of it.
    pub reason: Arc<str>,
}

impl Following {
    /// All of them have been told, and the server goes on telling.
    pub fn works(&mut self) {
        self.known = true;
        self.current = true;
        self.trouble = None;
    }

    /// The server cannot be asked.
    pub fn fails(&mut self, kind: Kind, reason: &str) {
        self.current = false;
        self.trouble = Some(Trouble { kind, reason: reason.into() });
    }
}

/// Counts since the start.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    following: [Following; 3],
    /// Requests sent.
    pub requests: u64,
    /// Objects told of.
    pub events: u64,
    /// Objects that could not be read.
    pub malformed: u64,
    errors: [u64; Kind::ALL.len()],
    /// When the server last said something.
    pub heard: Option<Instant>,
    /// How long a list may be put off, so that the agents of a cluster do not ask all at once.
    pub spread: Duration,
}

impl Figures {
    /// How a kind of objects is followed.
    pub fn following(&self, followed: Followed) -> &Following {
        &self.following[followed as usize]
    }

    /// The same, to change it.
    pub fn following_mut(&mut self, followed: Followed) -> &mut Following {
        &mut self.following[followed as usize]
    }

    /// Why the first of the kinds of objects that are not followed is not: pods, then the node, then namespaces.
    pub fn trouble(&self) -> Option<&Trouble> {
        self.following.iter().find_map(|following| following.trouble.as_ref())
    }

    /// One more failure of a kind.
    pub fn failed(&mut self, kind: Kind) {
        self.errors[kind as usize] += 1;
    }
}

/// Every metric of this module.
pub const METRICS: &[&Metric] = &[&CURRENT, &OBJECTS, &HEARD, &REQUESTS, &EVENTS, &MALFORMED, &ERRORS, &UNLABELLED, &LEFT_OUT];

static CURRENT: Metric = Metric {
    name: "podmeter.agent.kubernetes.current",
    unit: "1",
    kind: MetricKind::Gauge,
    attributes: &["resource"],
    scope: Scope::Agent,
    help: "1 while what is known of pods, nodes or namespaces is current, 0 while the API is away: then what was known is used.",
};
static OBJECTS: Metric = Metric {
    name: "podmeter.agent.kubernetes.objects",
    unit: "{object}",
    kind: MetricKind::Gauge,
    attributes: &["resource"],
    scope: Scope::Agent,
    help: "Objects that the API has told of and not deleted since; \"pods.deleted\" are deleted ones that are still known, for the final \
           values of their containers.",
};
static HEARD: Metric = Metric {
    name: "podmeter.agent.kubernetes.silence",
    unit: "s",
    kind: MetricKind::Gauge,
    attributes: &[],
    scope: Scope::Agent,
    help: "How long ago the Kubernetes API last said something; about a minute at most while it is well. Absent before its first word.",
};
static REQUESTS: Metric = Metric {
    name: "podmeter.agent.kubernetes.requests",
    unit: "{request}",
    kind: MetricKind::Counter,
    attributes: &[],
    scope: Scope::Agent,
    help: "Requests to the Kubernetes API or to the kubelet.",
};
static EVENTS: Metric = Metric {
    name: "podmeter.agent.kubernetes.events",
    unit: "{event}",
    kind: MetricKind::Counter,
    attributes: &[],
    scope: Scope::Agent,
    help: "Objects that the Kubernetes API has told of, again and again as they change.",
};
static MALFORMED: Metric = Metric {
    name: "podmeter.agent.kubernetes.malformed",
    unit: "{object}",
    kind: MetricKind::Counter,
    attributes: &[],
    scope: Scope::Agent,
    help: "Objects of the Kubernetes API that could not be read and were skipped.",
};
static ERRORS: Metric = Metric {
    name: "podmeter.agent.kubernetes.errors",
    unit: "{error}",
    kind: MetricKind::Counter,
    attributes: &["error.type"],
    scope: Scope::Agent,
    help: "Requests to the Kubernetes API that failed, or watches that broke, by kind.",
};
static UNLABELLED: Metric = Metric {
    name: "podmeter.agent.kubernetes.unlabelled",
    unit: "{cgroup}",
    kind: MetricKind::Gauge,
    attributes: &[],
    scope: Scope::Agent,
    help: "Cgroups of pods that Kubernetes has not told of: exported by pod UID and container id after a wait of 10 s to \
           5 min.",
};

static LEFT_OUT: Metric = Metric {
    name: "podmeter.agent.kubernetes.left_out",
    unit: "{pod}",
    kind: MetricKind::Gauge,
    attributes: &[],
    scope: Scope::Agent,
    help: "Pods whose states are not exported: finished ones that have been exported and are older than kubernetes.finished_pods, or \
           not among the latest hundred; and pods beyond those that one node can have.",
};

/// What a batch does not have of pods.
#[derive(Clone, Copy, Debug)]
pub struct Missing {
    /// Cgroups that have no name yet.
    pub unlabelled: u64,
    /// Pods whose states are not in it.
    pub left_out: u64,
}

/// The points of these metrics. `started_ns` is when counting began, CLOCK_BOOTTIME.
pub fn points(known: &PodIndex, started_ns: u64, missing: Missing, now: Instant) -> Vec<Point> {
    let figures = &known.figures;
    let counter = |metric, value| Point::new(metric, started_ns, Value::Int(value));
    let mut points = vec![
        counter(&REQUESTS, figures.requests),
        counter(&EVENTS, figures.events),
        counter(&MALFORMED, figures.malformed),
        Point::new(&UNLABELLED, 0, Value::Int(missing.unlabelled)),
        Point::new(&LEFT_OUT, 0, Value::Int(missing.left_out)),
    ];
    let followed = Followed::ALL.into_iter().filter(|followed| figures.following(*followed).wanted);
    points.extend(followed.map(|followed| {
        let current = u64::from(figures.following(followed).current);
        Point::new(&CURRENT, 0, Value::Int(current)).with("resource", followed.as_str())
    }));
    let (pods, deleted) = known.counts();
    let counts = [("pods", pods), ("pods.deleted", deleted), ("namespaces", known.namespaces())];
    points.extend(counts.map(|(resource, n)| Point::new(&OBJECTS, 0, Value::Int(n as u64)).with("resource", resource)));
    let errors = Kind::ALL.into_iter().zip(figures.errors);
    points.extend(errors.map(|(kind, count)| counter(&ERRORS, count).with("error.type", kind.as_str())));
    points.extend(
        figures.heard.map(|heard| Point::new(&HEARD, 0, Value::Float(now.saturating_duration_since(heard).as_secs_f64()))),
    );
    points
}
