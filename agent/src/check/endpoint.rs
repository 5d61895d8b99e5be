//! `podmeter check --endpoint`: whether the receivers take what the configuration sends.

use std::{fmt::Write as _, time::Duration};

use serde_json::json;

use crate::{
    config::{Config, Exporter},
    export::probe::{Probe, probe},
    run::{self, RunError},
};

/// What came of one empty request to each receiver.
#[derive(Debug)]
pub struct EndpointReport {
    probes: Vec<Probe>,
    /// What is not sent, and why.
    note: Option<&'static str>,
}

/// Sends one empty request to each receiver.
///
/// # Errors
/// When a person must correct a setting.
pub fn check(config: &Config) -> Result<EndpointReport, RunError> {
    let runtime = run::runtime()?;
    let probes = runtime.block_on(probe(&config.export, &config.telemetry))?;
    // A name look-up that hangs must not hold up the end.
    runtime.shutdown_background();
    let note = match (config.export.exporter, &config.export.logs) {
        (Exporter::Otlp, None) if config.export.also.is_empty() => {
            Some("events are not sent: there is an address for metrics only; set export.logs.endpoint")
        }
        (Exporter::Otlp, None) => {
            Some("events are not sent to export.endpoint, which is an address for metrics only; set export.logs.endpoint")
        }
        (Exporter::Otlp, Some(_)) => None,
        (Exporter::Stdout | Exporter::None, _) => Some("no metrics are sent to a receiver: export.exporter is not otlp"),
    };
    Ok(EndpointReport { probes, note })
}

fn ms(took: Duration) -> u128 {
    took.as_millis()
}

impl EndpointReport {
    /// Whether all were accepted.
    pub fn is_well(&self) -> bool {
        self.probes.iter().all(|probe| probe.outcome.is_ok())
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::from("configuration ok\n");
        for Probe { payload, receiver, target, took, outcome } in &self.probes {
            let (mark, what) = match outcome {
                Ok(what) => ("ok", what),
                Err(why) => ("FAILED", why),
            };
            let name = receiver.as_ref().map(|receiver| format!(" ({receiver})")).unwrap_or_default();
            let _ = writeln!(text, "{payload:<13} {mark:<8} {target}{name}, after {} ms: {what}", ms(*took));
        }
        if let Some(note) = self.note {
            let _ = writeln!(text, "{note}");
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> String {
        let endpoints = self.probes.iter().map(|Probe { payload, receiver, target, took, outcome }| {
            let (ok, detail) = match outcome {
                Ok(what) => (true, what),
                Err(why) => (false, why),
            };
            let mut endpoint =
                json!({ "payload": payload, "target": target, "ok": ok, "seconds": took.as_secs_f64(), "detail": detail });
            if let Some(receiver) = receiver {
                endpoint["receiver"] = receiver.as_str().into();
            }
            endpoint
        });
        let mut document = json!({
            "schema": 1,
            "podmeter": env!("CARGO_PKG_VERSION"),
            "endpoints": endpoints.collect::<Vec<_>>(),
        });
        if let Some(note) = self.note {
            document["note"] = note.into();
        }
        format!("{document:#}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_came_back_and_how_long_it_took() {
        let probe = |payload, outcome| Probe {
            payload,
            receiver: None,
            target: "http://c:4317 over gRPC".to_owned(),
            took: Duration::from_millis(12),
            outcome,
        };
        let mut report = EndpointReport { probes: vec![probe("metrics", Ok("accepted".to_owned()))], note: None };
        assert!(report.is_well());
        report.probes.push(probe("events", Err("refused".to_owned())));
        assert!(!report.is_well());
        let table = report.table();
        assert!(table.contains("metrics       ok       http://c:4317 over gRPC, after 12 ms: accepted\n"), "{table}");
        assert!(table.contains("events        FAILED   http://c:4317 over gRPC, after 12 ms: refused\n"), "{table}");
        let json: serde_json::Value = serde_json::from_str(&report.json()).expect("a document");
        assert_eq!(json["endpoints"][1]["ok"], false);
        assert_eq!(json["endpoints"][1]["payload"], "events");
        assert_eq!(json["endpoints"][0]["seconds"], 0.012);
        assert!(json["endpoints"][0].get("receiver").is_none());
        let further = Probe { receiver: Some("team-a".to_owned()), ..probe("metrics", Ok("accepted".to_owned())) };
        let report = EndpointReport { probes: vec![further], note: None };
        assert!(
            report.table().contains("ok       http://c:4317 over gRPC (team-a), after 12 ms: accepted\n"),
            "{}",
            report.table()
        );
        let json: serde_json::Value = serde_json::from_str(&report.json()).expect("a document");
        assert_eq!(json["endpoints"][0]["receiver"], "team-a");
    }
}
