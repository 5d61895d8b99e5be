//! Metrics, batches and settings for this stage's tests.

mod node;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::metrics::v1::{ResourceMetrics, metric::Data};
use prost::Message;

use super::encode::{self, Bounds};
use super::group::Group;
use super::request::{Form, Packer, Request};
use super::{Compression, Destination, Export, Exporter, Payload, Protocol, backlog, logs};
use crate::aggregate::{Batch, ResourceEvent};
use crate::event::{Detail, Event};
use crate::join::{Resource, Sample};
use crate::journal::{Journal, Limits};
use crate::metric::{Metric, Point, Scope, Value};
use crate::protobuf;

pub(crate) use self::node::{Load, Node, node};

pub(super) static TIME: Metric =
    Metric::counter("container.cpu.time", "s", Scope::Cgroup, "CPU time used, from the kernel's own accounting at every switch.");
pub(super) static IO: Metric =
    Metric::counter("k8s.pod.network.io", "By", Scope::Cgroup, "Bytes sent and received.").attributes(&["network.io.direction"]);
pub(super) static USAGE: Metric =
    Metric::gauge("container.cpu.usage", "{cpu}", Scope::Cgroup, "CPUs used since the last export.");
pub(super) static BURST: Metric = Metric::histogram("podmeter.cpu.burst", "{cpu}", Scope::Cgroup, "CPUs used per 100 ms window.");

pub(super) fn point(metric: &'static Metric, start_ns: u64, value: Value) -> Point {
    Point::new(metric, start_ns, value)
}

/// A resource's attributes and its points.
pub(super) type Described<'a> = (Vec<(&'static str, &'a str)>, Vec<Point>);

pub(super) fn batch(time_ns: u64, resources: Vec<Described<'_>>) -> Batch {
    let pods = resources.into_iter().map(|(attributes, points)| sample(attributes, points)).collect();
    Batch { time_ns, pods, ..Batch::default() }
}

fn sample<V: ToString>(attributes: Vec<(&'static str, V)>, points: Vec<Point>) -> Sample {
    let attributes = attributes.into_iter().map(|(key, value)| (key, value.to_string()));
    Sample::new(Arc::new(Resource::new(attributes, 0)), points)
}

/// A batch with one counter of one pod.
pub(super) fn counted(seconds: u32) -> Batch {
    batch(
        u64::from(seconds) * 1_000_000_000,
        vec![(vec![("k8s.pod.name", "web-0")], vec![point(&TIME, 1, Value::Float(seconds.into()))])],
    )
}

pub(super) fn destination(endpoint: &str, protocol: Protocol) -> Destination {
    let timeout = Duration::from_secs(10);
    Destination { endpoint: endpoint.into(), protocol, compression: Compression::Gzip, timeout, ..Destination::default() }
}

/// Metrics to an endpoint, events nowhere.
pub(super) fn settings(endpoint: &str, protocol: Protocol) -> Export {
    Export {
        exporter: Exporter::Otlp,
        pull: false,
        delta: false,
        metrics: destination(endpoint, protocol),
        logs: None,
        also: Vec::new(),
        queue: 64,
        queue_bytes: 32 << 20,
        request_bytes: 2 << 20,
        attribute_bytes: 256,
        shutdown_timeout: Duration::from_secs(8),
        journal: Default::default(),
    }
}

/// An event in a pod.
pub(super) fn happened(pod: &str, time_ns: u64) -> ResourceEvent {
    let attributes = vec![("process.pid", Detail::Int(77)), ("process.executable.name", Detail::Text("stress".to_owned()))];
    ResourceEvent {
        resource: Arc::new(Resource::new([("k8s.pod.name", pod)], 0)),
        event: Event { name: "podmeter.test", cgroup: (1, 1), time_ns, body: "it happened".to_owned(), attributes },
    }
}

/// The requests that a batch leaves in.
pub(super) fn requests(batch: &Batch, form: Form, limit: usize) -> [Vec<Request>; 2] {
    let (bounds, mut made) = (Bounds::new(256), [Vec::new(), Vec::new()]);
    let [metrics, events] = &mut made;
    let mut packer = Packer::new(form, Payload::Metrics, limit, |request| metrics.push(request));
    encode::encode(batch, &bounds, |group| packer.add(group));
    packer.finish();
    let mut packer = Packer::new(form, Payload::Logs, limit, |request| events.push(request));
    logs::encode(&batch.events, batch.time_ns, batch.offset, &bounds, |group| packer.add(group));
    packer.finish();
    made
}

/// Adds batches to the journal in a directory, as an agent does, in requests of at most `limit` bytes.
///
/// # Panics
/// When it cannot be written.
pub fn keep(directory: &Path, batches: &[Batch], limit: usize) {
    const FORM: Form = Form::Grpc(Compression::Gzip);
    let limits = Limits { bytes: 1 << 30, age: Duration::from_secs(1 << 30) };
    let payloads = [Payload::Metrics, Payload::Logs];
    let mut journals = payloads.map(|payload| Journal::open(&directory.join(backlog::part(payload)), limits).expect("opened").0);
    for batch in batches {
        for ((journal, payload), requests) in journals.iter_mut().zip(payloads).zip(requests(batch, FORM, limit)) {
            for request in requests {
                journal.append(backlog::info(&request, payload, FORM, batch.time_ns), &request.body).expect("appended");
            }
        }
    }
}

/// What `encode` gives, as messages, with all descriptions.
pub(super) fn messages<M: Message + Default>(encode: impl FnOnce(&mut dyn FnMut(&Group<'_>))) -> Vec<M> {
    let mut messages = Vec::new();
    encode(&mut |group| {
        let mut bytes = Vec::new();
        let described = vec![true; group.items.len()];
        group.write(&group.items, &described, &mut bytes);
        assert_eq!(bytes.len(), group.len(&group.items, &described));
        let field = protobuf::fields(&bytes).next().expect("a field");
        messages.push(M::decode(field.value).expect("a message"));
    });
    messages
}

/// The messages of a batch, with all descriptions.
pub(super) fn resources(batch: &Batch, bounds: &Bounds) -> Vec<ResourceMetrics> {
    messages(|each| encode::encode(batch, bounds, each))
}

/// The series that have a point in these resources, each with its point's time, as hashes.
///
/// # Panics
/// One has two points of one time, of which a backend keeps one.
pub(super) fn series<'a>(resources: impl IntoIterator<Item = &'a ResourceMetrics>) -> HashSet<u64> {
    let mut seen = HashSet::new();
    for group in resources {
        let mut of_resource = DefaultHasher::new();
        group.resource.as_ref().map(Message::encode_to_vec).hash(&mut of_resource);
        for metric in group.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
            let points: Vec<_> = match &metric.data {
                Some(Data::Sum(sum)) => sum.data_points.iter().map(|p| (&p.attributes, p.time_unix_nano)).collect(),
                Some(Data::Gauge(gauge)) => gauge.data_points.iter().map(|p| (&p.attributes, p.time_unix_nano)).collect(),
                Some(Data::ExponentialHistogram(h)) => h.data_points.iter().map(|p| (&p.attributes, p.time_unix_nano)).collect(),
                other => panic!("{} has {other:?}", metric.name),
            };
            for (attributes, time_unix_nano) in points {
                let mut series = of_resource.clone();
                (&metric.name, time_unix_nano).hash(&mut series);
                attributes.iter().for_each(|attribute| attribute.encode_to_vec().hash(&mut series));
                let new = seen.insert(series.finish());
                assert!(new, "twice in one batch: {} {attributes:?} of {:?}", metric.name, group.resource);
            }
        }
    }
    seen
}
