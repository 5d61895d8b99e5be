//! How long things take: units, and more patience where CPUs are emulated.

use std::time::Duration;

/// A millisecond.
pub const MS: Duration = Duration::from_millis(1);

/// A second.
pub const SECOND: Duration = Duration::from_secs(1);

/// True in a guest whose CPUs are emulated, where `cargo xtask test vm` sets `PODMETER_EMULATED`.
///
/// Everything takes ten to thirty times longer there, and a CPU may be away for some ms without the guest's knowing. What is
/// counted must equal the kernel's figures all the same. Only two things may depend on this: how long something may take, and how
/// closely a load keeps to the plan it was given.
pub fn is_emulated() -> bool {
    std::env::var_os("PODMETER_EMULATED").is_some()
}

/// How long something may take here that may take this long on a real CPU.
pub fn patience(within: Duration) -> Duration {
    if is_emulated() { 5 * within } else { within }
}
