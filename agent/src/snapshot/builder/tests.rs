use std::sync::Arc;

use super::*;
use crate::{
    cgroups::table::tests::cgroup,
    histogram::Histogram,
    join::{self, CgroupSample},
    metric::{Point, Value},
    signals::{dns, limits, tcp},
};

#[test]
fn a_request_is_suggested_by_all_that_was_seen_and_with_the_time_it_took() {
    const SECOND: u64 = 1_000_000_000;
    let at = |second: u64, bursts: &[f64], unreclaimable: Option<u64>| {
        let mut batch = batch(second * SECOND, 0.0, bursts);
        let points = &mut batch.cgroups[0].sample.points;
        points.iter_mut().filter(|point| std::ptr::eq(point.metric, &cpu::metrics::BURST)).for_each(|p| p.start_ns = 2 * SECOND);
        points.extend(unreclaimable.map(|bytes| Point::new(&metrics::UNRECLAIMABLE, 0, Value::Int(bytes))));
        batch
    };
    let mut snapshots = SnapshotBuilder::new("n".to_owned(), 2.0);
    let first = &snapshots.next(&at(2, &[], None)).workloads[0];
    assert_eq!((first.watched_seconds, first.cpu.suggested_request_cores), (None, None), "nothing was seen yet");
    assert_eq!(first.memory.as_ref().and_then(|memory| memory.suggested_request_bytes), None);
    snapshots.next(&at(5, &[4.0; 30], Some(2000)));
    let last = &snapshots.next(&at(62, &[&[4.0; 30][..], &[0.5; 570]].concat(), Some(1000))).workloads[0];
    assert_eq!(last.watched_seconds, Some(60.0));
    let cores = last.cpu.suggested_request_cores.expect("windows");
    assert!((cores / 0.5 - 1.0).abs() < 0.05, "{cores}: 30 of 600 windows may be above it");
    let memory = last.memory.as_ref().expect("is known");
    assert_eq!((memory.unreclaimable_bytes, memory.suggested_request_bytes), (Some(1000), Some(2300)));
}

fn batch(time_ns: u64, wait: f64, bursts: &[f64]) -> Batch {
    let mut burst = Histogram::default();
    bursts.iter().for_each(|v| burst.record(*v, 1));
    let owner = cgroup(1, "/a", None);
    let node = join::NodeIdentity { name: "n".to_owned(), ..join::NodeIdentity::default() };
    let points = vec![
        Point::new(&cpu::metrics::TIME, 0, Value::Float(5.0)),
        Point::new(&cpu::metrics::WAIT_TIME, 0, Value::Float(wait)).with("cause", "contention"),
        Point::new(&cpu::metrics::WAIT_TIME, 0, Value::Float(1.0)).with("cause", "throttled"),
        Point::new(&cpu::metrics::BURST, 0, Value::Histogram(Arc::new(burst))),
        Point::new(&limits::MEMORY_LIMIT, 0, Value::Int(7)),
    ];
    let resource = Arc::new(node.resource_of(&owner));
    Batch { time_ns, cgroups: vec![CgroupSample::new(&owner, resource, points)], ..Batch::default() }
}

#[test]
fn network_rates_are_of_the_interval_and_shares_of_enough_events_to_have_a_share_of() {
    let at = |second: u64, received: u64, segments: [u64; 2], lookups: [u64; 3]| {
        let lookups = lookups.map(|n| {
            let mut histogram = Histogram::default();
            histogram.record(0.02, n);
            Value::Histogram(Arc::new(histogram))
        });
        let [answered, no_such_name, refused] = lookups;
        let mut batch = batch(second * 1_000_000_000, 0.0, &[]);
        batch.cgroups[0].sample.points = vec![
            Point::new(&network::IO, 0, Value::Int(received)).with("network.io.direction", "receive"),
            Point::new(&tcp::SEGMENTS, 0, Value::Int(segments[0])),
            Point::new(&tcp::RETRANSMITS, 0, Value::Int(segments[1])),
            Point::new(&dns::metrics::QUERIES, 0, Value::Int(9)).with("side", "client").with("network.transport", "udp"),
            Point::new(&dns::metrics::QUERIES, 0, Value::Int(70)).with("side", "server").with("network.transport", "udp"),
            Point::new(&dns::metrics::LOOKUPS, 0, answered).with("network.transport", "udp"),
            Point::new(&dns::metrics::LOOKUPS, 0, no_such_name).with("error.type", "NXDOMAIN").with("network.transport", "udp"),
            Point::new(&dns::metrics::LOOKUPS, 0, refused).with("error.type", "REFUSED").with("network.transport", "udp"),
        ];
        batch
    };
    let mut snapshots = SnapshotBuilder::new("n".to_owned(), 2.0);
    snapshots.next(&at(1, 1000, [100, 1], [200, 0, 0]));
    let snapshot = snapshots.next(&at(3, 5000, [300, 3], [210, 60, 30]));
    let workload = &snapshot.workloads[0];
    let network = workload.network.as_ref().expect("there was traffic");
    assert_eq!((network.receive_bytes, network.receive_rate, network.transmit_rate), (Some(5000), Some(2000.0), None));
    let tcp = workload.tcp.as_ref().expect("there were segments");
    assert_eq!((tcp.retransmits, tcp.retransmit_ratio, tcp.rtt_p50_seconds), (Some(3), Some(0.01), None));
    let dns = workload.dns.as_ref().expect("there were queries");
    assert_eq!((dns.queries, dns.failures, dns.no_such_name, dns.window_lookups), (Some(9), 30, 60, 100));
    assert_eq!((dns.failure_ratio, dns.no_such_name_ratio), (Some(0.3), Some(0.6)), "of the last hundred");
    let p50 = dns.p50_seconds.expect("there were answers");
    assert!((p50 / 0.02 - 1.0).abs() < 0.05, "{p50}");
    assert!(workload.memory.is_none(), "nothing is known of it");
    // Three more lookups and no more segments: shares and percentiles are still of enough.
    let snapshot = snapshots.next(&at(5, 5000, [300, 3], [212, 61, 30]));
    let workload = &snapshot.workloads[0];
    assert_eq!(workload.tcp.as_ref().and_then(|tcp| tcp.retransmit_ratio), Some(0.01));
    let dns = workload.dns.as_ref().expect("there were queries");
    assert_eq!((dns.window_lookups, dns.failure_ratio), (103, Some(30.0 / 103.0)));
    assert!(dns.p99_seconds.is_some_and(|p99| (p99 / 0.02 - 1.0).abs() < 0.05), "{:?}", dns.p99_seconds);
}

#[test]
fn rates_and_percentiles_are_of_the_interval() {
    let mut snapshots = SnapshotBuilder::new("n".to_owned(), 2.0);
    let first = snapshots.next(&batch(1_000_000_000, 3.0, &[1.0; 10]));
    let cpu = &first.workloads[0].cpu;
    assert_eq!((cpu.time_seconds, cpu.wait_seconds, cpu.wait_rate), (5.0, Some(4.0), None));
    assert_eq!(first.workloads[0].memory.as_ref().and_then(|m| m.limit_bytes), Some(7));

    let mut bursts = vec![1.0; 10];
    bursts.extend([0.25; 10]);
    let second = snapshots.next(&batch(3_000_000_000, 4.0, &bursts));
    let cpu = &second.workloads[0].cpu;
    assert_eq!((cpu.wait_rate, cpu.throttled_rate, cpu.contention_rate), (Some(0.5), Some(0.0), Some(0.5)));
    let p50 = cpu.burst_p50_cores.expect("windows");
    assert!((p50 / 0.25 - 1.0).abs() < 0.05, "{p50}: only the interval's windows");
}

#[test]
fn where_nothing_can_throttle_all_of_the_wait_is_contention() {
    let at = |second: u64, wait: Option<f64>| {
        let mut batch = batch(second * 1_000_000_000, 0.0, &[]);
        let points = &mut batch.cgroups[0].sample.points;
        points.retain(|point| !std::ptr::eq(point.metric, &cpu::metrics::WAIT_TIME));
        points.extend(wait.map(|s| Point::new(&cpu::metrics::WAIT_TIME, 0, Value::Float(s)).with("cause", "contention")));
        batch
    };
    let mut snapshots = SnapshotBuilder::new("n".to_owned(), 2.0);
    let unknown = &snapshots.next(&at(1, None)).workloads[0].cpu;
    assert_eq!((unknown.wait_seconds, unknown.contention_seconds), (None, None), "not known is not 0");
    let first = &snapshots.next(&at(2, Some(7.0))).workloads[0].cpu;
    assert_eq!((first.wait_seconds, first.wait_rate, first.contention_rate), (Some(7.0), None, None));
    let next = &snapshots.next(&at(4, Some(8.0))).workloads[0].cpu;
    assert_eq!((next.wait_rate, next.contention_rate, next.throttled_rate), (Some(0.5), Some(0.5), None));
}

#[test]
fn the_node_has_memory_and_traffic_besides_its_cpu() {
    let at = |second: u64, received: u64| {
        let direction = |n, way| Point::new(&network::NODE_IO, 0, Value::Int(n)).with(DIRECTION, way);
        let points = vec![
            Point::new(&metrics::NODE_USAGE, 0, Value::Int(900)),
            Point::new(&metrics::NODE_WORKING_SET, 0, Value::Int(600)),
            Point::new(&metrics::NODE_AVAILABLE, 0, Value::Int(400)),
            direction(received, "receive"),
            direction(5, "transmit"),
        ];
        let resource = Arc::new(join::NodeIdentity::default().resource());
        Batch { time_ns: second * 1_000_000_000, node: Sample::new(resource, points), ..Batch::default() }
    };
    let mut snapshots = SnapshotBuilder::new("n".to_owned(), 2.0);
    let first = snapshots.next(&at(1, 100)).node;
    let memory = NodeMemory { usage_bytes: Some(900), working_set_bytes: Some(600), capacity_bytes: Some(1000) };
    assert_eq!(first.memory, Some(memory));
    assert_eq!(first.network.and_then(|network| network.receive_rate), None);
    let network = snapshots.next(&at(3, 300)).node.network.expect("is counted");
    assert_eq!((network.receive_bytes, network.receive_rate, network.transmit_rate), (Some(300), Some(100.0), Some(0.0)));
}

#[test]
fn the_nodes_file_systems_are_as_full_as_df_has_it_and_the_fullest_is_first() {
    let bytes = |mountpoint, state, n| {
        let point = Point::new(&node::metrics::FS_USAGE, 0, Value::Int(n)).with("system.filesystem.mountpoint", mountpoint);
        point.with("podmeter.filesystem.role", "root").with("system.filesystem.state", state)
    };
    let points = vec![
        Point::new(&node::metrics::LOAD_1M, 0, Value::Float(1.5)),
        bytes("/", "used", 30),
        bytes("/", "free", 60),
        bytes("/", "reserved", 10),
        bytes("/data", "used", 0),
        bytes("/full", "free", 0),
        bytes("/full", "used", 7),
        bytes("/data", "free", 0),
    ];
    let resource = Arc::new(join::NodeIdentity::default().resource());
    let batch = Batch { time_ns: 1, node: Sample::new(resource, points), ..Batch::default() };
    let shown = SnapshotBuilder::new("n".to_owned(), 2.0).next(&batch).node;
    assert_eq!(shown.load, Some(1.5));
    let found: Vec<_> = shown.file_systems.iter().map(|of| (of.mountpoint.as_str(), of.usage_bytes, of.capacity_bytes)).collect();
    assert_eq!(found, [("/full", 7, 7), ("/", 30, 90), ("/data", 0, 0)]);
    assert_eq!(shown.file_systems[1].role.as_deref(), Some("root"));
}
