//! Takes snapshots for `podmeter top`: runs a pipeline, and follows the pods for their names where Kubernetes is configured.

pub mod pod_names;

use std::{
    error::Error,
    thread,
    time::{Duration, Instant},
};

use self::pod_names::PodNames;
use crate::{
    interrupt::Interrupt,
    kernel::facts,
    pipeline::{Pipeline, StartError, settings::PipelineSettings},
    snapshot::{
        builder::SnapshotBuilder,
        document::{SignalStatus, Snapshot},
    },
    top::{SnapshotSource, TICK},
};

/// Longest delay of the reaction to SIGINT or SIGTERM.
const PATIENCE: Duration = Duration::from_millis(100);

/// Snapshots of this node.
pub struct LiveSource {
    pipeline: Pipeline,
    snapshots: SnapshotBuilder,
    names: Option<PodNames>,
}

impl LiveSource {
    /// Begins to measure. A snapshot has the pod names that are known by then; nothing waits for more.
    ///
    /// # Errors
    /// When this kernel or these permissions do not allow it.
    pub fn start(settings: PipelineSettings, names: Option<PodNames>) -> Result<Self, StartError> {
        let name = settings.node.name.clone();
        let cpus = facts::online_cpus().map_or(0, |cpus| cpus.len());
        let pods = names.as_ref().map(PodNames::shared);
        let mut pipeline = Pipeline::start(PipelineSettings { pods, ..settings.without_limit() })?;
        pipeline.wait_no_longer();
        let mut live = Self { pipeline, snapshots: SnapshotBuilder::new(name, cpus as f64), names };
        // The rates of the first snapshot start here.
        let _ = live.take();
        Ok(live)
    }

    /// One interval from now; `None` where a signal came before its end.
    ///
    /// # Errors
    /// When the kernel can no longer be read.
    pub fn once(mut self, interval: Duration, interrupt: &Interrupt) -> Result<Option<Snapshot>, Box<dyn Error + Send + Sync>> {
        let end = Instant::now() + interval;
        let mut ticked = Instant::now();
        while !interrupt.came() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return self.next().map(Some);
            }
            if ticked.elapsed() >= TICK {
                self.pipeline.tick()?;
                ticked = Instant::now();
            }
            thread::sleep(left.min(PATIENCE));
        }
        Ok(None)
    }

    /// Adds the state of the signals and of Kubernetes.
    fn complete(&self, snapshot: &mut Snapshot) {
        snapshot.signals = self
            .pipeline
            .states()
            .iter()
            .map(|state| {
                let (reason, note) = (state.off.clone(), self.pipeline.note(state.signal));
                SignalStatus { name: state.signal.name.to_owned(), on: reason.is_none(), reason, note }
            })
            .collect();
        snapshot.kubernetes = self.names.as_ref().map(PodNames::state);
    }

    fn take(&mut self) -> Result<Snapshot, Box<dyn Error + Send + Sync>> {
        let mut failure = None;
        let batch = self.pipeline.collect(|signal, error| failure = Some(format!("could not read {signal}: {error}")));
        match failure {
            Some(failure) => Err(failure.into()),
            None => {
                let mut snapshot = self.snapshots.next(&batch);
                self.complete(&mut snapshot);
                Ok(snapshot)
            }
        }
    }
}

impl SnapshotSource for LiveSource {
    fn tick(&mut self) {
        // Windows must be read before their log wraps. What fails here fails in the next snapshot too.
        let _ = self.pipeline.tick();
    }

    fn next(&mut self) -> Result<Snapshot, Box<dyn Error + Send + Sync>> {
        self.pipeline.tick()?;
        self.take()
    }
}
