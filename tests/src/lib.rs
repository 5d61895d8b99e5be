//! The harness.
pub mod collector;
