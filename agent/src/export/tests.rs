//! The shipper against a fake collector: what is lost, what is repeated, what is said, and that nothing hangs.

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
async fn an_outage_keeps_the_newest_batches_and_says_where_and_why() {
    for protocol in BOTH {
        let collector = Collector::start().expect("a collector");
        let shipper = quick(&Export { queue: 3, ..to(&collector, protocol) });
        shipper.queue().enqueue(&counted(1));
        stats_until(&shipper, "the first is sent", |s| s.sent_requests == 1).await;
        collector.refuse();
        for second in 2..=10 {
            shipper.queue().enqueue(&counted(second));
        }
        let stats = stats_until(&shipper, "refused attempts", |s| s.retries >= 3).await;
        assert!(stats.queue_bytes > 0 && stats.oldest_age.is_some(), "{stats:?}");
        let error = stats.last_error.expect("an error");
        for part in ["could not send metrics to http://127.0.0.1:", &protocol.to_string(), "refused", "a collector listens there"]
        {
            assert!(error.contains(part), "{part:?} in {error}");
        }
        collector.listen();
        let stats = stats_until(&shipper, "the queue is empty", |s| s.queue_length == 0).await;
        assert_eq!(arrived(&collector), [1.0, 8.0, 9.0, 10.0], "{protocol}");
        assert_eq!((stats.dropped_requests, stats.dropped_points, stats.sent_requests), (6, 6, 4));
    }
}

#[tokio::test]
async fn how_long_nothing_was_taken_is_known_whatever_the_attempts_fail_for_and_ends_with_the_next_that_is_taken() {
    for protocol in BOTH {
        let collector = Collector::start().expect("a collector");
        let shipper = quick(&to(&collector, protocol));
        assert_eq!(shipper.queue().stats().failing_for, None);
        let (again, never) = refusals(protocol);
        collector.next(1, never);
        collector.always(again);
        let start = Instant::now();
        shipper.queue().enqueue(&counted(1));
        stats_until(&shipper, "the first is given up", |s| s.failed_requests == 1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        shipper.queue().enqueue(&counted(2));
        let stats = stats_until(&shipper, "the second is tried three times", |s| s.retries >= 3).await;
        let failing = stats.failing_for.expect("all failed");
        // A refusal for good counts like one to be repeated, and later ones do not begin anew.
        assert!(failing <= start.elapsed() && failing >= Duration::from_millis(50), "{failing:?}");
        collector.always(Answer::Accept);
        let stats = stats_until(&shipper, "the second is sent", |s| s.sent_requests == 1).await;
        assert_eq!(stats.failing_for, None, "{protocol}");
    }
}

#[tokio::test]
async fn enqueue_does_not_wait_for_a_collector_that_is_not_there() {
    // 192.0.2.0/24 is for documentation: nothing answers.
    let shipper = Shipper::new(&settings("http://192.0.2.1:4317", Protocol::Grpc)).expect("good settings");
    let start = Instant::now();
    for second in 0..1000 {
        shipper.queue().enqueue(&counted(second));
    }
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
    let stats = shipper.queue().stats();
    assert_eq!((stats.queue_length, stats.dropped_requests), (64, 936));
}

#[tokio::test]
async fn shutdown_sends_what_is_queued() {
    for protocol in BOTH {
        let collector = Collector::start().expect("a collector");
        let shipper = quick(&to(&collector, protocol));
        for second in 1..=20 {
            shipper.queue().enqueue(&counted(second));
        }
        let stats = shipper.shutdown(Duration::from_secs(10)).await;
        assert_eq!((stats.sent_requests, stats.dropped_requests, stats.queue_length), (20, 0, 0));
        assert_eq!(collector.latest(POD, TIME.name), Some(20.0));
        assert_eq!(collector.exports().expect("OTLP").requests(), 20);
    }
}

#[tokio::test]
async fn shutdown_ends_by_its_deadline_with_a_stalled_collector_and_counts_what_is_lost() {
    for protocol in BOTH {
        let collector = Collector::start().expect("a collector");
        collector.always(Answer::Stall);
        let shipper = quick(&to(&collector, protocol));
        shipper.queue().enqueue(&counted(1));
        shipper.queue().enqueue(&counted(2));
        collector.until("a connection", |c| c.connections() == 1).await.expect("a connection");
        let start = Instant::now();
        let stats = shipper.shutdown(Duration::from_millis(200)).await;
        // Well before the request itself would time out.
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert_eq!((stats.dropped_requests, stats.dropped_points, stats.queue_length, stats.sent_requests), (2, 2, 0, 0));
    }
}

#[tokio::test]
async fn shutdown_cuts_a_backoff_short() {
    let collector = Collector::start().expect("a collector");
    collector.next(1, refusals(Protocol::Grpc).0);
    let slow = Pacing { initial: Duration::from_secs(600), max: Duration::from_secs(600) };
    let shipper = Shipper::with_pacing(&to(&collector, Protocol::Grpc), slow).expect("good settings");
    shipper.queue().enqueue(&counted(1));
    stats_until(&shipper, "the first attempt failed", |s| s.retries == 1).await;
    let stats = shipper.shutdown(Duration::from_secs(10)).await;
    assert_eq!((stats.sent_requests, arrived(&collector)), (1, vec![1.0]));
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_time_it_cannot_reach_nor_break_a_wait_it_was_asked_for() {
    let collector = Collector::start().expect("a collector");
    collector.next(1, Answer::Http { status: 429, retry_after: Some("3600".into()) });
    let shipper = quick(&to(&collector, Protocol::HttpProtobuf));
    shipper.queue().enqueue(&counted(1));
    stats_until(&shipper, "the first attempt failed", |s| s.retries == 1).await;
    let start = Instant::now();
    let stats = shipper.shutdown(Duration::from_secs(30)).await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!((stats.dropped_requests, collector.attempts()), (1, 1));
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
    assert_eq!(shipper.shutdown(Duration::from_secs(10)).await, Stats::default());
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

#[tokio::test]
async fn events_arrive_as_log_records_beside_the_metrics_and_are_repeated_like_them() {
    for protocol in BOTH {
        let collector = Collector::start().expect("a collector");
        let (again, _) = refusals(protocol);
        collector.always_logs(again);
        let shipper = quick(&to(&collector, protocol));
        shipper.queue().enqueue(&eventful(1));
        collector.until("two attempts", |c| c.log_attempts() >= 2).await.expect("attempts");
        collector.always_logs(Answer::Accept);
        collector.until("the event", |c| !c.logs().is_empty()).await.expect("an event");
        collector.until("the metrics", |c| !c.received().is_empty()).await.expect("metrics");
        let record = collector.logs()[0].resource_logs[0].scope_logs[0].log_records[0].clone();
        assert_eq!((record.event_name.as_str(), record.time_unix_nano), ("podmeter.test", 1), "{protocol}");
        assert_eq!(shipper.shutdown(Duration::from_secs(10)).await.failed_requests, 0);
        assert_eq!(collector.logs().len(), 1, "{protocol}: once");
    }
}

#[tokio::test]
async fn a_collector_that_takes_no_logs_is_not_asked_at_once_again_and_still_gets_all_metrics() {
    for protocol in BOTH {
        let collector = Collector::start().expect("a collector");
        collector.always_logs(match protocol {
            Protocol::Grpc => Answer::Grpc { code: Code::Unimplemented, retry_info: None },
            Protocol::HttpProtobuf => Answer::Http { status: 404, retry_after: None },
        });
        let shipper = Shipper::new(&to(&collector, protocol)).expect("good settings");
        shipper.queue().enqueue(&eventful(1));
        collector.until("an attempt", |c| c.log_attempts() == 1).await.expect("an attempt");
        let start = Instant::now();
        while shipper.queue().event_stats().expect("a way of their own").dropped_points == 0 {
            assert!(start.elapsed() < Duration::from_secs(20), "the refusal is not counted");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        for second in 2..=4 {
            shipper.queue().enqueue(&eventful(second));
        }
        let stats = stats_until(&shipper, "all metrics are sent", |s| s.sent_requests == 4).await;
        assert_eq!((stats.failed_requests, stats.last_error), (0, None), "{protocol}");
        assert_eq!(arrived(&collector), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!((collector.log_attempts(), collector.logs().len()), (1, 0), "{protocol}");
        assert_eq!(shipper.queue().event_stats().expect("still").dropped_points, 4);
    }
}

#[tokio::test]
async fn a_collector_that_took_no_logs_once_gets_the_events_of_later() {
    for protocol in BOTH {
        let refusals = match protocol {
            Protocol::Grpc => vec![Answer::Grpc { code: Code::Unimplemented, retry_info: None }],
            Protocol::HttpProtobuf => [404, 405].map(|status| Answer::Http { status, retry_after: None }).to_vec(),
        };
        for refusal in refusals {
            let log = Captured::default();
            let _guard = log.install();
            let collector = Collector::start().expect("a collector");
            collector.always_logs(refusal.clone());
            let shipper = quick(&to(&collector, protocol));
            // One event every now and then, until two were refused: it is asked again, and not with every event.
            let mut events = 0;
            while collector.log_attempts() < 3 {
                events += 1;
                shipper.queue().enqueue(&eventful(events));
                tokio::time::sleep(Duration::from_millis(5)).await;
                assert!(events < 4000, "{refusal:?}: not asked again");
            }
            assert!(events > 6, "{refusal:?}: asked with every event");
            collector.always_logs(Answer::Accept);
            while collector.logs().is_empty() {
                events += 1;
                shipper.queue().enqueue(&eventful(events));
                tokio::time::sleep(Duration::from_millis(5)).await;
                assert!(events < 4000, "{refusal:?}: no event arrives though they are taken now");
            }
            assert_eq!(log.lines_with("does not accept logs").len(), 1, "{:?}", log.lines_with(""));
            shipper.shutdown(Duration::from_secs(10)).await;
            assert_eq!(log.lines_with("accepts events now").len(), 1, "{:?}", log.lines_with(""));
        }
    }
}
