//! DNS lookups of one workload, counted from its points (pure).

use std::sync::Arc;

use super::points::{attribute, histogram, points};
use crate::{histogram::Histogram, join::Sample, metric::Value, signals::dns};

const TIMEOUT: &str = "timeout";
const NO_SUCH_NAME: &str = "NXDOMAIN";

/// Lookups until a moment.
#[derive(Clone, Debug, Default)]
pub struct LookupTotals {
    /// Those that ended.
    pub all: u64,
    /// Those that failed: an error from the server, or no response.
    pub failed: u64,
    /// Those of them without a response in time.
    pub timeouts: u64,
    /// Those that found no such name (NXDOMAIN): mostly from search lists.
    pub no_such_name: u64,
    /// Response times.
    pub answers: Option<Arc<Histogram>>,
}

impl LookupTotals {
    /// The lookups of a sample.
    pub fn of(sample: &Sample) -> Self {
        let ended = |wanted: fn(Option<&str>) -> bool| -> u64 {
            let of = points(sample, &dns::metrics::LOOKUPS).filter(|point| wanted(attribute(point, "error.type")));
            of.map(|point| if let Value::Histogram(histogram) = &point.value { histogram.count } else { 0 }).sum()
        };
        Self {
            all: ended(|_| true),
            failed: ended(|error| error.is_some_and(|error| error != NO_SUCH_NAME)),
            timeouts: ended(|error| error == Some(TIMEOUT)),
            no_such_name: ended(|error| error == Some(NO_SUCH_NAME)),
            // The duration of a timeout is not a response time.
            answers: histogram(sample, &dns::metrics::LOOKUPS, |point| attribute(point, "error.type") != Some(TIMEOUT)),
        }
    }
}
