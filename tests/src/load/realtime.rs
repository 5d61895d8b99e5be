//! Real-time tasks: how a thread becomes one, and the kernel's limit for all of them.

use anyhow::{Context as _, Result};
use nix::{errno::Errno, libc, unistd::Pid};

/// Has a thread run before all ordinary tasks (`SCHED_FIFO`, priority 1), as [`super::Load::realtime`] does.
pub fn realtime(thread: Pid) -> Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the kernel reads the parameters, which live until the call is over.
    let set = unsafe { libc::sched_setscheduler(thread.as_raw(), libc::SCHED_FIFO, &raw const parameters) };
    Errno::result(set).map(drop).with_context(|| format!("could not make thread {thread} real-time"))
}

/// While it lives, real-time tasks may use all of a CPU; afterwards the kernel's limit is what it was.
///
/// By default they are set aside for 50 ms of every second. A load at that priority must be short.
#[derive(Debug)]
pub struct RealtimeUnlimited {
    before: String,
}

impl RealtimeUnlimited {
    const FILE: &str = "/proc/sys/kernel/sched_rt_runtime_us";

    /// Takes the limit away.
    pub fn new() -> Result<Self> {
        let before = std::fs::read_to_string(Self::FILE).with_context(|| format!("could not read {}", Self::FILE))?;
        std::fs::write(Self::FILE, "-1").with_context(|| format!("could not write {}", Self::FILE))?;
        Ok(Self { before })
    }
}

impl Drop for RealtimeUnlimited {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(Self::FILE, self.before.trim()) {
            eprintln!("could not restore {} to {}: {error}", Self::FILE, self.before.trim());
        }
    }
}
