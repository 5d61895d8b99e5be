//! The cgroup tree as directories: for the cgroups that are older than the programs.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::{DirEntryExt as _, MetadataExt as _},
    path::Path,
};

/// A cgroup found in the directory of its parent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Child {
    /// Inode number: `cgroup.kn.id`.
    pub(super) id: u64,
    pub(super) name: OsString,
}

/// The id of the cgroup whose directory this is.
pub(super) fn id(directory: &Path) -> io::Result<u64> {
    Ok(fs::metadata(directory)?.ino())
}

/// The cgroups in a cgroup. The list of a directory has their ids and that they are directories: none of them is opened.
pub(super) fn children(directory: &Path) -> io::Result<impl Iterator<Item = Child> + use<>> {
    let entries = fs::read_dir(directory)?.flatten();
    let cgroups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(cgroups.map(|entry| Child { id: entry.ino(), name: entry.file_name() }))
}

/// The name of the cgroup with this id in the directory of its parent.
pub(super) fn name(parent: &Path, id: u64) -> Option<OsString> {
    children(parent).ok()?.find(|child| child.id == id).map(|child| child.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroups_in_a_cgroup_are_its_directories() {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("a/b")).expect("made");
        fs::create_dir(root.path().join("c")).expect("made");
        fs::write(root.path().join("cgroup.procs"), "").expect("written");
        let mut found: Vec<_> = children(root.path()).expect("readable").collect();
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(found.iter().map(|child| child.name.to_str()).collect::<Vec<_>>(), [Some("a"), Some("c")]);
        assert_eq!(found[0].id, id(&root.path().join("a")).expect("readable"));
        assert_eq!(name(root.path(), found[1].id), Some("c".into()));
        let deeper = id(&root.path().join("a/b")).expect("readable");
        assert_eq!((name(root.path(), deeper), name(&root.path().join("a"), deeper)), (None, Some("b".into())));
        assert!(children(&root.path().join("missing")).is_err() && name(&root.path().join("missing"), 1).is_none());
    }
}
