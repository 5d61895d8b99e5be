//! Two processes of a container that talk to each other a little, as those of a node do: small messages, many sockets, mostly
//! asleep.
//!
//! The benchmark starts itself again for each process: [`client`] starts [`server`] in its own cgroup and network namespace. Both
//! end when the pipe to whoever started them is closed.

use std::{
    env,
    fs::File,
    io::{Read as _, Write as _, stdin},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};

/// Sockets of each kind that a pair has open; the rounds take turns in using them.
const SOCKETS: usize = 8;

/// Round trips of a TCP connection before the oldest one is replaced.
const ROUND_TRIPS_PER_CONNECTION: u64 = 256;

/// Round trips over the pipes in each round, beside one over UDP and one over TCP.
const PIPE_ROUND_TRIPS: usize = 6;

/// How often a pair does a round. Of 100 pairs on two CPUs that makes about 30 000 switches and 7 000 packets each way per second: fewer
/// switches where others keep the CPUs busy, since fewer lead to the idle task.
pub const PERIOD: Duration = Duration::from_millis(72);

const UDP_MESSAGE: usize = 64;
const TCP_MESSAGE: usize = 128;

/// The argument by which the benchmark starts itself as the server.
pub const SERVER: &str = "pair-server";

/// The argument by which the benchmark starts itself as the client; after it, the first round's delay in µs.
pub const CLIENT: &str = "pair-client";

/// What the server has where: its end of the pipe, the listener, its UDP sockets, and then its connections.
const PIPE: u64 = 0;
const LISTENER: u64 = 1;
const FIRST_UDP: u64 = 2;
const FIRST_CONNECTION: u64 = FIRST_UDP + SOCKETS as u64;

/// Makes rounds, once a byte has come in: by then it is in its cgroup. Writes a byte when it begins.
///
/// # Errors
/// When the server cannot be started or reached, or goes away.
pub fn client(delay: Duration) -> Result<()> {
    let mut starter = unbuffered(stdin().as_fd())?;
    starter.read_exact(&mut [0]).context("was not started by the benchmark")?;
    let mut server = Command::new(env::current_exe().context("could not find the benchmark's own executable")?);
    server.arg(SERVER).stdin(Stdio::piped()).stdout(Stdio::piped());
    let server = server.spawn().context("could not start the server of a pair")?;
    let (mut there, mut back) = server.stdin.zip(server.stdout).context("the server of a pair has no pipes")?;
    let mut ports = [0; 2 * (SOCKETS + 1)];
    back.read_exact(&mut ports).context("the server of a pair did not start")?;
    let mut ports =
        ports.chunks_exact(2).map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, u16::from_ne_bytes([port[0], port[1]]))));
    let listener = ports.next().context("the server of a pair has no listener")?;
    let datagrams = ports.map(connected).collect::<Result<Vec<_>>>()?;
    let mut connections = (0..SOCKETS).map(|_| connect(listener)).collect::<Result<Vec<_>>>()?;

    let mut report = std::io::stdout();
    report.write_all(&[1]).and_then(|()| report.flush()).context("could not report the start")?;
    let (mut due, mut round, mut oldest) = (Instant::now() + delay, 0_u64, 0);
    while !is_ready(starter.as_fd())? {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        for _ in 0..PIPE_ROUND_TRIPS {
            there.write_all(&[1]).and_then(|()| back.read_exact(&mut [0])).context("the server of a pair is gone")?;
        }
        let which = round as usize % SOCKETS;
        let datagram = &datagrams[which];
        datagram.send(&[2; UDP_MESSAGE]).and_then(|_| datagram.recv(&mut [0; UDP_MESSAGE])).context("no answer over UDP")?;
        let connection = &mut connections[which];
        let asked = connection.write_all(&[3; TCP_MESSAGE]);
        asked.and_then(|()| connection.read_exact(&mut [0; TCP_MESSAGE])).context("no answer over TCP")?;
        round += 1;
        if round.is_multiple_of(ROUND_TRIPS_PER_CONNECTION) {
            connections[oldest] = connect(listener)?;
            oldest = (oldest + 1) % SOCKETS;
        }
        // What a busy moment delayed is left out: the load must not come in a flood afterwards.
        due = (due + PERIOD).max(Instant::now());
    }
    Ok(())
}

/// Answers all that comes in. Writes its ports first: the listener's, then those of the UDP sockets.
///
/// # Errors
/// When a socket cannot be made, or what waits for events fails.
pub fn server() -> Result<()> {
    let (mut pipe, mut out) = (unbuffered(stdin().as_fd())?, std::io::stdout());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("could not listen")?;
    let datagrams = (0..SOCKETS).map(|_| socket()).collect::<Result<Vec<_>>>()?;
    let mut ports = listener.local_addr()?.port().to_ne_bytes().to_vec();
    for datagram in &datagrams {
        ports.extend(datagram.local_addr()?.port().to_ne_bytes());
    }
    let events = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("could not prepare for events")?;
    let watch =
        |fd: BorrowedFd, what| events.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, what)).context("could not wait for events");
    watch(pipe.as_fd(), PIPE)?;
    watch(listener.as_fd(), LISTENER)?;
    for (datagram, what) in datagrams.iter().zip(FIRST_UDP..) {
        watch(datagram.as_fd(), what)?;
    }
    out.write_all(&ports).and_then(|()| out.flush()).context("could not report the ports")?;

    let mut connections: Vec<Option<TcpStream>> = Vec::new();
    let mut ready = [EpollEvent::empty(); 16];
    loop {
        let count = match events.wait(&mut ready, EpollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            count => count.context("could not wait for events")?,
        };
        for event in &ready[..count] {
            match event.data() {
                PIPE => {
                    let mut byte = [0];
                    if pipe.read(&mut byte).context("could not read the pipe")? == 0 {
                        return Ok(());
                    }
                    out.write_all(&byte).and_then(|()| out.flush()).context("the client of a pair is gone")?;
                }
                LISTENER => {
                    let connection = accepted(&listener)?;
                    let free = connections.iter().position(Option::is_none).unwrap_or(connections.len());
                    watch(connection.as_fd(), FIRST_CONNECTION + free as u64)?;
                    connections.resize_with(connections.len().max(free + 1), || None);
                    connections[free] = Some(connection);
                }
                what @ FIRST_UDP..FIRST_CONNECTION => {
                    let datagram = &datagrams[(what - FIRST_UDP) as usize];
                    let mut message = [0; UDP_MESSAGE];
                    let (length, from) = datagram.recv_from(&mut message).context("could not receive over UDP")?;
                    datagram.send_to(&message[..length], from).context("could not answer over UDP")?;
                }
                what => {
                    let place = &mut connections[(what - FIRST_CONNECTION) as usize];
                    let mut message = [0; TCP_MESSAGE];
                    let length = place.as_mut().map_or(Ok(0), |connection| connection.read(&mut message)).unwrap_or(0);
                    match place {
                        // The client may be gone by now.
                        Some(connection) if length > 0 => drop(connection.write_all(&message[..length])),
                        _ => *place = None,
                    }
                }
            }
        }
    }
}

/// A copy that reads only what is requested.
fn unbuffered(fd: BorrowedFd) -> Result<File> {
    Ok(File::from(fd.try_clone_to_owned().context("could not duplicate a pipe")?))
}

/// Whether a pipe can be read, or its other end is closed.
pub(super) fn is_ready(pipe: BorrowedFd) -> Result<bool> {
    let mut fds = [PollFd::new(pipe, PollFlags::POLLIN)];
    Ok(poll(&mut fds, PollTimeout::ZERO).context("could not look at a pipe")? > 0)
}

fn socket() -> Result<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("could not make a UDP socket")
}

fn connected(to: SocketAddr) -> Result<UdpSocket> {
    let socket = socket()?;
    socket.connect(to).context("could not connect a UDP socket")?;
    // A pair whose partner is gone must not wait for ever.
    socket.set_read_timeout(Some(Duration::from_secs(5))).context("could not set a timeout")?;
    Ok(socket)
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to).context("could not connect")?;
    stream.set_nodelay(true).context("could not set TCP_NODELAY")?;
    Ok(stream)
}

fn accepted(listener: &TcpListener) -> Result<TcpStream> {
    let (stream, _) = listener.accept().context("could not accept")?;
    stream.set_nodelay(true).context("could not set TCP_NODELAY")?;
    Ok(stream)
}
