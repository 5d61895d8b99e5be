//! The keys: every setting is declared here once, with its names, its default, its help and its check.
//!
//! The file, the environment, the command line and the reference all come from [`KEYS`].

mod budget;
mod destinations;
mod kubernetes;
mod node;
mod overhead;
mod telemetry;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::export::{compression, endpoint, protocol};
pub(super) use super::form::{Check, Key, Value};
use super::value::{
    absolute, boolean, bytes, cpus, duration, file, filled, headers, milliseconds, number, one_of, pairs, parsed, ports, ranges,
    store, timeout, unless, words,
};
use super::{Exporter, HistogramSeries, LogFormat, receiver_name};

/// The key of `export` that a key of a receiver is like: `export.timeout` of `export.also.team-a.timeout`.
pub(super) fn of_receiver(name: &str) -> Option<&'static Key> {
    let (_, part) = receiver_name::parts(name)?;
    destination_keys().find(|known| *known == part).and_then(of_export)
}

/// The key of `export` with this name below it.
pub(super) fn of_export(part: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name.strip_prefix("export.") == Some(part))
}

/// The keys that each destination has: `endpoint`, `protocol`, ...
pub(super) fn destination_keys() -> impl Iterator<Item = &'static str> {
    destinations::LOGS.iter().filter_map(|key| key.name.strip_prefix("export.logs."))
}

/// Numbers of slots that there may be.
const SLOTS: RangeInclusive<u32> = 16..=65536;

/// Every setting, in the order of the reference.
pub(super) const KEYS: &[Key] = &joined();

const ALL: [&[Key]; 11] = [
    FIRST,
    kubernetes::KEYS,
    node::KEYS,
    THEN,
    &destinations::LOGS,
    &destinations::TRACES,
    destinations::ALSO,
    LAST,
    overhead::KEYS,
    budget::KEYS,
    telemetry::KEYS,
];
const COUNT: usize = {
    let (mut count, mut part) = (0, 0);
    while part < ALL.len() {
        count += ALL[part].len();
        part += 1;
    }
    count
};

const fn joined() -> [Key; COUNT] {
    let mut all = [FIRST[0]; COUNT];
    let (mut part, mut at, mut to) = (0, 0, 0);
    while part < ALL.len() {
        if at == ALL[part].len() {
            (part, at) = (part + 1, 0);
        } else {
            all[to] = ALL[part][at];
            (at, to) = (at + 1, to + 1);
        }
    }
    all
}

const FIRST: &[Key] = &[
    Key::new("node_name", None, "Name of this node in every metric. Default: the host's name.", |l, v| {
        store(&mut l.config.node_name, filled(v)?)
    })
    .example("node-1")
    .aliases(&[("NODE_NAME", Value::Text)]),
    Key::new("cluster_name", None, "Name of the cluster in every metric. Default: none.", |l, v| {
        store(&mut l.config.cluster_name, Some(filled(v)?))
    })
    .example("production"),
    Key::new("interval", Some("15s"), "Time between two exports: 1s to 300s. Each node has its own moment in it.", |l, v| {
        store(&mut l.config.interval, duration(v, Duration::from_secs(1)..=Duration::from_secs(300))?)
    }),
    Key::new("listen", Some("127.0.0.1:9464"), "Address and port of the health endpoints, and of /metrics.", |l, v| {
        store(&mut l.config.listen, parsed::<SocketAddr>(v, "an address with a port, such as 127.0.0.1:9464 or [::]:9464")?)
    }),
    Key::new("log.format", Some("text"), "Format of log lines on stderr: text or json.", |l, v| {
        store(&mut l.config.log.format, one_of(v, &[("text", LogFormat::Text), ("json", LogFormat::Json)])?)
    }),
    Key::new("log.level", Some("info"), "What is logged: a level, or directives such as info,podmeter::export=debug.", |l, v| {
        let level = filled(v)?;
        let checked = tracing_subscriber::EnvFilter::builder().parse(&level);
        checked.map_err(|error| format!("expected a level (error, warn, info, debug, trace) or directives: {error}"))?;
        store(&mut l.config.log.level, level)
    }),
    Key::new("signals.cpu", Some("true"), "Measure CPU: time, run queue wait, bursts.", |l, v| {
        boolean(v).map(|on| l.config.signals.switch("cpu", on))
    }),
    Key::new("signals.memory", Some("true"), "Measure memory: usage by type, OOM kills, reclaim.", |l, v| {
        boolean(v).map(|on| l.config.signals.switch("memory", on))
    }),
    Key::new("signals.pressure", Some("true"), "Measure pressure (PSI): time that tasks were stalled.", |l, v| {
        boolean(v).map(|on| l.config.signals.switch("pressure", on))
    }),
    Key::new("signals.network", Some("true"), "Measure the network: bytes and packets, by destination.", |l, v| {
        boolean(v).map(|on| l.config.signals.switch("network", on))
    }),
    Key::new("signals.tcp", Some("true"), "Measure TCP: retransmits, round trips, connects, resets.", |l, v| {
        boolean(v).map(|on| l.config.signals.switch("tcp", on))
    }),
    Key::new("signals.drops", Some("true"), "Measure packets that the kernel drops, by reason.", |l, v| {
        boolean(v).map(|on| l.config.signals.switch("drops", on))
    }),
    Key::new("signals.disk", Some("true"), "Measure disks: bytes, operations, how long they take, busy devices.", |l, v| {
        boolean(v).map(|on| l.config.signals.switch("disk", on))
    }),
    Key::new("signals.dns", Some("true"), "Measure DNS: lookups, their duration and result.", |l, v| {
        boolean(v).map(|on| l.config.signals.switch("dns", on))
    }),
    Key::new("signals.node", Some("true"), "Measure the node: CPU by mode, memory by kind, load, threads, clock.", |l, v| {
        boolean(v).map(|on| l.config.signals.switch("node", on))
    }),
];

const THEN: &[Key] = &[
    Key::new(
        "cgroups.slots",
        Some("auto"),
        "Number of cgroups tracked: auto or 16 to 65536. The others are counted as unattributed. auto begins with what the node has, \
         1024 or more, and takes more when pods come. Each slot needs kernel memory on every CPU.",
        |l, v| store(&mut l.config.cgroups.slots, unless("auto", v, |v| number(v, SLOTS))?),
    ),
    Key::new(
        "cgroups.max_slots",
        None,
        "Up to how many cgroups are tracked, 16 to 65536: when three quarters of the slots are taken, their number doubles, and all \
         counters go on. Default: 8192 where cgroups.slots is auto; else cgroups.slots, so that the number stays.",
        |l, v| store(&mut l.config.cgroups.max_slots, Some(number(v, SLOTS)?)),
    )
    .example("16384"),
    Key::new(
        "cgroups.root",
        None,
        "Where the cgroup2 hierarchy is mounted, or a directory in it: cgroups outside of it are not measured, such as those of \
         another node on the same machine. Default: found in /proc/mounts.",
        |l, v| store(&mut l.config.cgroups.root, Some(absolute(v)?)),
    )
    .example("/sys/fs/cgroup"),
    Key::new(
        "network.cluster_cidrs",
        None,
        "Addresses of the cluster's pods and services, separated by commas. The pod ranges of this node and the addresses of its \
         pods are added from Kubernetes. Without this setting, services and pods on other nodes are in no range. Default: none.",
        |l, v| store(&mut l.config.signals.network.cluster, ranges(v)?),
    )
    .example("10.244.0.0/16,10.96.0.0/12"),
    Key::new(
        "network.node_cidrs",
        None,
        "Addresses of the cluster's nodes, separated by commas. Those of this node are added from Kubernetes. Default: none.",
        |l, v| store(&mut l.config.signals.network.node, ranges(v)?),
    )
    .example("10.0.0.0/16"),
    Key::new(
        "network.private_cidrs",
        Some(
            "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,169.254.0.0/16,224.0.0.0/4,255.255.255.255,fc00::/7,fe80::/10,\
             ff00::/8",
        ),
        "Other addresses that the internet does not route, separated by commas. If several ranges contain an address, the longest prefix applies.",
        |l, v| store(&mut l.config.signals.network.private, ranges(v)?),
    ),
    Key::new(
        "dns.ports",
        Some("53"),
        "Ports of DNS servers, up to 8, separated by commas. Where a pod's DNS listens on another: 53,5353.",
        |l, v| store(&mut l.config.signals.dns.ports, ports(v)?),
    ),
    Key::new(
        "dns.timeout",
        Some("5s"),
        "A query without an answer after this time counts as timed out: 100ms to 30s.",
        |l, v| store(&mut l.config.signals.dns.timeout, duration(v, Duration::from_millis(100)..=Duration::from_secs(30))?),
    ),
    Key::new(
        "dns.top_names",
        Some("0"),
        "Number of DNS names per container that get a series of their own, the most queried ones: 0 to 20.",
        |l, v| store(&mut l.config.signals.dns.top_names, number(v, 0..=20)? as usize),
    ),
    Key::new(
        "cpu.undisturbed",
        Some(""),
        "CPUs that are never interrupted, as a list like 2-5,8: those of nohz_full or isolcpus, say. CPU time there is counted when \
         a task leaves its CPU, and not every second before.",
        |l, v| store(&mut l.config.signals.cpu.undisturbed, cpus(v)?),
    ),
    Key::new(
        "bpf.pin",
        Some("true"),
        "Keep programs and counts in the kernel when the agent stops, so that a restart loses no counts.",
        |l, v| store(&mut l.config.bpf.pin, boolean(v)?),
    ),
    Key::new("bpf.directory", Some("/sys/fs/bpf/podmeter"), "Where they are pinned, on a bpf filesystem.", |l, v| {
        store(&mut l.config.bpf.directory, absolute(v)?)
    }),
    Key::new(
        "bpf.leave_out",
        Some(""),
        "Programs not to load, separated by commas, as if this kernel refused them; `podmeter check` shows what is missing without each. With \
         walk_on_cgroup, memory, limits, throttling and pressure are read from each cgroup's files, which needs several times the CPU \
         time. With bpf_probe_read_kernel, programs behave as on a kernel in lockdown mode confidentiality; with cmpxchg, as \
         before Linux 5.12.",
        |l, v| store(&mut l.config.bpf.leave_out, words(v)?),
    ),
    Key::new(
        "bpf.log",
        Some("false"),
        "Log what programs in the kernel meet, one line each: a cgroup that found no slot, a DNS stream over TCP that lost its place, a \
         cgroup with memory that could not be read. It takes no time while it is off. The programs of an agent before this one are replaced.",
        |l, v| store(&mut l.config.bpf.log, boolean(v)?),
    ),
    Key::new("export.exporter", Some("otlp"), "Where metrics go: otlp, stdout, or none.", |l, v| {
        let known = [("otlp", Exporter::Otlp), ("stdout", Exporter::Stdout), ("none", Exporter::None)];
        store(&mut l.config.export.exporter, one_of(v, &known)?)
    }),
    Key::new(
        "export.pull",
        Some("false"),
        "Whether /metrics at the address of `listen` answers Prometheus and its like with the last collection, beside what \
         export.exporter sends. Whoever reaches that address can read it. The last collection is kept in memory for it.",
        |l, v| store(&mut l.config.export.pull, boolean(v)?),
    ),
    Key::new(
        "export.endpoint",
        None,
        "URL of the OTLP receiver, or unix:///run/otel.sock for a socket. With http/protobuf, /v1/metrics is appended to it unless it ends so; \
         OTEL_EXPORTER_OTLP_METRICS_ENDPOINT is used as it is. Default: http://localhost:4317 with grpc, \
         http://localhost:4318 with http/protobuf.",
        endpoint,
    )
    .example("http://localhost:4317")
    .aliases(&[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", Value::Signal), ("OTEL_EXPORTER_OTLP_ENDPOINT", Value::Base)]),
    Key::new("export.protocol", Some("grpc"), "grpc or http/protobuf.", protocol)
        .aliases(&[("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", Value::Text), ("OTEL_EXPORTER_OTLP_PROTOCOL", Value::Text)]),
    Key::new(
        "export.headers",
        None,
        "Headers of every request. In the environment: name=value,name2=value2, percent-encoded. Default: none.",
        |l, v| store(&mut l.destination().headers.0, headers(v)?),
    )
    .example("{authorization: Bearer secret}")
    .aliases(&[("OTEL_EXPORTER_OTLP_METRICS_HEADERS", Value::Text), ("OTEL_EXPORTER_OTLP_HEADERS", Value::Text)]),
    Key::new(
        "export.headers_file",
        None,
        "File with more headers, one line each: name: value. It is read again when it changes and when the receiver refuses the \
         credentials. Default: none.",
        |l, v| store(&mut l.destination().headers_file, file(v)?),
    )
    .example("/etc/podmeter/headers"),
    Key::new(
        "export.token_file",
        None,
        "File with a token, sent as authorization: Bearer <token>. It is read again as headers_file is. Default: none.",
        |l, v| store(&mut l.destination().token_file, file(v)?),
    )
    .example("/etc/podmeter/token"),
    Key::new("export.compression", Some("gzip"), "gzip or none.", compression)
        .aliases(&[("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", Value::Text), ("OTEL_EXPORTER_OTLP_COMPRESSION", Value::Text)]),
    Key::new(
        "export.timeout",
        Some("10s"),
        "Time one request may take: 1ms to 300s. The OTEL variables are in milliseconds.",
        |l, v| store(&mut l.destination().timeout, timeout(v)?),
    )
    .aliases(&[("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", milliseconds), ("OTEL_EXPORTER_OTLP_TIMEOUT", milliseconds)]),
    Key::new(
        "export.certificate",
        None,
        "PEM file with the CA certificates to verify the receiver by. Like the next two files, it is read again when it \
         changes. Default: those the host trusts.",
        |l, v| store(&mut l.destination().certificate, file(v)?),
    )
    .example("/etc/podmeter/ca.pem")
    .aliases(&[("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", Value::Text), ("OTEL_EXPORTER_OTLP_CERTIFICATE", Value::Text)]),
    Key::new("export.client_certificate", None, "PEM file with the agent's own certificate, for mTLS. Default: none.", |l, v| {
        store(&mut l.destination().client_certificate, file(v)?)
    })
    .example("/etc/podmeter/client.pem")
    .aliases(&[
        ("OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE", Value::Text),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", Value::Text),
    ]),
    Key::new("export.client_key", None, "PEM file with the key of that certificate. Default: none.", |l, v| {
        store(&mut l.destination().client_key, file(v)?)
    })
    .example("/etc/podmeter/client-key.pem")
    .aliases(&[("OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", Value::Text), ("OTEL_EXPORTER_OTLP_CLIENT_KEY", Value::Text)]),
    Key::new(
        "export.queue",
        Some("40"),
        "Exports kept in memory while the receiver is unreachable: 1 to 10000. When the queue is full, the oldest is dropped and counted.",
        |l, v| store(&mut l.config.export.queue, number(v, 1..=10000)? as usize),
    ),
    Key::new(
        "export.queue_bytes",
        Some("32MiB"),
        "Maximum size of the queue, compressed: 1MiB to 4GiB; events have a second queue of this size. When it is full, the oldest \
         request is dropped and counted.",
        |l, v| store(&mut l.config.export.queue_bytes, bytes(v, 1 << 20..=4 << 30)?),
    ),
    Key::new(
        "export.request_bytes",
        Some("2MiB"),
        "Largest request, before compression: 64KiB to 64MiB. A larger export is sent as several requests. Receivers have a \
         limit, often 4 MiB; a request refused for its size is sent again in halves.",
        |l, v| store(&mut l.config.export.request_bytes, bytes(v, 64 << 10..=64 << 20)?),
    ),
    Key::new(
        "export.attribute_bytes",
        Some("256"),
        "Longest value of an attribute: 64 to 1024 bytes. A longer one is cut, ends in ~ and a hash of the whole, and is counted.",
        |l, v| store(&mut l.config.export.attribute_bytes, bytes(v, 64..=1024)?),
    ),
    Key::new(
        "export.temporality",
        Some("cumulative"),
        "What counters and histograms have: cumulative, totals, or delta, what was counted since the export before, for back ends that take \
         nothing else. With delta an export that is lost is not made up for by the next, the first export of each start has none, and \
         `podmeter top --replay` has gauges only. /metrics has totals.",
        |l, v| store(&mut l.config.export.delta, one_of(v, &[("cumulative", false), ("delta", true)])?),
    )
    .aliases(&[("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", Value::Text)]),
    Key::new(
        "export.histograms",
        Some("native"),
        "How the back end keeps a histogram: native, as one series (Prometheus 3, Mimir), or buckets, as one series for each bucket \
         that is not empty, count and sum (VictoriaMetrics). It does not change what is sent, only how budget.series counts it.",
        |l, v| {
            let known = [("native", HistogramSeries::Native), ("buckets", HistogramSeries::Buckets)];
            store(&mut l.config.budget.histogram_series, one_of(v, &known)?)
        },
    ),
    Key::new(
        "export.shutdown_timeout",
        Some("8s"),
        "Maximum time from SIGTERM to exit: 1s to 300s. In this time the final values are read and the queue is sent. What stops \
         podmeter must wait longer than this before it sends SIGKILL: Kubernetes' terminationGracePeriodSeconds, docker's --stop-timeout.",
        |l, v| store(&mut l.config.export.shutdown_timeout, duration(v, Duration::from_secs(1)..=Duration::from_secs(300))?),
    ),
];

const LAST: &[Key] = &[
    Key::new(
        "journal.directory",
        None,
        "Directory in which every export is kept before it is sent, so that an outage of the receiver or a restart of podmeter loses \
         nothing, and to look back at: `podmeter export --since`. It is made if it is not there. Default: none, and what waits is kept \
         in memory. Not used where export.exporter is stdout or none.",
        |l, v| store(&mut l.config.export.journal.directory, Some(absolute(v)?)),
    )
    .example("/var/lib/podmeter"),
    Key::new(
        "journal.bytes",
        Some("256MiB"),
        "Maximum size of the journal on disk: 1MiB to 64GiB; events have a sixteenth of it beside that. When it is full, the oldest \
         exports are removed; those that had not been sent are counted as dropped.",
        |l, v| store(&mut l.config.export.journal.bytes, bytes(v, 1 << 20..=64 << 30)? as u64),
    ),
    Key::new(
        "journal.age",
        Some("7d"),
        "How long an export is kept in the journal: 1m to 365d.",
        |l, v| store(&mut l.config.export.journal.age, duration(v, Duration::from_secs(60)..=Duration::from_secs(365 * 86_400))?),
    ),
    Key::new(
        "resource.attributes",
        None,
        "Attributes of every metric's resource. In the environment: key=value,key2=value2, percent-encoded. Default: none.",
        |l, v| {
            let pairs = pairs(v)?;
            if pairs.iter().any(|(key, _)| key.is_empty()) {
                return Err("an attribute needs a name".to_owned());
            }
            store(&mut l.config.resource.attributes, pairs.into_iter().collect())
        },
    )
    .example("{deployment.environment.name: production}")
    .aliases(&[("OTEL_RESOURCE_ATTRIBUTES", Value::Text)]),
];
