//! DNS messages on the wire, for the kernel side and its tests.
//!
//! Of a message only the header and the question are read (RFC 1035, section 4.1): enough to tell a query from an answer, to
//! bring both together, and to know how the lookup ended. What follows, EDNS included, is never read.

/// Length of a message's header in bytes.
pub const HEADER_LEN: usize = 12;

/// The longest name on the wire, length bytes and root included (RFC 1035, section 3.1).
pub const NAME_LEN: usize = 255;

/// Bytes of a message that are read at most: header, the longest name, type and class.
pub const HEAD_LEN: usize = HEADER_LEN + NAME_LEN + 4;

/// A message as far as it is there.
pub trait Source {
    /// The byte at `at`, `None` beyond the message's end. `at` is below [`HEAD_LEN`].
    fn byte(&self, at: usize) -> Option<u8>;

    /// The eight bytes from `at` on, the first one lowest; `None` beyond the message's end. `at` is below [`HEAD_LEN`].
    fn word(&self, at: usize) -> Option<u64>;

    /// The hash of the question, `None` when it cannot be read: the result of [`question`], by a separate function on the kernel side.
    #[inline(always)]
    fn question(&self) -> Option<u64> {
        question(self)
    }

    /// The same number below 256. On the kernel side, one of which the verifier forgets all it knew: else it would follow each length of
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

    fn word(&self, at: usize) -> Option<u64> {
        let bytes = self.get(at..at + 8)?.try_into().ok()?;
        Some(u64::from_le_bytes(bytes))
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
/// The loops have fixed bounds, so that the verifier of Linux 5.10 can follow it. A message without a
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

/// The name is hashed in words of eight bytes, and what is left of it in one more; type and class follow.
#[inline(always)]
fn hash_of<const WHOLE: bool>(source: &(impl Source + ?Sized)) -> Option<u64> {
    let len = name_len(source)?;
    let mut hash = HASH_SEED;
    for i in 0..NAME_LEN / 8 {
        if i * 8 + 8 > len {
            break;
        }
        hash = hashed(hash, lower(source.word(HEADER_LEN + i * 8)?));
    }
    let rest = len & 7;
    if rest != 0 {
        // What comes before in this word is shifted out, be it of the name or of the header.
        let last = source.word(HEADER_LEN + len - 8)? >> (64 - 8 * rest);
        hash = hashed(hash, lower(last));
    }
    if WHOLE {
        hash = hashed(hash, source.word(HEADER_LEN + len - 4)? >> 32);
    }
    Some(hash)
}

/// Bytes of the name at the header's end, that of the root included.
#[inline(always)]
fn name_len(source: &(impl Source + ?Sized)) -> Option<usize> {
    let mut len = 0_usize;
    // A label has two bytes at least, but for the root.
    for _ in 0..=NAME_LEN / 2 {
        let label = source.byte(HEADER_LEN + len)?;
        len += 1 + label as usize;
        // A longer label is none: the upper bits mark a pointer, or nothing that was ever defined.
        if label > 63 || len > NAME_LEN {
            return None;
        }
        len = source.forgotten(len as u8, label as u64) as usize;
        if label == 0 {
            return Some(len);
        }
    }
    None
}

/// Eight bytes with the lower case of letters. The length of a label is no letter.
#[inline(always)]
const fn lower(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    // The highest bit of each byte says, after these additions to the lower seven, whether they are those of a letter or of what follows.
    let low = word & !HIGH;
    let from_a = low + (0x80 - b'A' as u64) * ONES;
    let behind_z = low + (0x7f - b'Z' as u64) * ONES;
    let capitals = (from_a ^ behind_z) & HIGH & !word;
    word | capitals >> 2
}

/// [`Message::question`] of a message without one.
pub const NO_QUESTION: u64 = HASH_SEED;

pub(super) const HASH_SEED: u64 = 0xcbf2_9ce4_8422_2325;

/// Adds a word to a hash. Of one word two hashes never become the same, nor do two words of one hash.
#[inline(always)]
pub(super) const fn hashed(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 32
}

#[inline(always)]
const fn word(high: u8, low: u8) -> u16 {
    (high as u16) << 8 | low as u16
}
