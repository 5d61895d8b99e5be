//! The JSON Schema of `podmeter top --once --json` and a check of documents against it.
//!
//! It knows the keywords that this schema uses, and reports any other one: a keyword that nothing checks would promise too much.

use serde_json::{Map, Value as Json};

/// docs/top-json.schema.json.
///
/// # Panics
/// When the file is no JSON.
pub fn of_top() -> Json {
    serde_json::from_str(include_str!("../../docs/top-json.schema.json")).expect("docs/top-json.schema.json is JSON")
}

/// Where and why `document` does not follow `schema`; empty when it does.
pub fn violations(schema: &Json, document: &Json) -> Vec<String> {
    let mut found = Vec::new();
    check(schema, schema, document, "$", &mut found);
    found
}

/// Every key that the schema allows, with its path: `workloads[].cpu.usage_cores`.
pub fn keys(schema: &Json) -> Vec<String> {
    let mut found = Vec::new();
    collect_keys(schema, schema, "", &mut found);
    found.sort_unstable();
    found
}

fn collect_keys(root: &Json, schema: &Json, path: &str, found: &mut Vec<String>) {
    let schema = resolve(root, schema);
    if let Some(items) = schema.get("items") {
        collect_keys(root, items, &format!("{path}[]"), found);
    }
    for (key, property) in schema.get("properties").and_then(Json::as_object).into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        found.push(path.clone());
        collect_keys(root, property, &path, found);
    }
}

fn resolve<'a>(root: &'a Json, schema: &'a Json) -> &'a Json {
    let target = schema.get("$ref").and_then(Json::as_str).and_then(|target| target.strip_prefix('#'));
    target.and_then(|pointer| root.pointer(pointer)).unwrap_or(schema)
}

fn check(root: &Json, schema: &Json, value: &Json, path: &str, found: &mut Vec<String>) {
    let Some(keywords) = schema.as_object() else {
        return found.push(format!("{path}: its schema is no object"));
    };
    for (keyword, wanted) in keywords {
        let agrees = match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" => true,
            "$ref" => {
                let target = resolve(root, schema);
                if !std::ptr::eq(target, schema) {
                    check(root, target, value, path, found);
                }
                !std::ptr::eq(target, schema)
            }
            "const" => value == wanted,
            "minimum" => value.as_f64().zip(wanted.as_f64()).is_none_or(|(value, least)| value >= least),
            "type" => wanted.as_str().is_some_and(|wanted| is_of_type(value, wanted)),
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, wanted, item, &format!("{path}[{index}]"), found);
                }
                true
            }
            "required" => {
                let has = |key: &Json| key.as_str().is_some_and(|key| value.get(key).is_some());
                !value.is_object() || wanted.as_array().is_some_and(|keys| keys.iter().all(has))
            }
            "properties" => {
                for (key, property) in wanted.as_object().into_iter().flatten() {
                    if let Some(value) = value.get(key) {
                        check(root, property, value, &format!("{path}.{key}"), found);
                    }
                }
                true
            }
            "additionalProperties" if wanted == false => {
                let listed = |key: &String| keywords.get("properties").is_some_and(|listed| listed.get(key).is_some());
                value.as_object().is_none_or(|object: &Map<_, _>| object.keys().all(listed))
            }
            _ => false,
        };
        if !agrees {
            found.push(format!("{path}: {keyword} {wanted} is not met or not known"));
        }
    }
}

fn is_of_type(value: &Json, wanted: &str) -> bool {
    match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_does_not_follow_the_schema_is_found() {
        let schema = json!({
            "type": "object",
            "properties": {"n": {"type": "integer", "minimum": 0}, "all": {"type": "array", "items": {"$ref": "#/$defs/Part"}}},
            "required": ["n"],
            "additionalProperties": false,
            "$defs": {"Part": {"type": "object", "properties": {"on": {"type": "boolean"}}, "additionalProperties": false}},
        });
        assert_eq!(violations(&schema, &json!({"n": 1, "all": [{"on": true}, {}]})), [""; 0]);
        for (document, at) in [
            (json!({}), "$: required"),
            (json!([]), "$: type"),
            (json!({"n": -1}), "$.n: minimum"),
            (json!({"n": 0.5}), "$.n: type"),
            (json!({"n": null}), "$.n: type"),
            (json!({"n": 1, "more": 2}), "$: additionalProperties"),
            (json!({"n": 1, "all": [{"on": 1}]}), "$.all[0].on: type"),
            (json!({"n": 1, "all": [{"off": true}]}), "$.all[0]: additionalProperties"),
        ] {
            let found = violations(&schema, &document);
            assert!(found.len() == 1 && found[0].starts_with(at), "{document}: {found:?}");
        }
        assert_eq!(violations(&json!({"pattern": "a"}), &json!("a")).len(), 1, "a keyword that is not checked");
        assert_eq!(violations(&json!({"$ref": "#/$defs/None"}), &json!(1)).len(), 1, "a reference to nothing");
        assert_eq!(keys(&schema), ["all", "all[].on", "n"]);
    }
}
