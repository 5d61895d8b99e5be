//! top
pub mod view;
