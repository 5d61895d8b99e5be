//! `podmeter run`: wires the stages. One thread collects and encodes; the runtime ships what it queued and answers probes.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::SocketAddr,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use tracing::{error, info, warn};

use crate::{
    budget::Budget,
    causes::chain,
    config::{Config, Exporter},
    export::{
        self, ExportError,
        delta::Delta,
        series::Series,
        ship::{Queue, Shipper},
    },
    health::{self, Collected, Health},
    kernel::{facts, sys},
    pipeline::{
        Pipeline, StartError,
        settings::{PipelineSettings, follow_settings},
    },
    pods::{self, ApiError},
    pull::Pull,
    rate_limit::{RateLimit, times},
    span,
    telemetry::Telemetry,
};

/// Time between two ticks of the collector.
const TICK: Duration = Duration::from_secs(1);

/// At most so many lines in a minute about what cannot be read of each signal, and of the cgroups.
const FAILURES: u32 = 5;

/// The most that sending podmeter's own telemetry takes at the end.
const FLUSH: Duration = Duration::from_secs(1);

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Counting cannot begin.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The export cannot begin.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// Kubernetes cannot be followed.
    #[error(transparent)]
    Pods(#[from] ApiError),
    /// The health endpoints' address.
    #[error("could not listen on {address} for /healthz, /readyz and /metrics: set `listen` to a free address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The kernel's error.
        #[source]
        source: std::io::Error,
    },
    /// The runtime, a thread or a signal handler could not be made.
    #[error("could not start {what}")]
    System {
        /// What it was.
        what: &'static str,
        /// The kernel's error.
        #[source]
        source: std::io::Error,
    },
    /// A bug: the collecting thread ended by itself.
    #[error("the collector ended unexpectedly; this is a bug")]
    CollectorEnded,
}

impl RunError {
    /// As the module of the command line lists them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Start(error) if error.is_in_use() => 4,
            Self::Start(_) => 3,
            Self::Export(_) | Self::Pods(_) => 2,
            Self::Listen { .. } | Self::System { .. } | Self::CollectorEnded => 1,
        }
    }
}

/// The runtime of all that waits for others.
///
/// # Errors
/// When the kernel refuses.
pub fn runtime() -> Result<Runtime, RunError> {
    sys::share_one_heap();
    let failed = |source| RunError::System { what: "the runtime", source };
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)
}

/// Measures and exports until SIGTERM or SIGINT. `telemetry` sends on `runtime`.
///
/// # Errors
/// When it cannot start.
pub fn run(config: &Config, runtime: Runtime, telemetry: Telemetry) -> Result<(), RunError> {
    let ended = runtime.block_on(async {
        let ended = measure(config).await;
        if let Some(failure) = ended.as_ref().err().filter(|_| telemetry.sends_logs()) {
            // For who has only the lines that were sent: the process says it on stderr by itself.
            error!("{}", chain(failure));
        }
        // It waits for what this thread sends meanwhile.
        let sent = tokio::task::spawn_blocking(move || telemetry.shutdown(FLUSH));
        let _ = tokio::time::timeout(FLUSH, sent).await;
        ended
    });
    // A name look-up or a write to stdout that hangs must not hold up the end.
    runtime.shutdown_background();
    ended
}

/// As [`run`], but for the telemetry.
async fn measure(config: &Config) -> Result<(), RunError> {
    let system = |what| move |source| RunError::System { what, source };
    let mut terminate = signal(SignalKind::terminate()).map_err(system("waiting for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("waiting for SIGINT"))?;
    let shipper = Shipper::new(&config.export)?;
    if config.export.exporter == Exporter::Otlp && config.export.logs.is_none() {
        let to = if config.export.also.is_empty() { "" } else { " to export.endpoint" };
        info!("events, such as OOM kills, are not sent{to}: there is an address for metrics only; set export.logs.endpoint");
    }
    let listener = health::bind(config.listen).await.map_err(|source| RunError::Listen { address: config.listen, source })?;

    let pods = match follow_settings(config) {
        Some(settings) => Some(pods::follow(settings).await?),
        None => None,
    };
    let pipeline = Pipeline::start(PipelineSettings { pods, ..PipelineSettings::exported(config) })?;
    for state in pipeline.states() {
        match &state.off {
            None => info!(signal = state.signal.name, "measuring"),
            Some(why) => warn!(signal = state.signal.name, why, "not measuring"),
        }
    }
    if let Some(why) = pipeline.containers_elsewhere() {
        warn!(why, "containers are not measured");
    }
    let started_ns = facts::boottime_ns();
    let states = pipeline.states().iter();
    let health = Arc::new(Health::new(states.map(|state| (state.signal.name, state.off.clone()))));
    let pull = config.export.pull.then(|| Arc::new(Pull::new(config.interval, config.export.attribute_bytes)));
    tokio::spawn(health::serve(listener, Arc::clone(&health), pull.clone()));

    let (stop, stopped) = mpsc::channel();
    let (ending, mut ended) = oneshot::channel();
    let queue = shipper.queue();
    let failing = Failing { now: Vec::new(), limit: RateLimit::new(FAILURES, Duration::from_secs(60)), said: false };
    let series = Series::new(pipeline.exported_before_ns());
    let delta = config.export.delta.then(Delta::default);
    let budget = Budget::new(config.budget.clone(), pipeline.exported_before_ns());
    let (node, interval) = (config.node_name.clone(), config.interval);
    let collector = Collector { pipeline, health, node, interval, queue, pull, started_ns, budget, series, delta, failing };
    thread::Builder::new()
        .name("collector".to_owned())
        .spawn(move || {
            collector.work(&stopped);
            // No one waits any more when the time for the end is over.
            let _ = ending.send(());
        })
        .map_err(system("the collector's thread"))?;
    info!(node = config.node_name, interval = ?config.interval, version = env!("CARGO_PKG_VERSION"), "podmeter runs");

    tokio::select! {
        _ = &mut ended => return Err(RunError::CollectorEnded),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let deadline = Instant::now() + config.export.shutdown_timeout;
    info!("stopping: exporting the final values");
    // The collector answers a gone channel with its last batch and ends.
    drop(stop);
    if tokio::time::timeout_at(deadline.into(), ended).await.is_err() {
        warn!("the last export was not ready within export.shutdown_timeout, {:?}, and is lost", config.export.shutdown_timeout);
    }
    let outcomes = shipper.shutdown(deadline.saturating_duration_since(Instant::now())).await;
    for stats in outcomes.iter().filter(|stats| stats.dropped_requests + stats.failed_requests > 0) {
        warn!(
            dropped_requests = stats.dropped_requests,
            failed_requests = stats.failed_requests,
            last_error = stats.last_error,
            "some requests never reached the collector"
        );
    }
    info!(sent_requests = outcomes.iter().map(|stats| stats.sent_requests).sum::<u64>(), "stopped");
    Ok(())
}

/// The thread that reads the kernel.
struct Collector {
    pipeline: Pipeline,
    health: Arc<Health>,
    /// The node's name: see [`until_turn`].
    node: String,
    interval: Duration,
    /// Takes what was collected. Batches are encoded in this thread: one that takes long must not hold up sending.
    queue: Queue,
    /// Takes it, too, where `/metrics` is on.
    pull: Option<Arc<Pull>>,
    started_ns: u64,
    budget: Budget,
    series: Series,
    /// Where totals do not leave.
    delta: Option<Delta>,
    failing: Failing,
}

/// What failed last time: logged once, and once more when it works again, but not without end where it comes and goes.
struct Failing {
    /// Each with what could not be read.
    now: Vec<Failed>,
    limit: RateLimit<&'static str>,
    /// Whether anything was logged since all could be read.
    said: bool,
}

/// The name of what could not be read, and why.
type Failed = (&'static str, String);

impl Failing {
    /// What is to be logged now that this fails.
    fn replace(&mut self, failing: Vec<Failed>, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        for failure in failing.iter().filter(|failure| !self.now.contains(failure)) {
            if let Some(silent) = self.limit.admit(failure.0, now) {
                lines.push(format!("{}{}", failure.1, times(silent)));
            }
        }
        self.said |= !lines.is_empty();
        self.now = failing;
        lines
    }

    /// Whether to log that all can be read again.
    fn recovered(&mut self) -> bool {
        self.now.is_empty() && std::mem::take(&mut self.said)
    }
}

impl Collector {
    /// Ticks every second and collects, at once and then every interval when it is this node's turn, until `stopped`'s other end is gone;
    /// then collects a last time.
    fn work(mut self, stopped: &mpsc::Receiver<()>) {
        let mut next_tick = Instant::now();
        let mut next_collection = next_tick;
        let turn = until_turn(&self.node, self.interval, SystemTime::now());
        let mut first = true;
        loop {
            let now = Instant::now();
            let mut failing = Vec::new();
            if let Err(error) = self.pipeline.tick() {
                failing.push(("cgroups", chain(&*error)));
            }
            if now >= next_collection {
                next_collection = if first {
                    now + turn
                } else {
                    following(next_collection, self.interval * self.pipeline.intervals_apart(), now)
                };
                first = false;
                self.collect(&mut failing);
            }
            self.report(failing);
            self.health.tick();
            next_tick = following(next_tick, TICK, now).min(next_collection);
            match stopped.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                _ => break,
            }
        }
        let mut failing = Vec::new();
        self.pipeline.wait_no_longer();
        let _ = self.pipeline.tick();
        self.collect(&mut failing);
        self.report(failing);
    }

    /// Collects, and queues it together with the outcomes of the batches before.
    fn collect(&mut self, failing: &mut Vec<Failed>) {
        let work = span::work("collection");
        let mut missed = Vec::new();
        let mut batch = self.pipeline.collect(|signal, cause| missed.push((signal, chain(cause))));
        failing.extend(missed.iter().map(|(signal, cause)| (*signal, format!("could not read {signal}: {cause}"))));
        let outcomes = self.queue.outcomes();
        let pods = self.pipeline.pods_trouble();
        let mut signals = self.pipeline.states().iter().map(|state| (state.signal.name, state.off.clone()));
        let signals: &mut dyn Iterator<Item = _> = &mut signals;
        self.health.collected(Collected { signals, missed: &missed, export: &outcomes, pods, at: Instant::now() });
        batch.node.points.extend(export::own::points(&outcomes, self.started_ns));
        let anew = self.pipeline.begun_anew();
        self.series.begin_anew(&anew);
        self.budget.begin_anew(&anew);
        let doubles = {
            let _work = span::work("budget and series");
            self.budget.apply(&mut batch, missed.is_empty());
            self.series.complete(&mut batch, missed.is_empty())
        };
        work.set("podmeter.cgroups", batch.cgroups.len() as i64);
        work.set("podmeter.pods", batch.pods.len() as i64);
        if doubles > 0 {
            failing.push((
                "series",
                format!("left out {doubles} points that had the series and the moment of others; this is a bug"),
            ));
        }
        let mut pulled = None;
        if let Some(delta) = &mut self.delta {
            // Who pulls knows totals only.
            pulled = self.pull.is_some().then(|| batch.clone());
            delta.apply(&mut batch);
        }
        self.queue.enqueue(&batch);
        self.pipeline.exported(batch.time_ns);
        match &self.pull {
            Some(pull) => pull.keep(pulled.unwrap_or(batch)),
            None => drop(batch),
        }
        sys::trim_heap();
    }

    fn report(&mut self, failing: Vec<Failed>) {
        for line in self.failing.replace(failing, Instant::now()) {
            error!("{line}");
        }
        if self.failing.recovered() {
            info!("the kernel can be read again");
        }
    }
}

/// The time until it is a node's turn. Turns come every interval, of nodes with other names at other moments: agents that start at once, as in a
/// rollout or after a power cut, do not all send at once.
fn until_turn(node: &str, interval: Duration, now: SystemTime) -> Duration {
    let mut hasher = DefaultHasher::new();
    node.hash(&mut hasher);
    let every = interval.as_nanos().max(1);
    let turn = (u128::from(hasher.finish()) * every) >> u64::BITS;
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() % every;
    // Not in no time, which would be twice the same.
    let left = (turn + every - now) % every;
    Duration::from_nanos(u64::try_from(if left == 0 { every } else { left }).unwrap_or(u64::MAX))
}

/// The first instant after `now` in the row that `at` and `every` make: no catching up after a pause.
fn following(at: Instant, every: Duration, now: Instant) -> Instant {
    let behind = now.saturating_duration_since(at).as_nanos() / every.as_nanos().max(1);
    at + every * (u32::try_from(behind).unwrap_or(u32::MAX - 1) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{load::LoadError, pin::PinError};

    #[test]
    fn another_agent_has_its_own_exit_code() {
        let in_use = StartError::Load(LoadError::Pin(PinError::InUse("/sys/fs/bpf/podmeter".into())));
        assert_eq!([in_use, StartError::NoSignal].map(|error| RunError::Start(error).exit_code()), [4, 3]);
    }

    #[test]
    fn what_cannot_be_read_is_said_once_and_not_without_end_where_it_comes_and_goes() {
        let start = Instant::now();
        let mut failing = Failing { now: Vec::new(), limit: RateLimit::new(FAILURES, Duration::from_secs(60)), said: false };
        let why = |n: u32| vec![("cpu", format!("could not read cpu: {n}"))];
        assert_eq!(failing.replace(why(1), start), ["could not read cpu: 1"]);
        assert!(failing.replace(why(1), start).is_empty() && !failing.recovered());
        assert!(failing.replace(Vec::new(), start).is_empty() && failing.recovered() && !failing.recovered());
        let mut lines = 0;
        for n in 0..59 {
            let now = start + Duration::from_secs(n);
            lines += failing.replace(why(n as u32), now).len() + failing.replace(Vec::new(), now).len();
            lines += usize::from(failing.recovered());
        }
        assert_eq!(lines, 2 * (FAILURES as usize - 1), "both ends of each");
        let later = failing.replace(why(1), start + Duration::from_secs(60));
        assert_eq!(later, ["could not read cpu: 1 (55 more times since this was last logged)"]);
    }

    #[test]
    fn nodes_have_their_turns_at_moments_of_their_own_all_over_the_interval() {
        let (interval, now) = (Duration::from_secs(15), UNIX_EPOCH + Duration::from_millis(1_764_000_000_123));
        let turns: Vec<Duration> = (0..10_000).map(|n| until_turn(&format!("node-{n}"), interval, now)).collect();
        let mut by_second = [0; 15];
        turns.iter().for_each(|turn| by_second[turn.as_nanos().div_ceil(1_000_000_000) as usize - 1] += 1);
        assert!(by_second.iter().all(|nodes| (550..780).contains(nodes)), "{by_second:?}");
        // The same moment for a node, whenever its agent starts.
        let later = now + Duration::from_millis(4_321);
        let moment = |from: SystemTime| {
            (from + until_turn("a", interval, from)).duration_since(UNIX_EPOCH).unwrap().as_nanos() % 15_000_000_000
        };
        assert_eq!(moment(now), moment(later));
        let turn = until_turn("a", interval, now);
        assert_eq!(until_turn("a", interval, now + turn), interval, "not twice at once");
    }

    #[test]
    fn collections_keep_their_rhythm_and_do_not_catch_up() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let every = Duration::from_millis(100);
        assert_eq!(following(start, every, start), after(100));
        assert_eq!(following(start, every, after(99)), after(100));
        assert_eq!(following(start, every, after(100)), after(200));
        assert_eq!(following(start, every, after(1234)), after(1300));
    }
}
