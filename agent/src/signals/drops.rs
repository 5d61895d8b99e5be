//! The drops signal: packets that the kernel dropped, by its own reason, for the cgroup they were of.
//!
//! Attributed by the socket that was to receive or had sent the packet, else by the network namespace it was in, else to the node.

mod namespaces;
mod reasons;

use std::{collections::HashMap, io::Read as _};

use agent_common::{
    cgroups::UNATTRIBUTED as NO_SLOT,
    drops::{DropCounts, Facts},
};

use self::{namespaces::CgroupNamespaces, reasons::Reasons};
use super::{ActiveSignal, Readings, Signal, SignalError, slot_rows::SlotRows, socket};
use crate::{
    cgroups::{Cgroup, Cgroups},
    kernel::{
        btf::{Btf, BtfError},
        load::{Hook, Kernel, LOCKED_DOWN, Object, Optional, Plan, Size},
    },
    metric::{Metric, Point, Scope, Value},
};

/// See the module.
pub const SIGNAL: Signal = Signal {
    name: "drops",
    help: "packets that the kernel dropped, by reason",
    tracepoints: &["kfree_skb", "sched_process_exec", "cgroup_attach_task", "sched_process_exit"],
    metrics: &[&DROPS, &UNATTRIBUTED],
    capability: None,
    missing: |btf| offsets(btf).err().map(|error| error.to_string()),
    start: |kernel, cgroups, _| Ok(Box::new(Drops::start(kernel, cgroups)?)),
};

/// `podmeter.network.drops`
pub static DROPS: Metric = Metric::counter(
    "podmeter.network.drops",
    "{packet}",
    Scope::Cgroup,
    "Packets that the kernel dropped, by its reason in lower case (enum skb_drop_reason). Reasons that are no \
     loss are left out.",
)
.attributes(&["reason"]);
/// `podmeter.network.drops.unattributed`
pub static UNATTRIBUTED: Metric = Metric::counter(
    "podmeter.network.drops.unattributed",
    "{packet}",
    Scope::Node,
    "Packets that the kernel dropped and that belong to no known cgroup, by their socket or network namespace.",
)
.attributes(&["reason"]);

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/drops"));

/// The program of the walk over cgroups.
const WALK: &str = "drops_on_walk";
/// What is lost without it.
const NO_WALK: &str = "packets without a socket are not attributed to containers that are older than this start";

const OPTIONAL: &[Optional] = &[
    Optional {
        programs: &["drops_on_exec", "drops_on_move", "drops_on_exit"],
        lost: "packets without a socket are not attributed to containers that are younger than this start",
    },
    Optional { programs: &[WALK], lost: NO_WALK },
];

/// The signal while it counts.
struct Drops {
    /// Keeps the programs attached.
    _object: Object,
    counts: SlotRows<DropCounts>,
    reasons: Reasons,
    namespaces: CgroupNamespaces,
    /// What this kernel does not allow, and why.
    lacks: Vec<String>,
    /// Since when the kernel side counts, CLOCK_BOOTTIME in ns.
    since_ns: u64,
}

impl Drops {
    fn start(kernel: &mut Kernel, cgroups: &Cgroups) -> Result<Self, SignalError> {
        let slots = cgroups.slots();
        let (mut facts, reasons) = offsets(&kernel.btf)?;
        let mut programs = vec![
            ("drops_on_free", Hook::Tracepoint("kfree_skb")),
            ("drops_on_exec", Hook::Tracepoint("sched_process_exec")),
            ("drops_on_move", Hook::Tracepoint("cgroup_attach_task")),
            ("drops_on_exit", Hook::Tracepoint("sched_process_exit")),
        ];
        let walkable = walk_offsets(&kernel.btf, &mut facts);
        let walkable = if kernel.reads_by_address { walkable } else { Err(LOCKED_DOWN.to_owned()) };
        if walkable.is_ok() {
            programs.push((WALK, Hook::Walk("cgroup")));
        }
        let mut object = kernel.load(&Plan {
            object: SIGNAL.name,
            bytes: OBJECT,
            facts,
            maps: &[
                // One, and one that is carried.
                ("DROPS_ROWS", Size::Slots(2)),
                ("DROPS_EMPTY_ROW", Size::Fixed),
                ("DROPS_PLACES", Size::Slots(1)),
                ("DROPS_NAMESPACES", Size::Slots(1)),
                ("DROPS_SCRATCH", Size::Fixed),
            ],
            shared: &[("CGROUP_SLOTS", cgroups.object())],
            programs: &programs,
            optional: OPTIONAL,
        })?;
        let mut counts = SlotRows::open(&mut object, "DROPS_ROWS", 1)?;
        counts.make_unattributed(0)?;
        kernel.attach(&mut object)?;
        let mut lacks: Vec<String> = walkable.as_ref().err().map(|why| format!("{NO_WALK}: {why}")).into_iter().collect();
        lacks.extend(object.lacks());
        if walkable.is_ok() && !object.does_without(WALK) {
            // The program writes no text.
            object.walk(WALK, cgroups.root())?.read_to_end(&mut Vec::new())?;
        }
        Ok(Self {
            counts,
            namespaces: CgroupNamespaces::open(&mut object, slots)?,
            since_ns: object.since_ns(),
            _object: object,
            reasons,
            lacks,
        })
    }

    fn points(&self, metric: &'static Metric, start_ns: u64, counts: &DropCounts) -> Vec<Point> {
        let counted = counts.packets.iter().enumerate().filter(|(_, n)| **n > 0);
        let mut by_name: HashMap<String, u64> = HashMap::new();
        for (position, n) in counted {
            *by_name.entry(self.reasons.name(position)).or_default() += n;
        }
        let point = |(name, n)| Point::new(metric, start_ns, Value::Int(n)).with("reason", name);
        by_name.into_iter().map(point).collect()
    }
}

impl ActiveSignal for Drops {
    fn tick(&mut self, cgroups: &Cgroups) -> Result<(), SignalError> {
        self.namespaces.learn(cgroups.table())
    }

    fn retire(&mut self, cgroup: &Cgroup) -> Vec<Point> {
        self.namespaces.retire(cgroup);
        let last = self.counts.retire(cgroup);
        last.iter().flat_map(|(_, last)| self.points(&DROPS, cgroup.counted_since(self.since_ns), last)).collect()
    }

    fn note(&self) -> Option<String> {
        (!self.lacks.is_empty()).then(|| self.lacks.join("; "))
    }

    fn collect(&mut self, _: u64, cgroups: &Cgroups) -> Result<Readings, SignalError> {
        let totals = self.counts.totals(cgroups.table())?;
        let points = |metric, slot: u32, since_ns| -> Vec<Point> {
            let rows = totals.get(&slot).into_iter().flatten();
            rows.flat_map(|(_, counts)| self.points(metric, since_ns, counts)).collect()
        };
        let of = |c: &Cgroup| (c.slot, points(&DROPS, c.slot, c.counted_since(self.since_ns)));
        let node = points(&UNATTRIBUTED, NO_SLOT, self.since_ns);
        Ok(Readings { cgroups: cgroups.table().iter().map(of).collect(), node })
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
        net_cookie: btf.offset_of("net", "net_cookie", 8)?,
        task_nsproxy: btf.offset_of("task_struct", "nsproxy", 8)?,
        nsproxy_net: btf.offset_of("nsproxy", "net_ns", 8)?,
        task_tgid: btf.offset_of("task_struct", "tgid", 4)?,
        task_pid: btf.offset_of("task_struct", "pid", 4)?,
        task_cgroups: btf.offset_of("task_struct", "cgroups", 8)?,
        css_set_cgroup: btf.offset_of("css_set", "dfl_cgrp", 8)?,
        tells_receiver: btf.tracepoint_takes("kfree_skb", 3, "sock").into(),
        harmless: reasons.harmless(),
        ..Facts::ZERO
    };
    Ok((facts, reasons))
}

/// Where this kernel keeps what leads from a cgroup to its tasks; otherwise why cgroups are not walked over.
fn walk_offsets(btf: &Btf, facts: &mut Facts) -> Result<(), String> {
    if btf.function_id("bpf_iter_cgroup").is_err() {
        return Err("this kernel cannot walk over cgroups, which needs 6.1".to_owned());
    }
    let offset = |of: &str, member: &str, bytes| btf.offset_of(of, member, bytes).map_err(|error| error.to_string());
    facts.cgroup_links = offset("cgroup", "cset_links", 16)?;
    facts.link_css_set = offset("cgrp_cset_link", "cset", 8)?;
    facts.link_node = offset("cgrp_cset_link", "cset_link", 16)?;
    facts.css_set_tasks = offset("css_set", "tasks", 16)?;
    facts.task_node = offset("task_struct", "cg_list", 16)?;
    Ok(())
}
