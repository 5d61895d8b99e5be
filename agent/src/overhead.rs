//! What podmeter may cost, and what it does without while it costs more (pure): measured shares of a core in, steps out.
//!
//! A minute above the limit takes one step, ten calm minutes take one back. The pipeline measures, and carries the steps out.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::config::Overhead;

/// Of the limit, in percent: what costs less than this is calm. Between this and the limit nothing changes.
const CALM_PERCENT: f64 = 70.0;

/// Parts of a window after which the programs are sampled while podmeter is not calm.
const CLOSE_SAMPLES: u32 = 6;

/// A step back that did not last makes the next wait twice as long, up to so many times.
const MOST_PATIENCE: u32 = 16;

/// What the agent does without, in the order in which it is given up: what is missed least comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Names of DNS queries are not counted.
    DnsNames,
    /// The 100 ms windows are not read, so there are no bursts.
    Bursts,
    /// Histograms of living cgroups are not exported.
    Histograms,
    /// The programs of the drops signal are detached.
    Drops,
    /// Only every second collection is made.
    Collections,
}

impl Step {
    /// All steps, in order.
    pub const ALL: [Self; 5] = [Self::DnsNames, Self::Bursts, Self::Histograms, Self::Drops, Self::Collections];

    /// Its name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::DnsNames => "dns_names",
            Self::Bursts => "bursts",
            Self::Histograms => "histograms",
            Self::Drops => "drops",
            Self::Collections => "collections",
        }
    }
}

/// What was measured since the measurement before.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// When it ended.
    pub at: Instant,
    /// How long it was.
    pub elapsed: Duration,
    /// CPU time of the agent's process in that time.
    pub agent: Duration,
    /// Share of one core that the programs took in the sampled part of it; `None` where that is not known.
    pub programs: Option<f64>,
}

/// Shares of one core over a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// The agent's process.
    pub agent: f64,
    /// The programs, where that is known.
    pub programs: Option<f64>,
}

impl Cost {
    /// Both together.
    pub fn total(&self) -> f64 {
        self.agent + self.programs.unwrap_or(0.0)
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Do without this too.
    Take(Step),
    /// Do this again.
    Back(Step),
    /// There is nothing more to do without: reported once.
    AllTaken,
}

/// Decides what to do without.
#[derive(Debug)]
pub struct Governor {
    /// Share of one core; `None` where nothing is to be given up.
    limit: Option<f64>,
    window: Duration,
    recovery: Duration,
    /// The steps that there are here, in order; the first `taken` are taken.
    steps: Vec<Step>,
    taken: usize,
    /// Measurements of one window at most.
    measured: VecDeque<Measured>,
    /// The mean of those that there were last.
    cost: Option<Cost>,
    /// Samples are close, since the limit is near.
    close: bool,
    /// Since when every window was calm.
    calm_since: Option<Instant>,
    /// When the last step back was, and how many recoveries the next one waits.
    back_at: Option<Instant>,
    patience: u32,
    said_all: bool,
}

impl Governor {
    /// With these limits, and the steps that there are here.
    pub fn new(settings: &Overhead, cpus: u32, steps: Vec<Step>) -> Self {
        Self {
            limit: settings.cpu.share(cpus),
            window: settings.window,
            recovery: settings.recovery,
            steps,
            taken: 0,
            measured: VecDeque::new(),
            cost: None,
            close: false,
            calm_since: None,
            back_at: None,
            patience: 1,
            said_all: false,
        }
    }

    /// The limit as a share of one core.
    pub fn limit(&self) -> Option<f64> {
        self.limit
    }

    /// Time between the beginnings of two samples.
    pub fn sample_every(&self) -> Duration {
        if self.close { self.window / CLOSE_SAMPLES } else { self.window }
    }

    /// The cost over the last window; `None` before the first measurement.
    pub fn cost(&self) -> Option<Cost> {
        self.cost
    }

    fn mean(&self) -> Option<Cost> {
        let elapsed: Duration = self.measured.iter().map(|one| one.elapsed).sum();
        let agent: Duration = self.measured.iter().map(|one| one.agent).sum();
        let programs: Vec<f64> = self.measured.iter().filter_map(|one| one.programs).collect();
        let mean = (!programs.is_empty()).then(|| programs.iter().sum::<f64>() / programs.len() as f64);
        (!elapsed.is_zero()).then(|| Cost { agent: agent.as_secs_f64() / elapsed.as_secs_f64(), programs: mean })
    }

    /// Every step that there is here, and whether it is taken.
    pub fn steps(&self) -> impl Iterator<Item = (Step, bool)> {
        self.steps.iter().enumerate().map(|(number, step)| (*step, number < self.taken))
    }

    /// Whether a step is taken.
    pub fn does_without(&self, step: Step) -> bool {
        self.steps().any(|(one, taken)| one == step && taken)
    }

    /// A measurement has ended.
    pub fn measured(&mut self, one: Measured) -> Option<Change> {
        self.measured.push_back(one);
        while self.measured.len() > 1 && self.measured.iter().skip(1).map(|one| one.elapsed).sum::<Duration>() >= self.window {
            self.measured.pop_front();
        }
        self.cost = self.mean();
        let limit = self.limit?;
        let cost = self.cost?.total();
        let latest =
            Cost { agent: one.agent.as_secs_f64() / one.elapsed.as_secs_f64().max(1e-9), programs: one.programs }.total();
        let calm = limit * CALM_PERCENT / 100.0;
        if !self.close && cost.max(latest) > calm {
            // What one sample of a second says is no reason: the limit must be exceeded in a whole window of close ones.
            self.close = true;
            self.measured.clear();
            return None;
        }
        if self.measured.iter().map(|one| one.elapsed).sum::<Duration>() < self.window {
            return None;
        }
        if cost > calm {
            self.calm_since = None;
            return if cost > limit { self.over(one.at) } else { None };
        }
        self.close = false;
        self.said_all = false;
        let calm_since = *self.calm_since.get_or_insert(one.at - self.window);
        if one.at.saturating_duration_since(calm_since) < self.recovery * self.patience || self.taken == 0 {
            return None;
        }
        self.taken -= 1;
        self.back_at = Some(one.at);
        self.start_anew();
        Some(Change::Back(self.steps[self.taken]))
    }

    fn over(&mut self, now: Instant) -> Option<Change> {
        let Some(step) = self.steps.get(self.taken).copied() else {
            return (!std::mem::replace(&mut self.said_all, true)).then_some(Change::AllTaken);
        };
        // Back and over again at once: what was resumed is what costs too much.
        let lasted = self.back_at.take().map(|then| now.saturating_duration_since(then));
        self.patience = match lasted {
            Some(lasted) if lasted < self.recovery => (self.patience * 2).min(MOST_PATIENCE),
            Some(_) => 1,
            None => self.patience,
        };
        self.taken += 1;
        self.start_anew();
        Some(Change::Take(step))
    }

    /// What was measured before a step says nothing about the time after it.
    fn start_anew(&mut self) {
        self.measured.clear();
        self.calm_since = None;
        self.close = true;
    }
}

#[cfg(test)]
mod tests;
