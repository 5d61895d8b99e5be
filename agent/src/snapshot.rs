//! One interval of this node as one document: what `podmeter top` shows and `podmeter top --once --json` prints.
//!
//! [`document`] has the types, [`builder`] makes them from the batches of aggregate. All of it is pure.

pub mod builder;
pub mod document;
mod identity;
mod lookups;
mod points;
pub mod suggest;
#[cfg(test)]
pub mod synthetic;
mod window;
mod workload;
