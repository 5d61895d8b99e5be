//! The pressure signal: time that tasks were stalled on CPU, memory or I/O (PSI), from the walk over cgroups or from their files.
//!
//! A kernel may be built without it, have it switched off (`psi=0`, or by default: there are no files, or reading them fails), or have it
//! switched off for a cgroup (`cgroup.pressure`) or all of them (`cgroup_disable=pressure`). What cannot be read is absent, and looked for
//! more and more rarely.

use std::{collections::HashMap, fs, io, path::Path};

use agent_common::walk;

use super::{ActiveSignal, Readings, Signal, SignalError};
use crate::{
    cgroups::{
        Cgroups,
        files::{self, PRESSURES, Pressure},
    },
    kernel::{btf::Btf, facts},
    metric::{Metric, Point, Scope, Value},
};

/// See the module.
pub const SIGNAL: Signal = Signal {
    name: "pressure",
    help: "time that tasks were stalled on CPU, memory or I/O (PSI)",
    tracepoints: &[],
    metrics: &[&TIME, &NODE_TIME],
    capability: None,
    missing: absent,
    start: |_, _, _| Ok(Box::new(Stalls { absent: HashMap::new() })),
};

/// `podmeter.pressure.time`
pub static TIME: Metric = Metric::counter(
    "podmeter.pressure.time",
    "s",
    Scope::Cgroup,
    "Time that some or all (full) tasks of the cgroup were stalled on cpu, memory or io: total of \
     <resource>.pressure, as of the kernel's own averaging, which is every 2 s while a task of the cgroup is active. Absent where \
     the kernel does not account it.",
)
.attributes(&["resource", "stall"]);
/// `podmeter.node.pressure.time`
pub static NODE_TIME: Metric = Metric::counter(
    "podmeter.node.pressure.time",
    "s",
    Scope::Node,
    "Time that some or all (full) tasks of the node were stalled on cpu, memory or io: total of \
     /proc/pressure/<resource>.",
)
.attributes(&["resource", "stall"]);

/// Why this kernel has none.
fn absent(btf: &Btf) -> Option<String> {
    let error = fs::read(NODE_FILE).err()?;
    // Every task has the member where the kernel can account pressure, whether it does or not.
    let built = btf.offset_of("task_struct", "psi_flags", 4).is_ok();
    Some(reason(&error, built, fs::read_to_string("/proc/cmdline").ok().as_deref()))
}

const NODE_FILE: &str = "/proc/pressure/memory";

/// Why /proc/pressure cannot be read.
///
/// With `psi=0`, or CONFIG_PSI_DEFAULT_DISABLED and no `psi=1`, kernels have no such directory (`psi_proc_init`), older ones (5.10)
/// have it and refuse to read it (`psi_show`).
fn reason(error: &io::Error, built: bool, cmdline: Option<&str>) -> String {
    if !built {
        return "this kernel is built without CONFIG_PSI".to_owned();
    }
    let found = format!("{NODE_FILE}: {error}");
    if error.kind() != io::ErrorKind::NotFound && error.raw_os_error() != Some(nix::libc::EOPNOTSUPP) {
        return format!("could not read the node's pressure ({found})");
    }
    // The last one counts.
    let switch = cmdline.map(|line| line.split_whitespace().filter_map(|option| option.strip_prefix("psi=")).next_back());
    match switch {
        Some(Some(value)) if is_off(value) => {
            format!("the kernel's command line switches pressure accounting off (psi={value}): boot with psi=1 ({found})")
        }
        Some(None) => {
            format!("this kernel has pressure accounting off by default (CONFIG_PSI_DEFAULT_DISABLED): boot with psi=1 ({found})")
        }
        // On by the command line, which is not shown or of another opinion: the /proc of a container may hide files.
        _ => format!("this kernel has CONFIG_PSI, but its pressure cannot be read here ({found})"),
    }
}

/// What the kernel takes for no (`kstrtobool`).
fn is_off(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    value.starts_with(['0', 'n', 'f']) || value.starts_with("of")
}

/// The kernel has the state.
struct Stalls {
    /// Cgroups without such files, by id; where files are read.
    absent: HashMap<u64, Absent>,
}

/// How long not to look again where nothing was found, in collections.
#[derive(Clone, Copy, Debug, Default)]
struct Absent {
    found_nothing: u32,
    wait: u32,
}

impl Absent {
    /// The most collections that one is left alone: a quarter of an hour by default.
    const LONGEST: u32 = 64;

    /// Whether it is time to look.
    fn is_due(&mut self) -> bool {
        let due = self.wait == 0;
        self.wait = self.wait.saturating_sub(1);
        due
    }

    /// There was nothing: twice as long until the next look.
    fn again(self) -> Self {
        let found_nothing = (self.found_nothing + 1).min(Self::LONGEST.ilog2());
        Self { found_nothing, wait: 1 << found_nothing }
    }
}

impl ActiveSignal for Stalls {
    fn collect(&mut self, _: u64, cgroups: &Cgroups) -> Result<Readings, SignalError> {
        let living = cgroups.table().iter().filter(|c| c.lives() && c.path != "/");
        let mut absent = HashMap::new();
        let mut of_cgroups = Vec::with_capacity(cgroups.table().len());
        for cgroup in living {
            let mut before = self.absent.get(&cgroup.id).copied().unwrap_or_default();
            if !cgroups.walks(walk::PRESSURE) && !before.is_due() {
                absent.insert(cgroup.id, before);
                continue;
            }
            let points = points(&TIME, cgroup.made_ns(), cgroups.pressure(cgroup));
            if points.is_empty() {
                absent.insert(cgroup.id, before.again());
            } else {
                of_cgroups.push((cgroup.slot, points));
            }
        }
        self.absent = absent;
        let node = files::pressure(|resource| Path::new("/proc/pressure").join(resource));
        let node = points(&NODE_TIME, facts::BOOTED_NS, node);
        Ok(Readings { cgroups: of_cgroups, node })
    }
}

fn points(metric: &'static Metric, start_ns: u64, pressure: Option<Pressure>) -> Vec<Point> {
    let known = pressure.into_iter().flatten().zip(PRESSURES).filter_map(|(us, stalls)| Some((us?, stalls)));
    let point = |(us, (resource, stall)): (u64, _)| {
        Point::new(metric, start_ns, Value::Float(us as f64 / 1e6)).with("resource", resource).with("stall", stall)
    };
    known.map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_cause_that_was_found() {
        let missing = || io::Error::from_raw_os_error(nix::libc::ENOENT);
        let refused = || io::Error::from_raw_os_error(nix::libc::EOPNOTSUPP);
        for (error, built, cmdline, says) in [
            (missing(), false, Some("quiet"), "this kernel is built without CONFIG_PSI"),
            (missing(), true, Some("quiet psi=0 ro"), "command line switches pressure accounting off (psi=0): boot with psi=1"),
            (missing(), true, Some("psi=1 psi=off"), "(psi=off): boot with psi=1"),
            (refused(), true, Some("psi=0"), "(psi=0): boot with psi=1 (/proc/pressure/memory: Operation not supported"),
            (missing(), true, Some("quiet\n"), "off by default (CONFIG_PSI_DEFAULT_DISABLED): boot with psi=1"),
            (refused(), true, Some(""), "off by default (CONFIG_PSI_DEFAULT_DISABLED): boot with psi=1"),
            (
                missing(),
                true,
                Some("psi=1"),
                "has CONFIG_PSI, but its pressure cannot be read here (/proc/pressure/memory: No such",
            ),
            (missing(), true, None, "has CONFIG_PSI, but its pressure cannot be read here"),
            (io::Error::from_raw_os_error(nix::libc::EACCES), true, Some("psi=0"), "could not read the node's pressure"),
        ] {
            let reason = reason(&error, built, cmdline);
            assert!(reason.contains(says), "{error} {cmdline:?}: {reason}");
        }
        // /proc/pressure is readable here, or the reason is one of those.
        let btf = Btf::from_sys().expect("this kernel's types");
        assert_eq!(absent(&btf).is_none(), fs::read(NODE_FILE).is_ok());
    }

    #[test]
    fn what_is_not_there_is_looked_for_more_and_more_rarely() {
        let mut absent = Absent::default();
        let mut looks = Vec::new();
        for collection in 0..200 {
            if absent.is_due() {
                looks.push(collection);
                absent = absent.again();
            }
        }
        assert_eq!(looks, [0, 3, 8, 17, 34, 67, 132, 197]);
    }

    #[test]
    fn what_cannot_be_read_has_no_points() {
        assert!(points(&TIME, 0, None).is_empty());
        let some = Some([Some(1_500_000), None, None, None, None, None]);
        assert_eq!(points(&TIME, 0, some).iter().map(|point| &point.value).collect::<Vec<_>>(), [&Value::Float(1.5)]);
    }
}
