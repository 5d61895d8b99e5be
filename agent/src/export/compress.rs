//! The bytes of messages, gzipped or not, and a bound on what a reply may unfold to.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

/// A fifth less CPU time than gzip's usual 6 for 1 % more bytes; below 5 the bytes grow by a tenth. `docs/cost.md` has the figures.
const LEVEL: Compression = Compression::new(5);

/// Bytes behind a head that stays as it is, compressed while they come.
pub enum Writer {
    /// As they are.
    Plain(Vec<u8>),
    /// gzip.
    Gzip(Box<GzEncoder<Vec<u8>>>),
}

impl Writer {
    /// Nothing yet but the head.
    pub fn new(head: &[u8], compression: super::Compression) -> Self {
        match compression {
            super::Compression::None => Self::Plain(head.to_vec()),
            super::Compression::Gzip => Self::Gzip(Box::new(GzEncoder::new(head.to_vec(), LEVEL))),
        }
    }

    /// Adds bytes.
    pub fn write(&mut self, bytes: &[u8]) {
        match self {
            Self::Plain(out) => out.extend_from_slice(bytes),
            // Writing into a Vec does not fail.
            Self::Gzip(encoder) => drop(encoder.write_all(bytes)),
        }
    }

    /// The head and the bytes, in no more memory than they need.
    pub fn finish(self) -> Vec<u8> {
        let mut out = match self {
            Self::Plain(out) => out,
            Self::Gzip(encoder) => encoder.finish().unwrap_or_default(),
        };
        out.shrink_to_fit();
        out
    }
}

/// Compresses `bytes`.
#[cfg(test)]
pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), LEVEL);
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// Uncompresses at most `limit` bytes; what lies beyond is cut off.
///
/// # Errors
/// `bytes` is not gzip, or ends early.
pub(super) fn gunzip(bytes: &[u8], limit: usize) -> std::io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    MultiGzDecoder::new(bytes).take(limit as u64).read_to_end(&mut plain)?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_in_a_row_behind_the_head() {
        let written = |compression| {
            let mut writer = Writer::new(b"head", compression);
            writer.write(b"abc");
            writer.write(b"de");
            writer.finish()
        };
        assert_eq!(written(super::super::Compression::None), b"headabcde");
        let gzipped = written(super::super::Compression::Gzip);
        assert_eq!(gzipped[..4], *b"head");
        assert_eq!(gunzip(&gzipped[4..], 100).expect("gzip"), b"abcde");
    }

    #[test]
    fn what_was_compressed_comes_back_up_to_the_limit() {
        let bytes = b"podmeter ".repeat(1000);
        let gzipped = gzip(&bytes);
        assert!(gzipped.len() < bytes.len() / 10, "{} B", gzipped.len());
        assert_eq!(gunzip(&gzipped, 1 << 20).expect("gzip"), bytes);
        assert_eq!(gunzip(&gzipped, 100).expect("gzip"), bytes[..100]);
        assert!(gunzip(&gzipped[..gzipped.len() / 2], 1 << 20).is_err());
        assert!(gunzip(b"plain", 100).is_err());
    }
}
