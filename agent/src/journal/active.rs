//! The file of the newest segment, to which entries are appended.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The newest segment, open for more entries.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) path: PathBuf,
    file: File,
}

impl Active {
    /// Makes an empty segment. What an attempt that failed has left there goes.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        // Names and labels of containers are in it.
        let new = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        new.set_len(0)?;
        Ok(Self { path: path.to_owned(), file: new })
    }

    /// Opens a segment of an earlier process.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: OpenOptions::new().append(true).open(path)? })
    }

    /// Writes an entry after the others: one system call, unless the file system takes only a part of it.
    pub(super) fn append(&mut self, header: &[u8], body: &[u8]) -> io::Result<()> {
        let mut slices = [IoSlice::new(header), IoSlice::new(body)];
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            match self.file.write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes what stands after the first `bytes` bytes.
    pub(super) fn cut(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    /// Bytes of the file.
    pub(super) fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Whether something else has removed the file: what is written to it cannot be found again.
    pub(super) fn is_removed(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.nlink() == 0)
    }

    /// Waits until the entries are on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
