//! `/metrics`: the last collection, for Prometheus and its like to fetch.
//!
//! The collector leaves each batch here when it has been queued for the exporter; a request is answered out of the newest one, and
//! costs the kernel nothing. Only `export.pull: true` makes a [`Pull`]: without it nothing is kept.
//!
//! Series have no times of their own, as is usual for a scrape: what is not in the newest collection any more ends in the back end
//! at the next scrape.

mod accept;
mod buckets;
mod delimited;
mod families;
mod labels;
mod text;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{HeaderMap, Method, StatusCode, header};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task,
};

use self::{accept::Format, families::Families};
use crate::{aggregate::Batch, config::Compression, export::compress::Writer};

/// Where it is served.
pub const PATH: &str = "/metrics";

/// Scrapes that are answered at one time: each has the whole text in memory until the client has taken it.
const SCRAPES: usize = 4;

/// A collection that is older than this and two intervals is no answer: the collector is stuck.
const OLD: Duration = Duration::from_secs(30);

/// The newest collection, and what answers out of it.
#[derive(Debug)]
pub struct Pull {
    newest: Mutex<Option<Kept>>,
    scrapes: Arc<Semaphore>,
    interval: Duration,
    /// Bytes that the value of a label may have.
    most: usize,
}

/// A collection that is kept.
#[derive(Clone, Debug)]
struct Kept {
    batch: Arc<Batch>,
    at: Instant,
}

/// An answer to a request.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// Content-Type.
    pub content_type: &'static str,
    /// Whether the body is gzipped.
    pub gzip: bool,
    /// The methods that there are, where the request had another.
    pub allow: Option<&'static str>,
    /// The body.
    pub body: Bytes,
    /// Holds one of the places for scrapes until the body has left.
    _place: Option<OwnedSemaphorePermit>,
}

impl Answer {
    fn plain(status: StatusCode, text: String) -> Self {
        let content_type = "text/plain; charset=utf-8";
        Self { status, content_type, gzip: false, allow: None, body: text.into(), _place: None }
    }
}

impl Pull {
    /// Of an agent that collects every `interval`. Values of labels have at most `most` bytes.
    pub fn new(interval: Duration, most: usize) -> Self {
        Self { newest: Mutex::default(), scrapes: Arc::new(Semaphore::new(SCRAPES)), interval, most }
    }

    /// From now on this batch is the answer. Waits for no scrape.
    pub fn keep(&self, mut batch: Batch) {
        // What only those need who are sent every batch.
        (batch.ended, batch.events) = (Vec::new(), Vec::new());
        let samples = batch.cgroups.iter_mut().map(|cgroup| &mut cgroup.sample).chain(&mut batch.pods);
        std::iter::once(&mut batch.node).chain(samples).for_each(|sample| sample.earlier = Vec::new());
        let kept = Kept { batch: Arc::new(batch), at: Instant::now() };
        let before = self.newest.lock().unwrap_or_else(PoisonError::into_inner).replace(kept);
        // After the lock: freeing takes longer than a scrape shall wait.
        drop(before);
    }

    /// Answers a request to [`PATH`]. The text is made in a thread of its own: sending goes on meanwhile.
    pub async fn answer(&self, method: &Method, headers: &HeaderMap) -> Answer {
        if method != Method::GET && method != Method::HEAD {
            let text = format!("{PATH} cannot be changed with {method}; use GET\n");
            return Answer { allow: Some("GET, HEAD"), ..Answer::plain(StatusCode::METHOD_NOT_ALLOWED, text) };
        }
        let Some(format) = accept::format(&joined(headers, header::ACCEPT)) else {
            let text = format!("{PATH} is in none of the formats of the Accept header; available are:\n{}", accept::available());
            return Answer::plain(StatusCode::NOT_ACCEPTABLE, text);
        };
        let kept = self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(Kept { batch, at }) = kept else {
            return Answer::plain(StatusCode::SERVICE_UNAVAILABLE, "no collection has finished yet; try again\n".to_owned());
        };
        let age = at.elapsed();
        if age > OLD + 2 * self.interval {
            let text = format!("the last collection was {} s ago: the collector is stuck; see /healthz\n", age.as_secs());
            return Answer::plain(StatusCode::SERVICE_UNAVAILABLE, text);
        }
        let Ok(place) = Arc::clone(&self.scrapes).try_acquire_owned() else {
            let text = format!("{SCRAPES} scrapes are being answered already; try again\n");
            return Answer::plain(StatusCode::SERVICE_UNAVAILABLE, text);
        };
        let gzip = accept::gzip(&joined(headers, header::ACCEPT_ENCODING));
        let most = self.most;
        match task::spawn_blocking(move || render(&batch, format, gzip, most)).await {
            Ok(body) => {
                let content_type = format.content_type();
                Answer { status: StatusCode::OK, content_type, gzip, allow: None, body: body.into(), _place: Some(place) }
            }
            Err(_) => {
                let text = "could not write the metrics; this is a bug\n".to_owned();
                Answer::plain(StatusCode::INTERNAL_SERVER_ERROR, text)
            }
        }
    }
}

/// All values of a header, which HTTP allows to be sent in parts.
fn joined(headers: &HeaderMap, name: header::HeaderName) -> String {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.collect::<Vec<_>>().join(",")
}

/// The text of a batch in a format, one family of series after the other.
fn render(batch: &Batch, format: Format, gzip: bool, most: usize) -> Vec<u8> {
    let families = Families::of(batch, most);
    let mut out = Writer::new(&[], if gzip { Compression::Gzip } else { Compression::None });
    match format {
        Format::Protobuf => families.each(|family| out.write(&delimited::family(family))),
        Format::OpenMetrics | Format::Text => {
            families.each(|family| text::family(family, format, |text| out.write(text.as_bytes())))
        }
    }
    if format == Format::OpenMetrics {
        out.write(b"# EOF\n");
    }
    out.finish()
}

#[cfg(test)]
mod tests;
