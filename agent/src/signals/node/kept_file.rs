//! Files of the kernel that are read at each collection: opened once, read into a buffer that is kept.

use std::{
    borrow::Cow,
    fs::File,
    io,
    os::{fd::AsFd as _, unix::fs::FileExt as _},
    path::PathBuf,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What is read at once, at least. The kernel gives at most a page of a long list each time.
const ROOM: usize = 4096;

/// One file, and what it said last.
#[derive(Debug)]
pub(super) struct KeptFile {
    path: PathBuf,
    file: Option<File>,
    buffer: Vec<u8>,
}

impl KeptFile {
    /// Opens nothing yet.
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), file: None, buffer: Vec::new() }
    }

    /// All of it, as of now.
    ///
    /// # Errors
    /// When it cannot be opened or read, with its path; the next reading opens it anew.
    pub(super) fn read(&mut self) -> io::Result<Cow<'_, str>> {
        match self.read_bytes() {
            Ok(length) => Ok(String::from_utf8_lossy(self.buffer.get(..length).unwrap_or_default())),
            Err(error) => {
                self.file = None;
                Err(io::Error::new(error.kind(), format!("could not read {}: {error}", self.path.display())))
            }
        }
    }

    /// Whether it may say something else than at the last reading, for a file that can be polled, such as `mountinfo`. True as well when it
    /// was not read yet.
    pub(super) fn has_changed(&self) -> bool {
        let Some(file) = &self.file else { return true };
        let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
        let polled = poll(&mut fds, PollTimeout::ZERO);
        let change = PollFlags::POLLPRI | PollFlags::POLLERR;
        polled.is_err() || fds.iter().any(|fd| fd.revents().is_none_or(|events| events.intersects(change)))
    }

    fn read_bytes(&mut self) -> io::Result<usize> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(File::open(&self.path)?),
        };
        let mut length = 0;
        loop {
            if self.buffer.len() < length + ROOM {
                self.buffer.resize((2 * length).max(ROOM), 0);
            }
            match file.read_at(self.buffer.get_mut(length..).unwrap_or_default(), length as u64)? {
                0 => return Ok(length),
                read => length += read,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use super::*;

    #[test]
    fn a_file_is_read_whole_each_time() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let mut kept = KeptFile::new(file.path());
        let long = "word ".repeat(5000);
        file.write_all(long.as_bytes()).expect("written");
        assert!(kept.has_changed(), "never read");
        assert_eq!(kept.read().expect("read"), long);
        fs::write(file.path(), "short").expect("written");
        assert_eq!(kept.read().expect("read"), "short");
    }

    #[test]
    fn what_is_not_there_is_named_and_opened_once_it_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("later");
        let mut kept = KeptFile::new(&path);
        let error = kept.read().expect_err("not there").to_string();
        assert!(error.starts_with(&format!("could not read {}: No such file", path.display())), "{error}");
        fs::write(&path, "here").expect("written");
        assert_eq!(kept.read().expect("read"), "here");
    }
}
