//! The keys of podmeter's telemetry about itself.

use super::{Key, Value};
use crate::config::value::{boolean, store};

/// `OTEL_TRACES_EXPORTER` and its like have the name of an exporter.
fn is_otlp(exporter: String) -> Value {
    Value::Text(match &*exporter {
        "otlp" => "true".to_owned(),
        "none" => "false".to_owned(),
        _ => exporter,
    })
}

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "telemetry.traces",
        Some("false"),
        "Send traces of podmeter's own work: each collection with what its signals, encoding and requests took. They go to \
         export.traces.endpoint. The SDK's variables, such as OTEL_TRACES_SAMPLER and OTEL_BSP_SCHEDULE_DELAY, hold. \
         OTEL_TRACES_EXPORTER may be otlp or none.",
        |l, v| store(&mut l.telemetry.traces, boolean(v)?),
    )
    .aliases(&[("OTEL_TRACES_EXPORTER", is_otlp)]),
    Key::new(
        "telemetry.logs",
        Some("false"),
        "Send podmeter's own log lines as OTLP too, as many as log.level has. They go where events go. OTEL_LOGS_EXPORTER may be otlp or \
         none.",
        |l, v| store(&mut l.telemetry.logs, boolean(v)?),
    )
    .aliases(&[("OTEL_LOGS_EXPORTER", is_otlp)]),
];
