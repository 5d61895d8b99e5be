use super::*;
use crate::pods::object::PodPhase;

const UID: &str = "11111111-2222-3333-4444-555555555555";

fn pod(uid: &str, ids: &[(&str, Option<&str>)]) -> Pod {
    let containers =
        ids.iter().map(|(name, id)| Container { name: (*name).into(), id: id.map(Into::into), ..Container::default() });
    Pod { uid: uid.into(), name: "web".into(), namespace: "shop".into(), containers: containers.collect(), ..Pod::default() }
}

fn name<'a>(known: &'a PodIndex, uid: &str, id: &str) -> Option<&'a str> {
    known.find(uid, Some(id))?.container.map(|container| &*container.name)
}

#[test]
fn a_container_that_was_started_again_leaves_its_name_to_its_old_id() {
    let mut known = PodIndex::default();
    known.set_pod(pod(UID, &[("app", None)]));
    assert!(known.find(UID, Some("one")).is_some_and(|found| found.container.is_none()));
    let unnamed = known.find(UID, None).map(|found| found.revision);
    known.set_pod(pod(UID, &[("app", Some("one"))]));
    assert_ne!(known.find(UID, None).map(|found| found.revision), unnamed);
    let before = known.find(UID, None).map(|found| found.revision);
    known.set_pod(pod(UID, &[("app", Some("one"))]));
    assert_eq!(known.find(UID, None).map(|found| found.revision), before, "nothing has changed");
    known.set_pod(pod(UID, &[("app", Some("two")), ("proxy", Some("three"))]));
    assert_eq!(
        (name(&known, UID, "one"), name(&known, UID, "two"), name(&known, UID, "three")),
        (Some("app"), Some("app"), Some("proxy"))
    );
    assert_eq!(name(&known, "other", "one"), None, "an id counts in its own pod only");
}

#[test]
fn the_previous_container_is_known_though_its_time_was_missed() {
    let mut known = PodIndex::default();
    let mut now = pod(UID, &[("app", Some("two"))]);
    now.containers[0].previous_id = Some("one".into());
    known.set_pod(now);
    assert_eq!(name(&known, UID, "one"), Some("app"));
}

#[test]
fn a_deleted_pod_is_remembered_for_a_while_and_not_for_ever() {
    let mut known = PodIndex::default();
    let start = Instant::now();
    known.set_pod(pod(UID, &[("app", Some("one"))]));
    known.forget_pod(UID, start);
    assert_eq!((name(&known, UID, "one"), known.counts()), (Some("app"), (0, 1)));
    assert_eq!(known.living().count(), 0);
    // Deleted again, as by a list that comes later: remembered from the first time.
    known.keep_pods(&HashSet::new(), start + REMEMBERED / 2);
    known.forget_pod("another", start + REMEMBERED);
    assert_eq!(known.counts(), (0, 0));
}

#[test]
fn too_many_deleted_pods_are_not_remembered() {
    let mut known = PodIndex::default();
    let start = Instant::now();
    for n in 0..GONE as u64 + 100 {
        known.set_pod(pod(&n.to_string(), &[]));
        known.forget_pod(&n.to_string(), start + Duration::from_millis(n));
    }
    assert_eq!(known.counts(), (0, GONE));
    assert!(known.find("99", None).is_none() && known.find("100", None).is_some(), "the oldest went");
}

#[test]
fn pods_that_are_deleted_in_one_moment_are_remembered_by_which_changed_last() {
    let mut known = PodIndex::default();
    for n in 0..GONE + 100 {
        known.set_pod(pod(&n.to_string(), &[]));
    }
    known.keep_pods(&HashSet::new(), Instant::now());
    assert_eq!(known.counts(), (0, GONE));
    assert!(known.find("99", None).is_none() && known.find("100", None).is_some(), "the oldest went");
}

fn finished(n: u64) -> Pod {
    let (phase, finished) = (Some(PodPhase::Succeeded), Some(Duration::from_secs(n)));
    Pod { phase, finished, ..pod(&n.to_string(), &[]) }
}

#[test]
fn of_finished_pods_the_latest_are_kept_and_the_others_counted() {
    let mut known = PodIndex::default();
    let all = 3000;
    // In no order, as a list has them, and twice, as the next list does.
    for n in (0..all).map(|n| n * 7 % all).chain(0..all) {
        known.set_pod(finished(n));
    }
    known.set_pod(pod("living", &[]));
    let kept = known.finished().count();
    assert!((FINISHED..=FINISHED + FINISHED / 8).contains(&kept), "{kept}");
    assert_eq!((known.counts(), kept + known.left_out()), ((all as usize + 1, 0), all as usize));
    assert!(known.find(&(all - 1).to_string(), None).is_some() && known.find("0", None).is_none());
    known.forget_pod("0", Instant::now());
    assert_eq!(known.counts(), (all as usize, 0));
    known.keep_pods(&HashSet::from(["living".into(), "1".into()]), Instant::now());
    assert_eq!((known.counts(), known.left_out()), ((2, kept), 1));
}

#[test]
fn pods_that_no_node_can_have_are_counted_only() {
    let mut known = PodIndex::default();
    for n in 0..LIVING + 10 {
        known.set_pod(pod(&n.to_string(), &[]));
    }
    assert_eq!((known.living().count(), known.left_out()), (LIVING, 10));
    known.forget_pod("0", Instant::now());
    known.set_pod(pod(&(LIVING + 1).to_string(), &[]));
    assert_eq!((known.living().count(), known.left_out()), (LIVING, 9), "there is room now");
}

#[test]
fn a_static_pod_is_found_by_the_uid_that_kubelet_gave_it() {
    let mut known = PodIndex::default();
    let hash = "0123456789abcdef0123456789abcdef";
    known.set_pod(Pod { cgroup_uid: Some(hash.into()), ..pod(UID, &[]) });
    assert_eq!(known.find(hash, None).map(|found| &*found.pod.uid), Some(UID));
    // Its mirror was deleted and made again, while it ran on.
    known.forget_pod(UID, Instant::now());
    known.set_pod(Pod { cgroup_uid: Some(hash.into()), ..pod("next", &[]) });
    assert_eq!(known.find(hash, None).map(|found| &*found.pod.uid), Some("next"));
}

#[test]
fn a_pods_own_uid_wins_over_a_mirrors_whatever_the_order_of_arrival() {
    let hash = "0123456789abcdef0123456789abcdef";
    let mirror = |uid| Pod { cgroup_uid: Some(hash.into()), ..pod(uid, &[]) };
    let owner = |known: &PodIndex| known.find(hash, None).map(|found| found.pod.uid.clone());
    for real_comes_first in [true, false] {
        let mut known = PodIndex::default();
        if real_comes_first {
            known.set_pod(pod(hash, &[]));
        }
        known.set_pod(mirror(UID));
        assert_eq!(owner(&known).as_deref(), Some(if real_comes_first { hash } else { UID }));
        known.set_pod(pod(hash, &[]));
        known.set_pod(mirror(UID));
        assert_eq!(owner(&known).as_deref(), Some(hash), "it takes its place back");
        assert_eq!(known.find(UID, None).map(|found| &*found.pod.uid), Some(UID));
    }
}

#[test]
fn of_mirrors_of_one_static_pod_the_first_counts_until_it_is_gone() {
    let hash = "0123456789abcdef0123456789abcdef";
    let mirror = |uid, hash: Option<&str>| Pod { cgroup_uid: hash.map(Into::into), ..pod(uid, &[]) };
    let owner = |known: &PodIndex| known.find(hash, None).map(|found| found.pod.uid.to_string());
    let mut known = PodIndex::default();
    known.set_pod(mirror("first", Some(hash)));
    known.set_pod(mirror("second", Some(hash)));
    known.set_pod(mirror("first", Some(hash)));
    assert_eq!(owner(&known).as_deref(), Some("first"));
    known.keep_pods(&HashSet::from(["second".into()]), Instant::now());
    assert_eq!(owner(&known).as_deref(), Some("second"));
    known.set_pod(mirror("second", None));
    assert_eq!(owner(&known).as_deref(), Some("first"), "the last that is known of it");
}

#[test]
fn labels_of_a_namespace_that_is_gone_stay_while_its_pods_are_known() {
    let mut known = PodIndex::default();
    let labels = vec![("team".into(), "shop".into())];
    known.set_pod(pod(UID, &[]));
    let without = known.find(UID, None).map(|found| found.revision);
    known.set_namespace(Namespace { name: "shop".into(), labels: labels.clone() });
    known.set_namespace(Namespace { name: "empty".into(), labels: Labels::new() });
    let found = known.find(UID, None).expect("is known");
    assert_eq!(found.namespace_labels, labels);
    assert_ne!(Some(found.revision), without, "what was cached is stale");
    known.keep_namespaces(&HashSet::new());
    assert_eq!((known.labels_of("shop"), known.namespaces()), (&labels[..], 1));
}

#[test]
fn past_containers_are_bounded() {
    let mut known = PodIndex::default();
    for n in 0..1000 {
        known.set_pod(pod(UID, &[("app", Some(&n.to_string()))]));
    }
    assert_eq!(known.pods[UID].ids.len(), PAST);
    assert_eq!((name(&known, UID, "999"), name(&known, UID, "10")), (Some("app"), None));
}

#[test]
fn addresses_are_those_of_living_pods_that_no_range_of_the_node_has() {
    let mut known = PodIndex::default();
    let at = |uid: &str, address: &str| Pod { addresses: vec![address.parse().expect("an address")], ..pod(uid, &[]) };
    known.set_pod(at("a", "10.9.0.5"));
    known.stats.following_mut(Followed::Node).is_followed = true;
    assert_eq!(known.addresses(), None, "not all pods are known");
    known.stats.following_mut(Followed::Pods).works();
    assert_eq!(known.addresses(), None, "nor is the node");
    known.stats.following_mut(Followed::Node).works();
    let range = |text: &str| Range::parse(text).expect("a range");
    let cluster = |known: &PodIndex| known.addresses().expect("known").cluster;
    assert_eq!(cluster(&known), [range("10.9.0.5")]);
    let (pod_ranges, addresses) = (vec![range("10.244.1.0/24")], vec!["10.0.0.1".parse().expect("an address")]);
    known.set_node(KubernetesNode { name: "n".into(), pod_ranges, addresses, ..KubernetesNode::default() });
    known.set_pod(at("b", "10.244.1.9"));
    known.set_pod(Pod { phase: Some(PodPhase::Succeeded), ..at("c", "10.9.0.6") });
    assert_eq!(cluster(&known), [range("10.244.1.0/24"), range("10.9.0.5")], "who is over has given its address back");
    assert_eq!(known.addresses().expect("known").node, [range("10.0.0.1")]);
    known.forget_pod("a", Instant::now());
    assert_eq!(cluster(&known), [range("10.244.1.0/24")]);
}

#[test]
fn the_revision_of_addresses_changes_with_them_and_only_then() {
    let at = |uid: &str, address: &str| Pod { addresses: vec![address.parse().expect("an address")], ..pod(uid, &[]) };
    let mut known = PodIndex::default();
    known.set_pod(at("a", "10.9.0.5"));
    assert_eq!(known.addresses_revision(), None, "not all pods are known");
    known.stats.following_mut(Followed::Pods).works();
    let mut before = known.addresses_revision();
    let mut changes = |known: &PodIndex| std::mem::replace(&mut before, known.addresses_revision()) != known.addresses_revision();
    let node =
        || KubernetesNode { name: "n".into(), addresses: vec!["10.0.0.1".parse().expect("an address")], ..Default::default() };
    type Change<'a> = &'a dyn Fn(&mut PodIndex);
    let steps: [(&str, Change<'_>, bool); 10] = [
        ("the same pod", &|known| known.set_pod(at("a", "10.9.0.5")), false),
        ("a pod without addresses", &|known| known.set_pod(pod("b", &[("app", None)])), false),
        ("another address", &|known| known.set_pod(at("a", "10.9.0.6")), true),
        ("another pod", &|known| known.set_pod(at("c", "10.9.0.7")), true),
        ("it is over", &|known| known.set_pod(Pod { phase: Some(PodPhase::Failed), ..at("c", "10.9.0.7") }), true),
        ("it is deleted", &|known| known.forget_pod("c", Instant::now()), false),
        ("a living pod is deleted", &|known| known.keep_pods(&HashSet::new(), Instant::now()), true),
        ("the node", &|known| known.set_node(node()), true),
        ("the same node", &|known| known.set_node(KubernetesNode { cpu: "4".parse().ok(), ..node() }), false),
        ("no node", &|known| known.forget_node(), true),
    ];
    for (what, change, changed) in steps {
        change(&mut known);
        assert_eq!(changes(&known), changed, "{what}");
    }
}

#[test]
fn a_container_beside_one_that_is_started_again_and_again_keeps_its_name() {
    let mut known = PodIndex::default();
    for n in 0..3 * PAST {
        known.set_pod(pod(UID, &[("proxy", Some("proxy-id")), ("app", Some(&format!("app-{n}")))]));
        assert_eq!(name(&known, UID, "proxy-id"), Some("proxy"), "{n}");
    }
    assert_eq!(name(&known, UID, "app-0"), None, "what ended long ago is forgotten");
}
