//! The signals: what podmeter measures, each with its programs, its reader and its metrics.

pub mod agent;
pub mod cpu;
pub mod disk;
pub mod dns;
pub mod drops;
pub mod limits;
pub mod memory;
pub mod network;
pub mod node;
pub mod pressure;
pub mod slot_counts;
mod slot_rows;
pub mod socket;
pub mod tcp;

use std::{any::Any, error::Error};

use crate::{
    addresses::Addresses,
    cgroups::{Cgroup, Cgroups},
    config,
    event::Event,
    kernel::{capabilities::Capability, load::Kernel},
    metric::{Metric, Point},
    overhead::Step,
};

/// Every signal, in start order.
pub const ALL: &[Signal] = &[
    cpu::SIGNAL,
    memory::SIGNAL,
    pressure::SIGNAL,
    network::SIGNAL,
    dns::SIGNAL,
    tcp::SIGNAL,
    drops::SIGNAL,
    disk::SIGNAL,
    limits::SIGNAL,
    node::SIGNAL,
    agent::SIGNAL,
];

/// Why a signal cannot start, or cannot be read this time. Boxed: each signal has the errors of what it reads; no caller matches on
/// them, they are only reported.
pub type SignalError = Box<dyn Error + Send + Sync>;

/// What a signal keeps to itself; a signal knows its own.
pub type Kept = Box<dyn Any + Send>;

/// Brings a signal into the kernel, as it is configured.
pub type Start = fn(&mut Kernel, &Cgroups, &config::Signals) -> Result<Box<dyn ActiveSignal>, SignalError>;

/// The declaration of one signal.
pub struct Signal {
    /// Its name in configuration, in `podmeter check`, of its eBPF object and of its pins.
    pub name: &'static str,
    /// What it measures, in one line.
    pub help: &'static str,
    /// Tracepoints that its programs are attached to.
    pub tracepoints: &'static [&'static str],
    /// Every metric that it fills.
    pub metrics: &'static [&'static Metric],
    /// What the process must be allowed beside loading programs.
    pub capability: Option<&'static Capability>,
    /// Says what this kernel lacks for it, without loading anything.
    pub missing: fn(&crate::kernel::btf::Btf) -> Option<String>,
    /// Loads and attaches its programs.
    pub start: Start,
}

impl std::fmt::Debug for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// A signal that counts.
pub trait ActiveSignal: Send {
    /// Every second: what must not wait for a collection.
    ///
    /// # Errors
    /// When the kernel cannot be read; the next tick tries again.
    fn tick(&mut self, _cgroups: &Cgroups) -> Result<(), SignalError> {
        Ok(())
    }

    /// Before a collection: what has to be learnt once of cgroups that are new, of which more may be born meanwhile.
    ///
    /// # Errors
    /// When the kernel cannot be read; the next collection tries again.
    fn begin(&mut self, _cgroups: &mut Cgroups) -> Result<(), SignalError> {
        Ok(())
    }

    /// Right before the walk over cgroups that a collection makes: brings up to date what must not be behind it.
    ///
    /// # Errors
    /// When the kernel cannot be read: then the signal is not collected.
    fn before_walk(&mut self, _cgroups: &Cgroups) -> Result<(), SignalError> {
        Ok(())
    }

    /// After a change of what is known of addresses.
    ///
    /// # Errors
    /// When the kernel refuses; the next tick tries again.
    fn learn(&mut self, _addresses: &Addresses, _cgroups: &Cgroups) -> Result<(), SignalError> {
        Ok(())
    }

    /// The final points of a cgroup that is gone. Zeroes its records for the slot's next owner.
    fn retire(&mut self, _cgroup: &Cgroup) -> Vec<Point> {
        Vec::new()
    }

    /// A collection: the points of every cgroup, and the node's. `now_ns` is CLOCK_BOOTTIME.
    ///
    /// # Errors
    /// When the kernel cannot be read: nothing is better than wrong.
    fn collect(&mut self, now_ns: u64, cgroups: &Cgroups) -> Result<Readings, SignalError>;

    /// Events since the last call; called after every tick.
    fn events(&mut self) -> Vec<Event> {
        Vec::new()
    }

    /// What it keeps to itself of what it has counted: for one that is started once more with more slots, and goes on.
    fn hand_over(self: Box<Self>) -> Option<Kept> {
        None
    }

    /// Goes on with what the one before it has [handed over](Self::hand_over). Slots and maps have the same contents as for that one.
    fn go_on_with(&mut self, _kept: Kept) {}

    /// From now on it does without that, or does it again: what it has of it begins anew then. May be called again with the same.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn do_without(&mut self, _step: Step, _without: bool) -> Result<(), SignalError> {
        Ok(())
    }

    /// What it does without on this kernel, and why; it may change after the first collection.
    fn note(&self) -> Option<String> {
        None
    }
}

/// What one signal gives in one collection.
#[derive(Debug, Default)]
pub struct Readings {
    /// Points by slot.
    pub cgroups: Vec<(u32, Vec<Point>)>,
    /// Points of the node.
    pub node: Vec<Point>,
}
