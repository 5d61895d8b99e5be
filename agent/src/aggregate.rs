//! Samples -> what is exported.

use std::sync::Arc;

use crate::signals::metric::Point;

/// What a set of points is about, as OTLP resource attributes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resource {
    /// Attributes by key, sorted by key, each once.
    pub attributes: Vec<(&'static str, String)>,
}

/// Everything known at one moment: the input of every exporter.
#[derive(Clone, Debug)]
pub struct Batch {
    /// When it was read, Unix time in ns.
    pub time_unix_ns: u64,
    /// The points, by what they describe.
    pub resources: Vec<(Arc<Resource>, Vec<Point>)>,
}
