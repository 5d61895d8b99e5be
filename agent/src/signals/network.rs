//! The network signal: bytes and packets of every cgroup's sockets, and where they go.
//!
//! The kernel side (`agent-ebpf/src/bin/network.rs`) counts each packet at its socket. This side fills in the address ranges
//! and keeps the [`slot_counts`](super::slot_counts).

mod ranges;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use agent_common::network::{Facts, NetworkCounts, Scope as To, copies};
use aya::maps::{MapData, ProgramArray};

use self::ranges::Ranges;
use super::{ActiveSignal, Addresses, Readings, Signal, SignalError, slot_counts::SlotCounts, socket};
use crate::{
    cgroups::{Cgroup, Cgroups},
    config,
    kernel::{
        capabilities,
        load::{Hook, Kernel, LoadError, Object, Plan, Size, clear_calls},
    },
    metric::{Metric, Point, Scope, Value},
};

/// See the module.
pub const SIGNAL: Signal = Signal {
    name: "network",
    help: "bytes and packets by direction and destination",
    tracepoints: &[],
    metrics: &[&IO, &PACKETS, &EGRESS, &LOOPBACK, &NODE_IO, &UNATTRIBUTED_IO],
    capability: Some(&capabilities::NET_ADMIN),
    missing: |_| None,
    start: |kernel, cgroups, config| Ok(Box::new(Network::start(kernel, cgroups, config)?)),
};

/// `container.network.io`
pub static IO: Metric = Metric::counter(
    "container.network.io",
    "By",
    Scope::Cgroup,
    "Bytes of IP packets that the cgroup's sockets received and sent, with the IP and transport headers of each \
     segment, without the link's. A datagram above the MTU counts as one packet, not as its fragments. Loopback \
     is not included.",
)
.of_pods("k8s.pod.network.io")
.attributes(&[DIRECTION]);
/// `podmeter.network.packets`
pub static PACKETS: Metric = Metric::counter(
    "podmeter.network.packets",
    "{packet}",
    Scope::Cgroup,
    "IP packets that the cgroup's sockets received and sent. Large packets of TCP and UDP segmentation count as \
     their segments on the wire; a datagram above the MTU counts as one packet. Loopback is not included.",
)
.attributes(&[DIRECTION]);
/// `podmeter.network.egress`
pub static EGRESS: Metric = Metric::counter(
    "podmeter.network.egress",
    "By",
    Scope::Cgroup,
    "Bytes sent, by destination: cluster (network.cluster_cidrs, and the pod ranges of this node), node \
     (network.node_cidrs, and this node), private (network.private_cidrs), internet (all else). The sum equals \
     the sent bytes of container.network.io.",
)
.attributes(&["scope"]);
/// `podmeter.network.loopback`
pub static LOOPBACK: Metric = Metric::counter(
    "podmeter.network.loopback",
    "By",
    Scope::Cgroup,
    "Bytes received and sent on a loopback interface: within a pod, or within a machine.",
)
.attributes(&[DIRECTION]);
/// `k8s.node.network.io`
pub static NODE_IO: Metric = Metric::counter(
    "k8s.node.network.io",
    "By",
    Scope::Node,
    "Bytes of all sockets of the node: all cgroups and the unattributed. Forwarded packets are not included, nor \
     are copies for raw sockets.",
)
.attributes(&[DIRECTION]);
/// `podmeter.network.unattributed`
pub static UNATTRIBUTED_IO: Metric = Metric::counter(
    "podmeter.network.unattributed",
    "By",
    Scope::Node,
    "Bytes of sockets of a cgroup without a slot: it was created when all were taken, or is gone for more than a \
     second.",
)
.attributes(&[DIRECTION]);

const DIRECTION: &str = "network.io.direction";

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/network"));

/// The signal while it counts.
struct Network {
    /// Held for its links, and for the tables of programs that it calls.
    _object: Object,
    counts: SlotCounts<NetworkCounts>,
    ranges: Ranges,
    /// Since when the kernel side counts, CLOCK_BOOTTIME in ns.
    since_ns: u64,
}

impl Network {
    fn start(kernel: &mut Kernel, cgroups: &Cgroups, config: &config::Signals) -> Result<Self, LoadError> {
        let (copies, slots) = (copies(kernel.cpus), cgroups.slots());
        let ports = socket::dns_ports(&config.dns);
        let mut hasher = DefaultHasher::new();
        config.network.hash(&mut hasher);
        let mut object = kernel.load(&Plan {
            object: SIGNAL.name,
            bytes: OBJECT,
            facts: Facts { copy_mask: u64::from(copies - 1), ports, ranges: hasher.finish() },
            maps: &[
                ("NETWORK_COUNTS", Size::Slots(copies)),
                ("NETWORK_SLOTS", Size::Fixed),
                ("NETWORK_SCOPES", Size::Fixed),
                ("NETWORK_RANGES_4", Size::Fixed),
                ("NETWORK_RANGES_6", Size::Fixed),
                ("NETWORK_DNS_EGRESS", Size::Fixed),
                ("NETWORK_DNS_INGRESS", Size::Fixed),
            ],
            shared: &[("CGROUP_SLOTS", cgroups.object()), ("GENERATION", cgroups.object())],
            programs: &[("network_on_egress", Hook::Egress), ("network_on_ingress", Hook::Ingress)],
            optional: &[],
        })?;
        let ranges = Ranges::open(&mut object, &config.network)?;
        if config.off.contains(&"dns") {
            forget_dns(&mut object)?;
        }
        kernel.attach(&mut object)?;
        let counts = SlotCounts::open(&object, "NETWORK_COUNTS", copies, slots)?;
        Ok(Self { counts, ranges, since_ns: object.since_ns(), _object: object })
    }
}

/// Takes the programs of the dns signal out, which an agent before this one had put in.
fn forget_dns(object: &mut Object) -> Result<(), LoadError> {
    for map in ["NETWORK_DNS_EGRESS", "NETWORK_DNS_INGRESS"] {
        let mut calls: ProgramArray<MapData> = object.take(map)?;
        clear_calls(&mut calls, map)?;
    }
    Ok(())
}

impl ActiveSignal for Network {
    fn learn(&mut self, addresses: &Addresses, cgroups: &Cgroups) -> Result<(), SignalError> {
        let learnt = self.ranges.learn(addresses);
        if !matches!(learnt, Ok(false)) {
            cgroups.start_generation();
        }
        learnt.map(drop).map_err(|source| LoadError::Map { action: "fill", map: "NETWORK_RANGES", source: source.into() }.into())
    }

    fn retire(&mut self, cgroup: &Cgroup) -> Vec<Point> {
        points(cgroup.counted_since(self.since_ns), &self.counts.retire(cgroup))
    }

    fn collect(&mut self, _: u64, cgroups: &Cgroups) -> Result<Readings, SignalError> {
        let totals = self.counts.totals(cgroups.table());
        let of = |c: &Cgroup| Some((c.slot, points(c.counted_since(self.since_ns), totals.get(&c.slot)?)));
        let by_cgroup = cgroups.table().iter().filter_map(of).collect();
        let rest = self.counts.unattributed();
        let root = cgroups.table().iter().find(|cgroup| cgroup.path == "/").and_then(|root| totals.get(&root.slot));
        let both = |metric, received: u64, sent: u64| directions(metric, self.since_ns, [received, sent]);
        let mut node = both(&UNATTRIBUTED_IO, rest.received_bytes, sent_bytes(&rest)).to_vec();
        if let Some(all) = root {
            let (received, sent) = (all.received_bytes + rest.received_bytes, sent_bytes(all) + sent_bytes(&rest));
            node.extend(both(&NODE_IO, received, sent));
        }
        Ok(Readings { cgroups: by_cgroup, node })
    }
}

/// Bytes sent, but for loopback.
fn sent_bytes(counts: &NetworkCounts) -> u64 {
    counts.sent_bytes.iter().sum::<u64>() - counts.sent_bytes[To::Loopback as usize]
}

/// What was received and what was sent.
fn directions(metric: &'static Metric, start_ns: u64, [received, sent]: [u64; 2]) -> [Point; 2] {
    [("receive", received), ("transmit", sent)]
        .map(|(direction, n)| Point::new(metric, start_ns, Value::Int(n)).with(DIRECTION, direction))
}

fn points(start_ns: u64, counts: &NetworkCounts) -> Vec<Point> {
    let both = |metric, counts| directions(metric, start_ns, counts);
    let looped = [counts.received_loopback_bytes, counts.sent_bytes[To::Loopback as usize]];
    let mut points = Vec::new();
    // Most cgroups of a node have no traffic of a kind, ever, and so no series of it.
    if counts.received_packets + counts.sent_packets > 0 {
        points.extend(both(&IO, [counts.received_bytes, sent_bytes(counts)]));
        points.extend(both(&PACKETS, [counts.received_packets, counts.sent_packets]));
    }
    if looped != [0; 2] {
        points.extend(both(&LOOPBACK, looped));
    }
    let scopes = To::ALL.into_iter().zip(counts.sent_bytes).filter(|(to, n)| *to != To::Loopback && *n > 0);
    points.extend(scopes.map(|(to, n)| Point::new(&EGRESS, start_ns, Value::Int(n)).with("scope", scope(to))));
    points
}

fn scope(to: To) -> &'static str {
    match to {
        To::Loopback => "loopback",
        To::Cluster => "cluster",
        To::Node => "node",
        To::Private => "private",
        To::Internet => "internet",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_happened_has_no_series_and_scopes_add_up_to_what_was_sent() {
        assert!(points(0, &NetworkCounts::ZERO).is_empty());
        let counts = NetworkCounts { sent_bytes: [5, 10, 0, 0, 30], sent_packets: 3, ..NetworkCounts::ZERO };
        let sum = |metric: &'static Metric, value: Option<&str>| -> u64 {
            let points = points(0, &counts);
            let of = points.iter().filter(|p| std::ptr::eq(p.metric, metric));
            let of = of.filter(|p| value.is_none_or(|value| p.attributes.iter().any(|(_, own)| own == value)));
            of.map(|p| if let Value::Int(n) = p.value { n } else { 0 }).sum()
        };
        assert_eq!((sum(&IO, Some("transmit")), sum(&EGRESS, None), sum(&LOOPBACK, None)), (40, 40, 5));
        assert_eq!((sum(&EGRESS, Some("cluster")), sum(&EGRESS, Some("internet"))), (10, 30));
    }
}
