//! `cargo +nightly fuzz run quantity`: a Kubernetes quantity. The parser may refuse it, but neither panic nor take long.
#![no_main]

use libfuzzer_sys::fuzz_target;
use podmeter_fuzz::pods::quantity::Quantity;

fuzz_target!(|text: &str| {
    if let Ok(quantity) = text.parse::<Quantity>() {
        assert!(quantity.cores() >= 0.0 && quantity.bytes() <= i64::MAX as u64);
    }
});
