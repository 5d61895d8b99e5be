//! How well connections do: why segments were sent again, what was never acknowledged, and how long connections waited to be accepted.

use agent_common::{
    socket::state,
    tcp::{ACCEPTS, Again, connect_position},
};
use agent_ebpf::{add, frozen, load8, load16, load32, socket::slot_of_full};
use aya_ebpf::{
    helpers::generated::{bpf_ktime_get_ns, bpf_skc_to_tcp_sock},
    macros::{btf_tracepoint, fexit},
    programs::{BtfTracePointContext, FExitContext},
};

use crate::{
    FACTS,
    count::{counts_of, storage},
    programs::{CGROUP_SLOTS, observe},
};

/// `tcp_retransmit_skb(const struct sock *sk, const struct sk_buff *skb)`: segments were sent again. Since 6.17 there is a third argument: the
/// error with which that failed, or 0.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
fn tcp_on_retransmit(ctx: BtfTracePointContext) -> i32 {
    let (sk, skb): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    if frozen!(FACTS.retransmits_fail) != 0 && ctx.arg::<i32>(2) != 0 {
        return 0;
    }
    // SAFETY: a socket and a packet by the tracepoint's prototype; typed loads along the members that FACTS names; a map value.
    unsafe {
        let tcp = bpf_skc_to_tcp_sock(sk as *mut _) as u64;
        if tcp == 0 {
            return 0;
        }
        let Some(counts) = counts_of(slot_of_full(&CGROUP_SLOTS, tcp, &raw const FACTS.socket)) else { return 0 };
        let control = load8(tcp, frozen!(FACTS.ca_state)) >> (frozen!(FACTS.ca_state_shift) & 7);
        let why = Again::of(load8(tcp, frozen!(FACTS.socket.state)), control);
        let segments = u64::from(load16(skb, frozen!(FACTS.skb_segments)));
        add((&raw mut (*counts).again).cast::<u64>().add(why as usize), segments);
    }
    0
}

/// `struct sock *inet_csk_accept(struct sock *sk, struct proto_accept_arg *arg)`, since 6.10: a program accepts a connection.
#[fexit(function = "inet_csk_accept")]
fn tcp_on_accept(ctx: FExitContext) -> i32 {
    accepted(ctx.arg(2))
}

/// `struct sock *inet_csk_accept(struct sock *sk, int flags, int *err, bool kern)`, until 6.9.
#[fexit(function = "inet_csk_accept")]
fn tcp_on_accept_with_flags(ctx: FExitContext) -> i32 {
    accepted(ctx.arg(4))
}

/// Counts for how long an established connection, or none, has waited until it was accepted.
#[inline(always)]
fn accepted(sk: u64) -> i32 {
    if sk == 0 {
        return 0;
    }
    // SAFETY: a socket by the function's prototype, and not null; a map value.
    unsafe {
        let tcp = bpf_skc_to_tcp_sock(sk as *mut _) as u64;
        if tcp == 0 {
            return 0;
        }
        let Some(counted) = storage(sk, false) else { return 0 };
        let began_ns = (*counted).waits_since_ns;
        if began_ns != 0 {
            (*counted).waits_since_ns = 0;
            let ns = bpf_ktime_get_ns().saturating_sub(began_ns);
            observe(tcp, ACCEPTS, ns, connect_position(ns));
        }
    }
    0
}

/// Counts what a connection that ends had been given to send and the other end has not acknowledged.
#[inline(always)]
pub(crate) unsafe fn count_unacknowledged(tcp: u64, old: u8) {
    // What is on its way before is the SYN.
    if matches!(old, state::SYN_SENT | state::SYN_RECV | state::LISTEN | state::CLOSE) {
        return;
    }
    // SAFETY: typed loads and a map value.
    unsafe {
        let numbers = load32(tcp, frozen!(FACTS.write_seq)).wrapping_sub(load32(tcp, frozen!(FACTS.snd_una)));
        // The FIN has a number too.
        let fin = u32::from(matches!(old, state::FIN_WAIT1 | state::CLOSING | state::LAST_ACK));
        let bytes = numbers.saturating_sub(fin);
        if bytes > 0
            && let Some(counts) = counts_of(slot_of_full(&CGROUP_SLOTS, tcp, &raw const FACTS.socket))
        {
            add(&raw mut (*counts).unacknowledged, bytes.into());
        }
    }
}
