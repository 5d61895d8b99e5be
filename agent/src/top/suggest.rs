//! What a workload should request, by what it was seen to need (pure).
//!
//! CPU is shared by the moment: the suggestion covers what was used in 95 of 100 windows of 100 ms, idle ones included; what is
//! above that waits, or takes what others leave. Memory cannot be lent and taken back: the suggestion is the most that the kernel
//! could not have reclaimed at any look, and a margin for what happened between two looks and has not happened yet.
//! Either is as good as the time it was watched, which is therefore shown with it.

use crate::histogram::Histogram;

/// The share of the 100 ms windows that the suggested CPU request covers.
pub const CPU_WINDOWS: f64 = 0.95;

/// The suggested memory request, as a multiple of the most that was seen.
pub const MEMORY_MARGIN: f64 = 1.15;

/// CPUs to request, by all windows of the time that was watched; `None` where none was.
pub fn cpu(windows: Option<&Histogram>) -> Option<f64> {
    windows.and_then(|windows| windows.quantile(CPU_WINDOWS))
}

/// Bytes to request, by the largest unreclaimable memory that was seen.
pub fn memory(largest: Option<u64>) -> Option<u64> {
    largest.map(|bytes| (bytes as f64 * MEMORY_MARGIN).ceil() as u64)
}

/// What is kept of a workload from one look to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    since_unix_ns: Option<u64>,
    /// The most unreclaimable memory of all looks.
    pub largest: Option<u64>,
}

impl Watched {
    /// One more look, at something that is watched since then at the latest.
    pub fn and(self, since_unix_ns: u64, unreclaimable: Option<u64>) -> Self {
        Self {
            since_unix_ns: Some(self.since_unix_ns.map_or(since_unix_ns, |earlier| earlier.min(since_unix_ns))),
            largest: self.largest.max(unreclaimable),
        }
    }

    /// For how long, in s; `None` at first sight.
    pub fn seconds(self, now_unix_ns: u64) -> Option<f64> {
        let watched_ns = now_unix_ns.saturating_sub(self.since_unix_ns?);
        (watched_ns > 0).then_some(watched_ns as f64 / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_request_covers_95_of_100_windows() {
        // Windows as (CPUs used, how many), and what is suggested.
        for (windows, wanted) in [
            (vec![], None),
            (vec![(0.0, 100)], Some(0.0)),
            (vec![(0.5, 1)], Some(0.5)),
            (vec![(0.0, 95), (2.0, 5)], Some(0.0)),
            (vec![(0.0, 94), (2.0, 6)], Some(2.0)),
            (vec![(0.25, 95), (4.0, 5)], Some(0.25)),
            (vec![(0.25, 80), (1.0, 15), (4.0, 5)], Some(1.0)),
        ] {
            let mut histogram = Histogram::default();
            windows.iter().for_each(|(cores, n): &(f64, u64)| histogram.record(*cores, *n));
            let suggested = cpu(Some(&histogram));
            let agree = match (suggested, wanted) {
                (Some(suggested), Some(wanted)) => (suggested - wanted).abs() <= wanted * 0.045,
                (suggested, wanted) => suggested == wanted,
            };
            assert!(agree, "{windows:?}: {suggested:?}, not {wanted:?}");
        }
        assert_eq!(cpu(None), None);
    }

    #[test]
    fn a_memory_request_is_the_most_that_was_fixed_and_a_margin() {
        for (looks, wanted) in [
            (vec![], None),
            (vec![None], None),
            (vec![Some(0)], Some(0)),
            (vec![Some(1)], Some(2)),
            (vec![Some(100 << 20)], Some((115 << 20) + 1)),
            (vec![Some(1000), Some(2000), None, Some(500)], Some(2300)),
        ] {
            let watched = looks.iter().fold(Watched::default(), |watched, bytes| watched.and(1, *bytes));
            let suggested = memory(watched.largest);
            let near = suggested.zip(wanted).is_some_and(|(a, b)| a.abs_diff(b) <= 1);
            assert!(near || suggested == wanted, "{looks:?}: {suggested:?}, not {wanted:?}");
        }
    }

    #[test]
    fn the_time_watched_goes_on_and_is_not_known_at_first_sight() {
        const SECOND: u64 = 1_000_000_000;
        assert_eq!(Watched::default().seconds(9 * SECOND), None);
        let first = Watched::default().and(9 * SECOND, None);
        assert_eq!(first.seconds(9 * SECOND), None);
        let second = first.and(12 * SECOND, None);
        assert_eq!(second.seconds(12 * SECOND), Some(3.0));
        assert_eq!(second.and(2 * SECOND, None).seconds(12 * SECOND), Some(10.0), "counted since before it was seen");
    }
}
