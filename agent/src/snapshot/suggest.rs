//! Suggested requests: what a workload should request, by its use so far (pure).
//!
//! CPU: what was used in 95 of 100 windows of 100 ms, idle ones included; more than that waits, or takes what others leave. Memory:
//! the most that the kernel could not have reclaimed in any interval, and a margin for peaks between two reads and in the future.
//! Both depend on how long the workload was watched, which is shown with them. Below [`LEAST_SECONDS`] there is none.

use crate::histogram::Histogram;

/// The share of the 100 ms windows that the suggested CPU request covers.
pub const CPU_WINDOWS: f64 = 0.95;

/// The suggested memory request, as a multiple of the most that was seen.
pub const MEMORY_MARGIN: f64 = 1.15;

/// For how long something must have been watched, in s, before anything is suggested.
pub const LEAST_SECONDS: f64 = 60.0;

/// How many windows must have been seen: half of those of [`LEAST_SECONDS`], since some may be lost.
pub const LEAST_WINDOWS: u64 = 300;

/// How often memory must have been read.
pub const LEAST_READS: u32 = 2;

/// CPUs to request, by all windows of the time that was watched; `None` where they are too few.
pub fn cpu(windows: Option<&Histogram>, watched_seconds: Option<f64>) -> Option<f64> {
    let windows = windows.filter(|windows| windows.count >= LEAST_WINDOWS && is_enough(watched_seconds))?;
    windows.quantile(CPU_WINDOWS)
}

/// Bytes to request, by the largest unreclaimable memory of all reads; `None` where they are too few.
pub fn memory(watched: ObservedMemory, watched_seconds: Option<f64>) -> Option<u64> {
    let bytes = watched.largest.filter(|_| watched.reads >= LEAST_READS && is_enough(watched_seconds))?;
    Some((bytes as f64 * MEMORY_MARGIN).ceil() as u64)
}

/// Whether something was watched for long enough.
pub fn is_enough(watched_seconds: Option<f64>) -> bool {
    watched_seconds.is_some_and(|seconds| seconds >= LEAST_SECONDS)
}

/// Memory of a workload over the time it was watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObservedMemory {
    since_ns: Option<u64>,
    /// The most unreclaimable memory of all reads.
    pub largest: Option<u64>,
    /// Reads that found memory.
    pub reads: u32,
}

impl ObservedMemory {
    /// One more read, of a workload that is watched since then at the latest.
    pub fn and(self, since_ns: u64, unreclaimable: Option<u64>) -> Self {
        Self {
            since_ns: Some(self.since_ns.map_or(since_ns, |earlier| earlier.min(since_ns))),
            largest: self.largest.max(unreclaimable),
            reads: self.reads.saturating_add(unreclaimable.is_some().into()),
        }
    }

    /// For how long, in s; `None` at first sight.
    pub fn seconds(self, now_ns: u64) -> Option<f64> {
        let watched_ns = now_ns.saturating_sub(self.since_ns?);
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
            (vec![(0.0, 1000)], Some(0.0)),
            (vec![(0.0, 950), (2.0, 50)], Some(0.0)),
            (vec![(0.0, 940), (2.0, 60)], Some(2.0)),
            (vec![(0.25, 950), (4.0, 50)], Some(0.25)),
            (vec![(0.25, 800), (1.0, 150), (4.0, 50)], Some(1.0)),
        ] {
            let suggested = cpu(Some(&histogram(&windows)), Some(60.0));
            let agree = match (suggested, wanted) {
                (Some(suggested), Some(wanted)) => (suggested - wanted).abs() <= wanted * 0.045,
                (suggested, wanted) => suggested == wanted,
            };
            assert!(agree, "{windows:?}: {suggested:?}, not {wanted:?}");
        }
        assert_eq!(cpu(None, Some(60.0)), None);
    }

    fn histogram(windows: &[(f64, u64)]) -> Histogram {
        let mut histogram = Histogram::default();
        windows.iter().for_each(|(cores, n)| histogram.record(*cores, *n));
        histogram
    }

    #[test]
    fn nothing_is_suggested_before_enough_was_seen() {
        for (windows, seconds, wanted) in [
            (600, None, false),
            (600, Some(59.9), false),
            (299, Some(60.0), false),
            (300, Some(60.0), true),
            (600, Some(3600.0), true),
        ] {
            let suggested = cpu(Some(&histogram(&[(0.5, windows)])), seconds);
            assert_eq!(suggested.is_some(), wanted, "{windows} windows in {seconds:?} s");
        }
        let once = ObservedMemory::default().and(1, Some(1000));
        for (watched, seconds, wanted) in [
            (once, Some(60.0), None),
            (once.and(1, None), Some(60.0), None),
            (once.and(1, Some(500)), Some(59.9), None),
            (once.and(1, Some(500)), None, None),
            (once.and(1, Some(500)), Some(60.0), Some(1150)),
        ] {
            assert_eq!(memory(watched, seconds), wanted, "{watched:?} in {seconds:?} s");
        }
    }

    #[test]
    fn a_memory_request_is_the_most_that_could_not_be_reclaimed_and_a_margin() {
        for (reads, wanted) in [
            (vec![], None),
            (vec![None, None], None),
            (vec![Some(0), Some(0)], Some(0)),
            (vec![Some(1), Some(1)], Some(2)),
            (vec![Some(100 << 20), Some(0)], Some((115 << 20) + 1)),
            (vec![Some(1000), Some(2000), None, Some(500)], Some(2300)),
        ] {
            let watched = reads.iter().fold(ObservedMemory::default(), |watched, bytes| watched.and(1, *bytes));
            let suggested = memory(watched, Some(60.0));
            let near = suggested.zip(wanted).is_some_and(|(a, b)| a.abs_diff(b) <= 1);
            assert!(near || suggested == wanted, "{reads:?}: {suggested:?}, not {wanted:?}");
        }
    }

    #[test]
    fn the_time_watched_goes_on_and_is_not_known_at_first_sight() {
        const SECOND: u64 = 1_000_000_000;
        assert_eq!(ObservedMemory::default().seconds(9 * SECOND), None);
        let first = ObservedMemory::default().and(9 * SECOND, None);
        assert_eq!(first.seconds(9 * SECOND), None);
        let second = first.and(12 * SECOND, None);
        assert_eq!(second.seconds(12 * SECOND), Some(3.0));
        assert_eq!(second.and(2 * SECOND, None).seconds(12 * SECOND), Some(10.0), "counted since before it was seen");
    }
}
