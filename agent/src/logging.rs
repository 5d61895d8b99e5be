//! Log lines: to stderr, for stdout has only what was requested, and where telemetry.logs is on as OTLP too.

use std::io::{self, IsTerminal as _};

use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::logs::{SdkLogger, SdkLoggerProvider};
use tracing::Metadata;
use tracing_subscriber::{
    Layer as _,
    filter::{EnvFilter, FilterExt as _, LevelFilter, filter_fn},
    fmt,
    layer::SubscriberExt as _,
    registry,
    util::SubscriberInitExt as _,
};

use crate::config::{LogFormat, Logging};

/// Logs from now on; to `bridge` what the SDK sends.
pub fn start(settings: &Logging, bridge: Option<OpenTelemetryTracingBridge<SdkLoggerProvider, SdkLogger>>) {
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = match settings.format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let sent = bridge.map(|bridge| bridge.with_filter(filter(&settings.level).and(filter_fn(is_own))));
    registry().with(lines.with_filter(filter(&settings.level))).with(sent).init();
}

/// What is logged. The Kubernetes client logs every request that fails, without end while the API server is away; podmeter itself logs that
/// sparingly. At level debug, or where the filter names the client, its lines are shown.
fn filter(level: &str) -> EnvFilter {
    let filter = EnvFilter::builder().parse_lossy(level);
    let asked = level.contains("kube_client") || filter.max_level_hint() > Some(LevelFilter::INFO);
    match "kube_client=off".parse() {
        Ok(directive) if !asked => filter.add_directive(directive),
        _ => filter,
    }
}

/// Whether a line is sent: those of libraries that carry the lines themselves would make new ones without end.
fn is_own(metadata: &Metadata<'_>) -> bool {
    metadata.target().split("::").next() == Some("podmeter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubernetes_client_says_nothing_unless_it_is_asked() {
        let says = |level: &str| !filter(level).to_string().contains("kube_client=off");
        assert_eq!(["info", "warn", "info,podmeter::export=debug"].map(says), [false, false, true]);
        assert_eq!(["debug", "info,kube_client=warn", "trace"].map(says), [true, true, true]);
    }
}
