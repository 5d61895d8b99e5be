//! The shipper against collectors that refuse a request for its size, as most do beyond 4 MiB.

use podmeter_tests::collector::{Answer, Collector, Options};

use super::{BOTH, Captured, quick, refusals, stats_until, to, with};
use crate::aggregate::Batch;
use crate::export::encode::Bounds;
use crate::export::fixtures::{IO, Load, counted, happened, node, point, resources, series};
use crate::export::{Compression, Export, Protocol};
use crate::metric::Value;

/// gRPC's limit on messages that every receiver has unless somebody raised it.
const FOUR_MIB: usize = 4 << 20;

/// Everything that a collector has, each series once.
pub(super) fn whole(collector: &Collector) -> usize {
    let received = collector.received();
    series(received.iter().flat_map(|received| &received.request.resource_metrics)).len()
}

/// The series of a batch.
pub(super) fn of(batch: &Batch) -> usize {
    let bounds = Bounds::new(256);
    let groups = resources(batch, &bounds);
    series(&groups).len()
}

#[tokio::test]
async fn a_node_of_250_pods_arrives_whole_at_a_receiver_with_the_usual_limit() {
    for load in [Load::Idle, Load::Busy] {
        let batch = node(250, load);
        let wanted = of(&batch);
        for protocol in BOTH {
            let collector = Collector::with(Options { limit: Some(FOUR_MIB), ..Options::default() }).expect("a collector");
            let shipper = quick(&to(&collector, protocol));
            shipper.queue().enqueue(&batch);
            let queued = shipper.queue().stats().queue_length;
            let stats = stats_until(&shipper, "all is sent", |s| s.queue_length == 0).await;
            assert_eq!((stats.failed_points, stats.dropped_points, stats.retries), (0, 0, 0), "{protocol} {load:?}");
            assert!(queued > 1 && stats.sent_requests >= queued as u64, "{queued} requests, {stats:?}");
            assert_eq!(whole(&collector), wanted, "{protocol} {load:?}");
        }
    }
}

#[tokio::test]
async fn what_is_refused_for_its_size_is_sent_in_halves_and_the_next_batch_is_small_enough_at_once() {
    let batch = node(10, Load::Busy);
    for (protocol, limit) in [(Protocol::Grpc, 100_000), (Protocol::HttpProtobuf, 100_000), (Protocol::Grpc, 25_000)] {
        let log = Captured::default();
        let _guard = log.install();
        let collector = Collector::with(Options { limit: Some(limit), ..Options::default() }).expect("a collector");
        let shipper = quick(&to(&collector, protocol));
        shipper.queue().enqueue(&batch);
        let stats = stats_until(&shipper, "all is sent", |s| s.queue_length == 0).await;
        assert_eq!((stats.failed_points, stats.dropped_points), (0, 0), "{protocol}");
        assert!(stats.retries > 0 && stats.failing_for.is_none(), "{stats:?}");
        assert_eq!(whole(&collector), of(&batch), "{protocol}");
        assert_eq!(log.lines_with("for their size").len(), 1, "{:?}", log.lines_with(""));
        let attempts = collector.attempts();
        shipper.queue().enqueue(&Batch { time_ns: batch.time_ns + 1, ..batch.clone() });
        let again = stats_until(&shipper, "all is sent", |s| s.queue_length == 0).await;
        assert_eq!(again.retries, stats.retries, "{protocol}: nothing is refused any more");
        assert_eq!(collector.attempts() - attempts, (again.sent_requests - stats.sent_requests) as usize);
    }
}

#[tokio::test]
async fn tonics_own_limit_is_met_as_it_is_said_by_tonic() {
    // Compressed and not: two codes, and two sentences.
    for compression in [Compression::Gzip, Compression::None] {
        let batch = node(150, Load::Busy);
        let collector = Collector::start().expect("a collector");
        let shipper = quick(&with(Export { request_bytes: 64 << 20, ..to(&collector, Protocol::Grpc) }, |metrics| {
            metrics.compression = compression
        }));
        shipper.queue().enqueue(&batch);
        assert_eq!(shipper.queue().stats().queue_length, 1);
        let stats = stats_until(&shipper, "all is sent", |s| s.queue_length == 0).await;
        assert!(stats.retries > 0 && stats.failed_points == 0, "{compression:?}: {stats:?}");
        assert_eq!(whole(&collector), of(&batch));
    }
}

#[tokio::test]
async fn a_metric_that_is_too_large_alone_is_lost_alone_and_said_with_what_to_do() {
    for protocol in BOTH {
        let log = Captured::default();
        let _guard = log.install();
        // A thousand points of one metric of one resource, some 130 kB, among a node's.
        let mut batch = node(3, Load::Idle);
        let points =
            (0..1000).map(|n| point(&IO, 1, Value::Int(n)).with("network.io.direction", format!("{n}{}", "x".repeat(60))));
        batch.cgroups[0].sample.points.extend(points);
        let collector = Collector::with(Options { limit: Some(64_000), ..Options::default() }).expect("a collector");
        let shipper = quick(&to(&collector, protocol));
        shipper.queue().enqueue(&batch);
        let stats = stats_until(&shipper, "all is sent or lost", |s| s.queue_length == 0).await;
        assert_eq!((stats.failed_requests, stats.failed_points, stats.dropped_points), (1, 1000, 0), "{protocol}");
        assert_eq!(whole(&collector), of(&batch) - 1000, "{protocol}");
        let lost = log.lines_with("1000 points");
        assert!(lost.len() == 1 && lost[0].contains("max_recv_msg_size_mib"), "{:?}", log.lines_with(""));
    }
}

#[tokio::test]
async fn a_collector_that_refuses_every_size_is_not_asked_a_thousand_times() {
    let batch = node(40, Load::Busy);
    let collector = Collector::start().expect("a collector");
    collector.always(Answer::Http { status: 413, retry_after: None });
    let shipper = quick(&to(&collector, Protocol::HttpProtobuf));
    shipper.queue().enqueue(&batch);
    let queued = shipper.queue().stats().queue_length;
    let stats = stats_until(&shipper, "all is given up", |s| s.queue_length == 0).await;
    assert_eq!(stats.failed_points as usize, of(&batch));
    // From 2 MiB to below 16 KiB in halves: 8 attempts, then the parts of the first request, one each, and the others whole.
    assert!(collector.attempts() < 8 + 20 + queued, "{} attempts, {queued} requests", collector.attempts());
    assert!(stats.failing_for.is_some());
    let attempts = collector.attempts();
    shipper.queue().enqueue(&batch);
    stats_until(&shipper, "all is given up", |s| s.queue_length == 0).await;
    assert_eq!(collector.attempts() - attempts, queued, "each request once");
}

#[tokio::test]
async fn one_request_of_a_batch_that_is_refused_for_good_takes_no_other_with_it() {
    for protocol in BOTH {
        let batch = node(30, Load::Busy);
        let collector = Collector::start().expect("a collector");
        collector.next(1, Answer::Accept);
        collector.next(1, refusals(protocol).1);
        let shipper = quick(&Export { request_bytes: 256 << 10, ..to(&collector, protocol) });
        shipper.queue().enqueue(&batch);
        let queued = shipper.queue().stats().queue_length as u64;
        let stats = stats_until(&shipper, "all is sent", |s| s.queue_length == 0).await;
        assert!(queued > 3);
        assert_eq!((stats.failed_requests, stats.sent_requests), (1, queued - 1), "{protocol}");
        assert_eq!(whole(&collector) as u64 + stats.failed_points, of(&batch) as u64);
    }
}

#[tokio::test]
async fn events_that_are_too_many_for_a_request_arrive_too() {
    for protocol in BOTH {
        let collector = Collector::with(Options { limit: Some(20_000), ..Options::default() }).expect("a collector");
        let shipper = quick(&to(&collector, protocol));
        let events = (0..1000).map(|n| happened(&format!("web-{}", n % 7), n)).collect();
        shipper.queue().enqueue(&Batch { events, ..counted(1) });
        let seen = |c: &Collector| -> usize {
            let logs = c.logs();
            let records = logs.iter().flat_map(|request| &request.resource_logs).flat_map(|group| &group.scope_logs);
            records.map(|scope| scope.log_records.len()).sum()
        };
        collector.until("every event", |c| seen(c) == 1000).await.expect("all of them");
        let stats = shipper.queue().event_stats().expect("a way of their own");
        assert_eq!((stats.failed_points, stats.dropped_points), (0, 0), "{protocol}");
    }
}
