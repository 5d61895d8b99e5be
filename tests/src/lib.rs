//! The harness: cgroups, loads whose use is known, the agent as a black box, and what it exported.
//!
//! Everything here reads /proc, /sys and the agent's output only, so that the tests also run as a static binary in a virtual
//! machine that holds nothing else.

pub mod agent;
pub mod cgroup;
pub mod collector;
pub mod http;
pub mod load;
pub mod metric;
pub mod otlp;
pub mod truth;

/// True when the test has to be skipped because it is not run as root; says so, since a silent pass would look like a check.
pub fn skipped_without_root(name: &str) -> bool {
    let skipped = !nix::unistd::geteuid().is_root();
    if skipped {
        eprintln!("SKIPPED {name}: needs root");
    }
    skipped
}

/// Declares a test whose body returns `anyhow::Result<()>` and which needs root.
#[macro_export]
macro_rules! root_test {
    ($(#[$meta:meta])* fn $name:ident() $body:block) => {
        $(#[$meta])*
        #[test]
        fn $name() -> ::anyhow::Result<()> {
            if $crate::skipped_without_root(stringify!($name)) {
                return Ok(());
            }
            $body
        }
    };
}
