//! A DNS server that answers as the first label of a name describes: words joined by `-`.
//!
//! `delay20` waits for 20 ms, `nxdomain`, `servfail`, `refused`, `formerr`, `notimp` and `rare` are outcomes, `cut` sets TC,
//! `bare` leaves the question out of the answer, `never` gives no answer, `twice` gives two, `forged` gives one with another id
//! and one to another question before the true one, `wide` fills a TCP answer up to 65 535 bytes, `transfer` lets two messages
//! without a question follow over TCP, `split7` writes a TCP answer's first 7 bytes by themselves, `drip` each of the first 40.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{setsockopt, sockopt};

use super::{ANSWER, CUT, bare, listener, message, prefixed, receive_from};
use crate::cgroup::{Cgroup, inside};

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running server; it ends when this value is dropped.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    end: Arc<AtomicBool>,
    delays: Arc<Mutex<Vec<Duration>>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl DnsServer {
    /// Answers over UDP and TCP at this address, with sockets of `cgroup`.
    pub fn start(cgroup: &Cgroup, address: SocketAddr) -> Result<Self> {
        let (udp, tcp) = inside(cgroup, || {
            Ok((UdpSocket::bind(address).with_context(|| format!("could not bind {address}"))?, listener(address)?))
        })?;
        // Room for all that tests have in flight at once, however seldom the server gets to run.
        setsockopt(&udp, sockopt::RcvBufForce, &(4 << 20)).context("could not enlarge a socket's buffer")?;
        udp.set_read_timeout(Some(LOOK_EVERY)).context("could not set a timeout")?;
        tcp.set_nonblocking(true).context("could not make a socket non-blocking")?;
        let (end, delays) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let ours = (Arc::clone(&end), Arc::clone(&delays));
        let theirs = (Arc::clone(&end), Arc::clone(&delays));
        let threads = vec![
            thread::spawn(move || serve_udp(&udp, &ours.0, &ours.1)),
            thread::spawn(move || serve_tcp(&tcp, &theirs.0, &theirs.1)),
        ];
        Ok(Self { address, end, delays, threads })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How long each answer took by its own clock since the last call, from just after its query was received to just before the
    /// answer was sent.
    pub fn take_delays(&self) -> Vec<Duration> {
        std::mem::take(&mut self.delays.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked has written why.
            let _ = thread.join();
        }
    }
}

/// What a name's words mean.
struct Orders {
    delay: Duration,
    flags: u16,
    bare: bool,
    never: bool,
    twice: bool,
    forged: bool,
    wide: bool,
    transfer: bool,
    split: Vec<usize>,
}

impl Orders {
    fn of(query: &[u8]) -> Option<Self> {
        let len = usize::from(*query.get(12)?);
        let label = String::from_utf8_lossy(query.get(13..13 + len)?).to_lowercase();
        let mut orders = Self {
            delay: Duration::ZERO,
            flags: ANSWER | 0x0180,
            bare: false,
            never: false,
            twice: false,
            forged: false,
            wide: false,
            transfer: false,
            split: Vec::new(),
        };
        for word in label.split('-') {
            match word {
                "formerr" => orders.flags |= 1,
                "servfail" => orders.flags |= 2,
                "nxdomain" => orders.flags |= 3,
                "notimp" => orders.flags |= 4,
                "refused" => orders.flags |= 5,
                "rare" => orders.flags |= 9,
                "cut" => orders.flags |= CUT,
                "bare" => orders.bare = true,
                "transfer" => orders.transfer = true,
                "never" => orders.never = true,
                "twice" => orders.twice = true,
                "forged" => orders.forged = true,
                "wide" => orders.wide = true,
                "drip" => orders.split = (1..=40).collect(),
                other => {
                    let number = |prefix: &str| other.strip_prefix(prefix).and_then(|n| n.parse::<u64>().ok());
                    if let Some(ms) = number("delay") {
                        orders.delay = Duration::from_millis(ms);
                    } else if let Some(bytes) = number("split") {
                        orders.split = vec![bytes as usize];
                    }
                }
            }
        }
        Some(orders)
    }

    /// The answer to a question, and what follows it in the message.
    fn answer(&self, id: u16, question: &[u8], rest: &[u8]) -> Vec<u8> {
        if self.bare { bare(id, self.flags) } else { message(id, self.flags, question, rest) }
    }
}

/// The question of a message that a test made.
fn question_of(message: &[u8]) -> Option<&[u8]> {
    let name = message.get(12..)?.iter().position(|byte| *byte == 0)?;
    message.get(12..12 + name + 5)
}

fn id_of(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[0], message[1]])
}

fn serve_udp(socket: &UdpSocket, end: &AtomicBool, delays: &Mutex<Vec<Duration>>) {
    let mut due: Vec<(Instant, Instant, SocketAddr, Vec<Vec<u8>>)> = Vec::new();
    let mut buffer = [0; 2048];
    while !end.load(Ordering::Relaxed) {
        let next = due.iter().map(|(at, ..)| at.saturating_duration_since(Instant::now())).min();
        let wait = next.unwrap_or(LOOK_EVERY).clamp(Duration::from_micros(50), LOOK_EVERY);
        let received = socket.set_read_timeout(Some(wait)).and_then(|()| socket.recv_from(&mut buffer));
        let now = Instant::now();
        if let Ok((len, from)) = received {
            let query = &buffer[..len];
            if let (Some(orders), Some(question)) = (Orders::of(query), question_of(query))
                && !orders.never
            {
                let id = id_of(query);
                let answer = orders.answer(id, question, &[]);
                let mut answers = Vec::new();
                if orders.forged {
                    answers.push(message(id ^ 0x5555, orders.flags, question, &[]));
                    answers.push(message(id, orders.flags, &super::question("another.test", super::A), &[]));
                }
                answers.push(answer.clone());
                if orders.twice {
                    answers.push(answer);
                }
                due.push((now + orders.delay, now, from, answers));
            }
        }
        let now = Instant::now();
        let mut i = 0;
        while i < due.len() {
            if due[i].0 > now {
                i += 1;
                continue;
            }
            let (_, received, to, answers) = due.swap_remove(i);
            delays.lock().unwrap_or_else(PoisonError::into_inner).push(received.elapsed());
            for answer in answers {
                // The client may be gone.
                let _ = socket.send_to(&answer, to);
            }
        }
    }
}

fn serve_tcp(listener: &TcpListener, end: &AtomicBool, delays: &Mutex<Vec<Duration>>) {
    thread::scope(|scope| {
        while !end.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, _)) => {
                    // A connection ends with its client, or when this server does.
                    scope.spawn(move || serve_connection(stream, end, delays));
                }
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    });
}

fn serve_connection(mut stream: TcpStream, end: &AtomicBool, delays: &Mutex<Vec<Duration>>) -> Option<()> {
    stream.set_nonblocking(false).ok()?;
    stream.set_nodelay(true).ok()?;
    stream.set_read_timeout(Some(LOOK_EVERY)).ok()?;
    loop {
        // Waits for a message without taking a part of it.
        let mut first = [0; 1];
        match stream.peek(&mut first) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                if end.load(Ordering::Relaxed) {
                    return None;
                }
                continue;
            }
            Err(_) => return None,
        }
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        let query = receive_from(&mut stream).ok()?;
        stream.set_read_timeout(Some(LOOK_EVERY)).ok()?;
        let received = Instant::now();
        let (Some(orders), Some(question)) = (Orders::of(&query), question_of(&query)) else { continue };
        if orders.never {
            continue;
        }
        thread::sleep(orders.delay);
        let rest = vec![0; if orders.wide { 65_535 - 12 - question.len() } else { 0 }];
        let mut answer = prefixed(&orders.answer(id_of(&query), question, &rest));
        if orders.transfer {
            (0..2).for_each(|_| answer.extend(prefixed(&bare(id_of(&query), orders.flags))));
        }
        delays.lock().unwrap_or_else(PoisonError::into_inner).push(received.elapsed());
        let mut from = 0;
        for at in orders.split {
            stream.write_all(&answer[from..at.min(answer.len())]).ok()?;
            from = at.min(answer.len());
        }
        stream.write_all(&answer[from..]).ok()?;
    }
}
