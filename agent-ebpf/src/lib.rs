//! What podmeter's eBPF programs share: reading the kernel's structs, and finding a cgroup's slot.
//!
//! rustc emits no CO-RE relocations. The agent finds every offset in the running kernel's BTF and freezes it into a global
//! before the program loads; the verifier then sees constants and allows direct loads through BTF-typed pointers.
#![no_std]
#![feature(asm_experimental_arch)]

pub mod known;
pub mod message;
pub mod packet;
pub mod rows;
pub mod socket;

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, HashMap},
    helpers::{bpf_probe_read_kernel, generated::bpf_probe_read_kernel_str},
};

/// `BPF_F_MMAPABLE`: userspace reads the map as memory, without a system call per value.
pub const MMAPABLE: usize = 1 << 10;

/// `cgroup.kn.id` -> slot. Filled in the kernel at `cgroup_mkdir` and by the agent for older cgroups.
pub type CgroupSlots = HashMap<u64, u32, 1>;

/// One counter that grows whenever a cgroup is born, because a new cgroup may reuse the address of a dead one.
pub type Generation = Array<u64, 1, MMAPABLE>;

/// The arguments of an `iter/cgroup` program (`struct bpf_iter__cgroup`).
#[repr(C)]
pub struct CgroupWalk {
    meta: u64,
    /// The cgroup, typed; null after the last one.
    pub cgroup: u64,
}

/// Defines what every object needs: the license section, the panic handler, and the frozen global of its facts, where it has one:
/// `object!(FACTS: Facts)`.
#[macro_export]
macro_rules! object {
    ($facts:ident: $type:ty) => {
        $crate::object!();

        #[unsafe(no_mangle)]
        static $facts: $type = <$type>::ZERO;
    };
    () => {
        #[unsafe(link_section = "license")]
        #[unsafe(no_mangle)]
        static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

        #[panic_handler]
        fn panic(_: &core::panic::PanicInfo) -> ! {
            loop {}
        }
    };
}

/// Reads a field of a frozen global: `frozen!(FACTS.tick_ns)`.
///
/// Volatile, or rustc would use the zero it was compiled with.
#[macro_export]
macro_rules! frozen {
    ($global:ident.$($field:ident).+) => {
        // SAFETY: the address of a field of a live static; only its initial value is replaced, before the program loads.
        unsafe { core::ptr::read_volatile(&raw const $global.$($field).+) }
    };
}

/// Whether a pointer is an address of the kernel's: null is none, nor is what a union keeps in a pointer's place.
///
/// Every kernel says that a load through another pointer gives 0, and several do not keep to it. Before Linux 5.12, and on ARM, it gets there by
/// the handler of page faults, which takes the task's `mmap_lock` and sleeps: in `sched_switch`, with the run queue locked, that stops both
/// CPUs. Until 5.15 a check for null does not see null with an offset added, as loads are compiled here. From 6.5 to 6.13 the verifier takes
/// the arguments of tracepoints for never null, deletes checks that they are not 0, and such a load crashes the kernel; this comparison it
/// keeps, since it draws a conclusion from equality with 0 only.
#[inline(always)]
pub fn is_kernel_address(pointer: u64) -> bool {
    // The compiler would make one of this and of a check for 0, which newer verifiers want to see.
    opaque(pointer).cast_signed() < 0
}

/// Loads a `u64` field through a BTF-typed pointer: `pointer` is a pointer argument of the program or was loaded through one. What null leads to
/// is 0.
///
/// # Safety
/// `offset` must be that of a 64-bit field of the struct that the verifier knows `pointer` to point to. A wrong one is refused
/// when the program loads; a field that is no pointer yields a plain number.
#[inline(always)]
pub unsafe fn load(pointer: u64, offset: u64) -> u64 {
    if !is_kernel_address(pointer) {
        return 0;
    }
    // SAFETY: the verifier checks this very access against the kernel's BTF.
    unsafe { core::ptr::read_volatile((pointer + offset) as *const u64) }
}

/// Loads a `u32` field through a BTF-typed pointer.
///
/// # Safety
/// As for [`load`].
#[inline(always)]
pub unsafe fn load32(pointer: u64, offset: u64) -> u32 {
    if !is_kernel_address(pointer) {
        return 0;
    }
    // SAFETY: the verifier checks this very access against the kernel's BTF.
    unsafe { core::ptr::read_volatile((pointer + offset) as *const u32) }
}

/// Loads a `u8` field through a BTF-typed pointer.
///
/// # Safety
/// As for [`load`].
#[inline(always)]
pub unsafe fn load8(pointer: u64, offset: u64) -> u8 {
    if !is_kernel_address(pointer) {
        return 0;
    }
    // SAFETY: the verifier checks this very access against the kernel's BTF.
    unsafe { core::ptr::read_volatile((pointer + offset) as *const u8) }
}

/// Loads a `u16` field through a BTF-typed pointer.
///
/// # Safety
/// As for [`load`].
#[inline(always)]
pub unsafe fn load16(pointer: u64, offset: u64) -> u16 {
    if !is_kernel_address(pointer) {
        return 0;
    }
    // SAFETY: the verifier checks this very access against the kernel's BTF.
    unsafe { core::ptr::read_volatile((pointer + offset) as *const u16) }
}

/// 1 where programs may read kernel memory by address; frozen by the agent. A kernel that is locked down for confidentiality refuses
/// every program that could call the helpers for it, and with 0 the verifier sees that none does.
#[unsafe(no_mangle)]
static READS_BY_ADDRESS: u64 = 0x5ead_5ead_5ead_5ead;

/// Whether this kernel lets programs read its memory by address.
#[inline(always)]
pub fn reads_by_address() -> bool {
    // SAFETY: a live static, of which only the initial value is replaced, before the program loads.
    unsafe { core::ptr::read_volatile(&raw const READS_BY_ADDRESS) != 0 }
}

/// Number of slots; frozen by the agent. It is no part of an object's facts: two objects may differ in it alone, and one then goes on with
/// what the other has counted.
///
/// Compiled with a number that no constant of a program has: the compiler may give equal constants one place, and all of them would be
/// replaced.
#[unsafe(no_mangle)]
static SLOTS: u32 = 0x5107_5107;

/// How long an array by slot is.
#[inline(always)]
pub fn slots() -> u32 {
    // SAFETY: a live static, of which only the initial value is replaced, before the program loads.
    unsafe { core::ptr::read_volatile(&raw const SLOTS) }
}

/// The one value of an array that is an entry of an array of maps.
#[inline(always)]
pub fn only_value<T: 'static, const ENTRIES: usize>(arrays: &ArrayOfMaps<Array<T, 1>, ENTRIES>, index: u32) -> Option<*mut T> {
    // On the stack: a constant may share its place with a global that the agent replaces.
    let key = opaque(0) as u32;
    arrays.get_value_ptr_mut(index, &key)
}

/// Reads a `u64` at an address that is a mere number, by a helper that survives a wrong one.
#[inline(always)]
pub fn probe(address: u64, offset: u64) -> Option<u64> {
    if !reads_by_address() {
        return None;
    }
    // SAFETY: bpf_probe_read_kernel returns an error for memory that cannot be read.
    unsafe { bpf_probe_read_kernel((address + offset) as *const u64) }.ok()
}

/// Copies a zero-terminated string of the kernel's, cut to `room` bytes with its zero; `None` when it cannot be read.
///
/// # Safety
/// `to` must be writable for `room` bytes.
#[inline(always)]
pub unsafe fn probe_str(to: *mut u8, room: u32, address: u64) -> Option<u32> {
    if !reads_by_address() {
        return None;
    }
    // SAFETY: the helper writes at most the given length, and survives any address.
    let copied = unsafe { bpf_probe_read_kernel_str(to.cast(), room, address as *const _) };
    if copied > 0 { Some(copied as u32 - 1) } else { None }
}

/// Copies `len` bytes of the kernel's memory; zeros where it cannot be read.
///
/// # Safety
/// `to` must be writable for `len` bytes.
#[inline(always)]
pub unsafe fn probe_bytes(to: *mut u8, len: u32, address: u64) {
    if reads_by_address() {
        // SAFETY: the helper writes at most the given length, and survives any address.
        unsafe { aya_ebpf::helpers::generated::bpf_probe_read_kernel(to.cast(), len, address as *const _) };
    }
}

/// Where the counters of a memory cgroup begin; `vmstats` is their offset, or that of a pointer to them.
#[inline(always)]
pub fn statistics(memcg: u64, vmstats: u64, is_pointer: u64) -> Option<u64> {
    if is_pointer == 0 { Some(memcg + vmstats) } else { probe(memcg, vmstats) }
}

/// Reads a `u32` at an address that is a mere number, as [`probe`] does.
#[inline(always)]
pub fn probe32(address: u64, offset: u64) -> Option<u32> {
    if !reads_by_address() {
        return None;
    }
    // SAFETY: bpf_probe_read_kernel returns an error for memory that cannot be read.
    unsafe { bpf_probe_read_kernel((address + offset) as *const u32) }.ok()
}

/// Adds `n` to a count that other CPUs, interrupts and the agent add to as well.
///
/// Linux 5.10 has no other atomic operation, and the target's Rust offers none.
///
/// # Safety
/// `count` must be in a map value and 8-byte aligned.
#[inline(always)]
pub unsafe fn add(count: *mut u64, n: u64) {
    // SAFETY: BPF_ATOMIC | BPF_ADD on the caller's map value.
    unsafe { core::arch::asm!("lock *(u64 *)({count} + 0) += {n}", count = in(reg) count, n = in(reg) n, options(nostack)) };
}

/// Replaces a word by another if it is still what it was read as; whether it was. Needs Linux 5.12, on ARM 5.18: earlier ones refuse a
/// program that has this, even where it is never reached.
///
/// # Safety
/// `word` must be in a map value and 8-byte aligned.
#[inline(always)]
pub unsafe fn exchanged(word: *mut u64, expected: u64, new: u64) -> bool {
    let found: u64;
    // SAFETY: BPF_ATOMIC | BPF_CMPXCHG on the caller's map value. It compares with r0, and puts there what it has found.
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({word} + 0, r0, {new})",
            word = in(reg) word, new = in(reg) new, inlateout("r0") expected => found, options(nostack)
        )
    };
    found == expected
}

/// The same number, of which the compiler knows nothing: what is then checked is the very value that is used, and the verifier sees it.
#[inline(always)]
pub fn opaque(number: u64) -> u64 {
    let same: u64;
    // SAFETY: a move between registers. Without an instruction, two lines would claim the same one, which the kernel refuses.
    unsafe {
        core::arch::asm!("{same} = {number}", same = out(reg) same, number = in(reg) number, options(pure, nomem, nostack))
    };
    same
}

/// The same number, if it fits the mask, of which the verifier knows nothing but that. It follows every value that it knows to differ
/// through all that comes after; where it need not, this makes one of many. `noise` is any number that the verifier does not know.
#[inline(always)]
pub fn forgotten(number: u64, mask: u64, noise: u64) -> u64 {
    (opaque(number ^ noise) ^ noise) & mask
}

/// A length from 1 to `most` out of one that may be anything, `None` for another: in such a way that the verifier of Linux 5.10 sees
/// both bounds, which takes "not 0" for no bound.
#[inline(always)]
pub fn length_within(length: u64, most: u64) -> Option<u64> {
    let less = opaque(length.wrapping_sub(1));
    if less < most { Some(less + 1) } else { None }
}
