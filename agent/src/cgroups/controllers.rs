//! Which controllers' files a cgroup has. Its parent lists them (`cgroup.subtree_control`), so that a file is opened only where there is one: a
//! cgroup has six that do not exist on a host whose controllers are those of cgroup v1.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

/// The controllers that a cgroup has, of those whose files are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Controllers {
    /// `cpu.weight`, `cpu.max`
    pub cpu: bool,
    /// `memory.*`
    pub memory: bool,
}

impl Controllers {
    fn parse(text: &str) -> Self {
        Self { cpu: lists(text, "cpu"), memory: lists(text, "memory") }
    }
}

/// Whether a list of controllers, as the kernel's files have it, has this one.
pub fn lists(text: &str, name: &str) -> bool {
    text.split_whitespace().any(|controller| controller == name)
}

/// What parents let their children have, each read once.
#[derive(Default)]
pub(super) struct Parents(HashMap<PathBuf, Controllers>);

impl Parents {
    /// What the cgroup with this directory has, which is not the root: that has no such files, whatever it lets others have.
    pub(super) fn of_child(&mut self, directory: &Path) -> Controllers {
        let Some(parent) = directory.parent() else { return Controllers::default() };
        if let Some(known) = self.0.get(parent) {
            return *known;
        }
        let file = parent.join("cgroup.subtree_control");
        let found = fs::read_to_string(file).map(|text| Controllers::parse(&text)).unwrap_or_default();
        self.0.insert(parent.to_owned(), found);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_has_what_its_parent_lets_it_have() {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("a/b")).expect("made");
        fs::write(root.path().join("cgroup.subtree_control"), "cpuset cpu io memory pids\n").expect("written");
        fs::write(root.path().join("a/cgroup.subtree_control"), "memory\n").expect("written");
        fs::write(root.path().join("a/b/cgroup.subtree_control"), "\n").expect("written");
        let mut parents = Parents::default();
        let mut of = |path: &str| {
            let found = parents.of_child(&root.path().join(path));
            (found.cpu, found.memory)
        };
        assert_eq!(of("a"), (true, true));
        assert_eq!(of("a/b"), (false, true));
        assert_eq!(of("a/b/c"), (false, false));
        assert_eq!(of("gone/d"), (false, false));
        fs::remove_file(root.path().join("a/cgroup.subtree_control")).expect("removed");
        assert_eq!(parents.of_child(&root.path().join("a/other")), Controllers { cpu: false, memory: true }, "read once");
    }
}
