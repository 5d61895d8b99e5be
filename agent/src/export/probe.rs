//! One empty request to each receiver: `podmeter check --endpoint`.

use std::time::{Duration, Instant};

use super::sink::Sink;
use super::{Destination, Export, ExportError, Exporter, OtlpService};
use crate::config::Telemetry;

/// What came of a request.
#[derive(Debug)]
pub struct Probe {
    /// What such requests carry, for people.
    pub payload: &'static str,
    /// The further receiver that it went to; `None` for that of `export.endpoint`.
    pub receiver: Option<String>,
    /// Where it went, and how.
    pub target: String,
    /// From the first look-up to the last byte of the reply.
    pub took: Duration,
    /// What came back, or why nothing did and what to do about it.
    pub outcome: Result<String, String>,
}

/// Sends one empty request to each receiver: of metrics and events where they go to one, and of `telemetry`.
///
/// # Errors
/// What a person must correct in the settings.
pub async fn probe(settings: &Export, telemetry: &Telemetry) -> Result<Vec<Probe>, ExportError> {
    let mut probes = Vec::new();
    if settings.exporter == Exporter::Otlp {
        probes.push(one(&settings.metrics, OtlpService::Metrics).await?);
        if let Some(logs) = &settings.logs {
            probes.push(one(logs, OtlpService::Logs).await?);
        }
        for further in &settings.also {
            for (destination, service) in [(&further.metrics, OtlpService::Metrics), (&further.logs, OtlpService::Logs)] {
                probes.push(Probe { receiver: Some(further.name.clone()), ..one(destination, service).await? });
            }
        }
    } else if let Some(logs) = &telemetry.logs {
        probes.push(one(logs, OtlpService::Logs).await?);
    }
    if let Some(traces) = &telemetry.traces {
        probes.push(one(traces, OtlpService::Traces).await?);
    }
    Ok(probes)
}

async fn one(destination: &Destination, service: OtlpService) -> Result<Probe, ExportError> {
    let mut sink = Sink::new(destination, service)?;
    let begun = Instant::now();
    let outcome = sink.send_nothing(destination).await;
    let took = begun.elapsed();
    let outcome = match outcome {
        Ok(accepted) if accepted.message.is_empty() => Ok("an empty request was accepted".to_owned()),
        Ok(accepted) => Ok(format!("an empty request was accepted, with the message {:?}", accepted.message)),
        Err(failure) => Err(format!("{}; {}", failure.reason, failure.kind.advice())),
    };
    Ok(Probe { payload: service.name(), receiver: None, target: sink.target(), took, outcome })
}
