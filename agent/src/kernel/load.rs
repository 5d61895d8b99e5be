//! Objects into the kernel: offsets frozen, maps sized and shared, programs verified, attached and pinned.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader, Endianness, Pod,
    maps::{Map, MapData, MapError, ProgramArray},
    programs::{
        CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError, RawTracePoint, RawTracePointRunOptions, TestRun as _,
        links::{FdLink, LinkError, PinnedLink},
    },
};

use super::{
    btf::{Btf, BtfError},
    facts,
    mounts::{self, MountError},
    pin::{self, PinError, Pins},
    sys::{self, MappedArray},
};

/// Why something could not be brought into the kernel.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel shows no types, or damaged ones.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// bpffs is missing.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Pins cannot be used.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The machine's CPUs are unknown.
    #[error("could not read the list of CPUs")]
    Cpus(#[source] io::Error),
    /// The object's maps could not be created.
    #[error("could not create the maps of {object}")]
    Object {
        /// The object.
        object: &'static str,
        /// What aya or the kernel said.
        #[source]
        source: Box<aya::EbpfError>,
    },
    /// The object lacks what the agent expects of it.
    #[error("{object} has no {what} {name}: the agent and its eBPF objects are of different builds")]
    Missing {
        /// The object.
        object: &'static str,
        /// `map` or `program`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The verifier or the kernel refused a program; the text ends with the verifier's log.
    #[error("could not {action} {program}")]
    Program {
        /// `load`, `attach`, `run`.
        action: &'static str,
        /// The program.
        program: String,
        /// What the kernel said.
        #[source]
        source: Box<ProgramError>,
    },
    /// The cgroup that programs are attached to could not be opened.
    #[error("could not open the root of the cgroup tree at {}", path.display())]
    Root {
        /// The mount point of cgroup2.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A link could not be made, pinned, taken over or read.
    #[error("could not {action} the link of {program}")]
    Link {
        /// `make`, `pin`, `open` or `read`.
        action: &'static str,
        /// The program.
        program: String,
        /// What the kernel said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map could not be read or written.
    #[error("could not {action} the map {map}")]
    Map {
        /// What was being done.
        action: &'static str,
        /// The map.
        map: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The kernel, ready to take objects.
pub struct Kernel {
    /// Its types: where offsets come from.
    pub btf: Btf,
    /// Number of possible CPUs.
    pub cpus: u32,
    /// Whether signals may walk over the kernel's structs where they could also read files.
    pub walks: bool,
    root: PathBuf,
    typed: aya::Btf,
    pins: Pins,
    in_use: Vec<PathBuf>,
    anew: bool,
}

/// What makes a program run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// The raw tracepoint of that name, its arguments typed by BTF.
    Tracepoint(&'static str),
    /// Every packet that a socket of any cgroup receives.
    Ingress,
    /// Every packet that a socket of any cgroup sends.
    Egress,
    /// What happens to the TCP connections of any cgroup.
    SockOps,
    /// A walk over all objects of that kind, `cgroup`, `tcp` or `bpf_sk_storage_map`, whenever the agent wants one: see [`Object::walk`].
    Walk(&'static str),
    /// Nothing by itself: the agent runs it, see [`Object::run_on`], or another program calls it.
    Call,
}

impl Hook {
    /// Whether the program stays attached by a link, which can be pinned.
    fn has_link(self) -> bool {
        !matches!(self, Self::Walk(_) | Self::Call)
    }
}

/// What is to be loaded.
pub struct Plan<'a, F> {
    /// Name of the signal: its object, its pins.
    pub object: &'static str,
    /// The ELF object.
    pub bytes: &'a [u8],
    /// Name and value of the frozen global.
    pub facts: (&'a str, F),
    /// Its own maps, with the number of entries where that depends on the machine or the configuration.
    pub maps: &'a [(&'static str, Option<u32>)],
    /// Maps that belong to an object loaded before.
    pub shared: &'a [(&'static str, &'a Object)],
    /// Its programs, each with what makes it run.
    pub programs: &'a [(&'static str, Hook)],
}

/// A loaded object: its maps, its programs, the links that keep them attached.
pub struct Object {
    name: &'static str,
    ebpf: Ebpf,
    pins: PathBuf,
    hash: u64,
    adopted: bool,
    attach: Vec<(&'static str, Hook)>,
    links: Vec<FdLink>,
}

impl Kernel {
    /// Reads the kernel's types and prepares `directory` for pins, which `pins` then opens.
    ///
    /// `tracepoints` are all tracepoints that any object will be attached to, `root` is the mount point of cgroup2.
    ///
    /// # Errors
    /// When the kernel lacks BTF or bpffs, or another agent holds the directory.
    pub fn open(
        directory: &Path,
        pins: impl FnOnce() -> Result<Pins, PinError>,
        tracepoints: &[&str],
        root: PathBuf,
    ) -> Result<Self, LoadError> {
        let btf = Btf::from_sys()?;
        mounts::ensure_bpffs(directory)?;
        let pins = pins()?;
        let cpus = facts::possible_cpus().map_err(LoadError::Cpus)?;
        let typed = stand_in(&btf, tracepoints)?;
        Ok(Self { btf, cpus, walks: true, root, typed, pins, in_use: Vec::new(), anew: false })
    }

    /// Loads an object: creates its maps or adopts those that an earlier agent pinned, and verifies its programs.
    ///
    /// Nothing is attached yet: the agent may fill maps first.
    ///
    /// # Errors
    /// When the kernel refuses; the error carries the verifier's log.
    pub fn load<F: Pod>(&mut self, plan: &Plan<'_, F>) -> Result<Object, LoadError> {
        let object = plan.object;
        let maps = format!("{:?}", plan.maps);
        let shared: Vec<u64> = plan.shared.iter().map(|(_, owner)| owner.hash).collect();
        // The same programs may be attached in one configuration and called in another.
        let rest = format!("{shared:?}{:?}", plan.programs);
        let hash = pin::hash(&[plan.bytes, sys::bytes_of(&plan.facts.1), maps.as_bytes(), rest.as_bytes()]);
        let links: Vec<&str> = plan.programs.iter().filter(|(_, hook)| hook.has_link()).map(|(program, _)| *program).collect();
        let (place, adopted) = self.pins.object(object, hash, &links)?;

        // What the verifier and the kernel need of its types they have; giving them to aya would cost 40 MB and 200 ms.
        let mut loader = EbpfLoader::new();
        loader.btf(None).override_global(plan.facts.0, &plan.facts.1, true);
        for (map, size) in plan.maps {
            if let Some(size) = size {
                loader.map_max_entries(map, *size);
            }
            loader.map_pin_path(map, place.join(map));
        }
        for (map, owner) in plan.shared {
            loader.map_pin_path(map, owner.pins.join(map));
        }
        let mut ebpf = loader.load(plan.bytes).map_err(|source| LoadError::Object { object, source: Box::new(source) })?;

        for (program, hook) in plan.programs {
            // An adopted program runs already: its link is pinned.
            if adopted && hook.has_link() {
                continue;
            }
            let name = (*program).to_owned();
            let failed = |source| LoadError::Program { action: "load", program: name.clone(), source: Box::new(source) };
            let loaded =
                ebpf.program_mut(program).ok_or_else(|| LoadError::Missing { object, what: "program", name: name.clone() })?;
            match (loaded, *hook) {
                (Program::BtfTracePoint(loaded), Hook::Tracepoint(tracepoint)) => loaded.load(tracepoint, &self.typed),
                (Program::CgroupSkb(loaded), Hook::Ingress | Hook::Egress | Hook::Call) => loaded.load(),
                (Program::SockOps(loaded), Hook::SockOps) => loaded.load(),
                (Program::Iter(loaded), Hook::Walk(over)) => loaded.load(over, &self.typed),
                (Program::RawTracePoint(loaded), Hook::Call) => loaded.load(),
                _ => Err(ProgramError::UnexpectedProgramType),
            }
            .map_err(failed)?;
        }
        self.in_use.push(place.clone());
        self.anew |= !adopted;
        Ok(Object { name: object, ebpf, pins: place, hash, adopted, attach: plan.programs.to_vec(), links: Vec::new() })
    }

    /// Attaches an object's programs, or takes over the links that an earlier agent pinned.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&self, object: &mut Object) -> Result<(), LoadError> {
        for (program, hook) in object.attach.clone() {
            if !hook.has_link() {
                continue;
            }
            let unlinked = |action, source: Box<dyn std::error::Error + Send + Sync>| LoadError::Link {
                action,
                program: program.to_owned(),
                source,
            };
            let place = object.pins.join(program);
            if object.adopted {
                let link = PinnedLink::from_pin(&place).map_err(|e: LinkError| unlinked("open", e.into()))?;
                object.links.push(link.into());
                continue;
            }
            let link = self.link(object, program, hook)?;
            object.links.push(if self.pins.keeps() {
                link.pin(&place).map_err(|e| unlinked("pin", e.into()))?.into()
            } else {
                link
            });
        }
        Ok(())
    }

    fn link(&self, object: &mut Object, program: &'static str, hook: Hook) -> Result<FdLink, LoadError> {
        let failed = |source| LoadError::Program { action: "attach", program: program.to_owned(), source: Box::new(source) };
        let root = || File::open(&self.root).map_err(|source| LoadError::Root { path: self.root.clone(), source });
        // A link is one of many on its cgroup, whatever others attach: only the old kind of attachment needs a mode.
        let mode = CgroupAttachMode::Single;
        let missing = LoadError::Missing { object: object.name, what: "program", name: program.to_owned() };
        match (object.ebpf.program_mut(program).ok_or(missing)?, hook) {
            (Program::BtfTracePoint(loaded), Hook::Tracepoint(_)) => {
                let id = loaded.attach().map_err(failed)?;
                Ok(loaded.take_link(id).map_err(failed)?.into())
            }
            (Program::CgroupSkb(loaded), Hook::Ingress | Hook::Egress) => {
                let way = if hook == Hook::Ingress { CgroupSkbAttachType::Ingress } else { CgroupSkbAttachType::Egress };
                let id = loaded.attach(root()?, way, mode).map_err(failed)?;
                let link = loaded.take_link(id).map_err(failed)?;
                link.try_into().map_err(|e: LinkError| LoadError::Link {
                    action: "make",
                    program: program.to_owned(),
                    source: e.into(),
                })
            }
            (Program::SockOps(loaded), Hook::SockOps) => {
                let id = loaded.attach(root()?, mode).map_err(failed)?;
                let link = loaded.take_link(id).map_err(failed)?;
                link.try_into().map_err(|e: LinkError| LoadError::Link {
                    action: "make",
                    program: program.to_owned(),
                    source: e.into(),
                })
            }
            _ => Err(failed(ProgramError::UnexpectedProgramType)),
        }
    }

    /// The table of programs that `map` of `object` calls, where that object was loaded before this one.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn calls_of(&self, object: &str, map: &'static str) -> Result<Option<ProgramArray<MapData>>, LoadError> {
        let is_its = |place: &&PathBuf| {
            let name = place.file_name().map(|name| name.to_string_lossy());
            name.and_then(|name| name.rsplit_once('-').map(|(name, _)| name == object)).unwrap_or(false)
        };
        let Some(place) = self.in_use.iter().find(is_its) else { return Ok(None) };
        let failed = |e: MapError| LoadError::Map { action: "open", map, source: e.into() };
        let data = MapData::from_pin(place.join(map)).map_err(failed)?;
        ProgramArray::try_from(Map::ProgramArray(data)).map(Some).map_err(failed)
    }

    /// Whether any object began to count only now, rather than going on with what an earlier agent left.
    pub fn counts_anew(&self) -> bool {
        self.anew
    }

    /// Everything is attached: drops what only starting needed, and the pins of other versions.
    ///
    /// # Errors
    /// When bpffs refuses.
    pub fn settle(self) -> Result<Pins, LoadError> {
        let Self { pins, in_use, .. } = self;
        pins.settle(&in_use)?;
        sys::trim_heap();
        Ok(pins)
    }
}

impl Object {
    /// Whether its maps already hold what an earlier agent counted.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

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

    /// Runs a raw-tracepoint program once on the given CPU, now.
    ///
    /// # Errors
    /// When the program is missing or the kernel refuses: the CPU went offline.
    pub fn run_on(&self, program: &'static str, cpu: u32) -> Result<(), LoadError> {
        let failed = |source| LoadError::Program { action: "run", program: program.to_owned(), source: Box::new(source) };
        let loaded: &RawTracePoint = self
            .ebpf
            .program(program)
            .ok_or(LoadError::Missing { object: self.name, what: "program", name: program.to_owned() })?
            .try_into()
            .map_err(failed)?;
        let mut options = RawTracePointRunOptions::new();
        options.cpu = Some(cpu);
        loaded.test_run(options).map_err(failed)?;
        Ok(())
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

/// The iterators that programs may be of.
const WALKS: [&str; 3] = ["bpf_sk_storage_map", "cgroup", "tcp"];

/// A BTF in which the types of tracepoints and iterators have the ids that the running kernel gives them, and nothing else has a
/// name.
///
/// aya finds a tracepoint by a typedef's name, an iterator by a function's, and tells the kernel its id.
fn stand_in(btf: &Btf, tracepoints: &[&str]) -> Result<aya::Btf, LoadError> {
    const FWD: u32 = 7 << 24;
    const TYPEDEF: u32 = 8 << 24;
    const FUNC: u32 = 12 << 24;
    let typedefs = tracepoints.iter().map(|name| format!("btf_trace_{name}"));
    let typedefs = typedefs.filter_map(|name| Some((btf.typedef_id(&name).ok()?, TYPEDEF, name)));
    let functions = WALKS.iter().map(|name| format!("bpf_iter_{name}"));
    let functions = functions.filter_map(|name| Some((btf.function_id(&name).ok()?, FUNC, name)));
    let mut strings = vec![0_u8];
    let mut wanted = Vec::new();
    for (id, kind, name) in typedefs.chain(functions) {
        wanted.push((id, kind, strings.len() as u32));
        strings.extend(name.bytes().chain([0]));
    }
    let last = wanted.iter().map(|(id, ..)| *id).max().unwrap_or(0);
    let mut types = Vec::with_capacity(last as usize * 12);
    for id in 1..=last {
        let (name, kind) = wanted.iter().find(|(w, ..)| *w == id).map_or((0, FWD), |(_, kind, name)| (*name, *kind));
        types.extend([name, kind, 0].iter().flat_map(|word: &u32| word.to_ne_bytes()));
    }
    let types_len = types.len() as u32;
    let mut data = Vec::with_capacity(24 + types.len() + strings.len());
    data.extend(0xeb9f_u16.to_ne_bytes());
    data.extend([1, 0]);
    data.extend([24, 0, types_len, types_len, strings.len() as u32].iter().flat_map(|word: &u32| word.to_ne_bytes()));
    data.extend(types);
    data.extend(strings);
    aya::Btf::parse(&data, Endianness::default())
        .map_err(|source| LoadError::Object { object: "tracepoints", source: Box::new(aya::EbpfError::BtfError(source)) })
}
