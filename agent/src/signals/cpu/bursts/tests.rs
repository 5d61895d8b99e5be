//! Windows, restarts, kills and what agents have not watched: on maps that are files.

use std::fs::File;

use super::*;
use crate::cgroups::table::tests::cgroup;

const SLOTS: u32 = 8;

/// The maps, which are there longer than an agent.
struct Maps {
    records: File,
    watched: File,
}

impl Maps {
    fn new() -> Self {
        let file = |bytes: usize| {
            let file = tempfile::tempfile().expect("made");
            file.set_len(bytes as u64).expect("room");
            file
        };
        Self { records: file(SLOTS as usize * size_of::<Burst>()), watched: file(size_of::<Watched>()) }
    }

    /// An agent that begins, or goes on, in a window.
    fn agent(&self, window: u64) -> Bursts {
        let records = MappedArray::new(&self.records, SLOTS).expect("mapped");
        let watched = MappedArray::new(&self.watched, 1).expect("mapped");
        Bursts::open(records, watched, 2, (window, window * WINDOW_NS + 7))
    }
}

/// Of cgroups that were born in window 10.
fn table() -> Table {
    let mut table = Table::default();
    for (slot, path, parent) in [(1, "/", None), (2, "/pod", Some(1)), (3, "/pod/a", Some(2)), (4, "/pod/b", Some(2))] {
        table.insert(but(cgroup(slot, path, parent), |one| one.born_ns = 10 * WINDOW_NS));
    }
    table
}

/// The same cgroup, but for that.
fn but(mut cgroup: Cgroup, change: impl FnOnce(&mut Cgroup)) -> Cgroup {
    change(&mut cgroup);
    cgroup
}

/// Windows in all, idle ones, and the sum.
fn seen(bursts: &Bursts, table: &Table, slot: u32) -> (u64, u64, f64) {
    let (_, burst) = bursts.histogram(table.get(slot).expect("there")).expect("watched");
    (burst.count, burst.zero_count, burst.sum)
}

fn start(bursts: &Bursts, table: &Table, slot: u32) -> u64 {
    bursts.histogram(table.get(slot).expect("there")).expect("watched").0
}

#[test]
fn a_window_is_one_observation_for_each_level() {
    let (mut bursts, table) = (Maps::new().agent(9), table());
    // One slot's time may be of several CPUs.
    bursts.close_window(9, &[(3, WINDOW_NS)], &table); // before counting began
    bursts.close_window(10, &[(3, WINDOW_NS / 2), (4, WINDOW_NS / 2), (3, WINDOW_NS / 2)], &table);
    bursts.close_window(12, &[(4, WINDOW_NS / 4)], &table);
    bursts.close_until(14);
    assert_eq!(seen(&bursts, &table, 3), (4, 3, 1.0));
    assert_eq!(seen(&bursts, &table, 4), (4, 2, 0.75));
    assert_eq!(seen(&bursts, &table, 2), (4, 2, 1.75));
    assert_eq!(seen(&bursts, &table, 1), (4, 2, 1.75));
    assert_eq!(bursts.open_window(), 14);
    bursts.close_window(14, &[(4, WINDOW_NS)], &table);
    assert_eq!(seen(&bursts, &table, 4), (5, 2, 1.75));
    let (since_ns, burst) = bursts.histogram(table.get(4).expect("there")).expect("watched");
    assert_eq!(since_ns, 10 * WINDOW_NS, "its birth, which is later than the agent");
    assert_eq!((burst.offset, burst.buckets.len(), burst.buckets[0], burst.buckets[16]), (-17, 17, 1, 1), "1/4, 1/2 and 1");
    assert_eq!(burst.buckets[8], 1);
}

#[test]
fn after_a_suspend_windows_count_for_what_is_born_then_and_go_on_for_what_was_there() {
    const SECOND: u64 = 1_000_000_000;
    let (mut bursts, mut table) = (Maps::new().agent(0), table());
    for cgroup in table.entries_mut() {
        cgroup.born_ns = 9 * SECOND;
    }
    bursts.look(10 * SECOND, 10 * SECOND);
    bursts.close_until(100);
    // An hour's sleep.
    bursts.look(3611 * SECOND, 11 * SECOND);
    table.insert(but(cgroup(4, "/pod/b", Some(2)), |one| one.born_ns = 3611 * SECOND));
    bursts.close_window(112, &[(4, WINDOW_NS)], &table);
    bursts.close_until(115);
    assert_eq!((seen(&bursts, &table, 4), seen(&bursts, &table, 3)), ((5, 4, 1.0), (25, 25, 0.0)));
    assert_eq!(seen(&bursts, &table, 2), (25, 24, 1.0));
}

#[test]
fn the_next_agent_goes_on_and_what_none_watched_is_neither_idle_nor_used() {
    let (maps, mut table) = (Maps::new(), table());
    let mut first = maps.agent(4);
    first.close_window(11, &[(3, WINDOW_NS)], &table);
    first.close_until(15);
    assert_eq!((seen(&first, &table, 3), seen(&first, &table, 4)), ((5, 4, 1.0), (5, 5, 0.0)));
    drop(first);

    // In the meantime one is born, and one dies, in a window that nobody watched.
    table.insert(but(cgroup(5, "/pod/c", Some(2)), |one| one.born_ns = 30 * WINDOW_NS));
    table.insert(but(table.get(4).expect("there").clone(), |one| one.died_ns = Some(25 * WINDOW_NS)));
    let mut next = maps.agent(40);
    assert_eq!((seen(&next, &table, 3), seen(&next, &table, 4)), ((5, 4, 1.0), (5, 5, 0.0)), "as it was exported");
    assert_eq!((start(&next, &table, 3), start(&next, &table, 5)), (10 * WINDOW_NS, 30 * WINDOW_NS));
    next.close_window(40, &[(3, WINDOW_NS)], &table); // it came in the middle of this one
    next.close_window(41, &[(3, WINDOW_NS / 2), (5, 1)], &table);
    next.close_until(44);
    assert_eq!((seen(&next, &table, 3), seen(&next, &table, 4)), ((8, 6, 1.5), (5, 5, 0.0)));
    assert_eq!((seen(&next, &table, 5).0, seen(&next, &table, 5).1), (3, 2));
    drop(next);

    // One that dies while it is watched, by an agent that is killed then.
    table.insert(but(table.get(5).expect("there").clone(), |one| one.died_ns = Some(43 * WINDOW_NS)));
    let third = maps.agent(100);
    assert_eq!((seen(&third, &table, 3), seen(&third, &table, 5).0), ((8, 6, 1.5), 3));
}

/// Of a kill after any store of a window's end nothing is lost that was exported, and nothing is made up.
#[test]
fn of_an_agent_that_is_killed_between_a_record_and_the_note_of_the_window_nothing_goes_back() {
    let (maps, table) = (Maps::new(), table());
    let mut first = maps.agent(4);
    first.close_window(11, &[(3, WINDOW_NS)], &table);
    let exported = (seen(&first, &table, 3), seen(&first, &table, 4));
    assert_eq!(exported, ((2, 1, 1.0), (2, 2, 0.0)));
    // Idle windows have passed; then the window is entered for one, and not for its parent, when the kill comes.
    first.close_until(13);
    first.enter(table.get(3).expect("there"), 13, WINDOW_NS / 2);
    drop(first);
    for window in [40, 50] {
        let next = maps.agent(window);
        assert_eq!(seen(&next, &table, 3), (4, 2, 1.5), "with the window that it was entered in");
        assert_eq!(seen(&next, &table, 4), (3, 3, 0.0), "without it");
    }
}

#[test]
fn a_record_that_was_being_written_at_a_kill_begins_anew_with_a_new_start_and_no_other() {
    let (maps, table) = (Maps::new(), table());
    let mut first = maps.agent(4);
    first.close_window(11, &[(3, WINDOW_NS), (4, WINDOW_NS)], &table);
    first.records.set_word(3, WRITTEN, first.records.word(3, WRITTEN).expect("there") + 1);
    drop(first);
    let mut next = maps.agent(40);
    assert_eq!((seen(&next, &table, 3), start(&next, &table, 3)), ((0, 0, 0.0), 40 * WINDOW_NS + 7));
    assert_eq!((seen(&next, &table, 4), start(&next, &table, 4)), ((2, 1, 1.0), 10 * WINDOW_NS));
    next.close_window(42, &[(3, WINDOW_NS)], &table);
    drop(next);
    let third = maps.agent(80);
    assert_eq!((seen(&third, &table, 3), start(&third, &table, 3)), ((2, 1, 1.0), 40 * WINDOW_NS + 7), "it goes on from there");
}

#[test]
fn a_slots_next_owner_has_nothing_of_the_one_before() {
    let (maps, mut table) = (Maps::new(), table());
    let mut first = maps.agent(4);
    first.close_window(11, &[(3, WINDOW_NS)], &table);
    first.retire(table.get(3).expect("there"));
    table.insert(but(cgroup(3, "/pod/c", Some(2)), |one| (one.born_ns, one.id) = (12 * WINDOW_NS, 77)));
    first.close_until(14);
    assert_eq!(seen(&first, &table, 3), (2, 2, 0.0));
    // Also where the agent died before it could retire the one before.
    table.insert(but(cgroup(3, "/pod/d", Some(2)), |one| (one.born_ns, one.id) = (14 * WINDOW_NS, 78)));
    first.close_window(15, &[(3, WINDOW_NS)], &table);
    assert_eq!(seen(&first, &table, 3), (2, 1, 1.0));
    assert_eq!(seen(&first, &table, 2), (6, 4, 2.0));
}

#[test]
fn bursts_that_begin_anew_have_no_window_from_before_also_for_the_next_agent() {
    let (maps, table) = (Maps::new(), table());
    let mut bursts = maps.agent(0);
    bursts.close_window(11, &[(3, WINDOW_NS)], &table);
    bursts.close_until(20);
    bursts.watch(None);
    assert!(!bursts.are_watched() && bursts.histogram(table.get(3).expect("there")).is_none());
    bursts.watch(Some((500, 500 * WINDOW_NS)));
    // The window in which they begin is incomplete.
    bursts.close_window(500, &[(3, WINDOW_NS / 4)], &table);
    bursts.close_window(501, &[(3, WINDOW_NS / 2)], &table);
    bursts.close_until(504);
    assert_eq!(seen(&bursts, &table, 3), (3, 2, 0.5));
    assert_eq!(start(&bursts, &table, 3), 500 * WINDOW_NS);
    bursts.watch(None);
    drop(bursts);
    let next = maps.agent(600);
    assert_eq!((seen(&next, &table, 3), start(&next, &table, 3)), ((0, 0, 0.0), 600 * WINDOW_NS + 7));
}

#[test]
fn what_lies_outside_the_buckets_is_in_the_outermost_and_the_sum_has_it_exactly() {
    let (mut bursts, table) = (Maps::new().agent(4), table());
    for (window, ns) in [(11, 1), (12, 900), (13, 2 * WINDOW_NS), (14, 9 * WINDOW_NS)] {
        bursts.close_window(window, &[(3, ns)], &table);
    }
    let burst = bursts.histogram(table.get(3).expect("there")).expect("watched").1;
    assert_eq!((burst.buckets.len(), burst.offset), (BURST_LEN, 8 - BURST_LEN as i32), "up to 2 CPUs");
    assert_eq!((burst.buckets[0], burst.buckets[BURST_LEN - 1], burst.count), (2, 2, 5));
    assert_eq!(burst.sum, 11.0 + 901.0 / WINDOW_NS as f64);
}
