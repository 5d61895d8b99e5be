//! The cpu signal: CPU time, run-queue wait and bursts of every cgroup, counted in the kernel at each context switch.
//!
//! Reads the mapped arrays that `agent-ebpf/src/bin/cpu.rs` fills, after each CPU has flushed into them what it has counted; [`account`]
//! turns them into what a cgroup used, [`bursts`] into how many CPUs at a time.

pub mod account;
mod before;
mod bursts;
mod layout;
pub mod metrics;
mod neighbours;
mod settle;
mod sleeps;
mod windows;

use agent_common::{
    cgroups::UNATTRIBUTED,
    cpu::{
        CARRIED_BEFORE, CARRIED_THROTTLED, Cache, CachedCgroup, Carried, CpuNow, CpuRecord, Facts, LOG_LEN, MARK_BLOCKS,
        MOVES_LEN, MarkBlock, TaskMark, WINDOW_NS, WindowEntry, neighbour::PAIRS_LEN,
    },
};
use nix::time::ClockId;

use self::{
    account::{Account, Before, CpuUse},
    bursts::Bursts,
    layout::{limits, offsets, waits},
    metrics::{
        BURST, CONTENDED, LOST_MARKS, LOST_WINDOWS, NODE_TIME, NODE_USAGE, PERIODS, SWITCHES, THROTTLED_PERIODS, TIME,
        UNATTRIBUTED_TIME, USAGE, WAIT, WAIT_TIME,
    },
    neighbours::Neighbours,
    windows::{LogReader, Used},
};
use super::{ActiveSignal, Kept, Readings, Signal, SignalError};
use crate::{
    cgroups::{Cgroup, Cgroups, controllers::lists},
    config,
    kernel::{
        btf::Btf,
        facts::{self, OnlineCpus},
        load::{Hook, Kernel, LOCKED_DOWN, LoadError, Object, Optional, Plan, Size},
        sys::MappedArray,
    },
    metric::{Point, Value},
    overhead::Step,
};

/// See the module.
pub const SIGNAL: Signal = Signal {
    name: "cpu",
    help: "CPU time, run-queue wait split by cause, CPUs used per 100 ms",
    tracepoints: &["sched_switch", "sched_process_fork", "cgroup_attach_task"],
    metrics: metrics::ALL,
    capability: None,
    missing: |btf| offsets(btf).err().map(|error| error.to_string()),
    start: |kernel, cgroups, settings| Ok(Box::new(Cpu::start(kernel, cgroups, &settings.cpu)?)),
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/cpu"));

const OPTIONAL: &[Optional] = &[
    Optional {
        programs: &["cpu_on_fork"],
        lost: "a new task is counted from its second switch on where the kernel does not trace the first",
    },
    Optional {
        programs: &["cpu_on_move"],
        lost: "up to a second of a running task that is moved to another cgroup counts for the one it has left",
    },
];

/// A word of [`CpuRecord`].
const ON_CPU: usize = std::mem::offset_of!(CpuRecord, on_cpu_ns) / 8;

/// A word of [`CpuNow`].
const LOG_HEAD: usize = std::mem::offset_of!(CpuNow, log_head) / 8;

/// Words of [`Carried`].
const BEFORE: usize = std::mem::offset_of!(Carried, before_counting_ns) / 8;
const THROTTLED_BEFORE: usize = std::mem::offset_of!(Carried, throttled_before_ns) / 8;
const KNOWN: usize = std::mem::offset_of!(Carried, known) / 8;
const CONTENTION: usize = std::mem::offset_of!(Carried, contention_ns) / 8;

/// Windows that stay open behind the current one: running tasks are settled up to their last tick only.
const OPEN_WINDOWS: u64 = 2;

/// The signal while it counts.
struct Cpu {
    object: Object,
    cpus: u32,
    online: OnlineCpus,
    now: MappedArray<CpuNow>,
    /// By CPU, whether it is never interrupted.
    undisturbed: Vec<bool>,
    records: MappedArray<CpuRecord>,
    /// What the records do not show, kept for the next agent: written here alone, and pinned like the rest.
    carried: MappedArray<Carried>,
    log: MappedArray<WindowEntry>,
    neighbours: Neighbours,
    /// What it keeps to itself.
    own: Counted,
    /// Since when the records count, CLOCK_BOOTTIME in ns.
    since_ns: u64,
    /// Whether the kernel counts waits.
    has_waits: bool,
    /// What it does without.
    notes: Vec<String>,
}

/// What this process keeps to itself; with more slots it goes on.
struct Counted {
    /// How far the log was read, per CPU.
    readers: Vec<LogReader>,
    /// Log entries that were overwritten before they were read, or came after their window was closed.
    lost_windows: u64,
    /// What the programs could put into no window before this process began.
    unwindowed_before: u64,
    account: Account,
    bursts: Bursts,
    /// When it began to count, CLOCK_BOOTTIME in ns.
    started_ns: u64,
    /// When the node was read last, CLOCK_BOOTTIME in ns, and its CPU time then in ns.
    node: Option<(u64, u64)>,
}

impl Cpu {
    fn start(kernel: &mut Kernel, cgroups: &Cgroups, settings: &config::Cpu) -> Result<Self, LoadError> {
        let cpus = kernel.cpus;
        let slots = cgroups.slots();
        let mut offsets = offsets(&kernel.btf)?;
        let no_waits = waits(&kernel.btf, &mut offsets).err();
        limits(&kernel.btf, &mut offsets);
        let blocks = mark_blocks(facts::memory_bytes());
        let mut object = kernel.load(&Plan {
            object: SIGNAL.name,
            bytes: OBJECT,
            facts: Facts {
                mark_blocks_log2: blocks.ilog2().into(),
                mark_skew: skew(&kernel.btf, size_of::<TaskMark>()),
                cache_skew: skew(&kernel.btf, size_of::<CachedCgroup>()),
                tick_ns: facts::tick_ns(),
                cpus: cpus.into(),
                ..offsets
            },
            maps: &[
                ("CPU_NOW", Size::Entries(cpus)),
                ("CPU_RECORDS", Size::Slots(1)),
                ("CPU_CARRIED", Size::Slots(1)),
                ("CPU_BURSTS", Size::Slots(1)),
                ("CPU_WATCHED", Size::Fixed),
                ("CPU_WINDOWS", Size::Entries(cpus * LOG_LEN)),
                ("CPU_MOVES", Size::Entries(cpus * MOVES_LEN)),
                ("CPU_CACHE", Size::Arrays { entries: cpus, bytes: size_of::<Cache>() as u32 }),
                ("CPU_TO_FLUSH", Size::Entries(cpus)),
                ("CPU_STRETCH", Size::Entries(cpus)),
                ("CPU_RECENT", Size::Entries(cpus)),
                ("CPU_THROTTLED", Size::Slots(1)),
                ("CPU_PAIRS", Size::Entries(PAIRS_LEN)),
                ("CPU_MARKS", Size::Arrays { entries: blocks, bytes: size_of::<MarkBlock>() as u32 }),
            ],
            shared: &[("CGROUP_SLOTS", cgroups.object()), ("GENERATION", cgroups.object())],
            programs: &[
                ("cpu_on_fork", Hook::Tracepoint("sched_process_fork")),
                ("cpu_on_move", Hook::Tracepoint("cgroup_attach_task")),
                ("cpu_on_switch", Hook::Tracepoint("sched_switch")),
                ("cpu_settle", Hook::Call),
            ],
            optional: OPTIONAL,
        })?;
        kernel.attach(&mut object)?;
        let now: MappedArray<CpuNow> = object.mapped("CPU_NOW")?;
        let readers = readers(&now, cpus);
        let bursts = Bursts::open(object.mapped("CPU_BURSTS")?, object.mapped("CPU_WATCHED")?, cpus, window_now());
        let since_ns = object.since_ns();
        let mut cpu = Self {
            cpus,
            online: OnlineCpus::open().map_err(LoadError::Cpus)?,
            undisturbed: vec![false; cpus as usize],
            records: object.mapped("CPU_RECORDS")?,
            carried: object.mapped("CPU_CARRIED")?,
            log: object.mapped("CPU_WINDOWS")?,
            neighbours: Neighbours::open(&mut object)?,
            now,
            object,
            own: Counted {
                readers,
                lost_windows: 0,
                unwindowed_before: 0,
                account: Account::new(since_ns),
                bursts,
                started_ns: facts::boottime_ns(),
                node: None,
            },
            since_ns,
            has_waits: no_waits.is_none(),
            notes: Vec::new(),
        };
        cpu.own.unwindowed_before = cpu.unwindowed();
        cpu.notes.extend(no_waits.or_else(|| without_controller(cgroups.offered_controllers().as_deref())));
        if !kernel.reads_by_address {
            cpu.notes.push(format!("a task that does not let go of its CPU is counted when it does: {LOCKED_DOWN}"));
        }
        for slot in 1..slots {
            if let Some(carried) = cpu.carried.read(slot).filter(|_| cpu.object.adopted()) {
                let before = (carried.known & CARRIED_BEFORE != 0).then_some(Before {
                    on_cpu_ns: carried.before_counting_ns.cast_signed(),
                    throttled_ns: carried.throttled_before_ns,
                });
                let throttled = carried.known & CARRIED_THROTTLED != 0;
                if before.is_some() || throttled || carried.contention_ns > 0 {
                    cpu.own.account.restore(slot, before, carried.contention_ns, throttled);
                }
            }
        }
        cpu.leave_alone(settings);
        // Begins to watch what runs right now and may not switch for long.
        cpu.settle()?;
        Ok(cpu)
    }

    /// Reads the window logs of all CPUs and closes the windows that had ended everywhere when the tasks were settled at `settled_ns`.
    fn close_windows(&mut self, settled_ns: u64, cgroups: &Cgroups) {
        let bursts = &mut self.own.bursts;
        bursts.look(facts::boottime_ns(), facts::clock_ns(ClockId::CLOCK_MONOTONIC));
        if !bursts.are_watched() {
            return;
        }
        let current = settled_ns / WINDOW_NS;
        let (first, open, until) = (bursts.first_window(), bursts.open_window(), current.saturating_sub(OPEN_WINDOWS));
        for (cpu, reader) in (0..self.cpus).zip(&mut self.own.readers) {
            let Some(head) = self.now.word(cpu, LOG_HEAD) else { continue };
            let entry = |number: u32| self.log.read(cpu * LOG_LEN + (number & (LOG_LEN - 1)));
            self.own.lost_windows += reader.read(head as u32, entry, first, open, current);
        }
        while let Some(window) = self.own.readers.iter().filter_map(|reader| reader.first_before(until)).min() {
            let used: Used = self.own.readers.iter_mut().flat_map(|reader| reader.close(window)).collect();
            bursts.close_window(window, &used, cgroups.table());
        }
        bursts.close_until(until);
    }

    /// Adds what a dead cgroup and its descendants used to its parent's record, also for an agent after this one, and zeroes its own.
    fn take_last(&self, dead: &Cgroup) -> CpuRecord {
        let last = self.records.read(dead.slot).unwrap_or(CpuRecord::ZERO);
        self.records.add(dead.parent.unwrap_or(UNATTRIBUTED), &last);
        self.records.write(dead.slot, &CpuRecord::ZERO);
        self.carried.write(dead.slot, &Carried::ZERO);
        last
    }

    /// Keeps for an agent after this one what cgroups had used before counting began, once that is known, and how long they were in
    /// contention.
    fn keep(&self, cgroups: &Cgroups) {
        for cgroup in cgroups.table().iter() {
            let slot = cgroup.slot;
            let Some(known) = self.carried.word(slot, KNOWN) else { continue };
            let mut now_known = known;
            if let Some(before) = self.own.account.before(slot).filter(|_| known & CARRIED_BEFORE == 0) {
                self.carried.set_word(slot, BEFORE, before.on_cpu_ns.cast_unsigned());
                self.carried.set_word(slot, THROTTLED_BEFORE, before.throttled_ns);
                now_known |= CARRIED_BEFORE;
            }
            if self.own.account.knows_throttling(slot) {
                now_known |= CARRIED_THROTTLED;
            }
            if now_known != known {
                self.carried.set_word(slot, KNOWN, now_known);
            }
            self.carried.set_word(slot, CONTENTION, self.own.account.contention_ns(slot));
        }
    }

    /// Windows' worth of time that was too long ago when it was counted.
    fn unwindowed(&self) -> u64 {
        (0..self.cpus).filter_map(|cpu| self.now.read(cpu)).map(|now| now.unwindowed_ns / WINDOW_NS).sum()
    }

    fn points(&self, cgroup: &Cgroup, used: &CpuUse) -> Vec<Point> {
        let (counting, born) = (cgroup.counted_since(self.since_ns), cgroup.made_ns());
        // Without `cpu.stat` for what was before its slot, its time began with that.
        let timed = if cgroup.late && !self.own.account.is_older(cgroup) { counting } else { born };
        let seconds = |ns: u64| Value::Float(ns as f64 / 1e9);
        let mut points = vec![Point::new(&SWITCHES, counting, Value::Int(used.waits.count))];
        let burst = self.own.bursts.histogram(cgroup);
        points.extend(burst.map(|(since_ns, burst)| Point::new(&BURST, since_ns, Value::Histogram(burst.into()))));
        points.extend(used.time_ns.map(|ns| Point::new(&TIME, timed, seconds(whole_us(ns)))));
        points.extend(used.usage_cores.map(|cores| Point::new(&USAGE, 0, Value::Float(cores))));
        points.extend(wait_points(counting, used, self.has_waits));
        if used.contended_ns > 0 {
            points.push(Point::new(&CONTENDED, counting, seconds(used.contended_ns)));
        }
        if let Some((periods, throttled)) = used.periods {
            points.push(Point::new(&PERIODS, born, Value::Int(periods)));
            points.push(Point::new(&THROTTLED_PERIODS, born, Value::Int(throttled)));
        }
        points
    }

    fn node_points(&mut self, now_ns: u64, root_ns: Option<u64>) -> Vec<Point> {
        let unattributed_ns = self.records.word(UNATTRIBUTED, ON_CPU).unwrap_or(0);
        let seconds = |ns: u64| Value::Float(ns as f64 / 1e9);
        let mut points = vec![
            Point::new(&UNATTRIBUTED_TIME, self.since_ns, seconds(unattributed_ns)),
            Point::new(
                &LOST_WINDOWS,
                self.own.started_ns,
                Value::Int(self.own.lost_windows + self.unwindowed() - self.own.unwindowed_before),
            ),
        ];
        let lost_marks = (0..self.cpus).filter_map(|cpu| self.now.read(cpu)).map(|now| u64::from(now.marks_lost)).sum();
        points.push(Point::new(&LOST_MARKS, self.since_ns, Value::Int(lost_marks)));
        points.extend(self.neighbours.without_room(self.since_ns));
        let Some(root_ns) = root_ns else { return points };
        let time_ns = root_ns + unattributed_ns;
        points.push(Point::new(&NODE_TIME, facts::BOOTED_NS, seconds(whole_us(time_ns))));
        if let Some((then_ns, before_ns)) = self.own.node.replace((now_ns, time_ns)).filter(|(then_ns, _)| *then_ns < now_ns) {
            let cores = time_ns.saturating_sub(before_ns) as f64 / (now_ns - then_ns) as f64;
            points.push(Point::new(&NODE_USAGE, 0, Value::Float(cores)));
        }
        points
    }
}

impl ActiveSignal for Cpu {
    fn tick(&mut self, cgroups: &Cgroups) -> Result<(), SignalError> {
        let settled_ns = self.settle()?;
        self.close_windows(settled_ns, cgroups);
        self.neighbours.tick();
        Ok(())
    }

    fn retire(&mut self, cgroup: &Cgroup) -> Vec<Point> {
        let last = self.take_last(cgroup);
        let used = self.own.account.retire(cgroup, &last);
        let points = self.points(cgroup, &used);
        self.own.bursts.retire(cgroup);
        self.neighbours.forget(cgroup.slot);
        points
    }

    fn begin(&mut self, cgroups: &mut Cgroups) -> Result<(), SignalError> {
        self.learn_before_counting(cgroups)
    }

    fn before_walk(&mut self, cgroups: &Cgroups) -> Result<(), SignalError> {
        self.tick(cgroups)
    }

    fn collect(&mut self, now_ns: u64, cgroups: &Cgroups) -> Result<Readings, SignalError> {
        let own = |slot| self.records.read(slot);
        let used = self.own.account.collect(now_ns, cgroups.table(), own, |cgroup| cgroups.throttling(cgroup));
        self.keep(cgroups);
        let root_ns = cgroups.table().iter().find(|c| c.path == "/").and_then(|c| used.get(&c.slot)).and_then(|u| u.time_ns);
        let mut waited = self.neighbours.points(cgroups.table(), self.since_ns)?;
        let points = |cgroup: &Cgroup| {
            let mut points = self.points(cgroup, used.get(&cgroup.slot)?);
            points.extend(waited.remove(&cgroup.slot).into_iter().flatten());
            Some((cgroup.slot, points))
        };
        let points = cgroups.table().iter().filter_map(points).collect();
        Ok(Readings { cgroups: points, node: self.node_points(now_ns, root_ns) })
    }

    fn hand_over(self: Box<Self>) -> Option<Kept> {
        Some(Box::new(self.own))
    }

    fn go_on_with(&mut self, kept: Kept) {
        if let Ok(kept) = kept.downcast::<Counted>() {
            let begun = std::mem::replace(&mut self.own, *kept);
            self.own.bursts.go_on_in(begun.bursts);
        }
    }

    fn do_without(&mut self, step: Step, without: bool) -> Result<(), SignalError> {
        if step == Step::Bursts && without == self.own.bursts.are_watched() {
            // Bursts begin anew, with what is used from now on.
            self.own.readers = readers(&self.now, self.cpus);
            self.own.bursts.watch((!without).then(window_now));
        }
        Ok(())
    }

    fn note(&self) -> Option<String> {
        let notes: Vec<String> = self.notes.iter().cloned().chain(self.object.lacks()).collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }
}

/// The window that is current now, and when that is, CLOCK_BOOTTIME in ns.
fn window_now() -> (u64, u64) {
    (facts::clock_ns(ClockId::CLOCK_MONOTONIC) / WINDOW_NS, facts::boottime_ns())
}

/// Readers that begin with what is logged next.
fn readers(now: &MappedArray<CpuNow>, cpus: u32) -> Vec<LogReader> {
    (0..cpus).map(|cpu| LogReader::at(now.read(cpu).map_or(0, |now| now.log_head as u32))).collect()
}

/// How many blocks of marks there are on a machine with that much memory: one mark for each MiB, where a full node has fewer tasks.
fn mark_blocks(memory_bytes: Option<u64>) -> u32 {
    let (least, most) = MARK_BLOCKS;
    let of_memory = memory_bytes.map_or(least, |bytes| u32::try_from(bytes >> 31).unwrap_or(most));
    of_memory.clamp(least, most).next_power_of_two()
}

/// Where the records of a block must begin that its kernel's array has at its end, so that none of that length crosses a cache line.
/// Nothing breaks where it is not known.
fn skew(btf: &Btf, record: usize) -> u64 {
    let head = btf.offset("bpf_array", "value").unwrap_or(0) as usize;
    (head.next_multiple_of(record) - head) as u64
}

/// The waits of a cgroup, where the kernel counts them.
fn wait_points(counting: u64, used: &CpuUse, counted: bool) -> Vec<Point> {
    if !counted {
        return Vec::new();
    }
    let wait = |ns, cause| Point::new(&WAIT_TIME, counting, Value::Float(ns as f64 / 1e9)).with("cause", cause);
    let mut points = vec![Point::new(&WAIT, counting, Value::Histogram(used.waits.clone()))];
    points.extend(used.causes.map(|causes| wait(causes.contention_ns, "contention")));
    points.extend(used.causes.and_then(|causes| causes.throttled_ns).map(|ns| wait(ns, "throttled")));
    points
}

/// What is missing where the root of cgroup2 does not have the cpu controller: it may be mounted as cgroup v1, where limits are not
/// looked for.
fn without_controller(controllers: Option<&str>) -> Option<String> {
    (!lists(controllers?, "cpu"))
        .then(|| "cgroup2 has no cpu controller here, so throttling is not known: all waiting counts as contention".to_owned())
}

/// CPU time as `cpu.stat` has it, in whole µs: where programs of another version go on from that file, a counter must not go down by
/// what it cuts off.
fn whole_us(ns: u64) -> u64 {
    ns - ns % 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_where_throttling_is_not_known() {
        for (controllers, noted) in [
            (None, false),
            (Some("cpuset cpu io memory hugetlb pids\n"), false),
            (Some("cpuset memory\n"), true),
            (Some("\n"), true),
        ] {
            assert_eq!(without_controller(controllers).is_some(), noted, "{controllers:?}");
        }
    }

    #[test]
    fn waits_that_the_kernel_does_not_count_are_absent_not_zero() {
        let used = CpuUse {
            time_ns: Some(5),
            usage_cores: None,
            wait_ns: 7,
            contended_ns: 0,
            causes: Some(account::Causes { throttled_ns: Some(3), contention_ns: 4 }),
            periods: None,
            waits: Default::default(),
        };
        let names = |counted| wait_points(1, &used, counted).iter().map(|point| point.metric.name).collect::<Vec<_>>();
        assert_eq!(names(true), [WAIT.name, WAIT_TIME.name, WAIT_TIME.name]);
        assert!(names(false).is_empty());
    }
}
