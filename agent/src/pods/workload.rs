//! A pod's owner reference -> the workload that people know (pure), without a request for the owner's owner.
//!
//! - A ReplicaSet that a Deployment made has the Deployment's name, a dash and the value of the pods' label `pod-template-hash`
//!   (pkg/controller/deployment/sync.go, `getNewReplicaSet`). Without that label it was not a Deployment that made it.
//! - A Job that a CronJob made has the CronJob's name, a dash and the minutes from 1970 to when it was scheduled
//!   (pkg/controller/cronjob/utils.go, `getJobName`). A number counts as that when it is at most a week before or a day after
//!   the pod was created: a pod may come late, and clocks differ.

use std::time::{Duration, UNIX_EPOCH};

/// Minutes in a day.
const DAY: u64 = 24 * 60;

/// What made a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: Box<str>,
}

/// The kinds of workloads that semantic conventions have an attribute for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadKind {
    /// Deployment.
    Deployment,
    /// ReplicaSet that nothing manages, or something other than a Deployment.
    ReplicaSet,
    /// StatefulSet.
    StatefulSet,
    /// DaemonSet.
    DaemonSet,
    /// CronJob.
    CronJob,
    /// Job that no CronJob made.
    Job,
    /// ReplicationController.
    ReplicationController,
}

impl WorkloadKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Deployment,
        Self::ReplicaSet,
        Self::StatefulSet,
        Self::DaemonSet,
        Self::CronJob,
        Self::Job,
        Self::ReplicationController,
    ];

    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::ReplicaSet => "ReplicaSet",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::CronJob => "CronJob",
            Self::Job => "Job",
            Self::ReplicationController => "ReplicationController",
        }
    }

    /// The attribute that has the workload's name.
    pub fn attribute(self) -> &'static str {
        match self {
            Self::Deployment => "k8s.deployment.name",
            Self::ReplicaSet => "k8s.replicaset.name",
            Self::StatefulSet => "k8s.statefulset.name",
            Self::DaemonSet => "k8s.daemonset.name",
            Self::CronJob => "k8s.cronjob.name",
            Self::Job => "k8s.job.name",
            Self::ReplicationController => "k8s.replicationcontroller.name",
        }
    }
}

/// A pod's reference to its controller.
#[derive(Clone, Copy, Debug)]
pub struct PodOwner<'a> {
    /// WorkloadKind of the controller.
    pub kind: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The pod's label of that name.
    pub pod_template_hash: Option<&'a str>,
    /// When the pod was created, RFC 3339.
    pub created: &'a str,
}

/// The workload that a controller belongs to; `None` where that is of a kind without an attribute, such as a node's for a
/// static pod.
pub fn of(owner: &PodOwner<'_>) -> Option<Workload> {
    let workload = |kind, name: &str| Some(Workload { kind, name: name.into() }).filter(|workload| !workload.name.is_empty());
    match owner.kind {
        "ReplicaSet" => match owner.pod_template_hash.and_then(|hash| without_suffix(owner.name, hash)) {
            Some(deployment) => workload(WorkloadKind::Deployment, deployment),
            None => workload(WorkloadKind::ReplicaSet, owner.name),
        },
        "Job" => match cron_job(owner.name, owner.created) {
            Some(cron_job) => workload(WorkloadKind::CronJob, cron_job),
            None => workload(WorkloadKind::Job, owner.name),
        },
        "StatefulSet" => workload(WorkloadKind::StatefulSet, owner.name),
        "DaemonSet" => workload(WorkloadKind::DaemonSet, owner.name),
        "ReplicationController" => workload(WorkloadKind::ReplicationController, owner.name),
        _ => None,
    }
}

fn without_suffix<'a>(name: &'a str, hash: &str) -> Option<&'a str> {
    name.strip_suffix(hash)?.strip_suffix('-').filter(|rest| !hash.is_empty() && !rest.is_empty())
}

fn cron_job<'a>(job: &'a str, created: &str) -> Option<&'a str> {
    let (name, suffix) = job.rsplit_once('-')?;
    let digits = suffix.len() == 8 && suffix.bytes().all(|byte| byte.is_ascii_digit());
    let scheduled: u64 = suffix.parse().ok().filter(|_| digits)?;
    let created = minutes(created)?;
    (created.saturating_sub(7 * DAY)..=created + DAY).contains(&scheduled).then_some(name).filter(|name| !name.is_empty())
}

/// Minutes from 1970 to a time in RFC 3339.
fn minutes(time: &str) -> Option<u64> {
    let since = humantime::parse_rfc3339_weak(time).ok()?.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Some(since.as_secs() / 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(kind: &str, name: &str, hash: Option<&str>, created: &str) -> Option<(WorkloadKind, String)> {
        of(&PodOwner { kind, name, pod_template_hash: hash, created }).map(|w| (w.kind, w.name.into()))
    }

    #[test]
    fn a_deployment_is_its_replica_set_without_the_template_hash() {
        let of = |name, hash| found("ReplicaSet", name, hash, "");
        assert_eq!(of("web-5d8f7c9b4", Some("5d8f7c9b4")), Some((WorkloadKind::Deployment, "web".to_owned())));
        assert_eq!(of("a-b-5d8f7c9b4", Some("5d8f7c9b4")), Some((WorkloadKind::Deployment, "a-b".to_owned())));
        // Another controller's, such as an Argo Rollout's, and one that a person made.
        assert_eq!(of("web-5d8f7c9b4", None), Some((WorkloadKind::ReplicaSet, "web-5d8f7c9b4".to_owned())));
        assert_eq!(of("web-5d8f7c9b4", Some("other")), Some((WorkloadKind::ReplicaSet, "web-5d8f7c9b4".to_owned())));
        assert_eq!(of("-x", Some("x")), Some((WorkloadKind::ReplicaSet, "-x".to_owned())));
        assert_eq!(of("web-", Some("")), Some((WorkloadKind::ReplicaSet, "web-".to_owned())));
    }

    #[test]
    fn a_cron_job_is_its_job_without_the_minute_it_was_scheduled_for() {
        // 2026-11-25T00:00:00Z is minute 29 926 080.
        let of = |name| found("Job", name, None, "2026-11-25T00:00:07Z");
        assert_eq!(of("backup-29926087"), Some((WorkloadKind::CronJob, "backup".to_owned())));
        assert_eq!(of("backup-29919000"), Some((WorkloadKind::CronJob, "backup".to_owned())), "five days late");
        assert_eq!(of("import-20250101"), Some((WorkloadKind::Job, "import-20250101".to_owned())), "a date, not a minute");
        assert_eq!(of("backup-29900000"), Some((WorkloadKind::Job, "backup-29900000".to_owned())), "too long ago");
        assert_eq!(of("backup-x9926087"), Some((WorkloadKind::Job, "backup-x9926087".to_owned())));
        assert_eq!(
            found("Job", "backup-29926087", None, ""),
            Some((WorkloadKind::Job, "backup-29926087".to_owned())),
            "no time known"
        );
    }

    #[test]
    fn other_kinds_are_themselves_or_unknown() {
        assert_eq!(found("StatefulSet", "db", None, ""), Some((WorkloadKind::StatefulSet, "db".to_owned())));
        assert_eq!(found("DaemonSet", "agent", None, ""), Some((WorkloadKind::DaemonSet, "agent".to_owned())));
        assert_eq!(found("Node", "node-1", None, ""), None);
        assert_eq!(found("Rollout", "web", None, ""), None);
        assert_eq!(found("DaemonSet", "", None, ""), None);
    }
}
