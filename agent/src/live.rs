//! Where the terminal's views come from: a pipeline of its own, and Kubernetes' names where it is known.

pub mod names;

use std::{
    error::Error,
    thread,
    time::{Duration, Instant},
};

use self::names::Names;
use crate::{
    interrupt::Interrupt,
    kernel::facts,
    pipeline::{Pipeline, StartError, settings::PipelineSettings},
    top::{
        Source, TICK,
        view::{SignalState, View},
        views::Views,
    },
};

/// How long a signal may wait.
const PATIENCE: Duration = Duration::from_millis(100);

/// Views of this node.
pub struct Live {
    pipeline: Pipeline,
    views: Views,
    names: Option<Names>,
}

impl Live {
    /// Begins to measure. A view has the names that are known by then; nothing waits for more.
    ///
    /// # Errors
    /// When this kernel or these permissions do not allow it.
    pub fn start(settings: PipelineSettings, names: Option<Names>) -> Result<Self, StartError> {
        let name = settings.node.name.clone();
        let cpus = facts::online_cpus().map_or(0, |cpus| cpus.len());
        let pods = names.as_ref().map(Names::shared);
        let mut pipeline = Pipeline::start(PipelineSettings { pods, ..settings })?;
        pipeline.wait_no_longer();
        let mut live = Self { pipeline, views: Views::new(name, cpus as f64), names };
        // What the first view is compared with.
        let _ = live.look();
        Ok(live)
    }

    /// One interval from now; `None` where a signal came before its end.
    ///
    /// # Errors
    /// When the kernel can no longer be read.
    pub fn once(mut self, interval: Duration, interrupt: &Interrupt) -> Result<Option<View>, Box<dyn Error + Send + Sync>> {
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

    /// What is measured, and where names come from.
    fn complete(&self, view: &mut View) {
        view.signals = self
            .pipeline
            .states()
            .iter()
            .map(|state| {
                let (reason, note) = (state.off.clone(), self.pipeline.note(state.signal));
                SignalState { name: state.signal.name.to_owned(), on: reason.is_none(), reason, note }
            })
            .collect();
        view.kubernetes = self.names.as_ref().map(Names::state);
    }

    fn look(&mut self) -> Result<View, Box<dyn Error + Send + Sync>> {
        let mut failure = None;
        let batch = self.pipeline.collect(|signal, error| failure = Some(format!("could not read {signal}: {error}")));
        match failure {
            Some(failure) => Err(failure.into()),
            None => {
                let mut view = self.views.next(&batch);
                self.complete(&mut view);
                Ok(view)
            }
        }
    }
}

impl Source for Live {
    fn tick(&mut self) {
        // Windows must be read before their log wraps. What fails here fails in the next look too.
        let _ = self.pipeline.tick();
    }

    fn next(&mut self) -> Result<View, Box<dyn Error + Send + Sync>> {
        self.pipeline.tick()?;
        self.look()
    }
}
