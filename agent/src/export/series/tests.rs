use std::collections::BTreeMap;

use super::*;
use crate::{
    cgroups::table::tests::cgroup,
    export::fixtures::{BURST, IO, TIME, USAGE},
    histogram::Histogram,
};

const SECOND: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

fn resource(name: &str) -> Arc<Resource> {
    Arc::new(Resource::new([("podmeter.cgroup.path", name)], 0))
}

/// A cgroup's sample; `died` makes it the last.
fn sample(id: u64, path: &str, died_ns: Option<u64>, points: Vec<Point>) -> CgroupSample {
    let mut cgroup = cgroup(1, path, None);
    (cgroup.id, cgroup.died_ns) = (id, died_ns);
    CgroupSample::new(&cgroup, resource(path), points)
}

fn batch(time_ns: u64, cgroups: Vec<CgroupSample>) -> Batch {
    Batch { time_ns, cgroups, ..Batch::default() }
}

fn time(start_ns: u64, value: f64) -> Point {
    Point::new(&TIME, start_ns, Value::Float(value))
}

fn usage(value: f64) -> Point {
    Point::new(&USAGE, 0, Value::Float(value))
}

fn received(start_ns: u64, bytes: u64) -> Point {
    Point::new(&IO, start_ns, Value::Int(bytes)).with("network.io.direction", "receive")
}

/// What a receiver keeps: by series, its points by time in ms.
#[derive(Default)]
struct Receiver(BTreeMap<String, BTreeMap<u64, Option<f64>>>);

impl Receiver {
    /// Takes a batch as Prometheus does.
    ///
    /// # Panics
    /// A point is not newer than the last one of its series, or it is before its start.
    fn take(&mut self, batch: &Batch) {
        let of_sample = |sample: &Sample| -> Vec<_> {
            let earlier = sample.earlier.iter().map(|earlier| (earlier.time_ns, earlier.points.clone()));
            let moments = earlier.chain([(sample.time_ns.unwrap_or(batch.time_ns), sample.points.clone())]);
            moments.map(|(time_ns, points)| (sample.resource.clone(), time_ns, points)).collect()
        };
        for (resource, time_ns, points) in batch.samples().flat_map(of_sample) {
            for point in points {
                let value = match &point.value {
                    Value::Int(n) => Some(*n as f64),
                    Value::Float(n) => Some(*n),
                    Value::Histogram(histogram) => Some(histogram.count as f64),
                    Value::Absent => None,
                };
                let series = format!("{:?} {} {:?}", resource, point.metric.name, point.attributes);
                let of_series = self.0.entry(series.clone()).or_default();
                let newest = of_series.last_key_value().map(|(ms, _)| *ms);
                assert!(newest.is_none_or(|ms| ms < time_ns / MS), "{series}: {} ms after {newest:?}", time_ns / MS);
                assert!(point.start_ns <= time_ns, "{series} starts at {} and is of {time_ns}", point.start_ns);
                of_series.insert(time_ns / MS, value);
            }
        }
    }

    fn of(&self, name: &str, metric: &Metric) -> Vec<(u64, Option<f64>)> {
        let of = |series: &str| series.contains(&format!("{name:?}")) && series.contains(metric.name);
        self.0.iter().filter(|(series, _)| of(series)).flat_map(|(_, points)| points.iter().map(|(ms, v)| (*ms, *v))).collect()
    }

    /// What PromQL's `increase` adds up over the points that are there, resets included.
    fn increase(&self, name: &str, metric: &Metric) -> f64 {
        let values: Vec<f64> = self.of(name, metric).into_iter().filter_map(|(_, value)| value).collect();
        values.windows(2).map(|pair| if pair[1] < pair[0] { pair[1] } else { pair[1] - pair[0] }).sum()
    }
}

fn run(series: &mut Series, receiver: &mut Receiver, mut batch: Batch) {
    assert_eq!(series.complete(&mut batch, true), 0);
    receiver.take(&batch);
}

#[test]
fn a_container_between_two_exports_shows_all_that_it_used_and_ends() {
    let (mut series, mut receiver) = (Series::new(SECOND), Receiver::default());
    run(&mut series, &mut receiver, batch(15 * SECOND, vec![]));
    let (born, died) = (20 * SECOND, 20 * SECOND + 300 * MS);
    let histogram = Histogram { count: 4, sum: 1.0, zero_count: 4, ..Histogram::default() };
    let points = vec![time(born, 0.25), received(born, 100), Point::new(&BURST, born, Value::Histogram(histogram.into()))];
    run(&mut series, &mut receiver, batch(30 * SECOND, vec![sample(7, "/job", Some(died), points)]));
    assert_eq!(receiver.of("/job", &TIME), [(20_000, Some(0.0)), (20_300, Some(0.25))]);
    assert_eq!(receiver.increase("/job", &IO), 100.0);
    assert_eq!(receiver.increase("/job", &BURST), 4.0);
}

#[test]
fn what_an_earlier_process_may_have_exported_does_not_begin_again() {
    let (mut series, mut receiver) = (Series::new(10 * SECOND), Receiver::default());
    let samples = |at: u64, value: f64| {
        let older = sample(1, "/older", None, vec![time(SECOND, 100.0 + value)]);
        batch(at * SECOND, vec![older, sample(2, "/younger", None, vec![time(11 * SECOND, value)])])
    };
    run(&mut series, &mut receiver, samples(15, 1.0));
    run(&mut series, &mut receiver, samples(30, 2.0));
    assert_eq!(receiver.increase("/older", &TIME), 1.0);
    assert_eq!(receiver.increase("/younger", &TIME), 2.0);
}

#[test]
fn a_series_that_is_missing_for_minutes_of_short_intervals_does_not_begin_again() {
    let (mut series, mut receiver) = (Series::new(SECOND), Receiver::default());
    let alone = |at: u64, value: f64| batch(at * SECOND, vec![sample(1, "/a", None, vec![time(5 * SECOND, value)])]);
    run(&mut series, &mut receiver, alone(10, 1.0));
    for at in 11..310 {
        run(&mut series, &mut receiver, batch(at * SECOND, vec![]));
    }
    run(&mut series, &mut receiver, alone(310, 3.0));
    assert_eq!(receiver.of("/a", &TIME), [(5_000, Some(0.0)), (10_000, Some(1.0)), (310_000, Some(3.0))]);
    // Memory is bounded: what was not seen for longer is forgotten.
    for at in 311..700 {
        run(&mut series, &mut receiver, batch(at * SECOND, vec![]));
    }
    assert!(series.lives.is_empty() && series.newest.is_empty());
}

#[test]
fn a_counter_that_appears_late_was_zero_in_the_batch_before() {
    let (mut series, mut receiver) = (Series::new(10 * SECOND), Receiver::default());
    run(&mut series, &mut receiver, batch(15 * SECOND, vec![sample(1, "/a", None, vec![time(SECOND, 5.0)])]));
    run(
        &mut series,
        &mut receiver,
        batch(30 * SECOND, vec![sample(1, "/a", None, vec![time(SECOND, 6.0), received(SECOND, 40)])]),
    );
    assert_eq!(receiver.of("/a", &IO), [(15_001, Some(0.0)), (30_000, Some(40.0))]);
    assert_eq!(receiver.increase("/a", &TIME), 1.0);
}

#[test]
fn a_counter_that_could_not_be_read_before_was_not_zero() {
    let (mut series, mut receiver) = (Series::new(10 * SECOND), Receiver::default());
    let mut first = batch(15 * SECOND, vec![sample(1, "/a", None, vec![time(SECOND, 5.0)])]);
    series.complete(&mut first, false);
    receiver.take(&first);
    run(
        &mut series,
        &mut receiver,
        batch(30 * SECOND, vec![sample(1, "/a", None, vec![time(SECOND, 6.0), received(SECOND, 40)])]),
    );
    assert_eq!(receiver.of("/a", &IO), [(30_000, Some(40.0))]);
}

#[test]
fn gauges_end_once_with_the_final_values() {
    let (mut series, mut receiver) = (Series::new(SECOND), Receiver::default());
    let start = 14 * SECOND;
    run(&mut series, &mut receiver, batch(15 * SECOND, vec![sample(1, "/a", None, vec![usage(2.0), time(start, 1.0)])]));
    run(&mut series, &mut receiver, batch(30 * SECOND, vec![sample(1, "/a", Some(16 * SECOND), vec![time(start, 2.0)])]));
    run(&mut series, &mut receiver, batch(45 * SECOND, vec![]));
    run(&mut series, &mut receiver, batch(60 * SECOND, vec![]));
    assert_eq!(receiver.of("/a", &USAGE), [(15_000, Some(2.0)), (30_000, None)]);
    assert_eq!(receiver.increase("/a", &TIME), 2.0);
}

#[test]
fn what_is_merely_not_there_any_more_ends_too() {
    let (mut series, mut receiver) = (Series::new(SECOND), Receiver::default());
    let pod = |at: u64, phase: &'static str| {
        let phase = Point::new(&USAGE, 0, Value::Int(1)).with("phase", phase);
        Batch { pods: vec![Sample::new(resource("pod"), vec![phase])], ..batch(at * SECOND, vec![]) }
    };
    run(&mut series, &mut receiver, pod(15, "Pending"));
    run(&mut series, &mut receiver, pod(30, "Running"));
    run(&mut series, &mut receiver, batch(45 * SECOND, vec![]));
    let ends: Vec<_> = receiver.of("pod", &USAGE);
    assert_eq!(ends, [(15_000, Some(1.0)), (30_000, None), (30_000, Some(1.0)), (45_000, None)]);
    let mut last = batch(60 * SECOND, vec![]);
    series.complete(&mut last, true);
    assert!(last.samples().all(|sample| sample.points.is_empty()));
}

#[test]
fn under_a_new_name_gauges_end_and_counters_go_on() {
    let (mut series, mut receiver) = (Series::new(SECOND), Receiver::default());
    let named = |name, value| {
        let mut named = sample(1, "/a", None, vec![usage(1.0), time(14 * SECOND, value)]);
        named.sample.resource = resource(name);
        named
    };
    run(&mut series, &mut receiver, batch(15 * SECOND, vec![named("uid", 1.0)]));
    run(&mut series, &mut receiver, batch(30 * SECOND, vec![named("web", 3.0)]));
    run(&mut series, &mut receiver, batch(45 * SECOND, vec![named("web", 4.0)]));
    assert_eq!(receiver.of("uid", &USAGE), [(15_000, Some(1.0)), (30_000, None)]);
    assert_eq!(receiver.of("web", &TIME), [(30_000, Some(3.0)), (45_000, Some(4.0))]);
}

#[test]
fn generations_of_one_service_follow_each_other() {
    let (mut series, mut receiver) = (Series::new(SECOND), Receiver::default());
    run(&mut series, &mut receiver, batch(15 * SECOND, vec![sample(1, "/s", None, vec![usage(1.0), time(14 * SECOND, 1.0)])]));
    // Three die within an interval, the second in the same ms in which it was born; a fourth lives, older final values are still to come.
    let died = |id: u64, start: u64, died, value| sample(id, "/s", Some(died), vec![time(start, value)]);
    let samples = vec![
        died(1, 14 * SECOND, 20 * SECOND, 1.5),
        died(2, 20 * SECOND, 20 * SECOND + MS / 2, 0.5),
        died(3, 20 * SECOND + MS / 2, 29 * SECOND, 4.0),
        sample(4, "/s", None, vec![usage(3.0), time(29 * SECOND, 2.0)]),
    ];
    run(&mut series, &mut receiver, batch(30 * SECOND, samples));
    run(&mut series, &mut receiver, batch(45 * SECOND, vec![sample(4, "/s", None, vec![usage(4.0), time(29 * SECOND, 3.0)])]));
    assert_eq!(receiver.increase("/s", &TIME), 1.5 + 0.5 + 4.0 + 3.0);
    assert_eq!(receiver.of("/s", &USAGE), [(15_000, Some(1.0)), (30_000, Some(3.0)), (45_000, Some(4.0))], "the gauge goes on");
}

#[test]
fn a_successor_that_waits_begins_after_its_predecessors_end() {
    let (mut series, mut receiver) = (Series::new(SECOND), Receiver::default());
    run(&mut series, &mut receiver, batch(15 * SECOND, vec![sample(1, "/s", None, vec![usage(1.0), time(14 * SECOND, 1.0)])]));
    // Dead, but its final values are still to come; of its successor there is only what is so now.
    let dead = sample(1, "/s", Some(29 * SECOND), vec![time(14 * SECOND, 7.0)]);
    run(&mut series, &mut receiver, batch(30 * SECOND, vec![dead.clone(), sample(2, "/s", None, vec![usage(2.0)])]));
    let last = sample(1, "/s", Some(29 * SECOND), vec![time(14 * SECOND, 8.0)]);
    let successor = sample(2, "/s", None, vec![usage(2.0), time(29 * SECOND, 3.0)]);
    run(&mut series, &mut receiver, batch(45 * SECOND, vec![last, successor]));
    assert_eq!(receiver.increase("/s", &TIME), 8.0 + 3.0);
    assert_eq!(receiver.of("/s", &USAGE), [(15_000, Some(1.0)), (30_000, Some(2.0)), (45_000, Some(2.0))]);
}

#[test]
fn a_series_is_in_a_batch_once() {
    let mut series = Series::new(SECOND);
    let mut twice = batch(15 * SECOND, vec![sample(1, "/a", None, vec![usage(1.0), usage(2.0), received(2, 3), received(2, 3)])]);
    assert_eq!(series.complete(&mut twice, true), 2);
    let mut again = batch(30 * SECOND, vec![sample(1, "/a", None, vec![usage(1.0), usage(2.0)])]);
    assert_eq!(series.complete(&mut again, true), 1);
}

#[test]
fn a_point_of_value_0_lies_no_further_back_than_receivers_take() {
    let mut series = Series::new(SECOND);
    let now = 3600 * SECOND;
    let mut late = batch(now, vec![sample(1, "/a", None, vec![time(2 * SECOND, 9.0)])]);
    series.complete(&mut late, true);
    assert_eq!(late.cgroups[0].sample.earlier[0].time_ns, now - PAST_NS);
}

#[test]
fn nothing_is_kept_of_what_is_gone() {
    let mut series = Series::new(SECOND);
    for n in 0..100 {
        let mut born = batch((15 + 60 * n) * SECOND, vec![sample(n, &format!("/{n}"), None, vec![usage(1.0), time(n, 1.0)])]);
        series.complete(&mut born, true);
    }
    assert!(series.lives.len() <= REMEMBERED as usize + 1 && series.newest.len() <= REMEMBERED as usize + 1);
    for n in 0..20 {
        series.complete(&mut batch((6100 + 60 * n) * SECOND, vec![]), true);
    }
    assert!(series.lives.is_empty() && series.newest.is_empty() && series.shapes.0.is_empty());
}

#[test]
fn final_values_come_after_what_an_earlier_process_exported_of_the_same_death() {
    let mut receiver = Receiver::default();
    let dead = |value| sample(1, "/job", Some(14 * SECOND), vec![time(3 * SECOND, value)]);
    run(&mut Series::new(SECOND), &mut receiver, batch(15 * SECOND, vec![dead(1.0)]));
    run(&mut Series::new(15 * SECOND), &mut receiver, batch(16 * SECOND, vec![dead(1.5)]));
    assert_eq!(receiver.of("/job", &TIME), [(3_000, Some(0.0)), (14_000, Some(1.0)), (15_001, Some(1.5))]);
}

#[test]
fn what_enters_a_top_list_was_not_zero_before() {
    let (mut series, mut receiver) = (Series::new(SECOND), Receiver::default());
    let asked = |name: &'static str, n| {
        Point::new(&dns::metrics::NAME_QUERIES, 2 * SECOND, Value::Int(n)).with("dns.question.name", name)
    };
    run(
        &mut series,
        &mut receiver,
        batch(15 * SECOND, vec![sample(1, "/a", None, vec![time(2 * SECOND, 1.0), asked("a.test", 9)])]),
    );
    run(
        &mut series,
        &mut receiver,
        batch(30 * SECOND, vec![sample(1, "/a", None, vec![time(2 * SECOND, 1.0), asked("b.test", 12)])]),
    );
    assert_eq!(receiver.of("b.test", &dns::metrics::NAME_QUERIES), [(30_000, Some(12.0))]);
    let kept: usize = series.lives.values().map(|life| life.series.len()).sum();
    assert_eq!(kept, 2, "nothing is kept of what has left the list");
}

#[test]
fn what_was_left_out_for_a_time_comes_back_without_an_increase_that_never_was() {
    let (mut series, mut receiver) = (Series::new(0), Receiver::default());
    let mut export = |seconds: u64, points: Vec<Point>, gap: bool| {
        let mut batch = batch(seconds * SECOND, vec![sample(7, "/a", None, points)]);
        if gap {
            series.begin_anew(&[&TIME]);
        }
        series.complete(&mut batch, true);
        receiver.take(&batch);
    };
    export(10, vec![time(SECOND, 5.0), usage(1.0)], false);
    // Two counters are left out; of one of them nothing had been exported before.
    export(20, vec![usage(1.0)], false);
    // One has begun anew meanwhile and has more than before, the other had counted all the time.
    export(30, vec![time(25 * SECOND, 7.0), received(SECOND, 1000), usage(1.0)], true);
    export(40, vec![time(25 * SECOND, 8.0), received(SECOND, 1001), usage(1.0)], false);
    assert_eq!(receiver.of("/a", &TIME)[2..4], [(25_000, Some(0.0)), (30_000, Some(7.0))], "from zero when it began anew");
    assert_eq!(receiver.increase("/a", &TIME), 5.0 + 8.0);
    assert_eq!(receiver.increase("/a", &IO), 1001.0, "none of it had been exported");
}
