//! More slots or other programs, and no counter reset: maps that are larger take over what smaller ones hold, slot by slot, and programs of
//! another version of the agent take over the maps themselves.
//!
//! Slot i stays slot i. Maps whose size does not depend on the slots stay what they are. From the moment when the old programs are detached
//! until the new ones are attached, some ms for each object, nothing is counted by it.

use std::{
    os::fd::AsFd as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aya::{
    maps::{MapData, MapType},
    programs::{ProgramFd, links::FdLink},
};

use super::{Hook, Kernel, LoadError, Object, Size};
use crate::kernel::{
    pin::{self, Version},
    sys::{self, MappedArray},
};

/// The links that keep an object's programs attached, in the order of their attachment.
pub(super) type Links = Arc<Mutex<Vec<(&'static str, FdLink)>>>;

/// The links, whatever has become of another thread that held them.
pub(super) fn lock(links: &Links) -> MutexGuard<'_, Vec<(&'static str, FdLink)>> {
    links.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What this process has loaded of an object: what it takes to go on with more slots.
#[derive(Clone)]
pub struct Loaded {
    pub(super) object: &'static str,
    pub(super) version: Version,
    pub(super) since_ns: u64,
    pub(super) maps: Arc<Vec<(&'static str, MapData)>>,
    pub(super) links: Links,
    pub(super) programs: Arc<Vec<LoadedProgram>>,
}

/// A program of an object, as this process has it.
pub(super) struct LoadedProgram {
    pub(super) name: &'static str,
    pub(super) hook: Hook,
    /// None of one that an earlier agent has loaded: its link alone is pinned.
    pub(super) fd: Option<ProgramFd>,
}

/// Where an object with more slots takes over from.
pub(super) struct Source {
    version: Version,
    pub(super) since_ns: u64,
    /// Those of this process; none of an earlier one.
    links: Option<Links>,
    maps: Arc<Vec<(&'static str, MapData)>>,
}

impl Source {
    /// Has the maps that stay what they are found in the place of the new object. A queue never stays: it is filled anew.
    pub(super) fn share(&self, maps: &[(&'static str, Size)], new: &Version) -> Result<(), LoadError> {
        for (map, data) in self.maps.iter() {
            let failed = |source: Box<dyn std::error::Error + Send + Sync>| LoadError::Map { action: "pin", map, source };
            let queue = data.info().and_then(|info| info.map_type()).map_err(|error| failed(error.into()))? == MapType::Queue;
            let by_slot = maps.iter().any(|(name, size)| name == map && matches!(size, Size::Slots(_)));
            let grows = by_slot && self.version.slots != new.slots;
            if !queue && !grows {
                data.pin(new.place.join(map)).map_err(|error| failed(error.into()))?;
            }
        }
        Ok(())
    }
}

impl Kernel {
    /// What this version of an object can take over: this process's own with fewer slots, or what an earlier agent has pinned.
    pub(super) fn source(&mut self, object: &str, new: &Version, maps: &[(&'static str, Size)]) -> Option<Source> {
        let fits = |version: &Version| version.counts == new.counts && version.slots <= new.slots && version.place != new.place;
        if let Some(i) = self.before.iter().position(|loaded| loaded.object == object) {
            let Loaded { version, since_ns, maps, links, .. } = self.before.remove(i);
            return fits(&version).then_some(Source { version, since_ns, links: Some(links), maps });
        }
        let versions = self.pins.versions(object).into_iter().filter(fits);
        let (version, since_ns) = versions
            .filter_map(|version| pin::since(&version.place).ok().flatten().map(|since_ns| (version, since_ns)))
            .max_by_key(|(version, _)| version.slots)?;
        let open = |(map, _): &(&'static str, Size)| Some((*map, MapData::from_pin(version.place.join(map)).ok()?));
        let maps = Arc::new(maps.iter().map(open).collect::<Option<Vec<_>>>()?);
        Some(Source { version, since_ns, links: None, maps })
    }

    /// Fills an object that [goes on](Object::adopted) with more slots or other programs than before, if it is one. The programs before it are detached by
    /// then; its own are not attached yet.
    ///
    /// # Errors
    /// When the kernel refuses. Then what was counted before is lost.
    pub fn take_over(&mut self, object: &mut Object) -> Result<(), LoadError> {
        let Some(source) = object.source.take() else { return Ok(()) };
        let Version { place, slots, .. } = &source.version;
        // Without this number the old place is none that anyone goes on from.
        pin::forget_since(place)?;
        for (program, _) in object.attach.iter().rev() {
            pin::remove_file(&place.join(program))?;
        }
        if let Some(links) = &source.links {
            let mut links = lock(links);
            while links.pop().is_some() {}
        }
        sys::wait_for_programs();
        let grown = object.sizes.iter().filter(|_| *slots != self.slots);
        for (map, size) in grown {
            let (Size::Slots(copies), Some((_, from))) = (size, source.maps.iter().find(|(name, _)| name == map)) else {
                continue;
            };
            let copied = MapData::from_pin(object.version.place.join(map)).map_err(|error| error.into());
            let copied = copied.and_then(|to| copy(from, &to, *copies, *slots, self.slots));
            copied.map_err(|source| LoadError::Map { action: "take over", map, source })?;
        }
        object.since_ns = source.since_ns;
        pin::remove(place)?;
        Ok(())
    }
}

/// Copies what a map holds into a larger one. A queue is left as it is.
fn copy(from: &MapData, to: &MapData, copies: u32, old: u32, new: u32) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let info = to.info()?;
    let words = info.value_size().div_ceil(8);
    match info.map_type()? {
        MapType::Array => {
            let open = |map: &MapData, slots: u32| MappedArray::<u64>::new(map.fd().as_fd(), slots * copies * words);
            let (from, to) = (open(from, old)?, open(to, new)?);
            for copy in 0..copies {
                for word in 0..old * words {
                    // A page that is not written costs nothing.
                    if let Some(bits) = from.word(copy * old * words + word, 0).filter(|bits| *bits != 0) {
                        to.set_word(copy * new * words + word, 0, bits);
                    }
                }
            }
            Ok(())
        }
        MapType::Hash => Ok(sys::copy_entries(from.fd(), to.fd(), info.key_size(), info.value_size())?),
        _ => Ok(()),
    }
}

/// What a process that goes on with more slots needs of those that it has loaded.
pub(super) fn loaded(object: &Object) -> Result<Loaded, LoadError> {
    let version = object.version.clone();
    let open = |(map, _): &(&'static str, Size)| {
        let data = MapData::from_pin(version.place.join(map));
        Ok((*map, data.map_err(|source| LoadError::Map { action: "open", map, source: source.into() })?))
    };
    let maps = Arc::new(object.sizes.iter().map(open).collect::<Result<_, LoadError>>()?);
    let (since_ns, links) = (object.since_ns, Arc::clone(&object.links));
    let program = |(name, hook): &(&'static str, Hook)| {
        let fd = object.ebpf.program(name).and_then(|program| program.fd().ok()?.try_clone().ok());
        LoadedProgram { name, hook: *hook, fd }
    };
    let there = object.attach.iter().filter(|(name, _)| !object.does_without(name));
    let programs = Arc::new(there.map(program).collect());
    Ok(Loaded { object: object.name, version, since_ns, maps, links, programs })
}
