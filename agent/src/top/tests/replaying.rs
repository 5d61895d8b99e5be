//! A replay: keys that lead to other collections, and what is shown of where they led.

use super::super::past::{Place, Shown, Way};
use super::*;

const MINUTE: u64 = 60_000_000_000;

fn place(number: usize) -> Place {
    among(number, 90)
}

/// Where the collection of that number is, of so many a minute apart.
pub(super) fn among(number: usize, count: usize) -> Place {
    Place {
        // 2026-11-28 03:00:00 UTC
        at_ns: 1_795_834_800_000_000_000 + number as u64 * MINUTE,
        number,
        count,
        oldest_ns: 1_795_834_800_000_000_000 + MINUTE,
        newest_ns: 1_795_834_800_000_000_000 + count as u64 * MINUTE,
        interval: Some(Duration::from_secs(60)),
        ..Place::default()
    }
}

/// A replay that shows these workloads in the collection of that number.
fn show(state: &mut TopState, number: usize, workloads: &[(&str, f64)]) {
    state.show_past(Shown { snapshot: Some(snapshot(workloads)), place: place(number) });
}

/// A replay that has shown nothing yet.
pub(super) fn begun() -> TopState {
    let facts = TopFacts { kernel: "Linux 6.18.0".into(), agent: "v0.1.0".into(), interval: Duration::ZERO };
    TopState::replaying(facts, &TopOptions::default())
}

fn replaying() -> TopState {
    let mut state = begun();
    assert_eq!(wanted(&mut state), [Way::Stay], "what is there is wanted first");
    show(&mut state, 12, &[("web", 0.3), ("db", 0.2)]);
    state
}

fn wanted(state: &mut TopState) -> Vec<Way> {
    state.past_mut().expect("a replay").take_wanted()
}

#[test]
fn keys_lead_to_other_collections_in_a_replay_only() {
    let mut state = replaying();
    for (keys, ways) in [
        ("←", vec![Way::Step(-1)]),
        ("→→→", vec![Way::Step(3)]),
        ("[", vec![Way::Jump(-60)]),
        ("]", vec![Way::Jump(60)]),
        ("{", vec![Way::Jump(-3600)]),
        ("}]", vec![Way::Jump(3660)]),
        ("(", vec![Way::Kill { later: false }]),
        (")←", vec![Way::Kill { later: true }, Way::Step(-1)]),
        ("pj\t/[←(\u{1b}", vec![]),
    ] {
        press(&mut state, keys);
        assert_eq!(wanted(&mut state), ways, "{keys}");
    }
    assert!(!state.is_paused());
    press(&mut state, "?");
    let help = text(&mut state, 140, 40);
    assert!(help.contains("Keys of a replay") && help.contains("the OOM kill before, the next one"), "{help}");

    let mut live = with(&[("a", 0.3)]);
    press(&mut live, "←→[]{}()");
    assert!(live.past().is_none());
    press(&mut live, "?");
    assert!(!text(&mut live, 140, 40).contains("replay"));
}

#[test]
fn the_time_that_is_shown_and_the_ends_are_on_the_screen() {
    let mut state = replaying();
    for width in [80, 200] {
        let shown = text(&mut state, width, 24);
        assert!(shown.contains("REPLAY 2026-11-28 03:12:00 UTC"), "{shown}");
        assert!(shown.contains("collection 12 of 90: 11m00s after the oldest, 1h18m before the newest"), "{shown}");
        assert!(shown.contains("Left Right step  [ ] minute  { } hour  ( ) OOM kill"), "{shown}");
        assert!(!shown.contains("pause") && !shown.contains("every") && !shown.contains("Linux"), "{shown}");
    }
    let narrow = text(&mut state, 40, 10);
    assert!(narrow.contains("REPLAY 2026-11-28 03:12:00 UTC"), "{narrow}");
    // At an end nothing changes but what is said.
    let note = Some("this is the newest collection".to_owned());
    state.show_past(Shown { snapshot: None, place: Place { note, ..place(90) } });
    let shown = text(&mut state, 120, 24);
    assert!(
        shown.contains("this is the newest collection  collection 90 of 90: the newest") && shown.contains("0.30"),
        "{shown}"
    );
    state.fail("the disk is gone".into());
    let shown = text(&mut state, 120, 24);
    assert!(shown.contains("could not read the journal; this is what was shown before: the disk is gone"), "{shown}");
    show(&mut state, 89, &[("web", 0.3)]);
    assert!(!text(&mut state, 120, 24).contains("could not read"));
}

#[test]
fn histories_go_on_step_by_step_and_begin_anew_elsewhere() {
    let mut state = replaying();
    let history = |state: &TopState| {
        let cores = state.history(&workload("web", 0.0)).expect("is kept");
        cores.iter().flatten().map(|cores| (cores * 10.0).round() as u8).collect::<Vec<_>>()
    };
    show(&mut state, 13, &[("web", 0.4)]);
    show(&mut state, 14, &[("web", 0.5)]);
    assert_eq!(history(&state), [3, 4, 5]);
    show(&mut state, 13, &[("web", 0.4)]);
    assert_eq!(history(&state), [4], "back");
    show(&mut state, 74, &[("web", 0.9)]);
    assert_eq!((history(&state), state.facts().interval), (vec![9], Duration::from_secs(60)));
}

#[test]
fn details_of_what_was_not_there_say_so() {
    let mut state = replaying();
    press(&mut state, "j\n");
    show(&mut state, 2, &[("web", 0.3)]);
    let shown = text(&mut state, 120, 40);
    assert!(shown.contains("── db was not there at that time; values of another"), "{shown}");
    show(&mut state, 12, &[("web", 0.3), ("db", 0.2)]);
    assert!(text(&mut state, 120, 40).contains("── db Service"));
}
