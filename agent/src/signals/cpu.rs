//! The cpu signal: CPU time, run-queue wait and bursts of every cgroup, counted in the kernel at each context switch.
//!
//! Reads the mapped arrays that `agent-ebpf/src/bin/cpu.rs` fills; [`account`] turns them into what a cgroup used.

pub mod account;
mod before;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    ops::Range,
};

use agent_common::{
    cgroups::UNATTRIBUTED,
    cpu::{Carried, CpuNow, CpuRecord, Facts, LOG_LEN, SLOT_CACHE_LEN, WINDOW_NS, WindowEntry},
};
use nix::time::ClockId;

use self::account::{Account, Before, CpuUse, Reading};
use super::{
    Failure, Readings, Running, Signal,
    metric::{Kind, Metric, Point, Scope, Value},
};
use crate::{
    cgroups::{Cgroup, Cgroups, files},
    kernel::{
        btf::{Btf, BtfError},
        facts,
        load::{Hook, Kernel, LoadError, Object, Optional, Plan},
        sys::MappedArray,
    },
};

/// See the module.
pub const SIGNAL: Signal = Signal {
    name: "cpu",
    help: "CPU time, run-queue wait split by cause, CPUs used per 100 ms",
    tracepoints: &["sched_switch", "sched_process_fork"],
    metrics: &[
        &TIME,
        &USAGE,
        &WAIT_TIME,
        &WAIT,
        &BURST,
        &SWITCHES,
        &PERIODS,
        &THROTTLED_PERIODS,
        &NODE_TIME,
        &NODE_USAGE,
        &UNATTRIBUTED_TIME,
        &LOST_WINDOWS,
    ],
    capability: None,
    missing: |btf| offsets(btf).err().map(|error| error.to_string()),
    start: |kernel, cgroups, _| Ok(Box::new(Cpu::start(kernel, cgroups)?)),
};

/// `container.cpu.time`
pub static TIME: Metric = Metric {
    name: "container.cpu.time",
    unit: "s",
    kind: Kind::Counter,
    attributes: &[],
    scope: Scope::Container,
    help: "CPU time since the cgroup was made, descendants included: what cpu.stat's usage_usec counts.",
};
/// `container.cpu.usage`
pub static USAGE: Metric = Metric {
    name: "container.cpu.usage",
    unit: "{cpu}",
    kind: Kind::Gauge,
    attributes: &[],
    scope: Scope::Container,
    help: "CPUs used over the last interval.",
};
/// `podmeter.cpu.wait.time`
pub static WAIT_TIME: Metric = Metric {
    name: "podmeter.cpu.wait.time",
    unit: "s",
    kind: Kind::Counter,
    attributes: &["cause"],
    scope: Scope::Container,
    help: "Time that tasks were runnable and did not run: throttled by the cgroup's own cpu.max, or in contention with others. \
           Without a cpu controller in cgroup2 nothing is known of throttling: all of it is contention.",
};
/// `podmeter.cpu.wait`
pub static WAIT: Metric = Metric {
    name: "podmeter.cpu.wait",
    unit: "s",
    kind: Kind::Histogram,
    attributes: &[],
    scope: Scope::Workload,
    help: "How long a task waited before each time it got a CPU.",
};
/// `podmeter.cpu.burst`
pub static BURST: Metric = Metric {
    name: "podmeter.cpu.burst",
    unit: "{cpu}",
    kind: Kind::Histogram,
    attributes: &[],
    scope: Scope::Workload,
    help: "CPUs used in each 100 ms window, idle windows included: its percentiles are real demand, not averages.",
};
/// `podmeter.cpu.switches`
pub static SWITCHES: Metric = Metric {
    name: "podmeter.cpu.switches",
    unit: "{switch}",
    kind: Kind::Counter,
    attributes: &[],
    scope: Scope::Container,
    help: "Times that a task was taken off a CPU.",
};
/// `podmeter.cpu.periods`
pub static PERIODS: Metric = Metric {
    name: "podmeter.cpu.periods",
    unit: "{period}",
    kind: Kind::Counter,
    attributes: &[],
    scope: Scope::Container,
    help: "Enforcement periods of cpu.max in which the cgroup ran. Absent without a cpu controller.",
};
/// `podmeter.cpu.throttled.periods`
pub static THROTTLED_PERIODS: Metric = Metric {
    name: "podmeter.cpu.throttled.periods",
    unit: "{period}",
    kind: Kind::Counter,
    attributes: &[],
    scope: Scope::Container,
    help: "Enforcement periods of cpu.max in which the cgroup used up its quota. Absent without a cpu controller.",
};
/// `k8s.node.cpu.time`
pub static NODE_TIME: Metric = Metric {
    name: "k8s.node.cpu.time",
    unit: "s",
    kind: Kind::Counter,
    attributes: &[],
    scope: Scope::Node,
    help: "CPU time of all tasks of the node since boot: all cgroups and the unattributed.",
};
/// `k8s.node.cpu.usage`
pub static NODE_USAGE: Metric = Metric {
    name: "k8s.node.cpu.usage",
    unit: "{cpu}",
    kind: Kind::Gauge,
    attributes: &[],
    scope: Scope::Node,
    help: "CPUs used by all tasks of the node over the last interval.",
};
/// `podmeter.cpu.unattributed`
pub static UNATTRIBUTED_TIME: Metric = Metric {
    name: "podmeter.cpu.unattributed",
    unit: "s",
    kind: Kind::Counter,
    attributes: &[],
    scope: Scope::Node,
    help: "CPU time of cgroups that were born when all slots were taken: the books balance, raise cgroups.slots when it grows.",
};

/// `podmeter.cpu.windows.lost`
pub static LOST_WINDOWS: Metric = Metric {
    name: "podmeter.cpu.windows.lost",
    unit: "{window}",
    kind: Kind::Counter,
    attributes: &[],
    scope: Scope::Node,
    help: "Windows of single cgroups on single CPUs that were overwritten before they were read: bursts are incomplete when it grows.",
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/cpu"));

/// Words of [`Carried`].
const BEFORE: usize = std::mem::offset_of!(Carried, before_counting_ns) / 8;
const THROTTLED_BEFORE: usize = std::mem::offset_of!(Carried, throttled_before_ns) / 8;
const KNOWN: usize = std::mem::offset_of!(Carried, before_counting_known) / 8;
const CONTENTION: usize = std::mem::offset_of!(Carried, contention_ns) / 8;

/// Windows that stay open behind the current one: running tasks are settled up to their last tick only.
const OPEN_WINDOWS: u64 = 2;

/// The signal while it counts.
struct Cpu {
    object: Object,
    cpus: u32,
    slots: u32,
    now: MappedArray<CpuNow>,
    records: MappedArray<CpuRecord>,
    /// What the records do not show, kept for the next agent: written here alone, and pinned like the rest.
    carried: MappedArray<Carried>,
    log: MappedArray<WindowEntry>,
    /// Number of the first log entry not read to the end, per CPU.
    tails: Vec<u32>,
    /// Log entries that were overwritten before they were read.
    lost_windows: u64,
    account: Account,
    /// When counting began, CLOCK_BOOTTIME in ns.
    started_ns: u64,
    node: Option<(u64, u64)>,
    /// What it does without.
    note: Option<String>,
}

impl Cpu {
    fn start(kernel: &mut Kernel, cgroups: &Cgroups) -> Result<Self, LoadError> {
        let cpus = kernel.cpus;
        let slots = cgroups.slots();
        let offsets = offsets(&kernel.btf)?;
        let mut object = kernel.load(&Plan {
            object: SIGNAL.name,
            bytes: OBJECT,
            facts: ("FACTS", Facts { tick_ns: facts::tick_ns(), slots: slots.into(), cpus: cpus.into(), ..offsets }),
            maps: &[
                ("CPU_NOW", Some(cpus)),
                ("CPU_RECORDS", Some(cpus * slots)),
                ("CPU_CARRIED", Some(slots)),
                ("CPU_WINDOWS", Some(cpus * LOG_LEN)),
                ("CPU_SLOT_CACHE", Some(cpus * SLOT_CACHE_LEN)),
                ("CPU_TASKS", None),
            ],
            shared: &[("CGROUP_SLOTS", cgroups.object()), ("GENERATION", cgroups.object())],
            programs: &[
                ("cpu_on_fork", Hook::Tracepoint("sched_process_fork")),
                ("cpu_on_switch", Hook::Tracepoint("sched_switch")),
                ("cpu_settle", Hook::Call),
            ],
            optional: &[Optional {
                programs: &["cpu_on_fork"],
                lost: "a new task whose first switch the kernel does not trace is counted from its second on",
            }],
        })?;
        kernel.attach(&mut object)?;
        let now: MappedArray<CpuNow> = object.mapped("CPU_NOW")?;
        let tails = (0..cpus).map(|cpu| now.read(cpu).map_or(0, |n| n.log_head as u32)).collect();
        let (monotonic_ns, boottime_ns) = (facts::clock_ns(ClockId::CLOCK_MONOTONIC), facts::boottime_ns());
        let mut cpu = Self {
            cpus,
            slots,
            records: object.mapped("CPU_RECORDS")?,
            carried: object.mapped("CPU_CARRIED")?,
            log: object.mapped("CPU_WINDOWS")?,
            now,
            object,
            tails,
            lost_windows: 0,
            account: Account::new(monotonic_ns / WINDOW_NS, boottime_ns.saturating_sub(monotonic_ns)),
            started_ns: boottime_ns,
            node: None,
            note: without_controller(fs::read_to_string(cgroups.root().join("cgroup.controllers")).ok().as_deref()),
        };
        for slot in 1..slots {
            if let Some(carried) = cpu.carried.read(slot).filter(|_| cpu.object.adopted()) {
                let before = (carried.before_counting_known != 0).then_some(Before {
                    on_cpu_ns: carried.before_counting_ns.cast_signed(),
                    throttled_ns: carried.throttled_before_ns,
                });
                let dead = Reading { on_cpu_ns: carried.on_cpu_ns, wait_ns: carried.wait_ns, waits: carried.waits };
                if before.is_some() || dead != Reading::ZERO || carried.contention_ns > 0 {
                    cpu.account.restore(slot, &dead, before, carried.contention_ns);
                }
            }
        }
        // Begins to watch what runs right now and may not switch for long.
        cpu.settle()?;
        Ok(cpu)
    }

    /// Counts what the running tasks have used since they were switched in.
    fn settle(&mut self) -> Result<(), LoadError> {
        for cpu in facts::online_cpus().map_err(LoadError::Cpus)? {
            self.object.run_on("cpu_settle", cpu)?;
        }
        Ok(())
    }

    /// Reads the window logs of all CPUs and closes the windows that have ended everywhere.
    fn close_windows(&mut self, cgroups: &Cgroups) {
        let current = facts::clock_ns(ClockId::CLOCK_MONOTONIC) / WINDOW_NS;
        let (open, until) = (self.account.open_window(), current.saturating_sub(OPEN_WINDOWS));
        let mut used: BTreeMap<u64, HashMap<u32, u64>> = BTreeMap::new();
        for cpu in 0..self.cpus {
            for (window, by_slot) in self.read_windows(cpu, open..until, current) {
                let used = used.entry(window).or_default();
                for (slot, ns) in by_slot {
                    *used.entry(slot).or_default() += ns;
                }
            }
        }
        self.account.close_windows(until, &used, cgroups.table());
    }

    /// What each slot used of one CPU in each window of `wanted`, and moves on behind the entries that nobody will ask for again.
    fn read_windows(&mut self, cpu: u32, wanted: Range<u64>, current: u64) -> HashMap<u64, HashMap<u32, u64>> {
        let mut used: HashMap<u64, HashMap<u32, u64>> = HashMap::new();
        let (Some(now), Some(tail)) = (self.now.read(cpu), self.tails.get_mut(cpu as usize)) else { return used };
        let head = now.log_head as u32;
        let behind = head.wrapping_sub(*tail);
        if behind > LOG_LEN {
            self.lost_windows += u64::from(behind - LOG_LEN);
            *tail = head.wrapping_sub(LOG_LEN);
        }
        // Entries come nearly in order of their windows; those of open windows still grow and are read again.
        let mut finished = true;
        let mut number = *tail;
        while number != head {
            let Some(entry) = self.log.read(cpu * LOG_LEN + (number & (LOG_LEN - 1))) else { break };
            let window = widen(entry.window, current);
            finished &= window < wanted.end;
            number = number.wrapping_add(1);
            if finished {
                *tail = number;
            }
            if wanted.contains(&window) {
                *used.entry(window).or_default().entry(entry.slot).or_default() += entry.on_cpu_ns;
            }
        }
        used.values_mut().for_each(fit_into_window);
        used
    }

    fn enter_all(&mut self, cgroups: &Cgroups) {
        for slot in cgroups.table().iter().map(|c| c.slot).chain([UNATTRIBUTED]) {
            let reading = self.read(slot);
            self.account.enter(slot, reading);
        }
    }

    /// Leaves what a dead cgroup and its descendants used to its parent, also for an agent after this one.
    fn carry(&self, dead: &Cgroup, last: &Reading) {
        let heir = dead.parent.and_then(|parent| Some((parent, self.carried.read(parent)?)));
        if let (Some((parent, mut carried)), Some(own)) = (heir, self.carried.read(dead.slot)) {
            carried.on_cpu_ns += own.on_cpu_ns + last.on_cpu_ns;
            carried.wait_ns += own.wait_ns + last.wait_ns;
            for ((sum, own), last) in carried.waits.iter_mut().zip(&own.waits).zip(&last.waits) {
                *sum = sum.wrapping_add(*own).wrapping_add(*last);
            }
            self.carried.write(parent, &carried);
        }
        self.carried.write(dead.slot, &Carried::ZERO);
    }

    /// Keeps for an agent after this one what cgroups had used before counting began, once that is known, and how long they were in
    /// contention.
    fn keep(&self, cgroups: &Cgroups) {
        for cgroup in cgroups.table().iter() {
            let slot = cgroup.slot;
            if let (Some(before), Some(0)) = (self.account.before(slot), self.carried.word(slot, KNOWN)) {
                self.carried.set_word(slot, BEFORE, before.on_cpu_ns.cast_unsigned());
                self.carried.set_word(slot, THROTTLED_BEFORE, before.throttled_ns);
                self.carried.set_word(slot, KNOWN, 1);
            }
            self.carried.set_word(slot, CONTENTION, self.account.contention_ns(slot));
        }
    }

    /// Windows' worth of time that was too long ago when it was counted.
    fn unwindowed(&self) -> u64 {
        (0..self.cpus).filter_map(|cpu| self.now.read(cpu)).map(|now| now.unwindowed_ns / WINDOW_NS).sum()
    }

    /// One slot's counts, added up over CPUs.
    fn read(&self, slot: u32) -> Reading {
        let mut reading = Reading::ZERO;
        for record in (0..self.cpus).filter_map(|cpu| self.records.read(cpu * self.slots + slot)) {
            reading.on_cpu_ns += record.on_cpu_ns;
            reading.wait_ns += record.wait_ns;
            for (sum, n) in reading.waits.iter_mut().zip(&record.waits) {
                *sum = sum.wrapping_add(*n);
            }
        }
        reading
    }

    fn points(&self, cgroup: &Cgroup, used: &CpuUse) -> Vec<Point> {
        let counting = cgroup.born_ns;
        // An older one's birth is not known; the node's is no later.
        let born = if cgroup.older_than_counting { facts::BOOTED_NS } else { counting };
        let seconds = |ns: u64| Value::Float(ns as f64 / 1e9);
        let wait = |ns, cause| Point::new(&WAIT_TIME, counting, seconds(ns)).with("cause", cause);
        let mut points = vec![
            Point::new(&SWITCHES, counting, Value::Int(used.waits.count)),
            Point::new(&WAIT, counting, Value::Histogram(used.waits.clone())),
            Point::new(&BURST, counting.max(self.started_ns), Value::Histogram(used.burst.clone())),
        ];
        points.extend(used.time_ns.map(|ns| Point::new(&TIME, born, seconds(ns))));
        points.extend(used.usage_cores.map(|cores| Point::new(&USAGE, 0, Value::Float(cores))));
        points.extend(used.causes.map(|causes| wait(causes.contention_ns, "contention")));
        points.extend(used.causes.and_then(|causes| causes.throttled_ns).map(|ns| wait(ns, "throttled")));
        if let Some((periods, throttled)) = used.periods {
            points.push(Point::new(&PERIODS, born, Value::Int(periods)));
            points.push(Point::new(&THROTTLED_PERIODS, born, Value::Int(throttled)));
        }
        points
    }

    fn node_points(&mut self, now_ns: u64, root_ns: Option<u64>) -> Vec<Point> {
        let unattributed_ns = self.account.unattributed_ns();
        let seconds = |ns: u64| Value::Float(ns as f64 / 1e9);
        let mut points = vec![
            Point::new(&UNATTRIBUTED_TIME, self.started_ns, seconds(unattributed_ns)),
            Point::new(&LOST_WINDOWS, self.started_ns, Value::Int(self.lost_windows + self.unwindowed())),
        ];
        let Some(root_ns) = root_ns else { return points };
        let time_ns = root_ns + unattributed_ns;
        points.push(Point::new(&NODE_TIME, facts::BOOTED_NS, seconds(time_ns)));
        if let Some((then_ns, before_ns)) = self.node.replace((now_ns, time_ns)).filter(|(then_ns, _)| *then_ns < now_ns) {
            let cores = time_ns.saturating_sub(before_ns) as f64 / (now_ns - then_ns) as f64;
            points.push(Point::new(&NODE_USAGE, 0, Value::Float(cores)));
        }
        points
    }
}

impl Running for Cpu {
    fn tick(&mut self, cgroups: &Cgroups) -> Result<(), Failure> {
        self.settle()?;
        self.close_windows(cgroups);
        Ok(())
    }

    fn bury(&mut self, cgroup: &Cgroup) -> Vec<Point> {
        let last = self.read(cgroup.slot);
        self.account.enter(cgroup.slot, last.clone());
        self.carry(cgroup, &last);
        for cpu in 0..self.cpus {
            self.records.write(cpu * self.slots + cgroup.slot, &CpuRecord::ZERO);
        }
        self.account.bury(cgroup).map(|used| self.points(cgroup, &used)).unwrap_or_default()
    }

    fn begin(&mut self, cgroups: &mut Cgroups) -> Result<(), Failure> {
        self.learn_before_counting(cgroups)
    }

    fn collect(&mut self, now_ns: u64, cgroups: &Cgroups) -> Result<Readings, Failure> {
        self.settle()?;
        self.enter_all(cgroups);
        self.close_windows(cgroups);
        let used = self.account.collect(now_ns, cgroups.table(), |cgroup| files::cpu_stat(&cgroups.directory(cgroup)));
        self.keep(cgroups);
        let root_ns = cgroups.table().iter().find(|c| c.path == "/").and_then(|c| used.get(&c.slot)).and_then(|u| u.time_ns);
        let points = cgroups.table().iter().filter_map(|c| Some((c.slot, self.points(c, used.get(&c.slot)?)))).collect();
        Ok(Readings { cgroups: points, node: self.node_points(now_ns, root_ns) })
    }

    fn note(&self) -> Option<String> {
        let notes: Vec<String> = self.note.iter().cloned().chain(self.object.lacks()).collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }
}

/// What is missing where the root of cgroup2 does not have the cpu controller: it may be mounted as cgroup v1, where limits are not
/// looked for.
fn without_controller(controllers: Option<&str>) -> Option<String> {
    let has_cpu = controllers?.split_whitespace().any(|controller| controller == "cpu");
    (!has_cpu)
        .then(|| "cgroup2 has no cpu controller here, so throttling is not known: all waiting counts as contention".to_owned())
}

/// A window has room for 100 ms of one CPU. Where a stretch that was settled ended is known to a tick at worst, and may be laid
/// into the time of the next; the excess is taken from the largest share.
fn fit_into_window(by_slot: &mut HashMap<u32, u64>) {
    let excess_ns = by_slot.values().sum::<u64>().saturating_sub(WINDOW_NS);
    if let Some(largest) = by_slot.values_mut().max() {
        *largest = largest.saturating_sub(excess_ns);
    }
}

/// The window nearest to `current` of which the low 32 bits are known. A settled stretch may reach a tick into the next one.
fn widen(low: u32, current: u64) -> u64 {
    current.saturating_add_signed(i64::from(low.wrapping_sub(current as u32).cast_signed()))
}

/// Where this kernel keeps what the program reads.
fn offsets(btf: &Btf) -> Result<Facts, BtfError> {
    Ok(Facts {
        task_exec: btf.offset_of("task_struct", "se.sum_exec_runtime", 8)?,
        task_exec_start: btf.offset_of("task_struct", "se.exec_start", 8)?,
        task_run_delay: btf.offset_of("task_struct", "sched_info.run_delay", 8)?,
        task_cgroups: btf.offset_of("task_struct", "cgroups", 8)?,
        css_set_cgroup: btf.offset_of("css_set", "dfl_cgrp", 8)?,
        cgroup_kn: btf.offset_of("cgroup", "kn", 8)?,
        kn_id: btf.offset_of("kernfs_node", "id", 8)?,
        ..Facts::ZERO
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_window_holds_more_than_its_length_of_one_cpu() {
        let mut used = HashMap::from([(1, WINDOW_NS), (2, 5)]);
        fit_into_window(&mut used);
        assert_eq!(used, HashMap::from([(1, WINDOW_NS - 5), (2, 5)]));
        let mut used = HashMap::from([(1, 7)]);
        fit_into_window(&mut used);
        assert_eq!(used, HashMap::from([(1, 7)]));
    }

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
    fn windows_are_widened_to_the_nearest() {
        let current = (5_u64 << 32) + 3;
        assert_eq!(widen(3, current), current);
        assert_eq!(widen(1, current), current - 2);
        assert_eq!(widen(u32::MAX, current), current - 4);
        assert_eq!(widen(4, current), current + 1);
    }
}
