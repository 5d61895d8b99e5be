//! The memory signal: what every cgroup's memory consists of, whom the OOM killer kills, and time lost to reclaim.
//!
//! The memory controller's own counters are copied by `agent-ebpf/src/bin/memory.rs` in one walk over all cgroups, where the
//! kernel can be walked (6.1) and its counters can be found ([`layout`]); else they are read from each cgroup's files. Both give
//! [`parts::MemoryParts`]. A walk is compared with the files before it is believed.

mod kills;
mod layout;
pub mod metrics;
mod parts;

use std::{
    collections::HashMap,
    fs,
    io::Read as _,
    time::{Duration, Instant},
};

use agent_common::memory::{Counts, Facts, Index, Items, Usage, Walk};
use nix::unistd::SysconfVar;

use self::{
    kills::Kills,
    layout::MemoryLayout,
    parts::{Files, MemInfo, MemoryParts},
};
use super::{ActiveSignal, Kept, Readings, Signal, SignalError, slot_counts::SlotCounts};
use crate::{
    causes::chain,
    cgroups::{Cgroup, Cgroups},
    event::Event,
    kernel::{
        btf::Btf,
        facts,
        load::{Hook, Kernel, LOCKED_DOWN, LoadError, Object, Optional, Plan, Size},
        sys::MappedArray,
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
    missing: |btf| MemoryLayout::find(btf, |_| None).err().map(|error| error.to_string()),
    start: |kernel, cgroups, _| Ok(Box::new(Memory::start(kernel, cgroups)?)),
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/memory"));

/// The program of the walk over cgroups.
const WALK: &str = "memory_on_walk";

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
    Optional { programs: &["memory_copy_index", WALK], lost: "no walk over cgroups" },
];

/// How long files are read after a walk has failed.
const WALK_AGAIN: Duration = Duration::from_secs(300);

/// Cgroups whose files are read to check a walk.
const CHECKED: usize = 8;

/// Pages that one CPU may hold in advance for a cgroup, or not have told it of yet (`MEMCG_CHARGE_BATCH`).
const BATCH_PAGES: u64 = 64;

/// Where the figures come from.
#[derive(Debug)]
enum MemorySource {
    /// A walk, which agreed with the files.
    Walk,
    /// A walk that no file could be compared with yet.
    Unchecked,
    /// The files, and why.
    Files(String),
    /// The files until then, since a walk has failed.
    FilesUntil(Instant, String),
}

/// The signal while it counts.
struct Memory {
    object: Object,
    source: MemorySource,
    files: Files,
    records: MappedArray<Usage>,
    walk: MappedArray<Walk>,
    counts: SlotCounts<Counts>,
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
fn programs(btf: &Btf, layout: &MemoryLayout) -> (Vec<(&'static str, Hook)>, Vec<String>) {
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
    if layout.needs_index() {
        programs.push(("memory_copy_index", Hook::Call));
    }
    if layout.no_walk.is_none() {
        programs.push((WALK, Hook::Walk("cgroup")));
    }
    (programs, lacks)
}

impl Memory {
    fn start(kernel: &mut Kernel, cgroups: &Cgroups) -> Result<Self, SignalError> {
        let slots = cgroups.slots();
        // Five megabytes of text, for two lines of it, and only where they are needed.
        let symbols = std::cell::OnceCell::new();
        let symbol = |name: &str| {
            let text = symbols.get_or_init(|| fs::read_to_string("/proc/kallsyms").unwrap_or_default());
            layout::address_in(text, name)
        };
        let mut layout = MemoryLayout::find(&kernel.btf, symbol)?;
        drop(symbols);
        if !kernel.reads_by_address {
            layout.cannot_be_read(LOCKED_DOWN);
        }
        let (programs, mut lacks) = programs(&kernel.btf, &layout);
        let page_bytes = page_bytes().ok_or("the size of a page is not known")?;
        let slack_pages = BATCH_PAGES * (u64::from(kernel.cpus) + 1);
        let mut object = kernel.load(&Plan {
            object: SIGNAL.name,
            bytes: OBJECT,
            facts: ("FACTS", Facts { page_bytes, slack_pages, ..layout.facts }),
            maps: &[
                ("MEMORY_USAGE", Size::Slots(1)),
                ("MEMORY_WALK", Size::Fixed),
                ("MEMORY_INDEX", Size::Fixed),
                ("MEMORY_ITEMS", Size::Fixed),
                ("MEMORY_COUNTS", Size::Slots(1)),
                ("OOM_KILLS", Size::Fixed),
                ("OOM_RING", Size::Fixed),
                ("OOM_TAKEN", Size::Slots(1)),
                ("RECLAIMS", Size::Fixed),
                ("VICTIMS", Size::Fixed),
            ],
            shared: &[("CGROUP_SLOTS", cgroups.object())],
            programs: &programs,
            optional: OPTIONAL,
        })?;
        if layout.needs_index() && !object.does_without("memory_copy_index") {
            object.run_once("memory_copy_index")?;
        }
        let index = object.mapped::<Index>("MEMORY_INDEX")?.read(0).unwrap_or(Index::ZERO);
        let (items, no_walk) = layout.items(&index);
        object.mapped::<Items>("MEMORY_ITEMS")?.write(0, &items);
        kernel.attach(&mut object)?;
        let unwalkable = object.does_without(WALK).then(|| object.lacks().join("; "));
        let counts = |program| programs.iter().any(|(name, _)| *name == program) && !object.does_without(program);
        let counts_kills = counts("memory_on_signal");
        if counts_kills && !kernel.reads_by_address {
            lacks.push(format!("OOM kills without the cgroup at its limit and what its memory was: {LOCKED_DOWN}"));
        }
        lacks.extend(object.lacks());
        let memory = Self {
            source: no_walk.or(unwalkable).map_or(MemorySource::Unchecked, MemorySource::Files),
            files: Files::default(),
            records: object.mapped("MEMORY_USAGE")?,
            walk: object.mapped("MEMORY_WALK")?,
            counts: SlotCounts::open(&object, "MEMORY_COUNTS", 1, slots)?,
            kills: Kills::open(&object)?,
            page_bytes,
            cpus: kernel.cpus,
            counts_kills,
            lacks,
            events: Vec::new(),
            since_ns: object.since_ns(),
            started_ns: facts::boottime_ns(),
            object,
        };
        if let Some(why) = memory.note() {
            tracing::warn!(why, "memory is measured in part, or another way");
        }
        Ok(memory)
    }

    /// Compares a walk with the files of some cgroups, until there were any to compare with. A walk is used only when
    /// all that both know agrees: a kernel that keeps its counters otherwise must not lead to wrong figures.
    fn check_walk(&mut self, cgroups: &Cgroups) {
        match self.source {
            MemorySource::Unchecked => {}
            MemorySource::FilesUntil(until, _) if Instant::now() >= until => self.source = MemorySource::Unchecked,
            _ => return,
        }
        // Both are as old as the kernel's last flush, which another cgroup's reading may bring about in between: three times then.
        for _ in 0..3 {
            match self.disagreement(cgroups) {
                Ok(None) => return,
                Ok(Some(Ok(()))) => {
                    self.source = MemorySource::Walk;
                    return;
                }
                Ok(Some(Err(why))) => self.source = MemorySource::Files(why),
                Err(error) => {
                    // Memory or descriptors may be short.
                    let why = format!("cgroups cannot be walked: {}", chain(&error));
                    self.source = MemorySource::FilesUntil(Instant::now() + WALK_AGAIN, why);
                    break;
                }
            }
        }
        if let MemorySource::Files(why) | MemorySource::FilesUntil(_, why) = &self.source {
            tracing::warn!(why, "memory is read from files");
        }
    }

    /// `None` when there was nothing to compare.
    fn disagreement(&mut self, cgroups: &Cgroups) -> Result<Option<Result<(), String>>, LoadError> {
        let read = |c: &Cgroup| MemoryParts::read(&cgroups.directory(c), true, &self.files).map(|parts| (c.slot, parts));
        // Those with most in them say most.
        let mut before: Vec<(u32, MemoryParts)> = with_memory(cgroups).filter_map(read).take(64).collect();
        before.sort_by_key(|(_, parts)| std::cmp::Reverse(parts.usage));
        before.truncate(CHECKED);
        if before.is_empty() {
            return Ok(None);
        }
        let walked = self.walk(cgroups)?;
        let slack = 2 * BATCH_PAGES * u64::from(self.cpus) * self.page_bytes;
        for (slot, before) in before {
            let Some(cgroup) = cgroups.table().get(slot) else { continue };
            let Some(after) = MemoryParts::read(&cgroups.directory(cgroup), true, &self.files) else { continue };
            let Some(own) = walked.get(&slot) else {
                return Ok(Some(Err(format!("a walk over cgroups does not find the memory of {}", cgroup.path))));
            };
            if let Some(name) = own.outside(&before, &after, slack) {
                return Ok(Some(Err(format!("a walk over cgroups gives another {name} of {} than its files", cgroup.path))));
            }
        }
        Ok(Some(Ok(())))
    }

    /// Walks over all cgroups and reads what the kernel wrote down of each.
    fn walk(&mut self, cgroups: &Cgroups) -> Result<HashMap<u32, MemoryParts>, LoadError> {
        let number = self.walk.word(0, 0).unwrap_or(0) + 1;
        self.walk.write(0, &Walk { number, ..Walk::ZERO });
        // The kernel brings the statistics of all cgroups up to date when those of the root are read, if enough has changed.
        let _ = fs::read(cgroups.root().join("memory.stat"));
        let failed = |source: std::io::Error| LoadError::Link { action: "read", program: WALK.to_owned(), source: source.into() };
        let mut file = self.object.walk(WALK, cgroups.root())?;
        let mut nothing = [0; 64];
        // The program writes no text: one read walks to the end.
        while file.read(&mut nothing).map_err(failed)? > 0 {}
        let own = |c: &Cgroup| {
            let record = self.records.read(c.slot).filter(|record| record.id == c.id && record.walk == number)?;
            Some((c.slot, MemoryParts::of(&record, self.page_bytes)))
        };
        Ok(with_memory(cgroups).filter_map(own).collect())
    }

    /// Every cgroup's figures, by slot; the root has none of its own.
    fn parts(&mut self, cgroups: &Cgroups, swap: bool) -> Result<HashMap<u32, MemoryParts>, SignalError> {
        if with_memory(cgroups).next().is_none() {
            return Ok(HashMap::new());
        }
        self.check_walk(cgroups);
        if matches!(self.source, MemorySource::Walk | MemorySource::Unchecked) {
            return Ok(self.walk(cgroups)?);
        }
        let read = |c: &Cgroup| Some((c.slot, MemoryParts::read(&cgroups.directory(c), swap, &self.files)?));
        Ok(with_memory(cgroups).filter_map(read).collect())
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
        let source = match &self.source {
            MemorySource::Files(why) | MemorySource::FilesUntil(_, why) => Some(format!("read from files: {why}")),
            MemorySource::Walk | MemorySource::Unchecked => None,
        };
        let notes: Vec<String> = source.into_iter().chain(self.lacks.iter().cloned()).collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }

    fn retire(&mut self, cgroup: &Cgroup) -> Vec<Point> {
        let last = self.counts.retire(cgroup);
        self.records.write(cgroup.slot, &Usage::ZERO);
        metrics::of_counts(&last, cgroup.counted_since(self.since_ns), self.counts_kills)
    }

    fn collect(&mut self, _: u64, cgroups: &Cgroups) -> Result<Readings, SignalError> {
        let info = MemInfo::read();
        let swap_free = info.map_or(0, |info| info.swap_free);
        let swap = info.is_some_and(|info| info.swap_total > 0);
        // With vm.swappiness 0 the kernel swaps nothing of a cgroup that is at its limit (`get_scan_count`).
        let swap_free = if swap && swaps() { swap_free } else { 0 };
        let parts = self.parts(cgroups, swap)?;
        let totals = self.counts.totals(cgroups.table());
        let mut points = Vec::with_capacity(parts.len());
        for cgroup in cgroups.table().iter() {
            let mut of_cgroup = Vec::new();
            if let Some(own) = parts.get(&cgroup.slot) {
                let above = std::iter::successors(Some(cgroup.slot), |slot| cgroups.table().parent(*slot));
                let room = above.filter_map(|slot| parts.get(&slot)).map(MemoryParts::swap_room).min();
                of_cgroup = metrics::of_figures(own, room.unwrap_or(u64::MAX).min(swap_free), cgroup.made_ns());
            }
            if let Some(counts) = totals.get(&cgroup.slot) {
                of_cgroup.extend(metrics::of_counts(counts, cgroup.counted_since(self.since_ns), self.counts_kills));
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

fn page_bytes() -> Option<u64> {
    u64::try_from(nix::unistd::sysconf(SysconfVar::PAGE_SIZE).ok()??).ok()
}

/// Whether the kernel is allowed to swap at all.
fn swaps() -> bool {
    fs::read_to_string("/proc/sys/vm/swappiness").map_or(true, |text| text.trim() != "0")
}
