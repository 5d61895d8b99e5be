//! The tcp signal: segments, retransmits, round-trip times, connects and resets of every cgroup's TCP sockets.
//!
//! Nothing runs per packet. The kernel keeps totals in each socket; what a socket sent is the difference between two reads of
//! them: when it is closed, and while it lives whenever the agent walks over all sockets. Where the kernel refuses the walk over
//! all of them, they are also counted once per round trip and when something is sent again, and a walk over the sockets of a
//! network namespace counts the rest. Up to where a socket has been counted is kept in its own storage, which ends with it: see
//! `count.rs`.

use agent_common::{
    socket::state,
    tcp::{
        Again, CONNECTS, ConnectError, Counted, Durations, LACKING, Mode, RTTS, SHORTEST_RTTS, Sent, Side, TcpCounts,
        connect_position, rtt_position,
    },
};
use agent_ebpf::{
    CgroupSlots, MMAPABLE, add, frozen, is_kernel_address, load, load8, load32,
    rows::{Rows, row},
    socket::{slot_of, slot_of_full},
};
use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RETRANS_CB,
        BPF_SOCK_OPS_RETRANS_CB_FLAG, BPF_SOCK_OPS_RTT_CB, BPF_SOCK_OPS_RTT_CB_FLAG, BPF_SOCK_OPS_STATE_CB,
        BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB,
    },
    btf_maps::{Array, SkStorage},
    helpers::generated::{bpf_ktime_get_ns, bpf_skc_to_tcp_sock},
    macros::{btf_map, btf_tracepoint, sock_ops},
    programs::{BtfTracePointContext, SockOpsContext},
};

use crate::{
    FACTS,
    count::{Then, begin, count, counts_of, storage},
    open, quality,
};

#[btf_map]
pub(crate) static CGROUP_SLOTS: CgroupSlots = CgroupSlots::new();
#[btf_map]
pub(crate) static TCP_COUNTS: Array<TcpCounts, 1, MMAPABLE> = Array::new();
#[btf_map]
static TCP_ROWS: Rows<Durations> = Rows::new();
#[btf_map]
static TCP_EMPTY_ROW: Array<Durations, 1> = Array::new();
#[btf_map]
pub(crate) static TCP_SOCKETS: SkStorage<Counted> = SkStorage::new();
#[btf_map]
static TCP_MODE: Array<Mode, 1, MMAPABLE> = Array::new();

/// What happens to a connection, reported by the socket to each program that requested it.
#[sock_ops]
fn tcp_on_event(ctx: SockOpsContext) -> u32 {
    let op = ctx.op();
    let wanted = matches!(
        op,
        BPF_SOCK_OPS_RTT_CB
            | BPF_SOCK_OPS_TCP_CONNECT_CB
            | BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB
            | BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB
            | BPF_SOCK_OPS_TCP_LISTEN_CB
            | BPF_SOCK_OPS_STATE_CB
            | BPF_SOCK_OPS_RETRANS_CB
    );
    if !wanted {
        return 1;
    }
    // SAFETY: a field of the context; the helper takes what it found there, if it is not null.
    let (sk, tcp) = unsafe {
        let sk = (*ctx.ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return 1;
        }
        (sk, bpf_skc_to_tcp_sock(sk.cast()) as u64)
    };
    if tcp == 0 {
        return 1;
    }
    // SAFETY: `tcp` is a whole TCP socket, typed, and `sk` the same for helpers.
    unsafe {
        match op {
            BPF_SOCK_OPS_RTT_CB => {
                observe_rtt(tcp);
                count_at_event(sk as u64, tcp);
            }
            BPF_SOCK_OPS_RETRANS_CB => count_at_event(sk as u64, tcp),
            BPF_SOCK_OPS_TCP_CONNECT_CB => {
                // The SYN has not been sent yet.
                if let Some(counted) = begin(sk as u64, tcp) {
                    (*counted).waits_since_ns = bpf_ktime_get_ns();
                }
                listen_to(&ctx);
            }
            BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => {
                if let Some(counted) = storage(sk as u64, false) {
                    connected(counted, tcp);
                    open::opened(counted, tcp, Side::Client);
                }
            }
            BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => {
                accepted(sk as u64, tcp);
                listen_to(&ctx);
            }
            BPF_SOCK_OPS_TCP_LISTEN_CB => {
                begin(sk as u64, tcp);
                listen_to(&ctx);
            }
            _ if ctx.arg(1) != u32::from(state::CLOSE) => {}
            // Only where the tracepoint of the same cannot do it.
            _ if frozen!(FACTS.by_callback) != 0 => closed(sk as u64, tcp, ctx.arg(0) as u8),
            // The tracepoint comes next. The kernel leaves its program out where it interrupts itself: when a packet closes a socket while
            // the program looks at another. Such a connection would be open for ever.
            _ => {
                ends(sk as u64, tcp, ctx.arg(0) as u8);
            }
        }
    }
    1
}

/// Requests the callbacks of this socket, in addition to those that others have requested.
#[inline(always)]
fn listen_to(ctx: &SockOpsContext) {
    let again = if at_events() { BPF_SOCK_OPS_RETRANS_CB_FLAG } else { 0 };
    // Every kernel that has BTF knows all these flags.
    let _ = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_RTT_CB_FLAG | BPF_SOCK_OPS_STATE_CB_FLAG | again) as i32);
}

/// Whether sockets that live are counted when something happens to them.
#[inline(always)]
fn at_events() -> bool {
    // SAFETY: a word of a map value.
    TCP_MODE.get_ptr(0).is_some_and(|mode| unsafe { core::ptr::read_volatile(&raw const (*mode).at_events) != 0 })
}

/// Counts what a connection has sent until now, where no walk does.
#[inline(always)]
unsafe fn count_at_event(sk: u64, tcp: u64) {
    if !at_events() {
        return;
    }
    // SAFETY: a socket for the helper, and the same one typed; see the caller.
    unsafe {
        if let Some(counted) = storage(sk, false) {
            count(counted, tcp, false, Then::GoesOn);
            (*counted).acked = load(tcp, frozen!(FACTS.bytes_acked));
        }
    }
}

/// `inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`: counts what a socket that is closed has
/// sent.
#[btf_tracepoint(function = "inet_sock_set_state")]
fn tcp_on_state(ctx: BtfTracePointContext) -> i32 {
    let (sk, old, new): (u64, i32, i32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    if new != i32::from(state::CLOSE) {
        return 0;
    }
    // SAFETY: the tracepoint's first argument is a socket, typed; other protocols have the tracepoint too.
    unsafe {
        let tcp = bpf_skc_to_tcp_sock(sk as *mut _) as u64;
        if tcp != 0 {
            closed(sk, tcp, old as u8);
        }
    }
    0
}

/// `tcp_receive_reset(struct sock *sk)`
#[btf_tracepoint(function = "tcp_receive_reset")]
fn tcp_on_reset_received(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint's first argument is a socket, typed.
    unsafe {
        if let Some(counts) = counts_of(slot_of(&CGROUP_SLOTS, ctx.arg(0), &raw const FACTS.socket)) {
            add(&raw mut (*counts).resets_received, 1);
        }
    }
    0
}

/// `tcp_send_reset(const struct sock *sk, const struct sk_buff *skb, …)`: an answer to `skb`, or the socket's own without one.
///
/// An answer is sent by a socket of the kernel's, and is not in the totals of any other. The socket's own is, unless it was closed
/// and counted before.
#[btf_tracepoint(function = "tcp_send_reset")]
fn tcp_on_reset_sent(ctx: BtfTracePointContext) -> i32 {
    let (sk, answered): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    // SAFETY: the tracepoint's first argument is a socket, typed, or null.
    unsafe {
        let slot = if sk == 0 { 0 } else { slot_of(&CGROUP_SLOTS, sk, &raw const FACTS.socket) };
        let Some(counts) = counts_of(slot) else { return 0 };
        add(&raw mut (*counts).resets_sent, 1);
        let by_itself = sk != 0 && !is_kernel_address(answered) && load8(sk, frozen!(FACTS.socket.state)) != state::CLOSE;
        if !by_itself {
            add(&raw mut (*counts).segments, 1);
        }
    }
    0
}

/// The arguments of an `iter/tcp` program (`struct bpf_iter__tcp`).
#[repr(C)]
pub struct TcpWalk {
    meta: u64,
    sk: u64,
}

/// Run for each socket of one network namespace: at start, so that from then on the older ones are counted too, and before each
/// reading where the kernel refuses [`tcp_on_walk`].
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
extern "C" fn tcp_on_find(walk: *const TcpWalk) -> i32 {
    // SAFETY: the kernel calls with such a context; typed pointers are checked for null before they are followed.
    unsafe {
        let sk = (*walk).sk;
        if sk == 0 {
            return 0;
        }
        let tcp = bpf_skc_to_tcp_sock(sk as *mut _) as u64;
        if tcp == 0 {
            return 0;
        }
        match storage(tcp, false) {
            None => {
                if let Some(counted) = begin(tcp, tcp) {
                    open::found(counted, tcp);
                }
            }
            Some(counted) if at_events() => look_at(counted, tcp),
            Some(_) => {}
        }
    }
    0
}

/// Counts what a socket has sent, and observes its round-trip time where the socket does not report it itself.
#[inline(always)]
unsafe fn look_at(counted: *mut Counted, tcp: u64) {
    // SAFETY: a map value and typed loads; see the callers.
    unsafe {
        count(counted, tcp, load8(tcp, frozen!(FACTS.socket.state)) == state::LISTEN, Then::GoesOn);
        // Connections from before the agent's time do not call back.
        let acked = load(tcp, frozen!(FACTS.bytes_acked));
        if u32::from(load8(tcp, frozen!(FACTS.callbacks))) & BPF_SOCK_OPS_RTT_CB_FLAG == 0 && acked != (*counted).acked {
            observe_rtt(tcp);
        }
        (*counted).acked = acked;
    }
}

/// The arguments of an `iter/bpf_sk_storage_map` program (`struct bpf_iter__bpf_sk_storage_map`).
#[repr(C)]
pub struct StorageWalk {
    meta: u64,
    map: u64,
    sk: u64,
    value: *mut Counted,
}

/// Run for each socket that has been counted before, while the agent reads the walk's file.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
extern "C" fn tcp_on_walk(walk: *const StorageWalk) -> i32 {
    // SAFETY: the kernel calls with such a context; typed pointers are checked for null before they are followed.
    unsafe {
        let (sk, counted) = ((*walk).sk, (*walk).value);
        if sk == 0 || counted.is_null() {
            return 0;
        }
        let tcp = bpf_skc_to_tcp_sock(sk as *mut _) as u64;
        if tcp != 0 {
            look_at(counted, tcp);
        }
    }
    0
}

/// Counts the last of a socket that was closed, once however often it is called; whether the socket is counted at all.
#[inline(always)]
unsafe fn ends(sk: u64, tcp: u64, old: u8) -> bool {
    // SAFETY: typed loads; see the callers.
    unsafe {
        let Some(counted) = storage(sk, false) else { return false };
        count(counted, tcp, old == state::LISTEN, Then::Ends);
        (*counted).waits_since_ns = 0;
        open::ended(counted, tcp);
        true
    }
}

/// Counts the last of a socket that was closed, what it leaves unacknowledged, and the connect that failed with it.
#[inline(always)]
unsafe fn closed(sk: u64, tcp: u64, old: u8) {
    // SAFETY: typed loads; see the callers.
    unsafe {
        if ends(sk, tcp, old) {
            quality::count_unacknowledged(tcp, old);
            if old != state::CLOSE && old != state::LISTEN {
                observe_shortest_rtt(tcp);
            }
        }
        if old != state::SYN_SENT {
            return;
        }
        let error = load32(tcp, frozen!(FACTS.error));
        let errno = if error == 0 { load32(tcp, frozen!(FACTS.error_soft)) } else { error };
        if let Some(counts) = counts_of(slot_of_full(&CGROUP_SLOTS, tcp, &raw const FACTS.socket)) {
            let cause = ConnectError::of(errno, load32(tcp, frozen!(FACTS.segs_out))) as usize;
            add((&raw mut (*counts).failures).cast::<u64>().add(cause), 1);
        }
    }
}

/// Counts a connect that was answered.
#[inline(always)]
unsafe fn connected(counted: *mut Counted, tcp: u64) {
    // SAFETY: a map value and typed loads.
    unsafe {
        let began_ns = (*counted).waits_since_ns;
        if began_ns == 0 {
            return;
        }
        (*counted).waits_since_ns = 0;
        let ns = bpf_ktime_get_ns().saturating_sub(began_ns);
        observe(tcp, CONNECTS, ns, connect_position(ns));
    }
}

/// Begins to count an incoming connection: its SYN-ACKs were sent by the kernel before there was a socket.
///
/// `OutSegs` has each of them, and those that were sent again are in `RetransSegs` too (`tcp_make_synack`, `tcp_rtx_synack`); the
/// socket inherits their number as `total_retrans`.
#[inline(always)]
unsafe fn accepted(sk: u64, tcp: u64) {
    // SAFETY: typed loads; see the caller.
    unsafe {
        let Some(counted) = begin(sk, tcp) else { return };
        let again = u64::from(Sent::at((*counted).sent).again);
        if let Some(counts) = counts_of(slot_of_full(&CGROUP_SLOTS, tcp, &raw const FACTS.socket)) {
            add(&raw mut (*counts).segments, 1 + again);
            add(&raw mut (*counts).retransmits, again);
            add((&raw mut (*counts).again).cast::<u64>().add(Again::Handshake as usize), again);
        }
        observe_rtt(tcp);
        (*counted).waits_since_ns = bpf_ktime_get_ns();
        open::opened(counted, tcp, Side::Server);
    }
}

/// Counts the shortest round-trip time of the last 5 min of a connection that ends (`net.ipv4.tcp_min_rtt_wlen`).
#[inline(always)]
unsafe fn observe_shortest_rtt(tcp: u64) {
    let rtt_min = frozen!(FACTS.rtt_min);
    if rtt_min == LACKING {
        return;
    }
    // SAFETY: typed loads and a map value.
    unsafe {
        let us = load32(tcp, rtt_min);
        if us != u32::MAX {
            let ns = u64::from(us) * 1000;
            observe(tcp, SHORTEST_RTTS, ns, rtt_position(ns));
        }
    }
}

/// Counts the round-trip time as the kernel knows it now: smoothed over the last ones (`srtt`).
#[inline(always)]
unsafe fn observe_rtt(tcp: u64) {
    // SAFETY: typed loads and a map value.
    unsafe {
        let eighths_us = load32(tcp, frozen!(FACTS.srtt));
        if eighths_us == 0 {
            return;
        }
        let ns = u64::from(eighths_us) * 125;
        observe(tcp, RTTS, ns, rtt_position(ns));
    }
}

/// Adds an observation to a distribution of the socket's cgroup.
#[inline(always)]
pub(crate) unsafe fn observe(tcp: u64, kind: u32, ns: u64, position: usize) {
    // SAFETY: typed loads and map values; positions lie inside a row.
    unsafe {
        let slot = slot_of_full(&CGROUP_SLOTS, tcp, &raw const FACTS.socket);
        if let Some(row) = row(&TCP_ROWS, &TCP_EMPTY_ROW, slot, kind) {
            add(&raw mut (*row).sum_ns, ns);
            add((&raw mut (*row).buckets).cast::<u64>().add(position), 1);
        } else if let Some(counts) = counts_of(slot) {
            add(&raw mut (*counts).unrecorded, 1);
        }
    }
}
