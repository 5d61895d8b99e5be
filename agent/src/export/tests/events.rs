//! Events, which leave as log records.

use super::*;

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
        assert_eq!(shipper.shutdown(Duration::from_secs(10)).await[0].failed_requests, 0);
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
