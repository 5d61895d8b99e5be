//! podmeter's telemetry about itself, by OpenTelemetry's SDK: traces of its own work, and its log lines. Off unless configured.

use std::time::Duration;

use opentelemetry::{KeyValue, global};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::{
    Resource,
    logs::{SdkLogger, SdkLoggerProvider},
    trace::SdkTracerProvider,
};
use tokio::runtime::Handle;

use crate::{
    config::Config,
    export::{ExportError, own_telemetry},
    span,
};

/// The providers; `None` for what is off.
#[derive(Debug, Default)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    logs: Option<SdkLoggerProvider>,
}

impl Telemetry {
    /// Starts what is on. Requests are sent on `runtime`.
    ///
    /// # Errors
    /// What a person must correct: the URL, a header, a certificate.
    pub fn start(config: &Config, runtime: &Handle) -> Result<Self, ExportError> {
        let mut telemetry = Self::default();
        if let Some(destination) = &config.telemetry.traces {
            let exporter = own_telemetry::spans(destination, runtime)?;
            let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource(config)).build();
            global::set_tracer_provider(provider.clone());
            span::switch_on();
            telemetry.traces = Some(provider);
        }
        if let Some(destination) = &config.telemetry.logs {
            let exporter = own_telemetry::logs(destination, runtime)?;
            let provider = SdkLoggerProvider::builder().with_batch_exporter(exporter).with_resource(resource(config)).build();
            telemetry.logs = Some(provider);
        }
        Ok(telemetry)
    }

    /// Takes log lines; `None` where they are not sent.
    pub fn bridge(&self) -> Option<OpenTelemetryTracingBridge<SdkLoggerProvider, SdkLogger>> {
        self.logs.as_ref().map(OpenTelemetryTracingBridge::new)
    }

    /// Whether log lines are sent.
    pub fn sends_logs(&self) -> bool {
        self.logs.is_some()
    }

    /// Sends what waits, for no longer than `within`. It blocks, and needs its runtime meanwhile.
    pub fn shutdown(&self, within: Duration) {
        // Failures were logged as they came, by the carrier.
        if let Some(traces) = &self.traces {
            let _ = traces.shutdown_with_timeout(within);
        }
        if let Some(logs) = &self.logs {
            let _ = logs.shutdown_with_timeout(within);
        }
    }
}

/// podmeter on this node, as the metrics' resources have it.
fn resource(config: &Config) -> Resource {
    let attribute = |key, value: &str| KeyValue::new(key, value.to_owned());
    let mut attributes = vec![
        attribute("service.name", "podmeter"),
        attribute("service.version", env!("CARGO_PKG_VERSION")),
        attribute("service.instance.id", &config.node_name),
        attribute("host.name", &config.node_name),
        attribute("k8s.node.name", &config.node_name),
    ];
    attributes.extend(config.cluster_name.as_ref().map(|name| attribute("k8s.cluster.name", name)));
    attributes.extend(config.resource.attributes.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())));
    Resource::builder_empty().with_attributes(attributes).build()
}
