//! The machine as a whole: CPU time by mode, load, memory by kind, swap, threads and open files, from podmeter's own `/proc`, which says
//! the same in every container.

use nix::unistd::{SysconfVar, sysconf};

use super::{
    kept_file::KeptFile,
    metrics::{
        CPU_TIME, CPUS, CREATED, FILES, FILES_LIMIT, HUGE_PAGES, HUGE_PAGES_LIMIT, LOAD_1M, LOAD_5M, LOAD_15M, MEMORY_AVAILABLE,
        MEMORY_KINDS, MEMORY_LIMIT, MEMORY_SHARED, MEMORY_USAGE, PAGING_FAULTS, PAGING_OPERATIONS, PAGING_USAGE, SLAB, TASKS,
        THREADS, THREADS_LIMIT,
    },
    parse::{self, Load, MODES, Memory, Paging, Stat, Times},
};
use crate::{
    kernel::facts::BOOTED_NS,
    metric::{Metric, Point, Value},
};

/// The files, open, and what of them must not go down.
#[derive(Debug)]
pub(super) struct Machine {
    stat: KeptFile,
    load: KeptFile,
    memory: KeptFile,
    paging: KeptFile,
    pid_max: KeptFile,
    threads_max: KeptFile,
    files: KeptFile,
    /// Units of CPU time in a second.
    user_hz: f64,
    /// Whether each CPU has its own points.
    per_cpu: bool,
    /// The most that was ever read: of the node, and by CPU.
    node_times: Times,
    cpu_times: Vec<(u32, Times)>,
}

impl Machine {
    /// Opens nothing yet.
    pub(super) fn new(per_cpu: bool) -> Self {
        let user_hz = sysconf(SysconfVar::CLK_TCK).ok().flatten().map_or(100.0, |hz| hz as f64);
        Self {
            stat: KeptFile::new("/proc/stat"),
            load: KeptFile::new("/proc/loadavg"),
            memory: KeptFile::new("/proc/meminfo"),
            paging: KeptFile::new("/proc/vmstat"),
            pid_max: KeptFile::new("/proc/sys/kernel/pid_max"),
            threads_max: KeptFile::new("/proc/sys/kernel/threads-max"),
            files: KeptFile::new("/proc/sys/fs/file-nr"),
            user_hz,
            per_cpu,
            node_times: Times::default(),
            cpu_times: Vec::new(),
        }
    }

    /// Its points, and why some are missing.
    pub(super) fn read(&mut self, points: &mut Vec<Point>, missing: &mut Vec<String>) {
        let mut try_to = |result: std::io::Result<()>| missing.extend(result.err().map(|error| error.to_string()));
        try_to(self.read_cpus(points));
        try_to(self.read_load(points));
        try_to(self.memory.read().map(|text| memory_points(&Memory::parse(&text), points)));
        try_to(self.paging.read().map(|text| paging_points(&Paging::parse(&text), points)));
        try_to(self.read_files(points));
    }

    fn read_cpus(&mut self, points: &mut Vec<Point>) -> std::io::Result<()> {
        let stat = Stat::parse(&self.stat.read()?);
        points.extend(whole(&CPUS, Some(stat.cpus.len() as u64).filter(|cpus| *cpus > 0)));
        points.extend(counted(&CREATED, stat.created));
        for (state, tasks) in [("running", stat.running), ("blocked", stat.blocked)] {
            points.extend(whole(&TASKS, tasks).map(|point| point.with("state", state)));
        }
        let hz = self.user_hz;
        if self.per_cpu {
            for (cpu, times) in stat.cpus {
                let most = most_of(&mut self.cpu_times, cpu, times);
                let its = times_points(&most, hz).map(|point| point.with("cpu.logical_number", cpu.to_string()));
                points.extend(its);
            }
        } else if let Some(times) = stat.node {
            raise(&mut self.node_times, times);
            points.extend(times_points(&self.node_times, hz));
        }
        Ok(())
    }

    fn read_load(&mut self, points: &mut Vec<Point>) -> std::io::Result<()> {
        if let Some(load) = Load::parse(&self.load.read()?) {
            let averages = [&LOAD_1M, &LOAD_5M, &LOAD_15M].into_iter().zip(load.averages);
            points.extend(averages.map(|(metric, average)| Point::new(metric, 0, Value::Float(average))));
            points.extend(whole(&THREADS, Some(load.threads)));
        }
        let number = |file: &mut KeptFile| file.read().map(|text| text.trim().parse::<u64>().ok());
        let (pids, threads) = (number(&mut self.pid_max)?, number(&mut self.threads_max)?);
        points.extend(whole(&THREADS_LIMIT, pids.zip(threads).map(|(pids, threads)| pids.min(threads))));
        Ok(())
    }

    fn read_files(&mut self, points: &mut Vec<Point>) -> std::io::Result<()> {
        if let Some((open, most)) = parse::file_handles(&self.files.read()?) {
            points.extend(whole(&FILES, Some(open)));
            points.extend(whole(&FILES_LIMIT, Some(most)));
        }
        Ok(())
    }
}

/// Keeps the most of each: the kernel's idle and iowait may go back (`get_idle_time`, a CPU that comes back).
fn raise(most: &mut Times, times: Times) {
    for (most, time) in most.iter_mut().zip(times) {
        *most = time.max(*most);
    }
}

/// The same of one CPU.
fn most_of(kept: &mut Vec<(u32, Times)>, cpu: u32, times: Times) -> Times {
    let at = kept.iter().position(|(id, _)| *id == cpu).unwrap_or_else(|| {
        kept.push((cpu, times));
        kept.len() - 1
    });
    kept.get_mut(at).map_or(times, |(_, most)| {
        raise(most, times);
        *most
    })
}

fn times_points(times: &Times, hz: f64) -> impl Iterator<Item = Point> {
    let point = move |(mode, time): (&'static str, &u64)| {
        Point::new(&CPU_TIME, BOOTED_NS, Value::Float(*time as f64 / hz)).with("cpu.mode", mode)
    };
    MODES.into_iter().zip(times).map(point)
}

fn memory_points(memory: &Memory, points: &mut Vec<Point>) {
    let mut by = |metric: &'static Metric, key: &'static str, parts: &[(&'static str, Option<u64>)]| {
        points.extend(parts.iter().filter_map(|(part, value)| Some(whole(metric, *value)?.with(key, *part))));
    };
    by(
        &MEMORY_USAGE,
        "system.memory.state",
        &[("used", memory.used()), ("free", memory.free), ("buffers", memory.buffers), ("cached", memory.cached)],
    );
    by(
        &SLAB,
        "system.memory.linux.slab.state",
        &[("reclaimable", memory.slab_reclaimable), ("unreclaimable", memory.slab_unreclaimable)],
    );
    let used = |total: Option<u64>, free: Option<u64>| total?.checked_sub(free?);
    let huge = [("used", used(memory.huge_pages, memory.huge_pages_free)), ("free", memory.huge_pages_free)];
    by(&HUGE_PAGES, "system.memory.linux.hugepages.state", &huge);
    let swap = [("used", used(memory.swap_total, memory.swap_free)), ("free", memory.swap_free)];
    by(&PAGING_USAGE, "system.paging.state", &swap);
    by(
        &MEMORY_KINDS,
        "kind",
        &[
            ("anonymous", memory.anonymous),
            ("mapped", memory.mapped),
            ("dirty", memory.dirty),
            ("writeback", memory.writeback),
            ("page_tables", memory.page_tables),
            ("kernel_stack", memory.kernel_stack),
            ("unevictable", memory.unevictable),
            ("committed", memory.committed),
        ],
    );
    let single = [
        (&MEMORY_LIMIT, memory.total),
        (&MEMORY_AVAILABLE, memory.available),
        (&MEMORY_SHARED, memory.shared),
        (&HUGE_PAGES_LIMIT, memory.huge_pages),
    ];
    points.extend(single.into_iter().filter_map(|(metric, value)| whole(metric, value)));
}

fn paging_points(paging: &Paging, points: &mut Vec<Point>) {
    for (direction, pages) in [("in", paging.swapped_in), ("out", paging.swapped_out)] {
        points.extend(counted(&PAGING_OPERATIONS, pages).map(|point| point.with("system.paging.direction", direction)));
    }
    // Read one after the other by the kernel: the part may be ahead of the whole.
    let minor = paging.faults.zip(paging.major_faults).map(|(all, major)| all.saturating_sub(major));
    for (kind, faults) in [("major", paging.major_faults), ("minor", minor)] {
        points.extend(counted(&PAGING_FAULTS, faults).map(|point| point.with("system.paging.fault.type", kind)));
    }
}

/// A gauge's point, where there is a value.
pub(super) fn whole(metric: &'static Metric, value: Option<u64>) -> Option<Point> {
    value.map(|value| Point::new(metric, 0, Value::Int(value)))
}

/// A counter's point, counted since the node came up.
pub(super) fn counted(metric: &'static Metric, value: Option<u64>) -> Option<Point> {
    value.map(|value| Point::new(metric, BOOTED_NS, Value::Int(value)))
}

#[cfg(test)]
mod tests {
    use super::{super::metrics, *};

    #[test]
    fn times_never_go_down() {
        let mut most = [5, 0, 0, 100, 9, 0, 0];
        raise(&mut most, [6, 0, 1, 99, 8, 0, 0]);
        assert_eq!(most, [6, 0, 1, 100, 9, 0, 0]);
        let mut kept = Vec::new();
        assert_eq!(most_of(&mut kept, 3, [1; 7]), [1; 7]);
        assert_eq!(most_of(&mut kept, 4, [9; 7]), [9; 7]);
        assert_eq!(most_of(&mut kept, 3, [0, 2, 0, 0, 0, 0, 0]), [1, 2, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn this_machine_has_all_of_them_and_parts_add_up() {
        let (mut points, mut missing) = (Vec::new(), Vec::new());
        for per_cpu in [false, true] {
            Machine::new(per_cpu).read(&mut points, &mut missing);
        }
        assert!(missing.is_empty(), "{missing:?}");
        let others = [
            "system.uptime",
            "podmeter.node.clock",
            "system.network",
            "podmeter.node.softnet",
            "system.filesystem",
            "k8s.pod.volume",
        ];
        let of_machine = |name: &str| !others.iter().any(|other| name.starts_with(other));
        for metric in metrics::ALL.iter().filter(|metric| of_machine(metric.name)) {
            assert!(points.iter().any(|point| std::ptr::eq(point.metric, *metric)), "no {}", metric.name);
        }
        let sum = |metric: &'static Metric| -> u64 {
            let its = points.iter().filter(|point| std::ptr::eq(point.metric, metric));
            its.map(|point| if let Value::Int(value) = point.value { value } else { 0 }).sum()
        };
        // Read twice; free memory changes between, the sum does not.
        assert_eq!(sum(&MEMORY_USAGE), sum(&MEMORY_LIMIT));
    }
}
