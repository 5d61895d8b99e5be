use podmeter_tests::kubernetes::objects as cluster;
use serde_json::json;

use super::*;
use crate::pods::workload::WorkloadKind;

fn read(pod: &cluster::Pod) -> Pod {
    let kept_labels = KeptLabels { labels: vec!["team".to_owned(), "absent".to_owned()], ..KeptLabels::default() };
    Pod::read(&pod.json().to_string(), &kept_labels).expect("is a pod")
}

fn cores(quantity: Option<Quantity>) -> Option<f64> {
    quantity.map(Quantity::cores)
}

#[test]
fn pods_of_every_version_are_read() {
    for minor in 28..=36 {
        let resources = (json!({"cpu": "250m", "memory": "64Mi"}), json!({"cpu": "1"}));
        let current = Some(json!({"requests": {"cpu": "500m", "memory": "64Mi"}, "limits": {"cpu": "1"}}));
        let app =
            cluster::Container { current, ..cluster::Container::new("app", "one").with_resources(resources.0, resources.1) };
        let init = cluster::Container { list: "initContainers", ..cluster::Container::new("init", "two") };
        let proxy = cluster::Container { list: "initContainers", sidecar: true, ..cluster::Container::new("proxy", "three") };
        let pod = cluster::Pod { minor, ..cluster::Pod::new("web-1", vec![app, init, proxy]) };
        let read = read(&pod);
        assert_eq!((&*read.name, &*read.namespace, &*read.uid), ("web-1", "shop", &*pod.uid));
        assert_eq!(read.workload.as_ref().map(|w| (w.kind, &*w.name)), Some((WorkloadKind::Deployment, "web")));
        assert_eq!(read.labels, [("team".into(), "blue".into())]);
        assert_eq!(
            (read.qos.as_deref(), read.phase, read.cgroup_uid.as_deref()),
            (Some("Burstable"), Some(PodPhase::Running), None)
        );
        let roles: Vec<_> = read.containers.iter().map(|container| (&*container.name, container.role)).collect();
        assert_eq!(roles, [("init", ContainerRole::Init), ("proxy", ContainerRole::Sidecar), ("app", ContainerRole::Main)]);
        let app = &read.containers[2];
        assert_eq!((cores(app.desired.cpu_request), cores(app.desired.cpu_limit)), (Some(0.25), Some(1.0)));
        assert_eq!(app.desired.memory_request.map(Quantity::bytes), Some(64 << 20));
        for list in [app.reported.requests, app.reported.allocated] {
            assert_eq!(list.map(|list| cores(list.cpu)), (minor >= 33).then_some(Some(0.5)), "1.{minor}");
        }
        assert_eq!(app.reported.limits.map(|limits| cores(limits.cpu)), (minor >= 33).then_some(Some(1.0)), "1.{minor}");
        assert_eq!(app.id.as_deref(), Some("one"));
        assert_eq!(app.status.as_ref().map(|status| (status.ready, status.state)), Some((true, ContainerState::Running)));
    }
}

#[test]
fn ids_reasons_and_restarts_of_a_container_that_crashes() {
    let ended =
        |reason: &str, id: &str| json!({"terminated": {"exitCode": 1, "reason": reason, "containerID": format!("cri-o://{id}")}});
    let app = cluster::Container {
        id: "cri-o://second".to_owned(),
        state: json!({"waiting": {"reason": "CrashLoopBackOff"}}),
        last_state: ended("OOMKilled", "second"),
        restarts: 2,
        ready: false,
        ..cluster::Container::new("app", "")
    };
    let other = cluster::Container {
        id: "docker://now".to_owned(),
        state: ended("Error", "now"),
        last_state: ended("Completed", "before"),
        ..cluster::Container::new("other", "")
    };
    let read = read(&cluster::Pod::new("web-1", vec![app, other, cluster::Container::new("new", "")]));
    let [app, other, new] = &read.containers[..] else { panic!("three containers") };
    assert_eq!((app.id.as_deref(), app.previous_id.as_deref()), (Some("second"), None), "the same one, reported twice");
    let status = app.status.as_ref().expect("a status");
    assert_eq!((status.state, status.reason.as_deref()), (ContainerState::Waiting, Some("CrashLoopBackOff")));
    assert_eq!((status.last_reason.as_deref(), status.restarts, status.ready), (Some("OOMKilled"), 2, false));
    assert_eq!((other.id.as_deref(), other.previous_id.as_deref()), (Some("now"), Some("before")));
    assert_eq!(other.status.as_ref().map(|status| status.state), Some(ContainerState::Terminated));
    assert_eq!(new.id, None);
}

#[test]
fn an_object_with_hardly_anything_in_it_is_read_and_one_without_a_name_is_not() {
    let read = |json: &str| Pod::read(json, &KeptLabels::default());
    let least = read(r#"{"metadata":{"name":"a","uid":"u"}}"#).expect("is enough");
    assert_eq!((&*least.namespace, least.phase, least.containers.len()), ("", None, 0));
    let nulls = r#"{"metadata":{"name":"a","uid":"u","labels":null,"annotations":null,"ownerReferences":null,"creationTimestamp":null},
        "spec":{"containers":null,"initContainers":null,"overhead":null,"resources":null},
        "status":{"phase":"Exploded","containerStatuses":null,"qosClass":null}}"#;
    assert_eq!(read(nulls).expect("is read").phase, None);
    assert_eq!(read(r#"{"metadata":{"name":"a","uid":"u"},"spec":null,"status":null}"#).expect("is read").name, "a".into());
    for refused in ["", "{}", "null", "[]", r#"{"metadata":{"uid":"u"}}"#, r#"{"metadata":{"name":"a"}}"#, r#"{"metadata":5}"#] {
        assert!(read(refused).is_err(), "{refused}");
    }
}

#[test]
fn a_quantity_that_is_none_takes_nothing_else_with_it() {
    let odd = json!({"cpu": "lots", "memory": {"a": [1]}, "nvidia.com/gpu": "1"});
    let app = cluster::Container::new("app", "one").with_resources(odd, json!({"cpu": 2, "memory": null}));
    let desired = read(&cluster::Pod::new("web-1", vec![app])).containers[0].desired;
    assert_eq!((desired.cpu_request, desired.memory_request, desired.memory_limit), (None, None, None));
    assert_eq!(cores(desired.cpu_limit), Some(2.0));
}

#[test]
fn the_pods_own_resources_overhead_and_priority() {
    let pod = cluster::Pod {
        spec: json!({"overhead": {"cpu": "250m", "memory": "120Mi"}, "priorityClassName": "high",
            "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "4", "memory": "1Gi"}}}),
        ..cluster::Pod::new("web-1", Vec::new())
    };
    let read = read(&pod);
    assert_eq!(
        (cores(read.overhead.cpu_request), read.overhead.memory_request.map(Quantity::bytes)),
        (Some(0.25), Some(120 << 20))
    );
    assert_eq!((cores(read.resources.cpu_request), cores(read.resources.cpu_limit)), (Some(2.0), Some(4.0)));
    assert_eq!((read.resources.memory_limit.map(Quantity::bytes), read.priority_class.as_deref()), (Some(1 << 30), Some("high")));
}

#[test]
fn a_static_pods_cgroups_have_the_uid_of_its_annotation() {
    let hash = "0123456789abcdef0123456789abcdef";
    let annotations =
        json!({"kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash, "kubernetes.io/config.source": "file"});
    let owner = Some(("Node".to_owned(), "node-1".to_owned()));
    let mirror = cluster::Pod { annotations: annotations.clone(), owner: owner.clone(), ..cluster::Pod::new("etcd", Vec::new()) };
    assert_eq!(read(&mirror).cgroup_uid.as_deref(), Some(hash));
    // As the kubelet itself lists it.
    let own = cluster::Pod { uid: hash.to_owned(), ..mirror };
    assert_eq!((&*read(&own).uid, read(&own).cgroup_uid), (hash, None));

    let pod = |owner: &Option<(String, String)>, annotations: serde_json::Value| {
        read(&cluster::Pod { annotations, owner: owner.clone(), ..cluster::Pod::new("evil", Vec::new()) }).cgroup_uid
    };
    let claim = |uid: &str| json!({"kubernetes.io/config.hash": uid, "kubernetes.io/config.mirror": uid});
    assert_eq!(pod(&owner, claim(hash)).as_deref(), Some(hash));
    let (someone, nobody) = (Some(("ReplicaSet".to_owned(), "evil".to_owned())), None);
    assert_eq!((pod(&someone, claim(hash)), pod(&nobody, claim(hash))), (None, None), "no node's");
    assert_eq!(pod(&owner, json!({"kubernetes.io/config.hash": hash})), None, "no mirror");
    assert_eq!(pod(&owner, json!({"kubernetes.io/config.mirror": hash})), None);
    for uid in ["0a1b2c3d-1111-2222-3333-444455556666", "", &hash[1..], &hash.to_uppercase()] {
        assert_eq!(pod(&owner, claim(uid)), None, "{uid} is no hash");
    }
}

#[test]
fn annotations_and_where_wanted_labels_name_the_service() {
    let labels = json!({"app.kubernetes.io/instance": "checkout-eu", "app.kubernetes.io/name": "checkout", "app.kubernetes.io/version": "7"});
    let mut pod = cluster::Pod { labels, ..cluster::Pod::new("web-1", Vec::new()) };
    let service = |pod: &cluster::Pod, service_labels| {
        Pod::read(&pod.json().to_string(), &KeptLabels { service_labels, ..KeptLabels::default() }).expect("is a pod").service
    };
    assert_eq!(service(&pod, false), Service::default());
    let by_label = service(&pod, true);
    assert_eq!((by_label.name.as_deref(), by_label.version.as_deref()), (Some("checkout-eu"), Some("7")));
    pod.annotations = json!({"resource.opentelemetry.io/service.name": "till", "resource.opentelemetry.io/service.namespace": "money",
        "resource.opentelemetry.io/service.instance.id": "one"});
    let by_annotation = service(&pod, true);
    assert_eq!(by_annotation.name.as_deref(), Some("till"));
    assert_eq!((by_annotation.namespace.as_deref(), by_annotation.instance.as_deref()), (Some("money"), Some("one")));
}

#[test]
fn no_more_of_an_annotation_is_kept_than_anybody_needs() {
    let mut pod = cluster::Pod::new("web-1", Vec::new());
    let [name, instance] = ["x".repeat(64_000), "y".repeat(64_000)];
    pod.annotations =
        json!({"resource.opentelemetry.io/service.name": name, "resource.opentelemetry.io/service.instance.id": instance});
    let service = read(&pod).service;
    let kept = [service.name.expect("a name"), service.instance.expect("an instance")];
    assert_eq!(kept.each_ref().map(|text| text.len()), [1024; 2]);
    assert!(kept[0].starts_with("xxx") && kept[1].starts_with("yyy"));
}

#[test]
fn a_pod_that_is_over_says_since_when() {
    let ended = |at: &str| json!({"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": at}});
    let of = |name, at| cluster::Container { state: ended(at), ..cluster::Container::new(name, name) };
    let containers = vec![of("one", "2026-11-25T01:00:00Z"), of("two", "2026-11-25T02:00:00Z")];
    let seconds = |pod: &cluster::Pod| read(pod).finished.map(|since| since.as_secs());
    let mut pod = cluster::Pod { phase: "Succeeded", ..cluster::Pod::new("job", containers) };
    assert_eq!(seconds(&pod), Some(1_795_572_000), "its last container's end");
    // Evicted before one began: the conditions' time, 2026-11-25T00:00:09Z.
    (pod.containers, pod.phase) = (Vec::new(), "Failed");
    assert_eq!(seconds(&pod), Some(1_795_564_809));
    pod.phase = "Running";
    assert_eq!(seconds(&pod), None);
}

#[test]
fn what_is_kept_of_a_pod_is_bounded_whatever_it_holds() {
    let long = "é".repeat(60_000);
    let reason = json!({"waiting": {"reason": long}});
    let containers =
        (0..500).map(|n| cluster::Container { state: reason.clone(), ..cluster::Container::new(&format!("c{n}"), "") });
    let annotations = json!({"resource.opentelemetry.io/service.name": long, "resource.opentelemetry.io/service.version": long,
        "kubernetes.io/config.hash": long, "other": long});
    let pod = cluster::Pod { annotations, labels: json!({"team": long}), ..cluster::Pod::new("evil", containers.collect()) };
    let read = read(&pod);
    assert_eq!(read.containers.len(), 64);
    let name = read.service.name.as_deref().expect("is kept");
    assert!(name.len() <= 1024 && long.starts_with(&name[..1000]) && name.len() > 1000, "{}", name.len());
    let debug = format!("{read:?}");
    assert!(debug.len() < 200 << 10, "{} bytes as text", debug.len());
}

#[test]
fn nodes_and_namespaces() {
    let node =
        KubernetesNode::read(&cluster::node("node-1", "3800m", "14Gi").to_string(), &KeptLabels::default()).expect("is a node");
    assert_eq!((node.key(), cores(node.cpu), node.memory.map(Quantity::bytes)), ("node-1", Some(3.8), Some(14 << 30)));
    let kept_labels = KeptLabels { namespace_labels: vec!["team".to_owned()], ..KeptLabels::default() };
    let json = cluster::namespace("shop", json!({"team": "red", "other": "x"})).to_string();
    let namespace = Namespace::read(&json, &kept_labels).expect("is a namespace");
    assert_eq!((namespace.key(), &namespace.labels[..]), ("shop", &[("team".into(), "red".into())][..]));
}

#[test]
fn addresses_are_the_pods_own_and_the_nodes_ranges() {
    let read = |host_network: bool, status: serde_json::Value| {
        let pod = json!({"metadata": {"name": "a", "uid": "u"}, "spec": {"hostNetwork": host_network}, "status": status});
        let pod = Pod::read(&pod.to_string(), &KeptLabels::default()).expect("is a pod");
        pod.addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let own = json!({"hostIPs": [{"ip": "10.0.0.1"}], "podIPs": [{"ip": "10.244.1.7"}, {"ip": "fd00::7"}, {"ip": "lots"}]});
    assert_eq!(read(false, own.clone()), ["10.244.1.7", "fd00::7"]);
    assert!(read(true, own).is_empty(), "they are its node's");
    let shared = json!({"hostIPs": [{"ip": "10.0.0.1"}], "podIPs": [{"ip": "10.0.0.1"}]});
    assert!(read(false, shared).is_empty() && read(false, json!({"podIPs": null})).is_empty());

    let node = json!({"metadata": {"name": "n"}, "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64", "0.0.0.0/0"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "ExternalIP", "address": "203.0.113.1"},
            {"type": "Hostname", "address": "n"}]}});
    let node = KubernetesNode::read(&node.to_string(), &KeptLabels::default()).expect("is a node");
    let ranges: Vec<_> = node.pod_ranges.iter().map(|range| format!("{}/{}", range.address, range.prefix)).collect();
    assert_eq!(ranges, ["10.244.1.0/24", "fd00:1::/64"], "not everything");
    assert_eq!(node.addresses, ["10.0.0.1".parse::<IpAddr>().expect("an address")]);
}

#[test]
fn any_text_is_an_object_or_refused() {
    let kept_labels =
        KeptLabels { labels: vec!["team".to_owned()], namespace_labels: vec!["team".to_owned()], service_labels: true };
    crate::fuzzing::hammer("pod", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(pod) = Pod::read(&text, &kept_labels) {
            assert!(!pod.key().is_empty(), "{pod:?}");
            let names: usize = pod.labels.iter().map(|(key, value)| key.len() + value.len()).sum();
            assert!(names <= text.len() + 4 && pod.containers.len() <= text.len(), "{pod:?}");
        }
        let _ = KubernetesNode::read(&text, &kept_labels);
        let _ = Namespace::read(&text, &kept_labels);
    });
}
