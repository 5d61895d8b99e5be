//! The shipper against a fake collector: what is lost, what is repeated, what is said, and that nothing hangs.

mod events;
mod journal;
mod matrix;
mod outage;
mod receivers;
mod size;

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use podmeter_tests::collector::{Answer, Collector, Options, Tls};
use tonic::Code;

use super::fixtures::{TIME, counted, happened, settings};
use super::ship::{Shipper, Stats};
use super::{Compression, Destination, Export, ExportError, Exporter, Protocol};
use crate::backoff::Pacing;

pub(super) const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];
const QUICK: Pacing = Pacing { initial: Duration::from_millis(5), max: Duration::from_millis(20) };
const POD: (&str, &str) = ("k8s.pod.name", "web-0");

pub(super) fn to(collector: &Collector, protocol: Protocol) -> Export {
    let endpoint = match protocol {
        Protocol::Grpc => collector.grpc_endpoint(),
        Protocol::HttpProtobuf => collector.http_endpoint(),
    };
    let mut settings = settings(&endpoint, protocol);
    settings.metrics.certificate = collector.tls().map(Tls::ca);
    let logs_endpoint = match protocol {
        Protocol::Grpc => collector.grpc_endpoint(),
        Protocol::HttpProtobuf => collector.http_endpoint().replace("/v1/metrics", "/v1/logs"),
    };
    settings.logs = Some(Destination { endpoint: logs_endpoint, ..settings.metrics.clone() });
    settings
}

/// The same settings but for how metrics are sent.
pub(super) fn with(mut settings: Export, change: impl FnOnce(&mut Destination)) -> Export {
    change(&mut settings.metrics);
    settings
}

/// A batch of one counter in which something happened.
pub(super) fn eventful(seconds: u32) -> crate::aggregate::Batch {
    crate::aggregate::Batch { events: vec![happened("web-0", seconds.into())], ..counted(seconds) }
}

pub(super) fn quick(settings: &Export) -> Shipper {
    Shipper::with_pacing(settings, QUICK).expect("good settings")
}

/// A refusal that OTLP allows to repeat, and one that it does not.
fn refusals(protocol: Protocol) -> (Answer, Answer) {
    match protocol {
        Protocol::Grpc => (
            Answer::Grpc { code: Code::Unavailable, retry_info: None },
            Answer::Grpc { code: Code::InvalidArgument, retry_info: None },
        ),
        Protocol::HttpProtobuf => {
            (Answer::Http { status: 503, retry_after: None }, Answer::Http { status: 400, retry_after: None })
        }
    }
}

/// Waits until something is true of the counts.
pub(super) async fn stats_until(shipper: &Shipper, what: &str, condition: impl Fn(&Stats) -> bool) -> Stats {
    let start = Instant::now();
    loop {
        let stats = shipper.queue().stats();
        if condition(&stats) {
            return stats;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "not within 60 s: {what}; {stats:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The values of the one counter that arrived, in order.
pub(super) fn arrived(collector: &Collector) -> Vec<f64> {
    collector.values(POD, TIME.name)
}

#[tokio::test]
async fn a_batch_arrives_with_its_headers_compressed_as_configured() {
    for protocol in BOTH {
        for (compression, encoding, plain_replies) in
            [(Compression::Gzip, Some("gzip"), false), (Compression::None, None, false), (Compression::Gzip, Some("gzip"), true)]
        {
            let collector = Collector::with(Options { plain_replies, ..Options::default() }).expect("a collector");
            let shipper = quick(&with(to(&collector, protocol), |metrics| {
                metrics.compression = compression;
                metrics.headers.0 = [("X-Scope-OrgID".to_string(), "tenant-1".to_string())].into();
            }));
            shipper.queue().enqueue(&counted(7));
            let stats = stats_until(&shipper, "the batch is sent", |s| s.sent_requests == 1).await;
            assert_eq!((stats.sent_points, stats.queue_length, stats.queue_bytes), (1, 0, 0));
            assert!(stats.sent_bytes > 0 && stats.oldest_age.is_none() && stats.last_error.is_none(), "{stats:?}");
            assert_eq!(arrived(&collector), [7.0]);
            let received = collector.received().remove(0);
            assert_eq!(received.content_encoding.as_deref(), encoding, "{protocol}");
            assert_eq!(received.headers["x-scope-orgid"], "tenant-1");
            assert_eq!(received.headers["user-agent"], concat!("podmeter/", env!("CARGO_PKG_VERSION")));
        }
    }
}

#[tokio::test]
async fn a_gzipped_reply_is_understood() {
    // An empty reply would also pass for understood when it is not.
    for protocol in BOTH {
        let collector = Collector::start().expect("a collector");
        collector.next(1, Answer::Partial { rejected: 3, message: "too old".into() });
        let shipper = quick(&to(&collector, protocol));
        shipper.queue().enqueue(&counted(1));
        stats_until(&shipper, "three points are rejected", |s| s.rejected_points == 3).await;
    }
}

#[tokio::test]
async fn partial_success_is_counted_logged_and_not_repeated() {
    for protocol in BOTH {
        let log = Captured::default();
        let _guard = log.install();
        let collector = Collector::start().expect("a collector");
        collector.next(2, Answer::Partial { rejected: 1, message: "timestamp too old".into() });
        let shipper = quick(&to(&collector, protocol));
        for second in 1..=3 {
            shipper.queue().enqueue(&counted(second));
        }
        let stats = stats_until(&shipper, "all are sent", |s| s.sent_requests == 3).await;
        assert_eq!((stats.rejected_points, stats.retries, stats.failed_requests), (2, 0, 0));
        assert_eq!(collector.attempts(), 3);
        assert_eq!(log.lines_with("timestamp too old").len(), 1, "{:?}", log.lines_with(""));
    }
}

#[tokio::test]
async fn what_may_be_repeated_is_repeated_until_it_is_taken_in_order() {
    for protocol in BOTH {
        let log = Captured::default();
        let _guard = log.install();
        let collector = Collector::start().expect("a collector");
        collector.next(4, refusals(protocol).0);
        let shipper = quick(&to(&collector, protocol));
        for second in 1..=3 {
            shipper.queue().enqueue(&counted(second));
        }
        let stats = stats_until(&shipper, "all are sent", |s| s.sent_requests == 3).await;
        assert_eq!(arrived(&collector), [1.0, 2.0, 3.0]);
        assert_eq!((stats.retries, stats.failed_requests, stats.dropped_requests), (4, 0, 0));
        assert_eq!(stats.last_error, None);
        assert_eq!(log.lines_with("could not send metrics").len(), 1, "logged once: {:?}", log.lines_with(""));
        assert_eq!(log.lines_with("again, after").len(), 1, "recovery: {:?}", log.lines_with(""));
    }
}

#[tokio::test]
async fn what_may_not_be_repeated_is_dropped_counted_and_does_not_hold_up_the_next() {
    for protocol in BOTH {
        let collector = Collector::start().expect("a collector");
        collector.next(2, refusals(protocol).1);
        let shipper = quick(&to(&collector, protocol));
        for second in 1..=3 {
            shipper.queue().enqueue(&counted(second));
        }
        let stats = stats_until(&shipper, "the third is sent", |s| s.sent_requests == 1).await;
        assert_eq!((stats.failed_requests, stats.failed_points, stats.retries), (2, 2, 0));
        assert_eq!((collector.attempts(), arrived(&collector)), (3, vec![3.0]));
    }
}

#[tokio::test]
async fn the_wait_the_collector_asks_for_is_kept() {
    let cases = [
        (
            Protocol::Grpc,
            Answer::Grpc { code: Code::ResourceExhausted, retry_info: Some(Duration::from_millis(400)) },
            Duration::from_millis(400),
        ),
        (
            Protocol::Grpc,
            Answer::Grpc { code: Code::Unavailable, retry_info: Some(Duration::from_millis(400)) },
            Duration::from_millis(400),
        ),
        (Protocol::HttpProtobuf, Answer::Http { status: 429, retry_after: Some("1".into()) }, Duration::from_secs(1)),
    ];
    for (protocol, answer, asked) in cases {
        let collector = Collector::start().expect("a collector");
        collector.next(1, answer.clone());
        let shipper = quick(&to(&collector, protocol));
        shipper.queue().enqueue(&counted(1));
        collector.until("the refused attempt", |c| c.attempts() == 1).await.expect("an attempt");
        // Before the reply, so the wait measured is not shorter than the one kept.
        let refused = Instant::now();
        collector.until("the batch", |c| !c.received().is_empty()).await.expect("the batch");
        let waited = collector.received()[0].at.duration_since(refused);
        // Noticing the refused attempt may itself have taken a moment.
        assert!(waited >= asked - Duration::from_millis(100), "{answer:?}: tried again after {waited:?}");
    }
}

#[tokio::test]
async fn a_collector_out_of_resources_that_names_no_time_is_not_asked_again() {
    let collector = Collector::start().expect("a collector");
    collector.next(1, Answer::Grpc { code: Code::ResourceExhausted, retry_info: None });
    let shipper = quick(&to(&collector, Protocol::Grpc));
    shipper.queue().enqueue(&counted(1));
    let stats = stats_until(&shipper, "the batch is given up", |s| s.failed_requests == 1).await;
    assert_eq!((collector.attempts(), stats.retries), (1, 0));
    let error = stats.last_error.expect("an error");
    assert!(error.contains("RESOURCE_EXHAUSTED: the fake collector refuses"), "{error}");
}

#[tokio::test]
async fn a_stalled_request_times_out_and_is_repeated_on_a_new_connection() {
    for protocol in BOTH {
        let collector = Collector::start().expect("a collector");
        let shipper = quick(&with(to(&collector, protocol), |metrics| metrics.timeout = Duration::from_millis(300)));
        shipper.queue().enqueue(&counted(1));
        stats_until(&shipper, "the first is sent", |s| s.sent_requests == 1).await;
        collector.next(1, Answer::Stall);
        shipper.queue().enqueue(&counted(2));
        let stats = stats_until(&shipper, "the stalled request failed", |s| s.retries == 1).await;
        let error = stats.last_error.expect("an error");
        assert!(error.contains("no reply within 300ms") && error.contains("raise the timeout"), "{error}");
        stats_until(&shipper, "the second is sent", |s| s.sent_requests == 2).await;
        assert_eq!((arrived(&collector), collector.connections()), (vec![1.0, 2.0], 2), "{protocol}");
    }
}

#[tokio::test]
async fn a_connection_reset_in_the_middle_of_a_request_loses_nothing() {
    for protocol in BOTH {
        let collector = Collector::start().expect("a collector");
        let shipper = quick(&to(&collector, protocol));
        shipper.queue().enqueue(&counted(1));
        stats_until(&shipper, "the first is sent", |s| s.sent_requests == 1).await;
        collector.next(2, Answer::Reset);
        shipper.queue().enqueue(&counted(2));
        stats_until(&shipper, "the second is sent", |s| s.sent_requests == 2).await;
        assert_eq!(arrived(&collector), [1.0, 2.0], "{protocol}");
        assert_eq!(collector.attempts(), 4);
    }
}

#[tokio::test]
async fn tls_is_checked_against_the_configured_authority() {
    for protocol in BOTH {
        let tls = Some(Tls::new().expect("certificates"));
        let collector = Collector::with(Options { tls, ..Options::default() }).expect("a collector");
        let shipper = quick(&to(&collector, protocol));
        shipper.queue().enqueue(&counted(1));
        stats_until(&shipper, "the batch is sent", |s| s.sent_requests == 1).await;

        let other = Tls::new().expect("certificates");
        let shipper = quick(&with(to(&collector, protocol), |metrics| metrics.certificate = Some(other.ca())));
        shipper.queue().enqueue(&counted(2));
        let stats = stats_until(&shipper, "an attempt failed", |s| s.retries >= 1).await;
        let error = stats.last_error.expect("an error");
        for part in ["could not send metrics to https://", "invalid peer certificate", "check the collector's certificate"] {
            assert!(error.contains(part), "{part:?} in {error}");
        }
        assert_eq!(arrived(&collector), [1.0]);
    }
}

#[tokio::test]
async fn a_collector_that_demands_a_client_certificate_gets_it() {
    for protocol in BOTH {
        let tls = Some(Tls::mutual().expect("certificates"));
        let collector = Collector::with(Options { tls, ..Options::default() }).expect("a collector");
        let tls = collector.tls().expect("TLS");
        let without = to(&collector, protocol);
        let shipper = quick(&with(without.clone(), |metrics| {
            metrics.client_certificate = Some(tls.client_certificate());
            metrics.client_key = Some(tls.client_key());
        }));
        shipper.queue().enqueue(&counted(1));
        stats_until(&shipper, "the batch is sent", |s| s.sent_requests == 1).await;

        let shipper = quick(&without);
        shipper.queue().enqueue(&counted(2));
        let stats = stats_until(&shipper, "an attempt failed", |s| s.retries >= 1).await;
        let error = stats.last_error.expect("an error");
        assert!(error.contains("client certificate"), "{protocol}: {error}");
        assert_eq!(arrived(&collector), [1.0]);
    }
}

#[tokio::test]
async fn what_a_person_must_correct_is_an_error_at_start() {
    let tls = Tls::new().expect("certificates");
    let other = Tls::new().expect("certificates");
    let dir = tempfile::tempdir().expect("a directory");
    let not_pem = dir.path().join("not.pem");
    std::fs::write(&not_pem, "no certificate here").expect("a file");
    let path = |path: &Path| Some(path.to_path_buf());
    let https = settings("https://collector:4317", Protocol::Grpc);
    let changed = |change: &dyn Fn(&mut Destination)| with(https.clone(), change);
    let trusting = |change: &dyn Fn(&mut Destination)| {
        changed(&|metrics| {
            metrics.certificate = Some(tls.ca());
            change(metrics);
        })
    };
    let (certificate, key) = (|| Some(tls.client_certificate()), || Some(tls.client_key()));
    let cases = [
        (changed(&|metrics| metrics.endpoint = "collector:4317".into()), "http:// or https://"),
        (Export { queue: 0, ..https.clone() }, "queue"),
        (changed(&|metrics| metrics.timeout = Duration::ZERO), "timeout"),
        (changed(&|metrics| metrics.certificate = path(Path::new("/nonexistent/ca.pem"))), "/nonexistent/ca.pem: No such file"),
        (changed(&|metrics| metrics.certificate = path(&not_pem)), "there is no"),
        (changed(&|metrics| metrics.token_file = path(Path::new("/nonexistent/token"))), "/nonexistent/token: No such file"),
        (trusting(&|metrics| metrics.client_certificate = certificate()), "its key is not given"),
        (trusting(&|metrics| metrics.client_key = key()), "its certificate is not given"),
        (
            trusting(&|metrics| (metrics.client_certificate, metrics.client_key) = (certificate(), path(&not_pem))),
            "OTLP client key",
        ),
        (
            trusting(&|metrics| (metrics.client_certificate, metrics.client_key) = (certificate(), Some(other.client_key()))),
            "belong together",
        ),
    ];
    for (settings, want) in cases {
        let error = Shipper::new(&settings).expect_err(want);
        assert!(error.to_string().contains(want), "{want:?} in {error}");
    }
    let error = Shipper::new(&with(https, |metrics| metrics.certificate = path(&not_pem))).expect_err("no PEM");
    assert!(matches!(error, ExportError::Pem { .. }), "{error:?}");
}

#[tokio::test]
async fn with_no_exporter_nothing_is_queued() {
    let shipper = Shipper::new(&Export { exporter: Exporter::None, ..settings("", Protocol::Grpc) }).expect("no endpoint needed");
    shipper.queue().enqueue(&counted(1));
    assert_eq!(shipper.shutdown(Duration::from_secs(10)).await, [Stats::default()]);
}

#[tokio::test]
async fn tokens_in_headers_and_urls_are_never_logged() {
    let log = Captured::default();
    let _guard = log.install();
    for (protocol, refusal) in [
        (Protocol::Grpc, Answer::Grpc { code: Code::Unauthenticated, retry_info: None }),
        (Protocol::HttpProtobuf, Answer::Http { status: 401, retry_after: None }),
    ] {
        let collector = Collector::start().expect("a collector");
        collector.next(1, refusal);
        let mut settings = to(&collector, protocol);
        settings.metrics.headers.0 = [("authorization".to_string(), "Bearer hunter2".to_string())].into();
        if protocol == Protocol::HttpProtobuf {
            settings.metrics.endpoint += "?key=hunter2";
        }
        let shipper = quick(&settings);
        shipper.queue().enqueue(&counted(1));
        let stats = stats_until(&shipper, "the batch is refused", |s| s.failed_requests == 1).await;
        let error = stats.last_error.expect("an error");
        assert!(error.contains("check the credentials"), "{error}");
        assert!(!format!("{error} {shipper:?} {settings:?}").contains("hunter2"));
    }
    assert_eq!(log.lines_with("check the credentials").len(), 2, "{:?}", log.lines_with(""));
    assert_eq!(log.lines_with("hunter2"), [""; 0]);
}

/// Everything logged by this thread, down to the finest level.
#[derive(Clone, Default)]
pub(super) struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    pub(super) fn install(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    pub(super) fn lines_with(&self, part: &str) -> Vec<String> {
        let bytes = self.0.lock().expect("no panic while logging").clone();
        String::from_utf8_lossy(&bytes).lines().filter(|line| line.contains(part)).map(Into::into).collect()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic while logging").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
