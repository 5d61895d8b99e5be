//! The smallest HTTP client that will do: one request per connection to a server on this machine.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result};

/// The status code and body of `GET path`.
pub fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    request(address, "GET", path, "", &[])
}

/// The status code and body of `POST path` with a body of this content type.
pub fn post(address: SocketAddr, path: &str, content_type: &str, body: &[u8]) -> Result<(u16, String)> {
    let headers = format!("Content-Type: {content_type}\r\nContent-Length: {}\r\n", body.len());
    request(address, "POST", path, &headers, body)
}

/// The status code, the head and the body of `GET path` with these headers, each ended by CRLF.
pub fn get_with(address: SocketAddr, path: &str, headers: &str) -> Result<(u16, String, Vec<u8>)> {
    exchange(address, "GET", path, headers, &[])
}

fn request(address: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> Result<(u16, String)> {
    let (status, _, body) = exchange(address, method, path, headers, body)?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

fn exchange(address: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> Result<(u16, String, Vec<u8>)> {
    let doing = || format!("{method} http://{address}{path}");
    let timeout = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&address, timeout).with_context(doing)?;
    stream.set_read_timeout(Some(timeout)).with_context(doing)?;
    // HTTP/1.0: the reply ends with the connection and is never chunked.
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: {address}\r\n{headers}\r\n").with_context(doing)?;
    stream.write_all(body).with_context(doing)?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).with_context(doing)?;
    let end = reply.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.with_context(|| format!("{}: no complete reply: {}", doing(), String::from_utf8_lossy(&reply)))?;
    let (head, body) = (String::from_utf8_lossy(&reply[..end]).into_owned(), reply[end + 4..].to_vec());
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.with_context(|| format!("{}: no status in {head}", doing()))?, head, body))
}

/// `text` as a value of a query string.
pub fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// An address of this machine on which nothing listens now.
pub fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("could not find a free port")?;
    listener.local_addr().context("could not find a free port")
}
