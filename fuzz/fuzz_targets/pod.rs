//! `cargo +nightly fuzz run pod`: an object of the Kubernetes API. The parser may refuse it, but neither panic nor take long.
#![no_main]

use libfuzzer_sys::fuzz_target;
use podmeter_fuzz::pods::object::{ApiObject, KeptLabels, KubernetesNode, Namespace, Pod};

fuzz_target!(|json: &str| {
    let kept = KeptLabels { labels: vec!["team".into()], namespace_labels: vec!["team".into()], service_labels: true };
    let _ = (Pod::read(json, &kept), KubernetesNode::read(json, &kept), Namespace::read(json, &kept));
});
