//! A receiver that is away, and shutdown.

use super::*;

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
        let stats = shipper.shutdown(Duration::from_secs(10)).await.remove(0);
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
        let stats = shipper.shutdown(Duration::from_millis(200)).await.remove(0);
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
    let stats = shipper.shutdown(Duration::from_secs(10)).await.remove(0);
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
    let stats = shipper.shutdown(Duration::from_secs(30)).await.remove(0);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!((stats.dropped_requests, collector.attempts()), (1, 1));
}
