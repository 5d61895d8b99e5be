//! Samples -> batches (pure): the signals' points brought together per resource, the last words of the dead kept until they are
//! exported once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    cgroups::{Cgroup, Table},
    join::{Node, Resource, Sample, Subject},
    signals::{Readings, event::Event, metric::Point},
};

/// Everything known at one moment: the input of every exporter.
#[derive(Clone, Debug)]
pub struct Batch {
    /// When it was read, Unix time in ns.
    pub time_unix_ns: u64,
    /// What was read.
    pub samples: Vec<Sample>,
    /// What happened since the batch before.
    pub events: Vec<Occurrence>,
}

/// An event, and whose it is.
#[derive(Clone, Debug)]
pub struct Occurrence {
    /// The cgroup's, or the node's where the cgroup is not known any more.
    pub resource: Arc<Resource>,
    /// What happened.
    pub event: Event,
}

/// Keeps what must outlive one collection.
#[derive(Debug)]
pub struct Aggregate {
    node: Node,
    node_resource: Arc<Resource>,
    /// By the cgroup's id: a slot has many owners in its life.
    resources: HashMap<u64, Arc<Resource>>,
    ended: Vec<Sample>,
    events: Vec<Occurrence>,
}

impl Aggregate {
    /// For the given node.
    pub fn new(node: Node) -> Self {
        Self { node_resource: Arc::new(node.resource()), node, resources: HashMap::new(), ended: Vec::new(), events: Vec::new() }
    }

    /// A cgroup is gone, and this is all it ever did: part of the next batch, and of no later one.
    pub fn bury(&mut self, cgroup: &Cgroup, points: Vec<Point>) {
        if !points.is_empty() {
            let resource = self.resource(cgroup);
            let lived_ns = cgroup.died_ns.unwrap_or(cgroup.born_ns).saturating_sub(cgroup.born_ns);
            let time_unix_ns = Some(cgroup.born_unix_ns + lived_ns);
            self.ended.push(Sample { cgroup: Some(Subject::of(cgroup)), time_unix_ns, resource, points });
        }
        self.resources.remove(&cgroup.id);
    }

    /// Something happened: part of the next batch, and of no later one.
    pub fn note(&mut self, events: Vec<Event>, table: &Table) {
        for event in events {
            let (slot, id) = event.cgroup;
            let resource = match table.get(slot).filter(|cgroup| cgroup.id == id) {
                Some(cgroup) => self.resource(cgroup),
                None => Arc::clone(&self.node_resource),
            };
            self.events.push(Occurrence { resource, event });
        }
    }

    /// One collection of all signals.
    pub fn batch(&mut self, time_unix_ns: u64, readings: Vec<Readings>, table: &Table) -> Batch {
        let mut by_slot: HashMap<u32, Vec<Point>> = HashMap::with_capacity(table.len());
        let mut node = Vec::new();
        for reading in readings {
            node.extend(reading.node);
            for (slot, points) in reading.cgroups {
                by_slot.entry(slot).or_default().extend(points);
            }
        }
        let mut samples = Vec::with_capacity(by_slot.len() + self.ended.len() + 1);
        // A service that was started again has its predecessor's path and so its series: two values at one moment are one too many.
        let living: HashSet<&str> = table.iter().filter(|c| c.lives()).map(|c| c.path.as_str()).collect();
        for ended in &mut self.ended {
            if !ended.cgroup.as_ref().is_some_and(|c| living.contains(c.path.as_str())) {
                ended.time_unix_ns = None;
            }
        }
        samples.push(Sample { cgroup: None, time_unix_ns: None, resource: Arc::clone(&self.node_resource), points: node });
        samples.append(&mut self.ended);
        for cgroup in table.iter().filter(|c| c.lives() || !living.contains(c.path.as_str())) {
            if let Some(points) = by_slot.remove(&cgroup.slot) {
                let resource = self.resource(cgroup);
                samples.push(Sample { cgroup: Some(Subject::of(cgroup)), time_unix_ns: None, resource, points });
            }
        }
        Batch { time_unix_ns, samples, events: std::mem::take(&mut self.events) }
    }

    fn resource(&mut self, cgroup: &Cgroup) -> Arc<Resource> {
        let node = &self.node;
        Arc::clone(self.resources.entry(cgroup.id).or_insert_with(|| Arc::new(node.resource_of(cgroup))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cgroups::table::tests::cgroup,
        signals::{cpu, metric::Value},
    };

    fn point(value: f64) -> Point {
        Point::new(&cpu::TIME, 0, Value::Float(value))
    }

    fn paths(batch: &Batch) -> Vec<(&str, bool, usize)> {
        batch.samples.iter().filter_map(|s| s.cgroup.as_ref().map(|c| (c.path.as_str(), c.ended, s.points.len()))).collect()
    }

    #[test]
    fn birth_death_and_a_slots_next_owner() {
        let mut aggregate = Aggregate::new(Node::default());
        let mut table = Table::default();
        table.insert(cgroup(1, "/a", None));
        let readings = || {
            vec![
                Readings { cgroups: vec![(1, vec![point(1.0)])], node: vec![point(9.0)] },
                Readings { cgroups: vec![(1, vec![point(2.0)])], node: Vec::new() },
            ]
        };
        let batch = aggregate.batch(1, readings(), &table);
        assert_eq!(paths(&batch), [("/a", false, 2)]);
        assert_eq!(batch.samples[0].points, [point(9.0)], "the node comes first");

        let mut dead = table.remove(1).expect("known");
        dead.died_ns = Some(1);
        aggregate.bury(&dead, vec![point(3.0)]);
        let mut next = cgroup(1, "/b", None);
        next.id += 1;
        table.insert(next);
        assert_eq!(paths(&aggregate.batch(2, readings(), &table)), [("/a", true, 1), ("/b", false, 2)]);
        assert_eq!(paths(&aggregate.batch(3, readings(), &table)), [("/b", false, 2)], "last words are said once");
    }

    #[test]
    fn a_service_that_was_started_again_never_has_two_values_at_one_moment() {
        let mut aggregate = Aggregate::new(Node::default());
        let mut dead = cgroup(1, "/a", None);
        dead.died_ns = Some(7);
        let mut table = Table::default();
        table.insert(dead.clone());
        let mut successor = cgroup(2, "/a", None);
        successor.id += 1;
        table.insert(successor);
        let readings = || vec![Readings { cgroups: vec![(1, vec![point(1.0)]), (2, vec![point(2.0)])], node: Vec::new() }];
        assert_eq!(paths(&aggregate.batch(9, readings(), &table)), [("/a", false, 1)], "the successor's alone");
        table.remove(1);
        aggregate.bury(&dead, vec![point(1.0)]);
        let batch = aggregate.batch(2_000_000_000, readings(), &table);
        assert_eq!(paths(&batch), [("/a", true, 1), ("/a", false, 1)]);
        assert_eq!(batch.samples[1].time_unix_ns, Some(1_000_000_007), "its last words are of when it died");
    }

    #[test]
    fn readings_of_slots_without_an_owner_are_left_out() {
        let mut aggregate = Aggregate::new(Node::default());
        let readings = vec![Readings { cgroups: vec![(7, vec![point(1.0)])], node: Vec::new() }];
        assert!(paths(&aggregate.batch(1, readings, &Table::default())).is_empty());
    }
}
