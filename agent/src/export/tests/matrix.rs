//! Every fault of a receiver, over gRPC and HTTP, with a journal and without: what was collected arrives once and in order, or is counted.

use podmeter_tests::patience;

use super::*;
use crate::config::Journal;

/// Batches of a run; the fault meets the requests of the second.
const BATCHES: u32 = 6;
const HIT: u32 = 2;

/// What becomes of the batch that the fault meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It arrives, later.
    Repeated,
    /// It is refused for good, and counted as failed.
    Failed,
    /// It is taken, and its one point is counted as rejected.
    Rejected,
}

/// What a receiver does wrong, and what follows from it.
struct Fault {
    name: &'static str,
    /// The answers to the attempts with the batch, until it is accepted.
    answers: Vec<Answer>,
    fate: Fate,
}

fn http(name: &'static str, status: u16, retry_after: Option<&str>, times: usize, fate: Fate) -> Fault {
    let answer = Answer::Http { status, retry_after: retry_after.map(str::to_owned) };
    Fault { name, answers: vec![answer; times], fate }
}

fn grpc(name: &'static str, code: Code, retry_info: Option<Duration>, times: usize, fate: Fate) -> Fault {
    Fault { name, answers: vec![Answer::Grpc { code, retry_info }; times], fate }
}

/// The faults that a receiver, or a proxy before it, can have by this protocol.
fn faults(protocol: Protocol) -> Vec<Fault> {
    use Fate::{Failed, Rejected, Repeated};
    let soon = Some(Duration::from_millis(20));
    let partial = Answer::Partial { rejected: 1, message: "too old".to_owned() };
    let mut faults = vec![
        Fault { name: "reset in the middle of a request", answers: vec![Answer::Reset; 3], fate: Repeated },
        Fault { name: "no answer", answers: vec![Answer::Stall], fate: Repeated },
        Fault { name: "partial success", answers: vec![partial], fate: Rejected },
    ];
    faults.extend(match protocol {
        Protocol::Grpc => vec![
            grpc("UNAVAILABLE", Code::Unavailable, None, 3, Repeated),
            grpc("UNAVAILABLE with RetryInfo", Code::Unavailable, soon, 2, Repeated),
            grpc("RESOURCE_EXHAUSTED", Code::ResourceExhausted, None, 1, Failed),
            grpc("RESOURCE_EXHAUSTED with RetryInfo", Code::ResourceExhausted, soon, 2, Repeated),
            grpc("DEADLINE_EXCEEDED", Code::DeadlineExceeded, None, 2, Repeated),
            grpc("INVALID_ARGUMENT", Code::InvalidArgument, None, 1, Failed),
            grpc("UNAUTHENTICATED", Code::Unauthenticated, None, 1, Failed),
            http("a proxy's 502", 502, None, 2, Repeated),
            http("a proxy's 429", 429, None, 2, Repeated),
            http("a proxy's 413", 413, None, 1, Failed),
        ],
        Protocol::HttpProtobuf => vec![
            http("429", 429, None, 3, Repeated),
            http("429 with Retry-After", 429, Some("1"), 1, Repeated),
            http("503", 503, None, 3, Repeated),
            http("503 with a Retry-After that is over", 503, Some("Thu, 01 Jan 1970 00:00:01 GMT"), 2, Repeated),
            http("502", 502, None, 2, Repeated),
            http("400", 400, None, 1, Failed),
            http("401", 401, None, 1, Failed),
            http("413", 413, None, 1, Failed),
            http("500", 500, None, 1, Failed),
        ],
    });
    faults
}

/// The settings, in turn with a journal in `directory` and without one.
fn ways(settings: Export, directory: &Path) -> [(&'static str, Export); 2] {
    let journal = Journal { directory: Some(directory.to_owned()), bytes: 16 << 20, age: Duration::from_secs(365 * 86_400) };
    [("in memory", settings.clone()), ("with a journal", Export { journal, ..settings })]
}

/// Nothing is missing that is not counted, and all that came did so once and in order.
fn check(what: &str, collector: &Collector, stats: &Stats, batches: u32, without: &[u32]) {
    let expected: Vec<f64> = (1..=batches).filter(|second| !without.contains(second)).map(f64::from).collect();
    assert_eq!(arrived(collector), expected, "{what}: {stats:?}");
    let accounted = stats.sent_points + stats.failed_points + stats.dropped_points;
    assert_eq!(accounted, u64::from(batches), "{what}: {stats:?}");
    assert_eq!(stats.failed_points + stats.dropped_points, without.len() as u64, "{what}: {stats:?}");
}

#[tokio::test]
async fn whatever_a_receiver_does_each_point_arrives_once_and_in_order_or_is_counted() {
    for protocol in BOTH {
        for fault in faults(protocol) {
            let directory = tempfile::tempdir().expect("a directory");
            let base = |collector: &Collector| {
                // A request that is not answered may take this long; on an emulated CPU one that is answered takes a part of it.
                with(to(collector, protocol), |metrics| metrics.timeout = patience(Duration::from_millis(700)))
            };
            for way in 0..2 {
                let collector = Collector::start().expect("a collector");
                let (kept, settings) = ways(base(&collector), directory.path()).into_iter().nth(way).expect("two ways");
                let what = format!("{}, {protocol}, {kept}", fault.name);
                collector.next(HIT as usize - 1, Answer::Accept);
                for answer in &fault.answers {
                    collector.next(1, answer.clone());
                }
                let shipper = quick(&settings);
                for second in 1..=BATCHES {
                    shipper.queue().enqueue(&counted(second));
                }
                let all_settled = |s: &Stats| s.queue_length == 0 && s.sent_points + s.failed_points == u64::from(BATCHES);
                let stats = stats_until(&shipper, &what, all_settled).await;
                let lost: &[u32] = if fault.fate == Fate::Failed { &[HIT] } else { &[] };
                check(&what, &collector, &stats, BATCHES, lost);
                assert_eq!(stats.rejected_points, u64::from(fault.fate == Fate::Rejected), "{what}");
                let attempts = if fault.fate == Fate::Repeated { fault.answers.len() as u64 } else { 0 };
                assert_eq!(stats.retries, attempts, "{what}: {stats:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_receiver_that_is_away_or_has_no_address_loses_nothing_that_there_is_room_for() {
    for protocol in BOTH {
        let directory = tempfile::tempdir().expect("a directory");
        let collector = Collector::start().expect("a collector");
        collector.refuse();
        let (_, settings) = ways(to(&collector, protocol), directory.path()).into_iter().nth(1).expect("two ways");
        // Its name cannot be looked up any more.
        let nowhere = with(settings.clone(), |metrics| {
            metrics.endpoint = metrics.endpoint.replace("127.0.0.1", "collector.invalid");
        });
        let shipper = quick(&nowhere);
        for second in 1..=3 {
            shipper.queue().enqueue(&counted(second));
        }
        let stats = stats_until(&shipper, "attempts", |s| s.retries >= 2).await;
        assert_eq!((stats.queue_length, stats.dropped_points), (3, 0), "{protocol}: {stats:?}");
        let error = stats.last_error.expect("an error");
        assert!(error.contains("collector.invalid") && error.contains("check the endpoint's host"), "{error}");
        shipper.shutdown(Duration::from_millis(200)).await;

        // The next agent has the right one, which refuses connections at first.
        let shipper = quick(&settings);
        for second in 4..=BATCHES {
            shipper.queue().enqueue(&counted(second));
        }
        stats_until(&shipper, "attempts", |s| s.retries >= 2).await;
        collector.listen();
        let stats = stats_until(&shipper, "nothing waits", |s| s.queue_length == 0).await;
        check(&format!("{protocol}"), &collector, &stats, BATCHES, &[]);
    }
}

/// Six hours at an interval of 15 s, on a clock that is as fast as batches can be made.
#[tokio::test]
async fn an_outage_of_six_hours_is_sent_afterwards_in_order_and_whole() {
    const EXPORTS: u32 = 6 * 3600 / 15;
    for protocol in BOTH {
        let directory = tempfile::tempdir().expect("a directory");
        let collector = Collector::start().expect("a collector");
        collector.refuse();
        let (_, settings) = ways(to(&collector, protocol), directory.path()).into_iter().nth(1).expect("two ways");
        let shipper = quick(&settings);
        for second in 1..=EXPORTS {
            shipper.queue().enqueue(&counted(second));
        }
        stats_until(&shipper, "attempts", |s| s.retries >= 3 && s.queue_length == EXPORTS as usize).await;
        collector.listen();
        // Beside what comes meanwhile, in the order of time.
        for second in EXPORTS + 1..=EXPORTS + 5 {
            shipper.queue().enqueue(&counted(second));
        }
        let stats = stats_until(&shipper, "nothing waits", |s| s.queue_length == 0).await;
        check(&format!("{protocol}"), &collector, &stats, EXPORTS + 5, &[]);
    }
}
