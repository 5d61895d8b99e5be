use std::time::{Duration, Instant};

use super::*;
use crate::{
    aggregate::{Aggregate, Batch, tests::point},
    cgroups::table::tests::cgroup,
    event::Event,
    kernel::clock::UnixOffset,
    pods::object::{Container, Pod, PodPhase},
    signals::Readings,
};

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

fn names(known: &PodIndex, now_ns: u64) -> Option<PodsNow<'_>> {
    Some(PodsNow { index: known, since_ns: 0, now_ns, now: Instant::now(), offset: UnixOffset::default() })
}

/// The container's name, or else its type, of each exported cgroup.
fn called(batch: &Batch) -> Vec<Option<&str>> {
    let resources = batch.cgroups.iter().map(|cgroup| &cgroup.sample.resource);
    resources.map(|resource| resource.get("k8s.container.name").or_else(|| resource.get("podmeter.container.type"))).collect()
}

fn container_cgroup(slot: u32, digit: &str) -> Cgroup {
    cgroup(slot, &format!("/kubepods/pod{UID}/{}", digit.repeat(64)), Some(1))
}

fn readings() -> Vec<Readings> {
    vec![Readings { cgroups: (1..5).map(|slot| (slot, vec![point(f64::from(slot))])).collect(), node: Vec::new() }]
}

#[test]
fn a_container_waits_for_its_name_and_not_for_ever() {
    let mut aggregate = Aggregate::new(NodeIdentity::default());
    let mut table = Table::default();
    table.insert(container_cgroup(2, "a"));
    table.insert(cgroup(3, "/other", None));
    let empty = PodIndex::default();
    assert_eq!(called(&aggregate.batch(0, readings(), &table, names(&empty, 0))), [None], "only the other one");
    let waited = aggregate.batch(2, readings(), &table, names(&empty, PATIENCE_NS));
    assert_eq!(called(&waited), [None, None], "by its UID");
    let named = known(&[("app", &"a".repeat(64))]);
    assert_eq!(called(&aggregate.batch(3, readings(), &table, names(&named, PATIENCE_NS + 1))), [Some("app"), None]);
    assert_eq!(
        called(&aggregate.batch(4, readings(), &table, names(&empty, PATIENCE_NS + 2))),
        [Some("app"), None],
        "it is kept"
    );
}

#[test]
fn a_list_that_is_put_off_is_waited_for() {
    let mut aggregate = Aggregate::new(NodeIdentity::default());
    let mut table = Table::default();
    table.insert(container_cgroup(2, "a"));
    let mut empty = PodIndex::default();
    empty.stats.spread = Duration::from_secs(5);
    let mut called_at = |known: &PodIndex, now_ns| called(&aggregate.batch(0, readings(), &table, names(known, now_ns))).len();
    assert_eq!((called_at(&empty, 0), called_at(&empty, PATIENCE_NS)), (0, 0));
    assert_eq!(called_at(&empty, PATIENCE_NS + 5_000_000_000), 1, "it does not come");
}

#[test]
fn a_container_waits_as_long_as_kubelets_status_takes() {
    let (mut table, id) = (Table::default(), "a".repeat(64));
    table.insert(container_cgroup(2, "a"));
    // How long a container waits that the status of this pod does not have.
    let waits = |known: &mut PodIndex| {
        known.stats.following_mut(Followed::Pods).works();
        let known = &*known;
        let exported_at = |now_ns| {
            let mut aggregate = Aggregate::new(NodeIdentity::default());
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
    assert_eq!(waits(&mut with(pod(None, Some(PodPhase::Failed)))), [true; 3], "the status will not change any more");
    assert_eq!(waits(&mut with(pod(Some(&id), None))), [true; 3], "its name is known");
}

#[test]
fn names_are_added_to_a_container_that_was_exported_without_and_none_changes() {
    let mut aggregate = Aggregate::new(NodeIdentity::default());
    let mut table = Table::default();
    table.insert(container_cgroup(2, "a"));
    let attributes = |batch: &Batch| Arc::clone(&batch.cgroups[0].sample.resource);
    let (unnamed, named) = (known(&[("app", "another")]), known(&[("app", &"a".repeat(64))]));
    let first = attributes(&aggregate.batch(0, readings(), &table, names(&unnamed, PATIENCE_NS)));
    assert!(first.get("service.instance.id") == Some("shop.web.aaaaaaaaaaaa"), "{first:?}");
    for now_ns in [PATIENCE_NS + 1, PATIENCE_NS + 2] {
        let then = attributes(&aggregate.batch(1, readings(), &table, names(&named, now_ns)));
        assert!(first.attributes().all(|(key, value)| then.get(key) == Some(value)), "{first:?} {then:?}");
        assert!(then.get("k8s.container.name") == Some("app"), "{then:?}");
    }
}

#[test]
fn final_values_wait_for_a_name_and_are_exported_once() {
    let mut aggregate = Aggregate::new(NodeIdentity::default());
    let (table, empty) = (Table::default(), PodIndex::default());
    let mut dead = container_cgroup(2, "a");
    dead.died_ns = Some(5);
    aggregate.retire(&dead, vec![point(1.0)]);
    assert!(called(&aggregate.batch(1, Vec::new(), &table, names(&empty, 6))).is_empty());
    let named = known(&[("app", &"a".repeat(64))]);
    assert_eq!(called(&aggregate.batch(2, Vec::new(), &table, names(&named, 7))), [Some("app")]);
    assert!(called(&aggregate.batch(3, Vec::new(), &table, names(&named, 8))).is_empty());
    // Kubernetes never reports this one, and the agent ends.
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
    let mut aggregate = Aggregate::new(NodeIdentity::default());
    let mut table = Table::default();
    for (slot, digit) in [(2, "a"), (3, "b"), (4, "c")] {
        table.insert(container_cgroup(slot, digit));
    }
    let listed = known(&[("app", &"b".repeat(64))]);
    assert_eq!(called(&aggregate.batch(1, readings(), &table, names(&listed, 0))), [Some("sandbox"), Some("app")], "c is new");
    let both = known(&[("app", &"b".repeat(64)), ("proxy", &"c".repeat(64))]);
    let batch = aggregate.batch(2, readings(), &table, names(&both, 1));
    assert_eq!(called(&batch), [Some("sandbox"), Some("app"), Some("proxy")]);
    // What it was found to be is known when it is gone.
    let mut sandbox = table.remove(2).expect("is there");
    sandbox.died_ns = Some(2);
    aggregate.retire(&sandbox, vec![point(1.0)]);
    // Also where something happened in it, which is exported first.
    let details = Vec::new();
    let event = Event { name: "test", cgroup: (2, sandbox.id), time_ns: 2, body: String::new(), attributes: details };
    aggregate.events.push((event, Some(sandbox)));
    let batch = aggregate.batch(3, readings(), &table, names(&both, 3));
    assert_eq!(called(&batch), [Some("sandbox"), Some("app"), Some("proxy")]);
    assert!(!aggregate.labels.has(1002), "nothing is kept of what is gone");
}
