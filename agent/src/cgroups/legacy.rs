//! Containers whose processes are in cgroups of version 1 alone, as on a hybrid host whose runtime uses those: cgroup2 has none of
//! them, so there is nothing to measure.

use std::{
    collections::{HashSet, VecDeque},
    fmt, fs,
    path::{Path, PathBuf},
};

use super::{
    name::{self, CgroupKind, Kubelets, readable},
    scan,
};

/// Directories of one hierarchy that are read: a node has a few thousand, and reading them at the start may not take long.
const MOST: usize = 20_000;

/// Containers without processes in cgroup2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnlyInV1 {
    /// How many.
    pub containers: usize,
    /// The directory of one of them.
    pub example: PathBuf,
}

impl fmt::Display for OnlyInV1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { containers, example } = self;
        let they =
            if *containers == 1 { "1 container has its".to_owned() } else { format!("{containers} containers have their") };
        write!(
            f,
            "{they} processes in cgroups of version 1 only (such as {}), which podmeter does not measure: boot with \
             systemd.unified_cgroup_hierarchy=1",
            example.display()
        )
    }
}

/// Looks for such containers: `v1` are mount points of cgroup version 1, `v2` is the root of cgroup2. `None` where there are none.
pub fn only_in_v1(v1: &[PathBuf], v2: &Path) -> Option<OnlyInV1> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    let mut known = HashSet::new();
    for hierarchy in v1 {
        found.extend(containers(hierarchy).into_iter().filter(|(container, _)| known.insert(container.clone())));
    }
    if found.is_empty() {
        return None;
    }
    let in_v2: HashSet<String> = containers(v2).into_iter().map(|(container, _)| container).collect();
    found.retain(|(container, _)| !in_v2.contains(container));
    let (_, example) = found.first()?.clone();
    Some(OnlyInV1 { containers: found.len(), example })
}

/// The containers in a hierarchy that have processes: their id, else their name, and directory. Cgroups in a container are not read.
fn containers(root: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let mut above = VecDeque::from([(root.to_owned(), String::new())]);
    let mut read = 0;
    while let Some((directory, path)) = above.pop_front() {
        let Ok(children) = scan::children(&directory) else { continue };
        for child in children {
            read += 1;
            if read > MOST {
                return found;
            }
            let directory = directory.join(&child.name);
            let path = format!("{path}/{}", readable(child.name.as_encoded_bytes()));
            let name = name::parse(&path, Kubelets::Any);
            if name.kind != CgroupKind::Container {
                above.push_back((directory, path));
            } else if has_processes(&directory) {
                found.push((name.container_id.unwrap_or(name.name), directory));
            }
        }
    }
    found
}

/// Whether processes are in this cgroup or, with cgroup2 or the pids controller, below it: those files also count what another PID
/// namespace hides.
fn has_processes(directory: &Path) -> bool {
    let has =
        |file: &str, processes: fn(&str) -> bool| fs::read_to_string(directory.join(file)).is_ok_and(|text| processes(&text));
    has("cgroup.events", |text| text.lines().any(|line| line == "populated 1"))
        || has("pids.current", |text| text.trim().parse::<u64>().is_ok_and(|n| n > 0))
        || has("cgroup.procs", |text| !text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cgroup with this file in a hierarchy.
    fn make(root: &Path, path: &str, file: &str, text: &str) {
        let directory = root.join(path);
        fs::create_dir_all(&directory).expect("made");
        fs::write(directory.join(file), text).expect("written");
    }

    #[test]
    fn containers_whose_processes_are_in_v1_only_are_found() {
        let [memory, pids, v2] = [(); 3].map(|()| tempfile::tempdir().expect("a directory"));
        let v1 = [memory.path().to_owned(), pids.path().to_owned()];
        let found = || only_in_v1(&v1, v2.path());
        let [one, two, empty] = ["1", "2", "3"].map(|digit| digit.repeat(64));
        make(memory.path(), "system.slice/ssh.service", "cgroup.procs", "7\n");
        make(memory.path(), &format!("docker/{empty}"), "cgroup.procs", "");
        assert_eq!(found(), None, "a service is no container, and an empty one has nothing to measure");
        make(memory.path(), &format!("docker/{one}"), "cgroup.procs", "8\n9\n");
        make(pids.path(), &format!("docker/{one}"), "pids.current", "2\n");
        make(pids.path(), &format!("kubepods/burstable/pod0a1b2c3d-1111-2222-3333-444455556666/{two}"), "pids.current", "1\n");
        make(pids.path(), &format!("docker/{one}/docker/{empty}"), "pids.current", "1\n");
        make(v2.path(), &format!("docker/{two}"), "cgroup.events", "populated 0\n");
        let only = found().expect("two are");
        assert_eq!((only.containers, &only.example), (2, &memory.path().join(format!("docker/{one}"))));
        assert!(only.to_string().contains("2 containers have their processes"), "{only}");
        // As systemd has it where the hierarchy is hybrid: in both.
        make(v2.path(), &format!("system.slice/docker-{one}.scope"), "cgroup.events", "populated 1\nfrozen 0\n");
        assert_eq!(found().map(|only| only.containers), Some(1));
        make(v2.path(), &format!("docker/{two}"), "cgroup.events", "populated 1\n");
        assert_eq!(found(), None);
    }
}
