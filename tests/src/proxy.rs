//! A proxy of HTTP on 127.0.0.1: opens tunnels (CONNECT) and passes requests on that name their server whole. It alone knows
//! where names below `.test` lead: to 127.0.0.1.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};

/// The longest head of a request.
const HEAD: usize = 16 << 10;

/// The head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyRequest {
    /// Such as `CONNECT collector.test:4317 HTTP/1.1`.
    pub line: String,
    /// The header `Proxy-Authorization`.
    pub authorization: Option<String>,
}

/// A running proxy. It takes no more connections when this value is gone.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<ProxyState>,
}

#[derive(Debug, Default)]
struct ProxyState {
    requests: Mutex<Vec<ProxyRequest>>,
    /// `Proxy-Authorization` that every request must have.
    wanted: Option<String>,
    /// Tunnels are answered so instead of being opened.
    refusal: Option<&'static str>,
    over: AtomicBool,
}

impl Proxy {
    /// Accepts every request.
    ///
    /// # Errors
    /// No port to be had.
    pub fn start() -> Result<Self> {
        Self::with(None, None)
    }

    /// Accepts requests with this `Proxy-Authorization`.
    ///
    /// # Errors
    /// The same.
    pub fn that_wants(authorization: &str) -> Result<Self> {
        Self::with(Some(authorization.to_owned()), None)
    }

    /// Opens no tunnel, and answers with this status line instead.
    ///
    /// # Errors
    /// The same.
    pub fn that_refuses(status: &'static str) -> Result<Self> {
        Self::with(None, Some(status))
    }

    fn with(wanted: Option<String>, refusal: Option<&'static str>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("could not listen on 127.0.0.1")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(ProxyState { wanted, refusal, ..ProxyState::default() });
        let of_thread = Arc::clone(&shared);
        thread::Builder::new().name("proxy".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                if of_thread.over.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&of_thread);
                // Ends with its connection.
                thread::spawn(move || serve(stream, &shared));
            }
        })?;
        Ok(Self { address, shared })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its URL with credentials.
    pub fn url_of(&self, user: &str, password: &str) -> String {
        format!("http://{user}:{password}@{}", self.address)
    }

    /// The requests so far, the first of each connection.
    pub fn requests(&self) -> Vec<ProxyRequest> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut client: TcpStream, shared: &ProxyState) -> io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD {
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let line = text.lines().next().unwrap_or_default().to_owned();
    let header = |name: &str| {
        let mut headers = text.lines().skip(1).filter_map(|line| line.split_once(':'));
        headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    };
    let authorization = header("proxy-authorization");
    let request = ProxyRequest { line: line.clone(), authorization: authorization.clone() };
    shared.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    if shared.wanted.is_some() && shared.wanted != authorization {
        return client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
    }
    let target = line.split(' ').nth(1).unwrap_or_default();
    let connect = line.starts_with("CONNECT ");
    if let Some(status) = shared.refusal.filter(|_| connect) {
        return write!(client, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
    }
    let server =
        if connect { target } else { target.strip_prefix("http://").and_then(|rest| rest.split('/').next()).unwrap_or_default() };
    let (host, port) = server.rsplit_once(':').unwrap_or((server, "80"));
    let host = if host.ends_with(".test") { "127.0.0.1" } else { host };
    let mut server = TcpStream::connect(format!("{host}:{port}"))?;
    if connect {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    } else {
        server.write_all(&head)?;
    }
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let up = thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(std::net::Shutdown::Write);
    });
    let _ = io::copy(&mut server, &mut client);
    let _ = client.shutdown(std::net::Shutdown::Both);
    let _ = up.join();
    Ok(())
}
