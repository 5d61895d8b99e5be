//! A fake OTLP collector: takes metrics and logs over gRPC and HTTP on one port of 127.0.0.1, keeps what it got, and misbehaves
//! as scripted.
//!
//! It runs in a thread of its own, so that tests with and without an async runtime can use it, and so that it answers while
//! a test blocks. gRPC is tonic's server, an implementation other than the one under test. What a request is answered with
//! is decided when its headers are there: first by the script ([`Collector::next`]), then by the standing answer
//! ([`Collector::always`]).

mod grpc;
mod http;
mod serve;
mod state;
mod tls;
mod values;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use tokio::sync::{mpsc, oneshot};

use self::serve::{Order, serve};
use self::state::CollectorState;
pub use self::state::{Answer, Protocol, Received};
pub use self::tls::Tls;
use self::values::values;
use crate::otlp::Exports;
use crate::watched::Watched;

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
    /// Keep no request with metrics: for hours of them.
    pub forgets: bool,
}

/// A running collector. It ends with this value.
pub struct Collector {
    address: SocketAddr,
    tls: Option<Tls>,
    shared: Arc<Watched<CollectorState>>,
    orders: mpsc::UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
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
        let shared = Arc::new(Watched::new(CollectorState::new(&options)));
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
        self.shared.get().logs.clone()
    }

    /// The requests with traces, in order. They are all taken.
    pub fn traces(&self) -> Vec<ExportTraceServiceRequest> {
        self.shared.get().traces.clone()
    }

    /// The headers of the requests with logs, in order, whatever the answer.
    pub fn logs_headers(&self) -> Vec<BTreeMap<String, String>> {
        self.shared.get().logs_headers.clone()
    }

    /// The number of requests with logs whose headers arrived, whatever the answer.
    pub fn log_attempts(&self) -> usize {
        self.shared.get().log_attempts
    }

    /// Closes the listener and every connection; connecting is refused until [`Collector::listen`]. The port stays reserved.
    pub fn refuse(&self) {
        self.order(Order::Refuse);
    }

    /// Listens again on the same port.
    pub fn listen(&self) {
        self.order(Order::Listen);
    }

    /// Shows another certificate from now on, and requires clients' certificates of its authority where that is set.
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
        // The thread lives as long as `self`. It obeys at once: a moment's wait, also inside a runtime.
        let _ = self.orders.send(order(done));
        std::thread::scope(|scope| scope.spawn(|| finished.blocking_recv()).join().ok());
    }

    /// The requests that were taken, in order.
    pub fn received(&self) -> Vec<Received> {
        self.shared.get().received.clone()
    }

    /// The number of requests with metrics whose headers arrived, whatever the answer.
    pub fn attempts(&self) -> usize {
        self.shared.get().attempts
    }

    /// The number of exports with metrics, each of one or several requests. Only for agents with an interval of several seconds.
    pub fn export_count(&self) -> usize {
        self.shared.get().exports
    }

    /// The number of TCP connections that were accepted.
    pub fn connections(&self) -> usize {
        self.shared.get().connections
    }

    /// All that was taken so far, taken apart.
    ///
    /// # Errors
    /// A request was not valid OTLP.
    pub fn exports(&self) -> Result<Exports> {
        let mut exports = Exports::default();
        for received in &self.shared.get().received {
            exports.add(&received.request)?;
        }
        Ok(exports)
    }

    /// Every value a metric had, in order of arrival, of resources that have this attribute. Of a histogram, its count.
    pub fn values(&self, resource: (&str, &str), metric: &str) -> Vec<f64> {
        let state = self.shared.get();
        state.received.iter().flat_map(|received| values(&received.request, resource, metric)).collect()
    }

    /// The last of [`Collector::values`].
    pub fn latest(&self, resource: (&str, &str), metric: &str) -> Option<f64> {
        let state = self.shared.get();
        state.received.iter().rev().find_map(|received| values(&received.request, resource, metric).pop())
    }

    /// Waits until something is true of the collector.
    ///
    /// # Errors
    /// It is not within 20 s, more on an emulated CPU ([`crate::patience`]).
    pub async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) -> Result<()> {
        let mut version = self.shared.changes();
        let wait = async {
            while !condition(self) {
                // The sender is in `self`.
                let _ = version.changed().await;
            }
        };
        if tokio::time::timeout(crate::time::patience(Duration::from_secs(20)), wait).await.is_err() {
            let (attempts, taken) = (self.attempts(), self.shared.get().received.len());
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

#[cfg(test)]
mod tests;
