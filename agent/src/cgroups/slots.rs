//! The slots of counters and the maps that lead to them. The kernel side takes slots too, when a cgroup is made
//! (`agent-ebpf/src/bin/cgroups.rs`).

use std::{collections::HashMap, ffi::OsStr, os::unix::ffi::OsStrExt as _};

use agent_common::cgroups::{CHANGES_LEN, NAME_LEN, Owner, Tally, UNATTRIBUTED, changed_slot, may_take};
use aya::maps::{HashMap as BpfHashMap, MapData, Queue};

use super::CgroupError;
use crate::kernel::{
    absent::is_absent,
    load::{LoadError, Object},
    sys::MappedArray,
};

/// Words of [`Owner`].
const ID: usize = std::mem::offset_of!(Owner, id) / 8;
const PARENT: usize = std::mem::offset_of!(Owner, parent) / 8;
/// The word with `found` in its lower half and `name_len` in its upper one.
const FOUND: usize = std::mem::offset_of!(Owner, found) / 8;
const NAME: usize = std::mem::offset_of!(Owner, name) / 8;
const DIED: usize = std::mem::offset_of!(Owner, died_ns) / 8;
/// Words of [`Tally`].
const TAKEN: usize = std::mem::offset_of!(Tally, taken) / 8;
const EXPORTED: usize = std::mem::offset_of!(Tally, exported_ns) / 8;
const CHANGES: usize = std::mem::offset_of!(Tally, changes) / 8;

/// The slots, shared with the kernel.
pub(super) struct Slots {
    count: u32,
    owners: MappedArray<Owner>,
    tally: MappedArray<Tally>,
    changes: Changes,
    generation: MappedArray<u64>,
    by_id: BpfHashMap<MapData, u64, u32>,
    free: Queue<MapData, u32>,
}

impl Slots {
    /// The slots in the maps of the object, so many.
    pub(super) fn of(object: &mut Object, count: u32) -> Result<Self, LoadError> {
        Ok(Self {
            count,
            owners: object.mapped("OWNERS")?,
            tally: object.mapped("TALLY")?,
            changes: Changes { ring: object.mapped("CHANGES")?, looked_at: None, own: Vec::new() },
            generation: object.mapped("GENERATION")?,
            by_id: object.take("CGROUP_SLOTS")?,
            free: object.take("FREE_SLOTS")?,
        })
    }

    /// Makes all slots free that have no owner: in maps that are new, and that no program uses yet.
    pub(super) fn free_all_others(&mut self) -> Result<(), CgroupError> {
        let mut taken = 0;
        for slot in 1..self.count {
            if self.owner_id(slot).is_some() {
                taken += 1;
            } else {
                self.free.push(slot, 0).map_err(|source| CgroupError::Slots { action: "make", source })?;
            }
        }
        self.tally.set_word(0, TAKEN, taken);
        Ok(())
    }

    /// Number of slots, the unattributed one included.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Number of slots that have an owner.
    pub(super) fn taken(&self) -> u64 {
        self.tally.word(0, TAKEN).unwrap_or(0)
    }

    /// Cgroups ever born that found no free slot; not what is below them.
    pub(super) fn without_slot(&self) -> u64 {
        self.tally.read(0).map_or(0, |tally| tally.without_slot)
    }

    /// CLOCK_BOOTTIME in ns of the last batch that was exported of what these maps count, if there was one.
    pub(super) fn exported_ns(&self) -> Option<u64> {
        self.tally.word(0, EXPORTED).filter(|ns| *ns != 0)
    }

    /// A batch of that time leaves.
    pub(super) fn set_exported_ns(&self, boottime_ns: u64) {
        self.tally.set_word(0, EXPORTED, boottime_ns);
    }

    /// The slots whose owners were born or have died since the last call; `None` where all have to be looked at, as at first.
    pub(super) fn changed(&mut self) -> Option<Vec<u32>> {
        let last = self.tally.word(0, CHANGES)?;
        self.changes.since(last)
    }

    /// Id of the cgroup that owns a slot.
    pub(super) fn owner_id(&self, slot: u32) -> Option<u64> {
        self.owners.word(slot, ID).filter(|id| *id != 0)
    }

    /// The cgroup that owns a slot.
    pub(super) fn owner(&self, slot: u32) -> Option<Owner> {
        self.owners.read(slot)
    }

    /// When the owner of a slot was removed, CLOCK_BOOTTIME in ns.
    pub(super) fn died_ns(&self, slot: u32) -> Option<u64> {
        self.owners.word(slot, DIED).filter(|ns| *ns != 0)
    }

    /// Notes that the owner of a slot was removed.
    pub(super) fn set_died(&mut self, slot: u32, owner: &Owner, died_ns: u64) {
        self.owners.write(slot, &Owner { died_ns, ..*owner });
        self.changes.own.push(slot);
    }

    /// Names a cgroup whose name the kernel side could not read, where kernel memory may not be read by address. The name stays in the
    /// map for the next agent too.
    pub(super) fn set_name(&self, slot: u32, owner: &mut Owner, name: &OsStr) {
        write_name(owner, name);
        // The kernel side writes the time of death only; it has a separate word.
        for (word, bytes) in owner.name.chunks_exact(8).enumerate() {
            let bits = bytes.try_into().map_or(0, u64::from_ne_bytes);
            self.owners.set_word(slot, NAME + word, bits);
        }
        self.owners.set_word(slot, FOUND, u64::from(owner.name_len) << 32 | u64::from(owner.found));
    }

    /// The cgroup with this id is the parent of a slot's owner.
    pub(super) fn set_parent(&self, slot: u32, id: u64) {
        self.owners.set_word(slot, PARENT, id);
    }

    /// Whether the kernel finds a slot for the cgroup with this id.
    pub(super) fn has(&self, id: u64) -> bool {
        self.by_id.get(&id, 0).is_ok()
    }

    /// Takes a slot for this cgroup; `None` when there is none for it.
    pub(super) fn take(&mut self, owner: &Owner) -> Result<Option<u32>, CgroupError> {
        let failed = |source| CgroupError::Slots { action: "take", source };
        if !may_take(owner.level as u32, self.taken(), self.count) {
            return Ok(None);
        }
        let slot = match self.free.pop(0) {
            Ok(slot) => slot,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(source) => return Err(failed(source)),
        };
        self.tally.add_to_word(0, TAKEN, 1);
        self.owners.write(slot, owner);
        self.changes.own.push(slot);
        self.by_id.insert(owner.id, slot, 0).map_err(failed)?;
        Ok(Some(slot))
    }

    /// From now on the kernel finds no slot for the cgroup with this id.
    pub(super) fn close(&mut self, id: u64) -> Result<(), CgroupError> {
        match self.by_id.remove(&id) {
            Ok(()) => Ok(()),
            // Closed before the slots became more: an agent that goes on does not know that.
            Err(error) if is_absent(&error) => Ok(()),
            Err(source) => Err(CgroupError::Slots { action: "close", source }),
        }
    }

    /// Gives a slot back.
    pub(super) fn give_back(&mut self, slot: u32) -> Result<(), CgroupError> {
        self.owners.write(slot, &Owner::ZERO);
        self.tally.add_to_word(0, TAKEN, u64::MAX);
        self.free.push(slot, 0).map_err(|source| CgroupError::Slots { action: "give back", source })
    }

    /// Makes every CPU forget which slot a cgroup's address leads to, and every socket what was looked up for it.
    pub(super) fn start_generation(&self) {
        self.generation.add_to_word(0, 0, 1);
    }
}

/// The slots that have changed, as the kernel side notes them.
struct Changes {
    ring: MappedArray<u64>,
    /// The number of the last change that was looked at; `None` where all slots have to be looked at.
    looked_at: Option<u64>,
    /// What the agent itself has changed since then.
    own: Vec<u32>,
}

impl Changes {
    /// See [`Slots::changed`]; `last` is the number of the last change.
    fn since(&mut self, last: u64) -> Option<Vec<u32>> {
        let mut changed = std::mem::take(&mut self.own);
        let looked_at = self.looked_at.replace(last)?;
        if last.wrapping_sub(looked_at) > u64::from(CHANGES_LEN) {
            return None;
        }
        for number in looked_at + 1..=last {
            let entry = self.ring.word(number as u32 & (CHANGES_LEN - 1), 0).unwrap_or(0);
            let Some(slot) = changed_slot(entry, number) else {
                // Overwritten just now, or of a CPU whose writes are not seen in order: then by the next call.
                self.looked_at = None;
                return None;
            };
            changed.push(slot);
        }
        Some(changed)
    }
}

/// The births of cgroups that programs of other versions have seen, by id: CLOCK_BOOTTIME in ns.
pub(super) fn births(owners: &[MappedArray<Owner>]) -> HashMap<u64, u64> {
    let all = owners.iter().flat_map(|owners| (1..owners.entries()).filter_map(|slot| owners.read(slot)));
    all.filter(|owner| owner.id != 0 && owner.found == 0).map(|owner| (owner.id, owner.born_ns)).collect()
}

/// Writes a directory's name into a record.
pub(super) fn write_name(owner: &mut Owner, name: &OsStr) {
    let bytes = &name.as_bytes()[..name.len().min(NAME_LEN - 1)];
    owner.name = [0; NAME_LEN];
    owner.name[..bytes.len()].copy_from_slice(bytes);
    owner.name_len = bytes.len() as u32;
}

const _: () = assert!(UNATTRIBUTED == 0, "slot 0 is never handed out: the free slots start at 1");
