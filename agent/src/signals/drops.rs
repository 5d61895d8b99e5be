//! The drops signal: packets that the kernel dropped, by its own reason, for the cgroup they were of.
//!
//! Attributed by the socket that was to receive or had sent the packet, else by the network namespace it was in, else to the node.

mod namespaces;
mod reasons;

use std::collections::HashMap;

use agent_common::drops::{DropCounts, Facts};
use aya::maps::{HashMap as BpfHashMap, MapData};

use self::{namespaces::Namespaces, reasons::Reasons};
use super::{
    Failure, Readings, Running, Signal,
    books::Books,
    metric::{Kind, Metric, Point, Scope, Value},
    socket,
};
use crate::{
    cgroups::{Cgroup, Cgroups},
    kernel::{
        btf::{Btf, BtfError},
        facts,
        load::{Hook, Kernel, LoadError, Object, Plan},
    },
};

/// See the module.
pub const SIGNAL: Signal = Signal {
    name: "drops",
    help: "packets that the kernel dropped, by reason",
    tracepoints: &["kfree_skb"],
    metrics: &[&DROPS, &UNATTRIBUTED],
    capability: None,
    missing: |btf| offsets(btf).err().map(|error| error.to_string()),
    start: |kernel, cgroups, _| Ok(Box::new(Drops::start(kernel, cgroups)?)),
};

/// `podmeter.network.drops`
pub static DROPS: Metric = Metric {
    name: "podmeter.network.drops",
    unit: "{packet}",
    kind: Kind::Counter,
    attributes: &["reason"],
    scope: Scope::Container,
    help: "Packets that the kernel dropped, by its own reason in lower case (enum skb_drop_reason); reasons that are no loss are left out.",
};
/// `podmeter.network.drops.unattributed`
pub static UNATTRIBUTED: Metric = Metric {
    name: "podmeter.network.drops.unattributed",
    unit: "{packet}",
    kind: Kind::Counter,
    attributes: &["reason"],
    scope: Scope::Node,
    help: "Packets that the kernel dropped of no cgroup that is known: neither their socket nor their network namespace leads to one.",
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/drops"));

/// The signal while it counts.
struct Drops {
    /// Keeps the program attached.
    _object: Object,
    books: Books<DropCounts>,
    reasons: Reasons,
    namespaces: Namespaces,
    /// What the programs know of [`Namespaces::owners`].
    told: HashMap<u32, u32>,
    map: BpfHashMap<MapData, u32, u32>,
    /// When counting began, Unix time in ns.
    started_unix_ns: u64,
}

impl Drops {
    fn start(kernel: &mut Kernel, cgroups: &Cgroups) -> Result<Self, LoadError> {
        let slots = cgroups.slots();
        let (facts, reasons) = offsets(&kernel.btf)?;
        let mut object = kernel.load(&Plan {
            object: SIGNAL.name,
            bytes: OBJECT,
            facts: ("FACTS", facts),
            maps: &[("DROPS_COUNTS", Some(slots)), ("DROPS_NAMESPACES", None)],
            shared: &[("CGROUP_SLOTS", cgroups.object())],
            programs: &[("drops_on_free", Hook::Tracepoint("kfree_skb"))],
            optional: &[],
        })?;
        kernel.attach(&mut object)?;
        let books = Books::open(&object, "DROPS_COUNTS", 1, slots)?;
        let mut map: BpfHashMap<MapData, u32, u32> = object.take("DROPS_NAMESPACES")?;
        // What an earlier agent knew may be out of date.
        for inode in map.keys().flatten().collect::<Vec<_>>() {
            let _ = map.remove(&inode);
        }
        let started_unix_ns = facts::unix_ns();
        Ok(Self {
            _object: object,
            books,
            reasons,
            namespaces: Namespaces::default(),
            told: HashMap::new(),
            map,
            started_unix_ns,
        })
    }

    /// Tells the programs whose the namespaces are.
    fn tell(&mut self, cgroups: &Cgroups) -> Result<(), Failure> {
        if !self.namespaces.learn(cgroups) {
            return Ok(());
        }
        let owners = self.namespaces.owners(cgroups.table());
        for inode in self.told.keys().filter(|inode| !owners.contains_key(*inode)) {
            self.map.remove(inode)?;
        }
        self.told.retain(|inode, _| owners.contains_key(inode));
        for (inode, slot) in owners {
            if self.told.get(&inode) != Some(&slot) {
                // Full: packets of further namespaces are the node's.
                if self.map.insert(inode, slot, 0).is_ok() {
                    self.told.insert(inode, slot);
                }
            }
        }
        Ok(())
    }

    fn points(&self, metric: &'static Metric, counts: &DropCounts) -> Vec<Point> {
        let counted = counts.packets.iter().enumerate().filter(|(_, n)| **n > 0);
        let mut by_name: HashMap<String, u64> = HashMap::new();
        for (position, n) in counted {
            *by_name.entry(self.reasons.name(position)).or_default() += n;
        }
        let point = |(name, n)| Point::new(metric, self.started_unix_ns, Value::Int(n)).with("reason", name);
        by_name.into_iter().map(point).collect()
    }
}

impl Running for Drops {
    fn tick(&mut self, cgroups: &Cgroups) -> Result<(), Failure> {
        self.tell(cgroups)
    }

    fn bury(&mut self, cgroup: &Cgroup) -> Vec<Point> {
        let last = self.books.bury(cgroup);
        self.points(&DROPS, &last)
    }

    fn collect(&mut self, _: u64, cgroups: &Cgroups) -> Result<Readings, Failure> {
        let totals = self.books.totals(cgroups.table());
        let cgroups = totals.iter().map(|(slot, counts)| (*slot, self.points(&DROPS, counts))).collect();
        Ok(Readings { cgroups, node: self.points(&UNATTRIBUTED, &self.books.unattributed()) })
    }
}

/// Where this kernel keeps what the program reads, and its reasons.
fn offsets(btf: &Btf) -> Result<(Facts, Reasons), BtfError> {
    // Without the enum the tracepoint has no reason either (before 5.17).
    let reasons = Reasons::new(&btf.enum_names("skb_drop_reason")?);
    let facts = Facts {
        socket: socket::facts(btf)?,
        skb_sk: btf.offset_of("sk_buff", "sk", 8)?,
        skb_protocol: btf.offset_of("sk_buff", "protocol", 2)?,
        skb_dev: btf.offset_of("sk_buff", "dev", 8)?,
        dev_net: btf.offset_of("net_device", "nd_net.net", 8)?,
        net_inum: btf.offset_of("net", "ns.inum", 4)?,
        tells_receiver: btf.tracepoint_takes("kfree_skb", 3, "sock").into(),
        harmless: reasons.harmless(),
    };
    Ok((facts, reasons))
}
