//! The records of the `tcp` signal.

use crate::{
    bucket,
    socket::{SocketFacts, state},
};

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
        /// Segments sent again, by [`Again`].
        pub again: [u64; AGAINS],
        /// Bytes that were to be sent when their connection ended, and were not acknowledged.
        pub unacknowledged: u64,
        /// Segments received out of order.
        pub out_of_order: u64,
        /// Segments that the other end reported to have received twice.
        pub spurious: u64,
        /// Jiffies in which data waited for the other end's receive window.
        pub window_limited: u64,
        /// Connections that were established, by [`Side`]: those that were there before counting began are in none.
        pub opened: [u64; 2],
        /// Connections that are open, by [`Side`].
        pub open: [u64; SIDES],
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

/// Why segments are sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// Acknowledgements show that they were lost.
    Fast,
    /// No acknowledgement came for so long that all is taken for lost.
    Timeout,
    /// No acknowledgement came for two round trips: the last one is sent again to get one (tail loss probe).
    Probe,
    /// The connection is not established yet.
    Handshake,
}

/// Number of reasons.
pub const AGAINS: usize = 4;

impl Again {
    /// Each reason's name, in the order in which they are counted.
    pub const NAMES: [&'static str; AGAINS] = ["fast", "timeout", "tail_loss_probe", "handshake"];

    /// By the state of the connection and that of its congestion control (`icsk_ca_state`, `enum tcp_ca_state`), whose five bits are the
    /// lowest.
    #[inline(always)]
    pub const fn of(found: u8, control: u8) -> Self {
        const RECOVERY: u8 = 3;
        const LOSS: u8 = 4;
        match (found, control & 31) {
            (state::SYN_SENT | state::SYN_RECV, _) => Self::Handshake,
            (_, RECOVERY) => Self::Fast,
            (_, LOSS) => Self::Timeout,
            _ => Self::Probe,
        }
    }
}

/// Who began a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// This end: it connected.
    Client,
    /// The other end: this one accepted it.
    Server,
    /// Not known: the connection is older than the counting, and the kernel does not keep it.
    Unknown,
}

/// Number of sides.
pub const SIDES: usize = 3;

impl Side {
    /// Each side's name, in the order in which they are counted.
    pub const NAMES: [&'static str; SIDES] = ["client", "server", "unknown"];

    /// Of a connection that is open: this side and the slot that it is counted in, as one word, which is not 0.
    #[inline(always)]
    pub const fn word(self, slot: u32) -> u64 {
        (slot as u64) << 32 | (self as u64 + 1)
    }
}

/// The kind of a row of successful connects.
pub const CONNECTS: u32 = 0;

/// The kind of a row of round-trip times.
pub const RTTS: u32 = 1;

/// The kind of a row of the shortest round-trip times of connections that ended.
pub const SHORTEST_RTTS: u32 = 2;

/// The kind of a row of how long connections waited to be accepted.
pub const ACCEPTS: u32 = 3;

/// Kinds of rows.
pub const ROW_KINDS: u32 = 4;

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
        /// What it has sent: a [`Sent`]; 0 while nothing is counted, before it begins and after it ends.
        pub sent: u64,
        /// What it has dropped: a [`Total`]; 0 likewise.
        pub drops: u64,
        /// What came out of order: a [`Disorder`]; 0 likewise.
        pub disorder: u64,
        /// How long it has waited for the other end's window, in jiffies: a [`Total`]; 0 likewise.
        pub window_limited: u64,
        /// [`Side::word`] while it is a connection that is open; else 0.
        pub open: u64,
        /// `tcp_sock.bytes_acked` at the last walk.
        pub acked: u64,
        /// CLOCK_MONOTONIC in ns when the connect began, or since when a connection waits to be accepted; 0 when that has ended.
        pub waits_since_ns: u64,
    }
}

/// What one socket has sent, by the kernel's totals: numbers that wrap around.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Segments sent for the first time.
    pub first: u32,
    /// Segments sent again, in 31 bits.
    pub again: u32,
}

impl Sent {
    /// Nothing.
    pub const NONE: Self = Self { first: 0, again: 0 };

    /// By `segs_out`, which has every segment, and `total_retrans`. `OutSegs` leaves out those that are sent again
    /// (`__tcp_transmit_skb`).
    #[inline(always)]
    pub const fn of(segs_out: u32, total_retrans: u32) -> Self {
        Self { first: segs_out.wrapping_sub(total_retrans), again: total_retrans & (u32::MAX >> 1) }
    }

    /// As one word, which is not 0.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        (self.first as u64) << 32 | ((self.again << 1) | 1) as u64
    }

    /// What [`word`](Self::word) made a word of.
    #[inline(always)]
    pub const fn at(word: u64) -> Self {
        Self { first: (word >> 32) as u32, again: word as u32 >> 1 }
    }

    /// The word up to which a socket with these totals has been counted, where that was `word` before. Neither half goes back: these
    /// totals may have been read before those of the word, or in the middle of a retransmit.
    #[inline(always)]
    pub const fn after(self, word: u64) -> u64 {
        let new = self.word();
        farther((word >> 32) as u32, (new >> 32) as u32) << 32 | farther(word as u32, new as u32)
    }

    /// What is counted when a word is replaced by the one [`after`](Self::after) it.
    #[inline(always)]
    pub const fn between(before: u64, word: u64) -> Self {
        let (before, now) = (Self::at(before), Self::at(word));
        Self { first: now.first.wrapping_sub(before.first), again: now.again.wrapping_sub(before.again) & (u32::MAX >> 1) }
    }
}

/// What one socket has received out of order and what its other end has received twice, by the kernel's totals: numbers that wrap around.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disorder {
    /// Segments that came out of order.
    pub out_of_order: u32,
    /// Duplicates that the other end reported, in 31 bits.
    pub duplicates: u32,
}

impl Disorder {
    /// Nothing.
    pub const NONE: Self = Self { out_of_order: 0, duplicates: 0 };

    /// By `rcv_ooopack` and `dsack_dups`.
    #[inline(always)]
    pub const fn of(rcv_ooopack: u32, dsack_dups: u32) -> Self {
        Self { out_of_order: rcv_ooopack, duplicates: dsack_dups & (u32::MAX >> 1) }
    }

    /// As one word, which is not 0.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        Sent { first: self.out_of_order, again: self.duplicates }.word()
    }

    /// As [`Sent::after`].
    #[inline(always)]
    pub const fn after(self, word: u64) -> u64 {
        Sent { first: self.out_of_order, again: self.duplicates }.after(word)
    }

    /// As [`Sent::between`].
    #[inline(always)]
    pub const fn between(before: u64, word: u64) -> Self {
        let new = Sent::between(before, word);
        Self { out_of_order: new.first, duplicates: new.again }
    }
}

/// One total of a socket, a number that wraps around: the packets it has dropped (`sk_drops`), the jiffies it has waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Total(u32);

impl Total {
    /// By the kernel's total.
    #[inline(always)]
    pub const fn of(total: u32) -> Self {
        Self(total)
    }

    /// As one word, which is not 0.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        (self.0 as u64) << 32 | 1
    }

    /// As [`Sent::after`].
    #[inline(always)]
    pub const fn after(self, word: u64) -> u64 {
        farther((word >> 32) as u32, self.0) << 32 | 1
    }

    /// As [`Sent::between`].
    #[inline(always)]
    pub const fn between(before: u64, word: u64) -> u32 {
        ((word >> 32) as u32).wrapping_sub((before >> 32) as u32)
    }
}

/// The farther one of two numbers that wrap around.
#[inline(always)]
const fn farther(before: u32, now: u32) -> u64 {
    (if now.wrapping_sub(before).cast_signed() > 0 { now } else { before }) as u64
}

/// In place of an offset: this kernel lacks the member.
pub const LACKING: u64 = u64::MAX;

/// `TCP_CHRONO_RWND_LIMITED` of `enum tcp_chrono`: data waits for the other end's receive window.
pub const WINDOW_LIMITED: u8 = 2;

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
        /// `tcp_sock.rtt_min.s[0].v`, 32 bits, in µs; [`LACKING`]
        pub rtt_min: u64,
        /// `tcp_sock.rcv_ooopack`, 32 bits; [`LACKING`] without it or `dsack_dups`
        pub rcv_ooopack: u64,
        /// `tcp_sock.dsack_dups`, 32 bits
        pub dsack_dups: u64,
        /// `tcp_sock.chrono_start`, 32 bits, in jiffies; [`LACKING`] without one of these three
        pub chrono_start: u64,
        /// `tcp_sock.chrono_stat[TCP_CHRONO_RWND_LIMITED - 1]`, 32 bits, in jiffies
        pub chrono_stat: u64,
        /// The byte of `tcp_sock.chrono_type`, 2 bits.
        pub chrono_type: u64,
        /// By how many bits to shift that byte.
        pub chrono_shift: u64,
        /// The byte of `inet_connection_sock.icsk_ca_state`, 5 bits; [`LACKING`] without it or the number of segments
        pub ca_state: u64,
        /// By how many bits to shift that byte.
        pub ca_state_shift: u64,
        /// `sk_buff.cb` as a `tcp_skb_cb`: its `tcp_gso_segs`, 16 bits
        pub skb_segments: u64,
        /// 1 where the tracepoint of retransmits has a third argument: it fires also for those that fail
        pub retransmits_fail: u64,
        /// `tcp_sock.write_seq`, 32 bits
        pub write_seq: u64,
        /// `tcp_sock.snd_una`, 32 bits
        pub snd_una: u64,
        /// `tcp_sock.bpf_sock_ops_cb_flags`, 8 bits
        pub callbacks: u64,
        /// 1 where tracing programs cannot use socket storage (before 5.11): then a callback of the socket reports its states.
        pub by_callback: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is counted when a socket is counted with each of these totals in turn, beginning with the first.
    fn counted(totals: &[(u32, u32)]) -> Vec<(u32, u32)> {
        let mut word = Sent::of(totals[0].0, totals[0].1).word();
        let rest = totals[1..].iter().map(|(segments, again)| {
            let before = word;
            word = Sent::of(*segments, *again).after(before);
            let new = Sent::between(before, word);
            (new.first, new.again)
        });
        rest.collect()
    }

    #[test]
    fn a_socket_is_counted_up_to_its_totals() {
        assert_eq!(counted(&[(0, 0), (10, 0), (10, 0), (15, 2)]), [(10, 0), (0, 0), (3, 2)]);
        // An accepted one has SYN-ACKs that were sent again, which are in no segment.
        assert_eq!(counted(&[(0, 2), (5, 2), (6, 3)]), [(5, 0), (0, 1)]);
    }

    #[test]
    fn totals_that_are_older_than_what_was_counted_count_nothing() {
        assert_eq!(counted(&[(0, 0), (10, 3), (8, 2), (0, 0), (11, 3)]), [(7, 3), (0, 0), (0, 0), (1, 0)]);
    }

    #[test]
    fn a_retransmit_of_which_the_segment_is_not_counted_yet_is_no_segment_more() {
        assert_eq!(counted(&[(0, 0), (10, 0), (10, 1), (11, 1), (12, 1)]), [(10, 0), (0, 1), (0, 0), (1, 0)]);
    }

    #[test]
    fn totals_may_wrap_around() {
        let begin = (u32::MAX - 1, (1 << 31) - 1);
        assert_eq!(counted(&[begin, (3, 1 << 31), (7, (1 << 31) + 2)]), [(4, 1), (2, 2)]);
        assert_eq!(Total::between(Total::of(u32::MAX).word(), Total::of(2).after(Total::of(u32::MAX).word())), 3);
        assert_eq!(Total::of(1).after(Total::of(2).word()), Total::of(2).word());
    }

    #[test]
    fn segments_out_of_order_and_duplicates_are_counted_apart() {
        let (before, now) = (Disorder::of(u32::MAX, 5), Disorder::of(2, 6));
        let word = now.after(before.word());
        assert_eq!(Disorder::between(before.word(), word), Disorder { out_of_order: 3, duplicates: 1 });
        assert_eq!(Disorder::between(word, before.after(word)), Disorder::NONE);
        assert!(Disorder::NONE.word() != 0 && Side::Client.word(0) != 0);
    }

    #[test]
    fn a_segment_is_sent_again_for_the_reason_of_its_connections_state() {
        let of = |found, control| Again::NAMES[Again::of(found, control) as usize];
        assert_eq!([of(state::SYN_SENT, 4), of(state::SYN_RECV, 0)], ["handshake"; 2]);
        // The three bits above are another field's.
        assert_eq!(
            [3, 4, 0, 1, 2, 3 | 0xe0].map(|control| of(state::ESTABLISHED, control)),
            ["fast", "timeout", "tail_loss_probe", "tail_loss_probe", "tail_loss_probe", "fast"]
        );
    }

    #[test]
    fn the_word_of_a_socket_that_has_sent_nothing_is_not_that_of_none() {
        assert!(Sent::NONE.word() != 0 && Total::of(0).word() != 0);
        assert_eq!(Sent::at(Sent::of(9, 4).word()), Sent { first: 5, again: 4 });
    }
}
