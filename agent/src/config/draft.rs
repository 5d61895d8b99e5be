//! A configuration while its keys are read.

use super::{Config, Destination, OtlpService, export::Endpoint};

/// A configuration in the making.
pub(super) struct Loading {
    pub(super) config: Config,
    /// Where each kind goes; in the configuration once the address is known.
    pub(super) metrics: Sent,
    pub(super) logs: Sent,
    pub(super) traces: Sent,
    /// What keys of a destination are for.
    pub(super) service: OtlpService,
    pub(super) telemetry: OwnTelemetry,
}

/// How one kind is sent.
#[derive(Default)]
pub(super) struct Sent {
    pub(super) endpoint: Option<Endpoint>,
    pub(super) destination: Destination,
}

/// What podmeter sends of itself.
#[derive(Default)]
pub(super) struct OwnTelemetry {
    pub(super) traces: bool,
    pub(super) logs: bool,
}

impl Loading {
    /// Nothing so far.
    pub(super) fn new(config: Config) -> Self {
        let (metrics, logs, traces) = Default::default();
        Self { config, metrics, logs, traces, service: OtlpService::Metrics, telemetry: OwnTelemetry::default() }
    }

    pub(super) fn sent(&mut self) -> &mut Sent {
        match self.service {
            OtlpService::Metrics => &mut self.metrics,
            OtlpService::Logs => &mut self.logs,
            OtlpService::Traces => &mut self.traces,
        }
    }

    /// What a key of a destination sets.
    pub(super) fn destination(&mut self) -> &mut Destination {
        &mut self.sent().destination
    }
}
