//! The bytes of messages, gzipped or not, and a bound on what a reply may unfold to.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use prost::Message;

/// Messages one after the other behind `head`, which stays as it is. Only one of them is in memory at a time.
pub(super) fn written(head: &[u8], messages: impl Iterator<Item = impl Message>, compression: super::Compression) -> Vec<u8> {
    let messages = messages.map(|next| next.encode_to_vec());
    let mut out = head.to_vec();
    match compression {
        super::Compression::None => messages.for_each(|message| out.extend_from_slice(&message)),
        super::Compression::Gzip => {
            let mut encoder = GzEncoder::new(out, Compression::default());
            for message in messages {
                // Writing into a Vec does not fail.
                let _ = encoder.write_all(&message);
            }
            out = encoder.finish().unwrap_or_default();
        }
    }
    out.shrink_to_fit();
    out
}

/// Compresses `bytes`.
#[cfg(test)]
pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
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
    fn messages_are_in_a_row_behind_the_head() {
        let messages = || ["abc", "de"].into_iter().map(str::to_owned);
        // Each is a string in field 1.
        let plain = b"\x0a\x03abc\x0a\x02de";
        assert_eq!(written(b"head", messages(), super::super::Compression::None), [b"head", &plain[..]].concat());
        let gzipped = written(b"head", messages(), super::super::Compression::Gzip);
        assert_eq!(gzipped[..4], *b"head");
        assert_eq!(gunzip(&gzipped[4..], 100).expect("gzip"), plain);
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
