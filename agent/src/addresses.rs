//! Address ranges that the Kubernetes side has learnt and the network signal counts by.

use crate::config::Range;

/// The address ranges of pods and of nodes, as Kubernetes has them. Each list is in order of importance: where there are too many,
/// the first are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Of pods.
    pub cluster: Vec<Range>,
    /// Of nodes.
    pub node: Vec<Range>,
}
