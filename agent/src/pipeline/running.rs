//! What is loaded and attached: the cgroups and the signals, with so many slots. With more slots they are started once more, and take over
//! what was counted.

use std::{path::PathBuf, sync::Arc};

use tracing::{info, warn};

use super::{SignalStatus, StartError, shed::GIVEN_UP, slots::SlotRange};
use crate::{
    causes::chain,
    cgroups::{self, Cgroups, name::Kubelets},
    config,
    kernel::{
        capabilities,
        clock::Clock,
        load::{Kernel, Loaded, Settled},
        pin::{PinError, Pins},
    },
    signals::{self, ActiveSignal, Signal},
};

/// How the kernel side is started.
pub(super) struct Setup {
    pub(super) root: PathBuf,
    pub(super) pin_directory: PathBuf,
    pub(super) pin: bool,
    pub(super) leave_out: Vec<String>,
    pub(super) kernel_log: bool,
    pub(super) kubelets: Kubelets,
    pub(super) signals: config::Signals,
    pub(super) slots: SlotRange,
    /// What this process is not allowed.
    pub(super) lacking: Vec<&'static capabilities::Capability>,
    /// Signals that are not measured for now, to stay within `overhead.cpu`.
    pub(super) given_up: Vec<&'static str>,
}

/// The kernel side, counting.
pub(super) struct Running {
    pub(super) cgroups: Cgroups,
    pub(super) signals: Vec<(&'static Signal, Box<dyn ActiveSignal>)>,
    pub(super) states: Vec<SignalStatus>,
    pub(super) clock: Clock,
    pub(super) settled: Settled,
}

impl Running {
    /// Loads and attaches everything that this kernel allows and the setup wants.
    ///
    /// # Errors
    /// For what a person must fix.
    pub(super) fn start(setup: &Setup) -> Result<Self, StartError> {
        let pins = || if setup.pin { Pins::open(&setup.pin_directory) } else { Pins::transient(&setup.pin_directory) };
        let mut kernel = kernel(setup, || pins().map(Arc::new))?;
        kernel.slots = setup.slots.at_start(|| cgroups::count(&setup.root), kernel.pinned_slots(cgroups::NAME));
        Self::load(kernel, setup)
    }

    /// Starts with more slots what runs with fewer; that goes on until then, and stays what it is where this fails early.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub(super) fn grow(&mut self, setup: &Setup, slots: u32) -> Result<(), StartError> {
        let before: Vec<Loaded> = self.settled.loaded.clone();
        let pins = Arc::clone(&self.settled.pins);
        let pins = || if setup.pin { Ok(pins) } else { Pins::transient(&setup.pin_directory).map(Arc::new) };
        let mut kernel = kernel(setup, pins)?;
        kernel.slots = slots;
        kernel.go_on_from(before);
        let mut grown = Self::load(kernel, setup)?;
        for (signal, before) in std::mem::take(&mut self.signals) {
            let running = grown.signals.iter_mut().find(|(running, _)| running.name == signal.name);
            if let (Some((_, running)), Some(kept)) = (running, before.hand_over()) {
                running.go_on_with(kept);
            }
        }
        // It is the same clock, also where none is kept for the next process.
        std::mem::swap(&mut self.clock, &mut grown.clock);
        let from = self.cgroups.slots();
        info!(slots, from, "more slots for cgroups; all counters go on");
        for (before, state) in self.states.iter().zip(&grown.states) {
            if let (None, Some(why)) = (&before.off, &state.off) {
                warn!(signal = state.signal.name, why, "not measuring any more");
            }
        }
        *self = grown;
        Ok(())
    }

    /// Ends a signal that counts, and leaves nothing of it. It is then as one that the configuration switches off.
    ///
    /// # Errors
    /// When bpffs refuses.
    pub(super) fn give_up(&mut self, name: &str) -> Result<(), PinError> {
        let is_it = |(signal, _): &mut (&Signal, Box<dyn ActiveSignal>)| signal.name == name;
        let ended: Vec<_> = self.signals.extract_if(.., is_it).collect();
        if ended.is_empty() {
            // It could not be started anyway.
            return Ok(());
        }
        if let Some(state) = self.states.iter_mut().find(|state| state.signal.name == name) {
            (state.off, state.wanted) = (Some(GIVEN_UP.to_owned()), false);
        }
        self.settled.forget(name)
    }

    /// Starts a signal that was given up: it counts from now on.
    ///
    /// # Errors
    /// When it cannot be started; it is off then, with the reason.
    pub(super) fn start_again(&mut self, setup: &Setup, name: &str) -> Result<(), StartError> {
        let Some(state) =
            self.states.iter_mut().find(|state| state.signal.name == name && state.off.as_deref() == Some(GIVEN_UP))
        else {
            return Ok(());
        };
        state.wanted = true;
        let own = Arc::clone(&self.settled.pins);
        let pins = || if setup.pin { Ok(own) } else { Pins::transient(&setup.pin_directory).map(Arc::new) };
        let mut kernel = kernel(setup, pins)?;
        kernel.slots = self.cgroups.slots();
        kernel.start_beside(&self.settled);
        match (state.signal.start)(&mut kernel, &self.cgroups, &setup.signals) {
            Ok(started) => {
                state.off = None;
                // In the order of the registry, as at the start.
                let place = |signal: &Signal| signals::ALL.iter().position(|one| one.name == signal.name);
                let at = self.signals.iter().position(|(signal, _)| place(signal) > place(state.signal));
                self.signals.insert(at.unwrap_or(self.signals.len()), (state.signal, started));
            }
            Err(error) => {
                let why = chain(&*error);
                warn!(signal = name, why, "not measuring any more");
                state.off = Some(why);
                kernel.forget(name)?;
            }
        }
        Ok(kernel.settle_beside(&mut self.settled)?)
    }

    fn load(mut kernel: Kernel, setup: &Setup) -> Result<Self, StartError> {
        let mut cgroups = Cgroups::start(&mut kernel, setup.root.clone(), setup.kubelets)?;
        let (mut running, mut states) = (Vec::new(), Vec::new());
        for signal in signals::ALL {
            let given_up = setup.given_up.contains(&signal.name);
            let wanted = !given_up && !setup.signals.off.contains(&signal.name);
            let off = if given_up {
                Some(GIVEN_UP.to_owned())
            } else if !wanted {
                Some("switched off by the configuration".to_owned())
            } else if let Some(missing) = (signal.missing)(&kernel.btf) {
                Some(missing)
            } else if let Some(right) =
                signal.capability.filter(|right| setup.lacking.iter().any(|lacks| lacks.name == right.name))
            {
                Some(format!("{} is missing, which it takes to {}", right.name, right.purpose))
            } else {
                match (signal.start)(&mut kernel, &cgroups, &setup.signals) {
                    Ok(started) => {
                        running.push((signal, started));
                        None
                    }
                    Err(error) => {
                        // Of what is off nothing may go on, nor be there for a signal that hangs on it.
                        kernel.forget(signal.name)?;
                        Some(chain(&*error))
                    }
                }
            };
            states.push(SignalStatus { signal, off, wanted });
        }
        if running.is_empty() {
            return Err(StartError::NoSignal);
        }
        cgroups.counting_begins()?;
        let clock = kernel.clock()?;
        let settled = kernel.settle()?;
        Ok(Self { cgroups, signals: running, states, clock, settled })
    }
}

fn kernel(setup: &Setup, pins: impl FnOnce() -> Result<Arc<Pins>, PinError>) -> Result<Kernel, StartError> {
    let tracepoints: Vec<&str> =
        cgroups::TRACEPOINTS.into_iter().chain(signals::ALL.iter().flat_map(|s| s.tracepoints).copied()).collect();
    let mut kernel = Kernel::open(&setup.pin_directory, pins, &tracepoints, setup.root.clone(), setup.leave_out.clone())?;
    if setup.kernel_log {
        kernel.switch_log_on();
    }
    Ok(kernel)
}
