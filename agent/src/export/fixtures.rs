//! Metrics, batches and settings for this stage's tests.

use std::sync::Arc;
use std::time::Duration;

use super::{Compression, Exporter, Protocol, Settings};
use crate::aggregate::{Batch, Occurrence};
use crate::histogram::Histogram;
use crate::join::{Resource, Sample};
use crate::signals::event::{Detail, Event};
use crate::signals::metric::{Kind, Metric, Point, Scope, Value};

pub(super) static TIME: Metric = Metric {
    name: "container.cpu.time",
    unit: "s",
    kind: Kind::Counter,
    attributes: &[],
    scope: Scope::Container,
    help: "CPU time used, from the kernel's own accounting at every switch.",
};
pub(super) static IO: Metric = Metric {
    name: "k8s.pod.network.io",
    unit: "By",
    kind: Kind::Counter,
    attributes: &["network.io.direction"],
    scope: Scope::Container,
    help: "Bytes sent and received.",
};
pub(super) static USAGE: Metric = Metric {
    name: "container.cpu.usage",
    unit: "{cpu}",
    kind: Kind::Gauge,
    attributes: &[],
    scope: Scope::Container,
    help: "CPUs used since the last export.",
};
pub(super) static BURST: Metric = Metric {
    name: "podmeter.cpu.burst",
    unit: "{cpu}",
    kind: Kind::Histogram,
    attributes: &[],
    scope: Scope::Workload,
    help: "CPUs used per 100 ms window.",
};

pub(super) fn point(metric: &'static Metric, start_unix_ns: u64, value: Value) -> Point {
    Point::new(metric, start_unix_ns, value)
}

/// A resource's attributes and its points.
pub(super) type Described<'a> = (Vec<(&'static str, &'a str)>, Vec<Point>);

pub(super) fn batch(time_unix_ns: u64, resources: Vec<Described<'_>>) -> Batch {
    let samples = resources.into_iter().map(|(attributes, points)| sample(attributes, points)).collect();
    Batch { time_unix_ns, samples, ..Batch::default() }
}

fn sample<V: ToString>(attributes: Vec<(&'static str, V)>, points: Vec<Point>) -> Sample {
    let attributes = attributes.into_iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    Sample { cgroup: None, time_unix_ns: None, resource: Arc::new(Resource { attributes }), points }
}

/// A batch with one counter of one pod.
pub(super) fn counted(seconds: u32) -> Batch {
    batch(
        u64::from(seconds) * 1_000_000_000,
        vec![(vec![("k8s.pod.name", "web-0")], vec![point(&TIME, 1, Value::Float(seconds.into()))])],
    )
}

/// A node of `pods` busy pods: nine resource attributes, eight scalars and three histograms of 40 buckets each.
pub(super) fn node(pods: u64) -> Batch {
    // Any sequence without a pattern gzip could find.
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let samples = (0..pods).map(|pod| {
        let id = format!("{:016x}{:016x}", random(), random());
        let attributes = vec![
            ("container.id", format!("{id}{id}")),
            ("k8s.cluster.name", "production".into()),
            ("k8s.container.name", "app".into()),
            ("k8s.deployment.name", format!("service-{}", pod / 3)),
            ("k8s.namespace.name", format!("team-{}", pod % 7)),
            ("k8s.node.name", "ip-10-0-0-1.eu-west-1.compute.internal".into()),
            ("k8s.pod.name", format!("service-{}-{}", pod / 3, &id[..10])),
            ("k8s.pod.uid", id.clone()),
            ("service.name", format!("service-{}", pod / 3)),
        ];
        let histogram = |random: &mut dyn FnMut() -> u64| {
            let mut histogram = Histogram::default();
            for _ in 0..300 {
                let value = (1.0 + (random() % 64) as f64 / 2.0) / 32.0;
                histogram.record(value, random() % 50);
            }
            point(&BURST, 1_700_000_000_000_000_000, Value::Histogram(Arc::new(histogram)))
        };
        let mut points: Vec<_> = (0..3).map(|_| histogram(&mut random)).collect();
        for metric in [&TIME, &IO, &USAGE] {
            points.push(point(metric, 1_700_000_000_000_000_000, Value::Float((random() % 1_000_000) as f64 / 1e6)));
            points.push(point(metric, 1_700_000_000_000_000_000, Value::Int(random() % 1_000_000_000)));
        }
        sample(attributes, points)
    });
    Batch { time_unix_ns: 1_700_000_030_000_000_000, samples: samples.collect(), ..Batch::default() }
}

pub(super) fn settings(endpoint: &str, protocol: Protocol) -> Settings {
    Settings {
        exporter: Exporter::Otlp,
        endpoint: endpoint.into(),
        logs_endpoint: None,
        protocol,
        headers: Default::default(),
        compression: Compression::Gzip,
        timeout: Duration::from_secs(10),
        certificate: None,
        client_certificate: None,
        client_key: None,
        queue: 64,
    }
}

/// An event in a pod.
pub(super) fn happened(pod: &str, time_unix_ns: u64) -> Occurrence {
    let attributes = vec![("process.pid", Detail::Int(77)), ("process.executable.name", Detail::Text("stress".to_owned()))];
    Occurrence {
        resource: Arc::new(Resource { attributes: vec![("k8s.pod.name".to_owned(), pod.to_owned())] }),
        event: Event { name: "podmeter.test", cgroup: (1, 1), time_unix_ns, body: "it happened".to_owned(), attributes },
    }
}
