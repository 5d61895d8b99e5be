//! Cgroups as kubelet makes them, for both of its drivers, below a cgroup of the test's own.

use anyhow::Result;

use crate::cgroup::Cgroup;

/// What makes kubelet's cgroups: `--cgroup-driver`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// `systemd`.
    Systemd,
    /// `cgroupfs`.
    Cgroupfs,
}

/// The top of kubelet's tree: what is below goes with it.
#[derive(Debug)]
pub struct Kubelet {
    driver: Driver,
    // Innermost first, since that is the order of removal.
    levels: Vec<Cgroup>,
}

/// A pod's cgroup.
#[derive(Debug)]
pub struct PodCgroup {
    driver: Driver,
    cgroup: Cgroup,
}

impl Kubelet {
    /// Makes the levels above the pods of class Burstable.
    pub fn new(driver: Driver) -> Result<Self> {
        let levels = match driver {
            Driver::Systemd => {
                let top = Cgroup::new("kubepods.slice")?;
                vec![top.child("kubepods-burstable.slice")?, top]
            }
            Driver::Cgroupfs => {
                let above = Cgroup::new("kubelet")?;
                let top = above.child("kubepods")?;
                vec![top.child("burstable")?, top, above]
            }
        };
        Ok(Self { driver, levels })
    }

    /// Makes the cgroup of a pod of class Burstable.
    pub fn pod(&self, uid: &str) -> Result<PodCgroup> {
        let name = match self.driver {
            Driver::Systemd => format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_")),
            Driver::Cgroupfs => format!("pod{uid}"),
        };
        Ok(PodCgroup { driver: self.driver, cgroup: self.levels[0].child(&name)? })
    }

    /// Its outermost cgroup.
    pub fn top(&self) -> &Cgroup {
        &self.levels[self.levels.len() - 1]
    }
}

impl PodCgroup {
    /// Makes the cgroup of a container with this id, as containerd does.
    pub fn container(&self, id: &str) -> Result<Cgroup> {
        match self.driver {
            Driver::Systemd => self.cgroup.child(&format!("cri-containerd-{id}.scope")),
            Driver::Cgroupfs => self.cgroup.child(id),
        }
    }

    /// The pod's own.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }
}
