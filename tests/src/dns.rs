//! DNS for tests: messages, sockets that belong to a cgroup, a client, and a [`server`] that answers as the queried name
//! describes.

pub mod corpus;
pub mod server;
pub mod stage;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::time::patience;

/// Type A.
pub const A: u16 = 1;

/// The answer flag (QR).
pub const ANSWER: u16 = 0x8000;
/// The answer was cut (TC).
pub const CUT: u16 = 0x0200;

/// How long a test waits for a message that must come.
const COMES_WITHIN: Duration = Duration::from_secs(10);

/// A question's name, type and class on the wire. Labels are separated by dots.
pub fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        wire.push(label.len() as u8);
        wire.extend(label.as_bytes());
    }
    wire.push(0);
    wire.extend(kind.to_be_bytes());
    wire.extend(1_u16.to_be_bytes());
    wire
}

/// A message: header, question, and what follows.
pub fn message(id: u16, flags: u16, question: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for word in [id, flags, 1, 0, 0, 0] {
        wire.extend(word.to_be_bytes());
    }
    wire.extend(question);
    wire.extend(rest);
    wire
}

/// A message that is a header alone.
pub fn bare(id: u16, flags: u16) -> Vec<u8> {
    [id, flags, 0, 0, 0, 0].iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// A query for the addresses of a name.
pub fn query(id: u16, name: &str) -> Vec<u8> {
    message(id, 0x0100, &question(name, A), &[])
}

/// A message as TCP has it: after its length.
pub fn prefixed(message: &[u8]) -> Vec<u8> {
    let len = u16::try_from(message.len()).unwrap_or(u16::MAX);
    [&len.to_be_bytes(), message].concat()
}

/// A client's UDP socket, connected to a server.
pub fn udp(server: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((unspecified(server), 0)).context("could not make a UDP socket")?;
    socket.connect(server).with_context(|| format!("could not connect to {server}"))?;
    socket.set_read_timeout(Some(patience(COMES_WITHIN))).context("could not set a timeout")?;
    Ok(socket)
}

fn unspecified(like: SocketAddr) -> std::net::IpAddr {
    if like.is_ipv4() { std::net::Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() }
}

/// A client's connection, of which each write is a segment.
pub fn tcp(server: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(server).with_context(|| format!("could not connect to {server}"))?;
    stream.set_nodelay(true).context("could not switch Nagle's algorithm off")?;
    stream.set_read_timeout(Some(patience(COMES_WITHIN))).context("could not set a timeout")?;
    Ok(stream)
}

/// A TCP socket that listens, of which connections are the same cgroup's.
pub fn listener(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("could not listen at {address}"))
}

/// Asks over UDP and waits for the answer; how long that took.
pub fn look_up(socket: &UdpSocket, id: u16, name: &str) -> Result<Duration> {
    let begin = Instant::now();
    socket.send(&query(id, name)).with_context(|| format!("could not query {name}"))?;
    let answer = receive(socket).with_context(|| format!("no answer for {name}"))?;
    ensure!(answer[..2] == id.to_be_bytes(), "asked {name} with {id}, answered {answer:?}");
    Ok(begin.elapsed())
}

/// The next datagram.
pub fn receive(socket: &UdpSocket) -> Result<Vec<u8>> {
    let mut buffer = [0; 2048];
    let len = socket.recv(&mut buffer).context("nothing came")?;
    Ok(buffer[..len].to_vec())
}

/// Writes these pieces one after the other, each in a segment of its own.
pub fn write_pieces(stream: &mut TcpStream, pieces: &[&[u8]]) -> Result<()> {
    for piece in pieces {
        stream.write_all(piece).context("could not write to a connection")?;
    }
    Ok(())
}

/// The next message of a connection.
pub fn receive_from(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut len = [0; 2];
    stream.read_exact(&mut len).context("no length came")?;
    let mut message = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut message).context("a message was cut")?;
    Ok(message)
}
