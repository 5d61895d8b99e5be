//! `/healthz` and `/readyz`: what kubelet's probes ask. `/metrics`, where it is on, is `pull`'s.
//!
//! `/healthz` fails when a restart is the cure: the collector does not move. `/readyz` fails when a person must look: a signal
//! cannot be read, or nothing is exported. Its text has the reason, and the state of every signal.

mod serve;

use std::{
    fmt::Write as _,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hyper::StatusCode;

pub use self::serve::{bind, serve};
use crate::{
    export::ship::{Outcomes, Stats},
    kernel::facts,
    pull,
};

/// Without a tick for so long the collector is stuck, and a restart is the cure.
const STUCK: Duration = Duration::from_secs(30);

/// A signal that is missing in so many batches, one after the other, is missing in a dashboard.
const MISSED: u32 = 3;

/// Nothing was exported for so long, though it was tried.
const UNSENT: Duration = Duration::from_secs(600);

/// How the agent is.
#[derive(Debug, Default)]
pub struct Health {
    /// CLOCK_BOOTTIME of the last tick in ns.
    ticked_ns: AtomicU64,
    state: Mutex<HealthState>,
}

/// What is known since the last collection.
#[derive(Debug, Default)]
struct HealthState {
    collected: bool,
    signals: Vec<SignalHealth>,
    /// How exports go to each receiver.
    exports: Vec<ExportHealth>,
    /// Why pods are not followed. Their names are missing then, no figures.
    pods: Option<String>,
}

/// How a signal is.
#[derive(Debug)]
struct SignalHealth {
    name: &'static str,
    /// Why it is off.
    off: Option<String>,
    /// In how many collections in a row it could not be read.
    missed: u32,
    /// Why, the last time.
    error: String,
}

/// How exports to one receiver go.
#[derive(Debug)]
struct ExportHealth {
    /// Its name, after a word; empty where there is one only.
    to: String,
    /// Since when every attempt has failed, and why the last one did.
    unsent: Option<(Instant, String)>,
}

/// What a collection has shown.
pub struct Collected<'a> {
    /// Every signal, and why it is off.
    pub signals: &'a mut dyn Iterator<Item = (&'static str, Option<String>)>,
    /// Signals that could not be read, and why.
    pub missed: &'a [(&'static str, String)],
    /// What has become of the batches before, at each receiver.
    pub export: &'a [Outcomes],
    /// Why pods are not followed, if they are not.
    pub pods: Option<String>,
    /// When.
    pub at: Instant,
}

impl Health {
    /// Of an agent with these signals; with each, why it is off.
    pub fn new(signals: impl IntoIterator<Item = (&'static str, Option<String>)>) -> Self {
        let signals = signals.into_iter().map(|(name, off)| SignalHealth { name, off, missed: 0, error: String::new() });
        let state = HealthState { signals: signals.collect(), ..HealthState::default() };
        Self { ticked_ns: AtomicU64::new(facts::boottime_ns()), state: Mutex::new(state) }
    }

    /// The collector is alive.
    pub fn tick(&self) {
        self.ticked_ns.store(facts::boottime_ns(), Ordering::Relaxed);
    }

    /// A collection is done.
    pub fn collected(&self, collected: Collected<'_>) {
        let mut state = self.state();
        state.collected = true;
        for (name, off) in collected.signals {
            if let Some(signal) = state.signals.iter_mut().find(|signal| signal.name == name) {
                signal.off = off;
            }
        }
        for signal in &mut state.signals {
            match collected.missed.iter().find(|(name, _)| *name == signal.name) {
                Some((_, error)) => {
                    signal.missed += 1;
                    signal.error.clone_from(error);
                }
                None => signal.missed = 0,
            }
        }
        state.exports = collected.export.iter().map(|outcomes| ExportHealth::of(outcomes, collected.at)).collect();
        state.pods = collected.pods;
    }

    fn state(&self) -> MutexGuard<'_, HealthState> {
        // Values are replaced whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The status and the text for a path.
    fn answer(&self, path: &str) -> (StatusCode, String) {
        let because = |reasons: &str| match reasons {
            "" => (StatusCode::OK, "ok\n".to_owned()),
            reasons => (StatusCode::SERVICE_UNAVAILABLE, reasons.to_owned()),
        };
        match path {
            "/healthz" => because(&self.stuck()),
            "/readyz" => {
                let state = self.state();
                let (status, text) = because(&(self.stuck() + &state.unready(Instant::now())));
                (status, text + &state.details(Instant::now()))
            }
            pull::PATH => (StatusCode::NOT_FOUND, "/metrics is off; to switch it on set `export.pull: true`\n".to_owned()),
            _ => (StatusCode::NOT_FOUND, "not found; available are /healthz, /readyz, and /metrics where it is on\n".to_owned()),
        }
    }

    /// Why a restart is wanted; empty when it is not.
    fn stuck(&self) -> String {
        let silent_ns = facts::boottime_ns().saturating_sub(self.ticked_ns.load(Ordering::Relaxed));
        let silent = Duration::from_nanos(silent_ns);
        if silent < STUCK { String::new() } else { format!("the collector has been stuck for {} s\n", silent.as_secs()) }
    }
}

impl ExportHealth {
    fn of(outcomes: &Outcomes, at: Instant) -> Self {
        let Stats { failing_for, last_error, .. } = &outcomes.metrics;
        let since = failing_for.and_then(|failing| at.checked_sub(failing));
        let to = outcomes.receiver.as_ref().map(|receiver| format!(" to {receiver}")).unwrap_or_default();
        Self { to, unsent: since.map(|since| (since, last_error.clone().unwrap_or_default())) }
    }
}

impl HealthState {
    /// Why the agent is not ready, a line for each reason; empty when it is.
    fn unready(&self, now: Instant) -> String {
        if !self.collected {
            return "no collection has finished yet\n".to_owned();
        }
        let mut text = String::new();
        for SignalHealth { name, missed, error, .. } in self.signals.iter().filter(|signal| signal.missed >= MISSED) {
            let _ = writeln!(text, "signal {name} could not be read in the last {missed} collections: {error}");
        }
        for ExportHealth { to, unsent } in &self.exports {
            let Some((since, error)) = unsent else { continue };
            let unsent = now.saturating_duration_since(*since);
            if unsent >= UNSENT {
                let _ = writeln!(text, "nothing was exported{to} for {} s: {error}", unsent.as_secs());
            }
        }
        text
    }

    /// How everything is, a line for each.
    fn details(&self, now: Instant) -> String {
        let mut text = String::new();
        for SignalHealth { name, off, missed, error } in &self.signals {
            let _ = match (off, missed) {
                (Some(why), _) => writeln!(text, "signal {name}: off: {why}"),
                (None, 0) => writeln!(text, "signal {name}: on"),
                (None, missed) => writeln!(text, "signal {name}: not read in the last {missed} collections: {error}"),
            };
        }
        for ExportHealth { to, unsent } in &self.exports {
            let _ = match unsent {
                None => writeln!(text, "export{to}: on"),
                Some((since, error)) => {
                    writeln!(text, "export{to}: failing for {} s: {error}", now.saturating_duration_since(*since).as_secs())
                }
            };
        }
        if let Some(why) = &self.pods {
            let _ = writeln!(text, "pods: {why}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(health: &Health, missed: &[(&'static str, String)], export: &Stats, at: Instant) {
        let export = &[Outcomes { metrics: export.clone(), ..Outcomes::default() }];
        health.collected(Collected { signals: &mut std::iter::empty(), missed, export, pods: None, at });
    }

    #[test]
    fn ready_after_the_first_collection_and_healthy_while_it_ticks() {
        let health = Health::default();
        assert_eq!(health.answer("/readyz").0, StatusCode::SERVICE_UNAVAILABLE);
        health.tick();
        collect(&health, &[], &Stats::default(), Instant::now());
        assert_eq!((health.answer("/healthz").0, health.answer("/readyz").0), (StatusCode::OK, StatusCode::OK));
        assert_eq!(health.answer("/").0, StatusCode::NOT_FOUND);
        let long_ago = facts::boottime_ns().saturating_sub(STUCK.as_nanos() as u64 + 1);
        health.ticked_ns.store(long_ago, Ordering::Relaxed);
        assert_eq!(health.answer("/healthz").0, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn a_signal_that_cannot_be_read_for_three_collections_makes_the_agent_unready_but_not_unhealthy() {
        let health = Health::new([("cpu", None), ("tcp", Some("this kernel refuses it".to_owned()))]);
        let missed = [("cpu", "too many open files".to_owned())];
        for round in 1..=MISSED {
            collect(&health, &missed, &Stats::default(), Instant::now());
            let (status, text) = health.answer("/readyz");
            assert_eq!(status == StatusCode::OK, round < MISSED, "round {round}: {text}");
            assert!(text.contains(&format!("signal cpu: not read in the last {round} collections: too many open files\n")));
            assert!(text.contains("signal tcp: off: this kernel refuses it\n"), "off from the start is no failure: {text}");
        }
        assert!(health.answer("/readyz").1.starts_with("signal cpu could not be read in the last 3 collections: too many"));
        assert_eq!(health.answer("/healthz"), (StatusCode::OK, "ok\n".to_owned()));
        collect(&health, &[], &Stats::default(), Instant::now());
        assert_eq!(
            health.answer("/readyz"),
            (StatusCode::OK, "ok\nsignal cpu: on\nsignal tcp: off: this kernel refuses it\nexport: on\n".to_owned())
        );
    }

    #[test]
    fn exports_that_fail_for_long_make_the_agent_unready_until_one_is_taken() {
        let health = Health::new([]);
        let failing =
            |failing_for| Stats { failing_for: Some(failing_for), last_error: Some("refused".to_owned()), ..Stats::default() };
        collect(&health, &[], &failing(UNSENT / 2), Instant::now());
        let (status, text) = health.answer("/readyz");
        assert_eq!((status, &*text), (StatusCode::OK, "ok\nexport: failing for 300 s: refused\n"));
        collect(&health, &[], &failing(UNSENT), Instant::now());
        let (status, text) = health.answer("/readyz");
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(text.starts_with("nothing was exported for 600 s: refused\n"), "{text}");
        assert_eq!(health.answer("/healthz").0, StatusCode::OK, "a restart would lose the queue and help nobody");
        collect(&health, &[], &Stats::default(), Instant::now());
        assert_eq!(health.answer("/readyz").0, StatusCode::OK);
    }

    #[test]
    fn of_several_receivers_each_is_said_and_one_that_takes_nothing_makes_the_agent_unready() {
        let health = Health::new([]);
        let of = |receiver: &str, failing_for| Outcomes {
            receiver: Some(receiver.to_owned()),
            metrics: Stats { failing_for, last_error: failing_for.map(|_| "refused".to_owned()), ..Stats::default() },
            events: None,
        };
        let (missed, pods, at) = (&[], None, Instant::now());
        let export = &[of("main", None), of("team-a", Some(UNSENT))];
        health.collected(Collected { signals: &mut std::iter::empty(), missed, export, pods, at });
        let (status, text) = health.answer("/readyz");
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        let expected = "nothing was exported to team-a for 600 s: refused\nexport to main: on\nexport to team-a: failing for 600 s: refused\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn pods_that_are_not_followed_are_said_and_no_more() {
        let health = Health::new([]);
        let pods = Some("could not follow pods at https://api/: connection refused".to_owned());
        health.collected(Collected {
            signals: &mut std::iter::empty(),
            missed: &[],
            export: &[Outcomes::default()],
            pods,
            at: Instant::now(),
        });
        let (status, text) = health.answer("/readyz");
        assert_eq!(status, StatusCode::OK);
        assert!(text.ends_with("pods: could not follow pods at https://api/: connection refused\n"), "{text}");
    }
}
