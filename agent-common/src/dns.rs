//! The records of the `dns` signal; [`message`] is the wire parser.

pub mod lookups;
pub mod message;
pub mod stream;

use crate::bucket;

pub use self::message::{HEAD_LEN, HEADER_LEN, Message, NAME_LEN, NO_QUESTION, Refused, Source, name_hash, parse, question};
pub use self::stream::{Connection, GAPS_LEN, Gaps, PREFIX_LEN, STREAM_HEAD, Stream};

/// Maximum number of DNS ports.
pub const PORTS_LEN: usize = 8;

/// What is no port.
pub const NO_PORT: u64 = 1 << 32;

/// Index of the first bucket of a lookup's duration, in units of 2^-30 s: what took up to 2^-17 s (7.6 µs) is in the zero bucket.
pub const DURATION_FIRST: i32 = (30 - 17) * bucket::PER_OCTAVE as i32;

/// Buckets of a row: position 0, then 22 octaves of eight up to 32 s, the longest timeout, and one for what is longer.
pub const DURATION_LEN: usize = 2 + 22 * bucket::PER_OCTAVE as usize;

/// The position of a duration in ns among the [`DURATION_LEN`] buckets.
#[inline(always)]
pub const fn duration_position(ns: u64) -> usize {
    bucket::duration_position::<DURATION_FIRST, DURATION_LEN>(ns)
}

/// Which end of a lookup a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client: its queries go out to a DNS port.
    Client,
    /// It answers: queries come in to its DNS port.
    Server,
}

/// How messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram each.
    Udp,
    /// One after the other in a connection, each after its length.
    Tcp,
}

/// Side and transport: where in an array of [`Counts4`] a message counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The end that counts.
    pub side: Side,
    /// How the message came or went.
    pub transport: Transport,
}

impl Way {
    /// Every way, by [`Way::index`].
    pub const ALL: [Self; 4] = [
        Self { side: Side::Client, transport: Transport::Udp },
        Self { side: Side::Client, transport: Transport::Tcp },
        Self { side: Side::Server, transport: Transport::Udp },
        Self { side: Side::Server, transport: Transport::Tcp },
    ];

    /// Its position in [`Way::ALL`].
    #[inline(always)]
    pub const fn index(self) -> usize {
        self.side as usize * 2 + self.transport as usize
    }
}

/// One count per [`Way`].
pub type Counts4 = [u64; 4];

counts! {
    /// What one slot's messages were. `DNS_COUNTS[slot]`; the kernel side and the agent add to it atomically.
    ///
    /// Of each way, `queries` is the sum of `retries`, `timeouts`, `abandoned`, `lost`, the lookups in the rows, and those in flight.
    pub struct DnsCounts {
        /// Queries, retries included.
        pub queries: Counts4,
        /// Queries repeated on the same socket with the same id and question before an answer.
        pub retries: Counts4,
        /// Queries that were not answered in time.
        pub timeouts: Counts4,
        /// Queries of a cgroup that was gone before an answer or the timeout.
        pub abandoned: Counts4,
        /// Queries that could not be followed: the slot's share of those in flight was used up, no room for another row, part of
        /// a stream lost, or another question on the same socket with the same id.
        pub lost: Counts4,
        /// Answers, among the lookups, that were cut to fit into a datagram.
        pub truncated: Counts4,
        /// Answers to what had been answered already: see [`lookups::Lookup::was`].
        pub duplicates: Counts4,
        /// Answers without a query in flight (late, forged), and messages in the wrong direction.
        pub unmatched: Counts4,
        /// Messages that could not be read.
        pub malformed: Counts4,
        /// Messages that are no lookups.
        pub other: Counts4,
        /// Times that what came next in a TCP connection's stream was not seen, so that it was not known where a message begins.
        pub gaps: Counts4,
    }
}

/// Rcodes that have rows of their own: NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED. The others share the row behind them.
pub const RCODES_LEN: u32 = 6;

/// Kinds of rows, by [`row_kind`].
pub const ROW_KINDS: u32 = 32;

/// The kind of row in which a lookup that ended with `rcode` counts.
#[inline(always)]
pub const fn row_kind(way: Way, rcode: u8) -> u32 {
    let rcode = if (rcode as u32) < RCODES_LEN { rcode as u32 } else { RCODES_LEN };
    (way.index() as u32) << 3 | rcode
}

counts! {
    /// Durations of the lookups of one slot that went one way and ended with one rcode. `DNS_ROWS[{slot, row_kind()}]`.
    pub struct Row {
        /// Their sum in ns.
        pub sum_ns: u64,
        /// Their number by [`duration_position`].
        pub buckets: [u64; DURATION_LEN],
    }
}

record! {
    /// A query that waits for its answer, in the array `DNS_LOOKUPS` or the hash `DNS_IN_FLIGHT`: not by its question, which an answer
    /// may lack.
    pub struct QueryKey {
        /// The socket's cookie: unlike addresses, it is the same for query and answer whatever NAT does to them.
        pub cookie: u64,
        /// [`Message::id`] in the lower half, [`Way::index`] in the upper one.
        pub id: u32,
        /// A hash of the client, where one socket serves many (a server's UDP socket); else 0.
        pub peer: u32,
    }
}

impl QueryKey {
    /// All of it in one word. Two keys have the same with a chance of 2^-64.
    #[inline(always)]
    pub const fn hash(&self) -> u64 {
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        let rest = (self.peer as u64) << 32 | self.id as u64;
        let mixed = (self.cookie.wrapping_mul(FACTOR).rotate_left(32) ^ rest).wrapping_mul(FACTOR);
        mixed ^ mixed >> 32
    }

    /// Whether it is the same key.
    #[inline(always)]
    pub const fn is(&self, other: &Self) -> bool {
        self.cookie == other.cookie && self.id == other.id && self.peer == other.peer
    }
}

record! {
    /// A query in flight of which both places were taken: its question, its slot, and when it was first sent.
    pub struct Query {
        /// CLOCK_MONOTONIC in ns.
        pub asked_ns: u64,
        /// [`Message::question`].
        pub question: u64,
        /// The slot in which it counts.
        pub slot: u32,
        /// Fills the record.
        pub reserved: u32,
    }
}

/// Room for queries in flight: three thousand a second that all wait for five.
pub const QUERIES_LEN: u32 = 16_384;

/// Room for those of which both places were taken. Who has how many of them is bounded by [`crate::share`].
pub const OVERFLOW_LEN: u32 = QUERIES_LEN - lookups::PLACES_LEN;

record! {
    /// What a slot has in the tables that all slots share: `DNS_TAKEN[slot]`, and all of them together `DNS_TAKEN_ALL[0]`.
    ///
    /// The kernel side adds and subtracts; the agent, which reads all entries anyway, corrects it every time.
    pub struct Taken {
        /// Queries in flight in `DNS_IN_FLIGHT`.
        pub queries: u64,
        /// Names.
        pub names: u64,
    }
}

/// As many names of all slots as there never are: then no name is counted, though names are wanted. Set by the agent.
pub const NAMES_OFF: u64 = 1 << 32;

/// Names that are counted one by one, of all slots together, where that is wanted. Who has how many is bounded by [`crate::share`].
pub const NAMES_LEN: u32 = 4096;

record! {
    /// Which name of a slot, in the hash `DNS_NAMES`.
    pub struct NameKey {
        /// By [`name_hash`].
        pub name: u64,
        /// The slot of the client.
        pub slot: u32,
        /// Fills the record.
        pub reserved: u32,
    }
}

record! {
    /// How often a name was queried.
    pub struct Name {
        /// Queries, retries included.
        pub queries: u64,
        /// The first of them on CLOCK_BOOTTIME in ns.
        pub first_ns: u64,
        /// What there was in the packet from the name on: the name, on the wire, and what follows it.
        pub wire: [u8; NAME_LEN + 1],
    }
}

record! {
    /// What is set when the programs are loaded.
    pub struct Facts {
        /// How long an answer may take in ns.
        pub timeout_ns: u64,
        /// The ports of DNS; [`NO_PORT`] for none.
        pub ports: [u64; PORTS_LEN],
        /// 1 when names are counted.
        pub names: u64,
    }
}

#[cfg(test)]
mod tests;
