//! Where this kernel keeps what a walk reads, part by part: offsets from its BTF.

use agent_common::{
    memory::MemcgOffsets,
    walk::{CPU, Facts, MEMORY, PRESSURE, PRESSURES, STATISTICS, UNKNOWN},
};

use super::memcg::MemcgLayout;
use crate::kernel::btf::{Btf, BtfError};

/// The states of `enum psi_states` that are read, in the order of [`agent_common::walk::Walked::pressure_ns`].
const STATES: [&str; PRESSURES] = ["PSI_CPU_SOME", "PSI_CPU_FULL", "PSI_MEM_SOME", "PSI_MEM_FULL", "PSI_IO_SOME", "PSI_IO_FULL"];

/// What was found.
pub(super) struct WalkLayout {
    /// For the programs; `reads` has the parts that a walk can read.
    pub(super) facts: Facts,
    /// The memory controller's, where there is one.
    pub(super) memcg: Option<MemcgLayout>,
    /// Numbers of the controllers `cpu` and `memory`, where this kernel has them.
    pub(super) numbers: Numbers,
    /// Why no walk can be made at all.
    pub(super) no_walk: Option<String>,
    /// Why a part cannot be read by it.
    pub(super) lacks: Vec<(u64, String)>,
}

/// The numbers of controllers in the kernel's masks (`enum cgroup_subsys_id`).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Numbers {
    pub(super) cpu: Option<u32>,
    pub(super) memory: Option<u32>,
}

impl WalkLayout {
    /// Finds all that is in BTF. `symbol` gives the address of one of the kernel's variables, where those may be seen; `no_address` says
    /// why programs may not read memory by address, if so.
    pub(super) fn find(btf: &Btf, symbol: impl Fn(&str) -> Option<u64>, no_address: Option<&str>) -> Self {
        let mut facts = Facts::ZERO;
        let no_walk = match tree(btf, &mut facts) {
            _ if btf.function_id("bpf_iter_cgroup").is_err() => {
                Some("this kernel cannot walk over cgroups, which needs 6.1".to_owned())
            }
            found => found.err().map(|error| error.to_string()),
        };
        let numbers = Numbers { cpu: number(btf, "cpu_cgrp_id").ok(), memory: number(btf, "memory_cgrp_id").ok() };
        let mut lacks = Vec::new();
        let mut part = |parts: u64, found: Result<(), String>| match found {
            Ok(()) => parts,
            Err(why) => {
                lacks.push((parts, why));
                0
            }
        };
        let by_address = |found: Result<(), BtfError>| match no_address {
            Some(why) => Err(why.to_owned()),
            None => found.map_err(|error| error.to_string()),
        };
        let mut reads = part(PRESSURE, pressure(btf, &mut facts).map_err(|error| error.to_string()));
        reads |= part(CPU, by_address(bandwidth(btf, &mut facts)));
        let mut memcg = MemcgLayout::find(btf, symbol);
        if let Ok(memcg) = &mut memcg {
            if let Some(why) = no_address {
                memcg.cannot_be_read(why);
            }
            (facts.memcg, facts.stats_index, facts.events_index) = (memcg.offsets, memcg.stats_index, memcg.events_index);
        }
        let usage = memcg.as_ref().map(|_| ()).map_err(ToString::to_string);
        let usage = usage.and_then(|()| by_address(memory(btf, &mut facts)));
        reads |= part(MEMORY, usage.clone());
        let statistics = memcg.as_ref().ok().and_then(|memcg| memcg.no_statistics.clone());
        reads |= part(STATISTICS, usage.and(statistics.map_or(Ok(()), Err)));
        facts.reads = reads;
        Self { facts, memcg: memcg.ok(), numbers, no_walk, lacks }
    }
}

/// The number of a controller.
fn number(btf: &Btf, name: &str) -> Result<u32, BtfError> {
    let ids = btf.enum_names("cgroup_subsys_id")?;
    let id = ids.iter().find(|(_, known)| known == name).and_then(|(id, _)| u32::try_from(*id).ok());
    id.ok_or_else(|| BtfError::NoType { what: "cgroup subsystem", name: name.to_owned() })
}

/// Where a cgroup has the state of a controller.
fn state(btf: &Btf, name: &str) -> Result<u64, BtfError> {
    Ok(u64::from(btf.offset("cgroup", "subsys")?) + u64::from(number(btf, name)?) * 8)
}

fn tree(btf: &Btf, facts: &mut Facts) -> Result<(), BtfError> {
    facts.cgroup_kn = btf.offset_of("cgroup", "kn", 8)?;
    facts.kn_id = btf.offset_of("kernfs_node", "id", 8)?;
    facts.cgroup_parent = btf.offset_of("cgroup", "self.parent", 8)?;
    facts.css_cgroup = btf.offset_of("cgroup_subsys_state", "cgroup", 8)?;
    // A mask of 16 bits, of 32 in Linux 7: there are more controllers. Those that are looked at are among the first 16.
    let mask = |bytes| btf.offset_of("cgroup", "subtree_control", bytes);
    facts.cgroup_subtree_control = mask(2).or_else(|error| mask(4).map_err(|_| error))?;
    Ok(())
}

fn pressure(btf: &Btf, facts: &mut Facts) -> Result<(), BtfError> {
    // A pointer since 6.1.
    facts.cgroup_psi = btf.offset_of("cgroup", "psi", 8)?;
    facts.psi_enabled = btf.offset_of("psi_group", "enabled", 1)?;
    let value = |of: &str, name: &str| {
        let all = btf.enum_names(of)?;
        let value = all.iter().find(|(_, known)| known == name).map(|(value, _)| value.cast_unsigned());
        value.ok_or_else(|| BtfError::NoType { what: "value of an enum", name: name.to_owned() })
    };
    // One row for each aggregator, one place in it for each state.
    let (averages, rows) = (value("psi_aggregators", "PSI_AVGS")?, value("psi_aggregators", "NR_PSI_AGGREGATORS")?);
    let totals = u64::from(btf.offset("psi_group", "total")?);
    let places = u64::from(btf.member_size("psi_group", "total")?) / 8 / rows.max(1);
    for (offset, name) in facts.psi_totals.iter_mut().zip(STATES) {
        let place = value("psi_states", name).ok().filter(|place| *place < places);
        *offset = place.map_or(UNKNOWN, |place| totals + (averages * places + place) * 8);
    }
    Ok(())
}

fn bandwidth(btf: &Btf, facts: &mut Facts) -> Result<(), BtfError> {
    let inside = |member: &str, bytes| btf.offset_of("task_group", member, bytes);
    facts.cgroup_cpu = state(btf, "cpu_cgrp_id")?;
    facts.group_css = u64::from(btf.offset("task_group", "css")?);
    facts.group_shares = inside("shares", 8)?;
    facts.group_quota = inside("cfs_bandwidth.quota", 8)?;
    facts.group_period = inside("cfs_bandwidth.period", 8)?;
    facts.group_periods = inside("cfs_bandwidth.nr_periods", 4)?;
    facts.group_throttled = inside("cfs_bandwidth.nr_throttled", 4)?;
    facts.group_throttled_time = inside("cfs_bandwidth.throttled_time", 8)?;
    Ok(())
}

fn memory(btf: &Btf, facts: &mut Facts) -> Result<(), BtfError> {
    facts.cgroup_memory = state(btf, "memory_cgrp_id")?;
    facts.memcg = MemcgOffsets {
        counter_min: btf.offset_of("page_counter", "min", 8)?,
        counter_low: btf.offset_of("page_counter", "low", 8)?,
        counter_high: btf.offset_of("page_counter", "high", 8)?,
        ..facts.memcg
    };
    Ok(())
}
