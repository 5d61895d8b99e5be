//! A loaded object in use: its maps as memory, and its programs run, walked or called.

use std::{fs::File, path::Path};

use aya::{
    Pod,
    maps::{Map, MapData, MapError, ProgramArray},
    programs::{Program, RawTracePoint, RawTracePointRunOptions, TestRun as _},
};

use super::{Hook, LoadError, Object};
use crate::kernel::{
    absent::is_absent,
    sys::{self, MappedArray},
};

impl Object {
    /// An array map as memory.
    ///
    /// # Errors
    /// When there is no such map or it cannot be mapped.
    pub fn mapped<T: Pod>(&self, map: &'static str) -> Result<MappedArray<T>, LoadError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| LoadError::Map { action: "map into memory", map, source };
        let data = match self.ebpf.map(map) {
            Some(Map::Array(data)) => data,
            _ => return Err(LoadError::Missing { object: self.name, what: "map", name: map.to_owned() }),
        };
        let entries = data.info().map_err(|e| failed(e.into()))?.max_entries();
        MappedArray::new(data.fd(), entries).map_err(|e| failed(e.into()))
    }

    /// A map for access by system calls: taken out of the object.
    ///
    /// # Errors
    /// When there is no such map, or it is of another kind.
    pub fn take<M>(&mut self, map: &'static str) -> Result<M, LoadError>
    where
        M: TryFrom<Map, Error = MapError>,
    {
        let taken = self.ebpf.take_map(map).ok_or(LoadError::Missing { object: self.name, what: "map", name: map.to_owned() })?;
        M::try_from(taken).map_err(|e| LoadError::Map { action: "open", map, source: e.into() })
    }

    /// Has a program called from a table of another object's.
    ///
    /// # Errors
    /// When the program is missing or the kernel refuses.
    pub fn call_from(&self, table: &mut ProgramArray<MapData>, index: u32, program: &'static str) -> Result<(), LoadError> {
        let failed = |source| LoadError::Program { action: "call", program: program.to_owned(), source: Box::new(source) };
        let missing = LoadError::Missing { object: self.name, what: "program", name: program.to_owned() };
        let fd = self.ebpf.program(program).ok_or(missing)?.fd().map_err(failed)?;
        table.set(index, fd, 0).map_err(|e| failed(e.into()))
    }

    /// Runs a raw-tracepoint program once, on the CPU given or on whichever, with that first argument, and returns what it returns.
    ///
    /// # Errors
    /// When the program is missing or the kernel refuses; [`LoadError::is_of_no_cpu`] where the CPU is offline.
    pub fn run(&self, program: &'static str, cpu: Option<u32>, argument: u64) -> Result<u32, LoadError> {
        let failed = |source| LoadError::Program { action: "run", program: program.to_owned(), source: Box::new(source) };
        let loaded: &RawTracePoint = self
            .ebpf
            .program(program)
            .ok_or(LoadError::Missing { object: self.name, what: "program", name: program.to_owned() })?
            .try_into()
            .map_err(failed)?;
        let mut options = RawTracePointRunOptions::new();
        options.cpu = cpu;
        options.args[0] = argument;
        Ok(loaded.test_run(options).map_err(failed)?.return_value)
    }

    /// Walks over all objects of a [`Hook::Walk`] program's kind: the program runs once for each while the file is read to its end.
    ///
    /// Cgroups are walked from `root` down, parents first; any other kind in the kernel's order.
    ///
    /// # Errors
    /// When the program is missing or the kernel refuses.
    pub fn walk(&mut self, program: &'static str, root: &Path) -> Result<File, LoadError> {
        let failed = |action, source: Box<dyn std::error::Error + Send + Sync>| LoadError::Link {
            action,
            program: program.to_owned(),
            source,
        };
        let over = self.attach.iter().find_map(|(name, hook)| match hook {
            Hook::Walk(over) if *name == program => Some(*over),
            _ => None,
        });
        let missing = LoadError::Missing { object: self.name, what: "program", name: program.to_owned() };
        let (Some(over), Some(Program::Iter(loaded))) = (over, self.ebpf.program_mut(program)) else { return Err(missing) };
        if over == "cgroup" {
            let root = File::open(root).map_err(|source| LoadError::Root { path: root.to_owned(), source })?;
            let fd = loaded.fd().map_err(|e| failed("read", e.into()))?;
            return sys::walk_cgroups(fd, root).map_err(|e| failed("make", e.into()));
        }
        let id = loaded.attach().map_err(|e| failed("make", e.into()))?;
        let link = loaded.take_link(id).map_err(|e| failed("make", e.into()))?;
        link.into_file().map_err(|e| failed("make", e.into()))
    }

    /// Walks over all sockets that have storage in `map`, of every network namespace: the program runs once for each while the file
    /// is read to its end.
    ///
    /// # Errors
    /// When the program or the map is missing or the kernel refuses.
    pub fn walk_sockets(&self, program: &'static str, map: &'static str) -> Result<File, LoadError> {
        let missing = |what, name: &str| LoadError::Missing { object: self.name, what, name: name.to_owned() };
        let failed = |source| LoadError::Link { action: "make", program: program.to_owned(), source };
        let Some(Program::Iter(loaded)) = self.ebpf.program(program) else { return Err(missing("program", program)) };
        let Some(Map::SkStorage(storage)) = self.ebpf.map(map) else { return Err(missing("map", map)) };
        let program_fd = loaded.fd().map_err(|e| failed(e.into()))?;
        sys::walk_sockets(program_fd, storage.fd()).map_err(|e| failed(e.into()))
    }
}

/// Takes the first program out of a table, if there is one: nobody calls it any more.
///
/// # Errors
/// When the kernel refuses.
pub fn clear_calls(table: &mut ProgramArray<MapData>, map: &'static str) -> Result<(), LoadError> {
    match table.clear_index(&0) {
        Ok(()) => Ok(()),
        Err(error) if is_absent(&error) => Ok(()),
        Err(source) => Err(LoadError::Map { action: "clear", map, source: source.into() }),
    }
}
