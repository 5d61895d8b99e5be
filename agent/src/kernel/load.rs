//! Objects into the kernel: offsets frozen, maps sized and shared, programs verified, attached and pinned.

mod attach;
mod error;
mod grow;
mod hazards;
mod kernel_log;
mod object;
pub mod placeholder;
mod settled;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Map, MapData, MapError, ProgramArray},
    programs::{Program, ProgramError, ProgramType},
    sys::{BpfHelper, is_helper_supported},
};

pub use self::{error::LoadError, grow::Loaded, object::clear_calls, settled::Settled};
use self::{
    grow::{Links, Source},
    hazards::Hazards,
    kernel_log::KernelLog,
    placeholder::placeholder,
};
use super::{
    btf::Btf,
    clock::Clock,
    facts, mounts,
    pin::{self, PinError, Pins, Version},
    sys::{self, MappedArray},
};

/// Why programs do without the helpers that read kernel memory by address.
pub const LOCKED_DOWN: &str = "the kernel is locked down for confidentiality and lets no program read its memory by address";

/// The layout of records and maps: see `build.rs`.
const LAYOUT: &str = env!("PODMETER_LAYOUT");

/// The helper that reads kernel memory by address; `bpf.leave_out` may name it.
const BY_ADDRESS: &str = "bpf_probe_read_kernel";

/// The instruction that compares and exchanges; `bpf.leave_out` may name it.
const EXCHANGE: &str = "cmpxchg";

/// Whether this kernel lets programs read its memory by address: see [`LOCKED_DOWN`].
pub fn reads_by_address() -> bool {
    // Where the kernel cannot be asked, a program that it refuses says so.
    is_helper_supported(ProgramType::RawTracePoint, BpfHelper::BPF_FUNC_probe_read_kernel).unwrap_or(true)
}

/// The kernel, ready to take objects.
pub struct Kernel {
    /// Its types: where offsets come from.
    pub btf: Btf,
    /// One more than the largest id of a CPU that could ever be online: how long an array by CPU is.
    pub cpus: u32,
    /// Whether programs may read kernel memory by address; not where it is locked down for confidentiality
    /// (`LOCKDOWN_BPF_READ_KERNEL`). Typed loads are allowed everywhere.
    pub reads_by_address: bool,
    /// Whether programs may compare and exchange; not before Linux 5.12, on ARM 5.18.
    pub exchanges: bool,
    hazards: Hazards,
    /// Number of slots: how long an array by slot is.
    pub slots: u32,
    /// Programs that the configuration leaves out, or the helper [`BY_ADDRESS`], or the instruction [`EXCHANGE`].
    leave_out: Vec<String>,
    root: PathBuf,
    typed: aya::Btf,
    /// One for all objects: a new one reads and parses all of the kernel's types first, which takes 20 MiB and 50 ms, for relocations that
    /// our objects do not have.
    loader: EbpfLoader<'static>,
    pins: Arc<Pins>,
    in_use: Vec<PathBuf>,
    /// What this process has loaded before, with fewer slots.
    before: Vec<Loaded>,
    /// What this process has loaded before and goes on with beside what is loaded now.
    beside: Vec<Loaded>,
    loaded: Vec<Loaded>,
    /// Where programs say what they meet: a number that no other agent has. Theirs write to rings that this one does not read.
    logs: Option<u64>,
    log: KernelLog,
}

/// What makes a program run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// The raw tracepoint of that name, its arguments typed by BTF.
    Tracepoint(&'static str),
    /// A call of the kernel's function of that name, one of [`FUNCTIONS`](placeholder::FUNCTIONS), its arguments typed by BTF.
    Entry(&'static str),
    /// The return of that function, with what it returns.
    Exit(&'static str),
    /// Every packet that a socket of any cgroup receives.
    Ingress,
    /// Every packet that a socket of any cgroup sends.
    Egress,
    /// What happens to the TCP connections of any cgroup.
    SockOps,
    /// A walk over all objects of that kind, `cgroup`, `tcp` or `bpf_sk_storage_map`, whenever the agent wants one: see [`Object::walk`].
    Walk(&'static str),
    /// Nothing by itself: the agent runs it, see [`Object::run`], or another program calls it.
    Call,
}

impl Hook {
    /// The kernel's number for programs at the root of the cgroup tree (`enum bpf_attach_type`).
    fn attach_type(self) -> Option<u32> {
        match self {
            Self::Ingress => Some(0),
            Self::Egress => Some(1),
            Self::SockOps => Some(3),
            Self::Tracepoint(_) | Self::Entry(_) | Self::Exit(_) | Self::Walk(_) | Self::Call => None,
        }
    }

    /// Whether the program stays attached by a link, which can be pinned.
    fn has_link(self) -> bool {
        !matches!(self, Self::Walk(_) | Self::Call)
    }
}

/// The global of every object that says what this kernel and this machine are like.
const FACTS: &str = "FACTS";

/// What is to be loaded.
pub struct Plan<'a, F> {
    /// Name of the signal: its object, its pins.
    pub object: &'static str,
    /// The ELF object.
    pub bytes: &'a [u8],
    /// The value of the frozen global [`FACTS`].
    pub facts: F,
    /// Its own maps and their sizes.
    pub maps: &'a [(&'static str, Size)],
    /// Maps that belong to an object loaded before.
    pub shared: &'a [(&'static str, &'a Object)],
    /// Its programs, each with what makes it run.
    pub programs: &'a [(&'static str, Hook)],
    /// Which of them it can do without.
    pub optional: &'a [Optional],
}

/// How many entries a map has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// As many as the object says.
    Fixed,
    /// So many: by the machine or the configuration.
    Entries(u32),
    /// So many arrays with one value of `bytes` bytes each, allocated by themselves.
    Arrays {
        /// How many.
        entries: u32,
        /// Bytes of each.
        bytes: u32,
    },
    /// So many for each slot. In an array they are at `[copy * slots + slot]`, and its values are mapped into memory.
    Slots(u32),
}

/// Programs that an object can do without, all of them or none.
#[derive(Clone, Copy, Debug)]
pub struct Optional {
    /// Their names.
    pub programs: &'static [&'static str],
    /// What is missing without them, for people: `no resets`.
    pub lost: &'static str,
}

/// A loaded object: its maps, its programs, the links that keep them attached.
pub struct Object {
    name: &'static str,
    ebpf: Ebpf,
    version: Version,
    goes_on: GoesOn,
    source: Option<Source>,
    since_ns: u64,
    sizes: Vec<(&'static str, Size)>,
    attach: Vec<(&'static str, Hook)>,
    optional: Vec<Optional>,
    refused: Vec<Refused>,
    links: Links,
}

/// Whether an object's maps hold what was counted before it was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GoesOn {
    /// No: they are new.
    Anew,
    /// With the maps and links of an earlier agent.
    Adopted,
    /// With the maps of other programs, or with larger ones into which smaller ones are copied.
    TakenOver,
}

/// Optional programs that this kernel does not take.
#[derive(Debug)]
struct Refused {
    what: Optional,
    /// The program that was refused and why.
    reason: String,
}

impl Kernel {
    /// Reads the kernel's types and prepares `directory` for pins, which `pins` then opens.
    ///
    /// `tracepoints` are all tracepoints that any object will be attached to, `root` is the mount point of cgroup2. Programs that
    /// `leave_out` names are taken for refused.
    ///
    /// # Errors
    /// When the kernel lacks BTF or bpffs, or another agent holds the directory.
    pub fn open(
        directory: &Path,
        pins: impl FnOnce() -> Result<Arc<Pins>, PinError>,
        tracepoints: &[&str],
        root: PathBuf,
        leave_out: Vec<String>,
    ) -> Result<Self, LoadError> {
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        loader.map_max_entries(kernel_log::RING, kernel_log::LEAST_RING);
        let btf = Btf::from_sys()?;
        mounts::ensure_bpffs(directory)?;
        let pins = pins()?;
        let cpus = facts::cpu_ids().map_err(LoadError::Cpus)?;
        let typed = placeholder(&btf, tracepoints)?;
        let left_out = |name: &str| leave_out.iter().any(|left_out| left_out == name);
        let reads_by_address = reads_by_address() && !left_out(BY_ADDRESS);
        let exchanges = sys::exchanges() && !left_out(EXCHANGE);
        let hazards = Hazards::of(&btf);
        let (in_use, before, beside, loaded) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Ok(Self {
            btf,
            cpus,
            reads_by_address,
            exchanges,
            hazards,
            slots: 0,
            leave_out,
            root,
            typed,
            loader,
            pins,
            in_use,
            before,
            beside,
            loaded,
            logs: None,
            log: KernelLog::default(),
        })
    }

    /// Programs that are loaded from now on say what they meet: see [`Settled::log`].
    pub fn switch_log_on(&mut self) {
        self.logs = Some(facts::boottime_ns());
        self.loader.map_max_entries(kernel_log::RING, kernel_log::RING_WITH_ROOM);
    }

    /// Goes on with what this process has loaded, which has fewer slots.
    pub fn go_on_from(&mut self, loaded: Vec<Loaded>) {
        self.before = loaded;
    }

    /// The most slots for which earlier agents have pinned counts of this object.
    pub fn pinned_slots(&self, object: &str) -> Option<u32> {
        let versions = self.pins.versions(object).into_iter();
        versions
            .filter(|version| pin::since(&version.place).is_ok_and(|since| since.is_some()))
            .map(|version| version.slots)
            .max()
    }

    /// Loads an object: creates its maps or adopts those that an earlier agent pinned, and verifies its programs. Where there is one with
    /// other programs or fewer slots whose maps hold the same, [`attach`](Self::attach) goes on with what that has counted.
    ///
    /// Nothing is attached yet: the agent may fill maps first. Optional programs that the kernel refuses are left out: see
    /// [`Object::lacks`].
    ///
    /// # Errors
    /// When the kernel refuses; the error carries the verifier's log.
    pub fn load<F: Pod>(&mut self, plan: &Plan<'_, F>) -> Result<Object, LoadError> {
        let object = plan.object;
        let version = self.version(plan);
        let is_optional = |program: &str| plan.optional.iter().any(|optional| optional.programs.contains(&program));
        let needed = plan.programs.iter().filter(|(program, hook)| hook.has_link() && !is_optional(program));
        let links: Vec<&str> = needed.map(|(program, _)| *program).collect();
        // Programs that run have the maps of others that they were loaded with.
        let those_before = plan.shared.iter().all(|(_, owner)| owner.goes_on == GoesOn::Adopted);
        let place = version.place.clone();
        let adopted = if those_before && self.before.is_empty() { self.pins.adopt(&place, &links)? } else { None };
        let source = match adopted {
            None if plan.shared.iter().all(|(_, owner)| owner.adopted()) => self.source(object, &version, plan.maps),
            _ => None,
        };
        if adopted.is_none() {
            pin::make_anew(&place)?;
        }
        if let Some(source) = &source {
            source.share(plan.maps, &version)?;
        }

        let loader = &mut self.loader;
        loader.override_global(FACTS, kept(plan.facts), true);
        loader.override_global("READS_BY_ADDRESS", kept(u64::from(self.reads_by_address)), false);
        loader.override_global("SLOTS", kept(self.slots), false);
        loader.override_global(aya_log::LEVEL, kept(if self.logs.is_some() { kernel_log::ON } else { kernel_log::OFF }), false);
        for (map, size) in plan.maps {
            match size {
                Size::Fixed => {}
                Size::Entries(entries) => drop(loader.map_max_entries(map, *entries)),
                Size::Arrays { entries, bytes } => {
                    loader.map_max_entries(map, *entries);
                    let path = place.join(map);
                    if !path.exists() {
                        let failed =
                            |source: Box<dyn std::error::Error + Send + Sync>| LoadError::Map { action: "make", map, source };
                        let arrays = sys::array_of_arrays(*entries, *bytes).map_err(|error| failed(error.into()))?;
                        let arrays = MapData::from_fd(arrays).map_err(|error| failed(error.into()))?;
                        arrays.pin(path).map_err(|error| failed(error.into()))?;
                    }
                }
                Size::Slots(each) => drop(loader.map_max_entries(map, each.saturating_mul(self.slots))),
            }
            loader.map_pin_path(map, place.join(map));
        }
        for (map, owner) in plan.shared {
            let pinned = owner.version.place.join(map);
            let path = if pinned.exists() { pinned } else { settled::pin_again(&self.beside, owner.name, map, &place)? };
            loader.map_pin_path(map, path);
        }
        let ebpf = loader.load(plan.bytes).map_err(|source| LoadError::Object { object, source: Box::new(source) })?;
        let mut object = Object {
            name: object,
            ebpf,
            version: version.clone(),
            goes_on: match (adopted, &source) {
                (Some(_), _) => GoesOn::Adopted,
                (None, Some(_)) => GoesOn::TakenOver,
                (None, None) => GoesOn::Anew,
            },
            since_ns: adopted.or(source.as_ref().map(|source| source.since_ns)).unwrap_or(0),
            source,
            sizes: plan.maps.to_vec(),
            attach: plan.programs.to_vec(),
            optional: plan.optional.to_vec(),
            refused: Vec::new(),
            links: Links::default(),
        };
        if self.logs.is_some() {
            self.log.add(&mut object.ebpf);
        }
        for (program, hook) in plan.programs {
            if object.does_without(program) {
                continue;
            }
            let left_out = self.leave_out.iter().any(|name| name == program);
            let verified = if left_out {
                Err(LoadError::LeftOut { program: (*program).to_owned() })
            } else if hook.has_link() && object.runs_already(program) {
                Ok(())
            } else {
                self.verify(&mut object, program, *hook)
            };
            verified.or_else(|error| object.refuse(program, error))?;
        }
        self.loaded.push(grow::loaded(&object)?);
        self.in_use.push(place);
        Ok(object)
    }

    /// What tells this object apart from others of its name.
    fn version<F: Pod>(&self, plan: &Plan<'_, F>) -> Version {
        let maps = format!("{:?}", plan.maps);
        let reads_by_address = [u8::from(self.reads_by_address)];
        let shared = |of: fn(&Version) -> u64| {
            format!("{:?}", plan.shared.iter().map(|(_, owner)| of(&owner.version)).collect::<Vec<_>>())
        };
        let (counts, programs) = (shared(|version| version.counts), shared(|version| version.programs));
        let facts = sys::bytes_of(&plan.facts);
        // The same programs may be attached in one configuration and called in another.
        let hooks = format!("{:?}", plan.programs);
        let counts = pin::hash(&[LAYOUT.as_bytes(), facts, maps.as_bytes(), counts.as_bytes(), &reads_by_address]);
        let logs = self.logs.map(u64::to_ne_bytes);
        let logs = logs.as_ref().map_or(&[][..], |number| number);
        let programs = pin::hash(&[plan.bytes, hooks.as_bytes(), programs.as_bytes(), logs]);
        self.pins.version(plan.object, counts, programs, self.slots)
    }

    /// Has the verifier look at one program.
    fn verify(&self, object: &mut Object, program: &'static str, hook: Hook) -> Result<(), LoadError> {
        self.hazards.refuse(program, hook)?;
        let missing = LoadError::Missing { object: object.name, what: "program", name: program.to_owned() };
        match (object.ebpf.program_mut(program).ok_or(missing)?, hook) {
            (Program::BtfTracePoint(loaded), Hook::Tracepoint(tracepoint)) => loaded.load(tracepoint, &self.typed),
            (Program::FEntry(loaded), Hook::Entry(function)) => loaded.load(function, &self.typed),
            (Program::FExit(loaded), Hook::Exit(function)) => loaded.load(function, &self.typed),
            (Program::CgroupSkb(loaded), Hook::Ingress | Hook::Egress | Hook::Call) => loaded.load(),
            (Program::SockOps(loaded), Hook::SockOps) => loaded.load(),
            (Program::Iter(loaded), Hook::Walk(over)) => loaded.load(over, &self.typed),
            (Program::RawTracePoint(loaded), Hook::Call) => loaded.load(),
            _ => Err(ProgramError::UnexpectedProgramType),
        }
        .map_err(|error| LoadError::of_load(program, error))
    }

    /// The table of programs that `map` of `object` calls, where that object was loaded before this one and counts.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn calls_of(&self, object: &str, map: &'static str) -> Result<Option<ProgramArray<MapData>>, LoadError> {
        let Some(place) = self.in_use.iter().find(|place| is_place_of(place, object)) else { return Ok(None) };
        let failed = |e: MapError| LoadError::Map { action: "open", map, source: e.into() };
        let data = MapData::from_pin(place.join(map)).map_err(failed)?;
        ProgramArray::try_from(Map::ProgramArray(data)).map(Some).map_err(failed)
    }

    /// An array of an object as agents of other versions have left it: until all has been settled. What cannot be read, or has records
    /// of another size, is as if it were not there.
    pub fn left_by_others<T: Pod>(&self, object: &str, map: &str) -> Vec<MappedArray<T>> {
        let others = self.pins.versions(object).into_iter().filter(|version| !self.in_use.contains(&version.place));
        let open = |version: Version| {
            let data = MapData::from_pin(version.place.join(map)).ok()?;
            let info = data.info().ok().filter(|info| info.value_size() as usize == size_of::<T>())?;
            MappedArray::new(data.fd(), info.max_entries()).ok()
        };
        others.filter_map(open).collect()
    }

    /// The clock that goes on with what an earlier agent kept.
    ///
    /// # Errors
    /// When bpffs refuses.
    pub fn clock(&self) -> Result<Clock, LoadError> {
        Ok(Clock::open(&self.pins)?)
    }
}

/// A value for as long as this process: the loader holds on to those of earlier objects. They are some kilobytes in all.
fn kept<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// Whether the directory in bpffs is that of an object of this name.
fn is_place_of(place: &Path, object: &str) -> bool {
    Version::of(place).is_some_and(|(name, _)| name == object)
}

impl Object {
    /// Whether its maps already hold what an earlier agent counted, or this one with fewer slots.
    pub fn adopted(&self) -> bool {
        self.goes_on != GoesOn::Anew
    }

    /// Whether its programs have been running since before it was loaded.
    pub fn runs(&self) -> bool {
        self.goes_on == GoesOn::Adopted
    }

    /// Since when its maps count, of whatever is older than that: CLOCK_BOOTTIME in ns. It is pinned with the maps, and so is theirs for
    /// as long as they are. Only once it is attached.
    pub fn since_ns(&self) -> u64 {
        self.since_ns
    }

    /// What this kernel does not allow it, and why: a sentence for each group of optional programs that is left out.
    pub fn lacks(&self) -> Vec<String> {
        self.refused.iter().map(|refused| format!("{}: {}", refused.what.lost, refused.reason)).collect()
    }

    /// Whether an optional program is left out: the kernel refused it, or another of its group.
    pub fn does_without(&self, program: &str) -> bool {
        self.refused.iter().any(|refused| refused.what.programs.contains(&program))
    }
}
