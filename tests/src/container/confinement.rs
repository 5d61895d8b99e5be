//! What a process gives up before it becomes a container's: capabilities, and the system calls that a default profile refuses.

use anyhow::{Context as _, Result};
use nix::{errno::Errno, libc};

/// Capabilities by the names that manifests use, each with its number.
const CAPABILITIES: &[(&str, u64)] = &[
    ("DAC_READ_SEARCH", 2),
    ("NET_ADMIN", 12),
    ("SYS_PTRACE", 19),
    ("SYS_ADMIN", 21),
    ("SYS_RESOURCE", 24),
    ("PERFMON", 38),
    ("BPF", 39),
];

/// System calls that the default profiles of containerd and Docker refuse to a container without `SYS_ADMIN` and the like. `bpf`
/// and `perf_event_open` are not among them: those they allow by capability.
const REFUSED: &[i64] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_fsopen,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_open_by_handle_at,
    libc::SYS_syslog,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_reboot,
    libc::SYS_settimeofday,
    libc::SYS_io_uring_setup,
];

/// Everything that is given up, put together before the fork.
pub(super) struct Confinement {
    /// A bit for each capability that is kept.
    capabilities: u64,
    /// A program of classic BPF that refuses system calls.
    filter: Vec<libc::sock_filter>,
}

impl Confinement {
    /// Keeps the capabilities of these names.
    pub(super) fn new(capabilities: &[String]) -> Result<Self> {
        let bits = capabilities.iter().map(|name| {
            let known = CAPABILITIES.iter().find(|(known, _)| known == name);
            known.map(|(_, number)| 1 << number).with_context(|| format!("this harness does not know the capability {name}"))
        });
        Ok(Self { capabilities: bits.sum::<Result<u64>>()?, filter: filter(REFUSED) })
    }

    /// Gives up the rest, for good. Makes system calls only.
    pub(super) fn enter(&self) -> std::io::Result<()> {
        nix::sys::prctl::set_no_new_privs()?;
        self.drop_capabilities()?;
        self.refuse_calls()
    }

    /// Root that executes a program gets what is in its bounding set, and no more.
    fn drop_capabilities(&self) -> std::io::Result<()> {
        for capability in 0..64 {
            if self.capabilities & 1 << capability != 0 {
                continue;
            }
            // SAFETY: takes numbers only.
            let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
            match Errno::result(dropped) {
                Ok(_) => {}
                // The kernel's last capability was the one before.
                Err(Errno::EINVAL) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Its system calls go through the filter from here on.
    fn refuse_calls(&self) -> std::io::Result<()> {
        let len = u16::try_from(self.filter.len()).map_err(std::io::Error::other)?;
        let program = libc::sock_fprog { len, filter: self.filter.as_ptr().cast_mut() };
        // SAFETY: the kernel copies `len` instructions, which `self` keeps alive, and writes none.
        let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
        Ok(Errno::result(set).map(drop)?)
    }
}

/// Lets every system call pass but these, which fail with EPERM as the default profiles have it.
fn filter(refused: &[i64]) -> Vec<libc::sock_filter> {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO};
    let step = |code: u32, jt: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf: 0, k };
    let left = |at: usize| (refused.len() - at) as u8;
    // The first field that a filter sees is the call's number.
    let mut program = vec![step(BPF_LD | BPF_W | BPF_ABS, 0, 0)];
    program.extend(refused.iter().enumerate().map(|(at, call)| step(BPF_JMP | BPF_JEQ | BPF_K, left(at), *call as u32)));
    program.push(step(BPF_RET | BPF_K, 0, SECCOMP_RET_ALLOW));
    program.push(step(BPF_RET | BPF_K, 0, SECCOMP_RET_ERRNO | Errno::EPERM as u32));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_call_jumps_to_the_refusal() {
        let program = filter(&[10, 20, 30]);
        for (at, call) in [(1, 10), (2, 20), (3, 30)] {
            assert_eq!((program[at].k, at + 1 + usize::from(program[at].jt)), (call, 5));
        }
        assert_eq!((program.len(), program[4].k, program[5].k), (6, libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_ERRNO | 1));
    }
}
