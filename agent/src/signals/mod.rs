//! The signals.
pub mod metric;
