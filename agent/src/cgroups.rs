//! The cgroups of this node: who owns which slot, from birth to the last exported count.
//!
//! The kernel side writes births and deaths into the mapped array of owners (`agent-ebpf/src/bin/cgroups.rs`); this side looks at
//! it every second, adds the cgroups that were there before the programs, and gives a slot back when its owner is gone and its
//! last counts were read. A cgroup passes through [`SlotPhase`]s in that order and never back.

mod controllers;
pub mod files;
pub mod legacy;
pub mod name;
mod scan;
pub mod table;
pub mod weight;

use std::{
    collections::{HashMap, VecDeque},
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use agent_common::cgroups::{NAME_LEN, Offsets, Owner, Tally, UNATTRIBUTED, may_take};
use aya::{
    maps::{HashMap as BpfHashMap, MapData, Queue},
    sys::SyscallError,
};

pub use self::{
    controllers::Controllers,
    table::{Cgroup, Table},
};
use self::{controllers::Parents, name::Kubelets, table::SlotPhase};
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

/// How long cgroups that found no slot wait at least until they are looked for again, when there is room.
const SCAN_AGAIN_NS: u64 = 60_000_000_000;

/// Words of [`Owner`].
const ID: usize = std::mem::offset_of!(Owner, id) / 8;
const PARENT: usize = std::mem::offset_of!(Owner, parent) / 8;
/// The word with `found` in its lower half and `name_len` in its upper one.
const FOUND: usize = std::mem::offset_of!(Owner, found) / 8;
const NAME: usize = std::mem::offset_of!(Owner, name) / 8;
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
    kubelets: Kubelets,
    left_out: LeftOut,
}

/// What the last scan left without a slot.
#[derive(Clone, Copy, Debug, Default)]
struct LeftOut {
    /// Whether it found no slot for something.
    any: bool,
    /// What had been born without one until then.
    without_slot: u64,
    /// When that was, CLOCK_BOOTTIME in ns.
    at_ns: u64,
}

impl Cgroups {
    /// Begins to follow the cgroups below `root`, a directory of the cgroup2 hierarchy, with that many slots. In a cgroup namespace
    /// its mount point is not the hierarchy's root; what is outside of it is not seen.
    ///
    /// The programs are attached before the tree is scanned: a cgroup made meanwhile has its slot from the kernel, if its parent has one
    /// by then, and the scan leaves what has a slot alone. What was made while the scan was at its parent is found by a second one, when
    /// [counting begins](Self::counting_begins).
    ///
    /// # Errors
    /// When the kernel refuses a program or the tree cannot be read.
    pub fn start(kernel: &mut Kernel, root: PathBuf, slots: u32, kubelets: Kubelets) -> Result<Self, CgroupError> {
        let id = scan::id(&root).map_err(|source| CgroupError::Scan { path: root.clone(), source })?;
        let mut object = kernel.load(&Plan {
            object: "cgroups",
            bytes: OBJECT,
            facts: ("OFFSETS", Offsets { slots: slots.into(), root: id, ..offsets(&kernel.btf)? }),
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
            kubelets,
            left_out: LeftOut::default(),
        };
        if !cgroups.object.adopted() {
            for slot in 1..slots {
                cgroups.free.push(slot, 0).map_err(|source| CgroupError::Slots { action: "make", source })?;
            }
        }
        kernel.attach(&mut cgroups.object)?;
        // Where this object goes on, others may too, and lack what a cgroup without a slot did until now.
        let before = if cgroups.object.adopted() { Vec::new() } else { kernel.left_by_others("cgroups", "OWNERS") };
        cgroups.scan(&births(&before), 1)?;
        Ok(cgroups)
    }

    /// All signals are attached: what was made meanwhile gets its slot.
    ///
    /// # Errors
    /// When the tree cannot be read.
    pub fn counting_begins(&mut self) -> Result<(), CgroupError> {
        self.scan(&HashMap::new(), 1)?;
        self.refresh();
        Ok(())
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

    /// The directory of the root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Directory of a cgroup.
    pub fn directory(&self, cgroup: &Cgroup) -> PathBuf {
        cgroup.directory(&self.root)
    }

    /// Cgroups ever born that found no free slot; not what is below them.
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
                None => born.extend(self.owners.read(slot).filter(|owner| owner.id == id).map(|owner| (slot, owner))),
            }
        }
        // Parents before children.
        born.sort_by_key(|(_, owner)| (owner.level, owner.born_ns));
        for (slot, mut owner) in born {
            let parent = match self.table.by_id(owner.parent) {
                None if owner.parent == 0 => None,
                // It was born behind our back, after we had passed its slot: its child waits for the next time.
                None if self.by_id.get(&owner.parent, 0).is_ok() => continue,
                // Both are gone, and an earlier agent did not come to give this slot back.
                None => self.table.iter().find(|cgroup| cgroup.level == 0),
                parent => parent,
            };
            if owner.name_len == 0
                && let Some(parent) = parent
            {
                let gone = || format!("(gone, id {})", owner.id).into();
                let name = scan::name(&self.directory(parent), owner.id).unwrap_or_else(gone);
                self.name(slot, &mut owner, &name);
            }
            let cgroup = Cgroup::new(slot, &owner, parent, self.kubelets);
            self.table.insert(cgroup);
        }
    }

    /// Names a cgroup whose name the kernel side could not read, where kernel memory may not be read by address. It is written down
    /// for the next agent too.
    fn name(&self, slot: u32, owner: &mut Owner, name: &OsStr) {
        write_name(owner, name);
        // The kernel side writes the time of death only; it has a word of its own.
        for (word, bytes) in owner.name.chunks_exact(8).enumerate() {
            let bits = bytes.try_into().map_or(0, u64::from_ne_bytes);
            self.owners.set_word(slot, NAME + word, bits);
        }
        self.owners.set_word(slot, FOUND, u64::from(owner.name_len) << 32 | u64::from(owner.found));
    }

    /// Learns which controllers' files there are: before a collection, which reads them.
    pub fn learn_controllers(&mut self) {
        let mut parents = Parents::default();
        for cgroup in self.table.entries.iter_mut().flatten().filter(|cgroup| cgroup.lives() && cgroup.level > 0) {
            cgroup.controllers = parents.of_child(&cgroup.directory(&self.root));
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
            if !gone || cgroup.phase == SlotPhase::Closed {
                continue;
            }
            match self.by_id.remove(&cgroup.id) {
                Ok(()) | Err(aya::maps::MapError::KeyNotFound) => cgroup.phase = SlotPhase::Closed,
                Err(source) => return Err(CgroupError::Slots { action: "close", source }),
            }
            closed = true;
        }
        if closed {
            self.start_generation();
        }
        self.scan_again(now_ns)
    }

    /// Looks for cgroups that found no slot, when an eighth of the slots is free. They count from now on; what they did before is
    /// unattributed.
    fn scan_again(&mut self, now_ns: u64) -> Result<(), CgroupError> {
        let LeftOut { any, without_slot, at_ns } = self.left_out;
        let some = any || without_slot != self.without_slot();
        let taken = self.tally.word(0, TAKEN).unwrap_or(0);
        let room = taken.saturating_add(u64::from(self.slots / 8)) < self.slots.into();
        if some && room && now_ns.saturating_sub(at_ns) >= SCAN_AGAIN_NS {
            self.scan(&HashMap::new(), table::LATE)
        } else {
            Ok(())
        }
    }

    /// The slots whose last counts can be read: closed by an earlier call of [`Cgroups::close`]. Children before parents.
    pub fn closed(&self) -> Vec<u32> {
        let mut closed: Vec<&Cgroup> = self.table.iter().filter(|c| c.phase == SlotPhase::Closed).collect();
        closed.sort_by_key(|c| (c.died_ns, std::cmp::Reverse(c.level)));
        closed.iter().map(|c| c.slot).collect()
    }

    /// Gives a slot back whose counters are read and zeroed, and says who owned it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn release(&mut self, slot: u32) -> Result<Option<Cgroup>, CgroupError> {
        let Some(cgroup) = self.table.remove(slot) else { return Ok(None) };
        let above = cgroup.parent.and_then(|slot| self.table.get(slot)).map(|parent| parent.id);
        for child in self.table.entries.iter_mut().flatten().filter(|c| c.parent == Some(slot)) {
            child.parent = cgroup.parent;
            self.owners.set_word(child.slot, PARENT, above.unwrap_or(0));
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

    /// Enters the cgroups that have no slot and whose parent has one: those older than the programs, and those that found none free.
    /// `births` are those that others have seen, by id; `found` is what [`Owner::found`] says of the rest.
    fn scan(&mut self, births: &HashMap<u64, u64>, found: u32) -> Result<(), CgroupError> {
        let failed = |source| CgroupError::Scan { path: self.root.clone(), source };
        self.left_out = LeftOut { any: false, without_slot: self.without_slot(), at_ns: facts::boottime_ns() };
        let root = scan::id(&self.root).map_err(failed)?;
        if !self.has_slot(root) {
            self.enter(&Owner { id: root, ..Owner::ZERO }, &self.root.clone(), births, found)?;
        }
        // Level by level, since slots may be few. Each is listed after it has its slot: what is made in it from then on has one from
        // the kernel.
        let mut above = VecDeque::from([(root, 0, self.root.clone())]);
        while let Some((parent, level, directory)) = above.pop_front() {
            let children = match scan::children(&directory) {
                Ok(children) => children,
                Err(source) if level == 0 => return Err(CgroupError::Scan { path: directory, source }),
                // It is gone.
                Err(_) => continue,
            };
            let mut full = false;
            for child in children {
                let directory = directory.join(&child.name);
                if !self.has_slot(child.id) {
                    let mut owner = Owner { id: child.id, parent, level: level + 1, ..Owner::ZERO };
                    write_name(&mut owner, &child.name);
                    full = full || !self.enter(&owner, &directory, births, found)?;
                    if full {
                        self.left_out.any = true;
                        continue;
                    }
                }
                above.push_back((child.id, level + 1, directory));
            }
        }
        self.start_generation();
        Ok(())
    }

    fn has_slot(&self, id: u64) -> bool {
        self.table.by_id(id).is_some() || self.by_id.get(&id, 0).is_ok()
    }

    /// Gives a cgroup that is older than counting a slot; `false` when there is none for it.
    fn enter(&mut self, owner: &Owner, directory: &Path, births: &HashMap<u64, u64>, found: u32) -> Result<bool, CgroupError> {
        let taken = self.tally.word(0, TAKEN).unwrap_or(0);
        if !may_take(owner.level as u32, taken, self.slots) {
            return Ok(false);
        }
        let slot = match self.free.pop(0) {
            Ok(slot) => slot,
            Err(aya::maps::MapError::ElementNotFound) => return Ok(false),
            Err(aya::maps::MapError::SyscallError(SyscallError { io_error, .. }))
                if io_error.raw_os_error() == Some(nix::libc::ENOENT) =>
            {
                return Ok(false);
            }
            Err(source) => return Err(CgroupError::Slots { action: "take", source }),
        };
        self.tally.add_to_word(0, TAKEN, 1);
        let birth = births.get(&owner.id).copied();
        let (born_ns, found) = birth.map_or_else(|| (facts::boottime_ns(), found), |born_ns| (born_ns, 0));
        let mut owner = Owner { born_ns, found, ..*owner };
        self.owners.write(slot, &owner);
        self.by_id.insert(owner.id, slot, 0).map_err(|source| CgroupError::Slots { action: "take", source })?;
        // Removed between the scan and the entry: the kernel side could not note its death.
        if scan::id(directory).ok() != Some(owner.id) {
            owner.died_ns = facts::boottime_ns();
            self.owners.write(slot, &owner);
        }
        Ok(true)
    }
}

/// The births of cgroups that programs of other versions have seen, by id: CLOCK_BOOTTIME in ns.
fn births(owners: &[MappedArray<Owner>]) -> HashMap<u64, u64> {
    let all = owners.iter().flat_map(|owners| (1..owners.entries()).filter_map(|slot| owners.read(slot)));
    all.filter(|owner| owner.id != 0 && owner.found == 0).map(|owner| (owner.id, owner.born_ns)).collect()
}

/// Writes a directory's name into a record.
fn write_name(owner: &mut Owner, name: &OsStr) {
    let bytes = &name.as_bytes()[..name.len().min(NAME_LEN - 1)];
    owner.name = [0; NAME_LEN];
    owner.name[..bytes.len()].copy_from_slice(bytes);
    owner.name_len = bytes.len() as u32;
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
        kn_name: btf.offset_of("kernfs_node", "name", 8)?,
        ..Offsets::ZERO
    })
}

const _: () = assert!(UNATTRIBUTED == 0, "slot 0 is never handed out: the free slots start at 1");
