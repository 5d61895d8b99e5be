//! What podmeter costs: the measurements behind `cargo xtask bench`.
//!
//! Costs are compared within one run: slices with, without and with an empty program take turns, so that whatever else the
//! machine does meets all of them. The programs are those that the agent under test loaded itself.

pub mod agent;
pub mod described;
pub mod disk;
pub mod dns;
mod empty;
pub mod journal;
pub mod kubernetes;
pub mod memory;
pub mod network;
pub mod node;
pub mod packets;
pub mod pods;
pub mod programs;
pub mod pull;
pub mod report;
pub mod soak;
pub mod switches;
mod ticks;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How often it is looked whether to end.
const TICK: Duration = Duration::from_millis(20);

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Enough to see that everything works.
    Quick,
    /// Enough to rely on.
    Full,
}

impl Effort {
    /// One of two numbers.
    pub fn pick(self, quick: usize, full: usize) -> usize {
        match self {
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

/// Whether a signal ended the benchmark: it then returns from wherever it is, and all it made is dropped.
#[derive(Clone, Debug)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Set by SIGINT, SIGTERM or SIGHUP.
    pub fn on_signals() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&stop)).context("could not prepare for signals")?;
        }
        Ok(Self(stop))
    }

    /// Fails once a signal came.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.0.load(Ordering::Relaxed), "stopped by a signal");
        Ok(())
    }

    /// Sleeps.
    pub fn pause(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(TICK));
        }
    }

    /// Sleeps until `condition` holds.
    pub fn pause_until(&self, what: &str, within: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + within;
        while !condition()? {
            if Instant::now() > deadline {
                bail!("waited {within:?} for {what} in vain");
            }
            self.check()?;
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}
