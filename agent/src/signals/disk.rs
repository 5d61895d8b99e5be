//! The disk signal: bytes, operations and how long they take, per cgroup and per device; syncs of files; what `io.max` holds back.
//!
//! The kernel side (`agent-ebpf/src/bin/disk.rs`) counts requests where a device gets and completes them. What the kernel itself counts of
//! each device comes from `/proc/diskstats` in the same collection.

mod devices;
mod diskstats;
pub mod metrics;

use agent_common::{
    cgroups::UNATTRIBUTED,
    disk::{DEVICE_ROWS_LEN, DiskCounts, Facts, Lost, ROW_KINDS, Row},
};

use self::devices::Devices;
use super::{ActiveSignal, Kept, Readings, Signal, SignalError, slot_counts::SlotCounts, slot_rows::SlotRows};
use crate::{
    cgroups::{Cgroup, Cgroups, controllers::lists},
    kernel::{
        btf::{Btf, BtfError},
        load::{
            Hook, Kernel, Object, Optional, Plan, Size,
            placeholder::{FDATASYNC, FSYNC, SYNC_RANGE, THROTTLE},
        },
        sys::MappedArray,
    },
    metric::Point,
};

/// See the module.
pub const SIGNAL: Signal = Signal {
    name: "disk",
    help: "disk reads, writes and syncs and how long they take, busy devices, I/O held back by io.max",
    tracepoints: TRACEPOINTS,
    metrics: metrics::ALL,
    capability: None,
    missing: |btf| offsets(btf, false).err().map(|error| error.to_string()),
    start: |kernel, cgroups, _| Ok(Box::new(Disk::start(kernel, cgroups)?)),
};

/// What its programs cannot do without.
const TRACEPOINTS: &[&str] = &["block_rq_issue", "block_rq_complete"];

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/disk"));

/// Rows per slot, on average: most cgroups read and write nothing; one that does has two or three, and carries as many.
const ROWS_PER_SLOT: u32 = 4;

/// The functions that tasks sync files through, with the programs that run when one returns and when one is called. Kernels are compiled with
/// what `fsync` calls inside it, or not: all of them are needed, and what is inside another is not counted twice.
const SYNCS: [(&str, &str, &str); 3] = [
    (SYNC_RANGE, "disk_on_synced", "disk_on_sync"),
    (FSYNC, "disk_on_fsynced", "disk_on_fsync"),
    (FDATASYNC, "disk_on_fdatasynced", "disk_on_fdatasync"),
];

const NO_SYNCS: &str = "no syncs of files";
const NO_THROTTLING: &str = "no I/O held back by io.max";

const OPTIONAL: &[Optional] = &[
    Optional { programs: &[SYNCS[0].1, SYNCS[1].1, SYNCS[2].1, SYNCS[0].2, SYNCS[1].2, SYNCS[2].2], lost: NO_SYNCS },
    Optional { programs: &["disk_on_throttle"], lost: NO_THROTTLING },
];

/// What is said where requests are not of the cgroup that their pages are charged to.
const BY_TASK: &str = "requests are of the cgroup of the task that issues them, written pages of whoever writes them back: cgroup2 has no io \
                       controller here";

/// The signal while it counts.
struct Disk {
    /// Keeps the programs attached.
    _object: Object,
    rows: SlotRows<Row>,
    counts: SlotCounts<DiskCounts>,
    lost: MappedArray<Lost>,
    devices: Devices,
    /// What this kernel does not allow, and why.
    lacks: Vec<String>,
    /// Since when the kernel side counts, CLOCK_BOOTTIME in ns.
    since_ns: u64,
}

impl Disk {
    fn start(kernel: &mut Kernel, cgroups: &Cgroups) -> Result<Self, SignalError> {
        let by_bio = cgroups.offered_controllers().is_some_and(|all| lists(&all, "io"));
        let (programs, mut lacks) = programs(&kernel.btf, by_bio);
        let mut object = kernel.load(&Plan {
            object: SIGNAL.name,
            bytes: OBJECT,
            facts: offsets(&kernel.btf, by_bio)?,
            maps: &[
                ("DISK_REQUESTS", Size::Fixed),
                ("DISK_SINCE", Size::Fixed),
                ("DISK_SYNCS", Size::Fixed),
                ("DISK_COUNTS", Size::Slots(1)),
                ("DISK_ROWS", Size::Slots(ROWS_PER_SLOT)),
                ("DISK_EMPTY_ROW", Size::Fixed),
                ("DISK_DEVICES", Size::Entries(DEVICE_ROWS_LEN)),
                ("DISK_EMPTY_DEVICE", Size::Fixed),
                ("DISK_LOST", Size::Fixed),
            ],
            shared: &[("CGROUP_SLOTS", cgroups.object()), ("GENERATION", cgroups.object())],
            programs: &programs,
            optional: OPTIONAL,
        })?;
        kernel.attach(&mut object)?;
        lacks.extend(object.lacks());
        if !lacks.is_empty() {
            tracing::warn!(why = lacks.join("; "), "disk is measured in part, or another way");
        }
        Ok(Self {
            rows: SlotRows::open(&mut object, "DISK_ROWS", ROW_KINDS)?,
            counts: SlotCounts::open(&object, "DISK_COUNTS", 1, cgroups.slots())?,
            lost: object.mapped("DISK_LOST")?,
            devices: Devices::open(&mut object)?,
            lacks,
            since_ns: object.since_ns(),
            _object: object,
        })
    }
}

impl ActiveSignal for Disk {
    fn retire(&mut self, cgroup: &Cgroup) -> Vec<Point> {
        let (rows, counts) = (self.rows.retire(cgroup), self.counts.retire(cgroup));
        metrics::of_cgroup(cgroup.counted_since(self.since_ns), &rows, &counts)
    }

    fn hand_over(self: Box<Self>) -> Option<Kept> {
        Some(Box::new(self.devices.seen()))
    }

    fn go_on_with(&mut self, kept: Kept) {
        if let Ok(seen) = kept.downcast() {
            self.devices.go_on_with(*seen);
        }
    }

    fn note(&self) -> Option<String> {
        (!self.lacks.is_empty()).then(|| self.lacks.join("; "))
    }

    fn collect(&mut self, now_ns: u64, cgroups: &Cgroups) -> Result<Readings, SignalError> {
        let (totals, counts) = (self.rows.totals(cgroups.table())?, self.counts.totals(cgroups.table()));
        let rows = |slot| totals.get(&slot).map_or(&[][..], |rows| rows);
        let points = |cgroup: &Cgroup| {
            let points = metrics::of_cgroup(cgroup.counted_since(self.since_ns), rows(cgroup.slot), counts.get(&cgroup.slot)?);
            (!points.is_empty()).then_some((cgroup.slot, points))
        };
        let by_cgroup = cgroups.table().iter().filter_map(points).collect();
        let mut node = metrics::of_node(self.since_ns, rows(UNATTRIBUTED), &self.lost.read(0).unwrap_or(Lost::ZERO));
        node.extend(self.devices.points(now_ns, self.since_ns)?);
        Ok(Readings { cgroups: by_cgroup, node })
    }
}

/// The programs that this kernel can run, and what it cannot tell.
fn programs(btf: &Btf, by_bio: bool) -> (Vec<(&'static str, Hook)>, Vec<String>) {
    let with_queue = btf.tracepoint_takes("block_rq_issue", 0, "request_queue");
    let on_issue = if with_queue { "disk_on_queue_issue" } else { "disk_on_issue" };
    // What counts an end first: what begins before that would stay in the table.
    let mut programs =
        vec![("disk_on_complete", Hook::Tracepoint("block_rq_complete")), (on_issue, Hook::Tracepoint("block_rq_issue"))];
    let mut lacks = Vec::new();
    let missing = |function: &str| btf.function_id(function).err().map(|error| error.to_string());
    match SYNCS.iter().find_map(|(function, ..)| missing(function)) {
        None => {
            programs.extend(SYNCS.map(|(function, ends, _)| (ends, Hook::Exit(function))));
            programs.extend(SYNCS.map(|(function, _, begins)| (begins, Hook::Entry(function))));
        }
        Some(why) => lacks.push(format!("{NO_SYNCS}: {why}")),
    }
    match missing(THROTTLE) {
        None if by_bio => programs.push(("disk_on_throttle", Hook::Exit(THROTTLE))),
        None => {}
        // An older one is called for every bio, whether its cgroup has a limit or not.
        Some(why) => lacks.push(format!("{NO_THROTTLING}: {why}")),
    }
    if !by_bio {
        lacks.push(BY_TASK.to_owned());
    }
    (programs, lacks)
}

/// Where this kernel keeps what the programs read.
fn offsets(btf: &Btf, by_bio: bool) -> Result<Facts, BtfError> {
    for tracepoint in TRACEPOINTS {
        btf.typedef_id(&format!("btf_trace_{tracepoint}"))?;
    }
    let of_queue = !btf.has_member("request", "rq_disk");
    let (holder, queue_disk) = if of_queue { ("q", btf.offset_of("request_queue", "disk", 8)?) } else { ("rq_disk", 0) };
    Ok(Facts {
        rq_flags: btf.offset_of("request", "cmd_flags", 4)?,
        rq_data_len: btf.offset_of("request", "__data_len", 4)?,
        rq_bio: btf.offset_of("request", "bio", 8)?,
        rq_start_ns: btf.offset_of("request", "start_time_ns", 8)?,
        rq_disk: btf.offset_of("request", holder, 8)?,
        queue_disk,
        disk_is_of_queue: of_queue.into(),
        disk_major: btf.offset_of("gendisk", "major", 4)?,
        disk_minor: btf.offset_of("gendisk", "first_minor", 4)?,
        bio_flags: btf.offset_of("bio", "bi_opf", 4)?,
        // Of a kernel without the io controller there is none.
        bio_blkg: if by_bio { btf.offset_of("bio", "bi_blkg", 8)? } else { 0 },
        blkg_blkcg: if by_bio { btf.offset_of("blkcg_gq", "blkcg", 8)? } else { 0 },
        blkcg_cgroup: if by_bio { btf.offset_of("blkcg", "css.cgroup", 8)? } else { 0 },
        cgroup_level: btf.offset_of("cgroup", "level", 4)?,
        cgroup_kn: btf.offset_of("cgroup", "kn", 8)?,
        kn_id: btf.offset_of("kernfs_node", "id", 8)?,
        by_bio: by_bio.into(),
    })
}
