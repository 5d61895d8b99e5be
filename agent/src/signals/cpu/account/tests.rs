//! Birth, death, slot reuse: by hand-made records.

use super::*;
use crate::cgroups::table::tests::cgroup;

/// A record with one wait.
fn record(on_cpu_ns: u64, wait_ns: u64) -> CpuRecord {
    let mut record = CpuRecord { on_cpu_ns, wait_ns, ..CpuRecord::ZERO };
    record.waits[agent_common::cpu::wait_position(wait_ns)] += 1;
    record
}

/// Records by slot.
fn records<const N: usize>(of: [(u32, CpuRecord); N]) -> impl Fn(u32) -> Option<CpuRecord> {
    let of = HashMap::from(of);
    move |slot| of.get(&slot).copied()
}

fn table() -> Table {
    let mut table = Table::default();
    table.insert(cgroup(1, "/", None));
    table.insert(cgroup(2, "/pod", Some(1)));
    table.insert(cgroup(3, "/pod/a", Some(2)));
    table.insert(cgroup(4, "/pod/b", Some(2)));
    table
}

fn times(used: &HashMap<u32, CpuUse>) -> Vec<u64> {
    (1..=4).map(|slot| used.get(&slot).and_then(|u| u.time_ns).unwrap_or(0)).collect()
}

#[test]
fn totals_include_descendants_and_survive_their_death() {
    let (mut account, mut table) = (Account::new(0), table());
    let own = records([(2, record(1, 0)), (3, record(10, 0)), (4, record(100, 0))]);
    assert_eq!(times(&account.collect(1, &table, own, |_| None)), [111, 111, 10, 100]);

    let dead = table.remove(3).expect("known");
    let last = account.retire(&dead, &record(15, 7));
    assert_eq!((last.time_ns, last.wait_ns, last.usage_cores), (Some(15), 7, None));
    // The parent's record has what it was.
    let mut above = record(1, 0);
    above.add(&record(15, 7));
    let used = account.collect(2, &table, records([(2, above), (4, record(100, 0))]), |_| None);
    assert_eq!(times(&used), [116, 116, 0, 100]);
    assert_eq!(used[&2].waits.count, 3, "waits too");

    // Another cgroup takes the slot: a zeroed record.
    table.insert(cgroup(3, "/pod/c", Some(2)));
    let own = records([(2, above), (3, record(4, 0)), (4, record(100, 0))]);
    assert_eq!(times(&account.collect(3, &table, own, |_| None)), [120, 120, 4, 100]);
}

#[test]
fn a_cgroup_older_than_counting_starts_from_the_kernels_figure() {
    let (mut account, mut table) = (Account::new(0), Table::default());
    let mut old = cgroup(1, "/", None);
    old.found = true;
    table.insert(old);
    let used = account.collect(1, &table, records([(1, record(50, 0))]), |_| None);
    assert_eq!((used[&1].time_ns, used[&1].wait_ns), (None, 0), "not known is not zero");
    let mut young = cgroup(2, "/young", Some(1));
    young.born_ns = 5;
    table.insert(young);
    let own = records([(1, record(50, 0)), (2, record(7, 0))]);
    assert_eq!(Account::counted_ns(&table, |slot| own(slot).map_or(0, |own| own.on_cpu_ns)), HashMap::from([(1, 57), (2, 7)]));
    account.begin(1, Before { on_cpu_ns: 1000, throttled_ns: 0 });
    let used = account.collect(1_000_000_000, &table, own, |_| None);
    assert_eq!((used[&1].time_ns, used[&1].usage_cores), (Some(1057), None));
    let own = records([(1, record(500_000_043, 0)), (2, record(14, 0))]);
    let used = account.collect(2_000_000_000, &table, own, |_| None);
    assert_eq!((used[&1].time_ns, used[&1].usage_cores), (Some(500_001_057), Some(0.5)));
}

#[test]
fn what_is_older_than_the_records_is_known_by_when_they_began() {
    let (account, mut cgroup) = (Account::new(100), cgroup(1, "/", None));
    let older = |born_ns: u64, found: bool, cgroup: &mut Cgroup| {
        (cgroup.born_ns, cgroup.found) = (born_ns, found);
        (account.is_older(cgroup), cgroup.counted_since(100), cgroup.made_ns())
    };
    assert_eq!(older(99, false, &mut cgroup), (true, 100, 99), "its birth was seen, by an agent whose records are gone");
    assert_eq!(older(101, false, &mut cgroup), (false, 101, 101));
    assert_eq!(older(101, true, &mut cgroup), (true, 101, 0), "it got its slot later: there was none before");
}

#[test]
fn throttled_time_never_exceeds_the_wait_and_stays_when_the_cgroup_is_gone() {
    let (mut account, mut table) = (Account::new(0), table());
    let throttling = files(5000);
    account.collect(1, &table, records([(3, record(10, 1000))]), |c| (c.slot == 3).then_some(throttling));
    let dead = table.remove(3).expect("known");
    let last = account.retire(&dead, &record(10, 1000));
    assert_eq!((last.wait_ns, last.causes), (1000, Some(Causes { throttled_ns: Some(1000), contention_ns: 0 })));
}

#[test]
fn both_causes_together_are_the_wait_and_neither_goes_down() {
    let (mut account, table) = (Account::new(0), table());
    let mut last = (0, 0);
    // The kernel's figure runs ahead of the wait, lags behind it, and catches up.
    for (wait_ns, throttled_ns) in [(0, 0), (100, 400), (600, 400), (650, 700), (1500, 1400), (1500, 1400), (1600, 1450)] {
        let own = records([(3, record(0, wait_ns))]);
        let causes = account.collect(1, &table, own, |c| (c.slot == 3).then_some(files(throttled_ns)))[&3].causes.expect("known");
        let now = (causes.throttled_ns.expect("a controller"), causes.contention_ns);
        assert_eq!(now.0 + now.1, wait_ns);
        assert!(now.0 >= last.0 && now.1 >= last.1, "{now:?} after {last:?}");
        last = now;
    }
    assert_eq!(last, (1400, 200));
}

#[test]
fn what_was_throttled_before_counting_is_no_part_of_the_wait() {
    let (mut account, mut table) = (Account::new(0), Table::default());
    let mut old = cgroup(1, "/", None);
    old.found = true;
    table.insert(old);
    let own = || records([(1, record(0, 1000))]);
    assert_eq!(account.collect(1, &table, own(), |_| Some(files(5000)))[&1].causes, None);
    account.begin(1, Before { on_cpu_ns: 0, throttled_ns: 4700 });
    let causes = account.collect(2, &table, own(), |_| Some(files(5000)))[&1].causes;
    assert_eq!(causes, Some(Causes { throttled_ns: Some(300), contention_ns: 700 }));
    // The next agent goes on from there, though the kernel's figure is ahead again.
    let mut next = Account::new(0);
    next.restore(1, account.before(1), account.contention_ns(1), account.knows_throttling(1));
    let causes = next.collect(1, &table, own(), |_| Some(files(5200)))[&1].causes;
    assert_eq!(causes, Some(Causes { throttled_ns: Some(300), contention_ns: 700 }));
}

#[test]
fn an_agent_that_goes_on_divides_the_wait_of_what_was_born_since_as_the_one_before_did() {
    let mut table = Table::default();
    let mut young = cgroup(1, "/young", None);
    young.born_ns = 200;
    table.insert(young);
    let causes_of = |account: &mut Account, throttled_ns| {
        account.collect(1, &table, records([(1, record(0, 1000))]), |_| Some(files(throttled_ns)))[&1].causes
    };
    // The records have counted since before its birth, whenever this agent came.
    let mut first = Account::new(100);
    let causes = causes_of(&mut first, 300);
    assert_eq!(causes, Some(Causes { throttled_ns: Some(300), contention_ns: 700 }));
    let mut next = Account::new(100);
    next.restore(1, first.before(1), first.contention_ns(1), first.knows_throttling(1));
    assert_eq!(causes_of(&mut next, 300), causes);
    assert_eq!(next.before(1), None, "there is nothing to learn from cpu.stat");
}

#[test]
fn what_an_earlier_agent_exported_as_throttled_does_not_become_contention_when_cpu_stat_cannot_be_read() {
    let mut table = Table::default();
    table.insert(cgroup(1, "/a", None));
    let mut first = Account::new(0);
    let causes = first.collect(1, &table, records([(1, record(0, 1000))]), |_| Some(files(300)))[&1].causes;
    assert_eq!(causes, Some(Causes { throttled_ns: Some(300), contention_ns: 700 }));
    let mut next = Account::new(0);
    next.restore(1, first.before(1), first.contention_ns(1), first.knows_throttling(1));
    let own = || records([(1, record(0, 1200))]);
    assert_eq!(next.collect(2, &table, own(), |_| None)[&1].causes, None, "missing beats wrong");
    assert_eq!(next.contention_ns(1), 700);
    let causes = next.collect(3, &table, own(), |_| Some(files(450)))[&1].causes;
    assert_eq!(causes, Some(Causes { throttled_ns: Some(450), contention_ns: 750 }));
    // Where there never was a cpu controller, all waiting is contention as before.
    let mut without = Account::new(0);
    without.restore(1, None, 700, false);
    assert_eq!(without.collect(2, &table, own(), |_| None)[&1].causes, Some(Causes { throttled_ns: None, contention_ns: 1200 }));
}

fn files(throttled_ns: u64) -> Throttling {
    Throttling { periods: 2, throttled_periods: 1, throttled_ns }
}

#[test]
fn waits_in_seconds_keep_their_magnitude() {
    let wait_ns = 5_000_000_u64;
    let median = Histogram::of_durations(WAIT_FIRST, &record(0, wait_ns).waits, wait_ns).quantile(0.5).expect("one wait");
    assert!((median / 0.005 - 1.0).abs() < 0.045, "{median}");
}
