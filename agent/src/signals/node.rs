//! The node signal: what the node itself has and uses, from files of the kernel that are read at each collection.
//!
//! It has no program. A file that cannot be read takes only its own metrics with it, and the signal's note says why.

mod clock;
mod file_systems;
mod interfaces;
mod kept_file;
mod machine;
pub mod metrics;
mod mounts;
mod parse;

use std::{fs, path::Path};

use self::{file_systems::FileSystems, interfaces::Interfaces, machine::Machine};
use super::{ActiveSignal, Readings, Signal, SignalError};
use crate::{cgroups::Cgroups, config, metric::Point};

/// See the module.
pub const SIGNAL: Signal = Signal {
    name: "node",
    help: "the node itself: CPU by mode, memory by kind, paging, load, threads, open files, clock, interfaces, file systems; volumes of pods",
    tracepoints: &[],
    metrics: metrics::ALL,
    capability: None,
    missing: |_| None,
    start: |_, _, config| Ok(Box::new(Node::new(&config.node))),
};

/// What is read, and what of it could not be read last.
#[derive(Debug)]
struct Node {
    machine: Machine,
    /// What needs the node's first process, or why there is none to see.
    of_first: Result<(Interfaces, FileSystems), String>,
    missing: Vec<String>,
}

impl Node {
    fn new(config: &config::Node) -> Self {
        let of_first = sees_the_node(&config.root, fs::read_link("/proc/self/ns/pid").ok().as_deref());
        Self {
            machine: Machine::new(config.per_cpu),
            of_first: of_first.map(|()| (Interfaces::new(&config.root), FileSystems::new(&config.root))),
            missing: Vec::new(),
        }
    }

    /// All points, and why some are missing.
    fn read(&mut self) -> Vec<Point> {
        let (mut points, mut missing) = (Vec::new(), Vec::new());
        self.machine.read(&mut points, &mut missing);
        missing.extend(clock::read(&mut points).err());
        match &mut self.of_first {
            Ok((interfaces, file_systems)) => {
                interfaces.read(&mut points, &mut missing);
                file_systems.read(&mut points, &mut missing);
            }
            Err(why) => missing.push(why.clone()),
        }
        self.missing = missing;
        points
    }
}

/// Whether process 1 below that root is the node's and not a container's: podmeter is in the first of all PID namespaces
/// (`PROC_PID_INIT_INO`), or was told where the node's root is.
fn sees_the_node(root: &Path, pid_namespace: Option<&Path>) -> Result<(), String> {
    const FIRST: &str = "pid:[4026531836]";
    if root != Path::new("/") || pid_namespace == Some(Path::new(FIRST)) {
        return Ok(());
    }
    Err("no interfaces, connections and file systems of the node, since podmeter is in a container: mount the node's / into it, read-only, and set \
         node.root to where it is"
        .to_owned())
}

impl ActiveSignal for Node {
    fn collect(&mut self, _: u64, cgroups: &Cgroups) -> Result<Readings, SignalError> {
        let node = self.read();
        let of_pods = self.of_first.as_ref().map(|(_, file_systems)| file_systems.of_pods(cgroups));
        Ok(Readings { cgroups: of_pods.unwrap_or_default(), node })
    }

    fn note(&self) -> Option<String> {
        Some(self.missing.join("; ")).filter(|note| !note.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_container_the_first_process_is_not_the_nodes() {
        let sees = |root, namespace: &str| sees_the_node(Path::new(root), Some(Path::new(namespace)));
        assert_eq!(sees("/", "pid:[4026531836]"), Ok(()));
        assert_eq!(sees("/host", "pid:[4026532001]"), Ok(()));
        assert!(sees("/", "pid:[4026532001]").is_err_and(|why| why.contains("set node.root")));
    }
}
