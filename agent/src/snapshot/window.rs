//! The window that percentiles and shares of rare events are of (pure): the last hundred or so, however long that took.
//!
//! A percentile of the three lookups that an interval had would be no percentile, and one failure among them no third of all.

use std::collections::VecDeque;

/// A window goes back until it holds so many observations.
pub const ENOUGH: u64 = 100;

/// It goes back no further than this, in ns.
const OLDEST_NS: u64 = 300_000_000_000;

/// A state is kept when so many observations are new since the last one that was, or when that one is so old, in ns: a window holds
/// up to a tenth more than it must.
const NEW: u64 = ENOUGH / 10;
const OLD_NS: u64 = OLDEST_NS / 10;

/// States of something that only grows, from which windows begin.
#[derive(Debug)]
pub struct Window<T> {
    /// When, the observations until then, and the state; the oldest first.
    states: VecDeque<(u64, u64, T)>,
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self { states: VecDeque::new() }
    }
}

impl<T: Clone + Default> Window<T> {
    /// The state from which the window begins that ends now, with `count` observations in all and this `state`.
    ///
    /// The first window begins with nothing: everything was counted since the display began or the cgroup was made.
    pub fn ending(&mut self, now_ns: u64, count: u64, state: &T) -> T {
        if self.states.back().is_some_and(|(_, before, _)| *before > count) {
            // Counting has begun anew.
            self.states.clear();
        }
        let is_enough =
            |(then_ns, before, _): &(u64, u64, T)| count - before >= ENOUGH || now_ns.saturating_sub(*then_ns) >= OLDEST_NS;
        while self.states.get(1).is_some_and(is_enough) {
            self.states.pop_front();
        }
        let begin = self.states.front().map_or_else(T::default, |(_, _, state)| state.clone());
        let keep = match self.states.back() {
            None => {
                self.states.push_back((now_ns, 0, T::default()));
                true
            }
            Some((then_ns, before, _)) => count - before >= NEW || (count > *before && now_ns.saturating_sub(*then_ns) >= OLD_NS),
        };
        if keep {
            self.states.push_back((now_ns, count, state.clone()));
        }
        begin
    }

    /// The next window begins with the last state, whatever it holds then.
    pub fn begin_here(&mut self) {
        let last = self.states.len().saturating_sub(1);
        self.states.drain(..last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Sizes of the windows of something that counts so many in each interval of 2 s.
    fn sizes(intervals: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let (mut window, mut count) = (Window::default(), 0);
        let size = |(i, new): (usize, u64)| {
            count += new;
            count - window.ending((1000 + 2 * i as u64) * SECOND, count, &count)
        };
        intervals.into_iter().enumerate().map(size).collect()
    }

    #[test]
    fn a_window_holds_a_hundred_observations_or_a_tenth_more_where_there_are_as_many() {
        assert_eq!(sizes([40, 40, 40, 40, 40]), [40, 80, 120, 120, 120]);
        assert_eq!(sizes([500, 300, 700]), [500, 300, 700], "an interval with enough is a window of its own");
        let slow = sizes(std::iter::repeat_n(3, 100));
        assert_eq!(slow[..4], [3, 6, 9, 12]);
        assert!(slow[40..].iter().all(|n| (100..=112).contains(n)), "{slow:?}");
    }

    #[test]
    fn a_window_ends_after_five_minutes_and_what_came_before_a_pause_is_not_in_it() {
        let rare = sizes((0..600).map(|i| u64::from(i % 15 == 0)));
        assert!(rare[200..].iter().all(|n| (10..=12).contains(n)), "one in 30 s is ten in 5 min: {rare:?}");
        let paused = sizes([50].into_iter().chain(std::iter::repeat_n(0, 200)).chain([4, 0]));
        assert_eq!((paused[0], paused[100], paused[200], paused[201]), (50, 50, 0, 4));
    }

    #[test]
    fn a_window_that_must_begin_somewhere_holds_what_came_after() {
        let mut window = Window::default();
        window.ending(SECOND, 5000, &5000);
        window.begin_here();
        assert_eq!(window.ending(3 * SECOND, 5003, &5003), 5000);
        let mut empty = Window::<u64>::default();
        empty.begin_here();
        assert_eq!(empty.ending(SECOND, 3, &3), 0);
    }

    #[test]
    fn what_begins_anew_has_a_window_of_its_own_and_few_states_are_kept() {
        let mut window = Window::default();
        assert_eq!(window.ending(SECOND, 90, &90), 0);
        assert_eq!(window.ending(3 * SECOND, 5, &5), 0, "not 90");
        for i in 0..10_000 {
            window.ending((5 + 2 * i) * SECOND, 5 + i, &i);
            assert!(window.states.len() <= 22, "{} states", window.states.len());
        }
    }
}
