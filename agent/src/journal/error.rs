//! What can go wrong with the journal, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// Bytes of a cursor's longest name.
pub(super) const MAX_NAME_BYTES: usize = 64;

/// Why the journal could not do what was requested. It stays usable: the next call tries again.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system refused.
    #[error("could not {action} {}; {}", path.display(), advice(source))]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// The file system's reason.
        source: io::Error,
    },
    /// Another process has the directory open for writing.
    #[error("another process writes to the journal in {}; stop it, or set another directory for one of them", .0.display())]
    InUse(PathBuf),
    /// A body that the journal never takes.
    #[error(
        "an entry of {bytes} bytes is larger than the journal takes ({most} bytes); allow it more bytes, or make requests smaller"
    )]
    TooLarge {
        /// Bytes of the body.
        bytes: usize,
        /// Bytes of the largest body that is taken.
        most: usize,
    },
    /// A name that cannot be that of a cursor.
    #[error("{0:?} is not a name of a cursor; use 1 to {MAX_NAME_BYTES} of the characters a-z, 0-9 and -")]
    CursorName(String),
}

impl JournalError {
    /// For `map_err`: the file system refused to do `action` to `path`.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free space on its file system, or allow the journal fewer bytes"
        }
        io::ErrorKind::ReadOnlyFilesystem => "mount its file system writable",
        io::ErrorKind::PermissionDenied => "let the agent's user read and write there",
        io::ErrorKind::NotFound => "something else removed it: let the agent alone use the directory",
        _ => "check the disk and the kernel's log",
    }
}
