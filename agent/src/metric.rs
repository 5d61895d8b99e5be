//! What a metric is: each is declared once, beside the code that fills it.
//!
//! METRICS.md, the encoder, `podmeter metrics` and the checks of dashboards all come from these declarations.

use std::borrow::Cow;

use crate::histogram::Histogram;

/// The declaration of one metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// OTLP name, by OpenTelemetry semantic conventions where one exists, `podmeter.*` where none does.
    pub name: &'static str,
    /// The name of a pod's values, where semantic conventions have another for them.
    pub pod_name: Option<&'static str>,
    /// UCUM unit as OTLP wants it: `s`, `By`, `{cpu}`, `1`.
    pub unit: &'static str,
    /// How values behave over time.
    pub kind: MetricKind,
    /// Keys of the attributes a point may carry, beside its resource's.
    pub attributes: &'static [&'static str],
    /// What a point describes.
    pub scope: Scope,
    /// One sentence for people, with the source of the figure.
    pub help: &'static str,
    /// Whether the sum of two things' values is the value of both together.
    pub adds_up: bool,
}

impl Metric {
    const fn new(name: &'static str, unit: &'static str, kind: MetricKind, scope: Scope, help: &'static str) -> Self {
        // A share of one thing and a share of another are no share of both.
        let is_share = matches!(kind, MetricKind::Gauge) && matches!(unit.as_bytes(), b"1");
        Self { name, pod_name: None, unit, kind, attributes: &[], scope, help, adds_up: !is_share }
    }

    /// A total that only grows.
    pub const fn counter(name: &'static str, unit: &'static str, scope: Scope, help: &'static str) -> Self {
        Self::new(name, unit, MetricKind::Counter, scope, help)
    }

    /// A current value.
    pub const fn gauge(name: &'static str, unit: &'static str, scope: Scope, help: &'static str) -> Self {
        Self::new(name, unit, MetricKind::Gauge, scope, help)
    }

    /// A distribution.
    pub const fn histogram(name: &'static str, unit: &'static str, scope: Scope, help: &'static str) -> Self {
        Self::new(name, unit, MetricKind::Histogram, scope, help)
    }

    /// The same, of which a pod's values have this name.
    pub const fn of_pods(mut self, name: &'static str) -> Self {
        self.pod_name = Some(name);
        self
    }

    /// What a pod's values are declared as, where that is not this.
    pub fn for_pods(&self) -> Option<Self> {
        self.pod_name.map(|name| Self { name, pod_name: None, scope: Scope::Pod, ..self.clone() })
    }

    /// The name of the values of a pod, or of something else.
    pub fn name_of(&self, is_pod: bool) -> &'static str {
        self.pod_name.filter(|_| is_pod).unwrap_or(self.name)
    }

    /// The same, of which no sums are made: a peak, a list of the largest.
    pub const fn no_sum(mut self) -> Self {
        self.adds_up = false;
        self
    }

    /// The same, whose points may carry these attributes.
    pub const fn attributes(mut self, keys: &'static [&'static str]) -> Self {
        self.attributes = keys;
        self
    }

    /// The name that Prometheus and VictoriaMetrics make of an OTLP metric (with the usual suffixes): dots become underscores, the
    /// unit is written out, counters end with `_total`.
    pub fn prometheus_name(&self, is_pod: bool) -> String {
        let mut name = self.name_of(is_pod).replace('.', "_");
        let suffix = match self.unit {
            "s" => Some("seconds"),
            "By" => Some("bytes"),
            "1" if self.kind == MetricKind::Gauge => Some("ratio"),
            _ => None,
        };
        if let Some(suffix) = suffix.filter(|suffix| !name.ends_with(&format!("_{suffix}"))) {
            name.push('_');
            name.push_str(suffix);
        }
        if self.kind == MetricKind::Counter {
            name.push_str("_total");
        }
        name
    }
}

/// How a metric's values behave over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// A total that only grows: OTLP monotonic sum.
    Counter,
    /// A current value: OTLP gauge.
    Gauge,
    /// A distribution: OTLP exponential histogram at scale 3.
    Histogram,
}

/// What a metric's points describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A cgroup with its descendants: a container, a pod, a service, a slice.
    Cgroup,
    /// A container, as Kubernetes knows it.
    Container,
    /// A pod, as Kubernetes knows it.
    Pod,
    /// The node.
    Node,
    /// The agent itself.
    Agent,
}

/// One value of a metric, cumulative since `start_ns` for counters and histograms.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// The declaration.
    pub metric: &'static Metric,
    /// Values of the metric's own attributes.
    pub attributes: Attributes,
    /// When counting began, CLOCK_BOOTTIME in ns; without meaning for gauges.
    pub start_ns: u64,
    /// The value.
    pub value: Value,
}

impl Point {
    /// A point without attributes of its own. For a gauge, `start_ns` is not used.
    pub fn new(metric: &'static Metric, start_ns: u64, value: Value) -> Self {
        Self { metric, attributes: Attributes::default(), start_ns, value }
    }

    /// Whether two points are of one series of a resource.
    pub fn is_of_series(&self, other: &Self) -> bool {
        std::ptr::eq(self.metric, other.metric) && self.attributes == other.attributes
    }

    /// The same with one more attribute.
    pub fn with(mut self, key: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.attributes.push(key, value.into());
        self
    }
}

/// Values of a point's attributes, in the order in which they were added.
///
/// Nearly all points have at most two, which are known when the agent is built: those are in the point itself, since a node has
/// some ten thousand points in a batch.
#[derive(Clone, Default)]
pub struct Attributes {
    few: [Option<(&'static str, &'static str)>; 2],
    others: Option<Box<Others>>,
}

/// Attributes that are not in the point itself.
#[derive(Clone, Default)]
struct Others(Vec<(&'static str, Cow<'static, str>)>);

impl Attributes {
    /// By key.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let others = self.others.iter().flat_map(|others| &others.0);
        self.few.iter().flatten().map(|(key, value)| (*key, *value)).chain(others.map(|(key, value)| (*key, &**value)))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.few[0].is_none() && self.others.is_none()
    }

    fn push(&mut self, key: &'static str, value: Cow<'static, str>) {
        let free = self.few.iter_mut().find(|few| few.is_none());
        match (value, free) {
            (Cow::Borrowed(value), Some(free)) if self.others.is_none() => *free = Some((key, value)),
            (value, _) => self.others.get_or_insert_default().0.push((key, value)),
        }
    }
}

impl PartialEq for Attributes {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl std::hash::Hash for Attributes {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.iter().for_each(|attribute| attribute.hash(state));
    }
}

impl std::fmt::Debug for Attributes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The value of a point, in the metric's unit.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An integer counter or gauge: bytes, events.
    Int(u64),
    /// A real counter or gauge: seconds, cores.
    Float(f64),
    /// A distribution. Behind an `Arc`: the same buckets go to the terminal and to OTLP.
    Histogram(std::sync::Arc<Histogram>),
    /// A gauge has no value any more: OTLP's NO_RECORDED_VALUE.
    Absent,
}

impl Value {
    /// What a counter has counted since it was `earlier`; `None` where it has begun anew.
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        match (self, earlier) {
            (Self::Int(value), Self::Int(earlier)) => value.checked_sub(*earlier).map(Self::Int),
            (Self::Float(value), Self::Float(earlier)) => Some(value - earlier).filter(|since| *since >= 0.0).map(Self::Float),
            (Self::Histogram(value), Self::Histogram(earlier)) if value.count >= earlier.count => {
                Some(Self::Histogram(std::sync::Arc::new(value.since(earlier))))
            }
            _ => None,
        }
    }

    /// The value of a counter of the same type that has counted nothing.
    pub fn nothing(&self) -> Self {
        match self {
            Self::Int(_) => Self::Int(0),
            Self::Float(_) => Self::Float(0.0),
            Self::Histogram(histogram) => {
                let empty = Histogram { zero_threshold: histogram.zero_threshold, ..Histogram::default() };
                Self::Histogram(std::sync::Arc::new(empty))
            }
            Self::Absent => Self::Absent,
        }
    }

    /// Whether a counter of this value has counted nothing.
    pub fn is_nothing(&self) -> bool {
        match self {
            Self::Int(value) => *value == 0,
            Self::Float(value) => *value == 0.0,
            Self::Histogram(histogram) => histogram.count == 0,
            Self::Absent => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static METRIC: Metric = Metric::counter("m", "1", Scope::Node, "");

    #[test]
    fn attributes_are_in_order_wherever_they_are_kept() {
        let point = || Point::new(&METRIC, 0, Value::Int(1));
        let all = point().with("a", "1").with("b", "2".to_owned()).with("c", "3").with("d", "4");
        assert_eq!(all.attributes.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]);
        assert!(!all.attributes.is_empty() && point().attributes.is_empty());
        assert_eq!(point().with("a", "1".to_owned()), point().with("a", "1"));
        assert_ne!(point().with("a", "1").attributes, point().attributes);
        assert!(size_of::<Point>() <= 104, "{}", size_of::<Point>());
    }
}
