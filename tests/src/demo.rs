//! A pretend node, for people without a cluster: pod-shaped cgroups with real processes in them.
//!
//! `pods` lists what there is, `tree` makes the cgroups as kubelet would, `load` is what the processes do.

pub mod load;
pub mod pods;
pub mod tree;
