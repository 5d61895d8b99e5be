//! gzip, with a bound on what a reply may unfold to.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

/// Compresses `bytes`.
pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    // A tenth: what OTLP batches of many alike resources shrink to, with room.
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8 + 64), Compression::default());
    // Writing into a Vec does not fail.
    let _ = encoder.write_all(bytes);
    let mut gzipped = encoder.finish().unwrap_or_default();
    gzipped.shrink_to_fit();
    gzipped
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
