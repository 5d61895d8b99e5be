//! How many slots there are, and when there are to be more (pure).

use crate::{
    cgroups::{Table, name::CgroupKind},
    config,
};

/// Fewest slots where their number follows the node: for 110 pods, the kubelet's default, of 3 containers each.
const FEWEST: u32 = 1024;

/// Most slots where their number follows the node.
const MOST: u32 = 8192;

/// Cgroups of a pod that are reckoned with at least: its own and those of 3 containers.
const PER_POD: u32 = 4;

/// The number of slots as it is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotRange {
    /// How many at the start; `None` where it follows the node.
    first: Option<u32>,
    /// How many there may be.
    most: u32,
}

impl SlotRange {
    pub(super) fn of(config: &config::Cgroups) -> Self {
        let first = config.slots;
        let most = config.max_slots.unwrap_or(first.unwrap_or(MOST)).max(first.unwrap_or(0));
        Self { first, most }
    }

    /// How many at the start, on a node with as many cgroups as `cgroups` counts, whose counts an earlier agent has kept for `kept` slots.
    pub(super) fn at_start(self, cgroups: impl FnOnce() -> u32, kept: Option<u32>) -> u32 {
        let kept = kept.unwrap_or(0).min(self.most);
        match self.first {
            // What does not grow is what it was set to, also where that is less than before.
            Some(first) if first == self.most => first,
            Some(first) => first.max(kept),
            None => with_room(cgroups()).max(FEWEST).min(self.most).max(kept),
        }
    }

    /// How many there are to be, where that is more than now: three quarters are taken, a cgroup has found none, or the node may hold so
    /// many cgroups.
    pub(super) fn next(self, now: u32, taken: u64, lacking: bool, node: u32) -> Option<u32> {
        let full = lacking || taken > u64::from(now - now / 4);
        let doubled = if full { now.saturating_mul(2) } else { now };
        let of_node = if self.first.is_none() { with_room(node) } else { 0 };
        Some(doubled.max(of_node).min(self.most)).filter(|next| *next > now)
    }
}

/// Slots for so many cgroups, of which these take three quarters at most.
fn with_room(cgroups: u32) -> u32 {
    cgroups.saturating_add(cgroups / 3).saturating_add(1).checked_next_power_of_two().unwrap_or(u32::MAX)
}

/// Cgroups that a node may hold which takes so many pods: of as many cgroups as those that it has, and what it has beside pods.
pub(super) fn when_full(pods: u32, table: &Table) -> u32 {
    let (mut seen, mut within, mut others) = (0_u32, 0_u32, 0_u32);
    for cgroup in table.iter() {
        if cgroup.name.pod_uid.is_none() {
            others += 1;
        } else {
            within += 1;
            seen += u32::from(cgroup.name.kind == CgroupKind::Pod);
        }
    }
    let per_pod = within.div_ceil(seen.max(1)).max(PER_POD);
    pods.saturating_mul(per_pod).saturating_add(others)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(slots: Option<u32>, max_slots: Option<u32>) -> SlotRange {
        SlotRange::of(&config::Cgroups { slots, max_slots, root: None })
    }

    #[test]
    fn slots_follow_the_node_and_an_explicit_number_is_what_it_is() {
        for (slots, max_slots, cgroups, kept, first) in [
            (None, None, 60, None, 1024),
            (None, None, 768, None, 2048),
            (None, None, 767, None, 1024),
            (None, None, 100_000, None, 8192),
            (None, None, 60, Some(4096), 4096),
            (None, Some(512), 60, Some(4096), 512),
            (Some(64), None, 1000, Some(4096), 64),
            (Some(64), Some(1024), 1000, None, 64),
            (Some(64), Some(1024), 1000, Some(512), 512),
            (Some(2048), Some(64), 1000, Some(4096), 2048),
        ] {
            assert_eq!(range(slots, max_slots).at_start(|| cgroups, kept), first, "{slots:?} {max_slots:?} {cgroups} {kept:?}");
        }
    }

    #[test]
    fn there_are_to_be_more_when_three_quarters_are_taken_or_one_is_missing_and_never_more_than_may_be() {
        let auto = range(None, None);
        assert_eq!(auto.next(1024, 768, false, 0), None);
        assert_eq!(auto.next(1024, 769, false, 0), Some(2048));
        assert_eq!(auto.next(1024, 5, true, 0), Some(2048));
        assert_eq!(auto.next(8192, 8191, true, 50_000), None);
        assert_eq!(auto.next(1024, 60, false, 1100), Some(2048), "250 pods");
        assert_eq!(auto.next(1024, 60, false, 540), None, "110 pods");
        assert_eq!(range(Some(1024), None).next(1024, 1023, true, 5000), None);
        let grows = range(Some(64), Some(100));
        assert_eq!((grows.next(64, 49, false, 5000), grows.next(64, 48, false, 5000)), (Some(100), None));
        assert_eq!(grows.next(100, 99, true, 0), None);
    }

    #[test]
    fn a_node_is_reckoned_with_as_many_cgroups_in_each_pod_as_its_pods_have() {
        use crate::cgroups::table::tests::cgroup;
        let mut table = Table::default();
        table.insert(cgroup(1, "/", None));
        table.insert(cgroup(2, "/kubepods", Some(1)));
        assert_eq!(when_full(110, &table), 110 * 4 + 2);
        table.insert(cgroup(3, "/kubepods/pod0a1b2c3d-1111-2222-3333-444455556666", Some(2)));
        for slot in 4..14 {
            let path = format!("/kubepods/pod0a1b2c3d-1111-2222-3333-444455556666/{slot:064x}");
            table.insert(cgroup(slot, &path, Some(3)));
        }
        assert_eq!(when_full(110, &table), 110 * 11 + 2);
    }
}
