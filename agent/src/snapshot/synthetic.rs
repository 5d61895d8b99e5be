//! A node that does not exist: the same figures on every run, for the tests and the picture in the documentation.

use super::document::{
    CpuUsage, DiskUsage, DnsUsage, FileSystemUsage, KubernetesStatus, MemoryUsage, NetworkUsage, NodeCpu, NodeMemory,
    NodeNetwork, NodeUsage, Snapshot, TcpUsage, WorkloadUsage,
};

/// One workload's habits.
struct Habit {
    namespace: &'static str,
    pod: &'static str,
    container: &'static str,
    kind: &'static str,
    /// CPUs used, on average and how far it swings.
    cores: (f64, f64),
    request: Option<f64>,
    limit: Option<f64>,
    /// 99th percentile of the burst as a multiple of the use.
    burst: f64,
    /// s per s.
    throttled: f64,
    contention: f64,
}

const HABITS: &[Habit] = &[
    habit("shop", "checkout-7d9f8c6b5-x2x7k", "app", "Deployment", (0.85, 0.3), Some(1.0), Some(2.0), (1.9, 0.021, 0.012)),
    habit("shop", "cart-5c8d7f9b4-q9w8e", "redis", "Deployment", (0.12, 0.1), Some(0.1), Some(0.5), (3.1, 0.13, 0.004)),
    habit("shop", "web-6f7d8c9b5-abcde", "nginx", "Deployment", (0.31, 0.25), Some(0.5), None, (1.4, 0.0, 0.002)),
    habit("data", "postgres-0", "postgres", "StatefulSet", (1.62, 0.5), Some(2.0), Some(4.0), (1.3, 0.0, 0.34)),
    habit("data", "reindex-28371-kx9z2", "reindex", "Job", (0.98, 0.02), Some(0.25), Some(1.0), (1.02, 1.4, 0.05)),
    habit(
        "kube-system",
        "coredns-6d4b75cb6d-7hj2k",
        "coredns",
        "Deployment",
        (0.008, 0.006),
        Some(0.1),
        None,
        (4.0, 0.0, 0.0004),
    ),
    habit("kube-system", "kube-proxy-z8x4c", "kube-proxy", "DaemonSet", (0.0023, 0.002), None, None, (9.0, 0.0, 0.00009)),
    habit("monitoring", "podmeter-4kq7v", "podmeter", "DaemonSet", (0.0031, 0.001), Some(0.02), Some(0.1), (6.0, 0.0, 0.0001)),
    habit("", "", "kubelet.service", "Service", (0.048, 0.045), None, None, (2.5, 0.0, 0.003)),
    habit("", "", "containerd.service", "Service", (0.031, 0.03), None, None, (2.8, 0.0, 0.002)),
    habit("", "", "ssh.service", "Service", (0.0, 0.0), None, None, (0.0, 0.0, 0.0)),
    habit("", "", "cron.service", "Service", (0.0, 0.0), None, None, (0.0, 0.0, 0.0)),
    habit("shop", "cart-5c8d7f9b4-q9w8e", "exporter", "Deployment", (0.004, 0.003), Some(0.01), None, (2.0, 0.0, 0.0002)),
];

#[allow(clippy::too_many_arguments, reason = "a row of the table above")]
const fn habit(
    namespace: &'static str,
    pod: &'static str,
    container: &'static str,
    kind: &'static str,
    cores: (f64, f64),
    request: Option<f64>,
    limit: Option<f64>,
    (burst, throttled, contention): (f64, f64, f64),
) -> Habit {
    Habit { namespace, pod, container, kind, cores, request, limit, burst, throttled, contention }
}

/// The node in its `tick`-th second.
pub fn snapshot(tick: u32) -> Snapshot {
    let mut workloads: Vec<WorkloadUsage> = HABITS.iter().enumerate().map(|(i, habit)| workload(habit, i, tick)).collect();
    let used = workloads.iter().filter_map(|w| w.cpu.usage_cores).sum::<f64>();
    workloads.sort_by(|a, b| a.pod.cmp(&b.pod));
    let pods: Vec<WorkloadUsage> = workloads.chunk_by(|a, b| a.pod.is_some() && a.pod == b.pod).filter_map(pod).collect();
    workloads.extend(pods);
    workloads.sort_by(|a, b| a.cgroup.cmp(&b.cgroup));
    Snapshot {
        overhead: None,
        schema: 1,
        at: None,
        node: NodeUsage {
            name: "worker-3".into(),
            cpu: NodeCpu {
                time_seconds: 86_400.0 + used * f64::from(tick),
                usage_cores: Some(used),
                capacity_cores: 8.0,
                unattributed_seconds: 0.0,
            },
            memory: Some(NodeMemory {
                usage_bytes: Some(27 << 30),
                working_set_bytes: Some((11 << 30) + (u64::from(tick) << 20)),
                capacity_bytes: Some(32 << 30),
            }),
            network: Some(NodeNetwork {
                receive_bytes: Some(48 << 30),
                transmit_bytes: Some(161 << 30),
                receive_rate: Some(used * 2e5),
                transmit_rate: Some(used * 6e5),
            }),
            load: Some(used * 1.25),
            file_systems: [("/var/lib/containerd", "images", 83), ("/", "root,kubelet", 41)]
                .map(|(mountpoint, role, gib)| FileSystemUsage {
                    mountpoint: mountpoint.into(),
                    role: Some(role.into()),
                    usage_bytes: gib << 30,
                    capacity_bytes: 100 << 30,
                })
                .into(),
        },
        signals: Vec::new(),
        kubernetes: Some(KubernetesStatus { current: true, error: None }),
        workloads,
    }
}

/// The pod that these containers are in; `None` for what is in none.
fn pod(containers: &[WorkloadUsage]) -> Option<WorkloadUsage> {
    let first = containers.first().filter(|first| first.pod.is_some())?;
    let sum = |of: fn(&CpuUsage) -> Option<f64>| containers.iter().map(|container| of(&container.cpu)).sum::<Option<f64>>();
    let cpu = CpuUsage {
        time_seconds: containers.iter().map(|container| container.cpu.time_seconds).sum(),
        usage_cores: sum(|cpu| cpu.usage_cores),
        wait_seconds: sum(|cpu| cpu.wait_seconds),
        wait_rate: sum(|cpu| cpu.wait_rate),
        contention_rate: sum(|cpu| cpu.contention_rate),
        contention_seconds: sum(|cpu| cpu.contention_seconds),
        request_cores: sum(|cpu| cpu.request_cores),
        limit_cores: sum(|cpu| cpu.limit_cores),
        ..first.cpu.clone()
    };
    let bytes = |of: fn(&MemoryUsage) -> Option<u64>| {
        containers.iter().map(|container| of(container.memory.as_ref()?)).sum::<Option<u64>>()
    };
    let memory = MemoryUsage {
        usage_bytes: bytes(|memory| memory.usage_bytes),
        working_set_bytes: bytes(|memory| memory.working_set_bytes),
        unreclaimable_bytes: bytes(|memory| memory.unreclaimable_bytes),
        peak_bytes: bytes(|memory| memory.peak_bytes),
        request_bytes: bytes(|memory| memory.request_bytes),
        limit_bytes: bytes(|memory| memory.limit_bytes),
        ..first.memory.clone().unwrap_or_default()
    };
    let above = first.cgroup.rsplit_once('/').map_or("/", |(above, _)| above);
    Some(WorkloadUsage {
        container: None,
        cgroup_kind: "Pod".into(),
        cgroup: above.into(),
        cpu,
        memory: Some(memory),
        ..first.clone()
    })
}

fn workload(habit: &Habit, index: usize, tick: u32) -> WorkloadUsage {
    let some = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
    // Two waves that do not fit together look like load.
    let phase = f64::from(tick) / 7.0 + index as f64;
    let swing = (phase.sin() + (phase * 2.7).cos()) / 2.0;
    let used = (habit.cores.0 + habit.cores.1 * swing).max(0.0);
    let (throttled, contention) = (habit.throttled * (1.0 + swing / 2.0), habit.contention * (1.0 - swing / 2.0));
    let age = 40_000.0 * (index as f64 + 1.0) + f64::from(tick);
    WorkloadUsage {
        name: if habit.pod.is_empty() { habit.container } else { habit.pod.split('-').next().unwrap_or_default() }.into(),
        kind: habit.kind.into(),
        cgroup_kind: if habit.pod.is_empty() { "Service" } else { "Container" }.into(),
        namespace: some(habit.namespace),
        pod: some(habit.pod),
        container: some(habit.container).filter(|_| !habit.pod.is_empty()),
        cgroup: if habit.pod.is_empty() {
            format!("/system.slice/{}", habit.container)
        } else {
            let pod = HABITS.iter().position(|other| other.pod == habit.pod).unwrap_or(index);
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{pod:08}.slice/cri-containerd-{index:064x}.scope"
            )
        },
        container_type: None,
        ended: false,
        watched_seconds: Some(720.0 + f64::from(tick)),
        cpu: CpuUsage {
            time_seconds: habit.cores.0 * age,
            usage_cores: Some(used),
            wait_seconds: Some((habit.throttled + habit.contention) * age),
            throttled_seconds: Some(habit.throttled * age),
            contention_seconds: Some(habit.contention * age),
            contended_seconds: None,
            neighbours: Vec::new(),
            wait_rate: Some(throttled + contention),
            throttled_rate: Some(throttled),
            contention_rate: Some(contention),
            burst_p50_cores: Some(used * 0.9),
            burst_p99_cores: Some(used * habit.burst),
            request_cores: habit.request,
            limit_cores: habit.limit,
            suggested_request_cores: Some((habit.cores.0 + habit.cores.1) * habit.burst * 0.7),
        },
        memory: Some(memory(habit, index, swing)),
        network: Some(NetworkUsage {
            receive_bytes: Some((habit.cores.0 * 2e5 * age) as u64),
            transmit_bytes: Some((habit.cores.0 * 6e5 * age) as u64),
            receive_rate: Some(used * 2e5),
            transmit_rate: Some(used * 6e5),
            drops: Some(index as u64 % 3),
            drop_rate: Some(if index == 5 { 2.0 } else { 0.0 }),
        }),
        tcp: some(habit.pod).map(|_| TcpUsage {
            segments_out: Some((habit.cores.0 * 900.0 * age) as u64),
            retransmits: Some((habit.cores.0 * 0.4 * age) as u64),
            retransmit_ratio: Some(0.000_4 * (1.0 + swing) + if index == 3 { 0.012 } else { 0.0 }),
            rtt_count: Some(104),
            rtt_p50_seconds: Some(0.000_3 * (1.0 + index as f64)),
            rtt_p99_seconds: Some(0.002 * (1.0 + index as f64)),
            connect_failures: Some(if index == 0 { 7 } else { 0 }),
            connections: Some(12 + index as u64),
            timeouts: (index < 3).then_some(index as u64 + 2),
            window_limited_seconds: (index == 0).then_some(1.25),
            unacknowledged_bytes: (index == 0).then_some(2048),
            accept_p99_seconds: Some(0.000_4 * (1.0 + index as f64)),
        }),
        dns: some(habit.pod).filter(|_| index < 5).map(|_| DnsUsage {
            queries: Some((0.4 * age) as u64),
            query_rate: Some(0.4 + index as f64 * 3.0),
            timeouts: index as u64,
            failures: index as u64 * 5,
            no_such_name: (0.2 * age) as u64,
            window_lookups: 100 + index as u64 * 7,
            failure_ratio: Some(index as f64 * 0.03),
            no_such_name_ratio: Some(0.62),
            p50_seconds: Some(0.000_8),
            p99_seconds: Some(0.012 * (1.0 + index as f64)),
        }),
        disk: (habit.kind == "StatefulSet").then_some(DiskUsage {
            read_bytes: Some((3e5 * age) as u64),
            write_bytes: Some((2e6 * age) as u64),
            read_rate: Some(3e5 * (1.0 + swing)),
            write_rate: Some(2e6 * (1.0 + swing)),
            p99_seconds: Some(0.002_1),
            fsync_count: Some(131),
            fsync_p99_seconds: Some(0.004_3),
            throttled: Some(12),
        }),
    }
}

/// Memory that goes with the CPU: a quarter of it page cache.
fn memory(habit: &Habit, index: usize, swing: f64) -> MemoryUsage {
    let used = (48 + 90 * (index as u64 % 12)) << 20;
    let moving = (((used / 8) as f64) * (1.0 + swing)) as u64;
    let limit_bytes = habit.limit.map(|_| used.next_power_of_two() * 2);
    MemoryUsage {
        usage_bytes: Some(used + moving),
        working_set_bytes: Some(used / 4 * 3 + moving),
        unreclaimable_bytes: Some(used / 2),
        peak_bytes: Some(used / 4 * 5),
        request_bytes: habit.request.map(|_| used.next_power_of_two()),
        limit_bytes,
        suggested_request_bytes: Some(used / 2 / 100 * 115),
        oom_kills: limit_bytes.map(|_| u64::from(index == 4) * 2),
    }
}
