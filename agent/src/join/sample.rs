//! Samples (pure): the points of one resource at one moment.

use std::sync::Arc;

use super::Resource;
use crate::{
    cgroups::{Cgroup, name::Name},
    metric::Point,
};

/// The values of one resource at one moment.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// What they belong to.
    pub resource: Arc<Resource>,
    /// When they were so, CLOCK_BOOTTIME in ns, if not when the batch was read: a successor under the same path has the same resource.
    pub time_ns: Option<u64>,
    /// The values.
    pub points: Vec<Point>,
    /// Values at moments before, oldest first: the exporter adds where counters began.
    pub earlier: Vec<Earlier>,
}

impl Sample {
    /// Values as of when the batch was read.
    pub fn new(resource: Arc<Resource>, points: Vec<Point>) -> Self {
        Self { resource, points, ..Self::default() }
    }
}

/// Values of a sample's resource at a moment before the sample's.
#[derive(Clone, Debug)]
pub struct Earlier {
    /// CLOCK_BOOTTIME in ns.
    pub time_ns: u64,
    /// The values.
    pub points: Vec<Point>,
}

/// The values of one cgroup.
#[derive(Clone, Debug)]
pub struct CgroupSample {
    /// The cgroup.
    pub cgroup: Subject,
    /// Its values.
    pub sample: Sample,
}

impl CgroupSample {
    /// Values of a cgroup: of the moment it was removed if it is gone.
    pub fn new(cgroup: &Cgroup, resource: Arc<Resource>, points: Vec<Point>) -> Self {
        let sample = Sample { time_ns: cgroup.died_ns, ..Sample::new(resource, points) };
        Self { cgroup: Subject::of(cgroup), sample }
    }
}

/// A cgroup as samples carry it.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Inode number: one cgroup's for ever, while paths are made again.
    pub id: u64,
    /// Path from the root of the hierarchy.
    pub path: String,
    /// Its name for people.
    pub name: Name,
    /// Its directory is gone; these are its final values.
    pub ended: bool,
}

impl Subject {
    /// A cgroup's.
    pub fn of(cgroup: &Cgroup) -> Self {
        Self { id: cgroup.id, path: cgroup.path.clone(), name: cgroup.name.clone(), ended: !cgroup.lives() }
    }
}
