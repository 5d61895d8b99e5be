//! The tcp signal: segments, retransmits, round-trip times, connects and resets of every cgroup's TCP sockets.
//!
//! `agent-ebpf/src/bin/tcp/programs.rs` counts what a socket has sent when it is closed. What lives is counted by a walk over all sockets,
//! which is made here before each reading; see [`Living`] for where the kernel refuses it.

mod namespaces;
pub mod quality;

use agent_common::tcp::{
    ACCEPTS, CONNECTS, ConnectError, Durations, FIRST, Facts, LACKING, Mode, ROW_KINDS, SHORTEST_RTTS, SIDES, TcpCounts,
};

use self::{
    namespaces::{SocketNamespaces, read_to_end},
    quality::{
        ACCEPT_DURATION, CONNECTIONS, CONNECTIONS_OPENED, OUT_OF_ORDER, RETRANSMITS_BY_REASON, SHORTEST_RTT, SPURIOUS,
        UNACKNOWLEDGED, WINDOW_LIMITED,
    },
};
use super::{ActiveSignal, Readings, Signal, SignalError, slot_counts::SlotCounts, slot_rows::SlotRows, socket};
use crate::{
    cgroups::{Cgroup, Cgroups},
    histogram::Histogram,
    kernel::{
        btf::{Btf, BtfError},
        capabilities,
        load::{Hook, Kernel, Object, Optional, Plan, Size, placeholder::ACCEPT},
    },
    metric::{Metric, Point, Scope, Value},
};

/// See the module.
pub const SIGNAL: Signal = Signal {
    name: "tcp",
    help: "TCP segments and retransmits, round-trip times, connects, resets",
    tracepoints: &["inet_sock_set_state", "tcp_receive_reset", "tcp_retransmit_skb", "tcp_send_reset"],
    metrics: &[
        &SEGMENTS,
        &RETRANSMITS,
        &RETRANSMITS_BY_REASON,
        &RTT,
        &CONNECT_DURATION,
        &CONNECT_FAILURES,
        &RESETS,
        &LISTEN_DROPS,
        &OUT_OF_ORDER,
        &SPURIOUS,
        &UNACKNOWLEDGED,
        &ACCEPT_DURATION,
        &WINDOW_LIMITED,
        &SHORTEST_RTT,
        &CONNECTIONS_OPENED,
        &CONNECTIONS,
        &UNCOUNTED,
        &UNRECORDED,
        &UNATTRIBUTED,
    ],
    capability: Some(&capabilities::NET_ADMIN),
    missing: |btf| offsets(btf).err().map(|error| error.to_string()),
    start: |kernel, cgroups, _| Ok(Box::new(Tcp::start(kernel, cgroups)?)),
};

/// `podmeter.tcp.segments`
pub static SEGMENTS: Metric = Metric::counter(
    "podmeter.tcp.segments",
    "{segment}",
    Scope::Cgroup,
    "TCP segments sent for the first time, counted on the wire as OutSegs of /proc/net/snmp.",
)
.attributes(&[]);
/// `podmeter.tcp.retransmits`
pub static RETRANSMITS: Metric = Metric::counter(
    "podmeter.tcp.retransmits",
    "{segment}",
    Scope::Cgroup,
    "TCP segments sent again, as RetransSegs of /proc/net/snmp. Divided by podmeter.tcp.segments it is the share \
     that was lost.",
)
.attributes(&[]);
/// `podmeter.tcp.rtt`
pub static RTT: Metric = Metric::histogram(
    "podmeter.tcp.rtt",
    "s",
    Scope::Cgroup,
    "Smoothed round-trip time of a connection (the kernel's srtt), once per round trip in which data was \
     acknowledged; for connections older than the agent once per interval.",
);
/// `podmeter.tcp.connect.duration`
pub static CONNECT_DURATION: Metric = Metric::histogram(
    "podmeter.tcp.connect.duration",
    "s",
    Scope::Cgroup,
    "Time from the first SYN of a successful connect to its answer.",
);
/// `podmeter.tcp.connect.failures`
pub static CONNECT_FAILURES: Metric = Metric::counter(
    "podmeter.tcp.connect.failures",
    "{connect}",
    Scope::Cgroup,
    "Connects that failed, by error.type: refused, timeout, unreachable, reset, canceled (closed by the caller \
     before an answer), not_sent (no SYN, nearly always because no local port was free; since Linux 5.11) or \
     other. A connect without a route fails earlier and is not counted. Absent until there is one.",
)
.attributes(&["error.type"]);
/// `podmeter.tcp.resets`
pub static RESETS: Metric = Metric::counter(
    "podmeter.tcp.resets",
    "{segment}",
    Scope::Cgroup,
    "TCP resets that sockets of the cgroup sent and received. Absent until there is one.",
)
.attributes(&["direction"]);
/// `podmeter.tcp.listen.drops`
pub static LISTEN_DROPS: Metric = Metric::counter(
    "podmeter.tcp.listen.drops",
    "{packet}",
    Scope::Cgroup,
    "Packets that a listening socket dropped, most often because its queue was full (sk_drops). It includes \
     ListenDrops of /proc/net/netstat, and acknowledgements and repeated SYNs of connects that the queue has no \
     room for. Absent until there is one.",
)
.attributes(&[]);
/// `podmeter.tcp.uncounted`
pub static UNCOUNTED: Metric = Metric::counter(
    "podmeter.tcp.uncounted",
    "{socket}",
    Scope::Cgroup,
    "TCP sockets that got no socket storage because memory was short. Their traffic is in no other TCP metric. \
     Absent while there is none.",
)
.attributes(&[]);
/// `podmeter.tcp.unattributed`
/// `podmeter.tcp.unrecorded`
pub static UNRECORDED: Metric = Metric::counter(
    "podmeter.tcp.unrecorded",
    "{observation}",
    Scope::Cgroup,
    "Connects and round trips that are in no distribution because memory was short. Absent while there is none.",
)
.attributes(&[]);
pub static UNATTRIBUTED: Metric = Metric::counter(
    "podmeter.tcp.unattributed",
    "{segment}",
    Scope::Node,
    "TCP segments of sockets of a cgroup without a slot, and resets that were sent for no socket.",
)
.attributes(&[]);

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tcp"));

/// The same programs for kernels that do not compare and exchange.
static WITHOUT_EXCHANGE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tcp_without_exchange"));

/// The program of the walk over all sockets that have storage, and of that over those of one network namespace.
const WALK: &str = "tcp_on_walk";
const FIND: &str = "tcp_on_find";

const OPTIONAL: &[Optional] = &[
    Optional { programs: &["tcp_on_reset_received", "tcp_on_reset_sent"], lost: "no resets" },
    Optional { programs: &["tcp_on_retransmit"], lost: "no retransmits by reason" },
    Optional {
        programs: &["tcp_on_accept", "tcp_on_accept_with_flags"],
        lost: "no time in which connections wait to be accepted",
    },
    Optional {
        programs: &[WALK],
        lost: "what living connections sent is counted once per round trip, not up to the moment of a reading",
    },
    Optional { programs: &[FIND], lost: "connections that are older than this start are not counted" },
];

/// How sockets that live are counted.
#[derive(Debug)]
enum Living {
    /// By a walk over all of them.
    Walk,
    /// At their acknowledgements and retransmits, and by walks over the sockets of network namespaces.
    SocketNamespaces(SocketNamespaces),
    /// At their acknowledgements and retransmits alone.
    Events,
}

/// The signal while it counts.
struct Tcp {
    object: Object,
    living: Living,
    /// What this kernel does not allow, and why.
    lacks: Vec<String>,
    counts: SlotCounts<TcpCounts>,
    /// The distributions.
    rows: SlotRows<Durations>,
    /// Since when the kernel side counts, CLOCK_BOOTTIME in ns.
    since_ns: u64,
}

impl Tcp {
    fn start(kernel: &mut Kernel, cgroups: &Cgroups) -> Result<Self, SignalError> {
        let slots = cgroups.slots();
        let facts = offsets(&kernel.btf)?;
        socket::can_be_attributed(&facts.socket, kernel)?;
        let mut programs = vec![
            ("tcp_on_event", Hook::SockOps),
            ("tcp_on_reset_received", Hook::Tracepoint("tcp_receive_reset")),
            ("tcp_on_reset_sent", Hook::Tracepoint("tcp_send_reset")),
            (WALK, Hook::Walk("bpf_sk_storage_map")),
        ];
        if facts.ca_state != LACKING {
            programs.push(("tcp_on_retransmit", Hook::Tracepoint("tcp_retransmit_skb")));
        }
        let mut lacks = Vec::new();
        if facts.by_callback == 0 {
            programs.push(("tcp_on_state", Hook::Tracepoint("inet_sock_set_state")));
            programs.push((FIND, Hook::Walk("tcp")));
            // `struct proto_accept_arg` came with the shorter list of arguments, in 6.10.
            let short = kernel.btf.has_member("proto_accept_arg", "flags");
            programs.push((if short { "tcp_on_accept" } else { "tcp_on_accept_with_flags" }, Hook::Exit(ACCEPT)));
        } else {
            lacks.push("connections that are older than this start are not counted: this kernel is older than 5.11".to_owned());
        }
        let mut object = kernel.load(&Plan {
            object: SIGNAL.name,
            bytes: if kernel.exchanges { OBJECT } else { WITHOUT_EXCHANGE },
            facts,
            maps: &[
                ("TCP_COUNTS", Size::Slots(1)),
                // One of each kind, and one that is carried.
                ("TCP_ROWS", Size::Slots(2 * ROW_KINDS)),
                ("TCP_EMPTY_ROW", Size::Fixed),
                ("TCP_SOCKETS", Size::Fixed),
                ("TCP_MODE", Size::Fixed),
            ],
            shared: &[("CGROUP_SLOTS", cgroups.object())],
            programs: &programs,
            optional: OPTIONAL,
        })?;
        let at_events = object.does_without(WALK);
        object.mapped::<Mode>("TCP_MODE")?.write(0, &Mode { at_events: at_events.into() });
        kernel.attach(&mut object)?;
        let mut namespaces = SocketNamespaces::default();
        let finds = facts.by_callback == 0 && !object.does_without(FIND);
        if finds {
            namespaces.walk_all(&mut object);
        }
        if let Some(why) = namespaces.closed() {
            lacks.push(format!("connections of other network namespaces that are older than this start are not counted: {why}"));
        }
        lacks.extend(object.lacks());
        lacks.extend(quality::lacks(&facts));
        let living = match (at_events, finds) {
            (false, _) => Living::Walk,
            (true, true) => Living::SocketNamespaces(namespaces),
            (true, false) => Living::Events,
        };
        for lack in &lacks {
            tracing::warn!("tcp: {lack}");
        }
        let counts = SlotCounts::open(&object, "TCP_COUNTS", 1, slots)?;
        let rows = SlotRows::open(&mut object, "TCP_ROWS", ROW_KINDS)?;
        Ok(Self { living, lacks, counts, rows, since_ns: object.since_ns(), object })
    }
}

impl ActiveSignal for Tcp {
    fn retire(&mut self, cgroup: &Cgroup) -> Vec<Point> {
        // A connection that outlives its cgroup is not the parent's, and is not taken back there.
        let last = self.counts.retire_without(cgroup, |counts| counts.open = [0; SIDES]);
        let rows = self.rows.retire(cgroup);
        let mut points = points(cgroup.counted_since(self.since_ns), &last, &rows);
        // What is open is no final value.
        points.retain(|point| point.metric.name != CONNECTIONS.name);
        points
    }

    fn note(&self) -> Option<String> {
        (!self.lacks.is_empty()).then(|| self.lacks.join("; "))
    }

    fn collect(&mut self, _: u64, cgroups: &Cgroups) -> Result<Readings, SignalError> {
        match &mut self.living {
            Living::Walk => read_to_end(self.object.walk_sockets(WALK, "TCP_SOCKETS")?)?,
            Living::SocketNamespaces(namespaces) => namespaces.walk_some(&mut self.object)?,
            Living::Events => {}
        }
        let (totals, rows) = (self.counts.totals(cgroups.table()), self.rows.totals(cgroups.table())?);
        let of = |c: &Cgroup| {
            let rows = rows.get(&c.slot).map_or(&[][..], |rows| rows);
            Some((c.slot, points(c.counted_since(self.since_ns), totals.get(&c.slot)?, rows)))
        };
        let cgroups = cgroups.table().iter().filter_map(of).collect();
        let unattributed = Value::Int(self.counts.unattributed().segments);
        Ok(Readings { cgroups, node: vec![Point::new(&UNATTRIBUTED, self.since_ns, unattributed)] })
    }
}

/// What a cgroup did since `start_ns`, CLOCK_BOOTTIME.
fn points(start_ns: u64, counts: &TcpCounts, rows: &[(u32, Box<Durations>)]) -> Vec<Point> {
    let point = |metric, value| Point::new(metric, start_ns, value);
    let count = |metric, n| point(metric, Value::Int(n));
    let happened = |metric, n: u64| (n > 0).then(|| count(metric, n));
    // What never happened has no series: most cgroups of a node have no TCP socket. Retransmits are divided by segments.
    let mut points = Vec::new();
    if counts.segments + counts.retransmits > 0 {
        points.extend([count(&SEGMENTS, counts.segments), count(&RETRANSMITS, counts.retransmits)]);
    }
    points.extend(happened(&LISTEN_DROPS, counts.listen_drops));
    points.extend(happened(&UNCOUNTED, counts.uncounted));
    points.extend(happened(&UNRECORDED, counts.unrecorded));
    for (direction, n) in [("sent", counts.resets_sent), ("received", counts.resets_received)] {
        points.extend(happened(&RESETS, n).map(|point| point.with("direction", direction)));
    }
    for ((_, cause), n) in ConnectError::ALL.iter().zip(counts.failures) {
        points.extend(happened(&CONNECT_FAILURES, n).map(|point| point.with("error.type", *cause)));
    }
    points.extend(quality::points(start_ns, counts));
    points.extend(rows.iter().map(|(kind, row)| {
        let metric = match *kind {
            CONNECTS => &CONNECT_DURATION,
            SHORTEST_RTTS => &SHORTEST_RTT,
            ACCEPTS => &ACCEPT_DURATION,
            _ => &RTT,
        };
        point(metric, Value::Histogram(Histogram::of_durations(FIRST, &row.buckets, row.sum_ns).into()))
    }));
    points
}

/// Where this kernel keeps what the programs read.
fn offsets(btf: &Btf) -> Result<Facts, BtfError> {
    let chrono = quality::Chrono::of(btf);
    let (rcv_ooopack, dsack_dups) = quality::disorder(btf);
    let reasons = quality::Reasons::of(btf);
    Ok(Facts {
        socket: socket::facts(btf)?,
        rtt_min: quality::rtt_min(btf),
        rcv_ooopack,
        dsack_dups,
        chrono_start: chrono.start,
        chrono_stat: chrono.window_limited,
        chrono_type: chrono.kind_at,
        chrono_shift: chrono.kind_shift,
        ca_state: reasons.ca_state,
        ca_state_shift: reasons.ca_state_shift,
        skb_segments: reasons.segments,
        retransmits_fail: (btf.tracepoint_arguments("tcp_retransmit_skb") > 2).into(),
        write_seq: btf.offset_of("tcp_sock", "write_seq", 4)?,
        snd_una: btf.offset_of("tcp_sock", "snd_una", 4)?,
        error: btf.offset_of("sock", "sk_err", 4)?,
        error_soft: btf.offset_of("sock", "sk_err_soft", 4)?,
        drops: btf.offset_of("sock", "sk_drops.counter", 4)?,
        segs_out: btf.offset_of("tcp_sock", "segs_out", 4)?,
        total_retrans: btf.offset_of("tcp_sock", "total_retrans", 4)?,
        bytes_acked: btf.offset_of("tcp_sock", "bytes_acked", 8)?,
        srtt: btf.offset_of("tcp_sock", "srtt_us", 4)?,
        callbacks: btf.offset_of("tcp_sock", "bpf_sock_ops_cb_flags", 1)?,
        by_callback: btf.function_id("bpf_sk_storage_tracing_allowed").is_err().into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_happened_has_no_series() {
        assert!(points(0, &TcpCounts::ZERO, &[]).is_empty());
        let names = |counts: &TcpCounts| points(0, counts, &[]).iter().map(|point| point.metric.name).collect::<Vec<_>>();
        let counts = TcpCounts { segments: 9, resets_sent: 1, ..TcpCounts::ZERO };
        assert_eq!(names(&counts), [SEGMENTS.name, RETRANSMITS.name, RESETS.name]);
        let mut counts = TcpCounts::ZERO;
        counts.failures[ConnectError::NotSent as usize] = 2;
        assert_eq!(names(&counts), [CONNECT_FAILURES.name]);
    }
}
