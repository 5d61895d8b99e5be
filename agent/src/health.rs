//! `/healthz` and `/readyz`: what kubelet's probes ask.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, time::timeout};

use crate::kernel::facts;

/// Without a tick for so long the collector is stuck, and a restart is the cure.
const STUCK: Duration = Duration::from_secs(30);

/// A connection may last so long: probes ask once.
const CONNECTION: Duration = Duration::from_secs(5);

/// How the collector is.
#[derive(Debug, Default)]
pub struct Health {
    /// CLOCK_BOOTTIME of the last tick in ns.
    ticked_ns: AtomicU64,
    collected: AtomicBool,
}

impl Health {
    /// The collector is alive.
    pub fn tick(&self) {
        self.ticked_ns.store(facts::boottime_ns(), Ordering::Relaxed);
    }

    /// The first collection is done.
    pub fn collected(&self) {
        self.collected.store(true, Ordering::Relaxed);
    }

    fn answer(&self, path: &str) -> (StatusCode, String) {
        let silent_ns = facts::boottime_ns().saturating_sub(self.ticked_ns.load(Ordering::Relaxed));
        let silent = Duration::from_nanos(silent_ns);
        match path {
            "/healthz" if silent < STUCK => (StatusCode::OK, "ok\n".to_owned()),
            "/healthz" => (StatusCode::SERVICE_UNAVAILABLE, format!("the collector has not moved for {} s\n", silent.as_secs())),
            "/readyz" if self.collected.load(Ordering::Relaxed) => (StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "nothing was collected yet\n".to_owned()),
            _ => (StatusCode::NOT_FOUND, "there are /healthz and /readyz\n".to_owned()),
        }
    }
}

/// Takes the address.
///
/// # Errors
/// When it is taken already, or not this machine's.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Answers for ever.
pub async fn serve(listener: TcpListener, health: Arc<Health>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: no reason to spin.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let health = Arc::clone(&health);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (status, text) = health.answer(request.uri().path());
                let mut response = Response::new(Full::new(Bytes::from(text)));
                *response.status_mut() = status;
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
            let _ = timeout(CONNECTION, connection).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_after_the_first_collection_and_healthy_while_it_ticks() {
        let health = Health::default();
        assert_eq!(health.answer("/readyz").0, StatusCode::SERVICE_UNAVAILABLE);
        health.tick();
        health.collected();
        assert_eq!((health.answer("/healthz").0, health.answer("/readyz").0), (StatusCode::OK, StatusCode::OK));
        assert_eq!(health.answer("/").0, StatusCode::NOT_FOUND);
        let long_ago = facts::boottime_ns().saturating_sub(STUCK.as_nanos() as u64 + 1);
        health.ticked_ns.store(long_ago, Ordering::Relaxed);
        assert_eq!(health.answer("/healthz").0, StatusCode::SERVICE_UNAVAILABLE);
    }
}
