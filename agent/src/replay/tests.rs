//! A journal as an agent writes it, looked back into.

use std::fs;

use super::*;
use crate::{
    aggregate::ResourceEvent,
    cgroups::table::tests::cgroup,
    event::Event,
    export::fixtures::keep,
    join::{CgroupSample, NodeIdentity},
    metric::Point,
    signals::{cpu, memory},
};

const SECOND: u64 = 1_000_000_000;
/// 2026-11-28 03:00:00 UTC.
const START: u64 = 1_795_834_800;

/// A collection so many seconds after the start: a container's CPU time is half of that.
fn batch(second: u64, killed: bool) -> Batch {
    let node = NodeIdentity { name: "node-1".into(), ..NodeIdentity::default() };
    let owner = cgroup(1, "/system.slice/web.service", None);
    let resource = Arc::new(node.resource_of(&owner));
    let began = START * SECOND - 1;
    let points = vec![
        Point::new(&cpu::metrics::TIME, began, Value::Float(second as f64 / 2.0)),
        Point::new(&cpu::metrics::WAIT_TIME, began, Value::Float(second as f64 / 4.0)).with("cause", "contention"),
        Point::new(&memory::metrics::UNRECLAIMABLE, 0, Value::Int(5)),
    ];
    let active =
        [("cpu", 1), ("tcp", 0)].map(|(name, on)| Point::new(&agent::SIGNAL_ACTIVE, 0, Value::Int(on)).with("signal", name));
    let time_ns = (START + second) * SECOND;
    let event = Event {
        name: memory::kills::EVENT,
        cgroup: (1, 1001),
        time_ns: time_ns - SECOND,
        body: format!("killed at {second}"),
        attributes: Vec::new(),
    };
    Batch {
        time_ns,
        node: Sample::new(Arc::new(node.resource()), active.to_vec()),
        cgroups: vec![CgroupSample::new(&owner, Arc::clone(&resource), points)],
        events: killed.then_some(ResourceEvent { resource, event }).into_iter().collect(),
        ..Batch::default()
    }
}

/// When the collections of [`journal`] are: with a gap of 14 min.
const TIMES: [u64; 7] = [0, 15, 30, 45, 900, 915, 930];

/// A journal with these collections, and OOM kills in those at 30 and 915 s.
fn journal() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let batches = TIMES.map(|second| batch(second, [30, 915].contains(&second)));
    // Each in several requests.
    keep(directory.path(), &batches, 300);
    directory
}

fn open(directory: &tempfile::TempDir) -> Replay {
    Replay::open(directory.path(), Machine { name: "node-1".into(), cores: 4.0 }).expect("a journal")
}

/// Goes a way: the second that it leads to, and the note.
fn go(replay: &mut Replay, way: Way) -> (u64, String) {
    let shown = replay.go(way).expect("read");
    (shown.place.at_ns / SECOND - START, shown.place.note.unwrap_or_default())
}

fn ns(second: u64) -> u64 {
    (START + second) * SECOND
}

#[test]
fn a_collection_is_shown_with_its_totals_and_its_rates_against_the_one_before() {
    let directory = journal();
    let mut replay = open(&directory);
    // At it, and just before the next one.
    for at in [ns(30), ns(45) - 1] {
        replay.at(at).expect("there");
        let snapshot = replay.snapshot().expect("read");
        assert_eq!(snapshot.at.as_deref(), Some("2026-11-28T03:00:30Z"));
        assert_eq!((snapshot.node.name.as_str(), snapshot.node.cpu.capacity_cores), ("node-1", 4.0));
        let web = &snapshot.workloads[0];
        assert_eq!((web.name.as_str(), web.cpu.time_seconds, web.cpu.wait_seconds), ("web", 15.0, Some(7.5)));
        assert_eq!(web.cpu.wait_rate, Some(0.25));
        let memory = web.memory.as_ref().expect("memory");
        assert_eq!((memory.unreclaimable_bytes, memory.suggested_request_bytes), (Some(5), None));
        let signals: Vec<_> = snapshot.signals.iter().map(|signal| (signal.name.as_str(), signal.on)).collect();
        assert_eq!(signals, [("cpu", true), ("tcp", false)]);
    }
    for first in [0, 900] {
        replay.at(ns(first)).expect("there");
        let web = replay.snapshot().expect("read").workloads.remove(0);
        assert_eq!((web.cpu.time_seconds, web.cpu.wait_rate), (first as f64 / 2.0, None), "against nothing");
    }
    let elsewhere = Replay::open(directory.path(), Machine { name: "node-2".into(), cores: 4.0 }).and_then(|mut r| r.snapshot());
    assert_eq!(elsewhere.map(|snapshot| snapshot.node.cpu.capacity_cores).expect("read"), 0.0);
}

#[test]
fn steps_and_jumps_go_through_all_collections_and_end_at_the_ends() {
    let directory = journal();
    let mut replay = open(&directory);
    assert_eq!(go(&mut replay, Way::Stay), (930, String::new()), "the newest first");
    let newest = || "this is the newest collection".to_owned();
    assert_eq!(go(&mut replay, Way::Step(1)), (930, newest()));
    assert!(replay.go(Way::Jump(60)).expect("read").snapshot.is_none(), "nothing is drawn anew at an end");
    let back: Vec<u64> = (0..6).map(|_| go(&mut replay, Way::Step(-1)).0).collect();
    assert_eq!(back, [915, 900, 45, 30, 15, 0]);
    assert_eq!(go(&mut replay, Way::Step(-1)), (0, "this is the oldest collection".into()));
    assert_eq!(go(&mut replay, Way::Jump(30)).0, 30);
    assert_eq!(go(&mut replay, Way::Jump(60)).0, 45);
    let (second, note) = go(&mut replay, Way::Jump(60));
    assert_eq!((second, note.as_str()), (900, "nothing was collected from 2026-11-28 03:00:45 UTC to 2026-11-28 03:15:00 UTC"));
    assert_eq!(go(&mut replay, Way::Jump(-3600)).0, 0);
    let place = replay.go(Way::Step(2)).expect("read").place;
    assert_eq!((place.number, place.count, place.interval), (3, 7, Some(Duration::from_secs(15))));
    assert_eq!((place.oldest_ns, place.newest_ns), (ns(0), ns(930)));
    // What an agent that runs adds is found.
    keep(directory.path(), &[batch(945, false)], 300);
    go(&mut replay, Way::Step(100));
    assert_eq!(go(&mut replay, Way::Stay).0, 945);
}

#[test]
fn ways_lead_to_oom_kills_in_both_directions() {
    let directory = journal();
    let mut replay = open(&directory);
    let kill = |later| Way::Kill { later };
    assert_eq!(go(&mut replay, kill(true)), (930, "no later OOM kill in the journal".into()));
    assert_eq!(go(&mut replay, kill(false)), (915, "2026-11-28 03:15:14 UTC: killed at 915".into()));
    assert_eq!(go(&mut replay, kill(false)).0, 30);
    assert_eq!(go(&mut replay, kill(false)), (30, "no earlier OOM kill in the journal".into()));
    assert_eq!(go(&mut replay, kill(true)).0, 915);
    keep(directory.path(), &[batch(945, true)], 300);
    assert_eq!(go(&mut replay, kill(true)).0, 945);
    fs::remove_dir_all(directory.path().join("events")).expect("removed");
    assert_eq!(go(&mut open(&directory), kill(false)), (945, "no earlier OOM kill in the journal".into()));
}

#[test]
fn a_time_of_which_there_is_nothing_is_refused_with_the_times_that_there_are() {
    let directory = journal();
    let mut replay = open(&directory);
    let all = "it has collections from 2026-11-28 03:00:00 UTC to 2026-11-28 03:15:30 UTC";
    for (at, wanted) in [
        (ns(0) - 1, format!("the journal has nothing of 2026-11-28 02:59:59 UTC: {all}")),
        (
            ns(700),
            format!(
                "the journal has nothing of 2026-11-28 03:11:40 UTC: {all}, and none between 2026-11-28 03:00:45 UTC and 2026-11-28 03:15:00 UTC"
            ),
        ),
        (ns(5000), format!("the journal has nothing of 2026-11-28 04:23:20 UTC: {all}")),
    ] {
        assert_eq!(replay.at(at).expect_err("nothing").to_string(), wanted);
    }
    assert!(replay.at(ns(930) + REACH_NS).is_ok());
    // The live view shows what is nearest, and says so.
    for (at, nearest) in [(0, 0), (ns(700), 45), (u64::MAX, 930)] {
        replay.near(at);
        let (second, note) = go(&mut replay, Way::Stay);
        assert!(second == nearest && note.starts_with("nothing was collected at "), "{second} {note}");
        assert_eq!(go(&mut replay, Way::Stay).1, "", "once");
    }
    let nowhere = Replay::open(&directory.path().join("none"), Machine::default()).expect_err("no journal");
    assert!(nowhere.to_string().starts_with("there is no journal in /"), "{nowhere}");
    let empty = tempfile::tempdir().expect("a directory");
    keep(empty.path(), &[], 300);
    let empty = Replay::open(empty.path(), Machine::default()).expect_err("nothing in it");
    assert!(empty.to_string().ends_with("has no collections"), "{empty}");
}

/// Changes a byte in the body of each of the metrics' entries of these times.
fn damage(directory: &tempfile::TempDir, mut is_damaged: impl FnMut(u64) -> bool) {
    let metrics = directory.path().join("metrics");
    let mut files = fs::read_dir(&metrics).expect("listed").map(|file| file.expect("listed").path());
    let path = files.find(|path| path.extension().is_some_and(|ending| ending == "segment")).expect("a segment");
    let mut bytes = fs::read(&path).expect("read");
    let mut at = 0;
    while at < bytes.len() {
        let long = |from: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + from + i]));
        let (time_ns, length) = (long(16), long(44) as u32 as usize);
        if is_damaged(time_ns) {
            bytes[at + 56 + length / 2] ^= 0x10;
        }
        at += 56 + length;
    }
    fs::write(&path, bytes).expect("written");
}

#[test]
fn damaged_requests_are_counted_and_left_out_and_collections_of_them_are_passed_over() {
    let directory = journal();
    // The node's part of the collection at 15 s, and all of those at 900 and 915 s.
    let mut last = 0;
    damage(&directory, |time_ns| {
        let is_first = std::mem::replace(&mut last, time_ns) != time_ns;
        [ns(900), ns(915)].contains(&time_ns) || time_ns == ns(15) && is_first
    });
    let mut replay = open(&directory);
    replay.at(ns(15)).expect("there");
    assert_eq!(replay.damaged().expect("read"), 1);
    let snapshot = replay.snapshot().expect("read");
    assert_eq!((snapshot.signals.len(), snapshot.workloads.len(), snapshot.node.name.as_str()), (0, 1, "node-1"));
    let place = replay.go(Way::Stay).expect("read").place;
    assert_eq!(place.left_out.as_deref(), Some("1 damaged requests of it left out"));

    replay.at(ns(45)).expect("there");
    let (second, note) = go(&mut replay, Way::Step(1));
    assert_eq!((second, note.as_str()), (930, "2 collections were damaged or removed"));
    assert_eq!(go(&mut replay, Way::Step(-1)).0, 45);
    let mut replay = open(&directory);
    replay.at(ns(915)).expect("there");
    let error = replay.snapshot().expect_err("damaged").to_string();
    assert_eq!(error, "the journal has nothing of 2026-11-28 03:15:15 UTC that is whole");
    assert_eq!(go(&mut replay, Way::Stay).0, 45, "the one before that is whole");

    let directory = journal();
    damage(&directory, |_| true);
    let mut replay = open(&directory);
    let error = replay.go(Way::Stay).expect_err("all is damaged").to_string();
    assert!(error.starts_with("the journal has nothing of "), "{error}");
}
