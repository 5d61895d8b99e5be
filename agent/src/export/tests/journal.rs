//! What the journal keeps: an outage, a kill, a full or broken disk, and looking back.

use super::*;
use crate::config::Journal;
use crate::export::history;

const DAY: Duration = Duration::from_secs(86_400);

/// The same settings with a journal in this directory, and next to no memory.
pub(super) fn kept(directory: &Path, bytes: u64, settings: Export) -> Export {
    Export { queue: 1, journal: Journal { directory: Some(directory.to_owned()), bytes, age: DAY }, ..settings }
}

/// As when the agent is killed: without an orderly end. Its task lets go of the journal when the runtime gets to it.
pub(super) async fn kill(shipper: Shipper) {
    drop(shipper);
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

pub(super) fn seconds(range: std::ops::RangeInclusive<u32>) -> Vec<f64> {
    range.map(f64::from).collect()
}

#[tokio::test]
async fn an_outage_that_the_journal_has_room_for_loses_nothing_and_all_arrives_in_order() {
    for protocol in BOTH {
        let directory = tempfile::tempdir().expect("a directory");
        let collector = Collector::start().expect("a collector");
        let shipper = quick(&kept(directory.path(), 16 << 20, to(&collector, protocol)));
        shipper.queue().enqueue(&counted(1));
        stats_until(&shipper, "the first is sent", |s| s.sent_requests == 1).await;
        collector.refuse();
        for second in 2..=200 {
            shipper.queue().enqueue(&counted(second));
        }
        let stats = stats_until(&shipper, "refused attempts", |s| s.retries >= 3).await;
        assert_eq!(stats.queue_length, 199, "{stats:?}");
        assert!(stats.queue_bytes > 0 && stats.oldest_age.is_some() && stats.journal.is_some_and(|j| j.bytes > 0), "{stats:?}");
        collector.listen();
        let stats = stats_until(&shipper, "nothing waits", |s| s.queue_length == 0).await;
        assert_eq!(arrived(&collector), seconds(1..=200), "{protocol}");
        assert_eq!((stats.dropped_requests, stats.dropped_points, stats.sent_requests), (0, 0, 200));
    }
}

#[tokio::test]
async fn what_a_killed_agent_had_not_sent_is_sent_by_the_next_one_also_by_another_protocol() {
    for (before, after) in [(BOTH[0], BOTH[1]), (BOTH[1], BOTH[0]), (BOTH[0], BOTH[0])] {
        let directory = tempfile::tempdir().expect("a directory");
        let collector = Collector::start().expect("a collector");
        collector.refuse();
        let shipper = quick(&kept(directory.path(), 16 << 20, to(&collector, before)));
        for second in 1..=20 {
            shipper.queue().enqueue(&counted(second));
        }
        stats_until(&shipper, "an attempt", |s| s.retries > 0).await;
        kill(shipper).await;
        collector.listen();
        let settings = with(kept(directory.path(), 16 << 20, to(&collector, after)), |metrics| {
            metrics.compression = Compression::None;
        });
        let shipper = quick(&settings);
        shipper.queue().enqueue(&counted(21));
        stats_until(&shipper, "all are sent", |s| s.sent_requests == 21).await;
        assert_eq!(arrived(&collector), seconds(1..=21));
        // Sent and confirmed: the next one begins behind them.
        shipper.shutdown(Duration::from_secs(10)).await;
        let shipper = quick(&settings);
        shipper.queue().enqueue(&counted(22));
        stats_until(&shipper, "the last is sent", |s| s.sent_requests == 1).await;
        assert_eq!(arrived(&collector), seconds(1..=22));
    }
}

#[tokio::test]
async fn a_stop_leaves_in_the_journal_what_the_receiver_does_not_take() {
    let directory = tempfile::tempdir().expect("a directory");
    let collector = Collector::start().expect("a collector");
    collector.always(Answer::Stall);
    let settings = kept(directory.path(), 16 << 20, to(&collector, Protocol::Grpc));
    let shipper = quick(&settings);
    for second in 1..=3 {
        shipper.queue().enqueue(&counted(second));
    }
    let stats = shipper.shutdown(Duration::from_millis(200)).await.remove(0);
    assert_eq!((stats.dropped_requests, stats.sent_requests), (0, 0));
    collector.refuse();
    collector.always(Answer::Accept);
    collector.listen();
    let shipper = quick(&settings);
    stats_until(&shipper, "all are sent", |s| s.sent_requests == 3).await;
    assert_eq!(arrived(&collector), seconds(1..=3));
}

#[tokio::test]
async fn a_journal_that_cannot_be_opened_is_said_once_and_memory_takes_its_place() {
    let log = Captured::default();
    let _guard = log.install();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    std::fs::write(&file, "").expect("a file");
    let collector = Collector::start().expect("a collector");
    let shipper = quick(&kept(&file, 16 << 20, Export { logs: None, ..to(&collector, Protocol::Grpc) }));
    shipper.queue().enqueue(&counted(1));
    let stats = stats_until(&shipper, "it is sent", |s| s.sent_requests == 1).await;
    assert!(stats.journal.is_some_and(|journal| journal.failures > 0), "{stats:?}");
    let lines = log.lines_with("kept in memory instead of in the journal");
    assert!(lines.len() == 1 && lines[0].contains("could not make the journal's directory"), "{lines:?}");
}

#[tokio::test]
async fn what_the_journal_has_no_room_for_is_counted_and_the_newest_stay() {
    let directory = tempfile::tempdir().expect("a directory");
    let collector = Collector::start().expect("a collector");
    collector.refuse();
    let shipper = quick(&kept(directory.path(), 1 << 20, to(&collector, Protocol::Grpc)));
    const SENT: u32 = 5000;
    for second in 1..=SENT {
        shipper.queue().enqueue(&counted(second));
    }
    let stats = stats_until(&shipper, "an attempt", |s| s.retries > 0).await;
    let waiting = stats.queue_length as u64;
    assert!(stats.journal.is_some_and(|journal| journal.bytes <= 1 << 20), "{stats:?}");
    assert!(stats.dropped_requests > 500 && waiting > 1000, "{stats:?}");
    // One may have been read before the segment that had it was removed; it is in memory.
    assert_eq!(stats.dropped_requests + waiting, u64::from(SENT), "{stats:?}");
    assert_eq!(stats.dropped_points, stats.dropped_requests, "one point each");
}

#[tokio::test]
async fn what_was_exported_can_be_looked_back_at_beside_the_agent() {
    let directory = tempfile::tempdir().expect("a directory");
    let collector = Collector::start().expect("a collector");
    let shipper = quick(&kept(directory.path(), 16 << 20, to(&collector, Protocol::HttpProtobuf)));
    for second in 1..=5 {
        shipper.queue().enqueue(&eventful(second));
    }
    stats_until(&shipper, "all are sent", |s| s.sent_requests == 5).await;
    let mut out = Vec::new();
    let written = history::write(directory.path(), 0, u64::MAX, &mut out).expect("a journal");
    assert_eq!((written.lines, written.damaged), (10, 0));
    let lines: Vec<serde_json::Value> =
        String::from_utf8(out).expect("text").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let point = |line: &serde_json::Value| {
        line["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["sum"]["dataPoints"][0]["asDouble"].as_f64()
    };
    assert_eq!(lines.iter().filter_map(point).collect::<Vec<_>>(), seconds(1..=5));
    assert_eq!(lines.iter().filter(|line| line["resourceLogs"].is_array()).count(), 5);
    let none = history::write(&directory.path().join("none"), 0, u64::MAX, &mut Vec::new()).expect_err("no journal");
    assert!(none.to_string().contains("there is no journal in"), "{none}");
}
