//! Connections to servers, for the export and for the Kubernetes API: TCP, by a proxy where the environment names one, and TLS.

pub mod proxy;

use std::{
    fmt,
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Method, Request, StatusCode, Uri, header::PROXY_AUTHORIZATION};
use http_body_util::Empty;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector, proxy::SocksV5},
    rt::TokioIo,
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
};
use tokio_rustls::TlsConnector;
use tower::Service;

use self::proxy::{Proxy, Scheme};

/// Why there is no connection, where this module knows more than the system's error.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The proxy is away, or TLS to it failed.
    #[error("the proxy {proxy} could not be reached")]
    Unreachable {
        /// The proxy, without credentials.
        proxy: String,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Nobody listens at a Unix socket, or the agent may not connect to it.
    #[error("the socket {}", path.display())]
    Socket {
        /// Its file.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The proxy answers, but opens no way to the server.
    #[error("the proxy {proxy} opens no connection to {server}: {answer}")]
    Refused {
        /// The proxy, without credentials.
        proxy: String,
        /// The server, with its port.
        server: String,
        /// Its answer.
        answer: String,
    },
    /// All of it took too long.
    #[error("no connection within {0:?}")]
    Late(Duration),
    /// No name that a certificate could be for.
    #[error("{0:?} is no name that a certificate can be checked for")]
    Name(String),
}

/// The TLS settings for a connection that is made now.
pub type TlsSource = Arc<dyn Fn() -> Arc<ClientConfig> + Send + Sync>;

/// Makes connections to one server.
#[derive(Clone)]
pub struct Connector {
    tcp: HttpConnector,
    /// The file of the Unix socket where the server listens, whatever its address.
    socket: Option<Arc<Path>>,
    proxy: Option<Arc<Proxy>>,
    tls: TlsSource,
    /// Checked in the certificate instead of the server's name.
    name: Option<String>,
    /// Whether plain HTTP goes through a tunnel too. HTTP/2 has to; HTTP/1.1 need not, and many proxies open tunnels to the
    /// ports of TLS only.
    tunnels_all: bool,
    within: Duration,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("proxy", &self.proxy).field("within", &self.within).finish_non_exhaustive()
    }
}

impl Connector {
    /// Connects by this proxy, if there is one, and no longer than `within`.
    pub fn new(proxy: Option<Proxy>, within: Duration, tls: TlsSource) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(within));
        Self { tcp, socket: None, proxy: proxy.map(Arc::new), tls, name: None, tunnels_all: false, within }
    }

    /// Connects to this Unix socket, if there is one, instead of the server's address.
    pub fn by_socket(self, socket: Option<PathBuf>) -> Self {
        Self { socket: socket.map(Arc::from), ..self }
    }

    /// For HTTP/2: plain connections go through a tunnel of the proxy too.
    pub fn tunnelling_all(self) -> Self {
        Self { tunnels_all: true, ..self }
    }

    /// The server's certificate must be for this name, whatever its address is.
    pub fn for_name(self, name: Option<String>) -> Self {
        Self { name, ..self }
    }

    /// The same connections with other settings of TLS.
    pub fn with_tls(&self, tls: TlsSource) -> Self {
        Self { tls, ..self.clone() }
    }

    /// The header that each request to that address must have for the proxy: where the proxy reads requests, because they go
    /// through no tunnel.
    pub fn proxy_authorization(&self, to: &Uri) -> Option<&HeaderValue> {
        self.proxy.as_ref().filter(|proxy| self.reads_requests(proxy, to))?.basic.as_ref()
    }

    fn reads_requests(&self, proxy: &Proxy, to: &Uri) -> bool {
        !self.tunnels_all && !is_https(to) && !matches!(proxy.scheme, Scheme::Socks { .. })
    }

    async fn connect(mut self, to: Uri) -> Result<Stream, BoxError> {
        if let Some(path) = &self.socket {
            let unreachable = |source| ConnectError::Socket { path: path.to_path_buf(), source };
            let io: BoxIo = Box::new(UnixStream::connect(path).await.map_err(unreachable)?);
            return Ok(Stream { io: TokioIo::new(io), proxied: false });
        }
        let (io, proxied) = match self.proxy.clone() {
            None => (boxed(self.tcp.call(to.clone()).await?), false),
            Some(proxy) if self.reads_requests(&proxy, &to) => (self.reach(&proxy).await?, true),
            Some(proxy) => (self.tunnel(&proxy, &to).await?, false),
        };
        if !is_https(&to) {
            return Ok(Stream { io: TokioIo::new(io), proxied });
        }
        let host = self.name.as_deref().unwrap_or_else(|| to.host().unwrap_or_default());
        Ok(Stream { io: TokioIo::new(boxed_tls(io, host, (self.tls)()).await?), proxied })
    }

    /// A connection to the proxy itself.
    async fn reach(&mut self, proxy: &Proxy) -> Result<BoxIo, ConnectError> {
        let failed = |source| ConnectError::Unreachable { proxy: proxy.to_string(), source };
        let io = boxed(self.tcp.call(proxy.uri.clone()).await.map_err(|error| failed(error.into()))?);
        match &proxy.tls {
            Some(config) if proxy.scheme == Scheme::Https => {
                let host = proxy.uri.host().unwrap_or_default();
                boxed_tls(io, host, Arc::clone(config)).await.map_err(failed)
            }
            _ => Ok(io),
        }
    }

    /// A connection to the server, through the proxy.
    async fn tunnel(&mut self, proxy: &Proxy, to: &Uri) -> Result<BoxIo, ConnectError> {
        let port = to.port_u16().unwrap_or(if is_https(to) { 443 } else { 80 });
        let server = format!("{}:{port}", to.host().unwrap_or_default());
        let refused = |answer| ConnectError::Refused { proxy: proxy.to_string(), server: server.clone(), answer };
        if let Scheme::Socks { names_here } = proxy.scheme {
            let mut socks = SocksV5::new(proxy.uri.clone(), self.tcp.clone()).local_dns(names_here);
            if let Some((user, password)) = &proxy.login {
                socks = socks.with_auth(user.clone(), password.clone());
            }
            let uri = format!("tcp://{server}").parse().map_err(|error: http::uri::InvalidUri| refused(error.to_string()))?;
            return Ok(boxed(socks.call(uri).await.map_err(|error| refused(crate::causes::chain(&error)))?));
        }
        let io = self.reach(proxy).await?;
        let failed = |error: hyper::Error| ConnectError::Unreachable { proxy: proxy.to_string(), source: error.into() };
        // hyper's own client: what the server sends right behind the proxy's answer, as HTTP/2 servers do, is not lost.
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(failed)?;
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder().method(Method::CONNECT).uri(&server).header(http::header::HOST, &server);
        if let Some(basic) = &proxy.basic {
            request = request.header(PROXY_AUTHORIZATION, basic);
        }
        let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|error| refused(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(failed)?;
        match response.status() {
            status if status.is_success() => {
                let upgraded = hyper::upgrade::on(response).await.map_err(failed)?;
                Ok(Box::new(TokioIo::new(upgraded)))
            }
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Err(refused("407 Proxy Authentication Required, check the user and the password of the proxy's URL".to_owned()))
            }
            status => Err(refused(status.to_string())),
        }
    }
}

fn is_https(uri: &Uri) -> bool {
    uri.scheme() == Some(&http::uri::Scheme::HTTPS)
}

async fn boxed_tls(io: BoxIo, host: &str, config: Arc<ClientConfig>) -> Result<BoxIo, BoxError> {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let name = ServerName::try_from(host.to_owned()).map_err(|_| ConnectError::Name(host.to_owned()))?;
    Ok(Box::new(TlsConnector::from(config).connect(name, io).await?))
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type BoxIo = Box<dyn Io>;

fn boxed(tcp: TokioIo<tokio::net::TcpStream>) -> BoxIo {
    Box::new(tcp.into_inner())
}

/// A connection, however it was made.
pub struct Stream {
    io: TokioIo<BoxIo>,
    /// The proxy reads the requests.
    proxied: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.proxied)
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let (this, within) = (self.clone(), self.within);
        Box::pin(async move {
            match tokio::time::timeout(within, this.connect(to)).await {
                Ok(connected) => connected,
                Err(_) => Err(ConnectError::Late(within).into()),
            }
        })
    }
}
