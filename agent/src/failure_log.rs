//! When a failure that repeats is logged: when it begins, then sparingly; and its end, where its begin was logged.

use std::{
    hash::Hash,
    time::{Duration, Instant},
};

use crate::rate_limit::RateLimit;

/// What was logged of failures, by kind.
#[derive(Debug)]
pub struct FailureLog<K> {
    limit: RateLimit<K>,
    period: Duration,
    /// The first of the failures since the last success.
    since: Option<Instant>,
    /// The one that was logged last since then.
    logged: Option<(K, Instant)>,
}

impl<K: Copy + Eq + Hash> FailureLog<K> {
    /// A failure that lasts is logged once in each `period`, one that comes and goes at most `burst` times.
    pub fn new(burst: u32, period: Duration) -> Self {
        Self { limit: RateLimit::new(burst, period), period, since: None, logged: None }
    }

    /// Notes an occurrence that is no failed attempt: `Some(n)` when it is to be logged, n of its kind not having been logged.
    pub fn note(&mut self, kind: K, now: Instant) -> Option<u64> {
        self.limit.admit(kind, now)
    }

    /// Whether the last attempt failed.
    pub fn is_failing(&self) -> bool {
        self.since.is_some()
    }

    /// Notes a failed attempt that is not to be logged.
    pub fn failed_silently(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// Notes a failed attempt, as [`FailureLog::note`] does.
    pub fn failed(&mut self, kind: K, now: Instant) -> Option<u64> {
        self.failed_silently(now);
        let lasts = |(logged, at): (K, Instant)| logged == kind && now.saturating_duration_since(at) < self.period;
        if self.logged.is_some_and(lasts) {
            self.limit.pass_over(kind);
            return None;
        }
        let silent = self.limit.admit(kind, now)?;
        self.logged = Some((kind, now));
        Some(silent)
    }

    /// Notes a successful attempt: for how long attempts had failed, where that was logged.
    pub fn succeeded(&mut self, now: Instant) -> Option<Duration> {
        let since = self.since.take();
        self.logged.take().and(since).map(|since| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(start: Instant) -> impl Fn(u64) -> Instant {
        move |seconds| start + Duration::from_secs(seconds)
    }

    #[test]
    fn each_kind_is_logged_when_it_begins_and_then_once_a_minute_with_its_count() {
        let mut log = FailureLog::new(1, MINUTE);
        let at = at(Instant::now());
        let steps = [
            (0, "connect", Some(0)),
            (1, "connect", None),
            (2, "timeout", Some(0)),
            (3, "connect", None),
            (59, "connect", None),
            (60, "connect", Some(3)),
            (61, "timeout", None),
            (61, "connect", None),
            (200, "connect", Some(1)),
            (201, "unavailable", Some(0)),
            (201, "internal", Some(0)),
        ];
        for (seconds, kind, want) in steps {
            assert_eq!(log.failed(kind, at(seconds)), want, "{kind} at {seconds} s");
        }
    }

    #[test]
    fn recovery_is_logged_once_and_flapping_stays_quiet() {
        let mut log = FailureLog::new(1, MINUTE);
        let at = at(Instant::now());
        assert_eq!(log.succeeded(at(0)), None);
        assert_eq!(log.failed("connect", at(1)), Some(0));
        assert_eq!(log.failed("connect", at(2)), None);
        assert_eq!(log.succeeded(at(5)), Some(Duration::from_secs(4)));
        assert_eq!(log.succeeded(at(6)), None);
        assert_eq!(log.failed("connect", at(7)), None);
        assert_eq!(log.succeeded(at(8)), None);
    }
}
