//! Whom a network namespace belongs to: the cgroup that holds all processes in it.

use std::{collections::HashMap, fs, os::unix::fs::MetadataExt as _, path::Path};

use crate::cgroups::{Cgroups, Table};

/// What is known of the cgroups' namespaces.
#[derive(Default)]
pub struct Namespaces {
    /// Inode of the namespace of each cgroup's first process, by slot and the cgroup's id.
    of: HashMap<(u32, u64), u32>,
}

impl Namespaces {
    /// Looks where the processes of cgroups are that are not known yet, and forgets those that are gone. `true` if anything has
    /// changed. A process that moves to another namespace later is not followed.
    pub fn learn(&mut self, cgroups: &Cgroups) -> bool {
        let known = self.of.len();
        let living: HashMap<(u32, u64), ()> =
            cgroups.table().iter().filter(|c| c.lives()).map(|c| ((c.slot, c.id), ())).collect();
        self.of.retain(|cgroup, _| living.contains_key(cgroup));
        let mut changed = self.of.len() != known;
        for cgroup in cgroups.table().iter().filter(|c| c.lives()) {
            if self.of.contains_key(&(cgroup.slot, cgroup.id)) {
                continue;
            }
            if let Some(inode) = namespace_of(&cgroups.directory(cgroup)) {
                self.of.insert((cgroup.slot, cgroup.id), inode);
                changed = true;
            }
        }
        changed
    }

    /// The slot that all cgroups of a namespace have in common, by the namespace's inode.
    pub fn owners(&self, table: &Table) -> HashMap<u32, u32> {
        let mut owners: HashMap<u32, u32> = HashMap::new();
        for (&(slot, _), &inode) in &self.of {
            let owner = owners.get(&inode).map_or(Some(slot), |other| common(table, *other, slot));
            owners.insert(inode, owner.unwrap_or(agent_common::cgroups::UNATTRIBUTED));
        }
        owners
    }
}

/// The namespace of the first process of a cgroup.
fn namespace_of(cgroup: &Path) -> Option<u32> {
    let processes = fs::read_to_string(cgroup.join("cgroup.procs")).ok()?;
    let process = processes.lines().next()?;
    u32::try_from(fs::metadata(format!("/proc/{process}/ns/net")).ok()?.ino()).ok()
}

/// The nearest cgroup that holds both.
fn common(table: &Table, a: u32, b: u32) -> Option<u32> {
    let above: Vec<u32> = std::iter::successors(Some(a), |slot| table.parent(*slot)).collect();
    std::iter::successors(Some(b), |slot| table.parent(*slot)).find(|slot| above.contains(slot))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::table::tests::cgroup;

    #[test]
    fn a_namespace_belongs_to_what_holds_all_who_are_in_it() {
        let mut table = Table::default();
        for (slot, path, parent) in
            [(1, "/", None), (2, "/pod", Some(1)), (3, "/pod/a", Some(2)), (4, "/pod/b", Some(2)), (5, "/c", Some(1))]
        {
            table.insert(cgroup(slot, path, parent));
        }
        let of =
            |of: &[(u32, u32)]| Namespaces { of: of.iter().map(|(slot, inode)| ((*slot, 0), *inode)).collect() }.owners(&table);
        assert_eq!(of(&[(3, 7), (4, 7), (5, 8)]), HashMap::from([(7, 2), (8, 5)]));
        assert_eq!(of(&[(3, 7), (4, 7), (5, 7)]), HashMap::from([(7, 1)]));
    }
}
