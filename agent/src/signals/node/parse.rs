//! What the files of `/proc` say, without reading them: text in, figures out. A figure that a kernel does not have is `None`.

/// Modes of CPU time, in the order of [`Stat::node`]: those of OpenTelemetry. `interrupt` has both kinds.
pub(super) const MODES: [&str; 7] = ["user", "nice", "system", "idle", "iowait", "interrupt", "steal"];

/// Time by mode in units of USER_HZ.
pub(super) type Times = [u64; MODES.len()];

/// `/proc/stat`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stat {
    /// All CPUs together.
    pub node: Option<Times>,
    /// Each that is online, by its id.
    pub cpus: Vec<(u32, Times)>,
    /// Processes and threads that were created since the node came up.
    pub created: Option<u64>,
    /// Tasks that run or could.
    pub running: Option<u64>,
    /// Tasks that wait for I/O.
    pub blocked: Option<u64>,
}

impl Stat {
    /// Reads the text of the file.
    pub(super) fn parse(text: &str) -> Self {
        let mut stat = Self::default();
        for line in text.lines() {
            let Some((key, rest)) = line.split_once(' ') else { continue };
            let number = || rest.trim().parse().ok();
            match key {
                "cpu" => stat.node = times(rest),
                "processes" => stat.created = number(),
                "procs_running" => stat.running = number(),
                "procs_blocked" => stat.blocked = number(),
                key => {
                    let id = key.strip_prefix("cpu").and_then(|id| id.parse().ok());
                    stat.cpus.extend(id.zip(times(rest)));
                }
            }
        }
        stat
    }
}

/// `user nice system idle iowait irq softirq steal guest guest_nice`; a guest's time is in user or nice already.
fn times(text: &str) -> Option<Times> {
    let mut words = text.split_ascii_whitespace().map_while(|word| word.parse::<u64>().ok());
    let mut next = || words.next();
    let [user, nice, system, idle] = [next()?, next()?, next()?, next()?];
    let [iowait, hard, soft, steal] = [next()?, next()?, next()?, next()?];
    Some([user, nice, system, idle, iowait, hard.saturating_add(soft), steal])
}

/// `/proc/loadavg`.
#[derive(Debug, PartialEq)]
pub(super) struct Load {
    /// Over 1, 5 and 15 minutes.
    pub averages: [f64; 3],
    /// Threads of the node.
    pub threads: u64,
}

impl Load {
    /// `0.20 0.18 0.12 1/80 11206`
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let mut average = || words.next()?.parse().ok();
        let averages = [average()?, average()?, average()?];
        let threads = words.next()?.split_once('/')?.1.parse().ok()?;
        Some(Self { averages, threads })
    }
}

/// `/proc/meminfo`, in bytes; huge pages in pages.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub total: Option<u64>,
    pub free: Option<u64>,
    pub available: Option<u64>,
    pub buffers: Option<u64>,
    pub cached: Option<u64>,
    pub swap_total: Option<u64>,
    pub swap_free: Option<u64>,
    pub dirty: Option<u64>,
    pub writeback: Option<u64>,
    pub anonymous: Option<u64>,
    pub mapped: Option<u64>,
    pub shared: Option<u64>,
    pub slab_reclaimable: Option<u64>,
    pub slab_unreclaimable: Option<u64>,
    pub kernel_stack: Option<u64>,
    pub page_tables: Option<u64>,
    pub unevictable: Option<u64>,
    pub committed: Option<u64>,
    pub huge_pages: Option<u64>,
    pub huge_pages_free: Option<u64>,
}

impl Memory {
    /// Reads the text of the file.
    pub(super) fn parse(text: &str) -> Self {
        let mut memory = Self::default();
        for line in text.lines() {
            let Some((key, rest)) = line.split_once(':') else { continue };
            let place = match key {
                "MemTotal" => &mut memory.total,
                "MemFree" => &mut memory.free,
                "MemAvailable" => &mut memory.available,
                "Buffers" => &mut memory.buffers,
                "Cached" => &mut memory.cached,
                "SwapTotal" => &mut memory.swap_total,
                "SwapFree" => &mut memory.swap_free,
                "Dirty" => &mut memory.dirty,
                "Writeback" => &mut memory.writeback,
                "AnonPages" => &mut memory.anonymous,
                "Mapped" => &mut memory.mapped,
                "Shmem" => &mut memory.shared,
                "SReclaimable" => &mut memory.slab_reclaimable,
                "SUnreclaim" => &mut memory.slab_unreclaimable,
                "KernelStack" => &mut memory.kernel_stack,
                "PageTables" => &mut memory.page_tables,
                "Unevictable" => &mut memory.unevictable,
                "Committed_AS" => &mut memory.committed,
                "HugePages_Total" => &mut memory.huge_pages,
                "HugePages_Free" => &mut memory.huge_pages_free,
                _ => continue,
            };
            *place = amount(rest);
        }
        memory
    }

    /// What is neither free nor a cache of files: as the Collector's hostmetrics receiver has it.
    pub(super) fn used(&self) -> Option<u64> {
        self.total?.checked_sub(self.free? + self.buffers? + self.cached?)
    }
}

/// `  1234 kB`, or a number of pages.
fn amount(text: &str) -> Option<u64> {
    let mut words = text.split_ascii_whitespace();
    let number: u64 = words.next()?.parse().ok()?;
    match words.next() {
        None => Some(number),
        Some("kB") => number.checked_mul(1024),
        Some(_) => None,
    }
}

/// What is kept of `/proc/vmstat`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Paging {
    /// Pages read from swap.
    pub swapped_in: Option<u64>,
    /// Pages written to swap.
    pub swapped_out: Option<u64>,
    /// Faults of both kinds.
    pub faults: Option<u64>,
    /// Faults that waited for a device.
    pub major_faults: Option<u64>,
}

impl Paging {
    /// Reads the text of the file.
    pub(super) fn parse(text: &str) -> Self {
        let mut paging = Self::default();
        for line in text.lines().filter(|line| line.starts_with('p')) {
            let Some((key, number)) = line.split_once(' ') else { continue };
            let place = match key {
                "pswpin" => &mut paging.swapped_in,
                "pswpout" => &mut paging.swapped_out,
                "pgfault" => &mut paging.faults,
                "pgmajfault" => &mut paging.major_faults,
                _ => continue,
            };
            *place = number.trim().parse().ok();
        }
        paging
    }
}

/// Open files and how many there may be, of `/proc/sys/fs/file-nr`: `1952 0 9223372036854775807`.
pub(super) fn file_handles(text: &str) -> Option<(u64, u64)> {
    let mut words = text.split_ascii_whitespace().map(|word| word.parse::<u64>().ok());
    let (allocated, unused, most) = (words.next()??, words.next()??, words.next()??);
    Some((allocated.saturating_sub(unused), most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_has_times_by_mode_and_tasks() {
        let text = "cpu  10 2 30 400 5 6 7 8 9 1\ncpu0 1 1 1 1 1 1 1 1 1 1\ncpu12 1 2 3 4 5 6 7 8\nintr 5 0 0\nctxt 9\nbtime 17\n\
                    processes 77\nprocs_running 3\nprocs_blocked 1\nsoftirq 1 2\n";
        let stat = Stat::parse(text);
        assert_eq!(stat.node, Some([10, 2, 30, 400, 5, 13, 8]));
        assert_eq!(stat.cpus, [(0, [1, 1, 1, 1, 1, 2, 1]), (12, [1, 2, 3, 4, 5, 13, 8])]);
        assert_eq!((stat.created, stat.running, stat.blocked), (Some(77), Some(3), Some(1)));
        assert_eq!(Stat::parse("cpu  10 2\ncpux 1 2 3 4 5 6 7 8\n\nprocesses many\n"), Stat::default());
    }

    #[test]
    fn a_load_has_three_averages_and_the_number_of_threads() {
        let load = Load::parse("0.20 1.18 20.12 1/80 11206\n");
        assert_eq!(load, Some(Load { averages: [0.2, 1.18, 20.12], threads: 80 }));
        for wrong in ["", "0.2 0.3", "a b c 1/2 3", "1 2 3 80 4"] {
            assert_eq!(Load::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn memory_is_in_bytes_and_huge_pages_in_pages() {
        let text =
            "MemTotal:       1000 kB\nMemFree:  100 kB\nBuffers: 10 kB\nCached: 40 kB\nHugePages_Total:       4\nDirty: 1 MB\n";
        let memory = Memory::parse(text);
        assert_eq!((memory.total, memory.huge_pages, memory.dirty, memory.available), (Some(1_024_000), Some(4), None, None));
        assert_eq!(memory.used(), Some(850 * 1024));
        assert_eq!(Memory::parse("MemTotal: 1 kB\nMemFree: 2 kB\nBuffers: 0 kB\nCached: 0 kB").used(), None);
    }

    #[test]
    fn paging_and_file_handles_are_found_among_others() {
        let text = "nr_free_pages 1\npgpgin 8\npswpin 2\npswpout 3\npgfault 100\npgmajfault 7\npgmajfault_x 9\n";
        let expected = Paging { swapped_in: Some(2), swapped_out: Some(3), faults: Some(100), major_faults: Some(7) };
        assert_eq!(Paging::parse(text), expected);
        assert_eq!(file_handles("1952\t2\t9223372036854775807\n"), Some((1950, 9_223_372_036_854_775_807)));
        assert_eq!(file_handles("1952 0"), None);
    }
}
