//! `cargo +nightly fuzz run pod`: an object of the Kubernetes API. The parser may refuse it, but neither panic nor take long.
#![no_main]

use libfuzzer_sys::fuzz_target;
use podmeter_fuzz::pods::object::{Namespace, Node, Object, Pod, Wanted};

fuzz_target!(|json: &str| {
    let wanted = Wanted { labels: vec!["team".into()], namespace_labels: vec!["team".into()], service_labels: true };
    let _ = (Pod::read(json, &wanted), Node::read(json, &wanted), Namespace::read(json, &wanted));
});
