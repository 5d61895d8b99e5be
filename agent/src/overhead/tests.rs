//! The governor over simulated time.

use super::*;
use crate::config::OverheadLimit;

/// Ten minutes back, a minute up, 2 % of a core.
fn governor(steps: &[Step]) -> Governor {
    let settings = Overhead {
        cpu: OverheadLimit::Share(Duration::from_millis(20)),
        window: Duration::from_secs(60),
        recovery: Duration::from_secs(600),
    };
    Governor::new(&settings, 2, steps.to_vec())
}

/// Time goes on for so many seconds, in which podmeter costs `share` of a core as `cost` says; every change, with the second it came in.
struct Simulation {
    governor: Governor,
    start: Instant,
    now: Instant,
}

impl Simulation {
    fn new(steps: &[Step]) -> Self {
        let now = Instant::now();
        Self { governor: governor(steps), start: now, now }
    }

    fn run(&mut self, seconds: u64, cost: impl Fn(&Governor, u64) -> f64) -> Vec<(u64, Change)> {
        let (mut changes, end) = (Vec::new(), self.now + Duration::from_secs(seconds));
        while self.now < end {
            let elapsed = self.governor.sample_every();
            self.now += elapsed;
            let second = (self.now - self.start).as_secs();
            let share = cost(&self.governor, second);
            let one = Measured { at: self.now, elapsed, agent: elapsed.mul_f64(share / 4.0), programs: Some(share * 0.75) };
            changes.extend(self.governor.measured(one).map(|change| (second, change)));
        }
        changes
    }
}

#[test]
fn a_minute_above_the_limit_takes_a_step_and_the_next_minute_the_next() {
    let mut simulation = Simulation::new(&Step::ALL);
    assert!(simulation.run(600, |_, _| 0.01).is_empty());
    let changes = simulation.run(600, |_, _| 0.05);
    // A minute until it is noticed at the latest, then one for each step.
    let seconds: Vec<u64> = changes.iter().map(|(second, _)| *second).collect();
    assert_eq!(seconds, [720, 780, 840, 900, 960, 1020]);
    let taken: Vec<Change> = changes.iter().map(|(_, change)| *change).collect();
    let steps = Step::ALL.into_iter().map(Change::Take);
    assert_eq!(taken, steps.chain([Change::AllTaken]).collect::<Vec<_>>(), "in order, and the end is said once");
    assert!(simulation.governor.steps().all(|(_, taken)| taken));
}

#[test]
fn ten_calm_minutes_take_one_step_back_the_last_one_first() {
    let mut simulation = Simulation::new(&Step::ALL[..2]);
    assert_eq!(simulation.run(180, |_, _| 0.05).len(), 2);
    let changes = simulation.run(3600, |_, _| 0.013);
    assert_eq!(
        changes.iter().map(|(_, change)| *change).collect::<Vec<_>>(),
        [Change::Back(Step::Bursts), Change::Back(Step::DnsNames)]
    );
    assert!(changes[0].0 >= 180 + 600 && changes[0].0 <= 180 + 720, "{changes:?}");
    assert!(changes[1].0 >= changes[0].0 + 600, "{changes:?}");
}

#[test]
fn between_calm_and_the_limit_nothing_changes() {
    let mut simulation = Simulation::new(&Step::ALL);
    assert_eq!(simulation.run(120, |_, _| 0.05).len(), 1);
    assert!(simulation.run(7200, |_, _| 0.018).is_empty());
}

#[test]
fn a_peak_in_one_sample_is_no_reason() {
    let mut simulation = Simulation::new(&Step::ALL);
    assert!(simulation.run(3600, |_, second| if second % 300 < 10 { 0.1 } else { 0.001 }).is_empty());
}

#[test]
fn what_costs_too_much_itself_is_tried_again_less_and_less_often() {
    // Without bursts it is calm, with them it is too much: the steps back come after 10, 20, 40 minutes and so on.
    let mut simulation = Simulation::new(&[Step::Bursts]);
    let cost = |governor: &Governor, _| if governor.does_without(Step::Bursts) { 0.01 } else { 0.03 };
    let changes = simulation.run(6 * 3600, cost);
    let back: Vec<u64> = changes.iter().filter(|(_, change)| *change == Change::Back(Step::Bursts)).map(|(at, _)| *at).collect();
    let apart: Vec<u64> = back.windows(2).map(|pair| (pair[1] - pair[0]) / 60).collect();
    assert!(apart.windows(2).all(|pair| pair[1] > pair[0]), "minutes between steps back: {apart:?}");
    assert!(changes.len() <= 11, "{} changes in six hours", changes.len());
}

#[test]
fn without_a_limit_it_measures_only() {
    let settings = Overhead { cpu: OverheadLimit::Off, ..Overhead::default() };
    let mut governor = Governor::new(&settings, 2, Step::ALL.to_vec());
    let one = Measured { at: Instant::now(), elapsed: Duration::from_secs(1), agent: Duration::from_millis(500), programs: None };
    assert_eq!(governor.measured(one), None);
    assert_eq!(governor.cost(), Some(Cost { agent: 0.5, programs: None }));
    assert_eq!(governor.limit(), None);
}

#[test]
fn where_programs_cannot_be_measured_the_agent_counts_alone() {
    let mut governor = governor(&Step::ALL);
    let (mut now, elapsed) = (Instant::now(), Duration::from_secs(10));
    let mut changes = Vec::new();
    for _ in 0..14 {
        now += elapsed;
        let one = Measured { at: now, elapsed, agent: elapsed.mul_f64(0.03), programs: None };
        changes.extend(governor.measured(one));
    }
    assert_eq!(changes, [Change::Take(Step::DnsNames), Change::Take(Step::Bursts)]);
}
