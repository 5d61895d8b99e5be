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
    /// Slots of living cgroups with their namespaces, as of when the owners were last put right.
    known: Option<Vec<(u32, u64)>>,
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
        let living = table.iter().filter(|cgroup| cgroup.lives()).map(|cgroup| cgroup.slot);
        let now: Vec<(u32, u64)> = living.filter_map(|slot| Some((slot, self.namespace(slot)?))).collect();
        if self.known.as_ref() == Some(&now) {
            return Ok(());
        }
        let mut entered = Vec::new();
        sys::for_each_entry(self.owners.map().fd(), |namespace: &u64, _: &u64| entered.push(*namespace))?;
        // Of cgroups that were born since the table was brought up to date: theirs stay as they are.
        let unborn = (1..self.slots).filter(|slot| table.get(*slot).is_none());
        let unborn: HashSet<u64> = unborn.filter_map(|slot| self.namespace(slot)).collect();
        let owners = owners(&now, table);
        for namespace in entered.iter().filter(|namespace| !owners.contains_key(namespace) && !unborn.contains(namespace)) {
            // The kernel side may have removed it meanwhile.
            let _ = self.owners.remove(namespace);
        }
        for (namespace, slot) in &owners {
            self.owners.insert(namespace, u64::from(*slot), 0)?;
        }
        self.known = Some(now);
        Ok(())
    }

    /// A cgroup is gone: its slot has no namespace.
    pub fn retire(&self, cgroup: &Cgroup) {
        self.places.write(cgroup.slot, &Place::ZERO);
    }

    fn namespace(&self, slot: u32) -> Option<u64> {
        self.places.word(slot, NAMESPACE).filter(|namespace| *namespace != 0)
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
