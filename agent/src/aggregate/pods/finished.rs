//! Which of the pods that have finished are in a batch (pure): each once at least, then for a while, and never more than so many.
//!
//! A node may have thousands of them: Jobs stay until somebody deletes them, and the API server's own clean-up begins at 12 500.

use std::{cmp::Reverse, collections::HashMap, time::Duration};

use crate::pods::{PodIndex, index::FinishedPod, object::Pod};

/// Finished pods in one batch.
pub const MOST: usize = 100;

/// What must be kept from one batch to the next.
#[derive(Debug, Default)]
pub struct FinishedPods {
    /// By UID, of all that are known.
    states: HashMap<Box<str>, ExportState>,
    /// When the first batch was made.
    began: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct ExportState {
    /// When it finished, by its status, else when it was first seen finished.
    since: Duration,
    exported: bool,
}

/// The finished pods of a batch.
#[derive(Debug)]
pub struct FinishedInBatch<'a> {
    /// Those that are in it.
    pub pods: Vec<&'a Pod>,
    /// How many the API has that are not.
    pub left_out: usize,
}

impl FinishedPods {
    /// Chooses: what no batch has had comes first, then what has finished last. `now` is Unix time.
    pub fn choose<'a>(&mut self, known: &'a PodIndex, now: Duration) -> FinishedInBatch<'a> {
        let began = *self.began.get_or_insert(now);
        let kept = known.finished_kept;
        let before = std::mem::take(&mut self.states);
        let (mut candidates, mut in_api) = (Vec::new(), 0);
        for FinishedPod { pod, deleted, seen } in known.finished() {
            let state = before.get(&pod.uid);
            let since = pod.finished.or(state.map(|state| state.since)).unwrap_or(now).min(now);
            let exported = state.is_some_and(|state| state.exported);
            self.states.insert(pod.uid.clone(), ExportState { since, exported });
            in_api += usize::from(!deleted);
            let fresh = !deleted && since + kept > now;
            // What has finished long before the first batch was an earlier agent's to export.
            if fresh || !exported && (seen || since + kept >= began) {
                candidates.push((exported, Reverse(since), pod, deleted));
            }
        }
        candidates.sort_by(|a, b| (a.0, a.1, &a.2.uid).cmp(&(b.0, b.1, &b.2.uid)));
        candidates.truncate(MOST);
        let shown = candidates.iter().filter(|(.., deleted)| !deleted).count();
        let pods: Vec<&Pod> = candidates.into_iter().map(|(_, _, pod, _)| pod).collect();
        for pod in &pods {
            if let Some(state) = self.states.get_mut(&pod.uid) {
                state.exported = true;
            }
        }
        FinishedInBatch { pods, left_out: in_api - shown + known.left_out() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::pods::object::PodPhase;

    const KEPT: Duration = Duration::from_secs(600);
    const NOW: Duration = Duration::from_secs(1_000_000);

    fn pod(number: u64, finished: Option<Duration>) -> Pod {
        Pod { uid: format!("{number:05}").into(), phase: Some(PodPhase::Succeeded), finished, ..Pod::default() }
    }

    fn known(pods: impl IntoIterator<Item = Pod>) -> PodIndex {
        let mut known = PodIndex::default();
        known.finished_kept = KEPT;
        pods.into_iter().for_each(|pod| known.set_pod(pod));
        known
    }

    fn uids(chosen: &FinishedInBatch<'_>) -> Vec<u64> {
        chosen.pods.iter().map(|pod| pod.uid.parse().unwrap()).collect()
    }

    #[test]
    fn three_thousand_finished_pods_are_a_hundred_and_the_rest_is_a_number() {
        let second = Duration::from_secs(1);
        // The last one has finished one second ago, the first 3 000.
        let known = known((0..3000).map(|n| pod(n, Some(NOW - (3000 - n as u32) * second))));
        let mut finished = FinishedPods::default();
        let chosen = finished.choose(&known, NOW);
        assert_eq!(uids(&chosen), (2900..3000).rev().collect::<Vec<_>>(), "the newest");
        assert_eq!(chosen.left_out, 2900);
        // Those that no batch has had, of the ten minutes before the agent began and of those that are kept.
        let mut exported: Vec<u64> = uids(&chosen);
        for batch in 1..10 {
            exported.extend(uids(&finished.choose(&known, NOW + batch * second)));
        }
        exported.sort_unstable();
        exported.dedup();
        assert!(exported.len() >= 500, "{}", exported.len());
        // When their time is over nothing is left of them but their number.
        let chosen = finished.choose(&known, NOW + KEPT);
        assert_eq!((uids(&chosen), chosen.left_out), (Vec::new(), 3000));
    }

    #[test]
    fn each_is_exported_once_whenever_it_is_seen_and_leaves_after_its_time() {
        let mut finished = FinishedPods::default();
        assert!(uids(&finished.choose(&known([pod(1, Some(NOW - KEPT * 2))]), NOW)).is_empty(), "an earlier agent's");
        // The API was away for an hour: what happened meanwhile is exported once, late.
        let later = NOW + 6 * KEPT;
        let known_now = known([pod(1, Some(NOW - KEPT * 2)), pod(2, Some(NOW + KEPT)), pod(3, Some(later - KEPT / 2))]);
        assert_eq!(uids(&finished.choose(&known_now, later)), [3, 2]);
        assert_eq!(uids(&finished.choose(&known_now, later)), [3]);
        assert_eq!(uids(&finished.choose(&known_now, later + KEPT / 2)), [0; 0]);
    }

    #[test]
    fn one_that_is_deleted_at_once_has_its_final_state_exported_once() {
        let mut finished = FinishedPods::default();
        finished.choose(&known([]), NOW);
        let mut known = known([pod(1, Some(NOW))]);
        known.forget_pod("00001", Instant::now());
        let chosen = finished.choose(&known, NOW + KEPT / 2);
        assert_eq!((uids(&chosen), chosen.left_out), (vec![1], 0));
        assert!(uids(&finished.choose(&known, NOW + KEPT / 2)).is_empty());
    }

    #[test]
    fn one_that_is_seen_to_finish_is_exported_whatever_time_its_status_has() {
        let mut finished = FinishedPods::default();
        let mut known = known([Pod { phase: Some(PodPhase::Running), ..pod(1, None) }]);
        assert!(uids(&finished.choose(&known, NOW)).is_empty());
        known.set_pod(pod(1, Some(NOW / 2)));
        assert_eq!(uids(&finished.choose(&known, NOW)), [1]);
        assert!(uids(&finished.choose(&known, NOW)).is_empty());
    }

    #[test]
    fn one_whose_status_has_no_time_counts_from_when_it_was_seen() {
        let mut finished = FinishedPods::default();
        let known = known([pod(1, None)]);
        assert_eq!(uids(&finished.choose(&known, NOW)), [1]);
        assert_eq!(uids(&finished.choose(&known, NOW + KEPT - Duration::from_secs(1))), [1]);
        assert_eq!(uids(&finished.choose(&known, NOW + KEPT)), [0; 0]);
        // A clock that is ahead changes nothing.
        assert_eq!(uids(&FinishedPods::default().choose(&self::known([pod(1, Some(NOW * 2))]), NOW)), [1]);
    }

    #[test]
    fn nothing_is_kept_of_pods_that_are_not_known_any_more() {
        let mut finished = FinishedPods::default();
        finished.choose(&known((0..10).map(|n| pod(n, Some(NOW)))), NOW);
        finished.choose(&known([]), NOW);
        assert!(finished.states.is_empty());
    }
}
