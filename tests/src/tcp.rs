//! TCP for tests: connections whose ends belong to cgroups and network namespaces.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::{
    cgroup::{Cgroup, inside},
    namespace::{FAR, Namespace},
    time::{MS, patience},
};

/// A server in a cgroup and a namespace: reads each of `connections` to its end, then closes it.
pub fn server(cgroup: &Cgroup, namespace: &Namespace, connections: usize) -> Result<(SocketAddr, JoinHandle<Result<u64>>)> {
    let listener = inside(cgroup, || namespace.run(|| TcpListener::bind("0.0.0.0:0").context("could not listen")))?;
    let port = listener.local_addr()?.port();
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
    Ok(((FAR, port).into(), serve))
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
