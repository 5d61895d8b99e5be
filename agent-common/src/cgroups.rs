//! Who owns a slot: the records that `cgroups_on_mkdir` and `cgroups_on_rmdir` write.

/// The slot of everything that has no slot of its own: cgroups that were born when all slots were taken.
///
/// It is exported as "unattributed", so that the sum over all slots is always the whole node.
pub const UNATTRIBUTED: u32 = 0;

/// Bytes of a cgroup's name with the terminating zero: that of a directory has 255 at most (`NAME_MAX`), so none is cut.
pub const NAME_LEN: usize = 256;

/// The deepest level below the agent's root on which cgroups may take any slot: where a node has its pods' containers, and services.
pub const SHALLOW: u32 = 4;

/// Births and deaths that are noted since they were last looked at, a power of two. Behind more than that many the agent looks at all slots.
pub const CHANGES_LEN: u32 = 1024;

/// The entry of a birth or a death: the slot, and which it is of all since the maps were made, counted from 1. That tells an entry that was
/// overwritten, or is not written yet, from the one that was looked for.
#[inline(always)]
pub const fn change(number: u64, slot: u32) -> u64 {
    number << 32 | slot as u64
}

/// The slot of an entry, if it is the one with that number.
#[inline(always)]
pub const fn changed_slot(entry: u64, number: u64) -> Option<u32> {
    if entry >> 32 == number & 0xffff_ffff { Some(entry as u32) } else { None }
}

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
        /// Levels below the agent's root, whose own is 0.
        pub level: u64,
        /// 1 when the agent found it in the tree as it started: it is older than its slot. 2 when it had found no slot until later: what it
        /// did before is unattributed.
        pub found: u32,
        /// Length of the name in bytes without the terminating zero; 0 while it is not known, and for the root.
        pub name_len: u32,
        /// The name of its directory, zero-terminated. With its parent's, and so on, that makes the path from the agent's root.
        pub name: [u8; NAME_LEN],
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
        /// `kernfs_node.name`
        pub kn_name: u64,
        /// Id of the cgroup that is the agent's root. No program reads it: it is here so that an agent with another root begins anew.
        pub root: u64,
    }
}

record! {
    /// Counters of the `cgroups` programs.
    pub struct Tally {
        /// Cgroups that were born when no slot was free for them. What is below one of them has none either and is not counted.
        pub without_slot: u64,
        /// Slots that have an owner, [`UNATTRIBUTED`] left out. The kernel side and the agent add and subtract.
        pub taken: u64,
        /// CLOCK_BOOTTIME of the last batch that was made to be exported, in ns; 0 before the first. The agent writes it, for the next.
        pub exported_ns: u64,
        /// Births and deaths that the programs have noted in `CHANGES`: the number of the last one.
        pub changes: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_known_by_its_number_also_after_it_has_wrapped() {
        for number in [1, 2, 0xffff_ffff, 1 << 32, (7 << 32) + 5] {
            let entry = change(number, 4711);
            assert_eq!(changed_slot(entry, number), Some(4711));
            let lap = number + u64::from(CHANGES_LEN);
            assert_eq!((changed_slot(entry, lap), changed_slot(change(lap, 4711), number)), (None, None), "another lap");
        }
        assert_eq!(changed_slot(0, 1), None, "never written");
    }

    #[test]
    fn deep_cgroups_leave_a_quarter_of_the_slots() {
        assert!(may_take(SHALLOW + 1, 767, 1024) && !may_take(SHALLOW + 1, 768, 1024));
        assert!(may_take(SHALLOW, 1022, 1024));
        assert!(may_take(9, u64::MAX, 16), "off by one for a moment");
    }
}
