//! Events -> OTLP log records (pure).
//!
//! What an event is called is in the record's `event_name`; its attributes follow the semantic conventions where those have a
//! name. Records of one resource share a `ResourceLogs`.

use std::borrow::Cow;
use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use prost::Message;

use super::encode::Bounds;
use super::group::{Group, Item};
use crate::aggregate::ResourceEvent;
use crate::event::{Detail, Event};
use crate::join::Resource;
use crate::kernel::clock::UnixOffset;

/// Bytes of a sentence for people: it may name two cgroups; as attributes their paths have another bound.
const BODY: usize = 1024;

/// Encodes the events of a batch that was read at `observed_ns`, CLOCK_BOOTTIME: `each` gets those of one resource together.
pub(super) fn encode<'a>(
    events: &'a [ResourceEvent],
    observed_ns: u64,
    offset: UnixOffset,
    bounds: &Bounds,
    mut each: impl FnMut(&Group<'a>),
) {
    let mut done: Vec<&Arc<Resource>> = Vec::new();
    for (at, ResourceEvent { resource, .. }) in events.iter().enumerate() {
        let same = |known: &&Arc<Resource>| Arc::ptr_eq(known, resource);
        if done.iter().any(same) {
            continue;
        }
        done.push(resource);
        let mut group = Group { resource: bounds.resource(resource), ..Group::default() };
        for event in events[at..].iter().filter(|event| same(&&event.resource)) {
            let begin = group.values.len();
            // Writing into a Vec does not fail.
            let _ = record(&event.event, observed_ns, offset, bounds).encode(&mut group.values);
            group.items.push(Item { name: "", description: "", rest: begin..group.values.len(), count: 1 });
        }
        each(&group);
    }
}

fn record(event: &Event, observed_ns: u64, offset: UnixOffset, bounds: &Bounds) -> LogRecord {
    let text = |text: Cow<'_, str>| Some(AnyValue { value: Some(any_value::Value::StringValue(text.into_owned())) });
    let attribute = |(key, detail): &(&'static str, Detail)| KeyValue {
        key: (*key).into(),
        value: match detail {
            Detail::Text(value) => text(bounds.value(value)),
            // OTLP's integers are signed.
            Detail::Int(n) => Some(AnyValue { value: Some(any_value::Value::IntValue(i64::try_from(*n).unwrap_or(i64::MAX))) }),
        },
        ..Default::default()
    };
    LogRecord {
        time_unix_nano: offset.unix_ns(event.time_ns),
        observed_time_unix_nano: offset.unix_ns(observed_ns),
        severity_number: SeverityNumber::Warn as i32,
        severity_text: "WARN".into(),
        body: text(bounds.text(&event.body, BODY)),
        attributes: event.attributes.iter().map(attribute).collect(),
        event_name: event.name.into(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::fixtures::happened;
    use crate::export::fixtures::messages;
    use crate::export::json::to_json;
    use opentelemetry_proto::tonic::logs::v1::ResourceLogs;

    fn encode(events: &[ResourceEvent], observed_ns: u64, offset: UnixOffset, bounds: &Bounds) -> Vec<ResourceLogs> {
        messages(|each| super::encode(events, observed_ns, offset, bounds, each))
    }

    #[test]
    fn events_of_one_resource_are_records_side_by_side() {
        let (one, other) = (happened("web-0", 1), happened("db-0", 2));
        let again = ResourceEvent { resource: Arc::clone(&one.resource), event: other.event.clone() };
        let resources = encode(&[one, other, again], 9, UnixOffset::default(), &Bounds::new(256));
        let records: Vec<usize> = resources.iter().map(|r| r.scope_logs[0].log_records.len()).collect();
        assert_eq!(records, [2, 1]);
        let record = &resources[0].scope_logs[0].log_records[0];
        assert_eq!((record.event_name.as_str(), record.time_unix_nano, record.observed_time_unix_nano), ("podmeter.test", 1, 9));
        assert_eq!((record.severity_number, record.severity_text.as_str()), (13, "WARN"));
        let pid = record.attributes.iter().find(|a| a.key == "process.pid").and_then(|a| a.value.clone());
        assert_eq!(pid, Some(AnyValue { value: Some(any_value::Value::IntValue(77)) }));
    }

    #[test]
    fn json_is_what_the_specification_says() {
        let json = to_json(&encode(&[happened("web-0", 1)], 9, UnixOffset::default(), &Bounds::new(256))[0]);
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let record = &json["scopeLogs"][0]["logRecords"][0];
        assert_eq!(record["eventName"], "podmeter.test");
        assert_eq!(record["timeUnixNano"], "1");
        assert_eq!(record["body"]["stringValue"], "it happened");
        let pid = record["attributes"].as_array().and_then(|all| all.iter().find(|a| a["key"] == "process.pid"));
        assert_eq!(pid.map(|a| a["value"]["intValue"].clone()), Some(serde_json::json!("77")));
    }

    #[test]
    fn what_others_wrote_has_a_bound_in_every_attribute_and_in_the_sentence() {
        let mut event = happened("web-0", 1);
        let path = format!("/{}", "deep/".repeat(800));
        event.event.body = format!("{path} reached its memory limit");
        event.event.attributes.push(("podmeter.oom.victim.cgroup.path", Detail::Text(path)));
        let bounds = Bounds::new(256);
        let resources = encode(&[event], 9, UnixOffset::default(), &bounds);
        let record = &resources[0].scope_logs[0].log_records[0];
        let texts = record.attributes.iter().filter_map(|a| a.value.as_ref()).chain(&record.body);
        let longest = texts.filter_map(|value| match &value.value {
            Some(any_value::Value::StringValue(text)) => Some(text.len()),
            _ => None,
        });
        assert_eq!(longest.max(), Some(BODY));
        assert_eq!(record.attributes.last().map(|a| a.encoded_len() < 300), Some(true));
        assert_eq!(bounds.cut(), 2);
    }
}
