//! What some kernels take and must not be given, since it makes them crash or stop.

use super::{Hook, LoadError};
use crate::kernel::{btf::Btf, facts};

/// The kernel's name for a walk over the storage of sockets.
const SOCKET_STORAGE: &str = "bpf_sk_storage_map";

/// The first version of Linux that must not be walked so: `__bpf_sk_storage_map_seq_show` follows `local_storage` of an element that has been
/// taken out of its socket's storage, where it is null since 7.0. Seen with 7.2.13.
const STORAGE_WALK_CRASHES: u32 = 7;

/// What this kernel must not be given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hazards {
    /// A walk over the storage of sockets.
    storage_walk: bool,
    /// A program at the return of a function that sleeps: when it is taken away, the kernel frees what a sleeping task will return to. Linux 5.12
    /// counts those who are inside, in a `bpf_tramp_image`; older kernels have it if their maintainers took it over.
    exits: bool,
}

impl Hazards {
    /// Of the kernel that has these types.
    pub(super) fn of(btf: &Btf) -> Self {
        Self {
            storage_walk: facts::major(&facts::release()) >= STORAGE_WALK_CRASHES,
            exits: !btf.has_member("bpf_tramp_image", "image"),
        }
    }

    /// Fails for a program that would crash it.
    pub(super) fn refuse(self, program: &str, hook: Hook) -> Result<(), LoadError> {
        let why = match hook {
            Hook::Walk(SOCKET_STORAGE) if self.storage_walk => {
                "from Linux 7.0 on a walk over bpf_sk_storage_map crashes the kernel when it meets one that is closed"
            }
            Hook::Exit(_) if self.exits => {
                "this kernel may crash when a program at the return of a function is taken away (fixed in Linux 5.12)"
            }
            _ => return Ok(()),
        };
        Err(LoadError::Crashes { program: program.to_owned(), why })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_crash_the_kernel_is_not_loaded_and_the_rest_is() {
        let refused = |hazards: Hazards, hook| hazards.refuse("p", hook).err().map(|error| error.to_string());
        let none = Hazards { storage_walk: false, exits: false };
        let all = Hazards { storage_walk: true, exits: true };
        let hooks = [Hook::Walk(SOCKET_STORAGE), Hook::Exit("f")];
        assert!(hooks.iter().all(|hook| refused(none, *hook).is_none() && refused(all, *hook).is_some()));
        assert!([Hook::Walk("tcp"), Hook::Entry("f"), Hook::SockOps].iter().all(|hook| refused(all, *hook).is_none()));
    }
}
