//! Events -> OTLP log records (pure).
//!
//! What an event is called is in the record's `event_name`; its attributes follow the semantic conventions where those have a
//! name. Records of one resource share a `ResourceLogs`.

use std::sync::Arc;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource as OtlpResource;

use super::encode;
use crate::aggregate::Occurrence;
use crate::signals::event::{Detail, Event};

/// Encodes events that were seen at `observed_unix_ns`.
pub fn encode(events: &[Occurrence], observed_unix_ns: u64) -> ExportLogsServiceRequest {
    let mut resource_logs: Vec<ResourceLogs> = Vec::new();
    let mut resources = Vec::new();
    for Occurrence { resource, event } in events {
        let position = resources.iter().position(|known| Arc::ptr_eq(known, resource)).unwrap_or_else(|| {
            resources.push(Arc::clone(resource));
            let attributes = resource.attributes.iter().map(|(key, value)| encode::attribute(key, value)).collect();
            resource_logs.push(ResourceLogs {
                resource: Some(OtlpResource { attributes, ..Default::default() }),
                scope_logs: vec![ScopeLogs { scope: Some(encode::scope()), ..Default::default() }],
                schema_url: String::new(),
            });
            resources.len() - 1
        });
        resource_logs[position].scope_logs[0].log_records.push(record(event, observed_unix_ns));
    }
    ExportLogsServiceRequest { resource_logs }
}

fn record(event: &Event, observed_time_unix_nano: u64) -> LogRecord {
    let attribute = |(key, detail): &(&'static str, Detail)| match detail {
        Detail::Text(text) => encode::attribute(key, text),
        Detail::Int(n) => KeyValue {
            key: (*key).into(),
            // OTLP's integers are signed.
            value: Some(AnyValue { value: Some(any_value::Value::IntValue(i64::try_from(*n).unwrap_or(i64::MAX))) }),
            ..Default::default()
        },
    };
    LogRecord {
        time_unix_nano: event.time_unix_ns,
        observed_time_unix_nano,
        severity_number: SeverityNumber::Warn as i32,
        severity_text: "WARN".into(),
        body: Some(AnyValue { value: Some(any_value::Value::StringValue(event.body.clone())) }),
        attributes: event.attributes.iter().map(attribute).collect(),
        event_name: event.name.into(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::fixtures::happened;

    #[test]
    fn events_of_one_resource_are_records_side_by_side() {
        let (one, other) = (happened("web-0", 1), happened("db-0", 2));
        let again = Occurrence { resource: Arc::clone(&one.resource), event: other.event.clone() };
        let request = encode(&[one, other, again], 9);
        let records: Vec<usize> = request.resource_logs.iter().map(|r| r.scope_logs[0].log_records.len()).collect();
        assert_eq!(records, [2, 1]);
        let record = &request.resource_logs[0].scope_logs[0].log_records[0];
        assert_eq!((record.event_name.as_str(), record.time_unix_nano, record.observed_time_unix_nano), ("podmeter.test", 1, 9));
        assert_eq!((record.severity_number, record.severity_text.as_str()), (13, "WARN"));
        let pid = record.attributes.iter().find(|a| a.key == "process.pid").and_then(|a| a.value.clone());
        assert_eq!(pid, Some(AnyValue { value: Some(any_value::Value::IntValue(77)) }));
    }

    #[test]
    fn json_is_what_the_specification_says() {
        let json = encode::to_json(&encode(&[happened("web-0", 1)], 9));
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let record = &json["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
        assert_eq!(record["eventName"], "podmeter.test");
        assert_eq!(record["timeUnixNano"], "1");
        assert_eq!(record["body"]["stringValue"], "it happened");
        let pid = record["attributes"].as_array().and_then(|all| all.iter().find(|a| a["key"] == "process.pid"));
        assert_eq!(pid.map(|a| a["value"]["intValue"].clone()), Some(serde_json::json!("77")));
    }
}
