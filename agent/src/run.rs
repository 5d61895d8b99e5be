//! `podmeter run`: wires the stages. One thread collects and encodes; the runtime ships what it queued and answers probes.

use std::{
    net::SocketAddr,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use tokio::{
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
    rate_limit::{RateLimit, times},
};

/// Time between two ticks of the collector.
const TICK: Duration = Duration::from_secs(1);

/// At most so many lines in a minute about what cannot be read of each signal, and of the cgroups.
const FAILURES: u32 = 5;

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
    #[error("could not listen on {address} for /healthz and /readyz: set `listen` to a free address")]
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

/// Measures and exports until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start.
pub fn run(config: &Config) -> Result<(), RunError> {
    sys::share_one_heap();
    let system = |what| move |source| RunError::System { what, source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("the runtime"))?;
    let ended = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(system("waiting for SIGTERM"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(system("waiting for SIGINT"))?;
        let shipper = Shipper::new(&config.export)?;
        if config.export.exporter == Exporter::Otlp && config.export.logs.is_none() {
            info!("events, such as OOM kills, are not sent: there is an address for metrics only; set export.logs.endpoint");
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
        tokio::spawn(health::serve(listener, Arc::clone(&health)));

        let (stop, stopped) = mpsc::channel();
        let (ending, mut ended) = oneshot::channel();
        let queue = shipper.queue();
        let failing = Failing { now: Vec::new(), limit: RateLimit::new(FAILURES, Duration::from_secs(60)), said: false };
        let series = Series::new(pipeline.exported_before_ns());
        let budget = Budget::new(config.budget.clone(), pipeline.exported_before_ns());
        let collector = Collector { pipeline, health, interval: config.interval, queue, started_ns, budget, series, failing };
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
            warn!(
                "the last export was not ready within export.shutdown_timeout, {:?}, and is lost",
                config.export.shutdown_timeout
            );
        }
        let stats = shipper.shutdown(deadline.saturating_duration_since(Instant::now())).await;
        if stats.dropped_requests + stats.failed_requests > 0 {
            warn!(
                dropped_requests = stats.dropped_requests,
                failed_requests = stats.failed_requests,
                last_error = stats.last_error,
                "some requests never reached the collector"
            );
        }
        info!(sent_requests = stats.sent_requests, "stopped");
        Ok(())
    });
    // A name look-up or a write to stdout that hangs must not hold up the end.
    runtime.shutdown_background();
    ended
}

/// The thread that reads the kernel.
struct Collector {
    pipeline: Pipeline,
    health: Arc<Health>,
    interval: Duration,
    /// Takes what was collected. Batches are encoded in this thread: one that takes long must not hold up sending.
    queue: Queue,
    started_ns: u64,
    budget: Budget,
    series: Series,
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
    /// Ticks every second and collects every interval, until `stopped`'s other end is gone; then collects a last time.
    fn work(mut self, stopped: &mpsc::Receiver<()>) {
        let mut next_tick = Instant::now();
        let mut next_collection = next_tick;
        loop {
            let now = Instant::now();
            let mut failing = Vec::new();
            if let Err(error) = self.pipeline.tick() {
                failing.push(("cgroups", chain(&*error)));
            }
            if now >= next_collection {
                next_collection = following(next_collection, self.interval, now);
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
        let mut missed = Vec::new();
        let mut batch = self.pipeline.collect(|signal, cause| missed.push((signal, chain(cause))));
        failing.extend(missed.iter().map(|(signal, cause)| (*signal, format!("could not read {signal}: {cause}"))));
        let (stats, of_events) = (self.queue.stats(), self.queue.event_stats());
        let pods = self.pipeline.pods_trouble();
        self.health.collected(Collected { missed: &missed, export: &stats, pods, at: Instant::now() });
        batch.node.points.extend(export::own::points(&stats, of_events.as_ref(), self.started_ns));
        self.budget.apply(&mut batch, missed.is_empty());
        let doubles = self.series.complete(&mut batch, missed.is_empty());
        if doubles > 0 {
            failing.push((
                "series",
                format!("left out {doubles} points that had the series and the moment of others; this is a bug"),
            ));
        }
        self.queue.enqueue(&batch);
        self.pipeline.exported(batch.time_ns);
        drop(batch);
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
