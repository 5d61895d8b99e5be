//! The agent's parsers of foreign input. The agent is a program and no library, so its files are included here; none of them uses
//! anything of the rest. The unit tests feed the same corpus, mutated, to the same functions (`agent/src/fuzzing.rs`).
#![allow(dead_code, missing_docs, unused_imports)]

pub use agent::{bound, cgroups, config, kernel, pods, url};

#[path = "../../agent/src"]
mod agent {
    pub mod bound;
    pub mod config;
    pub mod url;

    pub mod cgroups {
        pub mod name;
    }

    pub mod kernel {
        pub mod btf;
    }

    pub mod pods {
        pub mod object;
        pub mod quantity;
        pub mod workload;
    }
}
