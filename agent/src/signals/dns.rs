//! The dns signal: lookups of every cgroup, by how long they took and how they ended, and the other side of them, for DNS servers.
//!
//! The kernel side (`agent-ebpf/src/bin/dns.rs`) brings queries and answers together. This side gives up on those that were never
//! answered, and keeps the [`slot_counts`](super::slot_counts); [`rows`] are those of the durations.

mod names;
mod rows;
mod shares;

use std::{collections::HashMap, io, mem::offset_of, sync::Arc, time::Duration};

use agent_common::{
    cgroups::UNATTRIBUTED,
    dns::{
        DURATION_FIRST, DURATION_LEN, DnsCounts, Facts, Gaps, NAMES_LEN, QUERIES_LEN, Query, QueryKey, RowKey, Side, Transport,
        Way,
    },
};
use aya::maps::{HashMap as BpfHashMap, IterableMap as _, MapData, MapError, ProgramArray};
use nix::time::ClockId;

use self::{names::Names, rows::Rows, shares::Shares};
use super::{ActiveSignal, Readings, Signal, SignalError, slot_counts::SlotCounts, socket};
use crate::{
    cgroups::{Cgroup, Cgroups},
    config,
    histogram::Histogram,
    kernel::{
        capabilities, facts,
        load::{Hook, Kernel, LoadError, Object, Plan, clear_calls},
        sys::{self, MappedArray},
    },
    metric::{Metric, Point, Scope, Value},
};

/// See the module.
pub const SIGNAL: Signal = Signal {
    name: "dns",
    help: "DNS lookups, how long they take and how they end, asked and answered",
    tracepoints: &[],
    metrics: &[
        &LOOKUPS,
        &SERVED,
        &QUERIES,
        &RETRIES,
        &TRUNCATED,
        &ABANDONED,
        &LOST,
        &DUPLICATES,
        &UNMATCHED,
        &MALFORMED,
        &IGNORED,
        &GAPS,
        &NAME_QUERIES,
        &IN_FLIGHT,
        &UNATTRIBUTED_QUERIES,
    ],
    capability: Some(&capabilities::NET_ADMIN),
    missing: |_| None,
    start: |kernel, cgroups, config| Ok(Box::new(Dns::start(kernel, cgroups, &config.dns)?)),
};

const ENDS: &[&str] = &["error.type", "network.transport"];
const WAYS: &[&str] = &["side", "network.transport"];

/// `dns.lookup.duration`
pub static LOOKUPS: Metric = Metric::histogram("dns.lookup.duration", "s", Scope::Cgroup, "From a query to its answer, as the asking container's socket sees them, retries with the same id included. error.type is \
           absent for NOERROR, an rcode's name, _OTHER for a rare one, or timeout: no answer in dns.timeout, which is then the duration.").attributes(ENDS);
/// `podmeter.dns.server.duration`
pub static SERVED: Metric = Metric::histogram(
    "podmeter.dns.server.duration",
    "s",
    Scope::Cgroup,
    "From a query to its answer, as the answering container's socket sees them. error.type as for dns.lookup.duration.",
)
.attributes(ENDS);
/// `podmeter.dns.queries`
pub static QUERIES: Metric = Metric::counter("podmeter.dns.queries", "{query}", Scope::Cgroup, "Queries sent (side client) and received (side server), retries included: retries, lookups, abandoned, lost, and those in flight.").attributes(WAYS);
/// `podmeter.dns.retries`
pub static RETRIES: Metric = Metric::counter("podmeter.dns.retries", "{query}", Scope::Cgroup, "Queries asked again on the same socket with the same id before there was an answer: of the same name server, or of another, as musl \
     asks all at once.").attributes(WAYS);
/// `podmeter.dns.truncated`
pub static TRUNCATED: Metric = Metric::counter(
    "podmeter.dns.truncated",
    "{answer}",
    Scope::Cgroup,
    "Answers that were cut to fit into a datagram (TC). Asking again over TCP is a lookup of its own.",
)
.attributes(WAYS);
/// `podmeter.dns.abandoned`
pub static ABANDONED: Metric = Metric::counter(
    "podmeter.dns.abandoned",
    "{query}",
    Scope::Cgroup,
    "Queries whose cgroup was gone before an answer or the end of dns.timeout.",
)
.attributes(WAYS);
/// `podmeter.dns.lost`
pub static LOST: Metric = Metric::counter("podmeter.dns.lost", "{query}", Scope::Cgroup, "Queries that could not be followed to their end: the cgroup had as many in flight as there was room left for others, no memory, \
     a gap in their TCP stream, or another question with the same id on the same socket before there was an answer.").attributes(WAYS);
/// `podmeter.dns.duplicates`
pub static DUPLICATES: Metric = Metric::counter("podmeter.dns.duplicates", "{message}", Scope::Cgroup, "Further answers to a lookup that had been answered within dns.timeout: by another of the name servers that were asked at once, given \
     twice, or the rest of a zone transfer.").attributes(WAYS);
/// `podmeter.dns.unmatched`
pub static UNMATCHED: Metric = Metric::counter(
    "podmeter.dns.unmatched",
    "{message}",
    Scope::Cgroup,
    "Answers that nobody had asked for, or not any more: late or forged; and messages that went the wrong way.",
)
.attributes(WAYS);
/// `podmeter.dns.malformed`
pub static MALFORMED: Metric = Metric::counter(
    "podmeter.dns.malformed",
    "{message}",
    Scope::Cgroup,
    "Messages on a port of DNS whose header or question cannot be read.",
)
.attributes(WAYS);
/// `podmeter.dns.ignored`
pub static IGNORED: Metric = Metric::counter(
    "podmeter.dns.ignored",
    "{message}",
    Scope::Cgroup,
    "Messages that are no lookups: notifications and updates of zones, and multicast.",
)
.attributes(WAYS);
/// `podmeter.dns.gaps`
pub static GAPS: Metric = Metric::counter(
    "podmeter.dns.gaps",
    "{gap}",
    Scope::Cgroup,
    "Times that a TCP connection's messages could not be followed: segments came out of order, or too many messages in one.",
)
.attributes(WAYS);
/// `podmeter.dns.name.queries`
pub static NAME_QUERIES: Metric = Metric::counter("podmeter.dns.name.queries", "{query}", Scope::Cgroup, "Queries that the container itself sent, by name: the dns.top_names most asked, none unless that is set. Of all containers \
           4096 names are kept, of one at most as many as are free; its least asked then make room, and begin anew when they come back.").attributes(&["dns.question.name"]);
/// `podmeter.dns.in_flight`
pub static IN_FLIGHT: Metric = Metric::gauge(
    "podmeter.dns.in_flight",
    "{query}",
    Scope::Node,
    "Queries that waited for an answer when it was last looked: there is room for 16384.",
);
/// `podmeter.dns.unattributed`
pub static UNATTRIBUTED_QUERIES: Metric = Metric::counter(
    "podmeter.dns.unattributed",
    "{query}",
    Scope::Node,
    "Queries of cgroups that were born when all slots were taken.",
)
.attributes(WAYS);

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dns"));

/// Rows per slot, on average; a container that asks and gets answers and NXDOMAIN has two.
const ROWS_PER_SLOT: u32 = 8;

/// Where the network signal's programs call these.
const CALLS: [(&str, &str); 2] = [("NETWORK_DNS_EGRESS", "dns_on_egress"), ("NETWORK_DNS_INGRESS", "dns_on_ingress")];

/// The signal while it counts.
struct Dns {
    /// Held for its links.
    _object: Object,
    /// Held for as long as nothing else keeps them: a table without a descriptor or a pin forgets its programs.
    _calls: Vec<ProgramArray<MapData>>,
    counts: SlotCounts<DnsCounts>,
    /// the same map: this side adds to it too.
    records: MappedArray<DnsCounts>,
    rows: Rows,
    names: Names,
    in_flight: BpfHashMap<MapData, QueryKey, Query>,
    shares: Shares,
    gaps: MappedArray<Gaps>,
    timeout: Duration,
    waiting: u64,
    /// What cgroups that are gone still waited for, by slot.
    orphans: HashMap<u32, Vec<QueryKey>>,
    /// Since when the kernel side counts, CLOCK_BOOTTIME in ns.
    since_ns: u64,
}

impl Dns {
    fn start(kernel: &mut Kernel, cgroups: &Cgroups, config: &config::Dns) -> Result<Self, LoadError> {
        let started = Self::begin(kernel, cgroups, config);
        if started.is_err() {
            // Nobody is to call what was put in by half, or by an agent before this one.
            for (table, _) in CALLS {
                if let Some(mut calls) = kernel.calls_of("network", table)? {
                    clear_calls(&mut calls, table)?;
                }
            }
        }
        started
    }

    fn begin(kernel: &mut Kernel, cgroups: &Cgroups, config: &config::Dns) -> Result<Self, LoadError> {
        let slots = cgroups.slots();
        let mut calls = Vec::new();
        for (table, _) in CALLS {
            calls.extend(kernel.calls_of("network", table)?);
        }
        // Without the network signal there is nobody to call them.
        let called = calls.len() == CALLS.len();
        let hook = |attached| if called { Hook::Call } else { attached };
        let ports = socket::dns_ports(config);
        let mut object = kernel.load(&Plan {
            object: SIGNAL.name,
            bytes: OBJECT,
            facts: (
                "FACTS",
                Facts { timeout_ns: config.timeout.as_nanos() as u64, ports, names: u64::from(config.top_names > 0) },
            ),
            maps: &[
                ("DNS_COUNTS", Some(slots)),
                ("DNS_ROWS", Some(slots * ROWS_PER_SLOT)),
                ("DNS_IN_FLIGHT", Some(QUERIES_LEN)),
                ("DNS_ANSWERED", None),
                ("DNS_TAKEN", Some(slots)),
                ("DNS_TAKEN_ALL", None),
                ("DNS_EMPTY_ROW", None),
                ("DNS_NAMES", Some(if config.top_names > 0 { NAMES_LEN } else { 1 })),
                ("DNS_NO_NAME", None),
                ("DNS_CONNECTIONS", None),
                ("DNS_GAPS", Some(slots)),
            ],
            shared: &[("CGROUP_SLOTS", cgroups.object())],
            programs: &[("dns_on_egress", hook(Hook::Egress)), ("dns_on_ingress", hook(Hook::Ingress))],
            optional: &[],
        })?;
        kernel.attach(&mut object)?;
        for (table, (_, program)) in calls.iter_mut().zip(CALLS) {
            object.call_from(table, 0, program)?;
        }
        Ok(Self {
            counts: SlotCounts::open(&object, "DNS_COUNTS", 1, slots)?,
            records: object.mapped("DNS_COUNTS")?,
            rows: Rows::new(object.take("DNS_ROWS")?),
            names: Names::new(object.take("DNS_NAMES")?, config.top_names),
            in_flight: object.take("DNS_IN_FLIGHT")?,
            shares: Shares::open(&object, slots)?,
            gaps: object.mapped("DNS_GAPS")?,
            since_ns: object.since_ns(),
            _object: object,
            _calls: calls,
            timeout: config.timeout,
            waiting: 0,
            orphans: HashMap::new(),
        })
    }

    /// Gives up on queries that have waited for too long, and notes what cgroups that are gone still wait for.
    fn give_up(&mut self, cgroups: &Cgroups) -> Result<(), SignalError> {
        let now_ns = facts::clock_ns(ClockId::CLOCK_MONOTONIC);
        let timeout_ns = self.timeout.as_nanos() as u64;
        let mut late = Vec::new();
        let mut by_slot: HashMap<u32, u64> = HashMap::new();
        self.orphans.clear();
        self.waiting = 0;
        sys::for_each_entry(self.in_flight.map().fd(), |key: &QueryKey, query: &Query| {
            self.waiting += 1;
            if now_ns.saturating_sub(query.asked_ns) >= timeout_ns {
                late.push((*key, *query));
                return;
            }
            *by_slot.entry(query.slot).or_default() += 1;
            if cgroups.table().get(query.slot).is_some_and(|cgroup| !cgroup.lives()) {
                self.orphans.entry(query.slot).or_default().push(*key);
            }
        })?;
        for (key, query) in late {
            // Answered in this moment, or the query of a retry by now.
            let same = self.in_flight.get(&key, 0).is_ok_and(|now| now.asked_ns == query.asked_ns);
            if same && self.take(&key)? {
                let way = way(&key);
                let lost = |gaps: Gaps| gaps.since(key.cookie, query.asked_ns);
                let unseen = way.transport == Transport::Tcp && self.gaps.read(query.slot).is_some_and(lost);
                self.add(query.slot, if unseen { offset_of!(DnsCounts, lost) } else { offset_of!(DnsCounts, timeouts) }, way);
            }
        }
        self.shares.set_queries(&by_slot);
        Ok(())
    }

    /// Removes a query that nobody waits for any more; `false` when somebody else did.
    fn take(&mut self, key: &QueryKey) -> Result<bool, MapError> {
        match self.in_flight.remove(key) {
            Ok(()) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(nix::libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn read_names(&mut self) -> io::Result<()> {
        self.names.read()?;
        self.shares.set_names(&self.names.by_slot());
        Ok(())
    }

    /// Adds one to a slot's count that is at this offset.
    fn add(&self, slot: u32, offset: usize, way: Way) {
        self.records.add_to_word(slot, offset / 8 + way.index(), 1);
    }

    fn points(&self, start_ns: u64, counts: &DnsCounts, rows: &[(RowKey, Histogram)]) -> Vec<Point> {
        let mut points = Vec::new();
        let by_way = [
            (&QUERIES, counts.queries),
            (&RETRIES, counts.retries),
            (&TRUNCATED, counts.truncated),
            (&ABANDONED, counts.abandoned),
            (&LOST, counts.lost),
            (&DUPLICATES, counts.duplicates),
            (&UNMATCHED, counts.unmatched),
            (&MALFORMED, counts.malformed),
            (&IGNORED, counts.other),
            (&GAPS, counts.gaps),
        ];
        // What never happened has no series: most containers never retry, and many never ask.
        for (metric, counts) in by_way {
            for (way, n) in Way::ALL.into_iter().zip(counts).filter(|(_, n)| *n > 0) {
                points.push(Point::new(metric, start_ns, Value::Int(n)).with("side", side(way)).with(TRANSPORT, transport(way)));
            }
        }
        let duration = |way: Way, end: Option<&'static str>, histogram: Histogram| {
            let metric = if way.side == Side::Client { &LOOKUPS } else { &SERVED };
            let point = Point::new(metric, start_ns, Value::Histogram(Arc::new(histogram)));
            let point = if let Some(end) = end { point.with("error.type", end) } else { point };
            point.with(TRANSPORT, transport(way))
        };
        points.extend(rows.iter().map(|(key, histogram)| {
            let (way, rcode) = rows::way_and_rcode(key.kind);
            duration(way, RCODES[rcode.min(RCODES.len() - 1)], histogram.clone())
        }));
        for (way, n) in Way::ALL.into_iter().zip(counts.timeouts).filter(|(_, n)| *n > 0) {
            let mut histogram = Histogram::of_durations(DURATION_FIRST, &[0; DURATION_LEN], 0);
            histogram.record(self.timeout.as_secs_f64(), n);
            points.push(duration(way, Some("timeout"), histogram));
        }
        points
    }
}

impl ActiveSignal for Dns {
    fn tick(&mut self, cgroups: &Cgroups) -> Result<(), SignalError> {
        self.give_up(cgroups)?;
        if cgroups.table().iter().any(|cgroup| !cgroup.lives()) {
            self.read_names()?;
        }
        Ok(())
    }

    fn retire(&mut self, cgroup: &Cgroup) -> Vec<Point> {
        for key in self.orphans.remove(&cgroup.slot).unwrap_or_default() {
            if self.take(&key).unwrap_or(false) {
                self.add(cgroup.slot, offset_of!(DnsCounts, abandoned), way(&key));
            }
        }
        let start_ns = cgroup.counted_since(self.since_ns);
        let last = self.counts.retire(cgroup);
        if last.queries == [0; 4] {
            // Whoever asked nothing has no rows.
            return self.points(start_ns, &last, &[]);
        }
        let rows = self.rows.retire(cgroup.slot, cgroup.parent.unwrap_or(UNATTRIBUTED));
        let mut points = self.points(start_ns, &last, &rows);
        points.extend(self.names.retire(cgroup.slot));
        points
    }

    fn collect(&mut self, now_ns: u64, cgroups: &Cgroups) -> Result<Readings, SignalError> {
        let totals = self.counts.totals(cgroups.table());
        let mut rows = self.rows.totals(cgroups.table())?;
        self.read_names()?;
        let points = |cgroup: &Cgroup| {
            let rows = rows.remove(&cgroup.slot).unwrap_or_default();
            let mut points = self.points(cgroup.counted_since(self.since_ns), totals.get(&cgroup.slot)?, &rows);
            points.extend(self.names.points(cgroup.slot, now_ns));
            (!points.is_empty()).then_some((cgroup.slot, points))
        };
        let by_cgroup = cgroups.table().iter().filter_map(points).collect();
        // Behind the points: what is exported has all that was asked.
        self.shares.set_names(&self.names.make_room());
        let unattributed = self.counts.unattributed().queries;
        let mut node = vec![Point::new(&IN_FLIGHT, 0, Value::Int(self.waiting))];
        for (way, n) in Way::ALL.into_iter().zip(unattributed).filter(|(_, n)| *n > 0) {
            let point = Point::new(&UNATTRIBUTED_QUERIES, self.since_ns, Value::Int(n));
            node.push(point.with("side", side(way)).with(TRANSPORT, transport(way)));
        }
        Ok(Readings { cgroups: by_cgroup, node })
    }
}

const TRANSPORT: &str = "network.transport";

/// `error.type` by rcode; the last is that of all others.
const RCODES: [Option<&str>; 7] =
    [None, Some("FORMERR"), Some("SERVFAIL"), Some("NXDOMAIN"), Some("NOTIMP"), Some("REFUSED"), Some("_OTHER")];

fn way(key: &QueryKey) -> Way {
    Way::ALL[(key.id >> 16) as usize & 3]
}

fn side(way: Way) -> &'static str {
    match way.side {
        Side::Client => "client",
        Side::Server => "server",
    }
}

fn transport(way: Way) -> &'static str {
    match way.transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
    }
}
