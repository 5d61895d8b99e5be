//! What Kubernetes says that pods and containers request (pure), where their cgroups do not tell: a memory request is in no file
//! of a cgroup unless kubelet protects it (its feature MemoryQoS).

use std::collections::HashMap;

use super::{points::number, view::Workload};
use crate::{
    aggregate::Batch,
    cgroups::name::Kind,
    join::{Resource, Subject},
    pods::metrics,
};

/// UID of a pod, and the name of a container of it.
type Whose<'a> = (&'a str, Option<&'a str>);

/// CPUs and bytes requested.
type Requests = (Option<f64>, Option<u64>);

/// Who requests what.
#[derive(Debug, Default)]
pub struct Asked<'a>(HashMap<Whose<'a>, Requests>);

impl<'a> Asked<'a> {
    /// As of this batch.
    pub fn of(batch: &'a Batch) -> Self {
        let requests = batch.pods.iter().filter_map(|sample| {
            let whose = whose(&sample.resource)?;
            let (cores, bytes) = match whose.1 {
                Some(_) => (&metrics::CPU_REQUEST, &metrics::MEMORY_REQUEST),
                None => (&metrics::POD_CPU_REQUEST, &metrics::POD_MEMORY_REQUEST),
            };
            Some((whose, (number(sample, cores), number(sample, bytes).map(|bytes| bytes as u64))))
        });
        Self(requests.collect())
    }

    /// Adds what the workload's cgroup did not tell.
    pub fn complete(&self, workload: &mut Workload, subject: &Subject, resource: &Resource) {
        let Some(whose) = whose(resource).filter(|_| !subject.name.nested) else { return };
        // A sandbox has no container's name: it is not the pod.
        let fits = match subject.name.kind {
            Kind::Pod => whose.1.is_none(),
            Kind::Container => whose.1.is_some(),
            _ => false,
        };
        let Some((cores, bytes)) = self.0.get(&whose).filter(|_| fits) else { return };
        workload.cpu.request_cores = workload.cpu.request_cores.or(*cores);
        if bytes.is_some() {
            let memory = workload.memory.get_or_insert_default();
            memory.request_bytes = memory.request_bytes.or(*bytes);
        }
    }
}

fn whose(resource: &Resource) -> Option<Whose<'_>> {
    let get = |key| resource.attributes.iter().find(|(own, _)| own == key).map(|(_, value)| value.as_str());
    Some((get("k8s.pod.uid")?, get("k8s.container.name")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        cgroups::table::tests::cgroup,
        join::{Node, Sample, identity::Unlisted},
        pods::{
            known::Found,
            object::{Container, Pod},
        },
        signals::metric::{Point, Value},
        top::view::{Cpu, Memory},
    };

    const UID: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";

    #[test]
    fn a_request_that_no_cgroup_tells_is_that_of_the_spec() {
        let node = Node::default();
        let app = Container { name: "app".into(), ..Container::default() };
        let pod = Pod { uid: UID.into(), namespace: "shop".into(), name: "web".into(), ..Pod::default() };
        let sample = |resource, points| Sample { cgroup: None, time_ns: None, resource: Arc::new(resource), points };
        let point = |metric, value| Point::new(metric, 0, value);
        let batch = Batch {
            pods: vec![
                sample(node.resource_of_pod(&pod, &[]), vec![point(&metrics::POD_CPU_REQUEST, Value::Float(0.75))]),
                sample(
                    node.resource_of_container(&pod, &app, &[]),
                    vec![point(&metrics::CPU_REQUEST, Value::Float(0.25)), point(&metrics::MEMORY_REQUEST, Value::Int(64))],
                ),
            ],
            ..Batch::default()
        };
        let asked = Asked::of(&batch);
        let of = |below: &str, container: Option<&Container>, told: Option<f64>| {
            let cgroup = cgroup(1, &format!("/kubepods/pod{UID}{below}"), None);
            let found = Found { pod: &pod, container, namespace_labels: &[], revision: 1 };
            let resource = node.resource_in(&cgroup, &found, Unlisted::Unknown);
            let cpu = Cpu { request_cores: told, ..Cpu::default() };
            let mut workload = Workload { cpu, ..Workload::default() };
            asked.complete(&mut workload, &Subject::of(&cgroup), &resource);
            (workload.cpu.request_cores, workload.memory)
        };
        let container = format!("/{}", "ab".repeat(32));
        let memory = Some(Memory { request_bytes: Some(64), ..Memory::default() });
        assert_eq!(of(&container, Some(&app), None), (Some(0.25), memory.clone()));
        assert_eq!(of(&container, Some(&app), Some(0.5)), (Some(0.5), memory), "what is in force counts");
        assert_eq!(of("", None, None), (Some(0.75), None), "the pod requests no memory");
        assert_eq!(of(&container, None, None), (None, None), "a sandbox requests nothing");
        assert_eq!(of(&format!("{container}/inner"), Some(&app), None), (None, None), "nor does what is inside a container");
    }
}
