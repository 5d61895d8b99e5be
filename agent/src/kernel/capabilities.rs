//! What this process may do, as the kernel counts it: capabilities.

/// A capability that podmeter needs, and for what.
#[derive(Debug)]
pub struct Capability {
    /// Its name in `capabilities(7)`.
    pub name: &'static str,
    /// What it is needed for.
    pub purpose: &'static str,
    bit: u32,
}

/// For programs of any kind.
pub const BPF: Capability = Capability { name: "CAP_BPF", purpose: "create maps and load programs", bit: 39 };
/// For programs of any kind.
pub const PERFMON: Capability = Capability { name: "CAP_PERFMON", purpose: "attach programs that read kernel memory", bit: 38 };
/// For programs at sockets (`is_net_admin_prog_type` in the kernel's syscall.c).
pub const NET_ADMIN: Capability =
    Capability { name: "CAP_NET_ADMIN", purpose: "attach programs to the sockets of cgroups: network, dns and tcp", bit: 12 };

/// All that are needed. `CAP_SYS_ADMIN` stands for each of them on kernels of any age.
const NEEDED: &[&Capability] = &[&BPF, &PERFMON, &NET_ADMIN];

/// Whether nothing can be measured without it.
pub fn is_for_all(capability: &Capability) -> bool {
    capability.bit != NET_ADMIN.bit
}

const SYS_ADMIN: u32 = 21;

/// The needed capabilities that this process does not have.
///
/// # Errors
/// When /proc cannot be read.
pub fn missing() -> std::io::Result<Vec<&'static Capability>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let effective = effective(&status).ok_or_else(|| std::io::Error::other("/proc/self/status has no CapEff line"))?;
    Ok(NEEDED.iter().copied().filter(|c| effective & (1 << c.bit | 1 << SYS_ADMIN) == 0).collect())
}

fn effective(status: &str) -> Option<u64> {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

/// Lifts the limit on locked memory, which before 5.11 bounded a process's BPF maps. Newer kernels do not mind.
pub fn lift_memlock_limit() {
    use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
    // Refused without CAP_SYS_RESOURCE; creating a map then says what is wrong on the kernels where it matters.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_as_the_kernel_writes_them() {
        assert_eq!(effective("Name:\tx\nCapEff:\t000000c000000000\n"), Some(0xc0_0000_0000));
        assert_eq!(effective("CapInh:\t0\n"), None);
        assert_eq!(effective("CapEff:\tzz\n"), None);
    }
}
