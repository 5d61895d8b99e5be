//! The harness.

pub mod demo;
