//! The harness: cgroups, loads with known use, the agent as a black box, and what it exported. tests/README.md is its map.
//!
//! Everything here reads /proc, /sys and the agent's output only, so that the tests also run as a static binary in a virtual
//! machine that holds nothing else.

pub mod agent;
mod alone;
pub mod bench;
pub mod bpffs;
pub mod cgroup;
pub mod collector;
pub mod container;
pub mod demo;
pub mod deploy;
pub mod disk;
pub mod dns;
pub mod http;
pub mod json_schema;
pub mod kubernetes;
pub mod load;
pub mod metric;
pub mod namespace;
pub mod otlp;
pub mod program;
pub mod promql;
pub mod proxy;
pub mod tcp;
pub mod terminal;
mod time;
pub mod truth;
pub mod victoria;
mod watched;

pub use self::{
    alone::{alone_as_root, without_crate},
    time::{MS, SECOND, is_emulated, patience},
};

/// Declares a test whose body returns `anyhow::Result<()>`, which needs root, and beside which no other may run. In its body,
/// `TEST` is its name.
#[macro_export]
macro_rules! root_test {
    ($(#[$meta:meta])* fn $name:ident() $body:block) => {
        $(#[$meta])*
        #[test]
        fn $name() -> ::anyhow::Result<()> {
            const TEST: &str = $crate::without_crate(concat!(module_path!(), "::", stringify!($name)));
            let Some(_alone) = $crate::alone_as_root(TEST) else { return Ok(()) };
            $body
        }
    };
}
