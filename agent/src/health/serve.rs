//! The health endpoints' HTTP: few connections, short requests, little time, so that whoever reaches the port can cost the agent
//! neither memory nor descriptors.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fs::File,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::Health;
use crate::pull::{self, Answer, Pull};

/// Connections at one time. Beyond that the oldest is closed: a probe has sent its request before the next one comes.
const CONNECTIONS: usize = 16;

/// From a connection's begin to its end: probes ask once.
const CONNECTION: Duration = Duration::from_secs(5);

/// The same where metrics are fetched, which are made first and may be some MB.
const SCRAPE: Duration = Duration::from_secs(30);

/// Of a request, line and headers; hyper takes no less.
const REQUEST_BYTES: usize = 8 << 10;

/// Headers of a request.
const HEADERS: usize = 32;

/// While connections must be closed for others, a pause after each: a flood costs little of the CPU.
const PAUSE: Duration = Duration::from_millis(1);

/// Takes the address.
///
/// # Errors
/// When it is taken already, or not this machine's.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Answers for ever. Without `pull` there are no metrics.
pub async fn serve(listener: TcpListener, health: Arc<Health>, pull: Option<Arc<Pull>>) {
    let mut open: VecDeque<AbortHandle> = VecDeque::with_capacity(CONNECTIONS);
    // A descriptor to give up for a connection when there is no other: when they are used up, a probe must still get the answer.
    let mut reserve = spare();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                open.retain(|task| !task.is_finished());
                if is_out_of_descriptors(&error) && reserve.take().is_some() {
                    continue;
                }
                // No reason to spin.
                sleep(Duration::from_millis(100)).await;
                reserve = reserve.or_else(spare);
                continue;
            }
        };
        open.retain(|task| !task.is_finished());
        let full = open.len() >= CONNECTIONS;
        if let Some(oldest) = open.pop_front_if(|_| full) {
            oldest.abort();
        }
        open.push_back(tokio::spawn(answer(stream, Arc::clone(&health), pull.clone())).abort_handle());
        // The task reads what has come already before another connection is taken.
        if full {
            sleep(PAUSE).await
        } else {
            tokio::task::yield_now().await
        }
        reserve = reserve.or_else(spare);
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::EMFILE | nix::libc::ENFILE))
}

/// Answers one request, if it comes in time, and closes the connection.
async fn answer(stream: TcpStream, health: Arc<Health>, pull: Option<Arc<Pull>>) {
    let within = if pull.is_some() { SCRAPE } else { CONNECTION };
    let service = service_fn(move |request: Request<Incoming>| {
        let (health, pull) = (Arc::clone(&health), pull.clone());
        async move {
            let response = match pull.filter(|_| request.uri().path() == pull::PATH) {
                Some(pull) => metrics(pull.answer(request.method(), request.headers()).await),
                None => {
                    let (status, text) = health.answer(request.uri().path());
                    let mut response = Response::new(Held { body: Full::new(Bytes::from(text)), _answer: None });
                    *response.status_mut() = status;
                    response
                }
            };
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION)
        .max_buf_size(REQUEST_BYTES)
        .max_headers(HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let _ = timeout(within, connection).await;
}

/// The response of an answer.
fn metrics(answer: Answer) -> Response<Held> {
    let body = Full::new(answer.body.clone());
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    headers.insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
    if answer.gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Some(allow) = answer.allow {
        headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    let status = answer.status;
    let mut response = Response::new(Held { body, _answer: Some(answer) });
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    response
}

/// A body and the answer that it is of, which has its place among the scrapes for as long.
struct Held {
    body: Full<Bytes>,
    _answer: Option<Answer>,
}

impl Body for Held {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn server() -> SocketAddr {
        let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let health = Arc::new(Health::default());
        health.tick();
        tokio::spawn(serve(listener, health, None));
        address
    }

    /// What comes back, until the connection is closed.
    async fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        // A connection that is reset needs no answer.
        let _ = timeout(CONNECTION * 3, stream.read_to_end(&mut answer)).await.expect("closed in time");
        String::from_utf8_lossy(&answer).into_owned()
    }

    const PROBE: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n";

    #[tokio::test]
    async fn a_probe_is_answered_and_its_connection_closed() {
        let answer = ask(server().await, PROBE).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
        assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    }

    #[tokio::test]
    async fn more_connections_than_there_may_be_close_the_oldest_and_keep_no_probe_waiting() {
        let address = server().await;
        let mut idle = Vec::new();
        for _ in 0..4 * CONNECTIONS {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let began = std::time::Instant::now();
        assert!(ask(address, PROBE).await.starts_with("HTTP/1.1 200"));
        assert!(began.elapsed() < CONNECTION, "{:?}", began.elapsed());
        // All but the newest are closed by now, long before their time.
        for stream in &mut idle[..3 * CONNECTIONS] {
            let closed = timeout(CONNECTION * 4 / 5, stream.read(&mut [0; 1])).await.expect("closed");
            assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
        }
    }

    #[tokio::test]
    async fn a_request_that_is_too_long_or_too_slow_ends() {
        let address = server().await;
        let long = [b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ".as_slice(), &[b'x'; 64 << 10], b"\r\n\r\n"].concat();
        let answer = ask(address, &long).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
        let many = [b"GET /healthz HTTP/1.1\r\n".as_slice(), &b"A: b\r\n".repeat(HEADERS + 1), b"\r\n"].concat();
        let answer = ask(address, &many).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
        let began = std::time::Instant::now();
        let _ = ask(address, b"GET /healthz HTTP/1.1\r\nHost:").await;
        assert!(began.elapsed() < 2 * CONNECTION, "{:?}", began.elapsed());
    }
}
