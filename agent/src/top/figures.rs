//! What the displays derive from a [`Workload`]. Not known stays not known.

use super::view::{Memory, View, Workload};

/// Its name as people type it: `namespace/pod/container` for what runs in a pod, else what it is called.
pub fn label(workload: &Workload) -> String {
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
pub fn short_label(workload: &Workload, above: &Workload) -> String {
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

/// CPU use in the interval as a share of the request.
pub fn request_share(workload: &Workload) -> Option<f64> {
    share(workload.cpu.usage_cores, workload.cpu.request_cores)
}

/// CPU use in the interval as a share of the limit.
pub fn limit_share(workload: &Workload) -> Option<f64> {
    share(workload.cpu.usage_cores, workload.cpu.limit_cores)
}

/// Memory that counts against the request, as a share of it: the working set, or usage where only that is known.
pub fn memory_request_share(workload: &Workload) -> Option<f64> {
    workload.memory.as_ref().and_then(|m| share(working_set(m), m.request_bytes.map(|bytes| bytes as f64)))
}

/// Memory that counts against the limit, as a share of it.
pub fn memory_limit_share(workload: &Workload) -> Option<f64> {
    workload.memory.as_ref().and_then(|m| share(working_set(m), m.limit_bytes.map(|bytes| bytes as f64)))
}

fn working_set(memory: &Memory) -> Option<f64> {
    memory.working_set_bytes.or(memory.usage_bytes).map(|bytes| bytes as f64)
}

/// For how long anything has been watched, in s. What came later has less, which its details say.
pub fn watched(view: &View) -> Option<f64> {
    view.workloads.iter().filter_map(|workload| workload.watched_seconds).reduce(f64::max)
}

/// Bytes per s in both directions, in the interval.
pub fn traffic(workload: &Workload) -> Option<f64> {
    let network = workload.network.as_ref()?;
    Some(network.receive_rate? + network.transmit_rate?)
}

/// True when it used no CPU in the interval, as far as is known.
pub fn is_idle(workload: &Workload) -> bool {
    workload.cpu.usage_cores.is_none_or(|used| used <= 0.0)
}

fn share(used: Option<f64>, of: Option<f64>) -> Option<f64> {
    let of = of.filter(|of| *of > 0.0)?;
    Some(used? / of)
}

/// A container id by its first 12 digits, as `crictl` and `docker` print it; other names unchanged.
fn short(name: &str) -> &str {
    const SHOWN: usize = 12;
    if name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) { &name[..SHOWN] } else { name }
}

#[cfg(test)]
mod tests {
    use super::super::view::Cpu;
    use super::*;

    #[test]
    fn labels_say_where_it_runs() {
        let some = |text: &str| Some(text.to_owned());
        let unit = Workload { name: "ssh.service".into(), ..Workload::default() };
        assert_eq!(label(&unit), "ssh.service");
        let container = Workload { namespace: some("shop"), pod: some("web-5d"), container: some("app"), ..unit.clone() };
        assert_eq!(label(&container), "shop/web-5d/app");
        let unnamed = Workload { pod: some("11111111-1111"), container: Some("ab12".repeat(16)), ..unit.clone() };
        assert_eq!(label(&unnamed), "11111111-1111/ab12ab12ab12");
        let pod = Workload {
            namespace: some("shop"),
            pod: some("web-5d"),
            cgroup_kind: "Pod".into(),
            cgroup: "/pod".into(),
            ..unit.clone()
        };
        assert_eq!(label(&pod), "shop/web-5d");
        assert_eq!(short_label(&container, &pod), "app");
        let inner =
            Workload { cgroup: "/pod/id/sub/inner".into(), cgroup_kind: "Cgroup".into(), container: None, ..container.clone() };
        assert_eq!(label(&inner), "shop/web-5d/inner");
        assert_eq!(short_label(&inner, &Workload { cgroup: "/pod/id".into(), ..container }), "sub/inner");
        let unit =
            Workload { cgroup_kind: "Service".into(), cgroup: "/user.slice/dbus.service".into(), name: "dbus".into(), ..unit };
        assert_eq!(short_label(&unit, &Workload { cgroup: "/user.slice".into(), ..Workload::default() }), "dbus");
    }

    #[test]
    fn shares_need_both_sides_and_a_divisor() {
        let with = |usage_cores, request_cores| {
            request_share(&Workload { cpu: Cpu { usage_cores, request_cores, ..Cpu::default() }, ..Workload::default() })
        };
        assert_eq!(with(Some(0.5), Some(2.0)), Some(0.25));
        assert_eq!(with(Some(0.5), Some(0.0)), None);
        assert_eq!(with(None, Some(2.0)), None);
        assert_eq!(with(Some(0.5), None), None);
    }

    #[test]
    fn memory_is_measured_by_its_working_set() {
        let with = |working_set_bytes, usage_bytes| {
            let memory = Memory { working_set_bytes, usage_bytes, limit_bytes: Some(1000), ..Memory::default() };
            memory_limit_share(&Workload { memory: Some(memory), ..Workload::default() })
        };
        assert_eq!((with(Some(250), Some(500)), with(None, Some(500)), with(None, None)), (Some(0.25), Some(0.5), None));
        assert_eq!(memory_limit_share(&Workload::default()), None);
    }
}
