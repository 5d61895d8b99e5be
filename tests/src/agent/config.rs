//! The configuration of a test's agent: its own keys over the harness' defaults.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::{Value as Json, json};

use super::runner::{not_looked_at, runner};
use crate::time::is_emulated;

/// Names programs, by comma, that every agent of the tests does without: `bpf.leave_out`.
const LEAVE_OUT: &str = "PODMETER_TESTS_LEAVE_OUT";

/// These keys on top of an interval of 1 s, nothing pinned and the stdout exporter.
pub(super) fn over_defaults(config: Json, address: SocketAddr) -> Result<Json> {
    let mut all = json!({
        "interval": "1s", "listen": address.to_string(), "bpf": {"pin": false},
        // One request for each export, so that an export is seen whole or not at all.
        "export": {"exporter": "stdout", "request_bytes": "64MiB"},
    });
    if is_emulated() {
        merge(&mut all, json!({"signals": not_looked_at(&runner()?)}));
    }
    // Every agent of a run as on a kernel that refuses these programs, where its test does not say otherwise.
    if let Ok(programs) = std::env::var(LEAVE_OUT) {
        merge(&mut all, json!({"bpf": {"leave_out": programs}}));
    }
    merge(&mut all, config);
    Ok(all)
}

/// Puts the keys of `over` into `base`, level by level.
pub(super) fn merge(base: &mut Json, over: Json) {
    match (base, over) {
        (Json::Object(base), Json::Object(over)) => {
            over.into_iter().for_each(|(key, value)| merge(base.entry(key).or_insert(Json::Null), value));
        }
        (base, over) => *base = over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tests_keys_go_over_the_harness_defaults_level_by_level() {
        let mut all = json!({"interval": "1s", "bpf": {"pin": false}});
        merge(&mut all, json!({"bpf": {"directory": "/x"}, "interval": "2s"}));
        assert_eq!(all, json!({"interval": "2s", "bpf": {"pin": false, "directory": "/x"}}));
    }
}
