//! The keys of where else than with the metrics something goes: `export.logs` and `export.traces`. Each that is not set has the value of
//! the key of the same name in `export`.

use super::{Key, Value};
use crate::config::export::{compression, endpoint, protocol};
use crate::config::receiver_name;
use crate::config::value::{file, headers, milliseconds, store, timeout};

/// The keys of a section of `export`, and OpenTelemetry's variables for that signal.
macro_rules! destination {
    ($section:literal, $signal:literal, $what:literal, $endpoint:literal) => {
        [
            Key::new(concat!("export.", $section, ".endpoint"), None, $endpoint, endpoint)
                .example("http://localhost:4317")
                .aliases(&[(concat!("OTEL_EXPORTER_OTLP_", $signal, "_ENDPOINT"), Value::Signal)]),
            Key::new(concat!("export.", $section, ".protocol"), None, concat!("As export.protocol, for ", $what, "."), protocol)
                .example("grpc")
                .aliases(&[(concat!("OTEL_EXPORTER_OTLP_", $signal, "_PROTOCOL"), Value::Text)]),
            Key::new(
                concat!("export.", $section, ".headers"),
                None,
                concat!("As export.headers, for ", $what, ", and instead of those."),
                |l, v| store(&mut l.destination().headers.0, headers(v)?),
            )
            .example("{authorization: Bearer secret}")
            .aliases(&[(concat!("OTEL_EXPORTER_OTLP_", $signal, "_HEADERS"), Value::Text)]),
            Key::new(
                concat!("export.", $section, ".headers_file"),
                None,
                concat!("As export.headers_file, for ", $what, "."),
                |l, v| store(&mut l.destination().headers_file, file(v)?),
            )
            .example("/etc/podmeter/headers"),
            Key::new(
                concat!("export.", $section, ".token_file"),
                None,
                concat!("As export.token_file, for ", $what, "."),
                |l, v| store(&mut l.destination().token_file, file(v)?),
            )
            .example("/etc/podmeter/token"),
            Key::new(
                concat!("export.", $section, ".compression"),
                None,
                concat!("As export.compression, for ", $what, "."),
                compression,
            )
            .example("gzip")
            .aliases(&[(concat!("OTEL_EXPORTER_OTLP_", $signal, "_COMPRESSION"), Value::Text)]),
            Key::new(concat!("export.", $section, ".timeout"), None, concat!("As export.timeout, for ", $what, "."), |l, v| {
                store(&mut l.destination().timeout, timeout(v)?)
            })
            .example("10s")
            .aliases(&[(concat!("OTEL_EXPORTER_OTLP_", $signal, "_TIMEOUT"), milliseconds)]),
            Key::new(
                concat!("export.", $section, ".certificate"),
                None,
                concat!("As export.certificate, for ", $what, "."),
                |l, v| store(&mut l.destination().certificate, file(v)?),
            )
            .example("/etc/podmeter/ca.pem")
            .aliases(&[(concat!("OTEL_EXPORTER_OTLP_", $signal, "_CERTIFICATE"), Value::Text)]),
            Key::new(
                concat!("export.", $section, ".client_certificate"),
                None,
                concat!("As export.client_certificate, for ", $what, "."),
                |l, v| store(&mut l.destination().client_certificate, file(v)?),
            )
            .example("/etc/podmeter/client.pem")
            .aliases(&[(concat!("OTEL_EXPORTER_OTLP_", $signal, "_CLIENT_CERTIFICATE"), Value::Text)]),
            Key::new(
                concat!("export.", $section, ".client_key"),
                None,
                concat!("As export.client_key, for ", $what, "."),
                |l, v| store(&mut l.destination().client_key, file(v)?),
            )
            .example("/etc/podmeter/client-key.pem")
            .aliases(&[(concat!("OTEL_EXPORTER_OTLP_", $signal, "_CLIENT_KEY"), Value::Text)]),
        ]
    };
}

pub(super) const ALSO: &[Key] = &[Key::new(
    receiver_name::SECTION,
    None,
    "Further OTLP receivers by name, at most 8. Each has the keys that export.logs has, and must have an endpoint. What is not set has the \
     default of the key of the same name in export, never its value: no credential goes elsewhere. Each receiver gets all metrics and events, \
     whatever the others do: it has a queue of its own in memory, and its own place in the journal, by its name. They are used where \
     export.exporter is otlp. podmeter's own traces and logs are not sent there.",
    |_, _| Err(receiver_name::IN_FILE_ONLY.to_owned()),
)
.example("{team-a: {endpoint: \"http://victoriametrics:8428/opentelemetry\", protocol: http/protobuf, headers: {x-tenant: a}}}")
.in_file_only()];

pub(super) const LOGS: [Key; 10] = destination!(
    "logs",
    "LOGS",
    "events",
    "URL of the OTLP receiver of events, such as OOM kills. With http/protobuf, /v1/logs is appended to it unless it ends so; \
     OTEL_EXPORTER_OTLP_LOGS_ENDPOINT is used as it is. Each key of export.logs that is not set has the value of the key of the same name \
     in export, but never that of an OTEL_EXPORTER_OTLP_METRICS_ variable: with an address for metrics only, events are not sent."
);

pub(super) const TRACES: [Key; 10] = destination!(
    "traces",
    "TRACES",
    "traces",
    "URL of the OTLP receiver of podmeter's own traces (telemetry.traces). With http/protobuf, /v1/traces is appended to it unless it ends \
     so; OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is used as it is. Keys of export.traces that are not set follow the rule of export.logs."
);
