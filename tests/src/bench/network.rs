//! What the network signal costs: at each packet, in throughput, in memory.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use serde_json::json;

use super::{
    Effort, Stop,
    empty::Empties,
    packets::{Contest, Round},
    programs::Held,
    report::Figure,
};
use crate::{
    agent::Agent,
    cgroup::{Cgroup, inside},
};

/// Of a flood of 100-byte UDP packets, then of a TCP stream; each sent, then received, then what the empty programs take.
pub const PER_PACKET: [&str; 6] = [
    "network.packet_ns_above_empty_udp_sent",
    "network.packet_ns_above_empty_udp_received",
    "network.packet_ns_empty_udp",
    "network.packet_ns_above_empty_tcp_sent",
    "network.packet_ns_above_empty_tcp_received",
    "network.packet_ns_empty_tcp",
];

/// What the same loads lose to the whole agent: in throughput on the clock, and in work for each second of CPU time.
pub const SLOWDOWN: [&str; 8] = [
    "network.udp_slowdown_percent_above_empty",
    "network.udp_slowdown_percent_of_cpu_above_empty",
    "network.udp_slowdown_percent",
    "network.udp_slowdown_percent_of_cpu",
    "network.tcp_slowdown_percent_above_empty",
    "network.tcp_slowdown_percent_of_cpu_above_empty",
    "network.tcp_slowdown_percent",
    "network.tcp_slowdown_percent_of_cpu",
];

/// Memory of the maps, by the object that has them.
pub const MAPS: [&str; 5] = ["network.map_kib", "dns.map_kib", "tcp.map_kib", "drops.map_kib", "disk.map_kib"];

/// With IPv4's and UDP's headers, 100 bytes.
const UDP_PAYLOAD: usize = 72;

/// Written and read at once.
const CHUNK: usize = 64 * 1024;

/// How often an idle receiver looks whether to end.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// ns per packet, by the kernel's own statistics.
pub fn per_packet(effort: Effort, stop: &Stop) -> Result<Vec<Figure>> {
    let (rounds, slice) = (effort.pick(4, 16), Duration::from_millis(200));
    let cgroup = Cgroup::new("bench-packets")?;
    let mut contest = Contest::new("network", stop)?;
    let mut figures = Vec::new();
    for (start, names) in [(Load::udp as fn(&Cgroup) -> Result<Load>, &PER_PACKET[..3]), (Load::tcp, &PER_PACKET[3..])] {
        let _load = start(&cgroup)?;
        stop.pause(slice)?;
        let compared = contest.compare(&cgroup, rounds, slice)?;
        let of = |pick: fn(&Round) -> f64| compared.iter().map(pick).collect();
        figures.push(Figure::of(names[0], "ns", Some(40.0), of(|round| round.above()[0]))?);
        figures.push(Figure::of(names[1], "ns", Some(40.0), of(|round| round.above()[1]))?);
        figures.push(Figure::of(names[2], "ns", None, of(|round| (round.empty[0] + round.empty[1]) / 2.0))?);
    }
    Ok(figures)
}

/// Throughput with nothing, with empty programs on the same hooks, and with an agent at its defaults, in turns.
pub fn slowdown(effort: Effort, stop: &Stop) -> Result<Vec<Figure>> {
    let (rounds, slice) = (effort.pick(4, 24), Duration::from_millis(600));
    let cgroup = Cgroup::new("bench-packets")?;
    let mut empties = Empties::load()?;
    let mut figures = Vec::new();
    for (start, names, targets) in [
        (Load::udp as fn(&Cgroup) -> Result<Load>, &SLOWDOWN[..4], [Some(3.0), None, Some(2.0), None]),
        (Load::tcp, &SLOWDOWN[4..], [None, None, Some(2.0), None]),
    ] {
        let load = start(&cgroup)?;
        stop.pause(slice)?;
        let mut values = [const { Vec::new() }; 4];
        for round in 0..rounds {
            let mut rates = [Rates::default(); 3];
            // Who goes first alternates: what changes steadily meets all of them.
            for turn in 0..3 {
                let which = (round + turn) % 3;
                rates[which] = match which {
                    0 => load.rates(slice, stop)?,
                    1 => with_empties(&mut empties, &load, slice, stop)?,
                    _ => with_agent(&load, slice, stop)?,
                };
            }
            let [none, empty, agent] = rates;
            let percent = |from: f64, to: f64, of: f64| (from - to) / of * 100.0;
            values[0].push(percent(empty.per_second, agent.per_second, none.per_second));
            values[1].push(percent(empty.per_cpu_second, agent.per_cpu_second, none.per_cpu_second));
            values[2].push(percent(none.per_second, agent.per_second, none.per_second));
            values[3].push(percent(none.per_cpu_second, agent.per_cpu_second, none.per_cpu_second));
        }
        for ((name, target), values) in names.iter().zip(targets).zip(values) {
            figures.push(Figure::of(name, "%", target, values)?);
        }
    }
    Ok(figures)
}

fn with_empties(empties: &mut Empties, load: &Load, slice: Duration, stop: &Stop) -> Result<Rates> {
    empties.attach()?;
    stop.pause(Duration::from_millis(200))?;
    let rates = load.rates(slice, stop);
    empties.detach()?;
    rates
}

fn with_agent(load: &Load, slice: Duration, stop: &Stop) -> Result<Rates> {
    let agent = Agent::spawn(json!({"interval": "15s", "export": {"exporter": "none"}}))?;
    agent.wait_for_log("podmeter runs", Duration::from_secs(20))?;
    // Starting takes CPU time that is not the programs'.
    stop.pause(Duration::from_millis(200))?;
    let rates = load.rates(slice, stop);
    agent.stop()?;
    rates
}

/// What the kernel charges for the maps of an agent with 1 024 slots, on all CPUs of this machine.
pub fn maps() -> Result<Vec<Figure>> {
    let agent = Agent::spawn(json!({"interval": "300s", "cgroups": {"slots": 1024}, "export": {"exporter": "none"}}))?;
    agent.wait_for_log("podmeter runs", Duration::from_secs(20))?;
    let maps = Held::by(agent.pid())?.maps()?;
    agent.stop()?;
    MAPS.iter()
        .map(|&name| {
            let object = name.split('.').next().unwrap_or_default().to_uppercase() + "_";
            let own: Vec<u64> = maps.iter().filter(|map| map.name.starts_with(&object)).map(|map| map.bytes).collect();
            ensure!(!own.is_empty(), "the agent holds no map with a name that starts with {object}");
            Ok(Figure::once(name, "KiB", None, own.iter().sum::<u64>() as f64 / 1024.0))
        })
        .collect()
}

/// Work on the clock and by CPU time.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    per_second: f64,
    per_cpu_second: f64,
}

/// Two threads that send and receive as fast as they can over loopback, until this value is dropped.
struct Load {
    /// Packets or bytes that arrived.
    arrived: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    /// Unblocks a stream's two ends.
    stream: Option<TcpStream>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Load {
    /// A flood of small packets, counted in packets.
    fn udp(cgroup: &Cgroup) -> Result<Self> {
        let (sender, receiver) = inside(cgroup, || {
            let receiver = UdpSocket::bind("127.0.0.1:0").context("could not make a UDP socket")?;
            let sender = UdpSocket::bind("127.0.0.1:0").context("could not make a UDP socket")?;
            sender.connect(receiver.local_addr()?).context("could not connect a UDP socket")?;
            Ok((sender, receiver))
        })?;
        receiver.set_read_timeout(Some(LOOK_EVERY)).context("could not set a timeout")?;
        Ok(Self::start(
            None,
            // A full buffer loses packets; nothing else can happen to them.
            move || u64::from(sender.send(&[0; UDP_PAYLOAD]).is_ok()),
            move || u64::from(receiver.recv(&mut [0; UDP_PAYLOAD]).is_ok()),
        ))
    }

    /// A stream, counted in bytes.
    fn tcp(cgroup: &Cgroup) -> Result<Self> {
        let (mut sender, mut receiver) = inside(cgroup, || {
            let listener = TcpListener::bind("127.0.0.1:0").context("could not listen")?;
            let sender = TcpStream::connect(listener.local_addr()?).context("could not connect")?;
            Ok((sender, listener.accept().context("could not accept")?.0))
        })?;
        let stream = sender.try_clone().context("could not duplicate a socket")?;
        let (out, mut into) = (vec![0; CHUNK], vec![0; CHUNK]);
        // Both fail once the stream is shut down, and then end.
        Ok(Self::start(
            Some(stream),
            move || sender.write(&out).unwrap_or(0) as u64,
            move || receiver.read(&mut into).unwrap_or(0) as u64,
        ))
    }

    fn start(
        stream: Option<TcpStream>,
        mut send: impl FnMut() -> u64 + Send + 'static,
        mut receive: impl FnMut() -> u64 + Send + 'static,
    ) -> Self {
        let (arrived, end) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (ends, also_ends, counts) = (Arc::clone(&end), Arc::clone(&end), Arc::clone(&arrived));
        let sending = thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                send();
            }
        });
        let receiving = thread::spawn(move || {
            while !also_ends.load(Ordering::Relaxed) {
                counts.fetch_add(receive(), Ordering::Relaxed);
            }
        });
        Self { arrived, end, stream, threads: vec![sending, receiving] }
    }

    fn rates(&self, slice: Duration, stop: &Stop) -> Result<Rates> {
        let cpu = || clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).context("could not ask for CPU time");
        let (before, began, used) = (self.arrived.load(Ordering::Relaxed), Instant::now(), cpu()?);
        stop.pause(slice)?;
        let (after, took, used) = (self.arrived.load(Ordering::Relaxed), began.elapsed(), cpu()?.saturating_sub(used));
        ensure!(after > before, "nothing arrived for {took:?}");
        let work = (after - before) as f64;
        Ok(Rates { per_second: work / took.as_secs_f64(), per_cpu_second: work / used.as_secs_f64() })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(stream) = &self.stream {
            // It may be shut already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            // One that panicked has printed so.
            let _ = thread.join();
        }
    }
}
