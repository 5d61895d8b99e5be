//! Samples -> batches (pure): the signals' points brought together per resource, the last words of the dead kept until they are
//! exported once.

mod in_force;
mod pods;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use self::{
    in_force::InForce,
    pods::{Pods, Used},
};
use crate::{
    cgroups::{Cgroup, Table},
    event::Event,
    join::{
        CgroupSample, Node, Resource, Sample,
        identity::{BY_ID, Unlisted},
    },
    kernel::clock::UnixOffset,
    metric::{self, Point},
    pods::{PodIndex, figures, index::Found},
    signals::Readings,
};

/// How long a pod's cgroup waits for its name, from its birth, and once more from its death, where nothing more is to be expected: the
/// pod is over, or what is known is not current. All that is counted is cumulative, so nothing is lost by waiting; what has no name
/// then is exported by its UID.
const PATIENCE_NS: u64 = 10_000_000_000;

/// The same while the API is followed: kubelet's status manager sends what has changed at once and what it could not send every ten
/// seconds (`syncPeriod`, pkg/kubelet/status/status_manager.go), and a slow node takes several of these.
const STATUS_NS: u64 = 60_000_000_000;

/// The same while a container of the pod has not been started: kubelet tells of those that have only after it has pulled that one's
/// image as well (`SyncPod`, pkg/kubelet/kuberuntime/kuberuntime_manager.go).
const STARTING_NS: u64 = 300_000_000_000;

/// Everything known at one moment: the input of every exporter.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// When it was read, CLOCK_BOOTTIME in ns, as all times in it.
    pub time_ns: u64,
    /// What makes Unix time of them, as of when the batch leaves.
    pub offset: UnixOffset,
    /// The node's values.
    pub node: Sample,
    /// The values of cgroups, those of removed ones first.
    pub cgroups: Vec<CgroupSample>,
    /// What Kubernetes reports of pods and their containers, whether they run or not.
    pub pods: Vec<Sample>,
    /// Markers of series that have ended: the exporter adds them.
    pub ended: Vec<Sample>,
    /// What happened since the batch before.
    pub events: Vec<Occurrence>,
}

impl Batch {
    /// All samples.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        let cgroups = self.cgroups.iter().map(|cgroup| &cgroup.sample);
        std::iter::once(&self.node).chain(cgroups).chain(&self.pods).chain(&self.ended)
    }
}

/// An event, and whose it is.
#[derive(Clone, Debug)]
pub struct Occurrence {
    /// The cgroup's, or the node's where the cgroup is not known any more.
    pub resource: Arc<Resource>,
    /// What happened.
    pub event: Event,
}

/// What names come from, at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// What is known of the node's pods.
    pub known: &'a PodIndex,
    /// Since when pods are followed, CLOCK_BOOTTIME in ns.
    pub since_ns: u64,
    /// Now, CLOCK_BOOTTIME in ns.
    pub now_ns: u64,
    /// The same.
    pub now: Instant,
    /// What makes Unix time of boot time.
    pub offset: UnixOffset,
}

/// Keeps what must outlive one collection.
#[derive(Debug)]
pub struct Aggregate {
    node: Node,
    node_resource: Arc<Resource>,
    /// By the cgroup's id: a slot has many owners in its life.
    labels: HashMap<u64, Label>,
    ended: Vec<Ended>,
    /// Each with the cgroup that it happened in, if that was known.
    events: Vec<(Event, Option<Cgroup>)>,
    pods: Pods,
    in_force: InForce,
    /// When the first batch was made, CLOCK_BOOTTIME in ns.
    began_ns: Option<u64>,
    /// Whether to wait for names.
    patient: bool,
}

/// What a cgroup is called.
#[derive(Clone, Debug)]
struct Label {
    resource: Arc<Resource>,
    /// Of what is known, when this was made.
    revision: u64,
    /// Nothing is missing.
    complete: bool,
    sandbox: bool,
    /// It was exported as a container of its pod without a name. What it was called then it keeps, so that names are added to one
    /// series and do not begin another.
    by_id: bool,
}

/// A cgroup that is gone, and its last words.
#[derive(Debug)]
struct Ended {
    cgroup: Cgroup,
    points: Vec<Point>,
}

impl Aggregate {
    /// For the given node.
    pub fn new(node: Node) -> Self {
        Self {
            node_resource: Arc::new(node.resource()),
            node,
            labels: HashMap::new(),
            ended: Vec::new(),
            events: Vec::new(),
            pods: Pods::default(),
            in_force: InForce::default(),
            began_ns: None,
            patient: true,
        }
    }

    /// From now on a batch has all there is, with or without a name.
    pub fn wait_no_longer(&mut self) {
        self.patient = false;
    }

    /// A cgroup is gone, and this is all it ever did: part of the next batch, or of the first that has a name for it, and of no
    /// later one.
    pub fn retire(&mut self, cgroup: &Cgroup, points: Vec<Point>) {
        if points.is_empty() {
            self.labels.remove(&cgroup.id);
        } else {
            self.ended.push(Ended { cgroup: cgroup.clone(), points });
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

    /// The events whose cgroups have their names.
    fn told(&mut self, table: &Table, names: Option<Names<'_>>) -> Vec<Occurrence> {
        let mut told = Vec::new();
        for (event, cgroup) in std::mem::take(&mut self.events) {
            let resource = match &cgroup {
                // Counted with the points of the same cgroup.
                Some(cgroup) => self.label(cgroup, table, names, &mut 0).map(|label| label.resource),
                None => Some(Arc::clone(&self.node_resource)),
            };
            match resource {
                Some(resource) => {
                    // One that has been retired meanwhile needs its name no more.
                    let is_gone = |cgroup: &Cgroup| table.get(cgroup.slot).is_none_or(|owner| owner.id != cgroup.id);
                    let final_values_wait = |cgroup: &Cgroup| self.ended.iter().any(|ended| ended.cgroup.id == cgroup.id);
                    if let Some(gone) = cgroup.filter(|cgroup| is_gone(cgroup) && !final_values_wait(cgroup)) {
                        self.labels.remove(&gone.id);
                    }
                    told.push(Occurrence { resource, event });
                }
                None => self.events.push((event, cgroup)),
            }
        }
        told
    }

    /// One collection of all signals, as of `time_ns`, CLOCK_BOOTTIME.
    pub fn batch(&mut self, time_ns: u64, readings: Vec<Readings>, table: &Table, names: Option<Names<'_>>) -> Batch {
        let mut by_slot: HashMap<u32, Vec<Point>> = HashMap::with_capacity(table.len());
        let mut node = Vec::new();
        for reading in readings {
            node.extend(reading.node);
            for (slot, points) in reading.cgroups {
                by_slot.entry(slot).or_default().extend(points);
            }
        }
        self.began_ns.get_or_insert(time_ns);
        self.in_force.learn(table, &by_slot, names.map(|names| names.known));
        let mut cgroups = Vec::with_capacity(by_slot.len() + self.ended.len());
        let mut unlabelled = 0;
        // Before the dead lose their names.
        let events = self.told(table, names);
        // A service that was started again has its predecessor's path and so its series: one after the other, each until its end.
        self.ended.sort_by_key(|ended| ended.cgroup.died_ns);
        let mut waiting = HashSet::new();
        for Ended { cgroup, points } in std::mem::take(&mut self.ended) {
            let Some(label) = self.label(&cgroup, table, names, &mut unlabelled) else {
                waiting.insert(cgroup.path.clone());
                self.ended.push(Ended { cgroup, points });
                continue;
            };
            self.labels.remove(&cgroup.id);
            cgroups.push(CgroupSample::new(&cgroup, label.resource, points));
        }
        let mut oldest: HashMap<&str, (u64, u64)> = HashMap::with_capacity(table.len());
        let age = |cgroup: &Cgroup| (cgroup.born_ns, cgroup.id);
        for cgroup in table.iter().filter(|cgroup| !waiting.contains(&cgroup.path)) {
            oldest.entry(&cgroup.path).and_modify(|oldest| *oldest = age(cgroup).min(*oldest)).or_insert(age(cgroup));
        }
        let mut used = Used::default();
        for cgroup in table.iter() {
            let Some(mut points) = by_slot.remove(&cgroup.slot) else { continue };
            // What is so now is the living one's, what was counted so far the oldest's whose final values have not left.
            let is_oldest = oldest.get(cgroup.path.as_str()) == Some(&age(cgroup));
            if !cgroup.lives() || !is_oldest {
                points.retain(|point| if point.metric.kind == metric::MetricKind::Gauge { cgroup.lives() } else { is_oldest });
            }
            let found = names.and_then(|names| find(names.known, cgroup));
            if cgroup.lives() {
                if let Some(Found { pod, container, .. }) = found {
                    used.enter(pod, container, cgroup.name.kind, cgroup.name.nested, &points);
                }
                self.in_force.settle(&mut points, cgroup, found.as_ref());
            }
            if let Some(label) = self.label(cgroup, table, names, &mut unlabelled).filter(|_| !points.is_empty()) {
                cgroups.push(CgroupSample::new(cgroup, label.resource, points));
            }
        }
        let mut pods = Vec::new();
        if let Some(names) = names {
            node.extend(pods::node_points(names.known));
            pods = self.pods.samples(&self.node, names.known, &used, Duration::from_nanos(names.offset.unix_ns(time_ns)));
            let left_out = self.pods.left_out as u64;
            node.extend(figures::points(names.known, names.since_ns, figures::Missing { unlabelled, left_out }, names.now));
        }
        let node = Sample::new(Arc::clone(&self.node_resource), node);
        Batch { time_ns, offset: UnixOffset::default(), node, cgroups, pods, ended: Vec::new(), events }
    }

    /// What a cgroup is called; `None` while it waits for its name. `unlabelled` counts those that have none.
    fn label(&mut self, cgroup: &Cgroup, table: &Table, names: Option<Names<'_>>, unlabelled: &mut u64) -> Option<Label> {
        let names = names.filter(|_| cgroup.name.pod_uid.is_some());
        let Some(names) = names else {
            let node = &self.node;
            let make = || Label {
                resource: Arc::new(node.resource_of(cgroup)),
                revision: 0,
                complete: true,
                sandbox: false,
                by_id: false,
            };
            return Some(self.labels.entry(cgroup.id).or_insert_with(make).clone());
        };
        let found = find(names.known, cgroup);
        let revision = found.as_ref().map_or(0, |found| found.revision);
        let before = self.labels.get(&cgroup.id);
        if let Some(label) = before.filter(|label| label.complete && (label.revision == revision || found.is_none())) {
            return Some(label.clone());
        }
        let sandbox = before.is_some_and(|label| label.sandbox)
            || found.as_ref().is_some_and(|found| found.container.is_none()) && is_sandbox(cgroup, table, names.known);
        let needs_container = cgroup.name.container_id.is_some();
        let complete = found.as_ref().is_some_and(|found| !needs_container || found.container.is_some() || sandbox);
        if !complete {
            *unlabelled += 1;
            let since_ns = self.began_ns.unwrap_or(0).max(cgroup.born_ns).max(cgroup.died_ns.unwrap_or(0));
            if self.patient && names.now_ns.saturating_sub(since_ns) < patience_ns(names.known, found.as_ref()) {
                return None;
            }
        }
        let unlisted = if sandbox { Unlisted::Sandbox } else { Unlisted::Unknown };
        let mut resource = match &found {
            Some(found) => self.node.resource_in(cgroup, found, unlisted),
            None => self.node.resource_of(cgroup),
        };
        let by_id = before.filter(|label| label.by_id).map(|label| Arc::clone(&label.resource));
        if let Some(before) = &by_id {
            resource.keep(&BY_ID, before);
        }
        let by_id = by_id.is_some() || found.is_some() && !complete;
        let label = Label { resource: Arc::new(resource), revision, complete, sandbox, by_id };
        self.labels.insert(cgroup.id, label.clone());
        Some(label)
    }
}

fn patience_ns(known: &PodIndex, found: Option<&Found<'_>>) -> u64 {
    if !known.figures.following(figures::Followed::Pods).current {
        // A list may be on its way that is put off so that a cluster's agents do not ask all at once.
        return PATIENCE_NS + known.figures.spread.as_nanos() as u64;
    }
    match found {
        Some(found) if found.is_settled() => PATIENCE_NS,
        Some(found) if found.is_starting() => STARTING_NS,
        _ => STATUS_NS,
    }
}

fn find<'a>(known: &'a PodIndex, cgroup: &Cgroup) -> Option<Found<'a>> {
    known.find(cgroup.name.pod_uid.as_deref()?, cgroup.name.container_id.as_deref())
}

/// Whether a container that Kubernetes does not list is its pod's sandbox: it lives, and it is older than one that is listed. A
/// container whose whole life the API has missed is older too, but dead; one that has just begun is younger.
fn is_sandbox(cgroup: &Cgroup, table: &Table, known: &PodIndex) -> bool {
    let listed = |other: &Cgroup| find(known, other).is_some_and(|found| found.container.is_some());
    let sibling =
        |other: &&Cgroup| other.name.pod_uid == cgroup.name.pod_uid && other.parent == cgroup.parent && other.id > cgroup.id;
    cgroup.lives() && !cgroup.name.nested && table.iter().filter(sibling).any(listed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cgroups::table::tests::cgroup,
        metric::Value,
        pods::object::{Container, Phase, Pod},
        signals::cpu,
    };

    fn point(value: f64) -> Point {
        Point::new(&cpu::TIME, 0, Value::Float(value))
    }

    fn paths(batch: &Batch) -> Vec<(&str, bool, usize)> {
        batch.cgroups.iter().map(|c| (c.cgroup.path.as_str(), c.cgroup.ended, c.sample.points.len())).collect()
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
        let batch = aggregate.batch(1, readings(), &table, None);
        assert_eq!(paths(&batch), [("/a", false, 2)]);
        assert_eq!(batch.node.points, [point(9.0)]);

        let mut dead = table.remove(1).expect("known");
        dead.died_ns = Some(1);
        aggregate.retire(&dead, vec![point(3.0)]);
        let mut next = cgroup(1, "/b", None);
        next.id += 1;
        table.insert(next);
        assert_eq!(paths(&aggregate.batch(2, readings(), &table, None)), [("/a", true, 1), ("/b", false, 2)]);
        assert_eq!(paths(&aggregate.batch(3, readings(), &table, None)), [("/b", false, 2)], "last words are said once");
    }

    #[test]
    fn a_service_that_was_started_again_counts_when_its_predecessors_final_values_have_left() {
        let mut aggregate = Aggregate::new(Node::default());
        let mut dead = cgroup(2, "/a", None);
        dead.died_ns = Some(7);
        let mut table = Table::default();
        let mut successor = cgroup(1, "/a", None);
        (successor.id, successor.born_ns) = (2000, 8);
        table.insert(successor);
        table.insert(dead.clone());
        let both = |n: f64| vec![point(n), Point::new(&cpu::USAGE, 0, Value::Float(n))];
        let readings = || vec![Readings { cgroups: vec![(1, both(1.0)), (2, both(2.0))], node: Vec::new() }];
        let said = |batch: &Batch| -> Vec<_> {
            let of = |sample: &Sample| (sample.time_ns, sample.points.iter().map(|p| (p.metric.kind, p.value.clone())).collect());
            batch.cgroups.iter().map(|cgroup| of(&cgroup.sample)).collect::<Vec<(Option<u64>, Vec<_>)>>()
        };
        let (counter, gauge) = (metric::MetricKind::Counter, metric::MetricKind::Gauge);
        let waits = said(&aggregate.batch(9, readings(), &table, None));
        assert_eq!(waits, [(None, vec![(gauge, Value::Float(1.0))]), (Some(7), vec![(counter, Value::Float(2.0))])]);
        table.remove(2);
        aggregate.retire(&dead, vec![point(3.0)]);
        let batch = said(&aggregate.batch(20, readings(), &table, None));
        let living = vec![(counter, Value::Float(1.0)), (gauge, Value::Float(1.0))];
        assert_eq!(batch, [(Some(7), vec![(counter, Value::Float(3.0))]), (None, living)]);
    }

    #[test]
    fn readings_of_slots_without_an_owner_are_left_out() {
        let mut aggregate = Aggregate::new(Node::default());
        let readings = vec![Readings { cgroups: vec![(7, vec![point(1.0)])], node: Vec::new() }];
        assert!(paths(&aggregate.batch(1, readings, &Table::default(), None)).is_empty());
    }

    const UID: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";

    fn known(ids: &[(&str, &str)]) -> PodIndex {
        let containers =
            ids.iter().map(|(name, id)| Container { name: (*name).into(), id: Some((*id).into()), ..Container::default() });
        let mut known = PodIndex::default();
        known.set_pod(Pod {
            uid: UID.into(),
            name: "web".into(),
            namespace: "shop".into(),
            containers: containers.collect(),
            ..Pod::default()
        });
        known
    }

    fn names(known: &PodIndex, now_ns: u64) -> Option<Names<'_>> {
        Some(Names { known, since_ns: 0, now_ns, now: Instant::now(), offset: UnixOffset::default() })
    }

    /// The container's name, or else its type, of each exported cgroup.
    fn called(batch: &Batch) -> Vec<Option<&str>> {
        let name =
            |sample: &Sample, key: &str| -> Option<usize> { sample.resource.attributes.iter().position(|(k, _)| k == key) };
        let of = |sample: &'_ Sample| name(sample, "k8s.container.name").or_else(|| name(sample, "podmeter.container.type"));
        let cgroups = batch.cgroups.iter().map(|cgroup| &cgroup.sample);
        cgroups.map(|sample| of(sample).map(|at| sample.resource.attributes[at].1.as_str())).collect()
    }

    fn container_cgroup(slot: u32, digit: &str) -> Cgroup {
        cgroup(slot, &format!("/kubepods/pod{UID}/{}", digit.repeat(64)), Some(1))
    }

    fn readings() -> Vec<Readings> {
        vec![Readings { cgroups: (1..5).map(|slot| (slot, vec![point(f64::from(slot))])).collect(), node: Vec::new() }]
    }

    #[test]
    fn a_container_waits_for_its_name_and_not_for_ever() {
        let mut aggregate = Aggregate::new(Node::default());
        let mut table = Table::default();
        table.insert(container_cgroup(2, "a"));
        table.insert(cgroup(3, "/other", None));
        let nobody = PodIndex::default();
        assert_eq!(called(&aggregate.batch(0, readings(), &table, names(&nobody, 0))), [None], "only the other one");
        let waited = aggregate.batch(2, readings(), &table, names(&nobody, PATIENCE_NS));
        assert_eq!(called(&waited), [None, None], "by its UID");
        let named = known(&[("app", &"a".repeat(64))]);
        assert_eq!(called(&aggregate.batch(3, readings(), &table, names(&named, PATIENCE_NS + 1))), [Some("app"), None]);
        assert_eq!(
            called(&aggregate.batch(4, readings(), &table, names(&nobody, PATIENCE_NS + 2))),
            [Some("app"), None],
            "it is kept"
        );
    }

    #[test]
    fn a_list_that_is_put_off_is_waited_for() {
        let mut aggregate = Aggregate::new(Node::default());
        let mut table = Table::default();
        table.insert(container_cgroup(2, "a"));
        let mut nobody = PodIndex::default();
        nobody.figures.spread = Duration::from_secs(5);
        let mut called_at =
            |known: &PodIndex, now_ns| called(&aggregate.batch(0, readings(), &table, names(known, now_ns))).len();
        assert_eq!((called_at(&nobody, 0), called_at(&nobody, PATIENCE_NS)), (0, 0));
        assert_eq!(called_at(&nobody, PATIENCE_NS + 5_000_000_000), 1, "it does not come");
    }

    #[test]
    fn a_container_waits_as_long_as_kubelets_status_takes() {
        let (mut table, id) = (Table::default(), "a".repeat(64));
        table.insert(container_cgroup(2, "a"));
        // For how long a container of this pod waits that the status does not tell of.
        let waits = |known: &mut PodIndex| {
            known.figures.following_mut(figures::Followed::Pods).works();
            let known = &*known;
            let exported_at = |now_ns| {
                let mut aggregate = Aggregate::new(Node::default());
                aggregate.batch(0, readings(), &table, names(known, 0));
                called(&aggregate.batch(now_ns, readings(), &table, names(known, now_ns))).len() == 1
            };
            [PATIENCE_NS, STATUS_NS, STARTING_NS].map(exported_at)
        };
        let other = "b".repeat(64);
        let pod = |id: Option<&str>, phase| Pod {
            containers: vec![
                Container { name: "proxy".into(), id: Some(other.as_str().into()), ..Container::default() },
                Container { name: "app".into(), id: id.map(Into::into), ..Container::default() },
            ],
            phase,
            ..Pod { uid: UID.into(), ..Pod::default() }
        };
        let with = |pod: Pod| {
            let mut known = PodIndex::default();
            known.set_pod(pod);
            known
        };
        assert_eq!(waits(&mut PodIndex::default()), [false, true, true], "a pod that the API does not have yet");
        assert_eq!(waits(&mut with(pod(None, None))), [false, false, true], "an image is being pulled");
        assert_eq!(waits(&mut with(pod(Some("the one before"), None))), [false, true, true], "it was started again");
        assert_eq!(waits(&mut with(pod(None, Some(Phase::Failed)))), [true; 3], "nothing more will be said");
        assert_eq!(waits(&mut with(pod(Some(&id), None))), [true; 3], "its name is known");
    }

    #[test]
    fn names_are_added_to_a_container_that_was_exported_without_and_none_changes() {
        let mut aggregate = Aggregate::new(Node::default());
        let mut table = Table::default();
        table.insert(container_cgroup(2, "a"));
        let attributes = |batch: &Batch| batch.cgroups[0].sample.resource.attributes.clone();
        let (unnamed, named) = (known(&[("app", "another")]), known(&[("app", &"a".repeat(64))]));
        let first = attributes(&aggregate.batch(0, readings(), &table, names(&unnamed, PATIENCE_NS)));
        assert!(first.iter().any(|(key, value)| key == "service.instance.id" && value == "shop.web.aaaaaaaaaaaa"), "{first:?}");
        for now_ns in [PATIENCE_NS + 1, PATIENCE_NS + 2] {
            let then = attributes(&aggregate.batch(1, readings(), &table, names(&named, now_ns)));
            assert!(first.iter().all(|attribute| then.contains(attribute)), "{first:?} {then:?}");
            assert!(then.contains(&("k8s.container.name".to_owned(), "app".to_owned())), "{then:?}");
        }
    }

    #[test]
    fn last_words_wait_for_a_name_and_are_said_once() {
        let mut aggregate = Aggregate::new(Node::default());
        let (table, nobody) = (Table::default(), PodIndex::default());
        let mut dead = container_cgroup(2, "a");
        dead.died_ns = Some(5);
        aggregate.retire(&dead, vec![point(1.0)]);
        assert!(called(&aggregate.batch(1, Vec::new(), &table, names(&nobody, 6))).is_empty());
        let named = known(&[("app", &"a".repeat(64))]);
        assert_eq!(called(&aggregate.batch(2, Vec::new(), &table, names(&named, 7))), [Some("app")]);
        assert!(called(&aggregate.batch(3, Vec::new(), &table, names(&named, 8))).is_empty());
        // Nobody tells of this one, and the agent ends.
        let mut unheard = container_cgroup(3, "b");
        unheard.died_ns = Some(5);
        aggregate.retire(&unheard, vec![point(1.0)]);
        assert!(called(&aggregate.batch(4, Vec::new(), &table, names(&named, 9))).is_empty());
        aggregate.wait_no_longer();
        assert_eq!(called(&aggregate.batch(5, Vec::new(), &table, names(&named, 10))), [None]);
        assert!(aggregate.labels.is_empty(), "nothing is kept of the dead");
    }

    #[test]
    fn the_oldest_container_that_lives_and_is_not_listed_is_the_sandbox() {
        let mut aggregate = Aggregate::new(Node::default());
        let mut table = Table::default();
        for (slot, digit) in [(2, "a"), (3, "b"), (4, "c")] {
            table.insert(container_cgroup(slot, digit));
        }
        let listed = known(&[("app", &"b".repeat(64))]);
        assert_eq!(
            called(&aggregate.batch(1, readings(), &table, names(&listed, 0))),
            [Some("sandbox"), Some("app")],
            "c is new"
        );
        let both = known(&[("app", &"b".repeat(64)), ("proxy", &"c".repeat(64))]);
        let batch = aggregate.batch(2, readings(), &table, names(&both, 1));
        assert_eq!(called(&batch), [Some("sandbox"), Some("app"), Some("proxy")]);
        // What it was found to be is known when it is gone.
        let mut sandbox = table.remove(2).expect("is there");
        sandbox.died_ns = Some(2);
        aggregate.retire(&sandbox, vec![point(1.0)]);
        // Also where something happened in it, which is told first.
        let details = Vec::new();
        let event = Event { name: "test", cgroup: (2, sandbox.id), time_ns: 2, body: String::new(), attributes: details };
        aggregate.events.push((event, Some(sandbox)));
        let batch = aggregate.batch(3, readings(), &table, names(&both, 3));
        assert_eq!(called(&batch), [Some("sandbox"), Some("app"), Some("proxy")]);
        assert!(!aggregate.labels.contains_key(&1002), "nothing is kept of what is gone");
    }
}
