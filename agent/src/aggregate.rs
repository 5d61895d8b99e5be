//! Samples -> batches (pure): the points of all signals brought together per resource. The final values of removed cgroups and events
//! are kept until they are exported once.

mod in_force;
mod labels;
mod neighbours;
mod paths;
mod pods;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use self::{
    in_force::RequestsInForce,
    labels::{CgroupLabels, find},
    paths::OldestByPath,
    pods::{PodSamples, UsageByPod},
};
use crate::{
    cgroups::{Cgroup, Table},
    event::Event,
    join::{CgroupSample, NodeIdentity, Resource, Sample},
    kernel::clock::UnixOffset,
    metric::{MetricKind, Point},
    pods::{
        PodIndex,
        follow_metrics::{self, Missing},
        index::Found,
    },
    signals::Readings,
};

/// Everything known at one moment: the input of every exporter.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// When it was read, CLOCK_BOOTTIME in ns, as all times in it.
    pub time_ns: u64,
    /// Makes Unix time of them, as of when the batch leaves.
    pub offset: UnixOffset,
    /// The node's values.
    pub node: Sample,
    /// The values of cgroups, those of retired ones first.
    pub cgroups: Vec<CgroupSample>,
    /// What Kubernetes reports of pods and their containers, whether they run or not.
    pub pods: Vec<Sample>,
    /// Markers of series that have ended: the exporter adds them.
    pub ended: Vec<Sample>,
    /// Counters and distributions have what was counted since the batch before: the exporter makes that of it.
    pub is_delta: bool,
    /// What happened since the batch before.
    pub events: Vec<ResourceEvent>,
}

impl Batch {
    /// All samples.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        let cgroups = self.cgroups.iter().map(|cgroup| &cgroup.sample);
        std::iter::once(&self.node).chain(cgroups).chain(&self.pods).chain(&self.ended)
    }
}

/// An event and the resource that it belongs to.
#[derive(Clone, Debug)]
pub struct ResourceEvent {
    /// The cgroup's, or the node's where the cgroup is not known any more.
    pub resource: Arc<Resource>,
    /// What happened.
    pub event: Event,
}

/// The node's pods, and the time, at one moment.
#[derive(Clone, Copy, Debug)]
pub struct PodsNow<'a> {
    /// What is known of the node's pods.
    pub index: &'a PodIndex,
    /// Since when pods are followed, CLOCK_BOOTTIME in ns.
    pub since_ns: u64,
    /// Now, CLOCK_BOOTTIME in ns.
    pub now_ns: u64,
    /// The same.
    pub now: Instant,
    /// Makes Unix time of boot time.
    pub offset: UnixOffset,
}

/// Keeps what must outlive one collection.
#[derive(Debug)]
pub struct Aggregate {
    node_resource: Arc<Resource>,
    labels: CgroupLabels,
    retired: Vec<RetiredCgroup>,
    /// Each with the cgroup that it happened in, if that was known.
    events: Vec<(Event, Option<Cgroup>)>,
    pods: PodSamples,
    in_force: RequestsInForce,
}

/// A cgroup that is gone, and its final values.
#[derive(Debug)]
struct RetiredCgroup {
    cgroup: Cgroup,
    points: Vec<Point>,
}

impl Aggregate {
    /// For the given node.
    pub fn new(node: NodeIdentity) -> Self {
        Self {
            node_resource: Arc::new(node.resource()),
            labels: CgroupLabels::new(node),
            retired: Vec::new(),
            events: Vec::new(),
            pods: PodSamples::default(),
            in_force: RequestsInForce::default(),
        }
    }

    /// From now on a batch has all there is, with or without a name.
    pub fn wait_no_longer(&mut self) {
        self.labels.wait_no_longer();
    }

    /// A cgroup is gone, and these are its final values: part of the next batch, or of the first that has a name for it, and of no
    /// later one.
    pub fn retire(&mut self, cgroup: &Cgroup, points: Vec<Point>) {
        if points.is_empty() {
            self.labels.forget(cgroup);
        } else {
            self.retired.push(RetiredCgroup { cgroup: cgroup.clone(), points });
        }
    }

    /// Something happened: part of the next batch, or of the first that has a name for its cgroup, and of no later one.
    pub fn note(&mut self, events: Vec<Event>, table: &Table) {
        for event in events {
            let (slot, id) = event.cgroup;
            let cgroup = table.get(slot).filter(|cgroup| cgroup.id == id).cloned();
            self.events.push((event, cgroup));
        }
    }

    /// One collection of all signals, as of `time_ns`, CLOCK_BOOTTIME.
    pub fn batch(&mut self, time_ns: u64, readings: Vec<Readings>, table: &Table, pods: Option<PodsNow<'_>>) -> Batch {
        let mut node = Vec::new();
        let mut by_slot = places(&readings, table.len());
        for reading in readings {
            node.extend(reading.node);
            for (slot, points) in reading.cgroups {
                by_slot.entry(slot).or_default().extend(points);
            }
        }
        self.labels.begin_batch(time_ns);
        self.in_force.learn(table, &by_slot, pods.map(|pods| pods.index));
        let mut cgroups = Vec::with_capacity(by_slot.len() + self.retired.len());
        // Before the retired ones lose their names.
        let events = self.named_events(table, pods);
        let waiting = self.named_retired(table, pods, &mut cgroups);
        let usage = self.living(table, by_slot, &waiting, pods, &mut cgroups);
        let mut pod_samples = Vec::new();
        if let Some(pods) = pods {
            let now = Duration::from_nanos(pods.offset.unix_ns(time_ns));
            node.extend(pods::node_points(pods.index, pods.since_ns));
            pod_samples = self.pods.samples(self.labels.node(), pods.index, &usage, now);
            let missing = Missing { unlabelled: self.labels.unlabelled(), left_out: self.pods.left_out as u64 };
            node.extend(follow_metrics::points(pods.index, pods.since_ns, missing, pods.now));
        }
        let node = Sample::new(Arc::clone(&self.node_resource), node);
        Batch { time_ns, node, cgroups, pods: pod_samples, events, ..Batch::default() }
    }

    /// The events whose cgroups have their names.
    fn named_events(&mut self, table: &Table, pods: Option<PodsNow<'_>>) -> Vec<ResourceEvent> {
        let mut named = Vec::new();
        for (event, cgroup) in std::mem::take(&mut self.events) {
            let resource = match &cgroup {
                Some(cgroup) => self.labels.resource(cgroup, table, pods),
                None => Some(Arc::clone(&self.node_resource)),
            };
            let Some(resource) = resource else {
                self.events.push((event, cgroup));
                continue;
            };
            // One that has been retired meanwhile needs its name no more.
            let is_gone = |cgroup: &Cgroup| table.get(cgroup.slot).is_none_or(|owner| owner.id != cgroup.id);
            let final_values_wait = |cgroup: &Cgroup| self.retired.iter().any(|retired| retired.cgroup.id == cgroup.id);
            if let Some(gone) = cgroup.filter(|cgroup| is_gone(cgroup) && !final_values_wait(cgroup)) {
                self.labels.forget(&gone);
            }
            named.push(ResourceEvent { resource, event });
        }
        named
    }

    /// Adds the retired cgroups that have their names. Returns the paths of those that wait.
    fn named_retired(&mut self, table: &Table, pods: Option<PodsNow<'_>>, into: &mut Vec<CgroupSample>) -> HashSet<String> {
        let mut waiting = HashSet::new();
        // A service that was started again has its predecessor's path and so its series: one after the other, each until its end.
        self.retired.sort_by_key(|retired| retired.cgroup.died_ns);
        for RetiredCgroup { cgroup, points } in std::mem::take(&mut self.retired) {
            if let Some(resource) = self.labels.counted_resource(&cgroup, table, pods) {
                self.labels.forget(&cgroup);
                into.push(CgroupSample::new(&cgroup, resource, points));
            } else {
                waiting.insert(cgroup.path.clone());
                self.retired.push(RetiredCgroup { cgroup, points });
            }
        }
        waiting
    }

    /// Adds the cgroups that have a slot and their names. Returns what pods and containers use.
    fn living<'a>(
        &mut self,
        table: &Table,
        mut by_slot: HashMap<u32, Vec<Point>>,
        waiting: &HashSet<String>,
        pods: Option<PodsNow<'a>>,
        into: &mut Vec<CgroupSample>,
    ) -> UsageByPod<'a> {
        let oldest = OldestByPath::of(table, waiting);
        let mut neighbours = neighbours::Names::new(table, pods.map(|pods| pods.index));
        let mut usage = UsageByPod::default();
        for cgroup in table.iter() {
            let Some(mut points) = by_slot.remove(&cgroup.slot) else { continue };
            // Gauges are the living one's, counters the oldest's whose final values have not left.
            let is_oldest = oldest.is(cgroup);
            if !cgroup.lives() || !is_oldest {
                points.retain(|point| if point.metric.kind == MetricKind::Gauge { cgroup.lives() } else { is_oldest });
            }
            neighbours.name(&mut points);
            let found = pods.and_then(|pods| find(pods.index, cgroup));
            if cgroup.lives() {
                if let Some(Found { pod, container, .. }) = found {
                    usage.enter(pod, container, cgroup.name.kind, cgroup.name.nested, &points);
                }
                self.in_force.settle(&mut points, cgroup, found.as_ref());
            }
            if let Some(resource) = self.labels.counted_resource(cgroup, table, pods).filter(|_| !points.is_empty()) {
                into.push(CgroupSample::new(cgroup, resource, points));
            }
        }
        usage
    }
}

/// For each slot a place of the size that its points need.
fn places(readings: &[Readings], slots: usize) -> HashMap<u32, Vec<Point>> {
    /// Points that a cgroup gets beside those that were read: its requests.
    const MORE: usize = 2;
    let mut counts: HashMap<u32, usize> = HashMap::with_capacity(slots);
    for (slot, points) in readings.iter().flat_map(|reading| &reading.cgroups) {
        *counts.entry(*slot).or_insert(MORE) += points.len();
    }
    counts.into_iter().map(|(slot, count)| (slot, Vec::with_capacity(count))).collect()
}

#[cfg(test)]
mod tests;
