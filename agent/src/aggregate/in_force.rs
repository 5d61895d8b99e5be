//! Requests as they are in force (pure): of each living pod and container, from Kubernetes where that knows it, else from
//! its cgroup's files.
//!
//! A file has a weight, and two curves lead there from a request. Which of them this node's kubelet and its runtime use is learnt
//! from the cgroups that Kubernetes knows, whose requests have one weight by the one curve and another by the other. Where it
//! knows none, a container's weight beside its pod's is the evidence: kubelet is known to use the linear curve, and the other one is above it
//! nearly everywhere. A weight that no such evidence explains stands for nothing.

use std::collections::HashMap;

use super::labels::find;
use crate::{
    cgroups::{
        Cgroup, Table,
        name::CgroupKind,
        weight::{Curve, shares},
    },
    metric::{Metric, Point, Value},
    pods::{PodIndex, index::Found, object::Resources, quantity::Quantity, requests},
    signals::limits,
};

/// What is known of the curves from one batch to the next.
#[derive(Debug, Default)]
pub struct RequestsInForce {
    pods: Option<Curve>,
    containers: Option<Curve>,
}

/// The evidence for each curve.
#[derive(Default)]
struct Votes {
    linear: u32,
    quadratic: u32,
}

impl Votes {
    /// A request with this many shares has this weight.
    fn count(&mut self, shares: u64, weight: u64) {
        let [linear, quadratic] = [Curve::Linear, Curve::Quadratic].map(|curve| curve.weight(shares));
        // In the runtimes' own arithmetic a quadratic weight may be rounded to the next one.
        let is_quadratic = weight.abs_diff(quadratic) <= 1;
        self.linear += u32::from(weight == linear && !is_quadratic);
        self.quadratic += u32::from(weight != linear && is_quadratic);
    }

    fn winner(&self) -> Option<Curve> {
        match self.linear.cmp(&self.quadratic) {
            std::cmp::Ordering::Less => Some(Curve::Quadratic),
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => Some(Curve::Linear),
        }
    }
}

impl RequestsInForce {
    /// Learns the curves from the weights of this batch.
    pub fn learn(&mut self, table: &Table, by_slot: &HashMap<u32, Vec<Point>>, known: Option<&PodIndex>) {
        let mut weights = Vec::new();
        let (mut pods, mut containers, mut beside_pods) = (Votes::default(), Votes::default(), Votes::default());
        for cgroup in table.iter().filter(|cgroup| cgroup.lives() && has_request(cgroup)) {
            let Some(weight) = by_slot.get(&cgroup.slot).and_then(|points| weight(points)) else { continue };
            weights.push((cgroup, weight));
            let Some(request) = known.and_then(|known| of(cgroup, find(known, cgroup).as_ref()?)) else { continue };
            let votes = if cgroup.name.kind == CgroupKind::Pod { &mut pods } else { &mut containers };
            votes.count(shares(request.cpu_request.map_or(0, Quantity::milli)), weight);
        }
        let of_pods = weights.iter().filter(|(cgroup, _)| cgroup.name.kind == CgroupKind::Pod);
        let of_pods: HashMap<_, _> = of_pods.map(|(cgroup, weight)| (cgroup.name.pod_uid.as_deref(), *weight)).collect();
        for (cgroup, weight) in weights.iter().filter(|(cgroup, _)| cgroup.name.kind == CgroupKind::Container) {
            let Some(pod) = cgroup.name.pod_uid.as_deref().and_then(|uid| of_pods.get(&Some(uid))) else { continue };
            // By the same curve the only container that requests anything has its pod's weight, and none has more.
            beside_pods.quadratic += u32::from(weight > pod);
            beside_pods.linear += u32::from(weight == pod && *weight > 1);
        }
        self.pods = pods.winner().or(self.pods);
        let beside = || if beside_pods.quadratic > 0 { Some(Curve::Quadratic) } else { beside_pods.winner() };
        let beside = if self.pod_curve() == Curve::Linear { beside() } else { None };
        self.containers = containers.winner().or(self.containers).or(beside);
    }

    fn pod_curve(&self) -> Curve {
        self.pods.unwrap_or(Curve::Linear)
    }

    /// Puts the requests in force in the place of those from the files of this living cgroup.
    pub fn settle(&self, points: &mut Vec<Point>, cgroup: &Cgroup, found: Option<&Found<'_>>) {
        let weight = weight(points);
        points.retain(|point| !is(point, &limits::CPU_WEIGHT));
        if !has_request(cgroup) {
            return;
        }
        points.retain(|point| !is(point, &limits::CPU_REQUEST));
        let cores = if let Some(Resources { cpu_request, memory_request, .. }) = found.and_then(|found| of(cgroup, found)) {
            points.retain(|point| !is(point, &limits::MEMORY_REQUEST));
            points.extend(memory_request.map(|memory| Point::new(&limits::MEMORY_REQUEST, 0, Value::Int(memory.bytes()))));
            cpu_request.map(Quantity::cores)
        } else {
            let curve = if cgroup.name.kind == CgroupKind::Pod { Some(self.pod_curve()) } else { self.containers };
            weight.zip(curve).and_then(|(weight, curve)| curve.cores(weight))
        };
        points.extend(cores.map(|cores| Point::new(&limits::CPU_REQUEST, 0, Value::Float(cores))));
    }
}

/// Whether somebody may have requested CPUs for it: a service's weight, or that of a cgroup in a container, is a share and no more.
fn has_request(cgroup: &Cgroup) -> bool {
    matches!(cgroup.name.kind, CgroupKind::Pod | CgroupKind::Container) && !cgroup.name.nested
}

/// The requests that Kubernetes has; `None` where it does not know the cgroup.
fn of(cgroup: &Cgroup, found: &Found<'_>) -> Option<Resources> {
    let Found { pod, container, .. } = *found;
    match (cgroup.name.kind, container) {
        (CgroupKind::Pod, _) => {
            Some(Resources { cpu_request: requests::cpu(pod), memory_request: requests::memory(pod), ..Resources::default() })
        }
        (CgroupKind::Container, Some(container)) => Some(requests::in_force(pod, container)),
        _ => None,
    }
}

fn weight(points: &[Point]) -> Option<u64> {
    points.iter().find(|point| is(point, &limits::CPU_WEIGHT)).and_then(|point| match point.value {
        Value::Int(weight) => Some(weight),
        _ => None,
    })
}

fn is(point: &Point, metric: &'static Metric) -> bool {
    std::ptr::eq(point.metric, metric)
}

#[cfg(test)]
mod tests;
