//! What a cgroup's memory consists of (pure): the same figures from the kernel's records and from the cgroup's files.

use std::{cell::Cell, fs, io, path::Path};

use agent_common::memory::{Item, NO_LIMIT_PAGES, UNKNOWN, Usage};

/// A cgroup's memory, in bytes where nothing else is said. What is not known is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryParts {
    /// `memory.current`
    pub usage: u64,
    /// `memory.peak`, since 5.19.
    pub peak: Option<u64>,
    /// `memory.max`; `None` without a limit.
    pub limit: Option<u64>,
    /// `memory.swap.current`
    pub swap: Option<u64>,
    /// `memory.swap.max`; `None` without a limit.
    pub swap_limit: Option<u64>,
    /// `anon`: mapped anonymous memory.
    pub anon: Option<u64>,
    /// `file`: page cache, tmpfs and shared memory included.
    pub file: Option<u64>,
    /// `shmem`: tmpfs and shared memory.
    pub shmem: Option<u64>,
    /// `kernel`, since 5.18.
    pub kernel: Option<u64>,
    /// `slab_reclaimable`
    pub slab_reclaimable: Option<u64>,
    /// `slab_unreclaimable`
    pub slab_unreclaimable: Option<u64>,
    /// `inactive_anon`
    pub inactive_anon: Option<u64>,
    /// `active_anon`
    pub active_anon: Option<u64>,
    /// `inactive_file`
    pub inactive_file: Option<u64>,
    /// `active_file`
    pub active_file: Option<u64>,
    /// `unevictable`
    pub unevictable: Option<u64>,
    /// `workingset_refault_anon`, in pages.
    pub refaults_anon: Option<u64>,
    /// `workingset_refault_file`, in pages.
    pub refaults_file: Option<u64>,
    /// `pgfault`
    pub faults: Option<u64>,
    /// `pgmajfault`
    pub major_faults: Option<u64>,
}

/// Which files not every kernel has were found missing: they are not opened again.
#[derive(Debug, Default)]
pub struct Files {
    no_peak: Cell<bool>,
    no_swap: Cell<bool>,
}

impl MemoryParts {
    /// From what a walk found.
    pub fn of(record: &Usage, page_bytes: u64) -> Self {
        let pages = |pages: u64| pages.saturating_mul(page_bytes);
        let limit = |limit: u64| (limit < NO_LIMIT_PAGES).then(|| pages(limit));
        let raw = |item: Item| {
            let value = record.items[item as usize];
            // The kernel's own rule: sums over CPUs may be negative for a moment.
            (value != UNKNOWN).then_some(if value.cast_signed() < 0 { 0 } else { value })
        };
        let counted = |item| raw(item).map(pages);
        Self {
            usage: pages(record.usage_pages),
            peak: Some(pages(record.peak_pages)),
            limit: limit(record.limit_pages),
            swap: (record.swap_pages != UNKNOWN).then(|| pages(record.swap_pages)),
            swap_limit: limit(record.swap_limit_pages),
            anon: counted(Item::Anon),
            file: counted(Item::File),
            shmem: counted(Item::Shmem),
            kernel: counted(Item::Kernel),
            slab_reclaimable: raw(Item::SlabReclaimable),
            slab_unreclaimable: raw(Item::SlabUnreclaimable),
            inactive_anon: counted(Item::InactiveAnon),
            active_anon: counted(Item::ActiveAnon),
            inactive_file: counted(Item::InactiveFile),
            active_file: counted(Item::ActiveFile),
            unevictable: counted(Item::Unevictable),
            refaults_anon: raw(Item::RefaultAnon),
            refaults_file: raw(Item::RefaultFile),
            faults: raw(Item::Faults),
            major_faults: raw(Item::MajorFaults),
        }
    }

    /// From the files of the cgroup at `directory`. `None` without a memory controller, and when the cgroup is gone.
    ///
    /// `swap` says whether the node has any: otherwise the file of its limit is not read. What this kernel lacks is noted in `files`.
    pub fn read(directory: &Path, swap: bool, files: &Files) -> Option<Self> {
        let text = |file: &str| fs::read_to_string(directory.join(file));
        let number = |text: String| text.trim().parse::<u64>().ok();
        let bytes = |file: &str| text(file).ok().and_then(number);
        let optional = |missing: &Cell<bool>, file: &str| {
            if missing.get() {
                return None;
            }
            text(file).inspect_err(|error| missing.set(is_missing(error, directory))).ok().and_then(number)
        };
        let stat = text("memory.stat").ok()?;
        let mut parts = Self {
            usage: bytes("memory.current")?,
            peak: optional(&files.no_peak, "memory.peak"),
            limit: bytes("memory.max"),
            swap: optional(&files.no_swap, "memory.swap.current"),
            ..Self::default()
        };
        if swap && !files.no_swap.get() {
            parts.swap_limit = bytes("memory.swap.max");
        }
        parts.take_stat(&stat);
        Some(parts)
    }

    /// The lines of `memory.stat`. A line that does not parse is not there.
    fn take_stat(&mut self, text: &str) {
        for line in text.lines() {
            let Some((name, value)) = line.split_once(' ') else { continue };
            let place = match name {
                "anon" => &mut self.anon,
                "file" => &mut self.file,
                "shmem" => &mut self.shmem,
                "kernel" => &mut self.kernel,
                "slab_reclaimable" => &mut self.slab_reclaimable,
                "slab_unreclaimable" => &mut self.slab_unreclaimable,
                "inactive_anon" => &mut self.inactive_anon,
                "active_anon" => &mut self.active_anon,
                "inactive_file" => &mut self.inactive_file,
                "active_file" => &mut self.active_file,
                "unevictable" => &mut self.unevictable,
                "workingset_refault_anon" => &mut self.refaults_anon,
                "workingset_refault_file" => &mut self.refaults_file,
                "pgfault" => &mut self.faults,
                "pgmajfault" => &mut self.major_faults,
                _ => continue,
            };
            *place = value.trim().parse().ok();
        }
    }

    /// What kubelet evicts by: all but the page cache that was not used lately.
    pub fn working_set(&self) -> Option<u64> {
        Some(self.usage.saturating_sub(self.inactive_file?))
    }

    /// What is left below the limit, by OpenTelemetry's rule: the limit less the working set.
    pub fn available(&self) -> Option<u64> {
        Some(self.limit?.saturating_sub(self.working_set()?))
    }

    /// What the kernel could not free before it called the OOM killer, when the cgroup may swap out `swappable` bytes more.
    ///
    /// All that is charged, less what reclaim can take away (`shrink_lruvec`, `shrink_slab` of mm/vmscan.c): page cache on the
    /// file lists, which tmpfs and mlocked pages are not on; reclaimable slab; and of the swap-backed lists as much as there is
    /// swap to take it (`can_reclaim_anon_pages`).
    pub fn unreclaimable(&self, swappable: u64) -> Option<u64> {
        let swapped = (self.inactive_anon? + self.active_anon?).min(swappable);
        let freed = self.inactive_file? + self.active_file? + self.slab_reclaimable? + swapped;
        Some(self.usage.saturating_sub(freed))
    }

    /// Swap that it may still fill by its own limit; without one, any.
    pub fn swap_room(&self) -> u64 {
        match (self.swap, self.swap_limit) {
            (Some(used), Some(limit)) => limit.saturating_sub(used),
            _ => u64::MAX,
        }
    }

    /// Page faults that needed no disk.
    pub fn minor_faults(&self) -> Option<u64> {
        // Both are sums over CPUs that are not read at one moment.
        Some(self.faults?.saturating_sub(self.major_faults?))
    }

    /// The name of a figure that is in neither of two readings' range, give or take `slack` bytes (or events): a walk between two
    /// readings of the files must lie between them.
    pub fn outside(&self, before: &Self, after: &Self, slack: u64) -> Option<&'static str> {
        let known = |parts: &Self| {
            [
                ("memory.current", Some(parts.usage)),
                ("memory.peak", parts.peak),
                ("memory.swap.current", parts.swap),
                ("anon", parts.anon),
                ("file", parts.file),
                ("shmem", parts.shmem),
                ("kernel", parts.kernel),
                ("slab_reclaimable", parts.slab_reclaimable),
                ("slab_unreclaimable", parts.slab_unreclaimable),
                ("inactive_anon", parts.inactive_anon),
                ("active_anon", parts.active_anon),
                ("inactive_file", parts.inactive_file),
                ("active_file", parts.active_file),
                ("unevictable", parts.unevictable),
                ("workingset_refault_anon", parts.refaults_anon),
                ("workingset_refault_file", parts.refaults_file),
                ("pgfault", parts.faults),
                ("pgmajfault", parts.major_faults),
            ]
        };
        let readings = known(self).into_iter().zip(known(before)).zip(known(after));
        readings
            .filter_map(|(((name, own), (_, before)), (_, after))| {
                let (own, before, after) = (own?, before?, after?);
                let range = before.min(after).saturating_sub(slack)..=before.max(after).saturating_add(slack);
                (!range.contains(&own)).then_some(name)
            })
            .next()
    }
}

/// Whether a file is missing in a cgroup that is still there.
fn is_missing(error: &io::Error, directory: &Path) -> bool {
    error.kind() == io::ErrorKind::NotFound && directory.join("memory.stat").exists()
}

/// `/proc/meminfo` in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemInfo {
    /// `MemTotal`
    pub total: u64,
    /// `MemFree`
    pub free: u64,
    /// `AnonPages`
    pub anon: u64,
    /// `Inactive(file)`
    pub inactive_file: u64,
    /// `SwapTotal`
    pub swap_total: u64,
    /// `SwapFree`
    pub swap_free: u64,
}

impl MemInfo {
    /// This node's.
    pub fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/meminfo").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let bytes = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
        };
        Some(Self {
            total: bytes("MemTotal")?,
            free: bytes("MemFree")?,
            anon: bytes("AnonPages")?,
            inactive_file: bytes("Inactive(file)")?,
            swap_total: bytes("SwapTotal").unwrap_or(0),
            swap_free: bytes("SwapFree").unwrap_or(0),
        })
    }

    /// All that is not free, page cache included.
    pub fn usage(&self) -> u64 {
        self.total.saturating_sub(self.free)
    }

    /// By kubelet's rule, as for a cgroup.
    pub fn working_set(&self) -> u64 {
        self.usage().saturating_sub(self.inactive_file)
    }

    /// All memory less the working set.
    pub fn available(&self) -> u64 {
        self.total.saturating_sub(self.working_set())
    }
}

#[cfg(test)]
mod tests {
    use agent_common::memory::ITEMS;

    use super::*;

    const STAT: &str = "anon 4096\nfile 40960\nkernel 8192\nshmem 12288\ninactive_anon 8192\nactive_anon 8192\n\
        inactive_file 16384\nactive_file 12288\nunevictable 0\nslab_reclaimable 100\nslab_unreclaimable 200\n\
        workingset_refault_anon 3\nworkingset_refault_file 4\npgfault 50\npgmajfault 7\nanon_thp 0\nbad\nbad x\n";

    fn parts() -> MemoryParts {
        let mut parts = MemoryParts { usage: 65_536, limit: Some(100_000), ..MemoryParts::default() };
        parts.take_stat(STAT);
        parts
    }

    #[test]
    fn a_record_and_the_files_give_the_same_figures() {
        let mut record = Usage { usage_pages: 16, peak_pages: 20, limit_pages: u64::MAX / 8192, ..Usage::ZERO };
        record.swap_pages = 2;
        record.swap_limit_pages = 3;
        record.items = [1, 10, 3, 2, 100, 200, 2, 2, 4, 3, 0, 3, 4, 50, 7];
        let mut files = MemoryParts { usage: 65_536, peak: Some(81_920), ..MemoryParts::default() };
        (files.swap, files.swap_limit) = (Some(8192), Some(12_288));
        files.take_stat(STAT);
        assert_eq!(MemoryParts::of(&record, 4096), files);
        assert_eq!(files.swap_room(), 4096);

        record.items = [UNKNOWN; ITEMS];
        record.items[Item::Anon as usize] = (-5_i64).cast_unsigned();
        let unknown = MemoryParts::of(&record, 4096);
        assert_eq!((unknown.anon, unknown.file, unknown.working_set(), unknown.unreclaimable(0)), (Some(0), None, None, None));
    }

    #[test]
    fn a_file_that_this_kernel_lacks_is_not_opened_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |file: &str, text: &str| fs::write(directory.path().join(file), text).expect("written");
        let files = Files::default();
        assert_eq!(MemoryParts::read(directory.path(), true, &files), None);
        assert!(!files.no_peak.get(), "the cgroup may be gone");
        write("memory.stat", STAT);
        write("memory.current", "65536\n");
        write("memory.max", "100000\n");
        assert_eq!(MemoryParts::read(directory.path(), true, &files), Some(parts()));
        assert!(files.no_peak.get() && files.no_swap.get());
        write("memory.peak", "70000\n");
        assert_eq!(MemoryParts::read(directory.path(), true, &files), Some(parts()));
        let peak = MemoryParts::read(directory.path(), true, &Files::default()).and_then(|parts| parts.peak);
        assert_eq!(peak, Some(70_000));
    }

    #[test]
    fn what_is_derived_follows_kubelet_opentelemetry_and_the_kernel() {
        let parts = parts();
        assert_eq!(parts.working_set(), Some(65_536 - 16_384));
        assert_eq!(parts.available(), Some(100_000 - (65_536 - 16_384)));
        assert_eq!(parts.minor_faults(), Some(43));
        assert_eq!(parts.unreclaimable(0), Some(65_536 - 16_384 - 12_288 - 100));
        assert_eq!(parts.unreclaimable(5000), Some(65_536 - 16_384 - 12_288 - 100 - 5000));
        assert_eq!(parts.unreclaimable(u64::MAX), Some(65_536 - 16_384 - 12_288 - 100 - 16_384));
        assert_eq!(MemoryParts { usage: 10, ..parts }.working_set(), Some(0), "never below nothing");
        assert_eq!(MemoryParts { limit: None, ..parts }.available(), None);
    }

    #[test]
    fn a_figure_outside_of_what_the_files_say_is_named() {
        let (before, after) = (parts(), MemoryParts { anon: Some(8192), ..parts() });
        assert_eq!(MemoryParts { anon: Some(6000), ..parts() }.outside(&before, &after, 0), None);
        assert_eq!(MemoryParts { anon: Some(9000), ..parts() }.outside(&before, &after, 0), Some("anon"));
        assert_eq!(MemoryParts { anon: Some(9000), ..parts() }.outside(&before, &after, 1000), None);
        assert_eq!(MemoryParts { kernel: None, ..parts() }.outside(&before, &after, 0), None, "not known is not wrong");
    }

    #[test]
    fn meminfo_is_in_bytes() {
        let text = "MemTotal:        1000 kB\nMemFree:          300 kB\nAnonPages:  200 kB\nInactive(file):   100 kB\n";
        let info = MemInfo::parse(text).expect("complete");
        assert_eq!((info.usage(), info.working_set(), info.available()), (700 * 1024, 600 * 1024, 400 * 1024));
        assert_eq!(MemInfo::parse("MemTotal: 5 pages\n"), None);
    }
}
