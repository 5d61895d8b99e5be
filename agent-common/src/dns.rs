//! The `dns` signal: the wire parser that kernel and tests share, and the records in its maps.
//!
//! Of a message only the header and the question are read (RFC 1035, section 4.1): enough to tell a query from an answer, to
//! bring both together, and to know how the lookup ended. What follows, EDNS included, is never read.

use crate::bucket;

/// Length of a message's header in bytes.
pub const HEADER_LEN: usize = 12;

/// The longest name on the wire, length bytes and root included (RFC 1035, section 3.1).
pub const NAME_LEN: usize = 255;

/// Bytes of a message that are read at most: header, the longest name, type and class.
pub const HEAD_LEN: usize = HEADER_LEN + NAME_LEN + 4;

/// Bytes before each message on TCP: its length (RFC 1035, section 4.2.2).
pub const PREFIX_LEN: usize = 2;

/// Maximum number of DNS ports.
pub const PORTS_LEN: usize = 8;

/// What is no port.
pub const NO_PORT: u64 = 1 << 32;

/// A message as far as it is there.
pub trait Source {
    /// The byte at `at`, `None` beyond the message's end. `at` is below [`HEAD_LEN`].
    fn byte(&self, at: usize) -> Option<u8>;

    /// The hash of the question, `None` when it cannot be read: the result of [`question`], by a separate function on the kernel side.
    #[inline(always)]
    fn question(&self) -> Option<u64> {
        question(self)
    }

    /// The same number below 128. On the kernel side, one of which the verifier forgets all it knew: else it would follow each length of
    /// each label by itself. `noise` is any number that it does not know.
    fn forgotten(&self, number: u8, noise: u64) -> u8 {
        let _ = noise;
        number
    }
}

impl Source for [u8] {
    fn byte(&self, at: usize) -> Option<u8> {
        self.get(at).copied()
    }
}

/// The fields of a message that matter to its lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Chosen by the client; the answer has the same.
    pub id: u16,
    /// Whether it is an answer (QR).
    pub answer: bool,
    /// Whether the answer was cut to fit into a datagram (TC).
    pub truncated: bool,
    /// How the lookup ended: the four bits in the header. Extended codes are in the OPT record and are not read: BADVERS reads as 0.
    pub rcode: u8,
    /// A hash of name, type and class; [`NO_QUESTION`] of a message without one. Names that differ in case only have the same.
    pub question: u64,
}

impl Message {
    /// Whether an answer with the right id ends the lookup of this question.
    ///
    /// Servers that do not understand a query or refuse it may answer with a header alone, without the question, and resolvers take
    /// that. Any other answer must repeat the question, so that whoever guesses the port and the id cannot end a lookup with a header.
    #[inline(always)]
    pub const fn answers(&self, question: u64) -> bool {
        self.question == question || (self.question == NO_QUESTION && REFUSALS >> self.rcode & 1 == 1)
    }

    /// Whether it may be a further answer to a lookup of this question: further messages of a zone transfer have no question.
    #[inline(always)]
    pub const fn continues(&self, question: u64) -> bool {
        self.question == NO_QUESTION || self.question == question
    }
}

/// Bits of the rcodes of answers that may come without a question: FORMERR, SERVFAIL, NOTIMP, REFUSED.
const REFUSALS: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5;

/// Why a message is no part of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It ends too early, has several questions, or a name that cannot be: too long, or with a pointer, which has nothing to point to.
    Malformed,
    /// It is no standard query (opcode 0) and no answer to one: a zone's notification, an update, …
    Other,
}

/// Reads a message's header and question.
///
/// The loop has a fixed bound and the bytes are read in order, so that the verifier of Linux 5.10 can follow it. A message without a
/// question, which is legal, has the hash of none.
///
/// # Errors
/// When it is no part of a lookup.
#[inline(always)]
pub fn parse(source: &(impl Source + ?Sized)) -> Result<Message, Refused> {
    let byte = |at| source.byte(at).ok_or(Refused::Malformed);
    // All of the header must be there.
    byte(HEADER_LEN - 1)?;
    let (high, low) = (byte(2)?, byte(3)?);
    if high & 0x78 != 0 {
        return Err(Refused::Other);
    }
    let questions = word(byte(4)?, byte(5)?);
    let question = match questions {
        0 => NO_QUESTION,
        1 => source.question().ok_or(Refused::Malformed)?,
        _ => return Err(Refused::Malformed),
    };
    Ok(Message {
        id: word(byte(0)?, byte(1)?),
        answer: high & 0x80 != 0,
        truncated: high & 0x02 != 0,
        rcode: low & 0x0f,
        question,
    })
}

/// The hash of the question at the header's end, `None` when it is cut or has a name that cannot be.
#[inline(always)]
pub fn question(source: &(impl Source + ?Sized)) -> Option<u64> {
    hash_of::<true>(source)
}

/// The hash of its name alone.
#[inline(always)]
pub fn name_hash(source: &(impl Source + ?Sized)) -> Option<u64> {
    hash_of::<false>(source)
}

#[inline(always)]
fn hash_of<const WHOLE: bool>(source: &(impl Source + ?Sized)) -> Option<u64> {
    let mut hash = HASH_SEED;
    // Bytes left of the current label; behind the name, those of type and class, and NAMED.
    let mut state = 0_u8;
    for i in 0..NAME_LEN + 4 {
        let byte = source.byte(HEADER_LEN + i)?;
        // The lower case of a name's letters, without a branch: the verifier would follow each, in each of the rounds. The length of a
        // label is no letter.
        let letter = u64::from(byte.wrapping_sub(b'A')).wrapping_sub(26) >> 63;
        let in_name = u64::from(state & NAMED ^ NAMED) / u64::from(NAMED);
        hash = hashed(hash, byte | ((letter & in_name) << 5) as u8);
        if state & !NAMED != 0 {
            state -= 1;
            if state == NAMED {
                return Some(hash);
            }
        } else {
            // A longer label is none: the upper bits mark a pointer, or nothing that was ever defined.
            if byte > 63 || i >= NAME_LEN {
                return None;
            }
            if byte == 0 && !WHOLE {
                return Some(hash);
            }
            state = if byte == 0 { NAMED | 4 } else { byte };
        }
        state = source.forgotten(state, hash);
    }
    None
}

/// The name is complete: above the longest label.
const NAMED: u8 = 64;

/// [`Message::question`] of a message without one.
pub const NO_QUESTION: u64 = HASH_SEED;

/// FNV-1a, 64 bits.
const HASH_SEED: u64 = 0xcbf2_9ce4_8422_2325;

#[inline(always)]
const fn hashed(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3)
}

#[inline(always)]
const fn word(high: u8, low: u8) -> u16 {
    (high as u16) << 8 | low as u16
}

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
        /// Answers to what had been answered already: see [`Answered`].
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

/// Added to a row's kind by the agent, for what the dead descendants of the slot's owner had counted.
pub const ROW_CARRIED: u32 = ROW_KINDS;

/// The kind of row in which a lookup that ended with `rcode` counts.
#[inline(always)]
pub const fn row_kind(way: Way, rcode: u8) -> u32 {
    let rcode = if (rcode as u32) < RCODES_LEN { rcode as u32 } else { RCODES_LEN };
    (way.index() as u32) << 3 | rcode
}

record! {
    /// Which row of durations, in the hash `DNS_ROWS`. Rows are made when something is to be counted in them.
    pub struct RowKey {
        /// The slot.
        pub slot: u32,
        /// By [`row_kind`].
        pub kind: u32,
    }
}

counts! {
    /// Durations of the lookups of one slot that went one way and ended with one rcode.
    pub struct Row {
        /// Their sum in ns.
        pub sum_ns: u64,
        /// Their number by [`duration_position`].
        pub buckets: [u64; DURATION_LEN],
    }
}

record! {
    /// A query that waits for its answer, in the hash `DNS_IN_FLIGHT`: not by its question, which an answer may lack.
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
}

record! {
    /// A query in flight: its question, its slot, and when it was first sent.
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

/// Room for queries in flight: three thousand a second that all wait for five. Who has how many is bounded by [`crate::share`].
pub const QUERIES_LEN: u32 = 16_384;

/// Answered lookups that are remembered, of all slots together: a power of two.
pub const ANSWERED_LEN: usize = 4096;

record! {
    /// A lookup that was answered, at [`Answered::position`] of the array `DNS_ANSWERED`, until another takes its place.
    ///
    /// It distinguishes further answers from unmatched ones: musl queries all name servers at once, and all but the first answer
    /// what has been answered; a zone transfer has many messages. CPUs may mix theirs, which matches no key.
    pub struct Answered {
        /// [`QueryKey::hash`]
        pub key: u64,
        /// [`Message::question`] of the query.
        pub question: u64,
        /// Its last answer, on CLOCK_MONOTONIC in ns; 0 where there was none.
        pub at_ns: u64,
    }
}

impl Answered {
    /// Where a lookup is remembered, by its key's hash.
    #[inline(always)]
    pub const fn position(hash: u64) -> usize {
        (hash >> 20) as usize & (ANSWERED_LEN - 1)
    }

    /// Whether an answer with this key's hash is a further one to this lookup.
    #[inline(always)]
    pub const fn was(&self, hash: u64, answer: &Message, now_ns: u64, timeout_ns: u64) -> bool {
        self.at_ns != 0 && self.key == hash && answer.continues(self.question) && now_ns.saturating_sub(self.at_ns) < timeout_ns
    }
}

record! {
    /// What a slot has in the tables that all slots share: `DNS_TAKEN[slot]`, and all of them together `DNS_TAKEN_ALL[0]`.
    ///
    /// The kernel side adds and subtracts; the agent, which reads all entries anyway, corrects it every time.
    pub struct Taken {
        /// Queries in flight.
        pub queries: u64,
        /// Names.
        pub names: u64,
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
