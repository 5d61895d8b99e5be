//! The keys of `overhead`: what podmeter may cost.

use std::time::Duration;

use super::Key;
use crate::config::OverheadLimit;
use crate::config::value::{duration, store};

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "overhead.cpu",
        Some("auto"),
        "CPU time that podmeter may take, the agent and its programs in the kernel together, in percent of one core: 0.01% to 10000%. \
         Above it podmeter does without DNS names, then bursts, histograms, drops, and every second collection. auto: 2% of one core, \
         or a quarter of a percent of each of the node's CPUs where that is more. off or 0: it gives up nothing.",
        |l, v| store(&mut l.config.overhead.cpu, OverheadLimit::parse(v)?),
    ),
    Key::new(
        "overhead.window",
        Some("60s"),
        "For so long it must be above overhead.cpu on average before the next of these is given up: 2s to 3600s.",
        |l, v| store(&mut l.config.overhead.window, duration(v, Duration::from_secs(2)..=Duration::from_secs(3600))?),
    ),
    Key::new(
        "overhead.recovery",
        Some("10m"),
        "For so long it must be below 70% of overhead.cpu before the last of these is taken up again: 2s to 1d. Twice as long, up to \
         16 times, where that did not last.",
        |l, v| store(&mut l.config.overhead.recovery, duration(v, Duration::from_secs(2)..=Duration::from_secs(86_400))?),
    ),
];
