//! What neighbours are called (pure): the cpu signal knows paths of cgroups, people know pods.

use std::collections::HashMap;

use super::labels::find;
use crate::{
    cgroups::{Cgroup, Table},
    metric::Point,
    pods::{PodIndex, index::Found},
    signals::cpu::metrics::NEIGHBOUR_WAIT,
};

/// Names of cgroups that others have waited for.
pub(super) struct Names<'a> {
    table: &'a Table,
    index: Option<&'a PodIndex>,
    /// Made when the first is needed: most nodes have none.
    by_path: Option<HashMap<&'a str, &'a Cgroup>>,
}

impl<'a> Names<'a> {
    pub(super) fn new(table: &'a Table, index: Option<&'a PodIndex>) -> Self {
        Self { table, index, by_path: None }
    }

    /// Names the neighbours in the points of a cgroup: `namespace/pod/container` where Kubernetes knows them.
    pub(super) fn name(&mut self, points: &mut [Point]) {
        let Some(index) = self.index else { return };
        for point in points.iter_mut().filter(|point| std::ptr::eq(point.metric, &NEIGHBOUR_WAIT)) {
            let by_path =
                self.by_path.get_or_insert_with(|| self.table.iter().map(|cgroup| (cgroup.path.as_str(), cgroup)).collect());
            let Some((key, path)) = point.attributes.iter().next() else { continue };
            let Some(found) = by_path.get(path).and_then(|cgroup| find(index, cgroup)) else { continue };
            *point = Point::new(point.metric, point.start_ns, point.value.clone()).with(key, name(&found));
        }
    }
}

fn name(found: &Found<'_>) -> String {
    let pod = format!("{}/{}", found.pod.namespace, found.pod.name);
    found.container.map_or(pod.clone(), |container| format!("{pod}/{}", container.name))
}
