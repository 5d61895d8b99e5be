//! Programs in the kernel: those that an agent loaded, and the empty one they are compared with.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Btf, Ebpf,
    maps::{MapInfo, MapType},
    programs::{BtfTracePoint, ProgramInfo, ProgramType, links::PinnedLink, loaded_programs, tp_btf::BtfTracePointLinkId},
    sys::{Stats, enable_stats},
};
use serde_json::json;

use super::{Stop, report};
use crate::agent::Agent;

/// The program under test.
const CPU: &str = "cpu_on_switch";

/// The kernel keeps the first bytes of a name.
pub(super) const KERNEL_NAME_LEN: usize = 15;

/// Counts runs and run time of all programs while it lives. That costs a few ns per run, in every program alike.
pub fn count_run_time() -> Result<OwnedFd> {
    enable_stats(Stats::RunTime).context("could not have the kernel count the run time of programs (BPF_ENABLE_STATS, since 5.8)")
}

/// Runs and run time of programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// How often.
    pub count: u64,
    /// For how long in ns.
    pub ns: u64,
}

impl Runs {
    pub(super) fn of(info: &ProgramInfo) -> Self {
        Self { count: info.run_count(), ns: info.run_time().as_nanos() as u64 }
    }

    /// Mean; `None` of no run.
    pub fn ns_per_run(self) -> Option<f64> {
        (self.count > 0).then(|| self.ns as f64 / self.count as f64)
    }

    /// These and those.
    pub fn and(self, other: Self) -> Self {
        Self { count: self.count + other.count, ns: self.ns + other.ns }
    }

    /// What came after `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self { count: self.count.saturating_sub(earlier.count), ns: self.ns.saturating_sub(earlier.ns) }
    }
}

/// A program of the agent's and its runs.
#[derive(Clone, Debug)]
pub struct Counted {
    /// The kernel's number of it.
    pub id: u32,
    /// Its name, as far as the kernel keeps it.
    pub name: String,
    /// `None` of a type that is neither `CgroupSkb` nor `SockOps`.
    pub kind: Option<ProgramType>,
    /// Runs so far.
    pub runs: Runs,
}

/// A map of the agent's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapMemory {
    /// Its name, as far as the kernel keeps it.
    pub name: String,
    /// Memory in bytes, as the kernel accounts for it.
    pub bytes: u64,
    /// Whether the kernel has a value for each of its own CPUs, however many the agent sees.
    pub per_cpu: bool,
}

impl MapMemory {
    /// Memory in bytes of an agent that saw `seen` CPUs where the kernel has `possible`, on a machine that has all of these.
    pub(super) fn bytes_with(&self, seen: u32, possible: usize) -> f64 {
        let bytes = self.bytes as f64;
        if self.per_cpu { bytes * f64::from(seen) / possible as f64 } else { bytes }
    }
}

/// What one array in an array of arrays takes: those of the agent are as large as the kernel allocates in one piece.
const ARRAY_BYTES: u64 = 32 << 10;

/// The kernel objects that a process holds open.
#[derive(Debug, Default)]
pub struct Held {
    programs: BTreeSet<u32>,
    maps: BTreeMap<u32, u64>,
}

impl Held {
    /// Of a process.
    pub fn by(pid: i32) -> Result<Self> {
        let directory = format!("/proc/{pid}/fdinfo");
        let mut held = Self::default();
        for entry in fs::read_dir(&directory).with_context(|| format!("could not list {directory}"))? {
            let file = entry.with_context(|| format!("could not list {directory}"))?.path();
            // Descriptors come and go while they are listed.
            if let Ok(text) = fs::read_to_string(file) {
                held.add(&text);
            }
        }
        Ok(held)
    }

    /// One file of `/proc/<pid>/fdinfo`.
    fn add(&mut self, fdinfo: &str) {
        let field = |name: &str| fdinfo.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        if let Some(id) = field("prog_id:") {
            self.programs.insert(id as u32);
        }
        if let Some(id) = field("map_id:") {
            self.maps.insert(id as u32, field("memlock:").unwrap_or(0));
        }
    }

    fn infos(&self) -> impl Iterator<Item = ProgramInfo> {
        // A program of somebody else's may be gone before it is looked at.
        loaded_programs().filter_map(Result::ok).filter(|info| self.programs.contains(&info.id()))
    }

    /// Runs of all the programs together.
    pub fn runs(&self) -> Runs {
        self.infos().map(|info| Runs::of(&info)).fold(Runs::default(), Runs::and)
    }

    /// Runs of each program.
    pub fn each(&self) -> Vec<Counted> {
        let counted = |info: ProgramInfo| Counted {
            id: info.id(),
            name: info.name_as_str().unwrap_or_default().to_owned(),
            kind: [ProgramType::CgroupSkb, ProgramType::SockOps].into_iter().find(|&kind| info.program_type() == kind.into()),
            runs: Runs::of(&info),
        };
        self.infos().map(counted).collect()
    }

    /// The program with this name.
    pub(super) fn program(&self, name: &str) -> Result<ProgramInfo> {
        let kernel_name = &name[..name.len().min(KERNEL_NAME_LEN)];
        let found = self.infos().find(|info| info.name_as_str() == Some(kernel_name));
        found.with_context(|| format!("the agent holds no program {name}: is its signal on? See `podmeter check`"))
    }

    /// The maps, the largest first.
    pub fn maps(&self) -> Result<Vec<MapMemory>> {
        let mut maps = Vec::new();
        for (&id, &bytes) in &self.maps {
            let info = MapInfo::from_id(id).with_context(|| format!("could not look at map {id}"))?;
            let name = info.name_as_str().unwrap_or_default().to_owned();
            let per_cpu = matches!(info.map_type(), Ok(MapType::PerCpuArray | MapType::PerCpuHash | MapType::LruPerCpuHash));
            // The kernel's figure of an array of arrays is without these.
            let arrays = if matches!(info.map_type(), Ok(MapType::ArrayOfMaps)) { info.max_entries() } else { 0 };
            maps.push(MapMemory { name, bytes: bytes + u64::from(arrays) * ARRAY_BYTES, per_cpu });
        }
        maps.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
        Ok(maps)
    }
}

/// The object with the programs that do nothing; none is in the kernel yet.
pub(super) fn load_empty() -> Result<Ebpf> {
    let file = report::target_directory()?.join("bpf").join(bpf_toolchain::TARGET).join("release/bench");
    let object = fs::read(&file)
        .with_context(|| format!("could not read {}: run `cargo xtask bench`, which builds it", file.display()))?;
    Ebpf::load(&object).with_context(|| format!("could not load {}", file.display()))
}

/// A program on a tracepoint that is attached when it is wanted.
pub struct OnTracepoint {
    program: BtfTracePoint,
    link: Option<BtfTracePointLinkId>,
}

impl OnTracepoint {
    fn new(info: ProgramInfo, name: &'static str) -> Result<Self> {
        // SAFETY: the programs that get here were loaded as BTF-typed tracepoints.
        let program = unsafe { BtfTracePoint::from_program_info(info, name.into()) };
        Ok(Self { program: program.with_context(|| format!("could not take over {name}"))?, link: None })
    }

    /// Loads the program that does nothing at a context switch.
    pub fn empty_on_switch() -> Result<Self> {
        Self::empty("bench_empty_on_switch", "sched_switch")
    }

    /// Loads the program that does nothing with a packet that the kernel drops.
    pub fn empty_on_free() -> Result<Self> {
        Self::empty("bench_empty_on_free", "kfree_skb")
    }

    /// Loads the program that does nothing where a device gets a request.
    pub fn empty_on_issue() -> Result<Self> {
        Self::empty("bench_empty_on_issue", "block_rq_issue")
    }

    /// Loads the program that does nothing where a device has done a request.
    pub fn empty_on_complete() -> Result<Self> {
        Self::empty("bench_empty_on_complete", "block_rq_complete")
    }

    fn empty(name: &'static str, tracepoint: &str) -> Result<Self> {
        let mut ebpf = load_empty()?;
        let program = ebpf.program_mut(name).with_context(|| format!("the bench object has no program {name}"))?;
        let program: &mut BtfTracePoint = program.try_into()?;
        let btf = Btf::from_sys_fs().context("could not read the kernel's types")?;
        program.load(tracepoint, &btf).with_context(|| format!("could not load {name}"))?;
        Self::new(program.info()?, name)
    }

    /// Lets it run on any CPU.
    pub fn attach(&mut self) -> Result<()> {
        if self.link.is_none() {
            self.link = Some(self.program.attach().context("could not attach a program to a tracepoint")?);
        }
        Ok(())
    }

    /// Ends that.
    pub fn detach(&mut self) -> Result<()> {
        match self.link.take() {
            Some(link) => self.program.detach(link).context("could not detach a program from a tracepoint"),
            None => Ok(()),
        }
    }

    /// Its runs so far, counted while [`count_run_time`] is on.
    pub fn runs(&self) -> Result<Runs> {
        Ok(Runs::of(&self.program.info().context("could not ask for a program's run time")?))
    }
}

/// The cpu signal's program with its maps, as a real agent left them, without the agent.
pub struct CpuSignal {
    /// `cpu_on_switch`, detached.
    pub on_switch: OnTracepoint,
    _pins: Pins,
}

impl CpuSignal {
    /// Has an agent load and pin everything, ends it, and takes `cpu_on_switch` off its tracepoint.
    pub fn take_over(stop: &Stop) -> Result<Self> {
        let pins = Pins::new()?;
        let agent = Agent::spawn(json!({
            "interval": "300s",
            "bpf": {"pin": true, "directory": pins.0},
            "export": {"exporter": "none"},
        }))?;
        agent.wait_for_log("podmeter runs", Duration::from_secs(20))?;
        let held = Held::by(agent.pid())?;
        let on_switch = OnTracepoint::new(held.program(CPU)?, CPU)?;
        agent.stop()?;

        let link = PinnedLink::from_pin(pins.link(CPU)?).context("could not open the agent's link")?;
        drop(link.unpin().context("could not remove the agent's link")?);
        let _stats = count_run_time()?;
        let mut before = on_switch.runs()?;
        stop.pause_until("the kernel to detach cpu_on_switch", Duration::from_secs(5), || {
            // Long enough for many switches, this one's sleep among them.
            stop.pause(Duration::from_millis(20))?;
            let now = on_switch.runs()?;
            Ok(std::mem::replace(&mut before, now) == now)
        })?;
        Ok(Self { on_switch, _pins: pins })
    }
}

/// A directory in bpffs that goes, with all that is pinned in it, when this value is dropped.
pub(super) struct Pins(PathBuf);

impl Pins {
    pub(super) fn new() -> Result<Self> {
        let path = Path::new("/sys/fs/bpf").join(format!("podmeter-bench-{}", std::process::id()));
        if path.exists() {
            bail!("{} is there already: remove it", path.display());
        }
        Ok(Self(path))
    }

    /// The directory; an agent makes it.
    pub(super) fn directory(&self) -> &Path {
        &self.0
    }

    /// Where a program's link is: `<object>-<hash>/<program>`.
    pub(super) fn link(&self, program: &str) -> Result<PathBuf> {
        let objects = fs::read_dir(&self.0).with_context(|| format!("could not list {}", self.0.display()))?;
        let mut links = objects.flatten().map(|object| object.path().join(program));
        links
            .find(|link| link.exists())
            .with_context(|| format!("the agent pinned no link of {program} below {}", self.0.display()))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("could not remove {}: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_holds_is_found_in_its_fdinfo() {
        let mut held = Held::default();
        held.add("pos:\t0\nflags:\t02000002\nmap_type:\t2\nvalue_size:\t8\nmemlock:\t8192\nmap_id:\t7\nfrozen:\t0\n");
        held.add("pos:\t0\nprog_type:\t26\nmemlock:\t4096\nprog_id:\t31\nrun_time_ns:\t0\n");
        // A link names its program; a second descriptor of one map does not double it.
        held.add("link_type:\traw_tracepoint\nlink_id:\t3\nprog_tag:\tabc\nprog_id:\t31\n");
        held.add("memlock:\t8192\nmap_id:\t7\n");
        held.add("pos:\t0\nflags:\t02\n");
        assert_eq!(held.programs, BTreeSet::from([31]));
        assert_eq!(held.maps, BTreeMap::from([(7, 8192)]));
    }

    #[test]
    fn a_map_by_the_kernels_cpus_grows_with_those_that_an_agent_sees() {
        let map = |per_cpu| MapMemory { name: String::new(), bytes: 4096, per_cpu };
        assert_eq!([map(false).bytes_with(128, 2), map(true).bytes_with(128, 2)], [4096.0, 262_144.0]);
    }

    #[test]
    fn what_was_counted_since_never_goes_below_zero() {
        let (earlier, later) = (Runs { count: 5, ns: 100 }, Runs { count: 8, ns: 160 });
        assert_eq!(later.since(earlier), Runs { count: 3, ns: 60 });
        assert_eq!(earlier.since(later), Runs::default());
    }
}
