//! How well connections do, by what the kernel keeps of each: metrics, and where this kernel keeps it.
//!
//! A member that a kernel lacks takes its own metrics only.

use agent_common::tcp::{Again, Facts, LACKING, Side, TcpCounts};

use crate::{
    kernel::{
        btf::{Btf, BtfError},
        facts::tick_ns,
    },
    metric::{Metric, Point, Scope, Value},
};

/// `podmeter.tcp.out_of_order`
pub(super) static OUT_OF_ORDER: Metric = Metric::counter(
    "podmeter.tcp.out_of_order",
    "{segment}",
    Scope::Cgroup,
    "TCP segments with data that were received out of order: ones before them were lost or came later. Absent until there is one.",
);
/// `podmeter.tcp.retransmits.by_reason`
pub static RETRANSMITS_BY_REASON: Metric = Metric::counter(
    "podmeter.tcp.retransmits.by_reason",
    "{segment}",
    Scope::Cgroup,
    "Segments of podmeter.tcp.retransmits by why they were sent again: fast (acknowledgements showed that they were lost), timeout (nothing \
     came back: these cost 200 ms and more each), tail_loss_probe (the last segment, after two round trips without an answer) or handshake \
     (SYN, and SYN-ACK of connections that were then established). Absent until there is one.",
)
.attributes(&["reason"]);
/// `podmeter.tcp.unacknowledged`
pub static UNACKNOWLEDGED: Metric = Metric::counter(
    "podmeter.tcp.unacknowledged",
    "By",
    Scope::Cgroup,
    "Bytes that programs had written to connections which ended before the other end acknowledged them: it may not have got them. Absent until \
     there are some.",
);
/// `podmeter.tcp.accept.duration`
pub static ACCEPT_DURATION: Metric = Metric::histogram(
    "podmeter.tcp.accept.duration",
    "s",
    Scope::Cgroup,
    "Time for which an established connection waited in the queue of a listening socket until a program accepted it. Where it grows, the \
     program is too slow or has too few threads, and its clients wait.",
);
/// `podmeter.tcp.spurious`
pub(super) static SPURIOUS: Metric = Metric::counter(
    "podmeter.tcp.spurious",
    "{segment}",
    Scope::Cgroup,
    "TCP segments that the other end reported to have received twice (DSACK): nearly always sent again without need, and then among \
     podmeter.tcp.retransmits too. Absent until there is one.",
);
/// `podmeter.tcp.window_limited`
pub static WINDOW_LIMITED: Metric = Metric::counter(
    "podmeter.tcp.window_limited",
    "s",
    Scope::Cgroup,
    "Time in which connections had data to send and waited for the receive window of the other end, which does not read fast \
     enough; a window of zero is the extreme. Added up over connections, in ticks of the kernel. Absent until there is some.",
);
/// `podmeter.tcp.rtt.shortest`
pub(super) static SHORTEST_RTT: Metric = Metric::histogram(
    "podmeter.tcp.rtt.shortest",
    "s",
    Scope::Cgroup,
    "Shortest round-trip time of a connection in its last 5 min (net.ipv4.tcp_min_rtt_wlen), once per connection, when it ends: the \
     way without its queues.",
);
/// `podmeter.tcp.connections.opened`
pub(super) static CONNECTIONS_OPENED: Metric = Metric::counter(
    "podmeter.tcp.connections.opened",
    "{connection}",
    Scope::Cgroup,
    "TCP connections that were established, by side: client (connected) or server (accepted by the kernel, before the program \
     accepts them). Absent until there is one.",
)
.attributes(&["side"]);
/// `podmeter.tcp.connections.open`
pub static CONNECTIONS: Metric = Metric::gauge(
    "podmeter.tcp.connections.open",
    "{connection}",
    Scope::Cgroup,
    "TCP connections that are open, by side: client, server, or unknown for those that are older than the counting (none before \
     Linux 5.11). Those in TIME_WAIT are not open. Absent until there is one.",
)
.attributes(&["side"]);

/// What a cgroup's connections did since `start_ns`, CLOCK_BOOTTIME; what never happened has no point.
pub(super) fn points(start_ns: u64, counts: &TcpCounts) -> Vec<Point> {
    let count = |metric, n: u64| (n > 0).then(|| Point::new(metric, start_ns, Value::Int(n)));
    let mut points = Vec::new();
    points.extend(count(&OUT_OF_ORDER, counts.out_of_order));
    points.extend(count(&SPURIOUS, counts.spurious));
    points.extend(count(&UNACKNOWLEDGED, counts.unacknowledged));
    for (reason, n) in Again::NAMES.iter().zip(counts.again) {
        points.extend(count(&RETRANSMITS_BY_REASON, n).map(|point| point.with("reason", *reason)));
    }
    let waited_s = counts.window_limited as f64 * tick_ns() as f64 / 1e9;
    points.extend((waited_s > 0.0).then(|| Point::new(&WINDOW_LIMITED, start_ns, Value::Float(waited_s))));
    for (side, n) in Side::NAMES.iter().zip(counts.opened) {
        points.extend(count(&CONNECTIONS_OPENED, n).map(|point| point.with("side", *side)));
    }
    for (at, (side, n)) in Side::NAMES.iter().zip(counts.open).enumerate() {
        // One that ends may be taken back before what opened it is read.
        let n = n.cast_signed().max(0).cast_unsigned();
        if n > 0 || counts.opened.get(at).is_some_and(|opened| *opened > 0) {
            points.push(Point::new(&CONNECTIONS, start_ns, Value::Int(n)).with("side", *side));
        }
    }
    points
}

/// What this kernel does not have, in words.
pub(super) fn lacks(facts: &Facts) -> Vec<String> {
    let of = [
        (facts.rtt_min, "tcp_sock.rtt_min: no shortest round-trip times"),
        (facts.rcv_ooopack, "tcp_sock.rcv_ooopack and dsack_dups: no segments out of order, no spurious ones"),
        (facts.ca_state, "inet_connection_sock.icsk_ca_state and tcp_skb_cb.tcp_gso_segs: no retransmits by reason"),
        (facts.chrono_start, "tcp_sock.chrono_start, chrono_stat and chrono_type: no time limited by the window"),
    ];
    of.iter().filter(|(at, _)| *at == LACKING).map(|(_, what)| format!("this kernel lacks {what}")).collect()
}

/// Where `tcp_sock.rtt_min.s[0].v` is.
pub(super) fn rtt_min(btf: &Btf) -> u64 {
    // Three of time and value, 32 bits each.
    btf.offset_of("tcp_sock", "rtt_min", 24).map_or(LACKING, |at| at + 4)
}

/// Where `tcp_sock.rcv_ooopack` and `dsack_dups` are.
pub(super) fn disorder(btf: &Btf) -> (u64, u64) {
    let at = |member| btf.offset_of("tcp_sock", member, 4);
    at("rcv_ooopack").and_then(|rcv_ooopack| Ok((rcv_ooopack, at("dsack_dups")?))).unwrap_or((LACKING, LACKING))
}

/// Where the kernel keeps why segments are sent again, and how many.
pub(super) struct Reasons {
    pub(super) ca_state: u64,
    pub(super) ca_state_shift: u64,
    pub(super) segments: u64,
}

impl Reasons {
    pub(super) fn of(btf: &Btf) -> Self {
        Self::found(btf).unwrap_or(Self { ca_state: LACKING, ca_state_shift: 0, segments: LACKING })
    }

    fn found(btf: &Btf) -> Result<Self, BtfError> {
        let (ca_state, ca_state_shift) = btf.bitfield("inet_connection_sock", "icsk_ca_state")?;
        let segments = btf.offset_of("sk_buff", "cb", 48)? + btf.offset_of("tcp_skb_cb", "tcp_gso_segs", 2)?;
        Ok(Self { ca_state, ca_state_shift, segments })
    }
}

/// Where the kernel keeps what a connection waits for, and for how long.
pub(super) struct Chrono {
    pub(super) start: u64,
    pub(super) window_limited: u64,
    pub(super) kind_at: u64,
    pub(super) kind_shift: u64,
}

impl Chrono {
    pub(super) fn of(btf: &Btf) -> Self {
        Self::found(btf).unwrap_or(Self { start: LACKING, window_limited: LACKING, kind_at: LACKING, kind_shift: 0 })
    }

    fn found(btf: &Btf) -> Result<Self, BtfError> {
        // Two bits of a byte, later a byte.
        let byte = btf.offset_of("tcp_sock", "chrono_type", 1).map(|at| (at, 0));
        let (kind_at, kind_shift) = byte.or_else(|_| btf.bitfield("tcp_sock", "chrono_type"))?;
        Ok(Self {
            start: btf.offset_of("tcp_sock", "chrono_start", 4)?,
            // Busy, limited by the window, limited by the send buffer: 32 bits each.
            window_limited: btf.offset_of("tcp_sock", "chrono_stat", 12)? + 4,
            kind_at,
            kind_shift,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_stays_shown_when_nothing_is_open_any_more() {
        assert!(points(0, &TcpCounts::ZERO).is_empty());
        let counts = TcpCounts { opened: [2, 0], open: [0, 0, 1], ..TcpCounts::ZERO };
        let shown: Vec<_> = points(0, &counts).into_iter().map(|point| (point.metric.name, point.value)).collect();
        assert_eq!(
            shown,
            [(CONNECTIONS_OPENED.name, Value::Int(2)), (CONNECTIONS.name, Value::Int(0)), (CONNECTIONS.name, Value::Int(1))]
        );
    }
}
