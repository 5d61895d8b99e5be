//! The live view over a node that does not exist, to look at it without privileges:
//! `cargo test -p podmeter the_live_view -- --ignored --nocapture`.

use std::error::Error;
use std::time::Duration;

use super::super::{SnapshotSource, TopOptions, live};
use crate::interrupt::Interrupt;
use crate::snapshot::document::Snapshot;
use crate::snapshot::synthetic;

/// The synthetic node, a second per snapshot.
struct Synthetic {
    tick: u32,
    fail: Option<String>,
}

impl SnapshotSource for Synthetic {
    fn next(&mut self) -> Result<Snapshot, Box<dyn Error + Send + Sync>> {
        self.tick += 1;
        match self.fail.as_deref() {
            Some("panic") if self.tick > 10 => panic!("TOP_FAIL=panic"),
            Some("error") if self.tick > 10 => Err("TOP_FAIL=error".into()),
            _ => Ok(synthetic::snapshot(self.tick)),
        }
    }
}

/// `TOP_FAIL=panic|error` makes the source fail after ten snapshots, to see that the terminal survives it.
#[test]
#[ignore = "needs a terminal and someone who looks at it"]
fn the_live_view() {
    let source = Synthetic { tick: 0, fail: std::env::var("TOP_FAIL").ok() };
    live(Box::new(source), Duration::from_secs(1), &TopOptions::default(), &Interrupt::default())
        .expect("it ends when the user wants");
}
