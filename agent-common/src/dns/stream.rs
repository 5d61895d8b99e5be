//! DNS messages in TCP streams: what is kept of a connection, and when its stream was lost.

use super::message::HEAD_LEN;

/// Bytes before each message on TCP: its length (RFC 1035, section 4.2.2).
pub const PREFIX_LEN: usize = 2;

/// Bytes of a stream that are kept until a message can be read: its length and its head.
pub const STREAM_HEAD: usize = PREFIX_LEN + HEAD_LEN;

record! {
    /// One direction of a TCP connection: where in the stream the next message begins, and what is there of it.
    pub struct Stream {
        /// Sequence number of the next byte to read.
        pub next: u32,
        /// Bytes in `head`.
        pub have: u32,
        /// 0 before the first byte, 1 when it is not known whether `next` is where a message begins, 2 when it is.
        pub state: u32,
        /// Fills the record.
        pub reserved: u32,
        /// The part so far of a message with its head in several segments, its length included. Twice as long as needed: the verifier
        /// adds the largest position to the largest number of bytes.
        pub head: [u8; 2 * STREAM_HEAD + 6],
    }
}

record! {
    /// Both directions of a TCP connection, in its socket's storage.
    pub struct Connection {
        /// What comes in.
        pub ingress: Stream,
        /// What goes out.
        pub egress: Stream,
    }
}

/// Gaps in streams that are remembered for each slot.
pub const GAPS_LEN: usize = 8;

record! {
    /// When streams of a slot's TCP connections were last lost: `DNS_GAPS[slot]`. An earlier query on such a connection may have been
    /// answered unseen.
    pub struct Gaps {
        /// The connection's socket cookie, at a position by the cookie; 0 for none.
        pub cookies: [u64; GAPS_LEN],
        /// On CLOCK_MONOTONIC in ns, at the same position.
        pub at_ns: [u64; GAPS_LEN],
    }
}

impl Gaps {
    /// Where a connection's gap is.
    #[inline(always)]
    pub const fn position(cookie: u64) -> usize {
        (cookie & (GAPS_LEN as u64 - 1)) as usize
    }

    /// Whether a connection's stream was lost at that moment or later.
    pub const fn since(&self, cookie: u64, ns: u64) -> bool {
        let position = Self::position(cookie);
        self.cookies[position] == cookie && self.at_ns[position] >= ns
    }
}
