//! Who owns a slot: the records that `cgroups_on_mkdir` and `cgroups_on_rmdir` write.

/// The slot of everything that has no slot of its own: cgroups that were born when all slots were taken.
///
/// It is exported as "unattributed", so that the sum over all slots is always the whole node.
pub const UNATTRIBUTED: u32 = 0;

/// Bytes kept of a cgroup's path. A pod's container under two nested kubelets needs about 330.
pub const PATH_LEN: usize = 448;

/// The deepest level of the hierarchy on which cgroups may take any slot: where a node has its pods' containers, and services.
pub const SHALLOW: u32 = 4;

/// Whether a cgroup on this level may take a slot when `taken` of so many are. What is deeper leaves a quarter of them: that is where
/// whoever may make cgroups in its own container makes them, and it must not take them all.
#[inline(always)]
pub const fn may_take(level: u32, taken: u64, slots: u32) -> bool {
    level <= SHALLOW || taken.cast_signed() < (slots - slots / 4) as i64
}

record! {
    /// The owner of one slot, written where a cgroup is born and dies: state, not events, so nothing is lost when the agent
    /// looks away, restarts, or is replaced.
    pub struct Owner {
        /// `cgroup.kn.id`: the inode number of its directory. 0 when the slot is free.
        pub id: u64,
        /// The id of the parent cgroup.
        pub parent: u64,
        /// CLOCK_BOOTTIME of its birth, or of the agent's first scan for cgroups that are older, in ns.
        pub born_ns: u64,
        /// CLOCK_BOOTTIME of its removal in ns, 0 while it lives.
        pub died_ns: u64,
        /// 1 when the agent found it in the tree: it is older than its slot.
        pub found: u32,
        /// Length of the path in bytes without the terminating zero; [`PATH_LEN`] - 1 means it was cut.
        pub path_len: u32,
        /// The path from the root of the cgroup2 hierarchy, starting with '/', zero-terminated.
        pub path: [u8; PATH_LEN],
    }
}

record! {
    /// Offsets into kernel structs in bytes, found in the running kernel's BTF, frozen before the programs load.
    pub struct Offsets {
        /// `cgroup.kn`
        pub cgroup_kn: u64,
        /// `cgroup.root`
        pub cgroup_root: u64,
        /// `cgroup_root.hierarchy_id`: 0 is the default (v2) hierarchy; the tracepoints also fire for v1.
        pub root_hierarchy_id: u64,
        /// `kernfs_node.id`
        pub kn_id: u64,
        /// `kernfs_node.parent`, or `__parent` since 6.15.
        pub kn_parent: u64,
        /// `cgroup.level`, 32 bits: 0 for the root.
        pub cgroup_level: u64,
        /// Number of slots.
        pub slots: u64,
    }
}

record! {
    /// Counters of the `cgroups` programs.
    pub struct Tally {
        /// Cgroups that were born when no slot was free for them.
        pub without_slot: u64,
        /// Slots that have an owner, [`UNATTRIBUTED`] left out. The kernel side and the agent add and subtract.
        pub taken: u64,
        /// CLOCK_BOOTTIME of the last batch that was made to be exported, in ns; 0 before the first. The agent writes it, for the next.
        pub exported_ns: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_cgroups_leave_a_quarter_of_the_slots() {
        assert!(may_take(SHALLOW + 1, 767, 1024) && !may_take(SHALLOW + 1, 768, 1024));
        assert!(may_take(SHALLOW, 1022, 1024));
        assert!(may_take(9, u64::MAX, 16), "off by one for a moment");
    }
}
