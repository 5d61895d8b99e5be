//! When to try again (pure).

use std::time::{Duration, SystemTime};

/// How long to wait between attempts when the other side gives no time.
#[derive(Clone, Copy, Debug)]
pub struct Pacing {
    /// The wait after a first failure.
    pub initial: Duration,
    /// What doubling ends at.
    pub max: Duration,
}

impl Default for Pacing {
    fn default() -> Self {
        Self { initial: Duration::from_secs(1), max: Duration::from_secs(30) }
    }
}

/// Longest wait that is accepted from the other side: a mistaken date must not silence a node for good.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Exponential backoff with jitter, so that the agents of a fleet do not come back all at once.
#[derive(Debug)]
pub struct Backoff {
    pacing: Pacing,
    next: Duration,
}

impl Backoff {
    /// A backoff before its first failure.
    pub fn new(pacing: Pacing) -> Self {
        Self { pacing, next: pacing.initial }
    }

    /// The wait after one more failure: half to the whole of `initial`, doubled with every failure up to `max`.
    pub fn wait(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.pacing.max);
        whole.mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    /// The wait when the other side requested `requested`: never shorter, and spread by up to `initial`.
    pub fn wait_at_least(&self, requested: Duration) -> Duration {
        requested.min(LONGEST_WAIT) + self.pacing.initial.mul_f64(fastrand::f64())
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.next = self.pacing.initial;
    }
}

/// The wait that a `Retry-After` header requests: seconds or an HTTP date (RFC 9110, 10.2.3). `None` when it is neither.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than u64 holds: for ever.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_maximum_with_jitter_and_start_over() {
        let pacing = Pacing { initial: Duration::from_secs(1), max: Duration::from_secs(30) };
        let mut backoff = Backoff::new(pacing);
        for round in 0..2 {
            for whole in [1, 2, 4, 8, 16, 30, 30, 30] {
                let wait = backoff.wait();
                let whole = Duration::from_secs(whole);
                assert!(whole / 2 <= wait && wait <= whole, "round {round}: {wait:?} of {whole:?}");
            }
            backoff.reset();
        }
        let waits: Vec<_> = (0..20).map(|_| Backoff::new(pacing).wait()).collect();
        assert!(waits.iter().any(|wait| *wait != waits[0]), "no jitter: {waits:?}");
    }

    #[test]
    fn a_wait_that_was_requested_is_never_cut_short_nor_endless() {
        let backoff = Backoff::new(Pacing::default());
        for (requested, least) in [(0, 0), (7, 7), (u64::MAX, 3600)] {
            let (wait, least) = (backoff.wait_at_least(Duration::from_secs(requested)), Duration::from_secs(least));
            assert!(least <= wait && wait <= least + Duration::from_secs(1), "{wait:?}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let cases = [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("99999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("-1", None),
            ("1.5", None),
            ("", None),
            ("soon", None),
        ];
        for (value, want) in cases {
            assert_eq!(retry_after(value, now), want.map(Duration::from_secs), "{value:?}");
        }
    }
}
