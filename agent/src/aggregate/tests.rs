use super::*;
use crate::{cgroups::table::tests::cgroup, metric::Value, signals::cpu};

pub(super) fn point(value: f64) -> Point {
    Point::new(&cpu::metrics::TIME, 0, Value::Float(value))
}

fn paths(batch: &Batch) -> Vec<(&str, bool, usize)> {
    batch.cgroups.iter().map(|c| (c.cgroup.path.as_str(), c.cgroup.ended, c.sample.points.len())).collect()
}

#[test]
fn birth_death_and_a_slots_next_owner() {
    let mut aggregate = Aggregate::new(NodeIdentity::default());
    let mut table = Table::default();
    table.insert(cgroup(1, "/a", None));
    let readings = || {
        vec![
            Readings { cgroups: vec![(1, vec![point(1.0)])], node: vec![point(9.0)] },
            Readings { cgroups: vec![(1, vec![point(2.0)])], node: Vec::new() },
        ]
    };
    let batch = aggregate.batch(1, readings(), &table, None);
    assert_eq!(paths(&batch), [("/a", false, 2)]);
    assert_eq!(batch.node.points, [point(9.0)]);

    let mut dead = table.remove(1).expect("known");
    dead.died_ns = Some(1);
    aggregate.retire(&dead, vec![point(3.0)]);
    let mut next = cgroup(1, "/b", None);
    next.id += 1;
    table.insert(next);
    assert_eq!(paths(&aggregate.batch(2, readings(), &table, None)), [("/a", true, 1), ("/b", false, 2)]);
    assert_eq!(paths(&aggregate.batch(3, readings(), &table, None)), [("/b", false, 2)], "final values are exported once");
}

#[test]
fn a_service_that_was_started_again_counts_when_its_predecessors_final_values_have_left() {
    let mut aggregate = Aggregate::new(NodeIdentity::default());
    let mut dead = cgroup(2, "/a", None);
    dead.died_ns = Some(7);
    let mut table = Table::default();
    let mut successor = cgroup(1, "/a", None);
    (successor.id, successor.born_ns) = (2000, 8);
    table.insert(successor);
    table.insert(dead.clone());
    let both = |n: f64| vec![point(n), Point::new(&cpu::metrics::USAGE, 0, Value::Float(n))];
    let readings = || vec![Readings { cgroups: vec![(1, both(1.0)), (2, both(2.0))], node: Vec::new() }];
    let exported = |batch: &Batch| -> Vec<_> {
        let of = |sample: &Sample| (sample.time_ns, sample.points.iter().map(|p| (p.metric.kind, p.value.clone())).collect());
        batch.cgroups.iter().map(|cgroup| of(&cgroup.sample)).collect::<Vec<(Option<u64>, Vec<_>)>>()
    };
    let (counter, gauge) = (MetricKind::Counter, MetricKind::Gauge);
    let waits = exported(&aggregate.batch(9, readings(), &table, None));
    assert_eq!(waits, [(None, vec![(gauge, Value::Float(1.0))]), (Some(7), vec![(counter, Value::Float(2.0))])]);
    table.remove(2);
    aggregate.retire(&dead, vec![point(3.0)]);
    let batch = exported(&aggregate.batch(20, readings(), &table, None));
    let living = vec![(counter, Value::Float(1.0)), (gauge, Value::Float(1.0))];
    assert_eq!(batch, [(Some(7), vec![(counter, Value::Float(3.0))]), (None, living)]);
}

#[test]
fn readings_of_slots_without_an_owner_are_left_out() {
    let mut aggregate = Aggregate::new(NodeIdentity::default());
    let readings = vec![Readings { cgroups: vec![(7, vec![point(1.0)])], node: Vec::new() }];
    assert!(paths(&aggregate.batch(1, readings, &Table::default(), None)).is_empty());
}
