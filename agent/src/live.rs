//! Where the terminal's views come from: a pipeline of its own, and Kubernetes' names where it is known.

pub mod names;

use std::{
    error::Error,
    thread,
    time::{Duration, Instant},
};

use self::names::Names;
use crate::{
    kernel::facts,
    pipeline::{Pipeline, Settings, StartError},
    top::{Source, TICK, view::View, views::Views},
};

/// Views of this node.
pub struct Live {
    pipeline: Pipeline,
    views: Views,
    _names: Option<Names>,
}

impl Live {
    /// Begins to measure. A view has the names that are known by then; nothing waits for more.
    ///
    /// # Errors
    /// When this kernel or these permissions do not allow it.
    pub fn start(settings: Settings, names: Option<Names>) -> Result<Self, StartError> {
        let name = settings.node.name.clone();
        let cpus = facts::online_cpus().map_or(0, |cpus| cpus.len());
        let pods = names.as_ref().map(Names::shared);
        let mut pipeline = Pipeline::start(Settings { pods, ..settings })?;
        pipeline.wait_no_longer();
        let mut live = Self { pipeline, views: Views::new(name, cpus as f64), _names: names };
        // What the first view is compared with.
        let _ = live.look();
        Ok(live)
    }

    /// One interval from now.
    ///
    /// # Errors
    /// When the kernel can no longer be read.
    pub fn once(mut self, interval: Duration) -> Result<View, Box<dyn Error + Send + Sync>> {
        let end = Instant::now() + interval;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            thread::sleep(left.min(TICK));
            if left <= TICK {
                return self.next();
            }
            self.pipeline.tick()?;
        }
    }

    fn look(&mut self) -> Result<View, Box<dyn Error + Send + Sync>> {
        let mut failure = None;
        let batch = self.pipeline.collect(|signal, error| failure = Some(format!("could not read {signal}: {error}")));
        match failure {
            Some(failure) => Err(failure.into()),
            None => Ok(self.views.next(&batch)),
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
