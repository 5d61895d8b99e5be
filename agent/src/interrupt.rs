//! Signals that ask a command to end, for those that must put something in order first.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// True once SIGTERM, SIGINT or SIGHUP came.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// The exit code of a command that a user ended: what a shell shows for SIGINT.
    pub const CODE: u8 = 128 + 2;

    /// Takes these signals from now on; a second one ends the process at once.
    ///
    /// # Errors
    /// When the kernel refuses a handler.
    pub fn watch() -> io::Result<Self> {
        let came = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&came))?;
            signal_hook::flag::register(signal, Arc::clone(&came))?;
        }
        Ok(Self(came))
    }

    /// Whether one came.
    pub fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_noticed_and_does_not_end_the_process() {
        let interrupt = Interrupt::watch().expect("handlers");
        assert!(!interrupt.came());
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGHUP).expect("a signal to this process");
        assert!(interrupt.came());
    }
}
