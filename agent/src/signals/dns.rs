//! The dns signal: lookups of every cgroup, by how long they took and how they ended, and the other side of them, for DNS servers.
//!
//! The kernel side (`agent-ebpf/src/bin/dns.rs`) brings queries and answers together. This side gives up on those that were never
//! answered, and keeps the [`slot_counts`](super::slot_counts); [`rows`] are those of the durations.

pub mod metrics;
mod names;
mod rows;
mod shares;
mod waiting;

use std::{collections::HashMap, io, mem::offset_of, sync::Arc, time::Duration};

use agent_common::dns::{
    DURATION_FIRST, DURATION_LEN, DnsCounts, Facts, Gaps, NAMES_LEN, OVERFLOW_LEN, QueryKey, ROW_KINDS, Row, Side, Transport, Way,
};
use aya::maps::{MapData, ProgramArray};
use nix::time::ClockId;

use self::{
    metrics::{
        ABANDONED, DUPLICATES, GAPS, IGNORED, IN_FLIGHT, LOOKUPS, LOST, MALFORMED, NAME_QUERIES, QUERIES, RETRIES, SERVED,
        TRUNCATED, UNATTRIBUTED_QUERIES, UNMATCHED,
    },
    names::QueriedNames,
    shares::Shares,
    waiting::{Queries, Waiting},
};
use super::{ActiveSignal, Readings, Signal, SignalError, slot_counts::SlotCounts, slot_rows::SlotRows, socket};
use crate::{
    cgroups::{Cgroup, Cgroups},
    config,
    histogram::Histogram,
    kernel::{
        capabilities, facts,
        load::{Hook, Kernel, LoadError, Object, Plan, Size, clear_calls},
        sys::{self, MappedArray},
    },
    metric::{Point, Value},
    overhead::Step,
};

/// See the module.
pub const SIGNAL: Signal = Signal {
    name: "dns",
    help: "DNS lookups, how long they take and how they end, as client and as server",
    tracepoints: &[],
    metrics: metrics::ALL,
    capability: Some(&capabilities::NET_ADMIN),
    missing: |_| None,
    start: |kernel, cgroups, config| Ok(Box::new(Dns::start(kernel, cgroups, &config.dns)?)),
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dns"));

/// Rows per slot, on average; a container that asks and gets answers and NXDOMAIN has two.
const ROWS_PER_SLOT: u32 = 8;

/// Ticks after which the hash of queries in flight is read whatever its count says: one that came while the count was put right is not in it.
const READ_HASH_ANYWAY: u32 = 16;

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
    rows: SlotRows<Row>,
    names: QueriedNames,
    /// Names are not counted, to stay within `overhead.cpu`.
    names_stopped: bool,
    queries: Queries,
    shares: Shares,
    gaps: MappedArray<Gaps>,
    timeout: Duration,
    ticks: u32,
    waiting: u64,
    /// What cgroups that are gone still waited for, by slot.
    orphans: HashMap<u32, Vec<Waiting>>,
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
            facts: Facts { timeout_ns: config.timeout.as_nanos() as u64, ports, names: u64::from(config.top_names > 0) },
            maps: &[
                ("DNS_COUNTS", Size::Slots(1)),
                ("DNS_SLOTS", Size::Fixed),
                ("DNS_ROWS", Size::Slots(ROWS_PER_SLOT)),
                ("DNS_LOOKUPS", Size::Fixed),
                ("DNS_IN_FLIGHT", Size::Entries(OVERFLOW_LEN)),
                ("DNS_TAKEN", Size::Slots(1)),
                ("DNS_TAKEN_ALL", Size::Fixed),
                ("DNS_EMPTY_ROW", Size::Fixed),
                ("DNS_NAMES", Size::Entries(if config.top_names > 0 { NAMES_LEN } else { 1 })),
                ("DNS_NO_NAME", Size::Fixed),
                ("DNS_CONNECTIONS", Size::Fixed),
                ("DNS_GAPS", Size::Slots(1)),
            ],
            shared: &[("CGROUP_SLOTS", cgroups.object()), ("GENERATION", cgroups.object())],
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
            rows: SlotRows::open(&mut object, "DNS_ROWS", ROW_KINDS)?,
            names: QueriedNames::new(object.take("DNS_NAMES")?, config.top_names),
            names_stopped: false,
            queries: Queries::open(&mut object)?,
            shares: Shares::open(&object, slots)?,
            gaps: object.mapped("DNS_GAPS")?,
            since_ns: object.since_ns(),
            _object: object,
            _calls: calls,
            timeout: config.timeout,
            ticks: 0,
            waiting: 0,
            orphans: HashMap::new(),
        })
    }

    /// Gives up on queries that have waited for too long, and notes what cgroups that are gone still wait for.
    fn give_up(&mut self, cgroups: &Cgroups) -> Result<(), SignalError> {
        let now_ns = facts::clock_ns(ClockId::CLOCK_MONOTONIC);
        let timeout_ns = self.timeout.as_nanos() as u64;
        self.orphans.clear();
        let with_hash = self.shares.has_queries() || self.ticks.is_multiple_of(READ_HASH_ANYWAY);
        self.ticks = self.ticks.wrapping_add(1);
        let found = self.queries.read_all(with_hash)?;
        self.waiting = found.queries.len() as u64;
        for query in &found.queries {
            if now_ns.saturating_sub(query.asked_ns) >= timeout_ns {
                if self.queries.end(query)? {
                    let way = way(&query.key);
                    let lost = |gaps: Gaps| gaps.since(query.key.cookie, query.asked_ns);
                    let unseen = way.transport == Transport::Tcp && self.gaps.read(query.slot).is_some_and(lost);
                    self.add(query.slot, if unseen { offset_of!(DnsCounts, lost) } else { offset_of!(DnsCounts, timeouts) }, way);
                }
            } else if cgroups.table().get(query.slot).is_some_and(|cgroup| !cgroup.lives()) {
                self.orphans.entry(query.slot).or_default().push(*query);
            }
        }
        for query in &found.broken {
            if self.queries.repair(query) {
                self.add(query.slot, offset_of!(DnsCounts, lost), way(&query.key));
            }
        }
        if with_hash {
            self.shares.set_queries(&found.in_hash(now_ns.saturating_sub(timeout_ns)));
        }
        Ok(())
    }

    fn read_names(&mut self) -> io::Result<()> {
        if self.names_stopped {
            return Ok(());
        }
        self.names.read()?;
        self.shares.set_names(&self.names.by_slot());
        Ok(())
    }

    /// Adds one to a slot's count that is at this offset.
    fn add(&self, slot: u32, offset: usize, way: Way) {
        self.records.add_to_word(slot, offset / 8 + way.index(), 1);
    }

    fn points(&self, start_ns: u64, counts: &DnsCounts, rows: &[(u32, Box<Row>)]) -> Vec<Point> {
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
        points.extend(rows.iter().map(|(kind, row)| {
            let (way, rcode) = rows::way_and_rcode(*kind);
            duration(way, RCODES[rcode.min(RCODES.len() - 1)], rows::histogram(row))
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
        if cgroups.table().has_dying() {
            self.read_names()?;
        }
        Ok(())
    }

    fn retire(&mut self, cgroup: &Cgroup) -> Vec<Point> {
        for query in self.orphans.remove(&cgroup.slot).unwrap_or_default() {
            if self.queries.end(&query).unwrap_or(false) {
                self.add(cgroup.slot, offset_of!(DnsCounts, abandoned), way(&query.key));
            }
        }
        let start_ns = cgroup.counted_since(self.since_ns);
        let last = self.counts.retire(cgroup);
        if last.queries == [0; 4] {
            // Whoever asked nothing has no rows.
            return self.points(start_ns, &last, &[]);
        }
        let rows = self.rows.retire(cgroup);
        let mut points = self.points(start_ns, &last, &rows);
        points.extend(self.names.retire(cgroup.slot));
        points
    }

    fn do_without(&mut self, step: Step, without: bool) -> Result<(), SignalError> {
        if step != Step::DnsNames || without == self.names_stopped {
            return Ok(());
        }
        self.names_stopped = without;
        if without {
            self.shares.stop_names();
            sys::wait_for_programs();
            self.names.forget_all()?;
        } else {
            self.shares.set_names(&HashMap::new());
        }
        Ok(())
    }

    fn collect(&mut self, now_ns: u64, cgroups: &Cgroups) -> Result<Readings, SignalError> {
        let totals = self.counts.totals(cgroups.table());
        let rows = self.rows.totals(cgroups.table())?;
        self.read_names()?;
        let points = |cgroup: &Cgroup| {
            let rows = rows.get(&cgroup.slot).map_or(&[][..], |rows| rows);
            let mut points = self.points(cgroup.counted_since(self.since_ns), totals.get(&cgroup.slot)?, rows);
            points.extend(self.names.points(cgroup.slot, now_ns));
            (!points.is_empty()).then_some((cgroup.slot, points))
        };
        let by_cgroup = cgroups.table().iter().filter_map(points).collect();
        // Behind the points: what is exported has all that was asked.
        if !self.names_stopped {
            self.shares.set_names(&self.names.make_room());
        }
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
