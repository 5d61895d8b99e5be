//! The cgroup tree as directories: for the cgroups that are older than the programs.

use std::{
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use super::name::readable;

/// A cgroup found in the tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Inode number: `cgroup.kn.id`.
    pub(super) id: u64,
    /// The parent's; 0 above the root.
    pub(super) parent: u64,
    /// Path from the root of the hierarchy, starting with '/'.
    pub(super) path: String,
}

impl Found {
    /// How deep it is: 0 for the root.
    pub(super) fn level(&self) -> u32 {
        if self.path == "/" { 0 } else { self.path.bytes().filter(|byte| *byte == b'/').count() as u32 }
    }
}

/// All cgroups below and including `root`, parents before children. One that vanishes meanwhile is left out.
pub(super) fn tree(root: &Path) -> Result<Vec<Found>, (PathBuf, io::Error)> {
    let id = fs::metadata(root).map_err(|e| (root.to_owned(), e))?.ino();
    let mut found = vec![Found { id, parent: 0, path: "/".to_owned() }];
    let mut next = 0;
    while let Some(parent) = found.get(next) {
        let (parent_id, parent_path) = (parent.id, parent.path.clone());
        next += 1;
        let directory = root.join(parent_path.trim_start_matches('/'));
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(_) if next > 1 => continue,
            Err(error) => return Err((directory, error)),
        };
        for entry in entries.flatten() {
            let is_cgroup = entry.file_type().is_ok_and(|t| t.is_dir());
            if let (true, Ok(metadata)) = (is_cgroup, entry.metadata()) {
                let name = readable(entry.file_name().as_bytes());
                let path = format!("{}/{name}", parent_path.trim_end_matches('/'));
                found.push(Found { id: metadata.ino(), parent: parent_id, path });
            }
        }
    }
    Ok(found)
}

/// The name of the cgroup with this id in the directory of its parent.
pub(super) fn child(parent: &Path, id: u64) -> Option<String> {
    let entries = fs::read_dir(parent).ok()?.flatten();
    let mut children = entries.filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()));
    let child = children.find(|entry| entry.metadata().is_ok_and(|metadata| metadata.ino() == id))?;
    Some(child.file_name().to_string_lossy().into_owned())
}

/// Whether this very cgroup is still there; another of the same name has another id.
pub(super) fn exists(root: &Path, cgroup: &Found) -> bool {
    fs::metadata(root.join(cgroup.path.trim_start_matches('/'))).is_ok_and(|m| m.ino() == cgroup.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_found_parents_first() {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("a/b")).expect("made");
        fs::create_dir_all(root.path().join("c")).expect("made");
        fs::write(root.path().join("a/cgroup.procs"), "").expect("written");
        let found = tree(root.path()).expect("readable");
        let mut paths: Vec<_> = found.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(paths[0], "/");
        let of = |path: &str| found.iter().find(|f| f.path == path).expect("found");
        assert_eq!(of("/a/b").parent, of("/a").id);
        assert!(paths.iter().position(|p| *p == "/a") < paths.iter().position(|p| *p == "/a/b"));
        paths.sort_unstable();
        assert_eq!(paths, ["/", "/a", "/a/b", "/c"]);
        assert_eq!((of("/").level(), of("/c").level(), of("/a/b").level()), (0, 1, 2));
        assert!(exists(root.path(), of("/c")));
        assert_eq!(child(&root.path().join("a"), of("/a/b").id).as_deref(), Some("b"));
        assert_eq!(child(root.path(), of("/a/b").id), None);
        fs::remove_dir(root.path().join("c")).expect("removed");
        assert!(!exists(root.path(), of("/c")));
        assert!(tree(&root.path().join("missing")).is_err());
    }
}
