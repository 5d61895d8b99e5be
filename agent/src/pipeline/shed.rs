//! Steps of `overhead.rs` carried out: what is given up ends as if the configuration switched it off, and begins anew later.

use tracing::{info, warn};

use super::Pipeline;
use crate::{
    causes::chain,
    metric::{Metric, Value},
    overhead::{Change, Step},
    signals::{Readings, cpu, dns, drops},
};

/// Why a signal is off that is given up.
pub(super) const GIVEN_UP: &str = "not measured at the moment: podmeter would cost more than overhead.cpu";

/// The signal of that step.
const DROPS: &str = "drops";

impl Pipeline {
    /// Measures what podmeter costs, and does what follows from it.
    pub(super) fn keep_within_limit(&mut self) {
        let Some(change) = self.meter.tick(&self.running.settled) else { return };
        let (cost, limit) = self.meter.in_words();
        match change {
            Change::Take(step) => {
                warn!(cost, limit, without = step.name(), "podmeter costs more than overhead.cpu: it gives up {}", what(step));
                self.carry_out(step, true);
            }
            Change::Back(step) => {
                info!(
                    cost,
                    limit,
                    again = step.name(),
                    "podmeter costs less than overhead.cpu again: it takes up {} again",
                    what(step)
                );
                self.carry_out(step, false);
                self.resumed.push(step);
            }
            Change::AllTaken => warn!(
                cost,
                limit,
                "podmeter costs more than overhead.cpu and has nothing more to give up: set a higher overhead.cpu, a longer interval, \
                 or switch signals off"
            ),
        }
        self.meter.changed();
    }

    fn carry_out(&mut self, step: Step, without: bool) {
        match step {
            Step::DnsNames | Step::Bursts => self.tell_signals(step, without),
            // The collection looks whether they are taken.
            Step::Histograms | Step::Collections => {}
            Step::Drops if without => {
                self.setup.given_up.push(DROPS);
                if let Err(error) = self.running.give_up(DROPS) {
                    warn!(why = chain(&error), "could not remove the pinned programs and maps of {DROPS}");
                }
            }
            Step::Drops => {
                self.setup.given_up.clear();
                if let Err(error) = self.running.start_again(&self.setup, DROPS) {
                    warn!(why = chain(&error), "could not start {DROPS} again; the next start of the agent tries again");
                }
            }
        }
    }

    fn tell_signals(&mut self, step: Step, without: bool) {
        for (signal, running) in &mut self.running.signals {
            if let Err(error) = running.do_without(step, without) {
                warn!(signal = signal.name, why = chain(&*error), "could not switch {}", what(step));
            }
        }
    }

    /// The signals were started once more: they do without the same.
    pub(super) fn tell_all_signals(&mut self) {
        for step in Step::ALL {
            if self.meter.does_without(step) {
                self.tell_signals(step, true);
            }
        }
    }

    /// Takes out of a reading what is given up.
    pub(super) fn thin(&self, reading: &mut Readings) {
        if self.meter.does_without(Step::Histograms) {
            for (_, points) in &mut reading.cgroups {
                points.retain(|point| !matches!(point.value, Value::Histogram(_)));
            }
        }
    }

    /// How many intervals apart collections are.
    pub fn intervals_apart(&self) -> u32 {
        if self.meter.does_without(Step::Collections) { 2 } else { 1 }
    }

    /// The counters that have begun anew since the last call. What only was not exported goes on.
    pub fn begun_anew(&mut self) -> Vec<&'static Metric> {
        let anew = |step| -> Vec<&'static Metric> {
            match step {
                Step::DnsNames => vec![&dns::metrics::NAME_QUERIES],
                Step::Bursts => vec![&cpu::metrics::BURST],
                Step::Drops => vec![&drops::DROPS, &drops::UNATTRIBUTED],
                Step::Histograms | Step::Collections => Vec::new(),
            }
        };
        std::mem::take(&mut self.resumed).into_iter().flat_map(anew).collect()
    }
}

/// What a step gives up, for people.
fn what(step: Step) -> &'static str {
    match step {
        Step::DnsNames => "the names of DNS queries",
        Step::Bursts => "bursts (CPUs used per 100 ms)",
        Step::Histograms => "the export of histograms",
        Step::Drops => "dropped packets",
        Step::Collections => "every second collection",
    }
}
