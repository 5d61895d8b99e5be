//! File descriptors: how many this process may have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Lifts the soft limit to the hard one, as everything may that does not use select(): maps, programs, connections and, for a
/// moment, cgroups' files have one each, and a shell's 1 024 is not many.
pub fn raise_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Needs no right. Were it refused, what there is may still be enough.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
