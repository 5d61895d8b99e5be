//! Resources -> requests as they go over the wire, none larger than receivers take (pure).
//!
//! Receivers refuse a request for its size, mostly for that before compression: gRPC's own limit is 4 MiB, axum's for HTTP
//! 2 MiB. So a request ends where the next resource would make it too large; a resource that is too large alone is divided by
//! its metrics, and each part has the resource's attributes. A description stands with the first of its metric in each
//! request: it identifies nothing, and would be a third of all bytes.
//!
//! A request is protobuf in which one repeated field is all there is, so its bytes are those of its resources in a row, and one resource
//! at a time goes into the compressor.

use std::collections::HashMap;

use bytes::Bytes;

use super::compress::{Writer, gunzip};
use super::group::{Group, Item};
use super::{Compression, Destination, Exporter, Payload, Protocol};
use crate::protobuf;

/// What a request is turned into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// Makes requests of at most `limit` bytes out of groups, each given to `done` as soon as it is whole. One is larger where a single
/// metric or record is.
pub(super) struct Packer<F> {
    form: Form,
    payload: Payload,
    limit: usize,
    done: F,
    open: Option<Open>,
    /// Kept for their memory: which items of a group need their descriptions, and its bytes.
    described: Vec<bool>,
    bytes: Vec<u8>,
}

impl<F: FnMut(Request)> Packer<F> {
    /// Nothing so far.
    pub(super) fn new(form: Form, payload: Payload, limit: usize, done: F) -> Self {
        Self { form, payload, limit, done, open: None, described: Vec::new(), bytes: Vec::new() }
    }

    /// Adds a group: to the request that is open, if there is room for it.
    pub(super) fn add(&mut self, group: &Group<'_>) {
        group.parts(self.limit).into_iter().for_each(|items| self.add_part(group, items));
    }

    fn add_part(&mut self, group: &Group<'_>, items: &[Item<'_>]) {
        if let Some(open) = &self.open {
            open.names.lacks(items, &mut self.described);
            if open.size + group.len(items, &self.described) > self.limit {
                self.close();
            }
        }
        let open = self.open.get_or_insert_with(|| {
            self.described.clear();
            self.described.resize(items.len(), true);
            Open::new(self.form, self.payload)
        });
        open.names.add(items, &self.described);
        self.bytes.clear();
        group.write(items, &self.described, &mut self.bytes);
        open.add(&self.bytes, items.iter().map(|item| item.count).sum());
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            (self.done)(open.finish());
        }
    }

    /// The last request is whole, too.
    pub(super) fn finish(mut self) {
        self.close();
    }
}

/// Names of the metrics in a request, in the order of their first appearance.
#[derive(Default)]
struct Names(Vec<String>);

impl Names {
    /// For each item, whether its name is not there. After one name mostly comes the same as the last time.
    fn lacks(&self, items: &[Item<'_>], lacks: &mut Vec<bool>) {
        let mut expected = 0;
        lacks.clear();
        lacks.extend(items.iter().map(|item| {
            let known = match self.0.get(expected) {
                Some(name) if name == item.name => Some(expected),
                _ => self.0.iter().position(|name| name == item.name),
            };
            expected = known.map_or(expected, |at| at + 1);
            known.is_none()
        }));
    }

    fn add(&mut self, items: &[Item<'_>], lacked: &[bool]) {
        let new = items.iter().zip(lacked).filter(|(item, lacked)| **lacked && !item.name.is_empty());
        self.0.extend(new.map(|(item, _)| item.name.to_owned()));
    }
}

impl Request {
    /// The same in requests of at most half its size. Less than two where it cannot be divided: it holds one metric or record.
    pub(super) fn halves(&self, form: Form, payload: Payload) -> Vec<Self> {
        let Some(plain) = form.message(&self.body) else { return Vec::new() };
        let mut halves = Vec::new();
        let mut packer = Packer::new(form, payload, self.size / 2, |half| halves.push(half));
        let (mut rest, mut descriptions) = (&plain[..], HashMap::new());
        while let Some(mut group) = Group::read(&mut rest, payload == Payload::Metrics) {
            // Only the first of a name has it.
            for item in &mut group.items {
                item.description = descriptions.entry(item.name).or_insert(item.description);
            }
            packer.add(&group);
        }
        packer.finish();
        halves
    }
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

    /// How the journal keeps this form. It never changes: journals are read by later versions.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Http(Compression::None) => 0,
            Self::Http(Compression::Gzip) => 1,
            Self::Grpc(Compression::None) => 2,
            Self::Grpc(Compression::Gzip) => 3,
            Self::Line => 4,
            Self::Nothing => 5,
        }
    }

    /// The form of a body in a journal; `None` where that is none of a request.
    pub(super) fn from_code(code: u8) -> Option<Self> {
        let forms = [
            Self::Http(Compression::None),
            Self::Http(Compression::Gzip),
            Self::Grpc(Compression::None),
            Self::Grpc(Compression::Gzip),
        ];
        forms.into_iter().find(|form| form.code() == code)
    }

    /// A body of this form in another one; `None` where it is none of this form.
    pub(super) fn reframe(self, body: Bytes, to: Self) -> Option<Bytes> {
        match (self, to) {
            _ if self == to => Some(body),
            (Self::Grpc(from), Self::Http(to)) if from == to => (body.len() >= GRPC_HEAD).then(|| body.slice(GRPC_HEAD..)),
            (Self::Http(from), Self::Grpc(to)) if from == to => Some([&grpc_head(to, body.len()), &body[..]].concat().into()),
            _ => Some(to.body(&self.message(&body)?)),
        }
    }

    /// The body of a request with this protobuf message.
    pub(super) fn body(self, message: &[u8]) -> Bytes {
        let mut open = Open::new(self, Payload::Metrics);
        open.writer.write(message);
        open.finish().body
    }

    /// A request without anything in it.
    pub(super) fn nothing(self) -> Bytes {
        Open::new(self, Payload::Metrics).finish().body
    }

    /// The protobuf message in a body; `None` where there is none.
    pub(super) fn message(self, body: &[u8]) -> Option<Vec<u8>> {
        let (compression, message) = match self {
            Self::Grpc(compression) => (compression, body.get(GRPC_HEAD..)?),
            Self::Http(compression) => (compression, body),
            Self::Line | Self::Nothing => return None,
        };
        match compression {
            Compression::Gzip => gunzip(message, MOST_BYTES).ok(),
            Compression::None => Some(message.to_vec()),
        }
    }
}

/// Bytes of a message before compression, at most: many times what `export.request_bytes` may be. A damaged journal may not take more.
const MOST_BYTES: usize = 256 << 20;

/// Bytes before a gRPC message.
const GRPC_HEAD: usize = 5;

/// What stands before a gRPC message of so many bytes.
fn grpc_head(compression: Compression, bytes: usize) -> [u8; GRPC_HEAD] {
    // Bounded by the limit on requests; gRPC itself ends at 4 GiB.
    let [a, b, c, d] = (bytes as u32).to_be_bytes();
    [u8::from(compression == Compression::Gzip), a, b, c, d]
}

/// A request in the making.
struct Open {
    form: Form,
    payload: Payload,
    writer: Writer,
    count: u64,
    size: usize,
    names: Names,
    groups: usize,
}

impl Open {
    fn new(form: Form, payload: Payload) -> Self {
        let writer = match form {
            Form::Grpc(compression) => Writer::new(&grpc_head(compression, 0), compression),
            Form::Http(compression) => Writer::new(&[], compression),
            Form::Line | Form::Nothing => Writer::new(format!("{{\"{}\":[", payload.field()).as_bytes(), Compression::None),
        };
        Self { form, payload, writer, count: 0, size: 0, names: Names::default(), groups: 0 }
    }

    /// Adds the bytes of a group with `count` points or records.
    fn add(&mut self, bytes: &[u8], count: u64) {
        match self.form {
            Form::Grpc(_) | Form::Http(_) => self.writer.write(bytes),
            Form::Line | Form::Nothing => {
                if self.groups > 0 {
                    self.writer.write(b",");
                }
                let message = protobuf::fields(bytes).next().map_or(&[][..], |field| field.value);
                self.writer.write(self.payload.json(message).as_bytes());
            }
        }
        self.size += bytes.len();
        self.count += count;
        self.groups += 1;
    }

    fn finish(mut self) -> Request {
        if matches!(self.form, Form::Line) {
            self.writer.write(b"]}\n");
        }
        let mut body = self.writer.finish();
        if let (Form::Grpc(compression), Some((head, message))) = (self.form, body.split_first_chunk_mut::<GRPC_HEAD>()) {
            *head = grpc_head(compression, message.len());
        }
        Request { body: body.into(), count: self.count, size: self.size }
    }
}

#[cfg(test)]
mod tests;
