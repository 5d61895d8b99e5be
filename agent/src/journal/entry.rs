//! One entry as bytes: a header of fixed little-endian fields, then the body (pure).
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | magic, `pmj1`: the 1 is the version of this format |
//! | 4..8 | CRC-32 of bytes 8..56 |
//! | 8..16 | sequence |
//! | 16..24 | time, ns since 1970 |
//! | 24..32 | number of the collection |
//! | 32..40 | points or log records in the body |
//! | 40..44 | bytes of the message before compression |
//! | 44..48 | bytes of the body |
//! | 48..52 | CRC-32 of the body |
//! | 52 | kind: 1 metrics, 2 logs |
//! | 53 | form |
//! | 54..56 | 0 |

use std::ops::Range;

use bytes::Bytes;

/// How every entry begins.
pub(super) const MAGIC: [u8; 4] = *b"pmj1";

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 56;

/// Bytes of the largest body: a length in a header that is larger is wrong, however large the file is.
pub(super) const MAX_BODY_BYTES: usize = 64 << 20;

/// The number of an entry. Each has a larger one than the entry before; numbers may be left out.
pub type Sequence = u64;

/// What an entry's points are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Points of metrics.
    Metrics,
    /// Log records.
    Logs,
}

/// What is kept of a request beside its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryInfo {
    /// When its collection was made, in ns since 1970.
    pub time_ns: u64,
    /// What its points are.
    pub kind: Kind,
    /// How the body is encoded. The journal keeps it and does not use it.
    pub form: u8,
    /// The number of the collection that it is part of.
    pub collection: u64,
    /// Points, or log records, in it.
    pub count: u64,
    /// Bytes of the message before compression.
    pub size: u32,
}

/// A request as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub sequence: Sequence,
    /// What it is.
    pub info: EntryInfo,
    /// The encoded request. Its checksum was right.
    pub body: Bytes,
}

/// What stands before a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) sequence: Sequence,
    pub(super) info: EntryInfo,
    /// Bytes of the body, at most [`MAX_BODY_BYTES`].
    pub(super) len: u32,
    /// CRC-32 of the body.
    body_crc: u32,
}

impl Header {
    /// The header of a body; `None` when the body is larger than [`MAX_BODY_BYTES`].
    pub(super) fn new(sequence: Sequence, info: EntryInfo, body: &[u8]) -> Option<Self> {
        let len = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_BODY_BYTES)?;
        Some(Self { sequence, info, len, body_crc: crc32fast::hash(body) })
    }

    /// Bytes of the entry: header and body.
    pub(super) fn entry_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.len)
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        let EntryInfo { time_ns, kind, form, collection, count, size } = self.info;
        put(0, &MAGIC);
        put(8, &self.sequence.to_le_bytes());
        put(16, &time_ns.to_le_bytes());
        put(24, &collection.to_le_bytes());
        put(32, &count.to_le_bytes());
        put(40, &size.to_le_bytes());
        put(44, &self.len.to_le_bytes());
        put(48, &self.body_crc.to_le_bytes());
        put(52, &[if kind == Kind::Metrics { 1 } else { 2 }, form]);
        let crc = crc32fast::hash(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header in these bytes, if its number is one of these; `None` when they are none, or a part of them is wrong.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES], numbers: &Range<Sequence>) -> Option<Self> {
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        if bytes[..4] != MAGIC || !numbers.contains(&long(8)) || word(4) != crc32fast::hash(&bytes[8..]) {
            return None;
        }
        let kind = match bytes[52] {
            1 => Kind::Metrics,
            2 => Kind::Logs,
            _ => return None,
        };
        let info = EntryInfo { time_ns: long(16), kind, form: bytes[53], collection: long(24), count: long(32), size: word(40) };
        let header = Self { sequence: long(8), info, len: word(44), body_crc: word(48) };
        (header.len as usize <= MAX_BODY_BYTES).then_some(header)
    }

    /// Whether these bytes are the body.
    pub(super) fn matches(&self, body: &[u8]) -> bool {
        body.len() == self.len as usize && crc32fast::hash(body) == self.body_crc
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written_and_not_with_any_bit_flipped() {
        let info = EntryInfo { time_ns: 1 << 60, kind: Kind::Logs, form: 7, collection: 3, count: u64::MAX, size: 1 << 31 };
        let header = Header::new(12, info, b"body").unwrap();
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes, &(12..13)), Some(header));
        assert_eq!(Header::decode(&bytes, &(13..u64::MAX)), None);
        assert!(header.matches(b"body") && !header.matches(b"bodY") && !header.matches(b"bodyy"));
        for bit in 0..8 * HEADER_BYTES {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&flipped, &(0..u64::MAX)), None, "bit {bit}");
        }
    }

    #[test]
    fn a_kind_or_a_length_that_is_never_written_is_refused_though_the_checksum_is_right() {
        let info = EntryInfo { time_ns: 0, kind: Kind::Metrics, form: 0, collection: 0, count: 0, size: 0 };
        let bytes = Header::new(0, info, &[]).unwrap().encode();
        let with = |at: usize, field: &[u8]| {
            let mut bytes = bytes;
            bytes[at..at + field.len()].copy_from_slice(field);
            let crc = crc32fast::hash(&bytes[8..]);
            bytes[4..8].copy_from_slice(&crc.to_le_bytes());
            Header::decode(&bytes, &(0..1))
        };
        assert_eq!([with(52, &[0]), with(52, &[3]), with(44, &u32::MAX.to_le_bytes())], [None; 3]);
        assert!(with(52, &[2]).is_some());
    }
}
