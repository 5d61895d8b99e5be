//! What a map does not have.

use aya::maps::MapError;

/// Whether the kernel refused only since the map has no such entry: to remove one that is gone, or to take one from an empty queue. aya has
/// names of its own for that in some calls, and passes the kernel's ENOENT on in others.
pub fn is_absent(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(nix::libc::ENOENT),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use aya::sys::SyscallError;
    use nix::libc::{ENOENT, EPERM};

    use super::*;

    #[test]
    fn an_entry_is_absent_by_ayas_names_and_by_the_kernels_number() {
        let refused = |number| {
            let io_error = io::Error::from_raw_os_error(number);
            MapError::SyscallError(SyscallError { call: "bpf_map_delete_elem", io_error })
        };
        assert!([MapError::KeyNotFound, MapError::ElementNotFound, refused(ENOENT)].iter().all(is_absent));
        assert!(
            ![refused(EPERM), MapError::CreateError { name: String::new(), io_error: io::Error::other("x") }]
                .iter()
                .any(is_absent)
        );
    }
}
