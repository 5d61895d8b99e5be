//! A configuration while its keys are read.

use super::{Config, Destination, export::Endpoint};

/// A configuration in the making.
pub(super) struct Loading {
    pub(super) config: Config,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) logs_endpoint: Option<Endpoint>,
    /// How events are sent; in the configuration once it is known where to.
    pub(super) logs: Destination,
    /// Whether keys of a destination are those of the events'.
    pub(super) for_logs: bool,
}

impl Loading {
    /// What a key of a destination sets.
    pub(super) fn destination(&mut self) -> &mut Destination {
        if self.for_logs { &mut self.logs } else { &mut self.config.export.metrics }
    }
}
