//! A fake OTLP collector: takes metrics and logs over gRPC and HTTP on one port of 127.0.0.1, keeps what it got, and misbehaves as told.
//!
//! It runs in a thread of its own, so that tests with and without an async runtime can use it, and so that it answers while
//! a test blocks. gRPC is tonic's server, an implementation other than the one under test. What a request is answered with
//! is decided when its headers are there: first by the script ([`Collector::next`]), then by the standing answer
//! ([`Collector::always`]).

mod http;
mod tls;
mod values;

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{MetricsService, MetricsServiceServer};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic_types::{ErrorDetails, StatusExt};

pub use self::tls::Tls;
use self::values::values;
use crate::otlp::Exports;

/// What a request is answered with.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Taken.
    Accept,
    /// Taken, and answered after this long.
    Late(Duration),
    /// Taken but for some points, or with a warning when `rejected` is 0.
    Partial {
        /// Points rejected.
        rejected: i64,
        /// What is said about them.
        message: String,
    },
    /// Refused with a gRPC code. A request over HTTP is answered with status 500.
    Grpc {
        /// The code.
        code: tonic::Code,
        /// `RetryInfo` in the status' details.
        retry_info: Option<Duration>,
    },
    /// Refused with an HTTP status, also over gRPC, as a proxy does.
    Http {
        /// The status.
        status: u16,
        /// The `Retry-After` header.
        retry_after: Option<String>,
    },
    /// Never answered; new connections are accepted and nothing is ever read from them.
    Stall,
    /// The connection is reset (RST) after the request's headers.
    Reset,
}

impl Answer {
    /// Whether the data of such a request is kept.
    fn takes(&self) -> bool {
        matches!(self, Self::Accept | Self::Late(_) | Self::Partial { .. })
    }
}

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// HTTP with a protobuf body.
    Http,
}

/// A request that was taken.
#[derive(Clone, Debug)]
pub struct Received {
    /// What it carried.
    pub request: ExportMetricsServiceRequest,
    /// How it came.
    pub protocol: Protocol,
    /// Its path.
    pub path: String,
    /// Its headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// `grpc-encoding` or `content-encoding`.
    pub content_encoding: Option<String>,
    /// When it was complete.
    pub at: Instant,
}

/// How a collector is set up.
#[derive(Debug, Default)]
pub struct Options {
    /// TLS; plain text without.
    pub tls: Option<Tls>,
    /// Answer without compression even where the client would take it.
    pub plain_replies: bool,
    /// Bytes of the largest request that it takes, before compression, as real ones have such a limit: beyond it gRPC is answered
    /// with RESOURCE_EXHAUSTED without `RetryInfo`, in grpc-go's words, and HTTP with 413. `None`: tonic's own for gRPC, 4 MiB.
    pub limit: Option<usize>,
}

/// A running collector. It ends with this value.
pub struct Collector {
    address: SocketAddr,
    tls: Option<Tls>,
    shared: Arc<Shared>,
    orders: mpsc::UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Changes with the state.
    version: watch::Sender<u64>,
    plain_replies: bool,
    limit: Option<usize>,
}

#[derive(Debug)]
struct State {
    script: VecDeque<Answer>,
    standing: Answer,
    received: Vec<Received>,
    /// What requests with logs are answered with: the script is for metrics.
    logs_answer: Answer,
    logs: Vec<ExportLogsServiceRequest>,
    logs_headers: Vec<BTreeMap<String, String>>,
    log_attempts: usize,
    attempts: usize,
    connections: usize,
}

/// What the thread is told to do.
enum Order {
    /// Close the listener and all connections.
    Refuse(oneshot::Sender<()>),
    /// Listen again.
    Listen(oneshot::Sender<()>),
    /// Speak TLS so in connections to come.
    Present(TlsAcceptor, oneshot::Sender<()>),
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collector").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Collector {
    /// Starts a plain-text collector on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// No port or no thread to be had.
    pub fn start() -> Result<Self> {
        Self::with(Options::default())
    }

    /// Starts a collector.
    ///
    /// # Errors
    /// No port or no thread to be had, or unusable certificates.
    pub fn with(options: Options) -> Result<Self> {
        let acceptor = options.tls.as_ref().map(Tls::acceptor).transpose()?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("could not listen on 127.0.0.1")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let state = State {
            script: VecDeque::new(),
            standing: Answer::Accept,
            received: Vec::new(),
            logs_answer: Answer::Accept,
            logs: Vec::new(),
            logs_headers: Vec::new(),
            log_attempts: 0,
            attempts: 0,
            connections: 0,
        };
        let Options { plain_replies, limit, .. } = options;
        let shared = Arc::new(Shared { state: Mutex::new(state), version: watch::Sender::new(0), plain_replies, limit });
        let (orders, inbox) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("collector".into()).spawn({
            let shared = shared.clone();
            move || runtime.block_on(serve(listener, address, acceptor, shared, inbox))
        })?;
        Ok(Self { address, tls: options.tls, shared, orders, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The endpoint for OTLP over gRPC.
    pub fn grpc_endpoint(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The endpoint for OTLP over HTTP, path included.
    pub fn http_endpoint(&self) -> String {
        format!("{}/v1/metrics", self.grpc_endpoint())
    }

    /// The certificates, when it speaks TLS.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Answers the next `times` requests like this, after those already scripted.
    pub fn next(&self, times: usize, answer: Answer) {
        self.shared.change(|state| state.script.extend(std::iter::repeat_n(answer, times)));
    }

    /// Answers every request like this when the script is at its end.
    pub fn always(&self, answer: Answer) {
        self.shared.change(|state| state.standing = answer);
    }

    /// Answers every request with logs like this.
    pub fn always_logs(&self, answer: Answer) {
        self.shared.change(|state| state.logs_answer = answer);
    }

    /// The requests with logs that were taken, in order.
    pub fn logs(&self) -> Vec<ExportLogsServiceRequest> {
        self.shared.state().logs.clone()
    }

    /// The headers of the requests with logs, in order, whatever the answer.
    pub fn logs_headers(&self) -> Vec<BTreeMap<String, String>> {
        self.shared.state().logs_headers.clone()
    }

    /// The number of requests with logs whose headers arrived, whatever the answer.
    pub fn log_attempts(&self) -> usize {
        self.shared.state().log_attempts
    }

    /// Closes the listener and every connection; connecting is refused until [`Collector::listen`]. The port stays reserved.
    pub fn refuse(&self) {
        self.order(Order::Refuse);
    }

    /// Listens again on the same port.
    pub fn listen(&self) {
        self.order(Order::Listen);
    }

    /// Shows another certificate from now on, and wants clients' certificates of its authority where that says so.
    ///
    /// # Errors
    /// Unusable certificates.
    pub fn present(&mut self, tls: Tls) -> Result<()> {
        let acceptor = tls.acceptor()?;
        self.order(|done| Order::Present(acceptor, done));
        self.tls = Some(tls);
        Ok(())
    }

    fn order(&self, order: impl FnOnce(oneshot::Sender<()>) -> Order) {
        let (done, finished) = oneshot::channel();
        // The thread lives as long as `self`. It does what it is told at once: a moment's wait, also inside a runtime.
        let _ = self.orders.send(order(done));
        std::thread::scope(|scope| scope.spawn(|| finished.blocking_recv()).join().ok());
    }

    /// The requests that were taken, in order.
    pub fn received(&self) -> Vec<Received> {
        self.shared.state().received.clone()
    }

    /// The number of requests with metrics whose headers arrived, whatever the answer.
    pub fn attempts(&self) -> usize {
        self.shared.state().attempts
    }

    /// The number of TCP connections that were accepted.
    pub fn connections(&self) -> usize {
        self.shared.state().connections
    }

    /// All that was taken so far, taken apart.
    ///
    /// # Errors
    /// A request was not what OTLP says it has to be.
    pub fn exports(&self) -> Result<Exports> {
        let mut exports = Exports::default();
        for received in &self.shared.state().received {
            exports.add(&received.request)?;
        }
        Ok(exports)
    }

    /// Every value a metric had, in order of arrival, of resources that have this attribute. Of a histogram, its count.
    pub fn values(&self, resource: (&str, &str), metric: &str) -> Vec<f64> {
        let state = self.shared.state();
        state.received.iter().flat_map(|received| values(&received.request, resource, metric)).collect()
    }

    /// The last of [`Collector::values`].
    pub fn latest(&self, resource: (&str, &str), metric: &str) -> Option<f64> {
        let state = self.shared.state();
        state.received.iter().rev().find_map(|received| values(&received.request, resource, metric).pop())
    }

    /// Waits until something is true of the collector.
    ///
    /// # Errors
    /// It is not within 20 s, for which [`crate::patience`] is had.
    pub async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) -> Result<()> {
        let mut version = self.shared.version.subscribe();
        let wait = async {
            while !condition(self) {
                // The sender is in `self`.
                let _ = version.changed().await;
            }
        };
        if tokio::time::timeout(crate::patience(Duration::from_secs(20)), wait).await.is_err() {
            let (attempts, taken) = (self.attempts(), self.shared.state().received.len());
            bail!("the collector did not see within 20 s: {what} ({attempts} requests came, {taken} were taken)");
        }
        Ok(())
    }

    /// [`Collector::until`] for tests without a runtime.
    ///
    /// # Errors
    /// The same.
    pub fn wait_until(&self, what: &str, condition: impl Fn(&Self) -> bool) -> Result<()> {
        tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(self.until(what, condition))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // Closing the channel ends the thread.
        self.orders = mpsc::unbounded_channel().0;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.version.send_modify(|version| *version += 1);
        result
    }

    /// The answer to a request that has just begun.
    fn answer(&self) -> Answer {
        self.change(|state| {
            state.attempts += 1;
            state.script.pop_front().unwrap_or_else(|| state.standing.clone())
        })
    }

    /// The answer to a request with logs that has just begun.
    fn logs_answer(&self, headers: BTreeMap<String, String>) -> Answer {
        self.change(|state| {
            state.logs_headers.push(headers);
            state.log_attempts += 1;
            state.logs_answer.clone()
        })
    }

    /// Refuses a message that is larger than the limit, as grpc-go does.
    fn limited(&self, message: &impl Message) -> Result<(), tonic::Status> {
        match self.limit.filter(|limit| message.encoded_len() > *limit) {
            Some(limit) => {
                let why = format!("grpc: received message after decompression larger than max {limit}");
                Err(tonic::Status::resource_exhausted(why))
            }
            None => Ok(()),
        }
    }

    /// Whether a connection made now is to be left unread.
    fn stalls(&self) -> bool {
        self.change(|state| {
            state.connections += 1;
            *state.script.front().unwrap_or(&state.standing) == Answer::Stall
        })
    }
}

/// The thread: accepts connections until the [`Collector`] is gone.
async fn serve(
    listener: std::net::TcpListener,
    address: SocketAddr,
    mut acceptor: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    mut inbox: mpsc::UnboundedReceiver<Order>,
) {
    let mut listener = TcpListener::from_std(listener).ok();
    // Bound but not listening: keeps the port while connections are refused.
    let mut reserved: Option<TcpSocket> = None;
    // Dropping the set closes the connections in it.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accept = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            order = inbox.recv() => match order {
                Some(Order::Present(new, done)) => {
                    acceptor = Some(new);
                    let _ = done.send(());
                }
                Some(Order::Refuse(done)) => {
                    listener = None;
                    connections.shutdown().await;
                    if reserved.is_none() {
                        reserved = reserve(address).ok();
                    }
                    let _ = done.send(());
                }
                Some(Order::Listen(done)) => {
                    if let Some(socket) = reserved.take() {
                        listener = socket.listen(64).ok();
                    }
                    let _ = done.send(());
                }
                None => return,
            },
            Ok((stream, _)) = accept => {
                connections.spawn(connection(stream, acceptor.clone(), shared.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

fn reserve(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn connection(stream: TcpStream, acceptor: Option<TlsAcceptor>, shared: Arc<Shared>) {
    if shared.stalls() {
        // Held open, never read, until the collector closes its connections.
        let _held = stream;
        return std::future::pending().await;
    }
    let Ok(handle) = stream.as_fd().try_clone_to_owned() else { return };
    match acceptor {
        None => requests(stream, handle, shared).await,
        Some(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                requests(stream, handle, shared).await;
            }
        }
    }
}

/// Serves the requests of one connection, until it is closed or to be reset.
async fn requests<S>(stream: S, handle: OwnedFd, shared: Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (reset, mut to_reset) = mpsc::unbounded_channel();
    let service = service_fn(move |request| {
        let (shared, reset) = (shared.clone(), reset.clone());
        async move { Ok::<_, Infallible>(respond(request, &shared, &reset).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = serving => {}
        Some(()) = to_reset.recv() => {
            // Closing with a linger time of zero sends RST; closing happens when `serving` goes with this function.
            let _ = socket2::SockRef::from(&handle).set_linger(Some(Duration::ZERO));
        }
    }
    drop(handle);
}

/// Facts of a request that tonic does not hand on, and the answer it is to get.
#[derive(Clone, Debug)]
struct Call {
    path: String,
    headers: BTreeMap<String, String>,
    answer: Answer,
}

async fn respond(request: Request<Incoming>, shared: &Arc<Shared>, reset: &mpsc::UnboundedSender<()>) -> Response<Body> {
    let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let path = request.uri().path().to_string();
    let carries_logs = path == LOGS_PATH || path.contains("LogsService");
    let headers: BTreeMap<_, _> = request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let answer = if carries_logs { shared.logs_answer(headers.clone()) } else { shared.answer() };
    let mut call = Call { path, headers, answer };
    if let Answer::Late(delay) = call.answer {
        tokio::time::sleep(delay).await;
        call.answer = Answer::Accept;
    }
    match &call.answer {
        Answer::Stall => std::future::pending().await,
        Answer::Reset => {
            let _ = reset.send(());
            std::future::pending().await
        }
        Answer::Http { status, retry_after } => {
            // A proxy reads the request before it answers.
            let _ = request.into_body().collect().await;
            let mut response = Response::builder().status(*status).header(CONTENT_TYPE, "text/plain");
            if let Some(value) = retry_after {
                response = response.header(RETRY_AFTER, value);
            }
            body(response, format!("the fake collector answers {status}\n").into())
        }
        _ if call.headers.get("content-type").is_some_and(|t| t.starts_with("application/grpc")) => {
            let (mut head, incoming) = request.into_parts();
            head.extensions.insert(call);
            let mut metrics = MetricsServiceServer::new(Service(shared.clone())).accept_compressed(CompressionEncoding::Gzip);
            let mut logs = LogsServiceServer::new(Service(shared.clone())).accept_compressed(CompressionEncoding::Gzip);
            if shared.limit.is_some() {
                metrics = metrics.max_decoding_message_size(usize::MAX);
                logs = logs.max_decoding_message_size(usize::MAX);
            }
            if !shared.plain_replies {
                metrics = metrics.send_compressed(CompressionEncoding::Gzip);
                logs = logs.send_compressed(CompressionEncoding::Gzip);
            }
            let mut routes = tonic::service::Routes::new(metrics).add_service(logs);
            let Ok(response) = tonic::codegen::Service::call(&mut routes, Request::from_parts(head, incoming)).await;
            response
        }
        _ => over_http(request, call, shared).await,
    }
}

/// The gRPC service.
struct Service(Arc<Shared>);

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, tonic::Status> {
        let call = request.extensions().get::<Call>().cloned();
        let call = call.ok_or_else(|| tonic::Status::internal("the fake collector lost the call"))?;
        if let Answer::Grpc { code, retry_info } = &call.answer {
            let message = "the fake collector says no";
            return Err(match retry_info {
                Some(delay) => tonic::Status::with_error_details(*code, message, ErrorDetails::with_retry_info(Some(*delay))),
                None => tonic::Status::new(*code, message),
            });
        }
        self.0.limited(request.get_ref())?;
        Ok(tonic::Response::new(take(call, request.into_inner(), Protocol::Grpc, &self.0)))
    }
}

#[tonic::async_trait]
impl LogsService for Service {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, tonic::Status> {
        let answer = request.extensions().get::<Call>().map(|call| call.answer.clone());
        if let Some(Answer::Grpc { code, .. }) = answer {
            return Err(tonic::Status::new(code, "the fake collector says no"));
        }
        self.0.limited(request.get_ref())?;
        self.0.change(|state| state.logs.push(request.into_inner()));
        Ok(tonic::Response::new(ExportLogsServiceResponse::default()))
    }
}

/// Where logs are taken over HTTP.
const LOGS_PATH: &str = "/v1/logs";

/// OTLP over HTTP.
async fn over_http(request: Request<Incoming>, call: Call, shared: &Arc<Shared>) -> Response<Body> {
    let refuse =
        |status: u16, why: String| body(Response::builder().status(status).header(CONTENT_TYPE, "text/plain"), why.into());
    if !["/v1/metrics", LOGS_PATH].contains(&request.uri().path()) {
        return refuse(404, format!("nothing at {}", request.uri().path()));
    }
    if request.method() != hyper::Method::POST {
        return refuse(405, format!("{} is not allowed", request.method()));
    }
    if !matches!(call.answer, Answer::Accept | Answer::Partial { .. }) {
        return refuse(500, "the fake collector says no".into());
    }
    let (head, incoming) = request.into_parts();
    let Ok(collected) = incoming.collect().await else { return refuse(400, "the request breaks off".into()) };
    let plain = match http::plain(&head.headers, &collected.to_bytes()) {
        Ok(plain) if shared.limit.is_some_and(|limit| plain.len() > limit) => {
            return refuse(413, "http: request body too large\n".into());
        }
        Ok(plain) => plain,
        Err(error) => return refuse(400, format!("{error:#}")),
    };
    let taken = if call.path == LOGS_PATH {
        ExportLogsServiceRequest::decode(&plain[..]).map(|logs| {
            shared.change(|state| state.logs.push(logs));
            ExportLogsServiceResponse::default().encode_to_vec()
        })
    } else {
        ExportMetricsServiceRequest::decode(&plain[..]).map(|metrics| take(call, metrics, Protocol::Http, shared).encode_to_vec())
    };
    let reply = match taken {
        Ok(reply) => reply,
        Err(error) => return refuse(400, format!("the body is not OTLP: {error}")),
    };
    let response = Response::builder().header(CONTENT_TYPE, "application/x-protobuf");
    let takes_gzip = head.headers.get(ACCEPT_ENCODING).is_some_and(|v| v.as_bytes().windows(4).any(|w| w == b"gzip"));
    if !takes_gzip || shared.plain_replies {
        return body(response, reply.into());
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing into a Vec does not fail.
    let _ = encoder.write_all(&reply);
    body(response.header(CONTENT_ENCODING, "gzip"), encoder.finish().unwrap_or_default().into())
}

fn body(response: hyper::http::response::Builder, bytes: Bytes) -> Response<Body> {
    response.body(Body::new(Full::new(bytes))).unwrap_or_default()
}

/// Keeps a request and says what its answer tells to.
fn take(call: Call, request: ExportMetricsServiceRequest, protocol: Protocol, shared: &Shared) -> ExportMetricsServiceResponse {
    let encoding = match protocol {
        Protocol::Grpc => "grpc-encoding",
        Protocol::Http => "content-encoding",
    };
    let content_encoding = call.headers.get(encoding).cloned();
    if call.answer.takes() {
        let Call { path, headers, .. } = call;
        let received = Received { request, protocol, path, headers, content_encoding, at: Instant::now() };
        shared.change(|state| state.received.push(received));
    }
    let partial_success = match call.answer {
        Answer::Partial { rejected, message } => {
            Some(ExportMetricsPartialSuccess { rejected_data_points: rejected, error_message: message })
        }
        _ => None,
    };
    ExportMetricsServiceResponse { partial_success }
}

#[cfg(test)]
mod tests;
