//! The cgroup tree.
pub mod name;
