//! From the kernel to batches: the stages in a row, for whoever wants batches (`run` exports them, `top` shows them).

mod overhead;
mod running;
pub mod settings;
mod shed;
mod slots;

use std::{
    error::Error,
    time::{Duration, Instant},
};

use tracing::warn;

use self::{
    overhead::Meter,
    running::{Running, Setup},
    settings::PipelineSettings,
    slots::SlotRange,
};
use crate::{
    aggregate::{Aggregate, Batch, PodsNow},
    causes::chain,
    cgroups::{CgroupError, legacy, name::Kubelets},
    kernel::{
        capabilities, descriptors, facts,
        load::LoadError,
        mounts::{self, MountError},
    },
    metric::{Point, Value},
    overhead::Step,
    pods::SharedIndex,
    signals::{Readings, Signal, agent},
    span,
};

/// Time until more slots are tried for again where the kernel had none.
const GROW_AGAIN: Duration = Duration::from_secs(600);

/// Why counting cannot begin: something that a person must change.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Not enough rights.
    #[error(
        "podmeter lacks {}: run it as root, or give its container these capabilities",
        .0.iter().map(|c| format!("{} (to {})", c.name, c.purpose)).collect::<Vec<_>>().join(" and ")
    )]
    Capabilities(Vec<&'static capabilities::Capability>),
    /// The process's rights are unknown.
    #[error("could not read this process's capabilities")]
    Status(#[source] std::io::Error),
    /// A file system is missing.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The kernel lacks what everything needs.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The cgroups cannot be followed.
    #[error(transparent)]
    Cgroups(#[from] CgroupError),
    /// Nothing is left to measure.
    #[error("no signal can run on this kernel: see `podmeter check`")]
    NoSignal,
}

impl StartError {
    /// Whether another agent runs.
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::Load(LoadError::Pin(error)) if error.is_in_use())
    }
}

/// Whether a signal counts, and if not, why.
#[derive(Debug)]
pub struct SignalStatus {
    /// The signal.
    pub signal: &'static Signal,
    /// Why it is off; `None` when it counts.
    pub off: Option<String>,
    /// Whether the configuration has it on.
    pub wanted: bool,
}

impl SignalStatus {
    /// `None` for a signal that the configuration switches off, which is no fault.
    fn point(&self) -> Option<Point> {
        let point = Point::new(&agent::SIGNAL_ACTIVE, 0, Value::Int(self.off.is_none().into()));
        self.wanted.then(|| point.with("signal", self.signal.name))
    }
}

/// The stages, running.
pub struct Pipeline {
    setup: Setup,
    running: Running,
    aggregate: Aggregate,
    pods: Option<SharedIndex>,
    /// What the node may hold, cgroups, as far as Kubernetes says.
    when_full: u32,
    /// Until when no more slots are tried for.
    grown_until: Option<Instant>,
    /// CLOCK_BOOTTIME in ns.
    started_ns: u64,
    /// Revision of the addresses that the signals have learnt.
    addresses_revision: Option<u64>,
    exported_before_ns: u64,
    /// What all of it costs.
    meter: Meter,
    /// What was given up and is done again since the last collection.
    resumed: Vec<Step>,
}

impl Pipeline {
    /// Loads and attaches everything that this kernel allows and the settings want.
    ///
    /// # Errors
    /// For what a person must fix. A signal that this kernel cannot run is off, with its reason among the states.
    pub fn start(settings: PipelineSettings) -> Result<Self, StartError> {
        let started_ns = facts::boottime_ns();
        let lacking = capabilities::missing().map_err(StartError::Status)?;
        let missing: Vec<_> = lacking.iter().copied().filter(|right| capabilities::is_for_all(right)).collect();
        if !missing.is_empty() {
            return Err(StartError::Capabilities(missing));
        }
        capabilities::lift_memlock_limit();
        descriptors::raise_limit();
        let root = match settings.cgroups.root.clone() {
            Some(root) => root,
            None => mounts::cgroup2()?,
        };
        let (dns_names, interval) = (settings.signals.dns.top_names > 0, settings.interval);
        let setup = Setup {
            root,
            given_up: Vec::new(),
            pin_directory: settings.pin_directory,
            pin: settings.pin,
            leave_out: settings.leave_out,
            kernel_log: settings.kernel_log,
            kubelets: if settings.pods.is_some() { Kubelets::OfTheNode } else { Kubelets::Any },
            signals: settings.signals,
            slots: SlotRange::of(&settings.cgroups),
            lacking,
        };
        let running = Running::start(&setup)?;
        let steps = overhead::steps(&running, dns_names, interval);
        Ok(Self {
            started_ns,
            exported_before_ns: running.cgroups.exported_ns().unwrap_or(started_ns),
            setup,
            running,
            aggregate: Aggregate::new(settings.node),
            pods: settings.pods,
            when_full: 0,
            grown_until: None,
            addresses_revision: None,
            meter: Meter::new(&settings.overhead, steps),
            resumed: Vec::new(),
        })
    }

    /// Until when an earlier process exported what is counted here, CLOCK_BOOTTIME in ns; where none did, the start of this one.
    pub fn exported_before_ns(&self) -> u64 {
        self.exported_before_ns
    }

    /// A batch of that time, CLOCK_BOOTTIME in ns, is exported: the next process goes on from there.
    pub fn exported(&self, time_ns: u64) {
        self.running.cgroups.set_exported_ns(time_ns);
    }

    /// Which signals count, and why the others do not.
    pub fn states(&self) -> &[SignalStatus] {
        &self.running.states
    }

    /// What a signal that counts does without on this kernel, and why. Some know only after the first collection.
    pub fn note(&self, signal: &Signal) -> Option<String> {
        self.running.signals.iter().find(|(running, _)| running.name == signal.name)?.1.note()
    }

    /// Which containers are not measured since cgroup2 has none of their processes, in one sentence. Looks at all hierarchies: for once.
    pub fn containers_elsewhere(&self) -> Option<String> {
        legacy::only_in_v1(&mounts::cgroup1(), self.running.cgroups.root()).map(|only| only.to_string())
    }

    /// Why pods are not followed at the moment, in one sentence.
    pub fn pods_trouble(&self) -> Option<String> {
        let known = self.pods.as_ref()?.snapshot();
        known.stats.trouble().map(|trouble| trouble.reason.to_string())
    }

    /// What is to be done every second: births, deaths, windows.
    ///
    /// # Errors
    /// When the kernel refuses something that it allowed before; the next tick tries again.
    pub fn tick(&mut self) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.running.cgroups.refresh();
        // Errors are returned at the end: slots must be given back all the same.
        let mut ticked = self.learn();
        for (_, signal) in &mut self.running.signals {
            ticked = signal.tick(&self.running.cgroups).and(ticked);
            self.aggregate.note(signal.events(), self.running.cgroups.table());
        }
        // Closed a tick ago: nothing was added since.
        for slot in self.running.cgroups.closed() {
            let Some(cgroup) = self.running.cgroups.table().get(slot).cloned() else { continue };
            let points = self.running.signals.iter_mut().flat_map(|(_, signal)| signal.retire(&cgroup)).collect();
            self.aggregate.retire(&cgroup, points);
            self.running.cgroups.release(slot)?;
        }
        self.running.cgroups.close()?;
        self.grow();
        self.keep_within_limit();
        self.running.settled.log();
        ticked
    }

    /// Sees to it that the node's cgroups find slots.
    fn grow(&mut self) {
        let cgroups = &self.running.cgroups;
        let next = self.setup.slots.next(cgroups.slots(), cgroups.taken(), cgroups.lacks_slots(), self.when_full);
        let Some(slots) = next.filter(|_| self.grown_until.is_none_or(|until| Instant::now() >= until)) else { return };
        if let Err(error) = self.running.grow(&self.setup, slots) {
            let why = chain(&error);
            warn!(slots, why, "could not make more slots for cgroups; trying again in {GROW_AGAIN:?}");
            self.grown_until = Some(Instant::now() + GROW_AGAIN);
        }
        // The signals are new.
        self.addresses_revision = None;
        self.tell_all_signals();
    }

    /// Passes the addresses that Kubernetes has on to the signals, when they have changed.
    fn learn(&mut self) -> Result<(), Box<dyn Error + Send + Sync>> {
        let Some(index) = self.pods.as_ref().map(SharedIndex::snapshot) else { return Ok(()) };
        let revision = index.addresses_revision().filter(|revision| self.addresses_revision != Some(*revision));
        let Some(addresses) = revision.and_then(|_| index.addresses()) else { return Ok(()) };
        self.running.signals.iter_mut().try_for_each(|(_, signal)| signal.learn(&addresses, &self.running.cgroups))?;
        self.addresses_revision = revision;
        Ok(())
    }

    /// From now on nothing waits for its name: the next collection is the last, or people look.
    pub fn wait_no_longer(&mut self) {
        self.aggregate.wait_no_longer();
    }

    /// Everything known now. A signal that cannot be read is left out and is in `failed`.
    pub fn collect(&mut self, mut failed: impl FnMut(&'static str, &(dyn Error + 'static))) -> Batch {
        self.running.cgroups.refresh();
        self.running.cgroups.learn_controllers();
        for (signal, running) in &mut self.running.signals {
            if let Err(error) = running.begin(&mut self.running.cgroups) {
                failed(signal.name, &*error);
            }
        }
        // Before the readings: what is exported as of this moment has no less than was there then.
        let now_ns = facts::boottime_ns();
        let ready: Vec<_> =
            self.running.signals.iter_mut().map(|(_, running)| running.before_walk(&self.running.cgroups)).collect();
        let began = Instant::now();
        let work = span::work("walk");
        self.running.cgroups.walk();
        drop(work);
        let took = Value::Float(began.elapsed().as_secs_f64());
        let mut readings = Vec::with_capacity(self.running.signals.len());
        let mut own: Vec<Point> = self.running.states.iter().filter_map(SignalStatus::point).collect();
        own.push(Point::new(&agent::READ_TIME, 0, took).with("signal", "walk"));
        for ((signal, running), ready) in self.running.signals.iter_mut().zip(ready) {
            let began = Instant::now();
            let work = span::work("read");
            work.set("podmeter.signal", signal.name);
            match ready.and_then(|()| running.collect(now_ns, &self.running.cgroups)) {
                Ok(reading) => {
                    let took = Value::Float(began.elapsed().as_secs_f64());
                    own.push(Point::new(&agent::READ_TIME, 0, took).with("signal", signal.name));
                    work.set("podmeter.cgroups", reading.cgroups.len() as i64);
                    readings.push(reading);
                }
                Err(error) => {
                    work.failed(&chain(&*error));
                    failed(signal.name, &*error);
                }
            }
        }
        readings.iter_mut().for_each(|reading| self.thin(reading));
        own.extend(self.meter.points());
        readings.push(Readings { node: own, ..Readings::default() });
        // A moment's: the source goes on while the batch is made of it.
        let known = self.pods.as_ref().map(SharedIndex::snapshot);
        let pods = known.as_deref().and_then(|known| known.node()?.pods);
        self.when_full = pods
            .map_or(0, |pods| slots::when_full(u32::try_from(pods.bytes()).unwrap_or(u32::MAX), self.running.cgroups.table()));
        let offset = self.running.clock.offset();
        let names = known.as_deref().map(|known| PodsNow {
            index: known,
            since_ns: self.started_ns,
            now_ns: facts::boottime_ns(),
            now: Instant::now(),
            offset,
        });
        let _work = span::work("join");
        Batch { offset, ..self.aggregate.batch(now_ns, readings, self.running.cgroups.table(), names) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_the_configuration_switches_off_is_not_told_as_one_that_fails() {
        let state =
            |off: Option<&str>, wanted| SignalStatus { signal: &crate::signals::ALL[0], off: off.map(str::to_owned), wanted };
        let value = |state: SignalStatus| state.point().map(|point| point.value);
        assert_eq!(value(state(None, true)), Some(Value::Int(1)));
        assert_eq!(value(state(Some("no such hook"), true)), Some(Value::Int(0)));
        assert_eq!(value(state(Some("switched off by the configuration"), false)), None);
    }
}
