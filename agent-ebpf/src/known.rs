//! What was looked up and is kept: see [`Known`].

use agent_common::{
    cgroups::UNATTRIBUTED,
    known::{KNOWN_LEN, Known},
};
use aya_ebpf::{btf_maps::Array, helpers::generated::bpf_skb_cgroup_id, programs::SkBuffContext};

use crate::{CgroupSlots, Generation};

/// Values that were looked up, by their keys.
pub type KnownValues = Array<Known, KNOWN_LEN>;

/// The generation of the tables that values are looked up in: what was kept in an earlier one may be wrong. To be read before.
#[inline(always)]
pub fn generation(generation: &Generation) -> u32 {
    match generation.get_ptr(0) {
        // SAFETY: a map value.
        Some(generation) => unsafe { core::ptr::read_volatile(generation) as u32 },
        None => 0,
    }
}

/// The slot of a packet's cgroup. What was kept of it is right while no slot was given back.
///
/// By cgroup and not by socket: the kernel has just read the socket's cgroup to find these programs, while each socket's storage is more
/// memory that is in no cache.
#[inline(always)]
pub fn slot_of(ctx: &SkBuffContext, kept: &KnownValues, generation: u32, slots: &CgroupSlots) -> u32 {
    // SAFETY: a helper that takes the packet.
    let id = unsafe { bpf_skb_cgroup_id(ctx.skb.skb) };
    // SAFETY: the slot is copied out at once.
    let look_up = || unsafe { slots.get(id) }.copied().unwrap_or(UNATTRIBUTED);
    known(kept.get_ptr_mut(Known::position(id)), id, generation, look_up)
}

/// The value of a key: what was kept of it, or what it is now, which is then kept.
#[inline(always)]
pub fn known(place: Option<*mut Known>, key: u64, generation: u32, look_up: impl FnOnce() -> u32) -> u32 {
    let Some(place) = place else { return look_up() };
    // SAFETY: a map value, of which each word is read and written whole.
    unsafe {
        let kept = Known {
            check: core::ptr::read_volatile(&raw const (*place).check),
            fact: core::ptr::read_volatile(&raw const (*place).fact),
        };
        if let Some(value) = kept.value(key, generation) {
            return value;
        }
        let value = look_up();
        let now = Known::new(key, generation, value);
        core::ptr::write_volatile(&raw mut (*place).check, now.check);
        core::ptr::write_volatile(&raw mut (*place).fact, now.fact);
        value
    }
}
