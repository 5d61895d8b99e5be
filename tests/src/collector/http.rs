//! Bodies of HTTP requests.

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use flate2::read::GzDecoder;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};

/// The body of a request, uncompressed.
pub(super) fn plain(headers: &HeaderMap, bytes: &Bytes) -> Result<Bytes> {
    let header = |name| headers.get(name).map(|value: &hyper::header::HeaderValue| value.as_bytes());
    if header(CONTENT_TYPE) != Some(b"application/x-protobuf") {
        bail!("the content type is not application/x-protobuf");
    }
    match header(CONTENT_ENCODING) {
        None => Ok(bytes.clone()),
        Some(b"gzip") => {
            let mut plain = Vec::new();
            std::io::Read::read_to_end(&mut GzDecoder::new(&bytes[..]), &mut plain).context("the body is not gzip")?;
            Ok(plain.into())
        }
        Some(other) => bail!("unknown content encoding {:?}", String::from_utf8_lossy(other)),
    }
}
