//! Pods as kubelet makes them, with processes that wake and sleep.

use std::time::Duration;

use anyhow::Result;

use crate::{
    cgroup::Cgroup,
    load::{Load, Process},
};

/// Cgroups in the shape of a node's pods. Their processes are killed and they are removed when this value is dropped.
#[derive(Debug)]
pub struct Pods {
    // Before the cgroups: fields are dropped in order.
    processes: Vec<Process>,
    containers: Vec<Cgroup>,
    _tree: Vec<Cgroup>,
}

impl Pods {
    /// The UID in the path of a pod: with underscores, as the systemd driver writes it.
    pub fn uid(pod: usize) -> String {
        format!("{pod:08x}_0000_4000_8000_000000000000")
    }

    /// The id of a container of a pod.
    pub fn container_id(pod: usize, container: usize) -> String {
        format!("{:064x}", (pod << 8) + container + 1)
    }

    /// Makes pods without processes.
    pub fn new(pods: usize, containers_per_pod: usize) -> Result<Self> {
        // Innermost first, since that is the order of removal.
        let (mut containers, mut tree) = (Vec::new(), Vec::new());
        let root = Cgroup::new("kubepods.slice")?;
        let class = root.child("kubepods-burstable.slice")?;
        for pod in 0..pods {
            let pod_cgroup = class.child(&format!("kubepods-burstable-pod{}.slice", Self::uid(pod)))?;
            for container in 0..containers_per_pod {
                let id = Self::container_id(pod, container);
                containers.push(pod_cgroup.child(&format!("cri-containerd-{id}.scope"))?);
            }
            tree.push(pod_cgroup);
        }
        tree.extend([class, root]);
        Ok(Self { processes: Vec::new(), containers, _tree: tree })
    }

    /// Starts processes in every container that use `busy` of CPU time in each `period`.
    pub fn start(&mut self, processes_per_container: usize, busy: Duration, period: Duration, wall: Duration) -> Result<()> {
        for container in &self.containers {
            for _ in 0..processes_per_container {
                self.processes.push(Load::duty_cycle(busy, period, wall).start(container)?);
            }
        }
        Ok(())
    }

    /// The containers' cgroups.
    pub fn cgroups(&self) -> &[Cgroup] {
        &self.containers
    }

    /// Paths of the containers' cgroups.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.containers.iter().map(Cgroup::path)
    }

    /// Number of containers.
    pub fn containers(&self) -> usize {
        self.containers.len()
    }

    /// Number of processes.
    pub fn processes(&self) -> usize {
        self.processes.len()
    }
}
