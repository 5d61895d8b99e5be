//! The disk signal: bytes, operations and how long they took, per cgroup and per device; syncs of files; what `io.max` holds back.
//!
//! A request is noted when its device gets it and counted when the device has done it. It is of the cgroup that its bio is charged to where
//! the io controller is in cgroup2: written pages are that of who dirtied them, whoever writes them back. Where that is the root, or there
//! is no such controller, it is of the cgroup of the task that issued it.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros make undocumented functions beside the documented ones")]

use agent_common::{
    cgroups::UNATTRIBUTED,
    disk::{
        DURATION_LEN, DeviceRow, Direction, DiskCounts, Facts, Lost, REQUESTS_LEN, Request, Row, SYNC, SYNCS_LEN, Sync,
        duration_position,
    },
};
use agent_ebpf::{
    CgroupSlots, Generation, MMAPABLE, add, frozen,
    known::{generation, known},
    load, load32, opaque,
    rows::{Rows, row},
};
use aya_ebpf::{
    btf_maps::{Array, HashMap, LruHashMap},
    helpers::generated::{bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::{btf_map, btf_tracepoint, fentry, fexit},
    programs::{BtfTracePointContext, FEntryContext, FExitContext},
};

agent_ebpf::object!(FACTS: Facts);

/// A sync that began longer ago than 10 min has ended unseen.
const LONGEST_SYNC_NS: u64 = 600_000_000_000;

/// What the kernel answers who syncs by a descriptor that is of no file.
const EBADF: i32 = 9;
/// What it answers who syncs what has no data to sync, such as a pipe.
const EINVAL: i32 = 22;

#[btf_map]
static CGROUP_SLOTS: CgroupSlots = CgroupSlots::new();
#[btf_map]
static GENERATION: Generation = Generation::new();
#[btf_map]
static DISK_REQUESTS: LruHashMap<u64, Request, REQUESTS_LEN> = LruHashMap::new();
#[btf_map]
static DISK_SINCE: Array<u64, 1> = Array::new();
#[btf_map]
static DISK_SYNCS: HashMap<u32, Sync, SYNCS_LEN> = HashMap::new();
#[btf_map]
static DISK_ROWS: Rows<Row> = Rows::new();
#[btf_map]
static DISK_EMPTY_ROW: Array<Row, 1> = Array::new();
#[btf_map]
static DISK_DEVICES: Rows<DeviceRow> = Rows::new();
#[btf_map]
static DISK_EMPTY_DEVICE: Array<DeviceRow, 1> = Array::new();
#[btf_map]
static DISK_COUNTS: Array<DiskCounts, 1, MMAPABLE> = Array::new();
#[btf_map]
static DISK_LOST: Array<Lost, 1, MMAPABLE> = Array::new();

/// `block_rq_issue(struct request *rq)`, since 5.11: the device gets a request.
#[btf_tracepoint(function = "block_rq_issue")]
fn disk_on_issue(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: argument 0 is a request by the tracepoint's prototype.
    unsafe { issued(ctx.arg(0)) }
}

/// `block_rq_issue(struct request_queue *q, struct request *rq)`, until 5.10.
#[btf_tracepoint(function = "block_rq_issue")]
fn disk_on_queue_issue(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: argument 1 is a request by the tracepoint's prototype.
    unsafe { issued(ctx.arg(1)) }
}

/// Notes when a request was issued and which cgroup it is of. One that is issued again, since the device was busy, is noted anew.
///
/// # Safety
/// `rq` must be a BTF-typed pointer to a `struct request`.
#[inline(always)]
unsafe fn issued(rq: u64) -> i32 {
    // SAFETY: typed loads along the members that FACTS names; a helper without arguments.
    unsafe {
        if Direction::of_flags(load32(rq, frozen!(FACTS.rq_flags))).is_none() {
            return 0;
        }
        let (issued_ns, cgroup) = (bpf_ktime_get_ns(), cgroup_of(rq));
        // A device uses its requests again and again: to write into an entry takes a tenth of the time of making and removing one.
        match DISK_REQUESTS.get_ptr_mut(rq) {
            Some(request) => {
                (*request).cgroup = cgroup;
                (*request).issued_ns = issued_ns;
            }
            None => note_first(rq, Request { issued_ns, cgroup, ..Request::ZERO }),
        }
    }
    0
}

/// Notes a request that was never issued before, or so long ago that its entry was used for another.
#[inline(always)]
fn note_first(rq: u64, request: Request) {
    // SAFETY: map values.
    unsafe {
        if let Some(since) = DISK_SINCE.get_ptr_mut(0)
            && *since == 0
        {
            *since = request.issued_ns;
        }
        if DISK_REQUESTS.insert(rq, request, 0).is_err()
            && let Some(lost) = DISK_LOST.get_ptr_mut(0)
        {
            add(&raw mut (*lost).requests, 1);
        }
    }
}

/// Counts a request of which nothing is noted, if it began after the first that was: its entry was used for another. Where a request
/// is done at once, such as a flush of a device without a cache, it was never issued and has no bytes.
///
/// # Safety
/// As for [`issued`].
#[inline(always)]
unsafe fn count_lost(rq: u64, bytes: u32) {
    // SAFETY: a typed load along the member that FACTS names; map values.
    unsafe {
        let Some(since) = DISK_SINCE.get(0).copied() else { return };
        if bytes > 0
            && since > 0
            && load(rq, frozen!(FACTS.rq_start_ns)) > since
            && let Some(lost) = DISK_LOST.get_ptr_mut(0)
        {
            add(&raw mut (*lost).requests, 1);
        }
    }
}

/// The id of the cgroup that a request is of.
///
/// # Safety
/// As for [`issued`].
#[inline(always)]
unsafe fn cgroup_of(rq: u64) -> u64 {
    // SAFETY: typed loads along the members that FACTS names; a request without a bio, such as a flush, leads to zeros.
    unsafe {
        if frozen!(FACTS.by_bio) != 0 {
            let cgroup = cgroup_of_bio(load(rq, frozen!(FACTS.rq_bio)));
            if load32(cgroup, frozen!(FACTS.cgroup_level)) != 0 {
                return id_of(cgroup);
            }
        }
        bpf_get_current_cgroup_id()
    }
}

/// The cgroup that a bio is charged to: the nearest one with the io controller.
///
/// # Safety
/// `bio` must be a BTF-typed pointer to a `struct bio`; it may be null.
#[inline(always)]
unsafe fn cgroup_of_bio(bio: u64) -> u64 {
    // SAFETY: typed loads along the members that FACTS names; null leads to null.
    unsafe { load(load(load(bio, frozen!(FACTS.bio_blkg)), frozen!(FACTS.blkg_blkcg)), frozen!(FACTS.blkcg_cgroup)) }
}

/// # Safety
/// `cgroup` must be a BTF-typed pointer to a `struct cgroup`.
#[inline(always)]
unsafe fn id_of(cgroup: u64) -> u64 {
    // SAFETY: typed loads along the members that FACTS names.
    unsafe { load(load(cgroup, frozen!(FACTS.cgroup_kn)), frozen!(FACTS.kn_id)) }
}

#[inline(always)]
fn slot_of(cgroup: u64) -> u32 {
    // SAFETY: the slot is copied out at once.
    unsafe { CGROUP_SLOTS.get(cgroup) }.copied().unwrap_or(UNATTRIBUTED)
}

/// `block_rq_complete(struct request *rq, blk_status_t error, unsigned int nr_bytes)`: the device has done a request, or the next part
/// of it.
#[btf_tracepoint(function = "block_rq_complete")]
fn disk_on_complete(ctx: BtfTracePointContext) -> i32 {
    let rq: u64 = ctx.arg(0);
    // SAFETY: argument 0 is a request by the tracepoint's prototype; typed loads; the entry is copied out at once.
    unsafe {
        let Some(direction) = Direction::of_flags(load32(rq, frozen!(FACTS.rq_flags))) else { return 0 };
        let bytes: u32 = ctx.arg(2);
        let Some(noted) = DISK_REQUESTS.get_ptr_mut(rq).filter(|noted| (**noted).issued_ns != 0) else {
            count_lost(rq, bytes);
            return 0;
        };
        let (issued_ns, cgroup) = ((*noted).issued_ns, (*noted).cgroup);
        let slot = known(Some(&raw mut (*noted).slot), cgroup, generation(&GENERATION), || slot_of(cgroup));
        let mut part =
            Part { slot, direction: direction as u32, bytes: bytes as u64, failed: ctx.arg::<u32>(1) != 0, times: None };
        if bytes >= load32(rq, frozen!(FACTS.rq_data_len)) {
            (*noted).issued_ns = 0;
            part.times = Some(Times::of(rq, issued_ns));
        }
        let counted = count_for_slot(&part) & count_for_device(device_of(rq), &part);
        if !counted && let Some(lost) = DISK_LOST.get_ptr_mut(0) {
            add(&raw mut (*lost).rows, 1);
        }
    }
    0
}

/// What was completed of a request.
struct Part {
    slot: u32,
    direction: u32,
    bytes: u64,
    failed: bool,
    /// With the last part.
    times: Option<Times>,
}

/// How long a request took, in ns.
struct Times {
    waiting_ns: u64,
    device_ns: u64,
    /// Where both together are among the buckets.
    position: u64,
}

impl Times {
    /// # Safety
    /// As for [`issued`].
    #[inline(always)]
    unsafe fn of(rq: u64, issued_ns: u64) -> Self {
        // SAFETY: a typed load along the member that FACTS names; a helper without arguments.
        unsafe {
            let device_ns = bpf_ktime_get_ns().saturating_sub(issued_ns);
            // 0 where the queue keeps no statistics (`queue/iostats`) and has no scheduler.
            let start_ns = load(rq, frozen!(FACTS.rq_start_ns));
            let waiting_ns = if start_ns == 0 { 0 } else { issued_ns.saturating_sub(start_ns) };
            Self { waiting_ns, device_ns, position: disk_position(waiting_ns + device_ns) }
        }
    }

    #[inline(always)]
    fn sum_ns(&self) -> u64 {
        self.waiting_ns + self.device_ns
    }
}

/// The position of a duration in ns among the buckets.
///
/// A global function, which the verifier checks once and apart from its callers. Inlined, each of its 256 results was followed through all that
/// comes after: a second and a half for `disk_on_complete`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn disk_position(ns: u64) -> u64 {
    duration_position(ns) as u64
}

/// Counts in one of a row's buckets.
///
/// # Safety
/// `buckets` must be [`DURATION_LEN`] counts of a map value.
#[inline(always)]
unsafe fn count_in(buckets: *mut u64, position: u64) {
    // The compiler knows the bound; the verifier has to be shown it where it is used.
    let position = opaque(position);
    if position < DURATION_LEN as u64 {
        // SAFETY: inside the map value.
        unsafe { add(buckets.add(position as usize), 1) };
    }
}

/// Adds to the row of a slot; `false` where there is none.
#[inline(always)]
fn count_for_slot(part: &Part) -> bool {
    let Some(row) = row(&DISK_ROWS, &DISK_EMPTY_ROW, part.slot, part.direction) else { return false };
    // SAFETY: counters of a map value.
    unsafe {
        if !part.failed && part.bytes > 0 {
            add(&raw mut (*row).bytes, part.bytes);
        }
        if let Some(times) = &part.times {
            add(&raw mut (*row).sum_ns, times.sum_ns());
            count_in((&raw mut (*row).buckets).cast(), times.position);
        }
    }
    true
}

/// Adds to the row of a device; `false` where there is none. A request without a disk, such as one of a tape, has no device.
#[inline(always)]
fn count_for_device(device: u32, part: &Part) -> bool {
    if device == 0 {
        return true;
    }
    let Some(row) = row(&DISK_DEVICES, &DISK_EMPTY_DEVICE, device, part.direction) else { return false };
    // SAFETY: counters of a map value.
    unsafe {
        if part.failed {
            add(&raw mut (*row).errors, 1);
        }
        if let Some(times) = &part.times {
            add(&raw mut (*row).waiting_ns, times.waiting_ns);
            add(&raw mut (*row).device_ns, times.device_ns);
            add(&raw mut (*row).sum_ns, times.sum_ns());
            count_in((&raw mut (*row).buckets).cast(), times.position);
        }
    }
    true
}

/// The number of a request's device: `major << 20 | minor`; 0 where it has no disk.
///
/// # Safety
/// As for [`issued`].
#[inline(always)]
unsafe fn device_of(rq: u64) -> u32 {
    // SAFETY: typed loads along the members that FACTS names; null leads to zeros.
    unsafe {
        let mut disk = load(rq, frozen!(FACTS.rq_disk));
        if frozen!(FACTS.disk_is_of_queue) != 0 {
            disk = load(disk, frozen!(FACTS.queue_disk));
        }
        load32(disk, frozen!(FACTS.disk_major)) << 20 | load32(disk, frozen!(FACTS.disk_minor))
    }
}

/// `sys_fsync(const struct pt_regs *regs)`: a task calls `fsync`. The compiler may have put all that it calls inside it, so that no program
/// at [`disk_on_sync`]'s function sees it.
#[fentry(function = "__x64_sys_fsync")]
fn disk_on_fsync(ctx: FEntryContext) -> i32 {
    begins(ctx.arg(0))
}

/// `fsync` returns.
#[fexit(function = "__x64_sys_fsync")]
fn disk_on_fsynced(ctx: FExitContext) -> i32 {
    ends(ctx.arg(0), ctx.arg(1))
}

/// `sys_fdatasync(const struct pt_regs *regs)`: a task calls `fdatasync`.
#[fentry(function = "__x64_sys_fdatasync")]
fn disk_on_fdatasync(ctx: FEntryContext) -> i32 {
    begins(ctx.arg(0))
}

/// `fdatasync` returns.
#[fexit(function = "__x64_sys_fdatasync")]
fn disk_on_fdatasynced(ctx: FExitContext) -> i32 {
    ends(ctx.arg(0), ctx.arg(1))
}

/// `int vfs_fsync_range(struct file *file, loff_t start, loff_t end, int datasync)`: a file is synced by `msync`, a write to a file that is
/// open with `O_SYNC`, or `io_uring`; or by `fsync` further out.
#[fentry(function = "vfs_fsync_range")]
fn disk_on_sync(ctx: FEntryContext) -> i32 {
    begins(ctx.arg(0))
}

/// It has synced it.
#[fexit(function = "vfs_fsync_range")]
fn disk_on_synced(ctx: FExitContext) -> i32 {
    ends(ctx.arg(0), ctx.arg(4))
}

/// Notes when this task began to sync, unless it does so already further out. `of` tells that function from others inside it.
///
/// The kernel may leave out the program at the end, as while another tracer comes to the function: what began the same way, or long ago, has
/// ended.
#[inline(always)]
fn begins(of: u64) -> i32 {
    // SAFETY: a helper without arguments; the entry is copied out at once.
    let (sync, outer) = unsafe { (Sync { began_ns: bpf_ktime_get_ns(), of }, DISK_SYNCS.get(thread_id()).copied()) };
    let goes_on = |outer: Sync| outer.of != of && sync.began_ns.saturating_sub(outer.began_ns) < LONGEST_SYNC_NS;
    if outer.is_some_and(goes_on) {
        return 0;
    }
    if DISK_SYNCS.insert(thread_id(), sync, 0).is_err()
        && let Some(lost) = DISK_LOST.get_ptr_mut(0)
    {
        // SAFETY: a counter of a map value.
        unsafe { add(&raw mut (*lost).syncs, 1) };
    }
    0
}

/// Counts the sync that began with `of`. A descriptor that is of no file, or of one that cannot be synced, makes none.
#[inline(always)]
fn ends(of: u64, result: i32) -> i32 {
    let task = thread_id();
    // SAFETY: helpers without arguments; the entry is copied out at once; counters of map values.
    unsafe {
        let Some(sync) = DISK_SYNCS.get(task).copied().filter(|sync| sync.of == of) else { return 0 };
        let _ = DISK_SYNCS.remove(task);
        if result == -EBADF || result == -EINVAL {
            return 0;
        }
        let took_ns = bpf_ktime_get_ns().saturating_sub(sync.began_ns);
        let slot = slot_of(bpf_get_current_cgroup_id());
        match row(&DISK_ROWS, &DISK_EMPTY_ROW, slot, SYNC) {
            Some(row) => {
                add(&raw mut (*row).sum_ns, took_ns);
                count_in((&raw mut (*row).buckets).cast(), disk_position(took_ns));
            }
            None => {
                if let Some(lost) = DISK_LOST.get_ptr_mut(0) {
                    add(&raw mut (*lost).rows, 1);
                }
            }
        }
        if result < 0
            && let Some(counts) = DISK_COUNTS.get_ptr_mut(slot)
        {
            add(&raw mut (*counts).sync_errors, 1);
        }
    }
    0
}

#[inline(always)]
fn thread_id() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_pid_tgid() as u32 }
}

/// `bool __blk_throtl_bio(struct bio *bio)`, which is called only for cgroups with a limit: true where the bio has to wait. It waits for a
/// tick at least, and is there until then.
#[fexit(function = "__blk_throtl_bio")]
fn disk_on_throttle(ctx: FExitContext) -> i32 {
    // The register has more bits than the bool.
    if ctx.arg::<u64>(1) & 0xff == 0 {
        return 0;
    }
    let bio: u64 = ctx.arg(0);
    // SAFETY: argument 0 is a bio by the function's prototype; typed loads; a counter of a map value.
    unsafe {
        let writes = load32(bio, frozen!(FACTS.bio_flags)) & 1 != 0;
        if let Some(counts) = DISK_COUNTS.get_ptr_mut(slot_of(id_of(cgroup_of_bio(bio)))) {
            let throttled = (&raw mut (*counts).throttled).cast::<u64>();
            add(if writes { throttled.add(1) } else { throttled }, 1);
        }
    }
    0
}
