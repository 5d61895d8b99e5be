//! The records of the `tcp` signal.

use crate::{bucket, socket::SocketFacts};

/// Index of the first bucket of round-trip times and connects, in units of 2^-30 s: 2^(120/8) units are 30.5 µs.
pub const FIRST: i32 = 120;

/// Buckets of round-trip times: position 0, then 18 octaves of eight up to 8 s; longer ones are in the last.
pub const RTT_LEN: usize = 1 + 18 * 8;

/// Buckets of connects: position 0, then 22 octaves of eight up to 128 s: as long as Linux tries by default.
pub const CONNECT_LEN: usize = 1 + 22 * 8;

/// The position of a round-trip time in ns among the [`RTT_LEN`] buckets.
#[inline(always)]
pub const fn rtt_position(ns: u64) -> usize {
    bucket::duration_position::<FIRST, RTT_LEN>(ns)
}

/// The position of a connect's duration in ns among the [`CONNECT_LEN`] buckets.
#[inline(always)]
pub const fn connect_position(ns: u64) -> usize {
    bucket::duration_position::<FIRST, CONNECT_LEN>(ns)
}

/// Why a connect failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The other end answered with a reset: the port is closed.
    Refused,
    /// No answer to any try.
    Timeout,
    /// A router or the own neighbour table knew no way.
    Unreachable,
    /// Reset after both ends had begun to connect.
    Reset,
    /// The caller closed the socket before there was an answer.
    Canceled,
    /// Anything else, such as a local firewall's refusal.
    Other,
    /// No SYN was sent: nearly always since no local port was free (EADDRNOTAVAIL).
    NotSent,
}

/// Number of causes.
pub const CONNECT_ERRORS: usize = 7;

impl ConnectError {
    /// Each with its name, in the order in which they are counted.
    pub const ALL: [(Self, &'static str); CONNECT_ERRORS] = [
        (Self::Refused, "refused"),
        (Self::Timeout, "timeout"),
        (Self::Unreachable, "unreachable"),
        (Self::Reset, "reset"),
        (Self::Canceled, "canceled"),
        (Self::Other, "other"),
        (Self::NotSent, "not_sent"),
    ];

    /// The cause by the errno that the kernel leaves in the socket, the same numbers on every architecture that podmeter runs on, and by
    /// how many segments it has sent (`tcp_sock.segs_out`): where a connect fails before its SYN, only the caller gets the errno.
    #[inline(always)]
    pub const fn of(errno: u32, segments: u32) -> Self {
        match errno {
            0 if segments == 0 => Self::NotSent,
            0 => Self::Canceled,
            104 => Self::Reset,
            110 => Self::Timeout,
            111 => Self::Refused,
            // ENETDOWN, ENETUNREACH, EHOSTDOWN, EHOSTUNREACH
            100 | 101 | 112 | 113 => Self::Unreachable,
            _ => Self::Other,
        }
    }
}

counts! {
    /// What the TCP sockets of one slot did. `TCP_COUNTS[slot]`.
    ///
    /// One copy for all CPUs, added to atomically: nothing here happens more often than once per round trip.
    pub struct TcpCounts {
        /// Segments sent for the first time, as `Tcp: OutSegs` counts them.
        pub segments: u64,
        /// Segments sent again, as `Tcp: RetransSegs` counts them.
        pub retransmits: u64,
        /// Resets sent.
        pub resets_sent: u64,
        /// Resets received.
        pub resets_received: u64,
        /// Packets that a listening socket dropped.
        pub listen_drops: u64,
        /// Sockets that could not be given storage: what they send is not counted.
        pub uncounted: u64,
        /// Failed connects by [`ConnectError`].
        pub failures: [u64; CONNECT_ERRORS],
        /// Connects and round trips that are in no [`Durations`], because there was no memory for a row.
        pub unrecorded: u64,
    }
}

counts! {
    /// A distribution of one slot. `TCP_ROWS[{slot, kind}]`.
    pub struct Durations {
        /// Sum of all observations in ns.
        pub sum_ns: u64,
        /// Observations by duration; of round-trip times the first [`RTT_LEN`].
        pub buckets: [u64; CONNECT_LEN],
    }
}

/// The kind of a row of successful connects.
pub const CONNECTS: u32 = 0;

/// The kind of a row of round-trip times.
pub const RTTS: u32 = 1;

/// Kinds of rows.
pub const ROW_KINDS: u32 = 2;

record! {
    /// How sockets that live are counted; the agent's alone to write. `TCP_MODE[0]`.
    pub struct Mode {
        /// 1 where they are counted whenever something is acknowledged or sent again: no walk reaches all of them.
        pub at_events: u64,
    }
}

record! {
    /// Up to where one socket has been counted, in the socket's own storage.
    pub struct Counted {
        /// `tcp_sock.segs_out`
        pub sent: u32,
        /// `tcp_sock.total_retrans`
        pub retransmitted: u32,
        /// `sock.sk_drops`, while the socket listens.
        pub drops: u32,
        /// Not used.
        pub reserved: u32,
        /// `tcp_sock.bytes_acked` at the last walk.
        pub acked: u64,
        /// CLOCK_MONOTONIC in ns when the connect began; 0 when it has ended.
        pub connecting_ns: u64,
    }
}

record! {
    /// Offsets into kernel structs in bytes, found in the running kernel's BTF; frozen before the programs load.
    pub struct Facts {
        /// What leads to a socket's cgroup.
        pub socket: SocketFacts,
        /// `sock.sk_err`, 32 bits
        pub error: u64,
        /// `sock.sk_err_soft`, 32 bits
        pub error_soft: u64,
        /// `sock.sk_drops`, 32 bits
        pub drops: u64,
        /// `tcp_sock.segs_out`, 32 bits
        pub segs_out: u64,
        /// `tcp_sock.total_retrans`, 32 bits
        pub total_retrans: u64,
        /// `tcp_sock.bytes_acked`, 64 bits
        pub bytes_acked: u64,
        /// `tcp_sock.srtt_us`, 32 bits, in 1/8 µs
        pub srtt: u64,
        /// `tcp_sock.bpf_sock_ops_cb_flags`, 8 bits
        pub callbacks: u64,
        /// 1 where tracing programs cannot use socket storage (before 5.11): then a callback of the socket reports its states.
        pub by_callback: u64,
    }
}
