//! The tcp signal: segments, retransmits, round-trip times, connects and resets of every cgroup's TCP sockets.
//!
//! `agent-ebpf/src/bin/tcp.rs` counts what a socket has sent when it is closed. What lives is counted by a walk over all sockets,
//! which is made here before each reading.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    thread,
};

use agent_common::tcp::{ConnectError, FIRST, Facts, TcpCounts};
use nix::sched::{CloneFlags, setns};

use super::{
    Failure, Readings, Running, Signal,
    books::Books,
    metric::{Kind, Metric, Point, Scope, Value},
    socket,
};
use crate::{
    causes,
    cgroups::{Cgroup, Cgroups},
    histogram::Histogram,
    kernel::{
        btf::{Btf, BtfError},
        facts,
        load::{Hook, Kernel, Object, Plan},
    },
};

/// See the module.
pub const SIGNAL: Signal = Signal {
    name: "tcp",
    help: "TCP segments and retransmits, round-trip times, connects, resets",
    tracepoints: &["inet_sock_set_state", "tcp_receive_reset", "tcp_send_reset"],
    metrics: &[
        &SEGMENTS,
        &RETRANSMITS,
        &RTT,
        &CONNECT_DURATION,
        &CONNECT_FAILURES,
        &RESETS,
        &LISTEN_DROPS,
        &UNCOUNTED,
        &UNATTRIBUTED,
    ],
    missing: |btf| offsets(btf).err().map(|error| error.to_string()),
    start: |kernel, cgroups, _| Ok(Box::new(Tcp::start(kernel, cgroups)?)),
};

/// `podmeter.tcp.segments`
pub static SEGMENTS: Metric = counter(
    "podmeter.tcp.segments",
    "{segment}",
    &[],
    Scope::Container,
    "TCP segments sent for the first time, as OutSegs of /proc/net/snmp counts them: a segment is what goes over the wire.",
);
/// `podmeter.tcp.retransmits`
pub static RETRANSMITS: Metric = counter(
    "podmeter.tcp.retransmits",
    "{segment}",
    &[],
    Scope::Container,
    "TCP segments sent again, as RetransSegs of /proc/net/snmp counts them: over podmeter.tcp.segments, the share that was lost.",
);
/// `podmeter.tcp.rtt`
pub static RTT: Metric = Metric {
    name: "podmeter.tcp.rtt",
    unit: "s",
    kind: Kind::Histogram,
    attributes: &[],
    scope: Scope::Workload,
    help: "Smoothed round-trip time of a connection (the kernel's srtt), once per round trip in which data was acknowledged; of \
           connections older than the agent, once per interval with such data.",
};
/// `podmeter.tcp.connect.duration`
pub static CONNECT_DURATION: Metric = Metric {
    name: "podmeter.tcp.connect.duration",
    unit: "s",
    kind: Kind::Histogram,
    attributes: &[],
    scope: Scope::Workload,
    help: "Time from a connect's first SYN to its answer, of connects that succeeded.",
};
/// `podmeter.tcp.connect.failures`
pub static CONNECT_FAILURES: Metric = counter(
    "podmeter.tcp.connect.failures",
    "{connect}",
    &["error.type"],
    Scope::Container,
    "Connects that sent a SYN and failed: refused, timeout, unreachable, reset, canceled (closed by the caller before an answer) or \
     other.",
);
/// `podmeter.tcp.resets`
pub static RESETS: Metric = counter(
    "podmeter.tcp.resets",
    "{segment}",
    &["direction"],
    Scope::Container,
    "TCP resets sent and received by sockets of the cgroup.",
);
/// `podmeter.tcp.listen.drops`
pub static LISTEN_DROPS: Metric = counter(
    "podmeter.tcp.listen.drops",
    "{packet}",
    &[],
    Scope::Container,
    "Packets that a listening socket dropped, most often since its queue was full (sk_drops): each of ListenDrops of /proc/net/netstat, \
     and the acknowledgements and repeated SYNs of connects that it has no room for.",
);
/// `podmeter.tcp.uncounted`
pub static UNCOUNTED: Metric = counter(
    "podmeter.tcp.uncounted",
    "{socket}",
    &[],
    Scope::Container,
    "TCP sockets that the kernel gave no storage, for want of memory: what they send is in no other figure. Absent while there is none.",
);
/// `podmeter.tcp.unattributed`
pub static UNATTRIBUTED: Metric = counter(
    "podmeter.tcp.unattributed",
    "{segment}",
    &[],
    Scope::Node,
    "TCP segments of sockets whose cgroup has no slot, and resets that were sent for no socket.",
);

const fn counter(
    name: &'static str,
    unit: &'static str,
    attributes: &'static [&'static str],
    scope: Scope,
    help: &'static str,
) -> Metric {
    Metric { name, unit, kind: Kind::Counter, attributes, scope, help }
}

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tcp"));

/// The signal while it counts.
struct Tcp {
    object: Object,
    books: Books<TcpCounts>,
    /// When counting began, Unix time in ns.
    started_unix_ns: u64,
}

impl Tcp {
    fn start(kernel: &mut Kernel, cgroups: &Cgroups) -> Result<Self, Failure> {
        let slots = cgroups.slots();
        let facts = offsets(&kernel.btf)?;
        let mut programs = vec![
            ("tcp_on_event", Hook::SockOps),
            ("tcp_on_reset_received", Hook::Tracepoint("tcp_receive_reset")),
            ("tcp_on_reset_sent", Hook::Tracepoint("tcp_send_reset")),
            ("tcp_on_walk", Hook::Walk("bpf_sk_storage_map")),
        ];
        if facts.by_callback == 0 {
            programs.push(("tcp_on_state", Hook::Tracepoint("inet_sock_set_state")));
            programs.push(("tcp_on_find", Hook::Walk("tcp")));
        }
        let mut object = kernel.load(&Plan {
            object: SIGNAL.name,
            bytes: OBJECT,
            facts: ("FACTS", facts),
            maps: &[("TCP_COUNTS", Some(slots)), ("TCP_SOCKETS", None)],
            shared: &[("CGROUP_SLOTS", cgroups.object())],
            programs: &programs,
        })?;
        kernel.attach(&mut object)?;
        if facts.by_callback == 0 {
            find_sockets(&mut object);
        } else {
            tracing::warn!("this kernel is older than 5.11: connections that are older than the agent are not counted");
        }
        let books = Books::open(&object, "TCP_COUNTS", 1, slots)?;
        Ok(Self { object, books, started_unix_ns: facts::unix_ns() })
    }

    fn points(&self, counts: &TcpCounts) -> Vec<Point> {
        let point = |metric, value| Point::new(metric, self.started_unix_ns, value);
        let count = |metric, n| point(metric, Value::Int(n));
        let distribution = |metric, buckets: &[u64], sum_ns| {
            point(metric, Value::Histogram(Histogram::of_durations(FIRST, buckets, sum_ns).into()))
        };
        let mut points = vec![
            count(&SEGMENTS, counts.segments),
            count(&RETRANSMITS, counts.retransmits),
            distribution(&RTT, &counts.rtts, counts.rtt_ns),
            distribution(&CONNECT_DURATION, &counts.connects, counts.connect_ns),
            count(&RESETS, counts.resets_sent).with("direction", "sent"),
            count(&RESETS, counts.resets_received).with("direction", "received"),
            count(&LISTEN_DROPS, counts.listen_drops),
        ];
        if counts.uncounted > 0 {
            points.push(count(&UNCOUNTED, counts.uncounted));
        }
        for ((_, name), n) in ConnectError::ALL.iter().zip(counts.failures) {
            points.push(count(&CONNECT_FAILURES, n).with("error.type", *name));
        }
        points
    }
}

impl Running for Tcp {
    fn tick(&mut self, _: &Cgroups) -> Result<(), Failure> {
        Ok(())
    }

    fn bury(&mut self, cgroup: &Cgroup) -> Vec<Point> {
        let last = self.books.bury(cgroup);
        self.points(&last)
    }

    fn collect(&mut self, _: u64, cgroups: &Cgroups) -> Result<Readings, Failure> {
        read_to_end(self.object.walk_sockets("tcp_on_walk", "TCP_SOCKETS")?)?;
        let totals = self.books.totals(cgroups.table());
        let cgroups = totals.iter().map(|(slot, counts)| (*slot, self.points(counts))).collect();
        let unattributed = Value::Int(self.books.unattributed().segments);
        Ok(Readings { cgroups, node: vec![Point::new(&UNATTRIBUTED, self.started_unix_ns, unattributed)] })
    }
}

/// A walk's programs run while its file is read; ours write nothing.
fn read_to_end(mut walk: File) -> io::Result<()> {
    walk.read_to_end(&mut Vec::new()).map(drop)
}

/// Finds the sockets that are older than the programs, in every network namespace.
///
/// The kernel walks over the sockets of the reader's namespace, so a thread goes to each of them.
fn find_sockets(object: &mut Object) {
    for namespace in namespaces() {
        let found = thread::scope(|scope| {
            let enter = || -> Result<(), Failure> {
                setns(&namespace, CloneFlags::CLONE_NEWNET)?;
                read_to_end(object.walk("tcp_on_find", Path::new("/"))?)?;
                Ok(())
            };
            scope.spawn(enter).join()
        });
        match found {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = causes::chain(&*error);
                tracing::warn!(error, "connections of one network namespace that are older than this start are not counted");
            }
            Err(_) => tracing::warn!("connections of one network namespace that are older than this start are not counted"),
        }
    }
}

/// The network namespaces that processes are in. One that nobody is in has sockets that nobody speaks with.
fn namespaces() -> Vec<File> {
    let mut seen = HashSet::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter(|entry| entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()));
    // A process may end meanwhile.
    let namespaces = pids.filter_map(|entry| {
        let path = entry.path().join("ns/net");
        seen.insert(fs::metadata(&path).ok()?.ino()).then(|| File::open(path).ok())?
    });
    namespaces.collect()
}

/// Where this kernel keeps what the programs read.
fn offsets(btf: &Btf) -> Result<Facts, BtfError> {
    Ok(Facts {
        socket: socket::facts(btf)?,
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
