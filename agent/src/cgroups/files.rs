//! The files of one cgroup: its limits, its requests, and what the kernel counted itself.
//!
//! Missing is better than wrong: a file that is not there (no controller, an older kernel, a cgroup just removed) or does not parse
//! yields `None`, never zero.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::Controllers;

/// `cpu.stat`: what the kernel counted, descendants included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuStat {
    /// `usage_usec` in ns.
    pub usage_ns: u64,
    /// `nr_periods`, `nr_throttled`, `throttled_usec`: only with the cpu controller.
    pub throttling: Option<Throttling>,
}

/// What `cpu.max` did to a cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Enforcement periods in which it ran.
    pub periods: u64,
    /// Of those, periods in which it used up its quota.
    pub throttled_periods: u64,
    /// Time its run queues were held back, in ns.
    pub throttled_ns: u64,
}

/// The requests and limits of a cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CgroupLimits {
    /// `cpu.weight`, see [`Curve`](super::weight::Curve). Of an idle group (`cpu.idle`) some kernels say 0: 1 then.
    pub cpu_weight: Option<u64>,
    /// CPUs that `cpu.max` allows.
    pub cpu_limit_cores: Option<f64>,
    /// `memory.min`, else `memory.low`, in bytes: what is protected from reclaim.
    pub memory_request_bytes: Option<u64>,
    /// `memory.max`, else `memory.high`, in bytes.
    pub memory_limit_bytes: Option<u64>,
}

/// Resource and stall of each pressure: `some` tasks were stalled, or all (`full`).
pub const PRESSURES: [(&str, &str); 6] =
    [("cpu", "some"), ("cpu", "full"), ("memory", "some"), ("memory", "full"), ("io", "some"), ("io", "full")];

/// Time stalled in µs (`total` of `<resource>.pressure`), in the order of [`PRESSURES`]; `None` where the kernel has none.
pub type Pressure = [Option<u64>; PRESSURES.len()];

/// Reads `cpu.stat` of the cgroup at `directory`.
pub fn cpu_stat(directory: &Path) -> Option<CpuStat> {
    parse_cpu_stat(&fs::read_to_string(directory.join("cpu.stat")).ok()?)
}

/// Reads the requests and limits of the cgroup at `directory`, from the files of the controllers that it has.
pub fn limits(directory: &Path, controllers: Controllers) -> CgroupLimits {
    let read = |has: bool, file: &str| if has { fs::read_to_string(directory.join(file)).ok() } else { None };
    let cpu = |file: &str| read(controllers.cpu, file);
    let bytes = |file: &str| read(controllers.memory, file).and_then(|text| parse_bytes(&text));
    CgroupLimits {
        cpu_weight: cpu("cpu.weight").and_then(|text| Some(text.trim().parse::<u64>().ok()?.max(1))),
        cpu_limit_cores: cpu("cpu.max").and_then(|text| parse_cpu_max(&text)),
        memory_request_bytes: ["memory.min", "memory.low"].into_iter().filter_map(bytes).find(|bytes| *bytes > 0),
        memory_limit_bytes: bytes("memory.max").or_else(|| bytes("memory.high")),
    }
}

/// Reads the pressure of each resource from the file that `file` names for it; `None` where there is none.
pub fn pressure(file: impl Fn(&str) -> PathBuf) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    for (totals, of) in pressure.chunks_exact_mut(2).zip(PRESSURES.chunks_exact(2)) {
        // All three files are there or none.
        let text = fs::read_to_string(file(of[0].0)).ok()?;
        for (total, (_, stall)) in totals.iter_mut().zip(of) {
            *total = total_us(&text, stall);
        }
    }
    Some(pressure)
}

/// `total=` of the line that begins with `stall`: `some avg10=0.00 avg60=0.00 avg300=0.00 total=12345`.
fn total_us(text: &str, stall: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(stall)?.strip_prefix(' '))?;
    line.split(' ').find_map(|field| field.strip_prefix("total=")?.parse().ok())
}

fn parse_cpu_stat(text: &str) -> Option<CpuStat> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse::<u64>().ok());
    let throttling = || {
        Some(Throttling {
            periods: field("nr_periods")?,
            throttled_periods: field("nr_throttled")?,
            throttled_ns: field("throttled_usec")?.checked_mul(1000)?,
        })
    };
    Some(CpuStat { usage_ns: field("usage_usec")?.checked_mul(1000)?, throttling: throttling() })
}

/// `cpu.max` is `<quota µs> <period µs>`, or `max <period µs>` without a limit.
fn parse_cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period).filter(|cores| cores.is_finite())
}

/// A byte count; `max` is no limit. The kernel writes multiples of the page size, up to 2^63.
fn parse_bytes(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_stat_of_both_kinds_of_host() {
        let bare = "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n";
        assert_eq!(parse_cpu_stat(bare), Some(CpuStat { usage_ns: 1_500_000, throttling: None }));
        let full = format!("{bare}nr_periods 10\nnr_throttled 4\nthrottled_usec 2000\nnr_bursts 0\n");
        let throttling = Throttling { periods: 10, throttled_periods: 4, throttled_ns: 2_000_000 };
        assert_eq!(parse_cpu_stat(&full), Some(CpuStat { usage_ns: 1_500_000, throttling: Some(throttling) }));
        for bad in ["", "usage_usec", "usage_usec x", "usage_usec 99999999999999999999", "usage_usec 18446744073709551615"] {
            assert_eq!(parse_cpu_stat(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn totals_are_read_from_their_lines() {
        let text = "some avg10=1.00 avg60=0.00 avg300=0.00 total=1234567\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=89\n";
        assert_eq!((total_us(text, "some"), total_us(text, "full")), (Some(1_234_567), Some(89)));
        // cpu.pressure has no such line before 5.13.
        assert_eq!(total_us("some avg10=0.00 total=5\n", "full"), None);
        for bad in ["", "some", "some total=", "some total=-1", "something total=5"] {
            assert_eq!(total_us(bad, "some"), None, "{bad:?}");
        }
        assert_eq!(pressure(|_| "/nowhere/at/all".into()), None);
    }

    #[test]
    fn limits_are_those_of_the_controllers_that_a_cgroup_has() {
        let directory = tempfile::tempdir().expect("a directory");
        for (file, text) in [("cpu.weight", "39"), ("cpu.max", "50000 100000"), ("memory.min", "4096"), ("memory.max", "8192")] {
            fs::write(directory.path().join(file), text).expect("written");
        }
        let of = |cpu, memory| limits(directory.path(), Controllers { cpu, memory });
        assert_eq!(of(false, false), CgroupLimits::default());
        assert_eq!((of(true, false).cpu_limit_cores, of(true, false).memory_limit_bytes), (Some(0.5), None));
        assert_eq!((of(false, true).cpu_weight, of(false, true).memory_request_bytes), (None, Some(4096)));
        fs::write(directory.path().join("memory.min"), "0").expect("written");
        assert_eq!(of(false, true).memory_request_bytes, None);
        fs::write(directory.path().join("memory.low"), "2048").expect("written");
        assert_eq!(of(false, true).memory_request_bytes, Some(2048), "nothing in memory.min is no request");
        let all = of(true, true);
        assert!(all.cpu_weight == Some(39) && all.memory_limit_bytes == Some(8192));
    }

    #[test]
    fn limits_in_every_form() {
        assert_eq!(parse_cpu_max("max 100000\n"), None);
        assert_eq!(parse_cpu_max("50000 100000\n"), Some(0.5));
        assert_eq!(parse_cpu_max("250000 100000\n"), Some(2.5));
        for bad in ["", "50000", "0 100000", "5 0", "-5 100000", "nan 1"] {
            assert_eq!(parse_cpu_max(bad), None, "{bad:?}");
        }
        assert_eq!(parse_bytes("max\n"), None);
        assert_eq!(parse_bytes("9223372036854771712\n"), Some(9_223_372_036_854_771_712));
        assert_eq!(parse_bytes("12 13"), None);
    }
}
