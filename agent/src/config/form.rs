//! The form of a key: what each declaration in `key.rs` says of its setting.

use super::Loading;
use super::OtlpService;

/// A value as a source gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Text, also for numbers and durations.
    Text(String),
    /// A map: from a file. Elsewhere maps are text: `k=v,k2=v2`, percent-encoded.
    Pairs(Vec<(String, String)>),
    /// A URL that gets the signal's path, by the rule of `OTEL_EXPORTER_OTLP_ENDPOINT`.
    Base(String),
    /// A URL that is used as it is, by the rule of `OTEL_EXPORTER_OTLP_METRICS_ENDPOINT`.
    Signal(String),
}

/// Whether a value is valid, and if not, why.
pub(super) type Check = Result<(), String>;

/// An environment variable beside a key's own, and how its text becomes a value.
pub(super) type Alias = (&'static str, fn(String) -> Value);

/// One setting.
#[derive(Clone, Copy)]
pub(super) struct Key {
    /// Its name in the file, sections joined by dots.
    pub(super) name: &'static str,
    /// Whether it is no value but a section with names of the user's, which only a file can have.
    pub(super) in_file_only: bool,
    /// Environment variables beside `PODMETER_<NAME>`, the first that is set wins.
    pub(super) aliases: &'static [Alias],
    /// The default, as one would write it.
    pub(super) default: Option<&'static str>,
    /// A value as one would write it, where there is no default.
    pub(super) example: &'static str,
    /// What it is for, with units and range.
    pub(super) help: &'static str,
    /// Checks a value and stores it.
    pub(super) set: fn(&mut Loading, Value) -> Check,
}

impl Key {
    pub(super) const fn new(
        name: &'static str,
        default: Option<&'static str>,
        help: &'static str,
        set: fn(&mut Loading, Value) -> Check,
    ) -> Self {
        Self { name, in_file_only: false, aliases: &[], default, example: "", help, set }
    }

    pub(super) const fn example(self, example: &'static str) -> Self {
        Self { example, ..self }
    }

    pub(super) const fn in_file_only(self) -> Self {
        Self { in_file_only: true, ..self }
    }

    pub(super) const fn aliases(self, aliases: &'static [Alias]) -> Self {
        Self { aliases, ..self }
    }

    /// What a key of a destination is for.
    pub(super) fn service(&self) -> OtlpService {
        match self.name {
            name if name.starts_with("export.logs.") => OtlpService::Logs,
            name if name.starts_with("export.traces.") => OtlpService::Traces,
            _ => OtlpService::Metrics,
        }
    }

    /// The key that holds where this one, for events or traces, is not set.
    pub(super) fn general(&self) -> Option<String> {
        let of_metrics = self.service() == OtlpService::Metrics;
        (!of_metrics).then(|| format!("export.{}", self.name.rsplit('.').next().unwrap_or_default()))
    }

    /// Its own environment variable.
    pub(super) fn variable(&self) -> String {
        format!("PODMETER_{}", self.name.replace('.', "_").to_uppercase())
    }
}
