//! TCP for tests: connections whose ends belong to cgroups and network namespaces.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::{
    maps::loaded_maps,
    programs::{ProgramInfo, loaded_programs},
};
use nix::libc;

use crate::{
    cgroup::{Cgroup, inside},
    namespace::{FAR, Namespace},
    time::{MS, patience},
};

/// Listens in a namespace, as a process of `cgroup`; the address by which the far end of a cable is reached.
pub fn listen(cgroup: &Cgroup, namespace: &Namespace) -> Result<(TcpListener, SocketAddr)> {
    let listener = inside(cgroup, || namespace.run(|| TcpListener::bind("0.0.0.0:0").context("could not listen")))?;
    let port = listener.local_addr()?.port();
    Ok((listener, (FAR, port).into()))
}

/// A server in a cgroup and a namespace: reads each of `connections` to its end, then closes it.
pub fn server(cgroup: &Cgroup, namespace: &Namespace, connections: usize) -> Result<(SocketAddr, JoinHandle<Result<u64>>)> {
    let (listener, address) = listen(cgroup, namespace)?;
    let serve = thread::spawn(move || {
        let mut bytes = 0;
        for _ in 0..connections {
            let (mut stream, _) = listener.accept().context("could not accept")?;
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            let mut buffer = [0; 65536];
            loop {
                match stream.read(&mut buffer).context("could not receive")? {
                    0 => break,
                    n => bytes += n as u64,
                }
            }
        }
        Ok(bytes)
    });
    Ok((address, serve))
}

/// Connects, as a process of `cgroup` in this namespace; each write is a segment of its own, or several.
pub fn connect(cgroup: &Cgroup, namespace: &Namespace, to: SocketAddr) -> Result<TcpStream> {
    let stream = inside(cgroup, || namespace.run(|| TcpStream::connect(to).context("could not connect")))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends so many pieces of 1000 bytes, one per ms or so: each is a segment of its own.
pub fn send(stream: &mut TcpStream, pieces: u32) -> Result<()> {
    for _ in 0..pieces {
        stream.write_all(&[7; 1000]).context("could not send")?;
        thread::sleep(MS);
    }
    Ok(())
}

/// Waits until all that was sent in this namespace is acknowledged: nothing is sent again after that.
pub fn acknowledged(namespace: &Namespace) -> Result<()> {
    let deadline = Instant::now() + patience(Duration::from_secs(20));
    loop {
        let waiting = namespace.unacknowledged()?;
        if waiting == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{waiting} bytes are not acknowledged after 20 s");
        thread::sleep(5 * MS);
    }
}

/// Waits for the other end to close too.
pub fn finish(mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.shutdown(Shutdown::Write)?;
    ensure!(stream.read(&mut [0; 16]).context("the other end did not close")? == 0, "an answer that was never sent");
    Ok(())
}

/// Waits for a [`server`] to end; the bytes that it got.
pub fn joined(server: JoinHandle<Result<u64>>) -> Result<u64> {
    server.join().map_err(|_| anyhow!("the server panicked"))?
}

/// Does something while the agents' program for it walks over all sockets again and again, and not only before each reading; how often it
/// has. `None` where no agent has that program.
pub fn while_walking<T: Send>(what: impl FnOnce() -> Result<T> + Send) -> Result<Option<(T, u32)>> {
    let links = socket_walks()?;
    if links.is_empty() {
        return Ok(None);
    }
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let walker = scope.spawn(|| -> Result<u32> {
            let mut walks = 0;
            while !ended.load(Ordering::Relaxed) {
                for link in &links {
                    walk(link)?;
                }
                walks += 1;
            }
            Ok(walks)
        });
        let done = what();
        ended.store(true, Ordering::Relaxed);
        let walks = walker.join().map_err(|_| anyhow!("the walker panicked"))??;
        Ok(Some((done?, walks)))
    })
}

/// The program `tcp_on_walk` of every agent, attached a second time to the sockets that agent counts (`BPF_LINK_CREATE`).
fn socket_walks() -> Result<Vec<OwnedFd>> {
    const BPF_LINK_CREATE: libc::c_int = 28;
    const BPF_TRACE_ITER: u32 = 28;
    let mut links = Vec::new();
    let maps = |program: &ProgramInfo| program.map_ids().ok().flatten().unwrap_or_default();
    // Those of other tests come and go.
    for program in loaded_programs().flatten().filter(|program| program.name() == b"tcp_on_walk") {
        // The walk does not name the sockets' map, and this program of the same agent does.
        let own = maps(&program);
        let mut events =
            loaded_programs().flatten().filter(|program| program.name() == b"tcp_on_event").map(|event| maps(&event));
        let ids = events.find(|ids| ids.iter().any(|id| own.contains(id))).unwrap_or_default();
        let mut sockets = loaded_maps().flatten().filter(|map| map.name() == b"TCP_SOCKETS");
        let Some(map) = sockets.find(|map| ids.contains(&map.id())) else { continue };
        let (Ok(program), Ok(map)) = (program.fd(), map.fd()) else { continue };
        let from = map.as_fd().as_raw_fd().cast_unsigned();
        let program = program.as_fd().as_raw_fd().cast_unsigned();
        // Program, target, attach type, flags; then where `from` is, in two halves, and how long it is.
        let address = (&raw const from).addr() as u64;
        let link = [program, 0, BPF_TRACE_ITER, 0, address as u32, (address >> 32) as u32, size_of_val(&from) as u32, 0];
        links.push(bpf(BPF_LINK_CREATE, &link).context("could not attach a walk over sockets")?);
    }
    Ok(links)
}

/// One walk over all sockets.
fn walk(link: &OwnedFd) -> Result<()> {
    const BPF_ITER_CREATE: libc::c_int = 33;
    let mut file = File::from(bpf(BPF_ITER_CREATE, &[link.as_raw_fd().cast_unsigned(), 0]).context("could not begin a walk")?);
    let end = file.read(&mut [0; 64]).context("could not walk")?;
    ensure!(end == 0, "the walk writes something");
    Ok(())
}

/// `bpf()` for commands that give a descriptor.
fn bpf<const N: usize>(command: libc::c_int, attributes: &[u32; N]) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads the given number of bytes of a live array; what it points to is a live value of the caller's.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes)) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
