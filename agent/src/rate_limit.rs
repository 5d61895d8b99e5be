//! How often similar lines are logged: what repeats is logged a few times, then counted. All lines that a tenant or a broken surrounding
//! can cause go through this.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// Kinds that are tracked at one time. Lines of further kinds are not logged.
const KINDS: usize = 1024;

/// Of each kind, a number of occurrences per period is logged; of the rest, their number.
#[derive(Debug)]
pub struct RateLimit<K> {
    burst: u32,
    period: Duration,
    kinds: HashMap<K, Seen>,
}

#[derive(Debug)]
struct Seen {
    /// The first that was logged in this period.
    since: Instant,
    said: u32,
    /// Occurrences that were not.
    silent: u64,
}

impl<K: Eq + Hash> RateLimit<K> {
    /// At most `burst` of a kind in each `period`, which begins with the first of them.
    pub fn new(burst: u32, period: Duration) -> Self {
        Self { burst, period, kinds: HashMap::new() }
    }

    /// Notes an occurrence: `Some(n)` when it is to be logged, n of its kind not having been logged since the last one.
    pub fn admit(&mut self, kind: K, now: Instant) -> Option<u64> {
        if let Some(seen) = self.kinds.get_mut(&kind) {
            if now.saturating_duration_since(seen.since) >= self.period {
                let silent = seen.silent;
                *seen = Seen { since: now, said: 1, silent: 0 };
                return Some(silent);
            }
            if seen.said >= self.burst {
                seen.silent += 1;
                return None;
            }
            seen.said += 1;
            return Some(0);
        }
        if self.kinds.len() >= KINDS {
            let period = self.period;
            self.kinds.retain(|_, seen| now.saturating_duration_since(seen.since) < period);
        }
        if self.kinds.len() >= KINDS {
            return None;
        }
        self.kinds.insert(kind, Seen { since: now, said: 1, silent: 0 });
        Some(0)
    }

    /// Notes an occurrence that is not to be logged.
    pub fn pass_over(&mut self, kind: K) {
        if let Some(seen) = self.kinds.get_mut(&kind) {
            seen.silent += 1;
        }
    }

    /// Forgets kinds at the end of their period; returns those of which some were not logged, and how many.
    pub fn ended(&mut self, now: Instant) -> Vec<(K, u64)> {
        let period = self.period;
        let over = self.kinds.extract_if(|_, seen| now.saturating_duration_since(seen.since) >= period);
        over.filter(|(_, seen)| seen.silent > 0).map(|(kind, seen)| (kind, seen.silent)).collect()
    }
}

/// How often the like happened unsaid, for the end of a message.
pub fn times(silent: u64) -> String {
    if silent == 0 { String::new() } else { format!(" ({silent} more times since this was last logged)") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn each_kind_is_said_in_a_burst_and_then_counted_until_its_period_ends() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut limit = RateLimit::new(2, MINUTE);
        let steps =
            [(0, 'a', Some(0)), (1, 'a', Some(0)), (2, 'a', None), (3, 'b', Some(0)), (59, 'a', None), (60, 'a', Some(2))];
        for (seconds, kind, want) in steps {
            assert_eq!(limit.admit(kind, at(seconds)), want, "{kind} at {seconds} s");
        }
        assert_eq!((limit.admit('a', at(61)), limit.admit('a', at(62))), (Some(0), None));
        assert_eq!(limit.ended(at(100)), [], "b was logged in full");
        assert_eq!(limit.ended(at(120)), [('a', 1)]);
        assert!(limit.kinds.is_empty());
    }

    #[test]
    fn a_flood_of_kinds_takes_no_more_memory_than_its_bound_and_ends_with_its_period() {
        let now = Instant::now();
        let mut limit = RateLimit::new(1, MINUTE);
        let said = (0..100_000).filter(|kind| limit.admit(*kind, now).is_some()).count();
        assert_eq!((said, limit.kinds.len()), (KINDS, KINDS));
        assert_eq!(limit.admit(100_000, now + MINUTE), Some(0));
        assert_eq!(limit.kinds.len(), 1);
    }
}
