//! Where the running kernel keeps what the cpu signal's programs read.

use agent_common::cpu::Facts;

use crate::kernel::{
    btf::{Btf, BtfError},
    facts,
};

/// Where this kernel keeps what the program reads.
pub(super) fn offsets(btf: &Btf) -> Result<Facts, BtfError> {
    Ok(Facts {
        task_exec: btf.offset_of("task_struct", "se.sum_exec_runtime", 8)?,
        task_exec_start: btf.offset_of("task_struct", "se.exec_start", 8)?,
        task_group_leader: btf.offset_of("task_struct", "group_leader", 8)?,
        task_cgroups: btf.offset_of("task_struct", "cgroups", 8)?,
        css_set_cgroup: btf.offset_of("css_set", "dfl_cgrp", 8)?,
        cgroup_kn: btf.offset_of("cgroup", "kn", 8)?,
        kn_id: btf.offset_of("kernfs_node", "id", 8)?,
        ..Facts::ZERO
    })
}

/// Where this kernel keeps how long a task has waited, if it counts that; otherwise what is missing and why.
pub(super) fn waits(btf: &Btf, facts: &mut Facts) -> Result<(), String> {
    // `struct sched_info` is empty without CONFIG_SCHED_INFO.
    let offset = btf.offset_of("task_struct", "sched_info.run_delay", 8).map_err(|error| error.to_string());
    let offset = offset.and_then(|offset| facts::waits_are_counted().map(|()| offset));
    let offset = offset.map_err(|why| format!("no waiting: {why}"))?;
    let moment = |member| btf.offset_of("task_struct", member, 8).map_err(|error| error.to_string());
    (facts.task_last_arrival, facts.task_last_queued) = (moment("sched_info.last_arrival")?, moment("sched_info.last_queued")?);
    (facts.task_run_delay, facts.waits) = (offset, 1);
    Ok(())
}

/// Where this kernel keeps for how long a cgroup was throttled; it cannot limit CPU time where it has no such place.
pub(super) fn limits(btf: &Btf, facts: &mut Facts) {
    let offsets = [("task_struct", "sched_task_group"), ("task_group", "parent"), ("task_group", "cfs_bandwidth.throttled_time")];
    if let [Ok(of_task), Ok(parent), Ok(throttled)] = offsets.map(|(structure, member)| btf.offset_of(structure, member, 8)) {
        (facts.task_task_group, facts.task_group_parent, facts.task_group_throttled) = (of_task, parent, throttled);
        facts.limits = 1;
    }
}
