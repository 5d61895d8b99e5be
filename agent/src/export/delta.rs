//! Totals -> what was counted since the batch before (pure): for back ends that take nothing else, by `export.temporality: delta`.
//!
//! It comes behind [`series`](super::series), so that a counter's first total is known to be zero wherever that can be known. Where it is
//! not, the first batch that has a counter exports nothing of it: so the first one of each process. What was counted between the last
//! batch of the process before and that one is in no export.

use std::collections::HashMap;

use super::series::{REMEMBERED_NS, SeriesOwner};
use crate::aggregate::Batch;
use crate::join::{CgroupSample, Sample};
use crate::metric::{MetricKind, Point, Value};

/// The last total of each series.
#[derive(Debug, Default)]
pub struct Delta {
    lives: HashMap<SeriesOwner, Life>,
}

#[derive(Debug, Default)]
struct Life {
    series: Vec<Last>,
    seen_ns: u64,
}

/// A counter's last total.
#[derive(Debug)]
struct Last {
    time_ns: u64,
    total: Point,
}

impl Life {
    /// Puts a total in the place of the last one, which it returns. `at` is where the last one may be.
    fn replace(&mut self, at: &mut usize, point: &Point, time_ns: u64) -> Option<(u64, Value)> {
        let known = match self.series.get(*at) {
            Some(last) if last.total.is_of_series(point) => Some(*at),
            _ => self.series.iter().position(|last| last.total.is_of_series(point)),
        };
        let Some(known) = known else {
            self.series.push(Last { time_ns, total: point.clone() });
            return None;
        };
        *at = known + 1;
        let last = &mut self.series[known];
        Some((std::mem::replace(&mut last.time_ns, time_ns), std::mem::replace(&mut last.total.value, point.value.clone())))
    }
}

impl Delta {
    /// Makes of a batch's totals what was counted since the batch before. Counters that counted nothing are left out.
    pub fn apply(&mut self, batch: &mut Batch) {
        let now_ns = batch.time_ns;
        self.enter(None, &mut batch.node, now_ns);
        for CgroupSample { cgroup, sample } in &mut batch.cgroups {
            self.enter(Some(cgroup.id), sample, now_ns);
        }
        for sample in &mut batch.pods {
            self.enter(None, sample, now_ns);
        }
        self.lives.retain(|_, life| life.seen_ns + REMEMBERED_NS > now_ns);
        batch.is_delta = true;
    }

    fn enter(&mut self, cgroup: Option<u64>, sample: &mut Sample, now_ns: u64) {
        let life = self.lives.entry(SeriesOwner::of(cgroup, &sample.resource)).or_default();
        life.seen_ns = now_ns;
        let mut at = 0;
        // Where counters were zero.
        for earlier in std::mem::take(&mut sample.earlier) {
            for point in &earlier.points {
                life.replace(&mut at, point, earlier.time_ns);
            }
        }
        let time_ns = sample.time_ns.unwrap_or(now_ns);
        at = 0;
        sample.points.retain_mut(|point| {
            if point.metric.kind == MetricKind::Gauge {
                return true;
            }
            let Some((before_ns, before)) = life.replace(&mut at, point, time_ns) else { return false };
            // One that is lower has begun anew.
            (point.start_ns, point.value) = match point.value.since(&before) {
                Some(since) => (before_ns, since),
                None => (point.start_ns.max(before_ns), point.value.clone()),
            };
            !point.value.is_nothing()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::encode::{Bounds, encode};
    use crate::export::fixtures::{Load, batch, node, point};
    use crate::export::series::Series;
    use crate::metric::{Metric, Scope};

    static COUNT: Metric = Metric::counter("test.count", "1", Scope::Cgroup, "");
    static LEVEL: Metric = Metric::gauge("test.level", "1", Scope::Cgroup, "");

    /// A batch of one pod at that second: its counter, which began at `start`, and a gauge.
    fn at(second: u64, name: &'static str, start: u64, count: u64) -> Batch {
        let points = vec![point(&COUNT, start * 1_000_000_000, Value::Int(count)), point(&LEVEL, 0, Value::Int(7))];
        batch(second * 1_000_000_000, vec![(vec![("k8s.pod.name", name)], points)])
    }

    /// Its counter and gauge after both stages: the seconds that the counter covers, and its value.
    fn counted(series: &mut Series, delta: &mut Delta, mut batch: Batch) -> (Option<(u64, u64, u64)>, bool) {
        series.complete(&mut batch, true);
        delta.apply(&mut batch);
        assert!(batch.is_delta && batch.samples().all(|sample| sample.earlier.is_empty()));
        let samples: Vec<&Sample> = batch.samples().filter(|sample| !sample.points.is_empty()).collect();
        let points: Vec<&Point> = samples.iter().flat_map(|sample| &sample.points).collect();
        let count = points.iter().find(|point| std::ptr::eq(point.metric, &COUNT)).map(|point| {
            let Value::Int(value) = point.value else { panic!("{point:?}") };
            (point.start_ns / 1_000_000_000, batch.time_ns / 1_000_000_000, value)
        });
        (count, points.iter().any(|point| std::ptr::eq(point.metric, &LEVEL)))
    }

    #[test]
    fn each_batch_has_what_was_counted_since_the_one_before() {
        let (mut series, mut delta) = (Series::new(10_000_000_000), Delta::default());
        let mut next = |batch| counted(&mut series, &mut delta, batch);
        // Older than this process: what it counted before is in the exports of another, or in none.
        assert_eq!(next(at(20, "old", 1, 100)), (None, true));
        assert_eq!(next(at(30, "old", 1, 105)), (Some((20, 30, 5)), true));
        assert_eq!(next(at(40, "old", 1, 105)), (None, true), "nothing is not sent");
        assert_eq!(next(at(50, "old", 1, 106)), (Some((40, 50, 1)), true));
        // It was reset.
        assert_eq!(next(at(60, "old", 55, 2)), (Some((55, 60, 2)), true));
        // Born between two batches: all that it counted.
        assert_eq!(next(at(70, "new", 65, 9)), (Some((65, 70, 9)), true));
    }

    #[test]
    fn the_sum_of_all_is_the_total() {
        let (mut series, mut delta) = (Series::new(1), Delta::default());
        let (mut sum, mut total) = (0, 0);
        for second in 3..200 {
            total += second * second % 7;
            let (count, _) = counted(&mut series, &mut delta, at(second, "pod", 2, total));
            sum += count.map_or(0, |(_, _, value)| value);
        }
        assert_eq!(sum, total);
    }

    #[test]
    fn a_node_leaves_as_deltas_and_a_quiet_one_as_gauges_alone() {
        let (mut series, mut delta) = (Series::new(0), Delta::default());
        let mut sent = |mut batch: Batch| {
            series.complete(&mut batch, true);
            delta.apply(&mut batch);
            let (mut bytes, bounds) = (0, Bounds::new(256));
            encode(&batch, &bounds, |group| bytes += group.values.len());
            let counters = batch.samples().flat_map(|sample| &sample.points).filter(|p| p.metric.kind != MetricKind::Gauge);
            (counters.count(), bytes)
        };
        sent(node(3, Load::Busy));
        let mut later = node(3, Load::Busy);
        later.time_ns += 15_000_000_000;
        let (counters, bytes) = sent(later);
        assert_eq!(counters, 0);
        assert!(bytes > 0);
    }
}
