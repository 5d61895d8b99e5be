//! Whom a network namespace belongs to: the cgroup that holds all cgroups in it.
//!
//! The kernel side notes each cgroup's namespace where a process runs a program in it, and enters the first cgroup of a namespace as its
//! owner. This side sees that in mapped memory, without a file, and enters what all have in common.

use std::collections::{HashMap, HashSet};

use agent_common::{cgroups::UNATTRIBUTED, drops::Place};
use aya::maps::{HashMap as BpfHashMap, IterableMap as _, MapData};

use crate::{
    cgroups::{Cgroup, Table},
    kernel::{
        load::{LoadError, Object},
        sys::{self, MappedArray},
    },
    signals::SignalError,
};

/// The word of [`Place`] that holds the namespace.
const NAMESPACE: usize = std::mem::offset_of!(Place, namespace) / 8;

/// The cgroups' namespaces.
pub struct CgroupNamespaces {
    slots: u32,
    places: MappedArray<Place>,
    owners: BpfHashMap<MapData, u64, u64>,
    known: Option<Known>,
}

/// What the owners followed from when they were last put right.
struct Known {
    /// Of the table of cgroups.
    revision: u64,
    /// The namespace of each slot, 0 where it has none.
    namespaces: Vec<u64>,
}

impl CgroupNamespaces {
    /// Opens the tables of `object`.
    ///
    /// # Errors
    /// When one is missing or cannot be mapped.
    pub fn open(object: &mut Object, slots: u32) -> Result<Self, LoadError> {
        Ok(Self { slots, places: object.mapped("DROPS_PLACES")?, owners: object.take("DROPS_NAMESPACES")?, known: None })
    }

    /// Puts the owners right, if a cgroup has come into a namespace, gone, or changed to another.
    ///
    /// # Errors
    /// When the kernel refuses; the next call tries again.
    pub fn learn(&mut self, table: &Table) -> Result<(), SignalError> {
        if self.known.as_ref().is_some_and(|known| self.are_as(known, table)) {
            return Ok(());
        }
        let namespaces: Vec<u64> = (0..self.slots).map(|slot| self.namespace(slot)).collect();
        let with_one = || (1..).zip(namespaces.iter().copied().skip(1)).filter(|(_, namespace)| *namespace != 0);
        let living = with_one().filter(|(slot, _)| table.get(*slot).is_some_and(Cgroup::lives));
        let owners = owners(&living.collect::<Vec<_>>(), table);
        // Of cgroups that were born since the table was brought up to date: theirs stay as they are.
        let unborn: HashSet<u64> = with_one().filter(|(slot, _)| table.get(*slot).is_none()).map(|(_, of)| of).collect();
        let mut entered = HashMap::new();
        sys::for_each_entry(self.owners.map().fd(), |namespace: &u64, slot: &u64| {
            entered.insert(*namespace, *slot);
        })?;
        for namespace in entered.keys().filter(|namespace| !owners.contains_key(namespace) && !unborn.contains(namespace)) {
            // The kernel side may have removed it meanwhile.
            let _ = self.owners.remove(namespace);
        }
        for (namespace, slot) in &owners {
            // Where the kernel side changes one meanwhile, it has changed a namespace too: the next call sees that.
            if entered.get(namespace) != Some(&u64::from(*slot)) {
                self.owners.insert(namespace, u64::from(*slot), 0)?;
            }
        }
        self.known = Some(Known { revision: table.revision(), namespaces });
        Ok(())
    }

    /// A cgroup is gone: its slot has no namespace.
    pub fn retire(&self, cgroup: &Cgroup) {
        self.places.write(cgroup.slot, &Place::ZERO);
    }

    /// Whether all cgroups and their namespaces are those. Compares words in mapped memory, 16 bytes for each slot, and looks at no
    /// cgroup.
    fn are_as(&self, known: &Known, table: &Table) -> bool {
        known.revision == table.revision() && (0..).zip(&known.namespaces).all(|(slot, known)| self.namespace(slot) == *known)
    }

    fn namespace(&self, slot: u32) -> u64 {
        self.places.word(slot, NAMESPACE).unwrap_or(0)
    }
}

/// The slot that all cgroups of a namespace have in common, by namespace.
fn owners(of: &[(u32, u64)], table: &Table) -> HashMap<u64, u32> {
    let mut owners: HashMap<u64, u32> = HashMap::new();
    for &(slot, namespace) in of {
        let owner = owners.get(&namespace).map_or(Some(slot), |other| common(table, *other, slot));
        owners.insert(namespace, owner.unwrap_or(UNATTRIBUTED));
    }
    owners
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
        assert_eq!(owners(&[(3, 7), (4, 7), (5, 8)], &table), HashMap::from([(7, 2), (8, 5)]));
        assert_eq!(owners(&[(3, 7), (4, 7), (5, 7)], &table), HashMap::from([(7, 1)]));
    }
}
