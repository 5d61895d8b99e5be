//! What stays of the kernel when all is attached: what was loaded, and one object of it given up or started again.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Hook, Kernel, LoadError, Loaded, grow::lock, kernel_log::KernelLog};
use crate::kernel::{
    pin::{self, PinError, Pins},
    price::RunningProgram,
    sys,
};

/// What stays of the kernel when all is attached.
pub struct Settled {
    /// The directory for pins, held.
    pub pins: Arc<Pins>,
    /// What was loaded.
    pub loaded: Vec<Loaded>,
    /// What programs say.
    log: KernelLog,
}

impl Kernel {
    /// Everything is attached: drops what only starting needed, and the pins of other versions.
    ///
    /// # Errors
    /// When bpffs refuses.
    pub fn settle(self) -> Result<Settled, LoadError> {
        let Self { pins, in_use, loaded, log, .. } = self;
        pins.settle(&in_use)?;
        sys::trim_heap();
        Ok(Settled { pins, loaded, log })
    }

    /// What is loaded now shares maps with what this process has loaded before, which goes on.
    pub fn start_beside(&mut self, settled: &Settled) {
        self.beside.clone_from(&settled.loaded);
    }

    /// What was loaded [beside](Self::start_beside) others goes on with them.
    ///
    /// # Errors
    /// When bpffs refuses.
    pub fn settle_beside(self, settled: &mut Settled) -> Result<(), LoadError> {
        let Self { pins, loaded, log, .. } = self;
        if !pins.keeps() {
            pins.settle(&[])?;
        }
        settled.loaded.extend(loaded);
        settled.log.extend(log);
        sys::trim_heap();
        Ok(())
    }
}

impl Settled {
    /// Logs what programs have said since.
    pub fn log(&mut self) {
        self.log.flush();
    }

    /// An object is given up: its programs are detached, and nothing of it stays in bpffs.
    ///
    /// # Errors
    /// When bpffs refuses; the programs are detached all the same, as far as they are not pinned.
    pub fn forget(&mut self, object: &str) -> Result<(), PinError> {
        let of_it: Vec<Loaded> = self.loaded.extract_if(.., |loaded| loaded.object == object).collect();
        let mut removed = Ok(());
        for loaded in of_it {
            // The last attached first. Nothing is pinned where nothing is kept.
            if loaded.version.place.exists() {
                removed = pin::remove(&loaded.version.place).and(removed);
            }
            let mut links = lock(&loaded.links);
            while links.pop().is_some() {}
        }
        removed
    }

    /// Every program that is loaded, with what it takes to look at its statistics.
    pub fn programs(&self) -> Vec<RunningProgram> {
        let mut programs = Vec::new();
        for loaded in &self.loaded {
            let links = lock(&loaded.links);
            for program in loaded.programs.iter() {
                let link = links.iter().find(|(name, _)| *name == program.name);
                programs.push(RunningProgram {
                    name: program.name,
                    fd: program.fd.as_ref().and_then(|fd| fd.try_clone().ok()),
                    id: link.and_then(|(_, link)| link.info().ok()).map(|info| info.program_id()),
                    // The agent waits for what it has run on another CPU. What is called by other programs is in their time.
                    runs_in_agent: matches!(program.hook, Hook::Walk(_) | Hook::Call),
                });
            }
        }
        programs
    }
}

/// Pins a map of an object that runs into the place of another that shares it: where nothing is kept, the pins are gone by now.
pub(super) fn pin_again(beside: &[Loaded], owner: &'static str, map: &'static str, place: &Path) -> Result<PathBuf, LoadError> {
    let path = place.join(map);
    let maps = beside.iter().filter(|loaded| loaded.object == owner).flat_map(|loaded| loaded.maps.iter());
    let missing = || LoadError::Missing { object: owner, what: "map", name: map.to_owned() };
    let (_, data) = maps.into_iter().find(|(name, _)| *name == map).ok_or_else(missing)?;
    data.pin(&path).map_err(|source| LoadError::Map { action: "pin", map, source: source.into() })?;
    Ok(path)
}
