//! From a socket to the slot of its cgroup.

use agent_common::{
    cgroups::UNATTRIBUTED,
    socket::{SocketFacts, state},
};
use aya_ebpf::{bindings::bpf_sock, helpers::generated::bpf_tcp_sock};

use crate::{CgroupSlots, load, load8, probe};

/// The slot of the cgroup that a socket was made in; [`UNATTRIBUTED`] when it has none, or when this is what is left of a socket:
/// the kernel passes connections that are being made or were closed as sockets too, and those have no cgroup.
///
/// # Safety
/// `sk` must be a BTF-typed pointer to a `struct sock`, and `facts` point into a frozen global.
#[inline(always)]
pub unsafe fn slot_of(slots: &CgroupSlots, sk: u64, facts: *const SocketFacts) -> u32 {
    // SAFETY: typed loads along the members that the facts name.
    unsafe {
        let found = load8(sk, frozen(&raw const (*facts).state));
        if found == state::TIME_WAIT || found == state::NEW_SYN_RECV {
            return UNATTRIBUTED;
        }
        slot_of_full(slots, sk, facts)
    }
}

/// [`slot_of`] a socket that is known to be a whole one.
///
/// # Safety
/// As for [`slot_of`]; `sk` may also point to a struct that begins with a `struct sock`.
#[inline(always)]
pub unsafe fn slot_of_full(slots: &CgroupSlots, sk: u64, facts: *const SocketFacts) -> u32 {
    // SAFETY: typed loads along the members that the facts name; a cgroup that is a mere number is read by a helper.
    let id = unsafe {
        let kn = frozen(&raw const (*facts).cgroup_kn);
        let kn_id = frozen(&raw const (*facts).kn_id);
        let cgroup = load(sk, frozen(&raw const (*facts).cgroup));
        if frozen(&raw const (*facts).cgroup_is_number) == 0 {
            load(load(cgroup, kn), kn_id)
        } else if cgroup & 1 == 0 {
            probe(cgroup, kn).and_then(|kn| probe(kn, kn_id)).unwrap_or(0)
        } else {
            0
        }
    };
    // SAFETY: the slot is copied out at once.
    unsafe { slots.get(id) }.copied().unwrap_or(UNATTRIBUTED)
}

/// The sequence number of the first byte that a TCP connection sends (`EGRESS`) or receives; `None` where it has sent or received some,
/// or is no such connection.
///
/// # Safety
/// `sk` must be a socket of a packet, which the verifier knows.
#[inline(always)]
pub unsafe fn first_byte<const EGRESS: bool>(sk: *mut bpf_sock) -> Option<u32> {
    // SAFETY: the helper makes sure that the socket is TCP's; fields that the verifier checks.
    unsafe {
        let tcp = bpf_tcp_sock(sk);
        if tcp.is_null() {
            return None;
        }
        if EGRESS {
            // The SYN counts among what was acknowledged on the side that sent it first.
            if (*tcp).bytes_acked > 1 { None } else { Some((*tcp).snd_una) }
        } else if (*tcp).bytes_received > 0 {
            None
        } else {
            Some((*tcp).rcv_nxt)
        }
    }
}

/// Reads a frozen number; see `frozen!`.
#[inline(always)]
unsafe fn frozen(number: *const u64) -> u64 {
    // SAFETY: the caller's word for it.
    unsafe { core::ptr::read_volatile(number) }
}
