//! A cluster of one node: its API server, kubelet's cgroups, and pods that are in both.

use anyhow::Result;

use super::{
    ApiOptions, ApiServer,
    objects::{self, Container, Pod},
    tree::{Driver, Kubelet, PodCgroup},
};
use crate::cgroup::Cgroup;

/// A cluster of one node, `node-1`.
#[derive(Debug)]
pub struct Cluster {
    /// The API.
    pub server: ApiServer,
    /// The cgroups.
    pub kubelet: Kubelet,
}

/// A pod with its cgroups.
#[derive(Debug)]
pub struct RunningPod {
    // The container first, since that is the order of removal.
    /// The cgroup of its first container.
    pub container: Cgroup,
    /// The pod's own cgroup.
    pub cgroup: PodCgroup,
    /// The object.
    pub pod: Pod,
}

impl Cluster {
    /// Makes the node, without pods.
    pub fn new(driver: Driver, options: ApiOptions) -> Result<Self> {
        let server = ApiServer::start(options)?;
        server.set("nodes", objects::node("node-1", "3800m", "14Gi"));
        Ok(Self { server, kubelet: Kubelet::new(driver)? })
    }

    /// Makes a pod of one container, `app`, which requests nothing.
    pub fn run(&self, name: &str) -> Result<RunningPod> {
        self.run_pod(Pod::new(name, vec![Container::started("app")]))
    }

    /// Makes a pod in the API, then its cgroup and that of its first container.
    pub fn run_pod(&self, pod: Pod) -> Result<RunningPod> {
        self.server.set_pod(&pod);
        let cgroup = self.kubelet.pod(&pod.uid)?;
        let container = cgroup.container(pod.containers[0].bare_id())?;
        Ok(RunningPod { container, cgroup, pod })
    }
}
