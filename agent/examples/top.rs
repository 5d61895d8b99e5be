//! The live view over a node that does not exist: to look at it without privileges.
//!
//! `cargo run -p podmeter --example top`, or with `-- --once` or `-- --once --json`. `TOP_FAIL=panic|error` makes the source
//! fail after ten snapshots, which is how to see that the terminal survives it.

use std::error::Error;
use std::time::Duration;

#[path = "../src"]
mod agent {
    pub mod top;

    use self::top::view;
    #[path = "top/synthetic.rs"]
    pub mod synthetic;
}

use agent::{synthetic, top};

/// The synthetic node, a second per snapshot.
struct Synthetic {
    tick: u32,
    fail: Option<String>,
}

impl top::Source for Synthetic {
    fn next(&mut self) -> Result<top::view::View, Box<dyn Error + Send + Sync>> {
        self.tick += 1;
        match self.fail.as_deref() {
            Some("panic") if self.tick > 10 => panic!("the source was asked to panic"),
            Some("error") if self.tick > 10 => Err("the source was asked to fail".into()),
            _ => Ok(synthetic::view(self.tick)),
        }
    }
}

fn main() -> Result<(), top::TopError> {
    let asked = |flag: &str| std::env::args().any(|argument| argument == flag);
    match (asked("--once"), asked("--json")) {
        (true, true) => print!("{}", top::once::json(&synthetic::view(1))),
        (true, false) => print!("{}", top::once::table(&synthetic::view(1))),
        _ => {
            let source = Synthetic { tick: 0, fail: std::env::var("TOP_FAIL").ok() };
            return top::live(Box::new(source), Duration::from_secs(1));
        }
    }
    Ok(())
}
