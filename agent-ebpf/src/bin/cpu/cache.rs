//! What a CPU counts, by cgroup: a small cache of its own, which is flushed into the record of the slot.
//!
//! A cached cgroup is touched by its own CPU alone, where no switch can come in between. Records are added to atomically, by every CPU and by the agent.

use agent_common::cpu::{
    CACHE_SETS, CACHE_WAYS, CACHED_WAITS, CacheSet, CachedCgroup, CpuNow, FLUSHED_AT_ONCE, LIST_LEN, LOG_LEN, WAIT_LEN,
    wait_position,
};
use agent_ebpf::{add, frozen, only_value, opaque};

use crate::{CPU_CACHE, CPU_NOW, CPU_RECORDS, CPU_TO_FLUSH, CPU_WINDOWS, FACTS, GENERATION};

/// A cached cgroup and where it is.
#[derive(Clone, Copy)]
pub(crate) struct Cached {
    /// `set * CACHE_WAYS + way`.
    pub(crate) place: u32,
    pub(crate) entry: *mut CachedCgroup,
}

/// The cached cgroup at a place.
#[inline(always)]
pub(crate) fn at(cpu: u32, place: u32) -> Option<Cached> {
    let set = set_of(cpu, place / CACHE_WAYS as u32)?;
    Some(Cached { place, entry: way_of(set, place & (CACHE_WAYS as u32 - 1)) })
}

#[inline(always)]
fn set_of(cpu: u32, set: u32) -> Option<*mut CacheSet> {
    let cache = only_value(&CPU_CACHE, cpu)?;
    let set = opaque(set.into());
    if set >= CACHE_SETS.into() {
        return None;
    }
    let at = set as usize * size_of::<CacheSet>() + (frozen!(FACTS.cache_skew) & 63) as usize;
    // SAFETY: inside of the cache, which has room for so much more.
    Some(unsafe { cache.cast::<u8>().add(at).cast() })
}

#[inline(always)]
fn way_of(set: *mut CacheSet, way: u32) -> *mut CachedCgroup {
    // SAFETY: one of two, inside of the set.
    unsafe { (&raw mut (*set).ways).cast::<CachedCgroup>().add((way & 1) as usize) }
}

/// A cgroup by its address, to be looked for in the set that its css_set leads to: so the set is loaded at the same time as the
/// css_set, and not after it. Tasks of one cgroup may have several css_sets; each then has an entry of its own for that cgroup.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) css_set: u64,
    pub(crate) cgroup: u64,
}

impl Wanted {
    #[inline(always)]
    fn set(&self) -> u32 {
        const FACTOR: u32 = 0x9e37_79b9;
        ((((self.css_set >> 6) as u32).wrapping_mul(FACTOR) >> 16) * CACHE_SETS) >> 16
    }

    /// The cached cgroup, if there is one. An address is reused only for a cgroup that is born later, and each birth starts a new
    /// generation.
    #[inline(always)]
    pub(crate) unsafe fn find(&self, cpu: u32) -> Option<Cached> {
        let hash = self.set();
        let set = set_of(cpu, hash)?;
        let (first, second) = (way_of(set, 0), way_of(set, 1));
        // SAFETY: map values of this CPU.
        unsafe {
            let generation = core::ptr::read_volatile(GENERATION.get_ptr(0)?) as u32;
            if (*first).cgroup == self.cgroup && (*first).generation == generation {
                return Some(Cached { place: hash * CACHE_WAYS as u32, entry: first });
            }
            if (*second).cgroup == self.cgroup && (*second).generation == generation {
                return Some(Cached { place: hash * CACHE_WAYS as u32 + 1, entry: second });
            }
        }
        None
    }

    /// Puts it into the cache, with its slot. Looking the slot up each time would be two more dependent loads and a hash on a cold node.
    ///
    /// # Safety
    /// `now` must be of this CPU.
    #[inline(always)]
    pub(crate) unsafe fn insert(&self, now: *mut CpuNow, cpu: u32, slot: u32) -> Option<Cached> {
        let hash = self.set();
        let set = set_of(cpu, hash)?;
        let (first, second) = (way_of(set, 0), way_of(set, 1));
        // SAFETY: map values of this CPU.
        unsafe {
            // One of an older generation at this address, one with nothing to flush, or either in turn.
            let way = if (*first).cgroup == self.cgroup {
                0
            } else if (*second).cgroup == self.cgroup {
                1
            } else if (*first).listed == 0 {
                0
            } else if (*second).listed == 0 {
                1
            } else {
                (*now).switches as u32 & 1
            };
            let entry = way_of(set, way);
            if (*entry).slot != slot {
                flush(cpu, hash * CACHE_WAYS as u32 + way);
                (*entry).slot = slot;
            }
            (*entry).cgroup = self.cgroup;
            (*entry).generation = core::ptr::read_volatile(GENERATION.get_ptr(0)?) as u32;
            Some(Cached { place: hash * CACHE_WAYS as u32 + way, entry })
        }
    }
}

/// Has a cached cgroup flushed when the agent reads: before anything is counted in it.
///
/// # Safety
/// `now` must be of this CPU, and `cached` too.
#[inline(always)]
pub(crate) unsafe fn list(now: *mut CpuNow, cpu: u32, cached: Cached) {
    // SAFETY: map values of this CPU.
    unsafe {
        if (*cached.entry).listed != 0 {
            return;
        }
        let Some(list) = CPU_TO_FLUSH.get_ptr_mut(cpu) else { return };
        let len = (*now).to_flush & (LIST_LEN - 1);
        (&raw mut (*list).places).cast::<u16>().add(len as usize).write(cached.place as u16);
        (*now).to_flush = len + 1;
        (*cached.entry).listed = 1;
    }
}

/// Counts a wait that ended when its task got this CPU. One that was `counted` before, when the task was moved, is not another.
///
/// # Safety
/// `entry` must be listed.
#[inline(always)]
pub(crate) unsafe fn add_wait(entry: *mut CachedCgroup, waited_ns: u64, counted: bool) {
    // SAFETY: a map value of this CPU.
    unsafe {
        (*entry).wait_ns += waited_ns;
        if counted && waited_ns == 0 {
            return;
        }
        let position = wait_position(waited_ns);
        if position == 0 {
            (*entry).shortest_waits += 1;
            if (*entry).shortest_waits == u16::MAX {
                flush_waits(entry);
            }
            return;
        }
        let len = (*entry).waits_len as usize;
        if len < CACHED_WAITS {
            (&raw mut (*entry).waits).cast::<u8>().add(len).write(position as u8);
        }
        (*entry).waits_len = len as u8 + 1;
        if len + 1 >= CACHED_WAITS {
            flush_waits(entry);
        }
    }
}

/// Counts time on this CPU inside one window.
///
/// # Safety
/// `now` must be of this CPU, and `entry` too, and listed.
#[inline(always)]
pub(crate) unsafe fn add_time(now: *mut CpuNow, cpu: u32, entry: *mut CachedCgroup, window: u64, ns: u64) {
    // SAFETY: map values of this CPU.
    unsafe {
        (*entry).on_cpu_ns += ns;
        if (*entry).window != window as u32 {
            log(now, cpu, (*entry).slot, (*entry).window, (*entry).window_ns.into());
            (*entry).window = window as u32;
            (*entry).window_ns = 0;
        }
        // A window is 10^8 ns long, and none holds more but by what clocks are apart.
        (*entry).window_ns = (*entry).window_ns.saturating_add(ns as u32);
    }
}

/// Writes into the log what a slot used in a window. The log holds only what was active, so the agent's reading of it costs by activity,
/// not by slots times CPUs.
///
/// # Safety
/// `now` must be of that CPU.
#[inline(always)]
pub(crate) unsafe fn log(now: *mut CpuNow, cpu: u32, slot: u32, window: u32, ns: u64) {
    if ns == 0 {
        return;
    }
    // SAFETY: map values of this CPU.
    unsafe {
        let Some(entry) = CPU_WINDOWS.get_ptr_mut(cpu * LOG_LEN + ((*now).log_head as u32 & (LOG_LEN - 1))) else { return };
        (*entry).slot = slot;
        (*entry).window = window;
        (*entry).on_cpu_ns = ns;
        core::ptr::write_volatile(&raw mut (*now).log_head, (*now).log_head + 1);
    }
}

/// Adds what the cached cgroup at a place has counted to its slot's record and to the log.
///
/// # Safety
/// Nothing else may run on that CPU meanwhile that counts.
#[inline(always)]
pub(crate) unsafe fn flush(cpu: u32, place: u32) {
    cpu_flush(cpu, place);
}

/// A function that the verifier checks once, apart from its callers, because it is global and takes numbers only. Checked in the loop of
/// [`flush_listed`] it was 60 000 instructions more for `cpu_settle`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cpu_flush(cpu: u32, place: u32) -> u32 {
    let (Some(now), Some(Cached { entry, .. })) = (CPU_NOW.get_ptr_mut(cpu), at(cpu, place)) else { return 0 };
    // SAFETY: map values, aligned, which no other CPU touches: see the caller.
    unsafe {
        let Some(record) = CPU_RECORDS.get_ptr_mut((*entry).slot) else { return 0 };
        if (*entry).on_cpu_ns != 0 {
            add(&raw mut (*record).on_cpu_ns, (*entry).on_cpu_ns);
            (*entry).on_cpu_ns = 0;
        }
        if (*entry).wait_ns != 0 {
            add(&raw mut (*record).wait_ns, (*entry).wait_ns);
            (*entry).wait_ns = 0;
        }
        if (*entry).contended_ns != 0 {
            add(&raw mut (*record).contended_ns, (*entry).contended_ns);
            (*entry).contended_ns = 0;
        }
        log(now, cpu, (*entry).slot, (*entry).window, (*entry).window_ns.into());
        (*entry).window_ns = 0;
        flush_waits(entry);
    }
    0
}

/// Adds the waits of a cached cgroup to its slot's record.
///
/// # Safety
/// `entry` must be a map value.
#[inline(never)]
unsafe fn flush_waits(entry: *mut CachedCgroup) {
    // SAFETY: map values, aligned.
    unsafe {
        let Some(record) = CPU_RECORDS.get_ptr_mut((*entry).slot) else { return };
        let waits = (&raw mut (*record).waits).cast::<u64>();
        if (*entry).shortest_waits != 0 {
            add(waits, (*entry).shortest_waits.into());
            (*entry).shortest_waits = 0;
        }
        let len = (*entry).waits_len as usize;
        (*entry).waits_len = 0;
        for n in 0..CACHED_WAITS {
            if n >= len {
                break;
            }
            let position = core::ptr::read_volatile((&raw const (*entry).waits).cast::<u8>().add(n)) as usize;
            if position < WAIT_LEN {
                add(waits.add(position), 1);
            }
        }
    }
}

/// Flushes some of what a CPU has counted, and returns how many cgroups are left.
///
/// # Safety
/// `now` must be of that CPU, and nothing else may run on it meanwhile.
#[inline(never)]
pub(crate) unsafe fn flush_listed(now: *mut CpuNow, cpu: u32) -> u32 {
    let Some(list) = CPU_TO_FLUSH.get_ptr(cpu) else { return 0 };
    for _ in 0..FLUSHED_AT_ONCE {
        // SAFETY: map values of that CPU.
        unsafe {
            let len = (*now).to_flush;
            if len == 0 {
                break;
            }
            let last = (len - 1) & (LIST_LEN - 1);
            (*now).to_flush = last;
            let place = core::ptr::read_volatile((&raw const (*list).places).cast::<u16>().add(last as usize));
            let Some(cached) = at(cpu, place.into()) else { break };
            flush(cpu, place.into());
            (*cached.entry).listed = 0;
        }
    }
    // SAFETY: a map value of that CPU.
    unsafe { (*now).to_flush }
}

const _: () = assert!(CACHE_WAYS == 2, "`way_of` and `Wanted` know of two");
