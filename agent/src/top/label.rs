//! What a workload is called in a row (pure).

use crate::snapshot::document::WorkloadUsage;

/// Its name as people type it: `namespace/pod/container` for what runs in a pod, else what it is called.
pub fn label(workload: &WorkloadUsage) -> String {
    let Some(pod) = &workload.pod else { return short(&workload.name).to_owned() };
    let part = match &workload.container {
        // A pod has its only container's name besides its own.
        _ if workload.is_a("Pod") => None,
        Some(container) => Some(container.as_str()),
        // What a container made inside itself has no name in Kubernetes.
        None => Some(last(&workload.cgroup)),
    };
    [workload.namespace.as_deref(), Some(pod), part.map(short)].into_iter().flatten().collect::<Vec<_>>().join("/")
}

/// Its name in a row below that of the cgroup at `above`.
pub fn short_label(workload: &WorkloadUsage, above: &WorkloadUsage) -> String {
    let below = workload.cgroup.strip_prefix(above.cgroup.as_str()).map(|path| path.trim_start_matches('/'));
    match (&workload.container, below) {
        (Some(container), _) if above.is_a("Pod") => short(container).to_owned(),
        (_, Some(below)) if workload.is_a("Cgroup") && !below.is_empty() => below.to_owned(),
        _ => last(&label(workload)).to_owned(),
    }
}

/// The last component of a path.
fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A container id by its first 12 digits, as `crictl` and `docker` print it; other names unchanged.
fn short(name: &str) -> &str {
    const SHOWN: usize = 12;
    if name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) { &name[..SHOWN] } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_say_where_it_runs() {
        let some = |text: &str| Some(text.to_owned());
        let unit = WorkloadUsage { name: "ssh.service".into(), ..WorkloadUsage::default() };
        assert_eq!(label(&unit), "ssh.service");
        let container = WorkloadUsage { namespace: some("shop"), pod: some("web-5d"), container: some("app"), ..unit.clone() };
        assert_eq!(label(&container), "shop/web-5d/app");
        let unnamed = WorkloadUsage { pod: some("11111111-1111"), container: Some("ab12".repeat(16)), ..unit.clone() };
        assert_eq!(label(&unnamed), "11111111-1111/ab12ab12ab12");
        let pod = WorkloadUsage {
            namespace: some("shop"),
            pod: some("web-5d"),
            cgroup_kind: "Pod".into(),
            cgroup: "/pod".into(),
            ..unit.clone()
        };
        assert_eq!(label(&pod), "shop/web-5d");
        assert_eq!(short_label(&container, &pod), "app");
        let inner = WorkloadUsage {
            cgroup: "/pod/id/sub/inner".into(),
            cgroup_kind: "Cgroup".into(),
            container: None,
            ..container.clone()
        };
        assert_eq!(label(&inner), "shop/web-5d/inner");
        assert_eq!(short_label(&inner, &WorkloadUsage { cgroup: "/pod/id".into(), ..container }), "sub/inner");
        let unit = WorkloadUsage {
            cgroup_kind: "Service".into(),
            cgroup: "/user.slice/dbus.service".into(),
            name: "dbus".into(),
            ..unit
        };
        assert_eq!(short_label(&unit, &WorkloadUsage { cgroup: "/user.slice".into(), ..WorkloadUsage::default() }), "dbus");
    }
}
