//! How much CPU time one tick and one collection of the agent take.
//!
//! Both are what its collecting thread does between two sleeps, so the thread's account is read often: each time that it has gone up is a
//! burst. There are as many collections as exports, and they are the longest; the others are ticks.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};

/// The name of the thread.
const COLLECTOR: &str = "collector";

/// Much less than a second, so that no two bursts look like one.
const EVERY: Duration = Duration::from_millis(20);

/// Reads the account until it is asked for the bursts.
pub(super) struct Watch {
    end: Arc<AtomicBool>,
    reading: JoinHandle<Result<Vec<f64>>>,
}

/// ms of CPU time.
pub(super) struct Bursts {
    pub(super) ticks: Vec<f64>,
    pub(super) collections: Vec<f64>,
}

impl Watch {
    /// Begins to read.
    pub(super) fn start(pid: i32) -> Result<Self> {
        let threads = format!("/proc/{pid}/task");
        let threads = fs::read_dir(&threads).with_context(|| format!("could not list {threads}"))?;
        let mut paths = threads.flatten().map(|thread| thread.path());
        let is_it = |path: &std::path::PathBuf| fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == COLLECTOR);
        let account = paths.find(is_it).context("the agent has no collecting thread")?.join("schedstat");
        let end = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&end);
        let reading = thread::spawn(move || {
            let mut read = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                let text = fs::read_to_string(&account).with_context(|| format!("could not read {}", account.display()))?;
                let ns: f64 = text.split(' ').next().and_then(|ns| ns.parse().ok()).context("a schedstat has another form")?;
                read.push(ns / 1e6);
                thread::sleep(EVERY);
            }
            Ok(read)
        });
        Ok(Self { end, reading })
    }

    /// What was done since, in which there were so many exports.
    pub(super) fn bursts(self, exports: usize) -> Result<Bursts> {
        self.end.store(true, Ordering::Relaxed);
        let read = self.reading.join().map_err(|_| anyhow!("a thread panicked"))??;
        let mut all = bursts(&read);
        all.sort_by(f64::total_cmp);
        let collections = all.split_off(all.len().saturating_sub(exports));
        Ok(Bursts { ticks: all, collections })
    }
}

/// By how much an account goes up between two times at which it stands still. What goes on at either end is left out.
fn bursts(read: &[f64]) -> Vec<f64> {
    let still: Vec<f64> = read.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    still.windows(2).map(|pair| pair[1] - pair[0]).filter(|ms| *ms > 0.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_all_between_two_times_of_rest() {
        assert_eq!(bursts(&[1.0, 2.0, 2.0, 2.0, 3.0, 5.0, 5.0, 5.5, 5.5, 6.0]), [3.0, 0.5]);
        assert!(bursts(&[1.0]).is_empty());
    }
}
