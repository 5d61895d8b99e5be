//! How long pods and containers take to start, and pods that are ended from outside (pure): counted as their states change.
//!
//! A state is seen whenever the API sends it, so a pod that starts and ends between two exports is counted too. What happened before the
//! agent began is an earlier agent's. Times of the API are whole seconds.

use std::{collections::BTreeMap, time::Duration};

use super::object::{Container, ContainerRole, Pod};
use crate::histogram::Histogram;

/// The parts of a pod's start, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// From when it was created until it had a node.
    Scheduling,
    /// Until its init containers had run: the sandbox, its network and its volumes are made, and their images pulled.
    Initialization,
    /// Until all its containers were ready.
    Containers,
}

impl Stage {
    const ALL: [Self; 3] = [Self::Scheduling, Self::Initialization, Self::Containers];

    /// The value of `stage`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduling => "scheduling",
            Self::Initialization => "initialization",
            Self::Containers => "containers",
        }
    }

    /// When it began and when it ended, Unix time.
    fn of(self, pod: &Pod) -> (Option<Duration>, Option<Duration>) {
        let times = &pod.times;
        match self {
            Self::Scheduling => (times.created, times.scheduled),
            Self::Initialization => (times.scheduled, times.initialized),
            Self::Containers => (times.initialized, times.ready),
        }
    }
}

/// What has been counted of one pod. What happens again, such as becoming ready, is no start.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    stages: [bool; Stage::ALL.len()],
    disruption: bool,
}

/// Counts since the agent began.
#[derive(Clone, Debug, Default)]
pub struct Starts {
    /// When that was, Unix time.
    began: Duration,
    /// How long each part of starts took, in s.
    pub stages: BTreeMap<Stage, Histogram>,
    /// How long containers took from when they could be started until they ran for the first time, in s.
    pub containers: Histogram,
    /// Pods that were ended from outside, by reason.
    pub disruptions: BTreeMap<&'static str, u64>,
}

impl Starts {
    /// Counts what happens from `began` on, Unix time.
    pub fn since(began: Duration) -> Self {
        Self { began, ..Self::default() }
    }

    /// Counts what is new in a pod's state. `before` is the one before, if there was one.
    pub fn changed(&mut self, counted: &mut Counted, before: Option<&Pod>, pod: &Pod) {
        for (stage, counted) in Stage::ALL.into_iter().zip(&mut counted.stages) {
            let (from, Some(to)) = stage.of(pod) else { continue };
            let is_new = !std::mem::replace(counted, true) && to >= self.began;
            if let Some(from) = from.filter(|_| is_new) {
                self.stages.entry(stage).or_default().record(to.saturating_sub(from).as_secs_f64(), 1);
            }
        }
        for container in &pod.containers {
            let known = before.and_then(|before| before.containers.iter().find(|known| known.name == container.name));
            if let Some(took) = self.first_start(pod, container).filter(|_| known.is_none_or(|known| known.started.is_none())) {
                self.containers.record(took.as_secs_f64(), 1);
            }
        }
        if let Some((reason, at)) = pod.disruption
            && !std::mem::replace(&mut counted.disruption, true)
            && at.is_none_or(|at| at >= self.began)
        {
            *self.disruptions.entry(reason).or_default() += 1;
        }
    }

    /// How long a container of the pod took to run for the first time, if it began to since the agent did. Of init containers, which
    /// wait for each other, that is not known.
    fn first_start(&self, pod: &Pod, container: &Container) -> Option<Duration> {
        let is_first = container.status.as_ref().is_some_and(|status| status.restarts == 0);
        let started = container.started.filter(|started| *started >= self.began)?;
        let is_main = container.role == ContainerRole::Main;
        (is_first && is_main).then_some(started.saturating_sub(pod.times.initialized?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::object::{ContainerStatus, PodTimes};

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn pod(times: [Option<u64>; 4], started: Option<u64>, restarts: u64) -> Pod {
        let [created, scheduled, initialized, ready] = times.map(|time| time.map(s));
        let status = Some(ContainerStatus { restarts, ..ContainerStatus::default() });
        let container = Container { name: "app".into(), started: started.map(s), status, ..Container::default() };
        Pod {
            times: PodTimes { created, scheduled, initialized, ready, ..PodTimes::default() },
            containers: vec![container],
            ..Pod::default()
        }
    }

    fn sums(starts: &Starts) -> Vec<(Stage, u64, f64)> {
        starts.stages.iter().map(|(stage, histogram)| (*stage, histogram.count, histogram.sum)).collect()
    }

    #[test]
    fn a_pods_start_is_counted_once_by_its_parts() {
        let (mut starts, mut counted) = (Starts::since(s(100)), Counted::default());
        let states = [
            pod([Some(100), Some(103), None, None], None, 0),
            pod([Some(100), Some(103), Some(110), None], None, 0),
            pod([Some(100), Some(103), Some(110), None], Some(114), 0),
            pod([Some(100), Some(103), Some(110), Some(120)], Some(114), 0),
            // It is not ready for a while, and its container is started again.
            pod([Some(100), Some(103), Some(110), None], None, 1),
            pod([Some(100), Some(103), Some(110), Some(200)], Some(190), 1),
        ];
        let mut before = None;
        for state in &states {
            starts.changed(&mut counted, before, state);
            before = Some(state);
        }
        assert_eq!(sums(&starts), [(Stage::Scheduling, 1, 3.0), (Stage::Initialization, 1, 7.0), (Stage::Containers, 1, 10.0)]);
        assert_eq!((starts.containers.count, starts.containers.sum), (1, 4.0));
    }

    #[test]
    fn what_happened_before_the_agent_began_is_not_counted_and_what_goes_on_is() {
        let (mut starts, mut counted) = (Starts::since(s(105)), Counted::default());
        starts.changed(&mut counted, None, &pod([Some(100), Some(103), Some(110), Some(120)], Some(104), 0));
        assert_eq!(sums(&starts), [(Stage::Initialization, 1, 7.0), (Stage::Containers, 1, 10.0)]);
        assert_eq!(starts.containers.count, 0);
        // Ready since before, then once more: that is no start.
        let (mut starts, mut counted) = (Starts::since(s(150)), Counted::default());
        for ready in [Some(120), None, Some(200)] {
            starts.changed(&mut counted, None, &pod([Some(100), Some(103), Some(110), ready], None, 0));
        }
        assert_eq!(sums(&starts), []);
    }

    #[test]
    fn a_disrupted_pod_is_counted_once() {
        let mut starts = Starts::since(s(100));
        for (reason, at) in
            [("PreemptionByScheduler", Some(120)), ("Other", Some(120)), ("Evicted", None), ("DeletionByPodGC", Some(99))]
        {
            let mut counted = Counted::default();
            let pod = Pod { disruption: Some((reason, at.map(s))), ..Pod::default() };
            starts.changed(&mut counted, None, &pod);
            starts.changed(&mut counted, Some(&pod), &pod);
        }
        assert_eq!(starts.disruptions, BTreeMap::from([("PreemptionByScheduler", 1), ("Other", 1), ("Evicted", 1)]));
    }
}
