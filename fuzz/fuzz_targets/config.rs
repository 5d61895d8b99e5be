//! `cargo +nightly fuzz run config`: a configuration file. The parser may refuse it, but neither panic nor take long.
#![no_main]

use libfuzzer_sys::fuzz_target;
use podmeter_fuzz::config::{Config, Overrides};

fuzz_target!(|text: &[u8]| {
    let file = std::env::temp_dir().join(format!("podmeter-fuzz-{}.yaml", std::process::id()));
    std::fs::write(&file, text).expect("the directory for temporary files can be written");
    let _ = Config::load(Some(&file), &|_| None, Overrides::default());
});
