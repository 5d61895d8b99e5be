//! Files that others replace while the agent runs: certificates, keys, tokens.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Notices that files have changed: by `stat` of each, one system call per file.
#[derive(Debug)]
pub struct Watched {
    files: Vec<(PathBuf, Option<Stamp>)>,
}

/// Device, inode, size, times of change in ns. Of the target of a symlink: Kubernetes swaps those.
type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

impl Watched {
    /// Watches these files from now on. Read them after this, never before: a change in between is then noticed.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { files: paths.into_iter().map(|path| (stamp(&path), path)).map(|(stamp, path)| (path, stamp)).collect() }
    }

    /// Whether any is another than at the last look.
    pub fn changed(&mut self) -> bool {
        let mut changed = false;
        for (path, seen) in &mut self.files {
            let now = stamp(path);
            changed |= std::mem::replace(seen, now) != now;
        }
        changed
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let stat = std::fs::metadata(path).ok()?;
    Some((stat.dev(), stat.ino(), stat.size(), (stat.mtime(), stat.mtime_nsec()), (stat.ctime(), stat.ctime_nsec())))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_file_that_is_written_replaced_removed_or_swapped_has_changed_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a"), "1").unwrap();
        fs::create_dir(path("one")).unwrap();
        fs::create_dir(path("two")).unwrap();
        fs::write(path("one/b"), "1").unwrap();
        fs::write(path("two/b"), "2").unwrap();
        symlink(path("one"), path("data")).unwrap();
        let mut watched = Watched::new([path("a"), path("data/b")]);
        assert!(!watched.changed());
        let changes: [(&str, &dyn Fn()); 5] = [
            ("longer", &|| fs::write(path("a"), "12").unwrap()),
            ("replaced by one of the same size", &|| {
                fs::write(path("new"), "34").unwrap();
                fs::rename(path("new"), path("a")).unwrap();
            }),
            ("removed", &|| fs::remove_file(path("a")).unwrap()),
            ("back", &|| fs::write(path("a"), "34").unwrap()),
            ("its directory swapped, as a Secret's is", &|| {
                symlink(path("two"), path("data.new")).unwrap();
                fs::rename(path("data.new"), path("data")).unwrap();
            }),
        ];
        for (what, change) in changes {
            change();
            assert!(watched.changed(), "{what}");
            assert!(!watched.changed(), "{what}: once");
        }
    }
}
