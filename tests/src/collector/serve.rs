//! The collector's thread: accepts connections, answers requests, and breaks both as scripted.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;

use super::state::{Answer, Call, CollectorState};
use super::{grpc, http};
use crate::watched::Watched;

/// An order to the thread.
pub(super) enum Order {
    /// Close the listener and all connections.
    Refuse(oneshot::Sender<()>),
    /// Listen again.
    Listen(oneshot::Sender<()>),
    /// Speak TLS so in connections to come.
    Present(TlsAcceptor, oneshot::Sender<()>),
}

/// The thread: accepts connections until the [`Collector`] is gone.
pub(super) async fn serve(
    listener: std::net::TcpListener,
    address: SocketAddr,
    mut acceptor: Option<TlsAcceptor>,
    shared: Arc<Watched<CollectorState>>,
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

async fn connection(stream: TcpStream, acceptor: Option<TlsAcceptor>, shared: Arc<Watched<CollectorState>>) {
    if shared.change(CollectorState::stalls) {
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
async fn requests<S>(stream: S, handle: OwnedFd, shared: Arc<Watched<CollectorState>>)
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

async fn respond(
    request: Request<Incoming>,
    shared: &Arc<Watched<CollectorState>>,
    reset: &mpsc::UnboundedSender<()>,
) -> Response<Body> {
    let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let path = request.uri().path().to_string();
    let carries_logs = path == http::LOGS_PATH || path.contains("LogsService");
    let headers: BTreeMap<_, _> = request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let carries_traces = path == http::TRACES_PATH || path.contains("TraceService");
    let answer = shared.change(|state| match (carries_logs, carries_traces) {
        (true, _) => state.answer_to_logs(headers.clone()),
        // The script is for metrics.
        (_, true) => Answer::Accept,
        _ => state.answer(),
    });
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
            http::body(response, format!("the fake collector answers {status}\n").into())
        }
        _ if call.headers.get("content-type").is_some_and(|t| t.starts_with("application/grpc")) => {
            grpc::answer(request, call, shared).await
        }
        _ => http::answer(request, call, shared).await,
    }
}
