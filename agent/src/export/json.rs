//! Messages -> OTLP/JSON (pure).

use opentelemetry_proto::tonic::{logs::v1::ResourceLogs, metrics::v1::ResourceMetrics};
use prost::Message;

use super::Payload;

impl Payload {
    /// The data of one resource, whose bytes are `message`.
    pub(super) fn json(self, message: &[u8]) -> String {
        // Cannot fail: the bytes are our own.
        match self {
            Self::Metrics => to_json(&ResourceMetrics::decode(message).unwrap_or_default()),
            Self::Logs => to_json(&ResourceLogs::decode(message).unwrap_or_default()),
        }
    }
}

/// A message as OTLP/JSON without line breaks.
///
/// The message types' own serialization follows the specification (camelCase names, 64-bit integers as strings, enums as
/// numbers); it writes unset fields as `null`, though, which Go's OTLP/JSON readers refuse, so those are taken out.
pub(super) fn to_json(message: &impl serde::Serialize) -> String {
    // Cannot fail: no map has keys other than strings.
    without_nulls(&serde_json::to_string(message).unwrap_or_default())
}

/// JSON without `null` fields; it has no white space, and no `null` in an array.
fn without_nulls(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    // Where the last string begins in `out`: before a `null`, that is the field's name.
    let mut name = 0;
    let mut rest = json;
    while let Some(at) = rest.find(['"', 'n']) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if let Some(behind) = from.strip_prefix("null") {
            out.truncate(name);
            rest = match behind.strip_prefix(',') {
                Some(behind) => behind,
                None => {
                    out.truncate(out.trim_end_matches(',').len());
                    behind
                }
            };
            continue;
        }
        let mut escaped = false;
        let ends = |c: char| {
            let end = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            end
        };
        let len = from[1..].find(ends).map_or(from.len(), |end| end + 2);
        name = out.len();
        out.push_str(&from[..len]);
        rest = &from[len..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_without_a_value_are_left_out_of_json_and_texts_stay_as_they_are() {
        let cases = [
            (r#"{"a":null}"#, "{}"),
            (r#"{"a":null,"b":1}"#, r#"{"b":1}"#),
            (r#"{"a":1,"b":null}"#, r#"{"a":1}"#),
            (r#"{"a":1,"b":null,"c":null,"d":[{"e":null},{"n":2}]}"#, r#"{"a":1,"d":[{},{"n":2}]}"#),
            (r#"{"null":"null","a":"\"null\\","b":null}"#, r#"{"null":"null","a":"\"null\\"}"#),
            ("[]", "[]"),
        ];
        for (json, want) in cases {
            assert_eq!(without_nulls(json), want, "{json}");
        }
    }
}
