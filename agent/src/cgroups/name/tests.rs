//! Every layout that kubelet, runtimes and systemd make, and strings that none of them makes.

use proptest::prelude::*;

use super::{
    part::{SHORT_ID, is_id},
    *,
};

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER_ID: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
const UID: &str = "0a1b2c3d-1111-2222-3333-444455556666";
const OTHER_UID: &str = "ffffffff-aaaa-bbbb-cccc-ddddeeee0000";
const STATIC_UID: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
const SHORT: &str = "0123456789ab";

/// Puts the ids into a path: `ID`, `ID2`, `UID` and `UID2` with dashes, `U_ID` and `U_ID2` with underscores, `STATIC`.
fn path(layout: &str) -> String {
    layout
        .replace("U_ID2", &OTHER_UID.replace('-', "_"))
        .replace("U_ID", &UID.replace('-', "_"))
        .replace("UID2", OTHER_UID)
        .replace("UID", UID)
        .replace("ID2", OTHER_ID)
        .replace("ID", ID)
        .replace("STATIC", STATIC_UID)
}

/// `parse` as the tables write it: `CgroupKind name`, then what it belongs to, each only where there is something.
fn described(layout: &str, kubelets: Kubelets) -> String {
    let name = parse(&path(layout), kubelets);
    let mut words = vec![name.kind.as_str().to_owned(), name.name.replace(&path("U_ID"), "U_ID")];
    let uid = |uid: String| match uid.as_str() {
        UID => "UID".to_owned(),
        OTHER_UID => "UID2".to_owned(),
        STATIC_UID => "STATIC".to_owned(),
        _ => uid,
    };
    let id = |id: String| match id.as_str() {
        ID => "ID".to_owned(),
        OTHER_ID => "ID2".to_owned(),
        _ => id,
    };
    words.extend(name.pod_uid.map(|pod| format!("pod={}", uid(pod))));
    words.extend(name.container_id.map(|container| format!("id={}", id(container))));
    words.extend(name.runtime.map(|runtime| format!("by={}", runtime.as_str())));
    words.extend(name.qos.map(|qos| format!("qos={}", qos.as_str())));
    words.extend(name.nested.then(|| "nested".to_owned()));
    words.join(" ")
}

fn expect(table: &[(&str, &str)], kubelets: Kubelets) {
    for (layout, expected) in table {
        let expected = expected.replace("SHORT2", &OTHER_ID[..SHORT_ID]).replace("SHORT", SHORT);
        assert_eq!(described(layout, kubelets), expected, "{layout}, {kubelets:?}");
    }
}

/// What is so on every host, whether it is a node of Kubernetes or not.
fn check(table: &[(&str, &str)]) {
    expect(table, Kubelets::Any);
    expect(table, Kubelets::OfTheNode);
}

#[test]
fn kubelets_systemd_driver() {
    check(&[
        ("/kubepods.slice", "Slice kubepods"),
        ("/kubepods.slice/kubepods-burstable.slice", "Slice kubepods-burstable qos=Burstable"),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_ID.slice",
            &format!("Pod {UID} pod=UID qos=Burstable"),
        ),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_ID.slice/cri-containerd-ID.scope",
            "Container SHORT pod=UID id=ID by=containerd qos=Burstable",
        ),
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_ID.slice/crio-ID.scope",
            "Container SHORT pod=UID id=ID by=cri-o qos=BestEffort",
        ),
        // crun makes one more below the scope.
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_ID.slice/crio-ID.scope/container",
            "Cgroup container pod=UID id=ID by=cri-o qos=BestEffort nested",
        ),
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_ID.slice/crio-conmon-ID.scope",
            "Scope crio-conmon-SHORT pod=UID qos=BestEffort",
        ),
        // CRI-O's sandbox without processes, and where conmon is kept out of pods (`conmon_cgroup`).
        ("/kubepods.slice/kubepods-podU_ID.slice/crio-ID", "Container SHORT pod=UID id=ID by=cri-o qos=Guaranteed"),
        ("/system.slice/crio-conmon-ID.scope", "Scope crio-conmon-SHORT"),
        ("/kubepods.slice/kubepods-podU_ID.slice", &format!("Pod {UID} pod=UID qos=Guaranteed")),
        ("/kubepods.slice/kubepods-podU_ID.slice/docker-ID.scope", "Container SHORT pod=UID id=ID by=docker qos=Guaranteed"),
        ("/kubepods.slice/kubepods-podU_ID.slice/runtime-of-tomorrow-ID.scope", "Container SHORT pod=UID id=ID qos=Guaranteed"),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podSTATIC.slice/cri-containerd-ID.scope",
            "Container SHORT pod=STATIC id=ID by=containerd qos=Burstable",
        ),
        // --cgroup-root=/my-root/nodes: each part with its dashes escaped.
        (
            "/my_root.slice/my_root-nodes.slice/my_root-nodes-kubepods.slice/my_root-nodes-kubepods-podU_ID.slice/crio-ID.scope",
            "Container SHORT pod=UID id=ID by=cri-o qos=Guaranteed",
        ),
    ]);
}

#[test]
fn kubelets_cgroupfs_driver() {
    check(&[
        ("/kubepods", "Cgroup kubepods"),
        ("/kubepods/burstable", "Cgroup kubepods/burstable qos=Burstable"),
        ("/kubepods/burstable/podUID", &format!("Pod {UID} pod=UID qos=Burstable")),
        ("/kubepods/burstable/podUID/ID", "Container SHORT pod=UID id=ID qos=Burstable"),
        ("/kubepods/besteffort/podSTATIC/ID", "Container SHORT pod=STATIC id=ID qos=BestEffort"),
        ("/kubepods/podUID/ID", "Container SHORT pod=UID id=ID qos=Guaranteed"),
        ("/kubepods/podUID/crio-ID", "Container SHORT pod=UID id=ID by=cri-o qos=Guaranteed"),
        ("/kubepods/podUID/crio-conmon-ID", "Cgroup crio-conmon-SHORT pod=UID qos=Guaranteed"),
        ("/my-root/kubepods/podUID/ID", "Container SHORT pod=UID id=ID qos=Guaranteed"),
        // Not below kubepods, not at its level, not a UID.
        ("/elsewhere/podUID", &format!("Cgroup pod{UID}")),
        ("/kubepods/other/podUID", &format!("Cgroup pod{UID}")),
        ("/kubepods/pod-web", "Cgroup kubepods/pod-web"),
        ("/kubepods/pod", "Cgroup kubepods/pod"),
    ]);
}

#[test]
fn containerd_beside_kubelets_systemd_driver() {
    check(&[
        (
            "/system.slice/containerd.service/kubepods-burstable-podU_ID.slice:cri-containerd:ID",
            "Container SHORT pod=UID id=ID by=containerd qos=Burstable",
        ),
        ("/kubepods-podU_ID.slice:cri-containerd:ID", "Container SHORT pod=UID id=ID by=containerd qos=Guaranteed"),
        ("/kubepods-podU_ID.slice:cri-containerd:ID/init.scope", "Scope init pod=UID id=ID by=containerd qos=Guaranteed nested"),
        ("/system.slice:docker:ID", "Container SHORT id=ID by=docker"),
        ("/a:b:c", "Cgroup a:b:c"),
        ("/a:b:c:ID", &format!("Cgroup a:b:c:{ID}")),
    ]);
}

#[test]
fn a_kubelet_in_a_container() {
    let kind = "/system.slice/docker-ID2.scope/kubelet.slice";
    let pod = format!("{kind}/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podU_ID.slice");
    check(&[
        (&format!("{kind}/kubelet.service"), "Service kubelet id=ID2 by=docker nested"),
        // Where the container's cgroup is the root, its kubelet is the node's.
        (pod.strip_prefix("/system.slice/docker-ID2.scope").expect("is below it"), &format!("Pod {UID} pod=UID qos=Burstable")),
        ("/kubelet/kubepods/podUID/ID", "Container SHORT pod=UID id=ID qos=Guaranteed"),
    ]);
    let container = format!("{pod}/cri-containerd-ID.scope");
    expect(
        &[
            (
                &format!("{kind}/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice"),
                "Slice kubelet-kubepods-burstable id=ID2 by=docker qos=Burstable nested",
            ),
            (&pod, &format!("Pod {UID} pod=UID qos=Burstable")),
            (&container, "Container SHORT pod=UID id=ID by=containerd qos=Burstable"),
            ("/docker/ID2/kubelet/kubepods/burstable/podUID/ID", "Container SHORT pod=UID id=ID qos=Burstable"),
        ],
        Kubelets::Any,
    );
    expect(
        &[
            (&pod, "Slice kubelet-kubepods-burstable-podU_ID id=ID2 by=docker nested"),
            (&container, "Container SHORT id=ID2 by=docker nested"),
            ("/docker/ID2/kubelet/kubepods/burstable/podUID/ID", "Container SHORT id=ID2 by=docker nested"),
        ],
        Kubelets::OfTheNode,
    );
}

#[test]
fn what_a_container_made_is_never_another_pods_or_containers() {
    let own = "/kubepods.slice/kubepods-podU_ID.slice/cri-containerd-ID.scope";
    let owner = "pod=UID id=ID by=containerd qos=Guaranteed nested";
    check(&[
        (&format!("{own}/kubepods"), &format!("Cgroup kubepods {owner}")),
        (&format!("{own}/kubepods/podUID2"), &format!("Cgroup pod{OTHER_UID} {owner}")),
        (&format!("{own}/kubepods/podUID2/ID2"), &format!("Container SHORT2 {owner}")),
        (&format!("{own}/kubepods.slice/kubepods-podU_ID2.slice/crio-ID2.scope"), &format!("Container SHORT2 {owner}")),
        (&format!("{own}/kubepods-podU_ID2.slice:cri-containerd:ID2"), &format!("Container SHORT2 {owner}")),
        (&format!("{own}/libpod_parent/ID2/libpod-ID2"), &format!("Container SHORT2 {owner}")),
        ("/kubepods/podUID/ID/kubepods/podUID2/ID2/kubepods/podUID2/ID2", "Container SHORT2 pod=UID id=ID qos=Guaranteed nested"),
    ]);
    expect(
        &[
            ("/docker/ID/kubepods/podUID2/ID2", "Container SHORT2 id=ID by=docker nested"),
            ("/lxc.payload.web/kubepods/podUID2/ID2", "Container SHORT2 by=lxc nested"),
            ("/lxc.payload.web/docker/ID2", "Container SHORT2 by=lxc nested"),
            ("/machine.slice/machine-web.scope/kubepods/podUID2/ID2", "Container SHORT2 nested"),
            ("/user.slice/user-1000.slice/user@1000.service/kubepods/podUID2/ID2", "Container SHORT2 id=ID2"),
            ("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope", "Container SHORT id=ID by=docker"),
        ],
        Kubelets::OfTheNode,
    );
}

#[test]
fn what_runs_inside_a_container_belongs_to_it() {
    let pod = "/kubepods.slice/kubepods-podU_ID.slice";
    let owner = "pod=UID id=ID by=containerd qos=Guaranteed nested";
    check(&[
        (&format!("{pod}/cri-containerd-ID.scope/init.scope"), &format!("Scope init {owner}")),
        (&format!("{pod}/cri-containerd-ID.scope/system.slice"), &format!("Slice system {owner}")),
        (&format!("{pod}/cri-containerd-ID.scope/system.slice/foo.service"), &format!("Service foo {owner}")),
        (&format!("{pod}/cri-containerd-ID.scope/docker/ID2"), &format!("Container SHORT2 {owner}")),
        (&format!("{pod}/cri-containerd-ID.scope/docker/ID2/deeper"), &format!("Cgroup deeper {owner}")),
        ("/docker/ID/init", "Cgroup init id=ID by=docker nested"),
    ]);
    expect(&[("/lxc.payload.builder/docker/ID", "Container SHORT id=ID by=docker nested")], Kubelets::Any);
}

#[test]
fn containers_without_kubernetes() {
    check(&[
        ("/docker/ID", "Container SHORT id=ID by=docker"),
        ("/docker", "Cgroup docker"),
        // `--cgroup-parent`, with each driver; a user's own daemon.
        ("/my-parent/ID", "Container SHORT id=ID"),
        ("/my.slice/docker-ID.scope", "Container SHORT id=ID by=docker"),
        ("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope", "Container SHORT id=ID by=docker"),
        ("/docker/buildkit", "Cgroup docker/buildkit"),
        ("/system.slice/docker-ID.scope", "Container SHORT id=ID by=docker"),
        ("/system.slice/nerdctl-ID.scope", "Container SHORT id=ID by=containerd"),
        ("/user.slice/user-1000.slice/user@1000.service/user.slice/nerdctl-ID.scope", "Container SHORT id=ID by=containerd"),
        // nerdctl and ctr with cgroupfs: by containerd's namespace.
        ("/default/ID", "Container SHORT id=ID"),
        ("/machine.slice/libpod-ID.scope", "Container SHORT id=ID by=podman"),
        ("/machine.slice/libpod-ID.scope/container", "Cgroup container id=ID by=podman nested"),
        ("/machine.slice/libpod-conmon-ID.scope", "Scope libpod-conmon-SHORT"),
        // Podman with cgroupfs; in its early versions the processes were in `ctr`.
        ("/libpod_parent", "Cgroup libpod_parent"),
        ("/libpod_parent/libpod-ID", "Container SHORT id=ID by=podman"),
        ("/libpod_parent/libpod-ID/ctr", "Cgroup ctr id=ID by=podman nested"),
        ("/libpod_parent/conmon", "Cgroup libpod_parent/conmon"),
        ("/libpod_parent/libpod-conmon-ID", "Cgroup libpod-conmon-SHORT"),
        ("/my-parent/libpod-ID", "Container SHORT id=ID by=podman"),
        // Podman's pods: their containers, and what watches those.
        ("/libpod_parent/ID2", "Cgroup libpod_pod_SHORT2"),
        ("/libpod_parent/ID2/libpod-ID", "Container SHORT id=ID by=podman"),
        ("/libpod_parent/ID2/conmon", "Cgroup conmon"),
        ("/libpod_parent/ID2/libpod-conmon-ID", "Cgroup libpod-conmon-SHORT"),
        ("/machine.slice/machine-libpod_pod_ID2.slice", "Slice libpod_pod_SHORT2"),
        ("/machine.slice/machine-libpod_pod_ID2.slice/libpod-ID.scope", "Container SHORT id=ID by=podman"),
        ("/machine.slice/machine-libpod_pod_ID2.slice/libpod-ID.scope/container", "Cgroup container id=ID by=podman nested"),
        ("/machine.slice/machine-libpod_pod_ID2.slice/libpod-conmon-ID.scope", "Scope libpod-conmon-SHORT"),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/user-libpod_pod_ID2.slice/libpod-ID.scope",
            "Container SHORT id=ID by=podman",
        ),
        ("/system.slice/web.service/runtime", "Cgroup system.slice/web.service/runtime"),
        ("/system.slice/web.service/supervisor", "Cgroup system.slice/web.service/supervisor"),
        ("/system.slice/web.service/libpod-payload-ID", "Container SHORT id=ID by=podman"),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
            "Cgroup container id=ID by=podman nested",
        ),
        ("/lxc.payload.web-1", "Container web-1 by=lxc"),
        ("/lxc.payload.web-1/system.slice/ssh.service", "Service ssh by=lxc nested"),
        ("/lxc.monitor.web-1", "Cgroup lxc.monitor.web-1"),
        ("/lxc.payload.", "Cgroup lxc.payload."),
        ("/lxc/101/ns", "Cgroup lxc/101/ns by=lxc nested"),
        ("/lxc/101", "Container 101 by=lxc"),
        ("/machine.slice/systemd-nspawn@deb.service/payload", "Cgroup payload by=systemd-nspawn nested"),
        ("/machine.slice/systemd-nspawn@deb\\x2d13.service", "Container deb-13 by=systemd-nspawn"),
        ("/machine.slice/machine-deb\\x2d13.scope", "Machine deb-13"),
        ("/machine.slice/machine-qemu\\x2d7\\x2dweb\\x2d1.scope", "Machine web-1"),
        ("/machine.slice/machine-qemu\\x2d7\\x2dweb.scope/libvirt/vcpu0", "Cgroup vcpu0 nested"),
    ]);
}

#[test]
fn systemd_units_and_plain_cgroups() {
    check(&[
        ("/", "Root /"),
        ("/init.scope", "Scope init"),
        ("/system.slice", "Slice system"),
        ("/system.slice/nginx.service", "Service nginx"),
        ("/system.slice/system-getty.slice/getty@tty1.service", "Service getty@tty1"),
        ("/system.slice/data\\x2ddisk.service", "Service data-disk"),
        ("/system.slice/caf\\xc3\\xa9.service", "Service café"),
        ("/system.slice/dev-disk\\x2droot.mount", "Cgroup system.slice/dev-disk\\x2droot.mount"),
        ("/system.slice/a-directory-with-a-long-name\\x2droot.mount", "Cgroup a-directory-with-a-long-name-root.mount"),
        ("/user.slice/user-1000.slice/session-3.scope", "Scope session-3"),
        ("/user.slice/user-1000.slice/user@1000.service", "Service user@1000"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-firefox-4242.scope", "Scope app-gnome-firefox-4242"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/dbus.service", "Service dbus"),
        ("/batch", "Cgroup batch"),
        ("/batch/night", "Cgroup batch/night"),
        ("/a/path/that/is/longer/than/people/like/night", "Cgroup night"),
    ]);
}

#[test]
fn what_only_resembles_an_id_is_none() {
    let upper = ID.to_uppercase();
    let longer = format!("{ID}0");
    check(&[
        // podman's health checks are units that have the container's id as name.
        ("/system.slice/ID.service", &format!("Service {ID}")),
        ("/system.slice/someone-ID.scope", "Scope someone-SHORT"),
        (&format!("/docker/{upper}"), &format!("Cgroup {upper}")),
        (&format!("/docker/{longer}"), &format!("Cgroup {longer}")),
        ("/system.slice/run-r0123456789abcdef0123456789abcdef.scope", "Scope run-r0123456789abcdef0123456789abcdef"),
        ("/system.slice/docker-.scope", "Scope docker-"),
        ("/-ID.scope", &format!("Scope -{ID}")),
        ("/kubepods.slice/kubepods-pod1234.slice", "Slice kubepods-pod1234"),
        ("/kubepods.slice/kubepods-other-podU_ID.slice", "Slice kubepods-other-podU_ID"),
        ("/kubepods.slice/kubepods-burstable-podU_ID-x.slice", "Slice kubepods-burstable-podU_ID-x"),
        ("/notkubepods.slice/notkubepods-podU_ID.slice", "Slice notkubepods-podU_ID"),
    ]);
}

#[test]
fn every_string_has_a_name() {
    let long = "x".repeat(100_000);
    check(&[
        ("", "Root /"),
        ("///", "Root /"),
        ("batch", "Cgroup batch"),
        ("/batch/", "Cgroup batch"),
        ("//kubepods//podUID//ID//", "Container SHORT pod=UID id=ID qos=Guaranteed"),
        ("/..", "Cgroup .."),
        ("/../kubepods/podUID/ID", "Container SHORT pod=UID id=ID qos=Guaranteed"),
        ("/.service", "Cgroup .service"),
        ("/.slice", "Cgroup .slice"),
        ("/-.slice", "Slice -"),
        ("/\\x2", "Cgroup \\x2"),
        ("/\\xzz.service", "Service \\xzz"),
        ("/\\xff.service", "Service \u{fffd}"),
        ("/größe.service", "Service größe"),
        ("/::", "Cgroup ::"),
        ("/::ID", &format!("Cgroup ::{ID}")),
        (&long, &format!("Cgroup {long}")),
    ]);
}

proptest! {
    #[test]
    fn no_string_makes_it_panic(path in any::<String>()) {
        prop_assert!(!parse(&path, Kubelets::Any).name.is_empty());
    }

    #[test]
    fn no_mixture_of_layouts_makes_it_panic_or_name_a_wrong_id(
        parts in prop::collection::vec(prop::sample::select(vec![
            "/", "kubepods", "kubepods.slice", "burstable", "kubepods-burstable.slice", "-", "_", ":", "pod", ".slice", ".scope",
            ".service", "docker", "docker-", "crio-conmon-", "lxc.payload.", "machine-", "machine.slice", "\\x2d", "\\x", "é",
            ID, UID, STATIC_UID,
        ]), 0..24),
    ) {
        let name = parse(&parts.concat(), Kubelets::Any);
        prop_assert!(!name.name.is_empty());
        prop_assert!(name.container_id.is_none_or(|id| is_id(&id)));
        prop_assert!(name.pod_uid.is_none_or(|uid| uid == UID || uid == STATIC_UID));
        prop_assert!(!name.nested || !matches!(name.kind, CgroupKind::Root | CgroupKind::Pod));
    }
}

#[test]
fn names_that_are_not_utf_8_stay_apart() {
    assert_eq!(readable("/a/ü".as_bytes()), "/a/ü");
    assert_eq!(readable(b"/a/\xff\xfe-1"), "/a/\\xff\\xfe-1");
    assert_ne!(readable(b"/a/\xff"), readable(b"/a/\xfe"));
}

#[test]
fn any_path_has_a_name_no_longer_than_itself() {
    crate::fuzzing::hammer("cgroup_path", |bytes| {
        let path = readable(bytes);
        let name = parse(&path, Kubelets::Any);
        assert!(!name.name.is_empty() || path.contains('/'), "{name:?}");
        // A byte that is escaped may become U+FFFD, of three bytes.
        assert!(name.name.len() <= 3 * path.len() + 1, "{name:?}");
        assert!(name.pod_uid.is_none_or(|uid| matches!(uid.len(), 32 | 36)));
    });
}
