//! The cgroups of this node and the slots that they own, from birth to the final values.
//!
//! The kernel side writes births and deaths into the mapped array of owners (`agent-ebpf/src/bin/cgroups.rs`); this side reads
//! it every second, adds the cgroups that were there before the programs, and gives a slot back when its owner is gone and its
//! last counts were read. A cgroup passes through [`SlotPhase`]s in that order and never back.

pub mod controllers;
pub mod files;
pub mod legacy;
pub mod name;
mod scan;
mod slots;
pub mod table;
mod walk;
pub mod weight;

use std::{
    collections::{HashMap, VecDeque},
    path::{Path, PathBuf},
};

use agent_common::{
    cgroups::{Offsets, Owner},
    memory::Usage,
};

pub use self::{
    controllers::Controllers,
    table::{Cgroup, Table},
    walk::MemcgLayout,
};
use self::{
    controllers::Parents,
    files::{CgroupLimits, Pressure, Throttling},
    name::Kubelets,
    slots::Slots,
    table::SlotPhase,
    walk::Walk,
};
use crate::kernel::{
    btf::{Btf, BtfError},
    facts,
    load::{Hook, Kernel, LoadError, Object, Plan, Size},
};

/// The tracepoints that the programs of this module are attached to.
pub const TRACEPOINTS: [&str; 2] = ["cgroup_mkdir", "cgroup_rmdir"];

/// The name of its object and pins.
pub const NAME: &str = "cgroups";

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/cgroups"));

/// How long a removed cgroup keeps its slot for sure: its last task may still be on its way out of the kernel, for
/// `cgroup_rmdir` succeeds as soon as that task has passed `cgroup_exit`.
const GRACE_NS: u64 = 1_000_000_000;

/// Minimum time between two scans for cgroups that found no slot, when there is room.
const SCAN_AGAIN_NS: u64 = 60_000_000_000;

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
        /// The kernel's error.
        #[source]
        source: std::io::Error,
    },
    /// A slot could not be taken or given back.
    #[error("could not {action} a cgroup slot")]
    Slots {
        /// What was being done.
        action: &'static str,
        /// The kernel's error.
        #[source]
        source: aya::maps::MapError,
    },
}

/// All cgroups that have a slot.
pub struct Cgroups {
    root: PathBuf,
    object: Object,
    slots: Slots,
    table: Table,
    kubelets: Kubelets,
    /// The [`Owner::found`] of what had no slot as this began.
    found: u32,
    left_out: LeftOut,
    /// Slots to be looked at once more: what changed last time, and cgroups whose parent was not known yet.
    again: Vec<u32>,
    walk: Walk,
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
    /// Begins to follow the cgroups below `root`, a directory of the cgroup2 hierarchy, with as many slots as `kernel` has. In a cgroup
    /// namespace its mount point is not the hierarchy's root; what is outside of it is not seen.
    ///
    /// The programs are attached before the tree is scanned: a cgroup made meanwhile has its slot from the kernel, if its parent has one
    /// by then, and the scan leaves what has a slot alone. What was made while the scan was at its parent is found by a second one, when
    /// [counting begins](Self::counting_begins).
    ///
    /// # Errors
    /// When the kernel refuses a program or the tree cannot be read.
    pub fn start(kernel: &mut Kernel, root: PathBuf, kubelets: Kubelets) -> Result<Self, CgroupError> {
        let id = scan::id(&root).map_err(|source| CgroupError::Scan { path: root.clone(), source })?;
        let mut object = kernel.load(&Plan {
            object: NAME,
            bytes: OBJECT,
            facts: Offsets { root: id, ..offsets(&kernel.btf)? },
            maps: &[
                ("CGROUP_SLOTS", Size::Slots(1)),
                ("FREE_SLOTS", Size::Slots(1)),
                ("OWNERS", Size::Slots(1)),
                ("GENERATION", Size::Fixed),
                ("TALLY", Size::Fixed),
                ("CHANGES", Size::Fixed),
            ],
            shared: &[],
            programs: &[
                ("cgroups_on_mkdir", Hook::Tracepoint("cgroup_mkdir")),
                ("cgroups_on_rmdir", Hook::Tracepoint("cgroup_rmdir")),
            ],
            optional: &[],
        })?;
        kernel.take_over(&mut object)?;
        let mut slots = Slots::of(&mut object, kernel.slots)?;
        if !object.runs() {
            slots.free_all_others()?;
        }
        // Where this object goes on, a cgroup without a slot had found none; what it did is unattributed.
        let found = if object.adopted() { table::LATE } else { 1 };
        let walk = Walk::start(kernel, &object)?;
        let mut cgroups = Self {
            root,
            slots,
            object,
            table: Table::default(),
            kubelets,
            found,
            left_out: LeftOut::default(),
            again: Vec::new(),
            walk,
        };
        kernel.attach(&mut cgroups.object)?;
        // Where it does not, other objects lack what a cgroup did until now.
        let before = if cgroups.object.adopted() { Vec::new() } else { kernel.left_by_others(NAME, "OWNERS") };
        cgroups.scan(&slots::births(&before), found)?;
        Ok(cgroups)
    }

    /// All signals are attached: what was made meanwhile gets its slot.
    ///
    /// # Errors
    /// When the tree cannot be read.
    pub fn counting_begins(&mut self) -> Result<(), CgroupError> {
        self.scan(&HashMap::new(), self.found)?;
        self.refresh();
        Ok(())
    }

    /// The object whose maps lead from a cgroup to its slot.
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// The owners of the slots.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Number of slots, the unattributed one included.
    pub fn slots(&self) -> u32 {
        self.slots.count()
    }

    /// Number of slots that have an owner.
    pub fn taken(&self) -> u64 {
        self.slots.taken()
    }

    /// Whether a cgroup has found no slot since the last time that all of them were looked for.
    pub fn lacks_slots(&self) -> bool {
        self.left_out.any || self.left_out.without_slot != self.without_slot()
    }

    /// The directory of the root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The list of controllers that cgroup2 has here; `None` where it cannot be read. On a hybrid hierarchy version 1 may have the others,
    /// whose cgroups are not these.
    pub fn offered_controllers(&self) -> Option<String> {
        std::fs::read_to_string(self.root.join("cgroup.controllers")).ok()
    }

    /// Directory of a cgroup.
    pub fn directory(&self, cgroup: &Cgroup) -> PathBuf {
        cgroup.directory(&self.root)
    }

    /// Cgroups ever born that found no free slot; not what is below them.
    pub fn without_slot(&self) -> u64 {
        self.slots.without_slot()
    }

    /// CLOCK_BOOTTIME in ns of the last batch that was exported of what these maps count, if there was one.
    pub fn exported_ns(&self) -> Option<u64> {
        self.slots.exported_ns()
    }

    /// A batch of that time leaves: the next agent goes on from here.
    pub fn set_exported_ns(&self, boottime_ns: u64) {
        self.slots.set_exported_ns(boottime_ns);
    }

    /// Reads births and deaths since the last call. Costs what has changed: slots whose owners are as they were are not looked at, but the
    /// first time, and after more changes than the kernel side notes.
    pub fn refresh(&mut self) {
        let mut look = match self.slots.changed() {
            // What has changed is looked at twice: another CPU's writes to a record may be seen later than its note of them.
            Some(changed) => std::mem::replace(&mut self.again, changed.clone()).into_iter().chain(changed).collect(),
            None => {
                self.again.clear();
                Vec::from_iter(1..self.slots.count())
            }
        };
        look.sort_unstable();
        look.dedup();
        let mut born = Vec::new();
        for slot in look {
            let Some(id) = self.slots.owner_id(slot) else { continue };
            match self.table.get(slot) {
                Some(_) => self.table.set_died(slot, self.slots.died_ns(slot)),
                None => born.extend(self.slots.owner(slot).filter(|owner| owner.id == id).map(|owner| (slot, owner))),
            }
        }
        // Parents before children.
        born.sort_by_key(|(_, owner)| (owner.level, owner.born_ns));
        for (slot, mut owner) in born {
            let parent = match self.table.by_id(owner.parent) {
                None if owner.parent == 0 => None,
                // It was born after the loop above had passed its slot: its child waits for the next call.
                None if self.slots.has(owner.parent) => {
                    self.again.push(slot);
                    continue;
                }
                // Both are gone, and an earlier agent ended before it gave this slot back.
                None => self.table.iter().find(|cgroup| cgroup.level == 0),
                parent => parent,
            };
            if owner.name_len == 0
                && let Some(parent) = parent
            {
                let gone = || format!("(gone, id {})", owner.id).into();
                let name = scan::name(&self.directory(parent), owner.id).unwrap_or_else(gone);
                self.slots.set_name(slot, &mut owner, &name);
            }
            let cgroup = Cgroup::new(slot, &owner, parent, self.kubelets);
            self.table.insert(cgroup);
        }
    }

    /// The object of the walk: its maps lead to the memory controller's statistics.
    pub fn walk_object(&self) -> &Object {
        self.walk.object()
    }

    /// Learns which controllers' files there are, where no walk over the cgroups shows it: before a collection.
    pub fn learn_controllers(&mut self) {
        if self.walk.stands() {
            return;
        }
        let mut parents = Parents::default();
        for cgroup in self.table.entries.iter_mut().flatten().filter(|cgroup| cgroup.lives() && cgroup.level > 0) {
            cgroup.controllers = parents.of_child(&cgroup.directory(&self.root));
        }
    }

    /// Walks over all cgroups, where this kernel can be walked: what is read of a cgroup from now on is as of this walk. Where it
    /// cannot, it is read from files.
    pub fn walk(&mut self) {
        self.check_walk();
        self.walk.run(&self.root);
        for cgroup in self.table.entries.iter_mut().flatten().filter(|_| self.walk.stands()) {
            cgroup.controllers = self.walk.controllers(cgroup);
        }
    }

    /// Whether the last walk shows these parts ([`agent_common::walk`]) of all cgroups; they are read from files else.
    pub fn walks(&self, parts: u64) -> bool {
        self.walk.reads(parts)
    }

    /// Why the last walk does not show the memory of cgroups.
    pub fn walks_no_memory(&self) -> Option<String> {
        self.walk.lacks(agent_common::walk::STATISTICS)
    }

    /// The memory of a cgroup as of the last walk, if that [shows](Self::walks) it and the cgroup has the controller.
    pub fn memory(&self, cgroup: &Cgroup) -> Option<Usage> {
        self.walk.memory(cgroup)
    }

    /// The requests and limits of a cgroup.
    pub fn limits(&self, cgroup: &Cgroup) -> CgroupLimits {
        self.walk.limits(cgroup, &self.root)
    }

    /// What `cpu.max` did to a cgroup; `None` without a cpu controller.
    pub fn throttling(&self, cgroup: &Cgroup) -> Option<Throttling> {
        self.walk.throttling(cgroup, &self.root)
    }

    /// The pressure of a cgroup; `None` where it is not accounted.
    pub fn pressure(&self, cgroup: &Cgroup) -> Option<Pressure> {
        self.walk.pressure(cgroup, &self.root)
    }

    /// Cuts the cgroups that have been gone for a second from their slots; nothing is added to those from now on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn close(&mut self) -> Result<(), CgroupError> {
        let now_ns = facts::boottime_ns();
        let mut closed = false;
        for slot in &self.table.dying {
            let Some(cgroup) = self.table.entries.get_mut(*slot as usize).and_then(Option::as_mut) else { continue };
            let gone = cgroup.died_ns.is_some_and(|died| now_ns.saturating_sub(died) >= GRACE_NS);
            if !gone || cgroup.phase == SlotPhase::Closed {
                continue;
            }
            self.slots.close(cgroup.id)?;
            cgroup.phase = SlotPhase::Closed;
            closed = true;
        }
        if closed {
            self.slots.start_generation();
        }
        self.scan_again(now_ns)
    }

    /// Looks for cgroups that found no slot, when an eighth of the slots is free. They count from now on; what they did before is
    /// unattributed.
    fn scan_again(&mut self, now_ns: u64) -> Result<(), CgroupError> {
        let slots = self.slots.count();
        let room = self.slots.taken().saturating_add(u64::from(slots / 8)) < slots.into();
        if self.lacks_slots() && room && now_ns.saturating_sub(self.left_out.at_ns) >= SCAN_AGAIN_NS {
            self.scan(&HashMap::new(), table::LATE)
        } else {
            Ok(())
        }
    }

    /// The slots whose final counts can be read: closed by an earlier call of [`Cgroups::close`]. Children before parents.
    pub fn closed(&self) -> Vec<u32> {
        let dying = self.table.dying.iter().filter_map(|slot| self.table.get(*slot));
        let mut closed: Vec<&Cgroup> = dying.filter(|cgroup| cgroup.phase == SlotPhase::Closed).collect();
        closed.sort_by_key(|c| (c.died_ns, std::cmp::Reverse(c.level)));
        closed.iter().map(|c| c.slot).collect()
    }

    /// Gives a slot back whose counters are read and zeroed. Returns its owner.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn release(&mut self, slot: u32) -> Result<Option<Cgroup>, CgroupError> {
        let Some(cgroup) = self.table.remove(slot) else { return Ok(None) };
        let above = cgroup.parent.and_then(|slot| self.table.get(slot)).map(|parent| parent.id);
        for child in self.table.adopt_children(&cgroup) {
            self.slots.set_parent(child, above.unwrap_or(0));
        }
        self.walk.forget(slot);
        self.slots.give_back(slot)?;
        Ok(Some(cgroup))
    }

    /// Makes every CPU forget which slot a cgroup's address leads to, and every socket what was looked up for it.
    pub fn start_generation(&self) {
        self.slots.start_generation();
    }

    /// Enters the cgroups that have no slot and whose parent has one: those older than the programs, and those that found none free.
    /// `births` are those that others have seen, by id; `found` is the [`Owner::found`] of the rest.
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
                    slots::write_name(&mut owner, &child.name);
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
        self.table.by_id(id).is_some() || self.slots.has(id)
    }

    /// Gives a cgroup that is older than counting a slot; `false` when there is none for it.
    fn enter(&mut self, owner: &Owner, directory: &Path, births: &HashMap<u64, u64>, found: u32) -> Result<bool, CgroupError> {
        let birth = births.get(&owner.id).copied();
        let (born_ns, found) = birth.map_or_else(|| (facts::boottime_ns(), found), |born_ns| (born_ns, 0));
        let owner = Owner { born_ns, found, ..*owner };
        let Some(slot) = self.slots.take(&owner)? else { return Ok(false) };
        // Removed between the scan and the entry: the kernel side could not note its death.
        if scan::id(directory).ok() != Some(owner.id) {
            self.slots.set_died(slot, &owner, facts::boottime_ns());
        }
        Ok(true)
    }
}

/// Number of cgroups below a directory, itself included; 1 where it cannot be read.
pub fn count(root: &Path) -> u32 {
    let mut found = 1_u32;
    let mut above = vec![root.to_owned()];
    while let Some(directory) = above.pop() {
        for child in scan::children(&directory).into_iter().flatten() {
            found = found.saturating_add(1);
            above.push(directory.join(child.name));
        }
    }
    found
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
