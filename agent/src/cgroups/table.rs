//! Who owns which slot (pure): what later stages see of the cgroups.

use std::collections::HashMap;

use super::{controllers::Controllers, name::Name};
use crate::kernel::facts;

/// One cgroup that has a slot.
#[derive(Clone, Debug)]
pub struct Cgroup {
    /// Index of its counters.
    pub slot: u32,
    /// Inode number of its directory; never reused while the kernel runs.
    pub id: u64,
    /// Slot of the nearest ancestor that has one.
    pub parent: Option<u32>,
    /// Path from the root of the hierarchy, starting with '/'.
    pub path: String,
    /// What the path says about it.
    pub name: Name,
    /// When it was made, or got its slot where it was [`found`](Self::found), CLOCK_BOOTTIME in ns.
    pub born_ns: u64,
    /// It was there before it had a slot: the agent found it in the tree, and nobody has seen its birth.
    pub found: bool,
    /// CLOCK_BOOTTIME of its removal in ns.
    pub died_ns: Option<u64>,
    /// Which controllers' files it has, as of the last collection.
    pub controllers: Controllers,
    pub(super) phase: Phase,
}

/// The life of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Counting. Its directory may be gone already; then for a second more.
    Counting,
    /// Its id leads to no slot any more, so nothing can be added: the next read is the last.
    Closed,
}

impl Cgroup {
    /// Whether its directory is still there.
    pub fn lives(&self) -> bool {
        self.died_ns.is_none()
    }

    /// Whether it is older than counts that began at `since_ns`, which then lack what was before.
    pub fn is_older_than(&self, since_ns: u64) -> bool {
        self.found || self.born_ns < since_ns
    }

    /// Since when counts are its own that began at `since_ns` for all: CLOCK_BOOTTIME in ns.
    pub fn counted_since(&self, since_ns: u64) -> u64 {
        self.born_ns.max(since_ns)
    }

    /// Since when the kernel's own figures of it count: its birth, or where that is not known the node's start, which is no later.
    /// CLOCK_BOOTTIME in ns.
    pub fn made_ns(&self) -> u64 {
        if self.found { facts::BOOTED_NS } else { self.born_ns }
    }
}

/// What is known of each slot: the pure part, which later stages see.
#[derive(Debug, Default)]
pub struct Table {
    pub(super) entries: Vec<Option<Cgroup>>,
    slot_of: HashMap<u64, u32>,
}

impl Table {
    /// The cgroup that owns a slot.
    pub fn get(&self, slot: u32) -> Option<&Cgroup> {
        self.entries.get(slot as usize)?.as_ref()
    }

    /// All cgroups, by slot.
    pub fn iter(&self) -> impl Iterator<Item = &Cgroup> {
        self.entries.iter().flatten()
    }

    /// The slot of a cgroup's nearest ancestor that has one.
    pub fn parent(&self, slot: u32) -> Option<u32> {
        self.get(slot)?.parent
    }

    /// The slots of all cgroups, children before their parents.
    pub fn leaves_first(&self) -> Vec<u32> {
        let depth = |path: &str| if path == "/" { 0 } else { path.bytes().filter(|b| *b == b'/').count() };
        let mut slots: Vec<(usize, u32)> = self.iter().map(|c| (depth(&c.path), c.slot)).collect();
        slots.sort_unstable_by(|a, b| b.cmp(a));
        slots.into_iter().map(|(_, slot)| slot).collect()
    }

    /// The ids of all cgroups that have a slot.
    pub fn ids(&self) -> impl Iterator<Item = u64> {
        self.slot_of.keys().copied()
    }

    /// Number of cgroups that have a slot.
    pub fn len(&self) -> usize {
        self.slot_of.len()
    }

    /// Enters a cgroup under its slot.
    pub fn insert(&mut self, cgroup: Cgroup) {
        let slot = cgroup.slot as usize;
        if self.entries.len() <= slot {
            self.entries.resize_with(slot + 1, || None);
        }
        self.slot_of.insert(cgroup.id, cgroup.slot);
        self.entries[slot] = Some(cgroup);
    }

    /// Forgets the owner of a slot.
    pub fn remove(&mut self, slot: u32) -> Option<Cgroup> {
        let cgroup = self.entries.get_mut(slot as usize)?.take()?;
        self.slot_of.remove(&cgroup.id);
        Some(cgroup)
    }

    #[cfg(test)]
    pub(crate) fn entries_mut(&mut self) -> impl Iterator<Item = &mut Cgroup> {
        self.entries.iter_mut().flatten()
    }

    /// The slot of the parent by its id, else of the nearest ancestor by path: one in between may have found no slot.
    pub(super) fn ancestor(&self, parent_id: u64, path: &str) -> Option<u32> {
        if let Some(slot) = self.slot_of.get(&parent_id) {
            return Some(*slot);
        }
        let is_above = |c: &&Cgroup| c.path == "/" || (path.len() > c.path.len() && path.starts_with(&format!("{}/", c.path)));
        if path == "/" {
            return None;
        }
        self.iter().filter(|c| c.lives()).filter(is_above).max_by_key(|c| c.path.len()).map(|c| c.slot)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A cgroup for tests of this and later stages.
    pub(crate) fn cgroup(slot: u32, path: &str, parent: Option<u32>) -> Cgroup {
        Cgroup {
            slot,
            id: 1000 + u64::from(slot),
            parent,
            path: path.to_owned(),
            name: crate::cgroups::name::parse(path),
            born_ns: 0,
            found: false,
            died_ns: None,
            controllers: Controllers { cpu: true, memory: true },
            phase: Phase::Counting,
        }
    }

    #[test]
    fn the_nearest_ancestor_with_a_slot_is_the_parent() {
        let mut table = Table::default();
        table.insert(cgroup(1, "/", None));
        table.insert(cgroup(2, "/a", Some(1)));
        table.insert(cgroup(3, "/ab", Some(1)));
        assert_eq!(table.ancestor(1002, "/a/b"), Some(2));
        assert_eq!(table.ancestor(99, "/a/missing/c"), Some(2));
        assert_eq!(table.ancestor(99, "/abc/d"), Some(1));
        assert_eq!(table.ancestor(99, "/"), None);
        table.remove(2);
        assert_eq!(table.ancestor(1002, "/a/b"), Some(1));
    }
}
