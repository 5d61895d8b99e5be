//! The cgroups of this node: who owns which slot, from birth to the last exported count.
//!
//! The kernel side writes births and deaths into the mapped array of owners (`agent-ebpf/src/bin/cgroups.rs`); this side looks at
//! it every second, adds the cgroups that were there before the programs, and gives a slot back when its owner is gone and its
//! last counts were read. A cgroup passes through [`Phase`]s in that order and never back.

mod controllers;
pub mod files;
pub mod name;
mod scan;
pub mod table;
pub mod weight;

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use agent_common::cgroups::{Offsets, Owner, PATH_LEN, Tally, UNATTRIBUTED, may_take};
use aya::{
    maps::{HashMap as BpfHashMap, MapData, Queue},
    sys::SyscallError,
};

use self::table::Phase;
pub use self::{
    controllers::Controllers,
    table::{Cgroup, Table},
};
use crate::kernel::{
    btf::{Btf, BtfError},
    facts,
    load::{Hook, Kernel, LoadError, Object, Plan},
    sys::MappedArray,
};

/// The tracepoints that the programs of this module are attached to.
pub const TRACEPOINTS: [&str; 2] = ["cgroup_mkdir", "cgroup_rmdir"];

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/cgroups"));

/// How long a removed cgroup keeps its slot for sure: its last task may still be on its way out of the kernel, for
/// `cgroup_rmdir` succeeds as soon as that task has passed `cgroup_exit`.
const GRACE_NS: u64 = 1_000_000_000;

/// Word of [`Owner`] that holds its id, and the word that holds its time of death.
const ID: usize = std::mem::offset_of!(Owner, id) / 8;
/// The word with `found` in its lower half and `path_len` in its upper one.
const FOUND: usize = std::mem::offset_of!(Owner, found) / 8;
const PATH: usize = std::mem::offset_of!(Owner, path) / 8;
const DIED: usize = std::mem::offset_of!(Owner, died_ns) / 8;
/// Word of [`Tally`].
const TAKEN: usize = std::mem::offset_of!(Tally, taken) / 8;
const EXPORTED: usize = std::mem::offset_of!(Tally, exported_ns) / 8;

/// Why the cgroups cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The programs could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// This kernel's structs are not what is needed.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The tree could not be read.
    #[error("could not read the cgroup tree at {}", path.display())]
    Scan {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// A slot could not be taken or given back.
    #[error("could not {action} a cgroup slot")]
    Slots {
        /// What was being done.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: aya::maps::MapError,
    },
}

/// All cgroups that have a slot.
pub struct Cgroups {
    root: PathBuf,
    slots: u32,
    object: Object,
    owners: MappedArray<Owner>,
    tally: MappedArray<Tally>,
    generation: MappedArray<u64>,
    by_id: BpfHashMap<MapData, u64, u32>,
    free: Queue<MapData, u32>,
    table: Table,
}

impl Cgroups {
    /// Begins to follow the cgroups below `root`, the mount point of the cgroup2 hierarchy, with that many slots.
    ///
    /// The programs are attached before the tree is scanned: a cgroup made meanwhile has its slot from the kernel, and the scan
    /// leaves what has a slot alone, so there is no gap and nothing is entered twice.
    ///
    /// # Errors
    /// When the kernel refuses a program or the tree cannot be read.
    pub fn start(kernel: &mut Kernel, root: PathBuf, slots: u32) -> Result<Self, CgroupError> {
        let mut object = kernel.load(&Plan {
            object: "cgroups",
            bytes: OBJECT,
            facts: ("OFFSETS", Offsets { slots: slots.into(), ..offsets(&kernel.btf)? }),
            maps: &[
                ("CGROUP_SLOTS", Some(slots)),
                ("FREE_SLOTS", Some(slots)),
                ("OWNERS", Some(slots)),
                ("GENERATION", None),
                ("TALLY", None),
            ],
            shared: &[],
            programs: &[
                ("cgroups_on_mkdir", Hook::Tracepoint("cgroup_mkdir")),
                ("cgroups_on_rmdir", Hook::Tracepoint("cgroup_rmdir")),
            ],
            optional: &[],
        })?;
        let mut cgroups = Self {
            root,
            slots,
            owners: object.mapped("OWNERS")?,
            tally: object.mapped("TALLY")?,
            generation: object.mapped("GENERATION")?,
            by_id: object.take("CGROUP_SLOTS")?,
            free: object.take("FREE_SLOTS")?,
            object,
            table: Table::default(),
        };
        if !cgroups.object.adopted() {
            for slot in 1..slots {
                cgroups.free.push(slot, 0).map_err(|source| CgroupError::Slots { action: "make", source })?;
            }
        }
        kernel.attach(&mut cgroups.object)?;
        // Where this object goes on, others may too, and lack what a cgroup without a slot did until now.
        let before = if cgroups.object.adopted() { Vec::new() } else { kernel.left_by_others("cgroups", "OWNERS") };
        cgroups.scan(&births(&before))?;
        Ok(cgroups)
    }

    /// The object whose maps lead from a cgroup to its slot.
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// Who owns which slot.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Number of slots, the unattributed one included.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Mount point of the hierarchy: the directory of its root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Directory of a cgroup.
    pub fn directory(&self, cgroup: &Cgroup) -> PathBuf {
        self.root.join(cgroup.path.trim_start_matches('/'))
    }

    /// Cgroups ever born that found no free slot.
    pub fn without_slot(&self) -> u64 {
        self.tally.read(0).map_or(0, |tally| tally.without_slot)
    }

    /// CLOCK_BOOTTIME in ns of the last batch that was exported of what these maps count, if there was one.
    pub fn exported_ns(&self) -> Option<u64> {
        self.tally.word(0, EXPORTED).filter(|ns| *ns != 0)
    }

    /// A batch of that time leaves: the next agent goes on from here.
    pub fn set_exported_ns(&self, boottime_ns: u64) {
        self.tally.set_word(0, EXPORTED, boottime_ns);
    }

    /// Learns of births and deaths since the last call.
    pub fn refresh(&mut self) {
        let mut born = Vec::new();
        for slot in 1..self.slots {
            let Some(id) = self.owners.word(slot, ID).filter(|id| *id != 0) else { continue };
            match self.table.entries.get_mut(slot as usize).and_then(Option::as_mut) {
                Some(known) => known.died_ns = self.owners.word(slot, DIED).filter(|ns| *ns != 0),
                None => born.extend(self.owners.read(slot).map(|owner| (slot, id, owner))),
            }
        }
        // A parent may have been born behind our back after we passed its slot: then its child waits for the next time.
        let known: HashSet<u64> = self.table.ids().chain(born.iter().map(|(_, id, _)| *id)).collect();
        born.retain(|(_, _, owner)| known.contains(&owner.parent) || self.by_id.get(&owner.parent, 0).is_err());
        self.find_paths(&mut born);
        // Parents before children.
        born.sort_by_key(|(_, _, owner)| (owner.path_len, owner.born_ns));
        for (slot, id, owner) in born {
            let path = path_of(&owner);
            self.table.insert(Cgroup {
                slot,
                id,
                parent: self.table.ancestor(owner.parent, &path),
                name: name::parse(&path),
                path,
                born_ns: owner.born_ns,
                found: owner.found != 0,
                died_ns: Some(owner.died_ns).filter(|ns| *ns != 0),
                controllers: Controllers::default(),
                phase: Phase::Counting,
            });
        }
    }

    /// Finds the paths that the kernel side could not read, where kernel memory may not be read by address: a cgroup's directory is
    /// the one in its parent's that has its id. One that is gone already is named by its id. What is found is written down for the
    /// next agent.
    fn find_paths(&self, born: &mut [(u32, u64, Owner)]) {
        let mut unnamed: Vec<usize> = (0..born.len()).filter(|n| born[*n].2.path_len == 0).collect();
        unnamed.sort_by_key(|n| born[*n].2.born_ns);
        for n in unnamed {
            let (slot, id, owner) = &born[n];
            let known = self.table.iter().find(|c| c.id == owner.parent).map(|c| c.path.clone());
            let named = || born.iter().find(|(_, id, other)| *id == owner.parent && other.path_len > 0);
            let parent = known.or_else(|| named().map(|(.., other)| path_of(other))).unwrap_or_default();
            let parent = parent.trim_end_matches('/');
            let name = scan::child(&self.root.join(parent.trim_start_matches('/')), *id);
            let path = format!("{parent}/{}", name.unwrap_or_else(|| format!("(gone, id {id})")));
            let mut owner = *owner;
            write_path(&mut owner, &path);
            // The kernel side writes the time of death only; it has a word of its own.
            for (word, bytes) in owner.path.chunks_exact(8).enumerate() {
                let bits = bytes.try_into().map_or(0, u64::from_ne_bytes);
                self.owners.set_word(*slot, PATH + word, bits);
            }
            self.owners.set_word(*slot, FOUND, u64::from(owner.path_len) << 32 | u64::from(owner.found));
            born[n].2 = owner;
        }
    }

    /// Learns which controllers' files there are: before a collection, which reads them.
    pub fn learn_controllers(&mut self) {
        let mut parents = controllers::Parents::new(&self.root);
        for cgroup in self.table.entries.iter_mut().flatten().filter(|cgroup| cgroup.lives()) {
            cgroup.controllers = parents.of_child(&cgroup.path);
        }
    }

    /// Cuts the cgroups that have been gone for a second from their slots; nothing is added to those from now on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn close(&mut self) -> Result<(), CgroupError> {
        let now_ns = facts::boottime_ns();
        let mut closed = false;
        for cgroup in self.table.entries.iter_mut().flatten() {
            let gone = cgroup.died_ns.is_some_and(|died| now_ns.saturating_sub(died) >= GRACE_NS);
            if !gone || cgroup.phase == Phase::Closed {
                continue;
            }
            match self.by_id.remove(&cgroup.id) {
                Ok(()) | Err(aya::maps::MapError::KeyNotFound) => cgroup.phase = Phase::Closed,
                Err(source) => return Err(CgroupError::Slots { action: "close", source }),
            }
            closed = true;
        }
        if closed {
            self.start_generation();
        }
        Ok(())
    }

    /// The slots whose last counts can be read: closed by an earlier call of [`Cgroups::close`]. Children before parents.
    pub fn closed(&self) -> Vec<u32> {
        let mut closed: Vec<&Cgroup> = self.table.iter().filter(|c| c.phase == Phase::Closed).collect();
        closed.sort_by_key(|c| (c.died_ns, std::cmp::Reverse(c.path.len())));
        closed.iter().map(|c| c.slot).collect()
    }

    /// Gives a slot back whose counters are read and zeroed, and says who owned it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn release(&mut self, slot: u32) -> Result<Option<Cgroup>, CgroupError> {
        let Some(cgroup) = self.table.remove(slot) else { return Ok(None) };
        for child in self.table.entries.iter_mut().flatten().filter(|c| c.parent == Some(slot)) {
            child.parent = cgroup.parent;
        }
        self.owners.write(slot, &Owner::ZERO);
        self.tally.add_to_word(0, TAKEN, u64::MAX);
        self.free.push(slot, 0).map_err(|source| CgroupError::Slots { action: "give back", source })?;
        Ok(Some(cgroup))
    }

    /// Makes every CPU forget which slot a cgroup's address leads to, and every socket what was looked up for it.
    pub fn start_generation(&self) {
        // The kernel side also counts here; whichever write wins, the number is another than before.
        if let Some(generation) = self.generation.read(0) {
            self.generation.write(0, &generation.wrapping_add(1));
        }
    }

    /// Enters the cgroups that have no slot: those older than the programs. `births` are those that others have seen, by id.
    fn scan(&mut self, births: &HashMap<u64, u64>) -> Result<(), CgroupError> {
        let found = scan::tree(&self.root).map_err(|(path, source)| CgroupError::Scan { path, source })?;
        for cgroup in found {
            if self.by_id.get(&cgroup.id, 0).is_ok() {
                continue;
            }
            let taken = self.tally.word(0, TAKEN).unwrap_or(0);
            if !may_take(cgroup.level(), taken, self.slots) {
                continue;
            }
            let slot = match self.free.pop(0) {
                Ok(slot) => slot,
                Err(aya::maps::MapError::ElementNotFound) => break,
                Err(aya::maps::MapError::SyscallError(SyscallError { io_error, .. }))
                    if io_error.raw_os_error() == Some(nix::libc::ENOENT) =>
                {
                    break;
                }
                Err(source) => return Err(CgroupError::Slots { action: "take", source }),
            };
            self.tally.add_to_word(0, TAKEN, 1);
            let birth = births.get(&cgroup.id).copied();
            let (born_ns, found) = birth.map_or_else(|| (facts::boottime_ns(), 1), |born_ns| (born_ns, 0));
            let mut owner = Owner { id: cgroup.id, parent: cgroup.parent, born_ns, found, ..Owner::ZERO };
            write_path(&mut owner, &cgroup.path);
            self.owners.write(slot, &owner);
            self.by_id.insert(cgroup.id, slot, 0).map_err(|source| CgroupError::Slots { action: "take", source })?;
            // Removed between the scan and the entry: the kernel side could not note its death.
            if !scan::exists(&self.root, &cgroup) {
                owner.died_ns = facts::boottime_ns();
                self.owners.write(slot, &owner);
            }
        }
        self.start_generation();
        Ok(())
    }
}

/// The births of cgroups that programs of other versions have seen, by id: CLOCK_BOOTTIME in ns.
fn births(owners: &[MappedArray<Owner>]) -> HashMap<u64, u64> {
    let all = owners.iter().flat_map(|owners| (1..owners.entries()).filter_map(|slot| owners.read(slot)));
    all.filter(|owner| owner.id != 0 && owner.found == 0).map(|owner| (owner.id, owner.born_ns)).collect()
}

/// The path in a record. Of one that was cut the id tells it from its like: cgroups with one path would be one series.
fn path_of(owner: &Owner) -> String {
    let len = (owner.path_len as usize).min(PATH_LEN - 1);
    let path = name::readable(&owner.path[..len]);
    if len == PATH_LEN - 1 { format!("{path}~{}", owner.id) } else { path }
}

/// Writes a path into a record, as far as there is room.
fn write_path(owner: &mut Owner, path: &str) {
    let bytes = &path.as_bytes()[..path.len().min(PATH_LEN - 1)];
    owner.path = [0; PATH_LEN];
    owner.path[..bytes.len()].copy_from_slice(bytes);
    owner.path_len = bytes.len() as u32;
}

/// Where this kernel keeps what the programs read.
fn offsets(btf: &Btf) -> Result<Offsets, BtfError> {
    // 6.15 renamed kernfs_node.parent to __parent when it came under RCU.
    let parent = if btf.has_member("kernfs_node", "__parent") { "__parent" } else { "parent" };
    Ok(Offsets {
        cgroup_kn: btf.offset_of("cgroup", "kn", 8)?,
        cgroup_root: btf.offset_of("cgroup", "root", 8)?,
        root_hierarchy_id: btf.offset_of("cgroup_root", "hierarchy_id", 4)?,
        kn_id: btf.offset_of("kernfs_node", "id", 8)?,
        kn_parent: btf.offset_of("kernfs_node", parent, 8)?,
        cgroup_level: btf.offset_of("cgroup", "level", 4)?,
        ..Offsets::ZERO
    })
}

const _: () = assert!(UNATTRIBUTED == 0, "slot 0 is never handed out: the free slots start at 1");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_were_cut_stay_apart() {
        let path = |id, end: &str| {
            let mut owner = Owner { id, ..Owner::ZERO };
            write_path(&mut owner, &format!("/{}/{end}", "nested/".repeat(80)));
            path_of(&owner)
        };
        assert_ne!(path(7, "a"), path(8, "b"));
        let mut owner = Owner { id: 9, ..Owner::ZERO };
        write_path(&mut owner, "/kubepods.slice");
        assert_eq!(path_of(&owner), "/kubepods.slice");
    }
}
