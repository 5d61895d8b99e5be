//! `cargo +nightly fuzz run cgroup_path`: a cgroup's path, which a container chooses below its own. The parser may refuse it, but neither panic nor take long.
#![no_main]

use libfuzzer_sys::fuzz_target;
use podmeter_fuzz::cgroups::name::{Kubelets, parse};

fuzz_target!(|path: &str| {
    for kubelets in [Kubelets::OfTheNode, Kubelets::Any] {
        assert!(parse(path, kubelets).name.len() <= 3 * path.len() + 1);
    }
});
