//! Several receivers: each gets everything, whatever the others do.

use super::journal::{kept, kill, seconds};
use super::size::{of, whole};
use super::*;
use crate::aggregate::Batch;
use crate::config::FurtherReceiver;
use crate::export::fixtures::{Load, node};
use crate::export::ship::Outcomes;

/// A further receiver of this name.
fn further(name: &str, collector: &Collector, protocol: Protocol) -> FurtherReceiver {
    let Export { metrics, logs, .. } = to(collector, protocol);
    FurtherReceiver { name: name.to_owned(), metrics, logs: logs.expect("events go there, too") }
}

/// To the first collector over gRPC, and to `team-a` over HTTP without compression.
fn to_two(main: &Collector, other: &Collector) -> Export {
    let mut other = further("team-a", other, Protocol::HttpProtobuf);
    (other.metrics.compression, other.logs.compression) = (Compression::None, Compression::None);
    Export { also: vec![other], ..to(main, Protocol::Grpc) }
}

fn two() -> [Collector; 2] {
    [Collector::start().expect("a collector"), Collector::start().expect("a collector")]
}

/// Waits until something is true of what has become of the requests to a receiver.
async fn outcomes_until(shipper: &Shipper, index: usize, what: &str, condition: impl Fn(&Outcomes) -> bool) -> Outcomes {
    let start = Instant::now();
    loop {
        let outcomes = shipper.queue().outcomes().remove(index);
        if condition(&outcomes) {
            return outcomes;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "not within 60 s: {what}; {outcomes:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn every_receiver_gets_every_batch_and_event_in_its_own_form() {
    let [main, other] = two();
    let shipper = quick(&to_two(&main, &other));
    for second in 1..=20 {
        shipper.queue().enqueue(&eventful(second));
    }
    for (index, name) in [(0, "main"), (1, "team-a")] {
        let all_sent = |o: &Outcomes| o.metrics.sent_requests == 20 && o.events.as_ref().is_some_and(|e| e.sent_requests == 20);
        let outcomes = outcomes_until(&shipper, index, "all is sent", all_sent).await;
        assert_eq!(outcomes.receiver.as_deref(), Some(name));
    }
    for (collector, encoding) in [(&main, Some("gzip")), (&other, None)] {
        assert_eq!(arrived(collector), seconds(1..=20));
        assert_eq!(collector.logs().len(), 20);
        assert_eq!(collector.received()[0].content_encoding.as_deref(), encoding);
    }
}

#[tokio::test]
async fn one_form_is_made_once_and_its_bytes_are_shared() {
    let [one, two] = two();
    let settings = Export { also: vec![further("a", &two, Protocol::Grpc)], ..to(&one, Protocol::Grpc) };
    [&one, &two].into_iter().for_each(Collector::refuse);
    let shipper = quick(&settings);
    shipper.queue().enqueue(&node(3, Load::Busy));
    let queue = shipper.queue();
    let bodies = queue.metrics.queues.iter().map(|queue| {
        let state = queue.state();
        state.waiting.iter().chain(&state.sending).map(|entry| entry.request.body.as_ptr()).collect::<Vec<_>>()
    });
    let bodies: Vec<_> = bodies.collect();
    assert!(bodies[0].len() == 1 && bodies[0] == bodies[1], "{bodies:?}");
}

#[tokio::test]
async fn a_receiver_that_is_down_or_stalls_delays_and_drops_nothing_of_another_in_memory() {
    for stalls in [false, true] {
        let [main, other] = two();
        if stalls {
            main.always(Answer::Stall)
        } else {
            main.refuse()
        }
        let shipper = quick(&Export { queue: 3, ..to_two(&main, &other) });
        for second in 1..=50 {
            shipper.queue().enqueue(&counted(second));
            let sent = |o: &Outcomes| o.metrics.sent_requests == u64::from(second);
            let begun = Instant::now();
            outcomes_until(&shipper, 1, "it is sent", sent).await;
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        }
        assert_eq!(arrived(&other), seconds(1..=50));
        let [of_main, of_other] = &shipper.queue().outcomes()[..] else { panic!("two") };
        assert!(of_main.metrics.queue_length <= 4 && of_main.metrics.dropped_requests >= 46, "{of_main:?}");
        assert_eq!((of_other.metrics.dropped_requests, of_other.metrics.retries), (0, 0));
        let error = of_main.metrics.last_error.clone().unwrap_or_default();
        assert!(stalls || error.contains(" over gRPC (main): "), "{error}");
    }
}

#[tokio::test]
async fn one_is_down_for_a_while_and_the_agent_is_killed_and_each_gets_everything_once_and_in_order() {
    for down in [0, 1] {
        let directory = tempfile::tempdir().expect("a directory");
        let collectors = two();
        collectors[down].refuse();
        let settings = kept(directory.path(), 16 << 20, to_two(&collectors[0], &collectors[1]));
        let up = 1 - down;
        let mut second = 0;
        for _ in 0..3 {
            let shipper = quick(&settings);
            let before = arrived(&collectors[up]).len();
            for _ in 0..30 {
                second += 1;
                shipper.queue().enqueue(&eventful(second));
            }
            let all = |o: &Outcomes| o.metrics.queue_length == 0 && o.events.as_ref().is_some_and(|e| e.queue_length == 0);
            outcomes_until(&shipper, up, "all is sent", all).await;
            assert_eq!(arrived(&collectors[up]).len() - before, 30);
            let waits = outcomes_until(&shipper, down, "an attempt", |o| o.metrics.retries > 0).await;
            assert_eq!((waits.metrics.queue_length, waits.metrics.dropped_points), (second as usize, 0));
            kill(shipper).await;
        }
        collectors[down].listen();
        let shipper = quick(&settings);
        second += 1;
        shipper.queue().enqueue(&eventful(second));
        for index in [0, 1] {
            let all = |o: &Outcomes| o.metrics.queue_length == 0 && o.events.as_ref().is_some_and(|e| e.queue_length == 0);
            outcomes_until(&shipper, index, "nothing waits", all).await;
            assert_eq!(arrived(&collectors[index]), seconds(1..=second), "{down} was down, this is {index}");
            assert_eq!(collectors[index].logs().len(), second as usize);
        }
    }
}

#[tokio::test]
async fn what_the_journal_has_no_room_for_is_the_loss_of_who_had_not_got_it() {
    const SENT: u32 = 5000;
    let directory = tempfile::tempdir().expect("a directory");
    let [main, other] = two();
    other.refuse();
    let shipper = quick(&kept(directory.path(), 1 << 20, to_two(&main, &other)));
    for second in 1..=SENT {
        shipper.queue().enqueue(&counted(second));
        if second % 100 == 0 {
            outcomes_until(&shipper, 0, "all is sent", |o| o.metrics.queue_length == 0).await;
        }
    }
    let of_main = outcomes_until(&shipper, 0, "all is sent", |o| o.metrics.queue_length == 0).await.metrics;
    let of_other = outcomes_until(&shipper, 1, "an attempt", |o| o.metrics.retries > 0).await.metrics;
    assert_eq!((of_main.sent_points, of_main.dropped_points), (u64::from(SENT), 0));
    assert_eq!(arrived(&main), seconds(1..=SENT));
    let waiting = of_other.queue_length as u64;
    assert!(of_other.dropped_points > 500 && waiting > 1000, "{of_other:?}");
    assert_eq!(of_other.dropped_points + waiting, u64::from(SENT));
    assert_eq!(of_main.journal, of_other.journal);
    assert!(of_main.journal.is_some_and(|journal| journal.bytes <= 1 << 20));
}

#[tokio::test]
async fn a_receiver_that_is_removed_holds_nothing_and_one_that_is_new_begins_now() {
    let log = Captured::default();
    let _guard = log.install();
    let directory = tempfile::tempdir().expect("a directory");
    let [main, other] = two();
    other.refuse();
    let both = kept(directory.path(), 1 << 20, to_two(&main, &other));
    let shipper = quick(&both);
    for second in 1..=10 {
        shipper.queue().enqueue(&counted(second));
    }
    outcomes_until(&shipper, 1, "an attempt", |o| o.metrics.retries > 0).await;
    shipper.shutdown(Duration::from_secs(1)).await;
    let cursor = directory.path().join("metrics/to-team-a.cursor");
    assert!(cursor.exists());

    let alone = Export { also: Vec::new(), ..both.clone() };
    for last in [11, 12] {
        let shipper = quick(&alone);
        shipper.queue().enqueue(&counted(last));
        stats_until(&shipper, "it is sent", |s| s.queue_length == 0).await;
        assert!(!cursor.exists() && directory.path().join("metrics/receiver.cursor").exists());
        shipper.shutdown(Duration::from_secs(10)).await;
    }
    let lines = log.lines_with("the receiver team-a is not in the configuration any more: metrics wait for it no longer");
    assert_eq!(lines.len(), 1, "{:?}", log.lines_with("team-a"));

    other.listen();
    let shipper = quick(&both);
    shipper.queue().enqueue(&counted(13));
    outcomes_until(&shipper, 1, "it is sent", |o| o.metrics.sent_requests == 1).await;
    outcomes_until(&shipper, 0, "it is sent", |o| o.metrics.queue_length == 0).await;
    assert_eq!((arrived(&main), arrived(&other)), (seconds(1..=13), seconds(13..=13)));
}

#[tokio::test]
async fn a_journal_of_one_receiver_goes_on_when_there_is_a_second() {
    let directory = tempfile::tempdir().expect("a directory");
    let [main, other] = two();
    main.refuse();
    let shipper = quick(&kept(directory.path(), 16 << 20, to(&main, Protocol::Grpc)));
    for second in 1..=5 {
        shipper.queue().enqueue(&counted(second));
    }
    stats_until(&shipper, "an attempt", |s| s.retries > 0).await;
    kill(shipper).await;
    main.listen();
    let shipper = quick(&kept(directory.path(), 16 << 20, to_two(&main, &other)));
    shipper.queue().enqueue(&counted(6));
    for index in [0, 1] {
        outcomes_until(&shipper, index, "nothing waits", |o| o.metrics.queue_length == 0).await;
    }
    assert_eq!((arrived(&main), arrived(&other)), (seconds(1..=6), seconds(6..=6)));
}

#[tokio::test]
async fn a_receiver_that_takes_less_at_once_gets_smaller_requests_and_the_others_do_not() {
    let batch = node(40, Load::Busy);
    for journal in [false, true] {
        let directory = tempfile::tempdir().expect("a directory");
        let main = Collector::start().expect("a collector");
        let small = Collector::with(Options { limit: Some(100_000), ..Options::default() }).expect("a collector");
        let mut settings = to_two(&main, &small);
        if journal {
            settings = kept(directory.path(), 64 << 20, settings);
        }
        let shipper = quick(&settings);
        let mut retries = None;
        for round in 1..=2 {
            shipper.queue().enqueue(&Batch { time_ns: batch.time_ns + round, ..batch.clone() });
            for index in [0, 1] {
                outcomes_until(&shipper, index, "nothing waits", |o| o.metrics.queue_length == 0).await;
            }
            let [of_main, of_small] = &shipper.queue().outcomes()[..] else { panic!("two") };
            for outcomes in [of_main, of_small] {
                let stats = &outcomes.metrics;
                assert_eq!((stats.failed_points, stats.dropped_points), (0, 0), "{outcomes:?}");
                assert_eq!(stats.sent_points as usize, round as usize * of(&batch), "{outcomes:?}");
            }
            assert_eq!(of_main.metrics.retries, 0);
            let before = *retries.get_or_insert(of_small.metrics.retries);
            assert_eq!(before, of_small.metrics.retries, "nothing is refused in round {round}");
        }
        assert!(retries.is_some_and(|retries| retries > 0));
        assert_eq!((whole(&main), whole(&small)), (2 * of(&batch), 2 * of(&batch)));
        let requests = |collector: &Collector| collector.received().len();
        assert!(requests(&small) > 2 * requests(&main), "{} and {}", requests(&small), requests(&main));
    }
}

#[tokio::test]
async fn each_receiver_finds_out_itself_whether_it_takes_logs() {
    let [main, other] = two();
    main.always_logs(Answer::Grpc { code: Code::Unimplemented, retry_info: None });
    let directory = tempfile::tempdir().expect("a directory");
    let shipper = Shipper::new(&kept(directory.path(), 16 << 20, to_two(&main, &other))).expect("good settings");
    for second in 1..=3 {
        shipper.queue().enqueue(&eventful(second));
        other.until("the event", |c| c.logs().len() == second as usize).await.expect("an event");
        main.until("an attempt", |c| c.log_attempts() == 1).await.expect("one");
    }
    let dropped = |o: &Outcomes| o.events.as_ref().is_some_and(|events| events.dropped_points == 3);
    outcomes_until(&shipper, 0, "the refusal is counted", dropped).await;
    outcomes_until(&shipper, 1, "all is sent", |o| {
        o.events.as_ref().is_some_and(|e| (e.sent_points, e.dropped_points) == (3, 0))
    })
    .await;

    // Metrics only go to the first: it has no way for events.
    let shipper = quick(&Export { logs: None, ..to_two(&main, &other) });
    shipper.queue().enqueue(&eventful(4));
    other.until("the event", |c| c.logs().len() == 4).await.expect("an event");
    let outcomes = shipper.queue().outcomes();
    assert!(outcomes[0].events.is_none() && outcomes[1].events.is_some());
}

#[tokio::test]
async fn a_receiver_that_stalls_does_not_take_the_end_from_another() {
    let [main, other] = two();
    main.always(Answer::Stall);
    let shipper = quick(&to_two(&main, &other));
    for second in 1..=20 {
        shipper.queue().enqueue(&counted(second));
    }
    let begun = Instant::now();
    let stats = shipper.shutdown(Duration::from_millis(500)).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!((stats[0].sent_points, stats[0].dropped_points), (0, 20));
    assert_eq!((stats[1].sent_points, stats[1].dropped_points), (20, 0));
}
