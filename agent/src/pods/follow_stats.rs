//! How well pods, the node and namespaces are followed (pure): counts of requests and errors, and the reason where it does not work.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::failure::FollowErrorKind;

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

    /// One more error of a kind.
    pub fn failed(&mut self, kind: FollowErrorKind) {
        self.errors[kind as usize] += 1;
    }

    /// Errors so far, by kind.
    pub fn errors(&self) -> impl Iterator<Item = (FollowErrorKind, u64)> {
        FollowErrorKind::ALL.into_iter().zip(self.errors)
    }
}
