//! The memory signal: what every cgroup's memory consists of, whom the OOM killer kills, and time lost to reclaim.
//!
//! The memory controller's own counters come from the [walk over cgroups](Cgroups::walk), where the kernel can be walked (6.1) and its
//! counters can be found; else they are read from each cgroup's files. Both give [`parts::MemoryParts`]. A walk is compared with the files
//! before it is believed.

pub mod kills;
pub mod metrics;
mod parts;

use std::{collections::HashMap, fs};

use agent_common::{
    memory::{Counts, Facts, Reclaims},
    walk,
};

use self::{
    kills::Kills,
    parts::{Files, MemInfo, MemoryParts},
};
use super::{ActiveSignal, Kept, Readings, Signal, SignalError, slot_counts::SlotCounts, slot_rows::SlotRows};
use crate::{
    cgroups::{Cgroup, Cgroups, MemcgLayout},
    event::Event,
    kernel::{
        btf::{Btf, BtfError},
        facts,
        load::{Hook, Kernel, LOCKED_DOWN, Object, Optional, Plan, Size},
    },
    metric::{Point, Value},
};

/// See the module.
pub const SIGNAL: Signal = Signal {
    name: "memory",
    help: "memory usage and how much can be freed, OOM kills, time in direct reclaim",
    tracepoints: &[
        "mm_vmscan_memcg_reclaim_begin",
        "mm_vmscan_memcg_reclaim_end",
        "mm_vmscan_direct_reclaim_begin",
        "mm_vmscan_direct_reclaim_end",
        "signal_generate",
        "mark_victim",
    ],
    metrics: metrics::ALL,
    capability: None,
    missing: |btf| offsets(btf).err().map(|error| error.to_string()),
    start: |kernel, cgroups, _| Ok(Box::new(Memory::start(kernel, cgroups)?)),
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/memory"));

const OPTIONAL: &[Optional] = &[
    Optional {
        programs: &[
            "memory_on_cgroup_reclaim",
            "memory_on_cgroup_reclaimed",
            "memory_on_node_reclaim",
            "memory_on_node_reclaimed",
        ],
        lost: "no reclaim",
    },
    Optional { programs: &["memory_on_signal", "memory_on_victim", "memory_on_victim_id"], lost: "no OOM kills" },
];

/// Cgroups whose files are read to check a walk.
const CHECKED: usize = 8;

/// Pages that one CPU may hold in advance for a cgroup, or not have told it of yet (`MEMCG_CHARGE_BATCH`).
const BATCH_PAGES: u64 = 64;

/// Whether a walk's figures are believed.
#[derive(Debug)]
enum Belief {
    /// They agreed with the files.
    Agreed,
    /// No file could be compared with them yet.
    Unchecked,
    /// They are not those of the files.
    Disagreed(String),
}

/// The signal while it counts.
struct Memory {
    _object: Object,
    belief: Belief,
    /// Why files were read the last time, if so.
    from_files: Option<String>,
    files: Files,
    counts: SlotCounts<Counts>,
    /// Reclaims by duration.
    rows: SlotRows<Reclaims>,
    kills: Kills,
    page_bytes: u64,
    cpus: u32,
    /// Why a kind of count is missing on this kernel.
    lacks: Vec<String>,
    counts_kills: bool,
    events: Vec<Event>,
    /// Since when the kernel side counts, CLOCK_BOOTTIME in ns.
    since_ns: u64,
    /// When this process began, CLOCK_BOOTTIME in ns.
    started_ns: u64,
}

/// The programs that this kernel can run, and what it cannot tell.
fn programs(btf: &Btf) -> (Vec<(&'static str, Hook)>, Vec<String>) {
    let has = |tracepoint: &str| btf.typedef_id(&format!("btf_trace_{tracepoint}")).is_ok();
    let (mut programs, mut lacks) = (Vec::new(), Vec::new());
    let mut add = |group: &[(&'static str, &'static str)], what: &str| match group.iter().find(|(_, on)| !has(on)) {
        None => programs.extend(group.iter().map(|(program, on)| (*program, Hook::Tracepoint(on)))),
        Some((_, missing)) => lacks.push(format!("no {what}: this kernel has no tracepoint {missing}")),
    };
    add(
        &[
            ("memory_on_cgroup_reclaim", "mm_vmscan_memcg_reclaim_begin"),
            ("memory_on_cgroup_reclaimed", "mm_vmscan_memcg_reclaim_end"),
            ("memory_on_node_reclaim", "mm_vmscan_direct_reclaim_begin"),
            ("memory_on_node_reclaimed", "mm_vmscan_direct_reclaim_end"),
        ],
        "reclaim",
    );
    let by_task = btf.tracepoint_takes("mark_victim", 0, "task_struct");
    let on_victim = if by_task { "memory_on_victim" } else { "memory_on_victim_id" };
    add(&[("memory_on_signal", "signal_generate"), (on_victim, "mark_victim")], "OOM kills");
    (programs, lacks)
}

impl Memory {
    fn start(kernel: &mut Kernel, cgroups: &Cgroups) -> Result<Self, SignalError> {
        let slots = cgroups.slots();
        let offsets = offsets(&kernel.btf)?;
        let (programs, mut lacks) = programs(&kernel.btf);
        let page_bytes = facts::page_bytes().ok_or("the size of a page is not known")?;
        let slack_pages = BATCH_PAGES * (u64::from(kernel.cpus) + 1);
        let mut object = kernel.load(&Plan {
            object: SIGNAL.name,
            bytes: OBJECT,
            facts: Facts { page_bytes, slack_pages, ..offsets },
            maps: &[
                ("MEMORY_COUNTS", Size::Slots(1)),
                // One, and one that is carried.
                ("MEMORY_ROWS", Size::Slots(2)),
                ("MEMORY_EMPTY_ROW", Size::Fixed),
                ("OOM_KILLS", Size::Fixed),
                ("OOM_RING", Size::Fixed),
                ("OOM_TAKEN", Size::Slots(1)),
                ("RECLAIMS", Size::Fixed),
                ("VICTIMS", Size::Fixed),
            ],
            shared: &[("CGROUP_SLOTS", cgroups.object()), ("WALK_ITEMS", cgroups.walk_object())],
            programs: &programs,
            optional: OPTIONAL,
        })?;
        kernel.attach(&mut object)?;
        let counts = |program| programs.iter().any(|(name, _)| *name == program) && !object.does_without(program);
        let counts_kills = counts("memory_on_signal");
        if counts_kills && !kernel.reads_by_address {
            lacks.push(format!("OOM kills without the cgroup at its limit and what its memory was: {LOCKED_DOWN}"));
        }
        lacks.extend(object.lacks());
        let memory = Self {
            belief: Belief::Unchecked,
            from_files: cgroups.walks_no_memory(),
            files: Files::default(),
            counts: SlotCounts::open(&object, "MEMORY_COUNTS", 1, slots)?,
            rows: SlotRows::open(&mut object, "MEMORY_ROWS", 1)?,
            kills: Kills::open(&object)?,
            page_bytes,
            cpus: kernel.cpus,
            counts_kills,
            lacks,
            events: Vec::new(),
            since_ns: object.since_ns(),
            started_ns: facts::boottime_ns(),
            _object: object,
        };
        if let Some(why) = memory.note() {
            tracing::warn!(why, "memory is measured in part, or another way");
        }
        Ok(memory)
    }

    /// Compares a walk with the files of some cgroups, until there were any to compare with. A walk is used only when
    /// all that both know agrees: a kernel that keeps its counters otherwise must not lead to wrong figures.
    fn check_walk(&mut self, cgroups: &mut Cgroups) {
        // Both are as old as the kernel's last flush, which another cgroup's reading may bring about in between: three times then.
        for tries in 1..=3 {
            match self.disagreement(cgroups) {
                None => return,
                Some(Ok(())) => {
                    self.belief = Belief::Agreed;
                    return;
                }
                Some(Err(why)) if tries == 3 => {
                    tracing::warn!(why, "memory is read from files");
                    self.belief = Belief::Disagreed(why);
                }
                Some(Err(_)) => {}
            }
        }
    }

    /// `None` when there was nothing to compare.
    fn disagreement(&self, cgroups: &mut Cgroups) -> Option<Result<(), String>> {
        let read = |cgroups: &Cgroups, c: &Cgroup| MemoryParts::read(&cgroups.directory(c), true, &self.files);
        // Those with most in them say most.
        let parts = |c| Some((Cgroup::clone(c), read(cgroups, c)?));
        let mut before: Vec<(Cgroup, MemoryParts)> = with_memory(cgroups).filter_map(parts).take(64).collect();
        before.sort_by_key(|(_, parts)| std::cmp::Reverse(parts.usage));
        before.truncate(CHECKED);
        if before.is_empty() {
            return None;
        }
        cgroups.walk();
        if !cgroups.walks(walk::STATISTICS) {
            return None;
        }
        let slack = 2 * BATCH_PAGES * u64::from(self.cpus) * self.page_bytes;
        for (cgroup, before) in before {
            let Some(after) = read(cgroups, &cgroup) else { continue };
            let Some(own) = self.walked(cgroups, &cgroup) else {
                return Some(Err(format!("a walk over cgroups does not find the memory of {}", cgroup.path)));
            };
            if let Some(name) = own.outside(&before, &after, slack) {
                return Some(Err(format!("a walk over cgroups gives another {name} of {} than its files", cgroup.path)));
            }
        }
        Some(Ok(()))
    }

    /// A cgroup's figures as of the last walk.
    fn walked(&self, cgroups: &Cgroups, cgroup: &Cgroup) -> Option<MemoryParts> {
        cgroups.memory(cgroup).map(|usage| MemoryParts::of(&usage, self.page_bytes))
    }

    /// Every cgroup's figures, by slot; the root has none of its own.
    fn parts(&mut self, cgroups: &Cgroups, swap: bool) -> HashMap<u32, MemoryParts> {
        self.from_files = match &self.belief {
            Belief::Disagreed(why) => Some(why.clone()),
            Belief::Agreed | Belief::Unchecked => cgroups.walks_no_memory(),
        };
        let parts = |c: &Cgroup| match &self.from_files {
            Some(_) => MemoryParts::read(&cgroups.directory(c), swap, &self.files),
            None => self.walked(cgroups, c),
        };
        with_memory(cgroups).filter_map(|c| Some((c.slot, parts(c)?))).collect()
    }
}

impl ActiveSignal for Memory {
    fn tick(&mut self, cgroups: &Cgroups) -> Result<(), SignalError> {
        let events = self.kills.take(cgroups.table());
        self.events.extend(events);
        Ok(())
    }

    fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn hand_over(self: Box<Self>) -> Option<Kept> {
        Some(Box::new((self.kills, self.started_ns)))
    }

    fn go_on_with(&mut self, kept: Kept) {
        // The ring is the same: its size does not depend on the slots.
        if let Ok(kept) = kept.downcast::<(Kills, u64)>() {
            (self.kills, self.started_ns) = *kept;
        }
    }

    fn note(&self) -> Option<String> {
        let source = self.from_files.as_ref().map(|why| format!("read from files: {why}"));
        let notes: Vec<String> = source.into_iter().chain(self.lacks.iter().cloned()).collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }

    fn begin(&mut self, cgroups: &mut Cgroups) -> Result<(), SignalError> {
        if matches!(self.belief, Belief::Unchecked) && cgroups.walks_no_memory().is_none() {
            self.check_walk(cgroups);
        }
        Ok(())
    }

    fn retire(&mut self, cgroup: &Cgroup) -> Vec<Point> {
        let (last, rows) = (self.counts.retire(cgroup), self.rows.retire(cgroup));
        metrics::of_counts(&last, &rows, cgroup.counted_since(self.since_ns), self.counts_kills)
    }

    fn collect(&mut self, _: u64, cgroups: &Cgroups) -> Result<Readings, SignalError> {
        let info = MemInfo::read();
        let swap_free = info.map_or(0, |info| info.swap_free);
        let swap = info.is_some_and(|info| info.swap_total > 0);
        // With vm.swappiness 0 the kernel swaps nothing of a cgroup that is at its limit (`get_scan_count`).
        let swap_free = if swap && swaps() { swap_free } else { 0 };
        let parts = self.parts(cgroups, swap);
        let (totals, rows) = (self.counts.totals(cgroups.table()), self.rows.totals(cgroups.table())?);
        let mut points = Vec::with_capacity(parts.len());
        for cgroup in cgroups.table().iter() {
            let mut of_cgroup = Vec::new();
            if let Some(own) = parts.get(&cgroup.slot) {
                let above = std::iter::successors(Some(cgroup.slot), |slot| cgroups.table().parent(*slot));
                let room = above.filter_map(|slot| parts.get(&slot)).map(MemoryParts::swap_room).min();
                of_cgroup = metrics::of_figures(own, room.unwrap_or(u64::MAX).min(swap_free), cgroup.made_ns());
            }
            if let Some(counts) = totals.get(&cgroup.slot) {
                let rows = rows.get(&cgroup.slot).map_or(&[][..], |rows| rows);
                of_cgroup.extend(metrics::of_counts(counts, rows, cgroup.counted_since(self.since_ns), self.counts_kills));
            }
            points.push((cgroup.slot, of_cgroup));
        }
        let mut node = info.as_ref().map(metrics::of_node).unwrap_or_default();
        if self.counts_kills {
            let lost = self.counts.unattributed();
            let kills = Value::Int(lost.cgroup_kills + lost.node_kills);
            node.push(Point::new(&metrics::UNATTRIBUTED_KILLS, self.since_ns, kills));
            node.push(Point::new(&metrics::LOST_KILLS, self.started_ns, Value::Int(self.kills.lost())));
        }
        Ok(Readings { cgroups: points, node })
    }
}

/// The living cgroups that have a memory controller.
fn with_memory(cgroups: &Cgroups) -> impl Iterator<Item = &Cgroup> {
    cgroups.table().iter().filter(|cgroup| cgroup.lives() && cgroup.controllers.memory)
}

/// Where this kernel keeps what the programs read.
fn offsets(btf: &Btf) -> Result<Facts, BtfError> {
    let subsystem = btf.enum_names("cgroup_subsys_id")?;
    let memory = subsystem.iter().find(|(_, name)| name == "memory_cgrp_id").map(|(id, _)| id.cast_unsigned() * 8);
    let memory = memory.ok_or_else(|| BtfError::NoType { what: "cgroup subsystem", name: "memory".to_owned() })?;
    Ok(Facts {
        task_cgroups: btf.offset_of("task_struct", "cgroups", 8)?,
        task_tgid: btf.offset_of("task_struct", "tgid", 4)?,
        task_pid: btf.offset_of("task_struct", "pid", 4)?,
        task_comm: btf.offset_of("task_struct", "comm", 16)?,
        css_set_cgroup: btf.offset_of("css_set", "dfl_cgrp", 8)?,
        css_set_memory: u64::from(btf.offset("css_set", "subsys")?) + memory,
        cgroup_kn: btf.offset_of("cgroup", "kn", 8)?,
        kn_id: btf.offset_of("kernfs_node", "id", 8)?,
        css_cgroup: btf.offset_of("cgroup_subsys_state", "cgroup", 8)?,
        counter_parent: btf.offset_of("page_counter", "parent", 8)?,
        memcg: MemcgLayout::find(btf, |_| None)?.offsets,
        ..Facts::ZERO
    })
}

/// Whether the kernel is allowed to swap at all.
fn swaps() -> bool {
    fs::read_to_string("/proc/sys/vm/swappiness").map_or(true, |text| text.trim() != "0")
}
