//! Resources -> requests as they go over the wire, none larger than receivers take (pure).
//!
//! Receivers refuse a request for its size, mostly for that before compression: gRPC's own limit is 4 MiB, axum's for HTTP
//! 2 MiB. So a request ends where the next resource would make it too large; a resource that is too large alone is divided by
//! its metrics, and each part has the resource's attributes. A description stands with the first of its metric in each
//! request: it identifies nothing, and would be a third of all bytes.
//!
//! A request is protobuf in which one repeated field is all there is, so its bytes are those of its resources in a row. Only
//! one resource at a time is in memory as a message: all at once would be many times as large.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs};
use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics, metric::Data};
use prost::Message;
use prost::encoding::{self, DecodeContext};

use super::compress::{Writer, gunzip};
use super::json::to_json;
use super::{Compression, Destination, Exporter, Payload, Protocol};

/// What a request is turned into.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// A gRPC message: a flag for compressed, its length in four bytes, its bytes.
    Grpc(Compression),
    /// The body of an HTTP request.
    Http(Compression),
    /// A line of OTLP/JSON.
    Line,
    /// Nothing.
    Nothing,
}

/// A request as it goes over the wire.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// Its bytes.
    pub(super) body: Bytes,
    /// Points, or log records, in it.
    pub(super) count: u64,
    /// Size of the message before compression, by which receivers limit it. Of a line, the size that it would have in protobuf.
    pub(super) size: usize,
}

/// A part of a request: the data of one resource.
pub(super) trait Group: Message + Default + serde::Serialize {
    /// The metrics or the records of the resource.
    type Part: Message;

    /// The field of a request in JSON.
    const FIELD: &'static str;

    /// Takes the metrics or the records out.
    fn take(&mut self) -> Vec<Self::Part>;

    /// The same resource with these.
    fn with(&self, parts: Vec<Self::Part>) -> Self;

    /// Points, or log records.
    fn count(&self) -> u64;

    /// The metrics, which have names and descriptions.
    fn metrics(&mut self) -> impl Iterator<Item = &mut Metric>;
}

impl Group for ResourceMetrics {
    type Part = Metric;

    const FIELD: &'static str = "resourceMetrics";

    fn take(&mut self) -> Vec<Metric> {
        self.scope_metrics.first_mut().map(|scope| std::mem::take(&mut scope.metrics)).unwrap_or_default()
    }

    fn with(&self, parts: Vec<Metric>) -> Self {
        let mut group = self.clone();
        if let Some(scope) = group.scope_metrics.first_mut() {
            scope.metrics = parts;
        }
        group
    }

    fn count(&self) -> u64 {
        let points = |metric: &Metric| match &metric.data {
            Some(Data::Gauge(gauge)) => gauge.data_points.len(),
            Some(Data::Sum(sum)) => sum.data_points.len(),
            Some(Data::ExponentialHistogram(histogram)) => histogram.data_points.len(),
            _ => 0,
        };
        self.scope_metrics.iter().flat_map(|scope| &scope.metrics).map(points).sum::<usize>() as u64
    }

    fn metrics(&mut self) -> impl Iterator<Item = &mut Metric> {
        self.scope_metrics.iter_mut().flat_map(|scope| &mut scope.metrics)
    }
}

impl Group for ResourceLogs {
    type Part = LogRecord;

    const FIELD: &'static str = "resourceLogs";

    fn take(&mut self) -> Vec<LogRecord> {
        self.scope_logs.first_mut().map(|scope| std::mem::take(&mut scope.log_records)).unwrap_or_default()
    }

    fn with(&self, parts: Vec<LogRecord>) -> Self {
        let mut group = self.clone();
        if let Some(scope) = group.scope_logs.first_mut() {
            scope.log_records = parts;
        }
        group
    }

    fn count(&self) -> u64 {
        self.scope_logs.iter().map(|scope| scope.log_records.len()).sum::<usize>() as u64
    }

    fn metrics(&mut self) -> impl Iterator<Item = &mut Metric> {
        std::iter::empty()
    }
}

/// The only field of a request.
const FIELD: u32 = 1;

/// Makes requests of at most `limit` bytes, each given to `done` as soon as it is whole. One is larger where a single metric or
/// record is.
pub(super) fn pack<G: Group>(form: Form, limit: usize, groups: impl Iterator<Item = G>, mut done: impl FnMut(Request)) {
    let mut open: Option<Open> = None;
    for mut part in groups.flat_map(|group| divided(group, limit)) {
        let descriptions: Vec<String> = part.metrics().map(|metric| std::mem::take(&mut metric.description)).collect();
        if let Some(request) = &mut open {
            request.describe(&mut part, &descriptions);
            if request.size + encoding::message::encoded_len(FIELD, &part) <= limit {
                request.add(&mut part);
                continue;
            }
        }
        if let Some(full) = open.take() {
            done(full.finish());
        }
        let mut request = Open::new(form, G::FIELD);
        request.describe(&mut part, &descriptions);
        request.add(&mut part);
        open = Some(request);
    }
    if let Some(last) = open {
        done(last.finish());
    }
}

/// A resource in parts of at most `limit` bytes, each with its description, as far as metrics and records allow it.
fn divided<G: Group>(mut group: G, limit: usize) -> Vec<G> {
    if encoding::message::encoded_len(FIELD, &group) <= limit {
        return vec![group];
    }
    let parts = group.take();
    // Lengths of lengths grow by some bytes with what is added.
    const LENGTHS: usize = 16;
    let shell = encoding::message::encoded_len(FIELD, &group) + LENGTHS;
    let (mut divided, mut gathered, mut size) = (Vec::new(), Vec::new(), shell);
    for part in parts {
        let len = encoding::message::encoded_len(FIELD, &part);
        if size + len > limit && !gathered.is_empty() {
            divided.push(group.with(std::mem::take(&mut gathered)));
            size = shell;
        }
        size += len;
        gathered.push(part);
    }
    if !gathered.is_empty() {
        divided.push(group.with(gathered));
    }
    divided
}

impl Request {
    /// The same in requests of at most half its size. Less than two where it cannot be divided: it holds one metric or record.
    pub(super) fn halves(&self, form: Form, payload: Payload) -> Vec<Self> {
        let Some(plain) = form.message(&self.body) else { return Vec::new() };
        let mut halves = Vec::new();
        match payload {
            Payload::Metrics => pack(form, self.size / 2, described(groups(&plain)), |half| halves.push(half)),
            Payload::Logs => pack(form, self.size / 2, groups::<ResourceLogs>(&plain), |half| halves.push(half)),
        }
        halves
    }
}

/// The resources of a request.
fn groups<G: Group>(mut plain: &[u8]) -> impl Iterator<Item = G> {
    std::iter::from_fn(move || {
        let (_, wire_type) = encoding::decode_key(&mut plain).ok()?;
        let mut group = G::default();
        encoding::message::merge(wire_type, &mut group, &mut plain, DecodeContext::default()).ok()?;
        Some(group)
    })
}

/// Every metric with its description, which only the first of its name had.
fn described(groups: impl Iterator<Item = ResourceMetrics>) -> impl Iterator<Item = ResourceMetrics> {
    let mut descriptions: HashMap<String, String> = HashMap::new();
    groups.map(move |mut group| {
        for metric in group.metrics() {
            match descriptions.get(&metric.name) {
                Some(description) => metric.description.clone_from(description),
                None => drop(descriptions.insert(metric.name.clone(), metric.description.clone())),
            }
        }
        group
    })
}

impl Form {
    /// What requests to a destination are turned into.
    pub(super) fn of(exporter: Exporter, destination: &Destination) -> Self {
        match (exporter, destination.protocol) {
            (Exporter::None, _) => Self::Nothing,
            (Exporter::Stdout, _) => Self::Line,
            (Exporter::Otlp, Protocol::Grpc) => Self::Grpc(destination.compression),
            (Exporter::Otlp, Protocol::HttpProtobuf) => Self::Http(destination.compression),
        }
    }

    /// A request without anything in it.
    pub(super) fn nothing(self) -> Bytes {
        Open::new(self, "").finish().body
    }

    /// The protobuf message in a body; `None` where there is none.
    fn message(self, body: &[u8]) -> Option<Vec<u8>> {
        let (compression, message) = match self {
            Self::Grpc(compression) => (compression, body.get(GRPC_HEAD..)?),
            Self::Http(compression) => (compression, body),
            Self::Line | Self::Nothing => return None,
        };
        match compression {
            Compression::Gzip => gunzip(message, usize::MAX).ok(),
            Compression::None => Some(message.to_vec()),
        }
    }
}

/// Bytes before a gRPC message.
const GRPC_HEAD: usize = 5;

/// A request in the making.
struct Open {
    form: Form,
    writer: Writer,
    count: u64,
    size: usize,
    /// Names of the metrics in it.
    names: HashSet<String>,
    buffer: Vec<u8>,
}

impl Open {
    fn new(form: Form, field: &str) -> Self {
        let writer = match form {
            Form::Grpc(compression) => {
                let flag = u8::from(compression == Compression::Gzip);
                Writer::new(&[flag, 0, 0, 0, 0], compression)
            }
            Form::Http(compression) => Writer::new(&[], compression),
            Form::Line | Form::Nothing => Writer::new(format!("{{\"{field}\":[").as_bytes(), Compression::None),
        };
        Self { form, writer, count: 0, size: 0, names: HashSet::new(), buffer: Vec::new() }
    }

    /// Gives the metrics that this request does not have yet their descriptions, and takes them from the others.
    fn describe(&self, group: &mut impl Group, descriptions: &[String]) {
        for (metric, description) in group.metrics().zip(descriptions) {
            metric.description.clear();
            if !self.names.contains(&metric.name) {
                metric.description.clone_from(description);
            }
        }
    }

    fn add(&mut self, group: &mut impl Group) {
        self.names.extend(group.metrics().filter(|metric| !metric.description.is_empty()).map(|metric| metric.name.clone()));
        self.buffer.clear();
        match self.form {
            Form::Grpc(_) | Form::Http(_) => {
                encoding::message::encode(FIELD, group, &mut self.buffer);
                self.size += self.buffer.len();
            }
            Form::Line | Form::Nothing => {
                if self.count > 0 {
                    self.buffer.push(b',');
                }
                self.buffer.extend_from_slice(to_json(group).as_bytes());
                self.size += encoding::message::encoded_len(FIELD, group);
            }
        }
        self.count += group.count();
        self.writer.write(&self.buffer);
    }

    fn finish(mut self) -> Request {
        if matches!(self.form, Form::Line) {
            self.writer.write(b"]}\n");
        }
        let mut body = self.writer.finish();
        if let (Form::Grpc(_), Some((head, message))) = (self.form, body.split_first_chunk_mut::<GRPC_HEAD>()) {
            // Bounded by the limit on requests; gRPC itself ends at 4 GiB.
            head[1..].copy_from_slice(&(message.len() as u32).to_be_bytes());
        }
        Request { body: body.into(), count: self.count, size: self.size }
    }
}

#[cfg(test)]
mod tests;
