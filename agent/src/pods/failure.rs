//! Why a request to Kubernetes failed, and when to log it.

use std::time::{Duration, Instant};

use crate::{causes::one_line, failure_log::FailureLog};

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowError {
    /// Its kind.
    pub kind: FollowErrorKind,
    /// What happened, and how to fix what a person must fix.
    pub reason: String,
    /// How long the server wants no further request.
    pub retry_after: Option<Duration>,
    /// The HTTP status, of a response or of an event of a watch.
    pub status: Option<u16>,
}

impl FollowError {
    /// One of this kind. The reason may contain the server's message.
    pub fn new(kind: FollowErrorKind, reason: impl AsRef<str>) -> Self {
        Self { kind, reason: one_line(reason.as_ref()), retry_after: None, status: None }
    }
}

/// Kinds of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FollowErrorKind {
    /// No configuration, no token or no certificate to be read.
    Configuration,
    /// No connection, TLS included.
    Connection,
    /// No response in time.
    Timeout,
    /// A connection that broke in the middle of a response.
    Broken,
    /// 401: the token is not valid, or not any more.
    Unauthorized,
    /// 403: the request is not allowed.
    Denied,
    /// 410: the last version seen is too old; a new list is needed.
    Expired,
    /// 429: too many requests.
    Throttled,
    /// Any other status.
    Status,
    /// A response that cannot be read.
    Malformed,
}

impl FollowErrorKind {
    /// All kinds, in order.
    pub const ALL: [Self; 10] = [
        Self::Configuration,
        Self::Connection,
        Self::Timeout,
        Self::Broken,
        Self::Unauthorized,
        Self::Denied,
        Self::Expired,
        Self::Throttled,
        Self::Status,
        Self::Malformed,
    ];

    /// The value of `error.type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Connection => "connection",
            Self::Timeout => "timeout",
            Self::Broken => "broken",
            Self::Unauthorized => "unauthorized",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Throttled => "throttled",
            Self::Status => "status",
            Self::Malformed => "malformed",
        }
    }

    /// Whether this also happens in a healthy cluster, so that it is not logged at once.
    pub fn is_usual(self) -> bool {
        matches!(self, Self::Expired | Self::Broken)
    }
}

/// How often the same failure is said again while it lasts.
const AGAIN: Duration = Duration::from_secs(600);

/// At most so many lines of a kind in that time, however often it begins anew.
const BURST: u32 = 5;

/// What was logged of a row of failures.
#[derive(Debug)]
pub struct Log(FailureLog<FollowErrorKind>);

impl Default for Log {
    fn default() -> Self {
        Self(FailureLog::new(BURST, AGAIN))
    }
}

impl Log {
    /// Whether to log this failure.
    pub fn failed(&mut self, kind: FollowErrorKind, now: Instant) -> bool {
        if !self.0.is_failing() && kind.is_usual() {
            self.0.failed_silently(now);
            return false;
        }
        self.0.failed(kind, now).is_some()
    }

    /// How long it did not work, where that was logged.
    pub fn succeeded(&mut self, now: Instant) -> Option<Duration> {
        self.0.succeeded(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_listed_in_their_order() {
        assert!(FollowErrorKind::ALL.into_iter().enumerate().all(|(position, kind)| kind as usize == position));
    }

    #[test]
    fn a_failure_is_said_once_and_its_end_too() {
        let mut log = Log::default();
        let start = Instant::now();
        assert_eq!(log.succeeded(start), None);
        assert!(log.failed(FollowErrorKind::Denied, start));
        assert!(!log.failed(FollowErrorKind::Denied, start + AGAIN / 2));
        assert!(log.failed(FollowErrorKind::Denied, start + AGAIN));
        assert!(log.failed(FollowErrorKind::Timeout, start + AGAIN), "another one");
        assert_eq!(log.succeeded(start + 2 * AGAIN), Some(2 * AGAIN));
        assert_eq!(log.succeeded(start + 2 * AGAIN), None);
    }

    #[test]
    fn a_server_that_comes_and_goes_is_said_five_times_in_ten_minutes() {
        let mut log = Log::default();
        let start = Instant::now();
        let flap = |log: &mut Log, second| {
            let now = start + Duration::from_secs(second);
            (log.failed(FollowErrorKind::Connection, now), log.succeeded(now).is_some())
        };
        let said = (0..600).map(|second| flap(&mut log, second)).filter(|said| *said == (true, true)).count();
        assert_eq!(said, BURST as usize);
        assert_eq!(flap(&mut log, 600), (true, true));
    }

    #[test]
    fn what_is_usual_is_said_when_it_does_not_end() {
        let mut log = Log::default();
        let now = Instant::now();
        assert!(!log.failed(FollowErrorKind::Expired, now));
        assert_eq!(log.succeeded(now), None);
        assert!(!log.failed(FollowErrorKind::Expired, now));
        assert!(log.failed(FollowErrorKind::Expired, now));
    }
}
