//! The walk over cgroups: what the kernel keeps of each, read in one pass of `agent-ebpf/src/bin/walk.rs` without a file of any.
//!
//! Linux can be walked from 6.1 on. What a walk cannot read of this kernel, part by part, is read from [files](super::files); so is
//! everything for a while after a walk has failed. A walk is compared with the files before it is believed: [`check`].

mod check;
mod layout;
mod memcg;

use std::{
    fs,
    io::Read as _,
    path::Path,
    time::{Duration, Instant},
};

use agent_common::{
    memory::{Index, Items, NO_LIMIT_PAGES, Usage},
    walk::{CPU, MEMORY, NO_QUOTA, PRESSURE, STATISTICS, UNKNOWN, Walk as Begun, Walked},
};

use self::layout::{Numbers, WalkLayout};
pub use self::memcg::MemcgLayout;
use super::{
    Cgroup, Controllers,
    files::{self, CgroupLimits, Pressure, Throttling},
};
use crate::{
    causes::chain,
    kernel::{
        facts,
        load::{Hook, Kernel, LOCKED_DOWN, LoadError, Object, Optional, Plan, Size},
        sys::MappedArray,
    },
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/walk"));

/// The program that runs for each cgroup.
const PROGRAM: &str = "walk_on_cgroup";
/// The program that copies tables.
const COPY: &str = "walk_copy_index";

const OPTIONAL: &[Optional] = &[Optional { programs: &[COPY, PROGRAM], lost: "no walk over cgroups" }];

/// How long files are read after a walk has failed.
const WALK_AGAIN: Duration = Duration::from_secs(300);

/// Whether the kernel can be walked.
#[derive(Debug)]
enum WalkState {
    /// It can, and the last walk ended well, if there was one.
    Works,
    /// It cannot, and why.
    Refused(String),
    /// Not until then, since a walk has failed.
    FailedUntil(Instant, String),
}

/// See the module.
pub(super) struct Walk {
    object: Object,
    state: WalkState,
    records: MappedArray<Walked>,
    begun: MappedArray<Begun>,
    numbers: Numbers,
    /// The parts that a walk can read.
    reads: u64,
    /// Of those, the parts that agreed with the files.
    checked: u64,
    /// Why a part cannot be read.
    lacks: Vec<(u64, String)>,
    /// The last walk, if that ended well.
    number: Option<u64>,
    page_bytes: u64,
}

impl Walk {
    /// Loads the program of the walk, where this kernel has such walks. `cgroups` has the slots.
    ///
    /// # Errors
    /// When the maps cannot be made; not when the kernel refuses the program.
    pub(super) fn start(kernel: &mut Kernel, cgroups: &Object) -> Result<Self, LoadError> {
        // Five megabytes of text, for two lines of it, and only where they are needed.
        let symbols = std::cell::OnceCell::new();
        let symbol = |name: &str| {
            let text = symbols.get_or_init(|| fs::read_to_string("/proc/kallsyms").unwrap_or_default());
            memcg::address_in(text, name)
        };
        let layout = WalkLayout::find(&kernel.btf, symbol, (!kernel.reads_by_address).then_some(LOCKED_DOWN));
        drop(symbols);
        let mut programs = Vec::new();
        if layout.no_walk.is_none() {
            programs.push((PROGRAM, Hook::Walk("cgroup")));
        }
        let needs_index = layout.memcg.as_ref().is_some_and(MemcgLayout::needs_index);
        if needs_index {
            programs.push((COPY, Hook::Call));
        }
        let mut object = kernel.load(&Plan {
            object: "walk",
            bytes: OBJECT,
            facts: layout.facts,
            maps: &[("WALK", Size::Fixed), ("WALKED", Size::Slots(1)), ("WALK_INDEX", Size::Fixed), ("WALK_ITEMS", Size::Fixed)],
            shared: &[("CGROUP_SLOTS", cgroups)],
            programs: &programs,
            optional: OPTIONAL,
        })?;
        let mut lacks = layout.lacks;
        if needs_index && !object.does_without(COPY) {
            object.run(COPY, None, 0)?;
        }
        let index = object.mapped::<Index>("WALK_INDEX")?.read(0).unwrap_or(Index::ZERO);
        let (items, wrong) = layout.memcg.map_or((Items::NONE, None), |memcg| memcg.items(&index));
        object.mapped::<Items>("WALK_ITEMS")?.write(0, &items);
        kernel.attach(&mut object)?;
        let mut reads = layout.facts.reads;
        if let Some(wrong) = wrong.filter(|_| reads & STATISTICS != 0) {
            reads &= !STATISTICS;
            lacks.push((STATISTICS, wrong));
        }
        let page_bytes = facts::page_bytes();
        if page_bytes.is_none() {
            reads &= !(MEMORY | STATISTICS);
        }
        let refused = object.does_without(PROGRAM).then(|| object.lacks().join("; "));
        Ok(Self {
            state: layout.no_walk.or(refused).map_or(WalkState::Works, WalkState::Refused),
            records: object.mapped("WALKED")?,
            begun: object.mapped("WALK")?,
            numbers: layout.numbers,
            reads,
            checked: 0,
            lacks,
            number: None,
            page_bytes: page_bytes.unwrap_or(0),
            object,
        })
    }

    /// Its maps lead to the memory controller's statistics.
    pub(super) fn object(&self) -> &Object {
        &self.object
    }

    /// Whether the last walk ended well.
    pub(super) fn stands(&self) -> bool {
        self.number.is_some()
    }

    /// Whether the last walk shows all these parts.
    pub(super) fn reads(&self, parts: u64) -> bool {
        self.stands() && self.reads & parts == parts
    }

    /// Why it does not.
    pub(super) fn lacks(&self, part: u64) -> Option<String> {
        match &self.state {
            WalkState::Refused(why) | WalkState::FailedUntil(_, why) => Some(why.clone()),
            WalkState::Works => self.lacks.iter().find(|(parts, _)| parts & part != 0).map(|(_, why)| why.clone()),
        }
    }

    /// From now on files are read for these parts.
    fn gives_up(&mut self, parts: u64, why: String) {
        tracing::warn!(why, "read from the files of cgroups");
        self.reads &= !parts;
        self.lacks.push((parts, why));
    }

    /// Walks over the cgroups from `root` down; nothing where the kernel cannot be walked.
    pub(super) fn run(&mut self, root: &Path) {
        self.number = None;
        match &self.state {
            WalkState::Refused(_) => return,
            WalkState::FailedUntil(until, _) if Instant::now() < *until => return,
            WalkState::FailedUntil(..) | WalkState::Works => {}
        }
        match self.pass(root) {
            Ok(number) => (self.number, self.state) = (Some(number), WalkState::Works),
            // Memory or descriptors may be short.
            Err(error) => {
                let why = format!("cgroups cannot be walked: {}", chain(&error));
                tracing::warn!(why, "read from the files of cgroups");
                self.state = WalkState::FailedUntil(Instant::now() + WALK_AGAIN, why);
            }
        }
    }

    fn pass(&mut self, root: &Path) -> Result<u64, LoadError> {
        let number = self.begun.read(0).map_or(0, |walk| walk.number) + 1;
        self.begun.write(0, &Begun { number, ..Begun::ZERO });
        if self.reads & STATISTICS != 0 {
            // The kernel brings the statistics of all cgroups up to date when those of the root are read, if enough has changed.
            let _ = fs::read(root.join("memory.stat"));
        }
        let failed =
            |source: std::io::Error| LoadError::Link { action: "read", program: PROGRAM.to_owned(), source: source.into() };
        let mut file = self.object.walk(PROGRAM, root)?;
        let mut nothing = [0; 64];
        // The program writes no text: one read walks to the end.
        while file.read(&mut nothing).map_err(failed)? > 0 {}
        Ok(number)
    }

    /// What the last walk found of a cgroup; `None` where it met none of that id.
    fn of(&self, cgroup: &Cgroup) -> Option<Walked> {
        let number = self.number?;
        self.records.read(cgroup.slot).filter(|record| record.id == cgroup.id && record.walk == number)
    }

    /// The record of a cgroup that has this part.
    fn part(&self, cgroup: &Cgroup, part: u64) -> Option<Walked> {
        self.of(cgroup).filter(|record| record.read & self.reads & part != 0)
    }

    /// A slot's owner is gone.
    pub(super) fn forget(&self, slot: u32) {
        self.records.write(slot, &Walked::ZERO);
    }

    /// Which controllers' files a cgroup has. The root has no such files, whatever it lets others have.
    pub(super) fn controllers(&self, cgroup: &Cgroup) -> Controllers {
        let mask = self.of(cgroup).filter(|_| cgroup.level > 0).map_or(0, |record| record.controllers);
        let has = |number: Option<u32>| number.is_some_and(|number| mask.checked_shr(number).unwrap_or(0) & 1 != 0);
        Controllers { cpu: has(self.numbers.cpu), memory: has(self.numbers.memory) }
    }

    /// Its memory with statistics, from a walk alone.
    pub(super) fn memory(&self, cgroup: &Cgroup) -> Option<Usage> {
        self.part(cgroup, STATISTICS).map(|record| record.memory)
    }

    /// From the walk, and for what that does not show from files.
    pub(super) fn limits(&self, cgroup: &Cgroup, root: &Path) -> CgroupLimits {
        let Controllers { cpu, memory } = cgroup.controllers;
        let (walks_cpu, walks_memory) = (self.reads(CPU), self.reads(MEMORY));
        let in_files = Controllers { cpu: cpu && !walks_cpu, memory: memory && !walks_memory };
        let mut limits = files::limits(&cgroup.directory(root), in_files);
        if let Some(record) = self.part(cgroup, CPU).filter(|_| cpu && walks_cpu) {
            limits.cpu_weight = Some(weight(record.shares));
            limits.cpu_limit_cores = cores(record.quota_ns, record.period_ns);
        }
        if let Some(record) = self.part(cgroup, MEMORY).filter(|_| memory && walks_memory) {
            let bytes = |pages: u64| (pages < NO_LIMIT_PAGES).then(|| pages.saturating_mul(self.page_bytes));
            let Usage { min_pages, low_pages, high_pages, limit_pages, .. } = record.memory;
            limits.memory_request_bytes = [min_pages, low_pages].into_iter().filter_map(bytes).find(|bytes| *bytes > 0);
            limits.memory_limit_bytes = bytes(limit_pages).or_else(|| bytes(high_pages));
        }
        limits
    }

    /// From the walk or from `cpu.stat`.
    pub(super) fn throttling(&self, cgroup: &Cgroup, root: &Path) -> Option<Throttling> {
        if !self.reads(CPU) {
            return files::cpu_stat(&cgroup.directory(root))?.throttling;
        }
        throttling(&self.part(cgroup, CPU)?)
    }

    /// From the walk or from the files of the three resources.
    pub(super) fn pressure(&self, cgroup: &Cgroup, root: &Path) -> Option<Pressure> {
        if !self.reads(PRESSURE) {
            let directory = cgroup.directory(root);
            return files::pressure(|resource| directory.join(format!("{resource}.pressure")));
        }
        let record = self.part(cgroup, PRESSURE)?;
        Some(record.pressure_ns.map(|ns| (ns != UNKNOWN).then_some(ns / 1000)))
    }
}

/// `cpu.weight` of a group's shares, as the kernel makes it (`cpu_weight_read_u64`): `scale_load_down`, then the closest weight. An idle
/// group's is 0 before 6.12 and 1 since.
fn weight(shares: u64) -> u64 {
    let shares = if shares == 0 { 0 } else { (shares >> 10).max(2) };
    ((shares * 100 + 512) / 1024).clamp(1, 10_000)
}

/// CPUs that a quota allows: both in whole µs, as in `cpu.max`. `None` without a limit.
fn cores(quota_ns: u64, period_ns: u64) -> Option<f64> {
    let (quota_us, period_us) = (quota_ns / 1000, period_ns / 1000);
    (quota_ns != NO_QUOTA && quota_us > 0 && period_us > 0).then(|| quota_us as f64 / period_us as f64)
}

/// As `cpu.stat` has it: counts of periods are signed there, time is in whole µs.
fn throttling(record: &Walked) -> Option<Throttling> {
    let counted = |n: u64| i32::try_from(n).ok().map(|_| n);
    Some(Throttling {
        periods: counted(record.periods)?,
        throttled_periods: counted(record.throttled_periods)?,
        throttled_ns: record.throttled_ns - record.throttled_ns % 1000,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::weight::Curve;

    #[test]
    fn a_weight_comes_out_as_it_was_written() {
        // `cpu_weight_write_u64`: DIV_ROUND_CLOSEST_ULL(weight * 1024, CGROUP_WEIGHT_DFL), then scale_load.
        for written in 1..=10_000_u64 {
            assert_eq!(weight(((written * 1024 + 50) / 100) << 10), written);
        }
        // An idle group has three shares (`WEIGHT_IDLEPRIO`).
        assert_eq!((weight(3 << 10), Curve::Linear.cores(weight(3 << 10))), (1, None));
    }

    #[test]
    fn a_quota_is_a_number_of_cpus_and_none_is_no_limit() {
        assert_eq!(cores(50_000_000, 100_000_000), Some(0.5));
        assert_eq!(cores(250_000_999, 100_000_000), Some(2.5), "whole µs");
        assert_eq!((cores(NO_QUOTA, 100_000_000), cores(5_000_000, 0), cores(0, 100_000_000)), (None, None, None));
    }

    #[test]
    fn throttling_is_as_cpu_stat_has_it() {
        let record = Walked { periods: 10, throttled_periods: 4, throttled_ns: 2_000_999, ..Walked::ZERO };
        assert_eq!(throttling(&record), Some(Throttling { periods: 10, throttled_periods: 4, throttled_ns: 2_000_000 }));
        assert_eq!(throttling(&Walked { periods: 1 << 31, ..record }), None, "negative there");
    }
}
