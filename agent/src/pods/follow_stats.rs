//! How well pods, the node and namespaces are followed (pure): counts of requests and errors, and the reason where it does not work.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::failure::{FollowError, FollowErrorKind};
use crate::histogram::Histogram;

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
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pods, Self::Node, Self::Namespaces];

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
pub struct FollowState {
    /// Whether it is followed at all.
    pub is_followed: bool,
    /// Whether all of them have been read once. They may have changed since.
    pub known: bool,
    /// Whether what is known is current, as far as can be known: the last request has not failed.
    pub current: bool,
    /// Why it is not current, once that is known.
    pub trouble: Option<Trouble>,
}

/// Why objects are not followed at the moment, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The kind of error.
    pub kind: FollowErrorKind,
    /// What was tried, where, and how it failed.
    pub reason: Arc<str>,
}

impl FollowState {
    /// All of them have been read, and changes are followed.
    pub fn works(&mut self) {
        self.known = true;
        self.current = true;
        self.trouble = None;
    }

    /// The last request has failed.
    pub fn fails(&mut self, kind: FollowErrorKind, reason: &str) {
        self.current = false;
        self.trouble = Some(Trouble { kind, reason: reason.into() });
    }
}

/// What a request is for, as the API calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// All objects of a kind.
    List,
    /// Their changes from then on.
    Watch,
    /// The kubelet's pods.
    Get,
}

impl Verb {
    /// The value of `verb`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Watch => "watch",
            Self::Get => "get",
        }
    }
}

/// How a request ended: with an HTTP status, or without a response.
pub type Outcome = Result<u16, &'static str>;

/// Counts since the start.
#[derive(Clone, Debug, Default)]
pub struct FollowStats {
    following: [FollowState; 3],
    /// Requests sent.
    pub requests: u64,
    /// Objects read, again and again as they change.
    pub events: u64,
    /// Objects that could not be read.
    pub malformed: u64,
    errors: [u64; FollowErrorKind::ALL.len()],
    /// How long requests took until their response began, or until they failed, in s.
    pub durations: BTreeMap<(Verb, Outcome), Histogram>,
    /// When the server last sent something.
    pub last_response: Option<Instant>,
    /// How long a list may be put off, so that the agents of a cluster do not all send their requests at once.
    pub spread: Duration,
}

impl FollowStats {
    /// How a kind of objects is followed.
    pub fn following(&self, followed: Followed) -> &FollowState {
        &self.following[followed as usize]
    }

    /// The same, to change it.
    pub fn following_mut(&mut self, followed: Followed) -> &mut FollowState {
        &mut self.following[followed as usize]
    }

    /// Why the first of the kinds of objects that are not followed is not: pods, then the node, then namespaces.
    pub fn trouble(&self) -> Option<&Trouble> {
        self.following.iter().find_map(|following| following.trouble.as_ref())
    }

    /// A request has ended, with this status or failure. One that could not be sent, since there is no configuration or token, is none.
    pub fn requested(&mut self, verb: Verb, took: Duration, status: Result<u16, &FollowError>) {
        let outcome = match status {
            Ok(status) => Ok(status),
            Err(FollowError { status: Some(status), .. }) => Ok(*status),
            Err(FollowError { kind: FollowErrorKind::Configuration, .. }) => return,
            Err(failure) => Err(failure.kind.as_str()),
        };
        self.durations.entry((verb, outcome)).or_default().record(took.as_secs_f64(), 1);
    }

    /// One more error of a kind.
    pub fn failed(&mut self, kind: FollowErrorKind) {
        self.errors[kind as usize] += 1;
    }

    /// Errors so far, by kind.
    pub fn errors(&self) -> impl Iterator<Item = (FollowErrorKind, u64)> {
        FollowErrorKind::ALL.into_iter().zip(self.errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_by_its_status_or_by_why_there_is_none() {
        let mut stats = FollowStats::default();
        let half = Duration::from_millis(500);
        stats.requested(Verb::List, half, Ok(200));
        stats.requested(Verb::List, half, Ok(200));
        let of_status = FollowError { status: Some(503), ..FollowError::new(FollowErrorKind::Status, "busy") };
        stats.requested(Verb::Watch, half, Err(&of_status));
        stats.requested(Verb::Watch, half, Err(&FollowError::new(FollowErrorKind::Timeout, "late")));
        stats.requested(Verb::Watch, half, Err(&FollowError::new(FollowErrorKind::Configuration, "no token")));
        let counted: Vec<_> = stats.durations.iter().map(|(key, histogram)| (*key, histogram.count, histogram.sum)).collect();
        assert_eq!(
            counted,
            [((Verb::List, Ok(200)), 2, 1.0), ((Verb::Watch, Ok(503)), 1, 0.5), ((Verb::Watch, Err("timeout")), 1, 0.5)]
        );
    }
}
