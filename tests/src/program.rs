//! Programs of somebody else at a cgroup's sockets: they let packets pass, or lose some, as a bad link does.

use std::{
    fs::File,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::programs::loaded_programs;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

/// Which packets a program sees. The discriminant is the kernel's number (`enum bpf_attach_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Those that sockets receive.
    Ingress = 0,
    /// Those that sockets send.
    Egress = 1,
}

/// `r0 = 1; exit`: every packet passes.
pub const PASS: &[u64] = &[instruction(0xb7, 0, 1), instruction(0x95, 0, 0)];

/// One packet of so many is lost, by chance.
pub fn lose_one_in(n: i32) -> [u64; 7] {
    const GET_PRANDOM_U32: i32 = 7;
    [
        instruction(0x85, 0, GET_PRANDOM_U32),
        // w0 %= n; if r0 != 0 goto +2
        instruction(0x94, 0, n),
        instruction(0x55, 2, 0),
        instruction(0xb7, 0, 0),
        instruction(0x95, 0, 0),
        instruction(0xb7, 0, 1),
        instruction(0x95, 0, 0),
    ]
}

/// An instruction on register 0.
const fn instruction(operation: u8, offset: u16, number: i32) -> u64 {
    operation as u64 | (offset as u64) << 16 | (number.cast_unsigned() as u64) << 32
}

/// An attached program, which is detached with this value. The kernel counts its runs where that is switched on.
#[derive(Debug)]
pub struct Program {
    name: &'static str,
    program: OwnedFd,
    cgroup: File,
    direction: Direction,
    /// What keeps it attached, if not the cgroup itself.
    link: Option<OwnedFd>,
}

impl Program {
    const LOAD: i32 = 5;
    const ATTACH: i32 = 8;
    const DETACH: i32 = 9;
    const LINK_CREATE: i32 = 28;

    /// Attached to the cgroup at this directory the old way, as one of many (`BPF_F_ALLOW_MULTI`), as systemd does.
    pub fn attached(name: &'static str, cgroup: &Path, direction: Direction, instructions: &[u64]) -> Result<Self> {
        let loaded = Self::load(name, cgroup, direction, instructions)?;
        let attach = [loaded.cgroup.as_raw_fd() as u32, loaded.program.as_raw_fd() as u32, direction as u32, 2, 0, 0];
        bpf(Self::ATTACH, &attach).with_context(|| format!("could not attach {name}"))?;
        Ok(loaded)
    }

    /// Attached the old way so that no other may be beside it (flags 0).
    pub fn exclusive(name: &'static str, cgroup: &Path, direction: Direction, instructions: &[u64]) -> Result<Self> {
        let loaded = Self::load(name, cgroup, direction, instructions)?;
        let attach = [loaded.cgroup.as_raw_fd() as u32, loaded.program.as_raw_fd() as u32, direction as u32, 0, 0, 0];
        bpf(Self::ATTACH, &attach).with_context(|| format!("could not attach {name}"))?;
        Ok(loaded)
    }

    /// Attached by a link, as Cilium does.
    pub fn linked(name: &'static str, cgroup: &Path, direction: Direction, instructions: &[u64]) -> Result<Self> {
        let mut loaded = Self::load(name, cgroup, direction, instructions)?;
        let create = [loaded.program.as_raw_fd() as u32, loaded.cgroup.as_raw_fd() as u32, direction as u32, 0];
        let link = bpf(Self::LINK_CREATE, &create).with_context(|| format!("could not link {name}"))?;
        // SAFETY: a new descriptor, which no other code has.
        loaded.link = Some(unsafe { OwnedFd::from_raw_fd(link) });
        Ok(loaded)
    }

    fn load(name: &'static str, cgroup: &Path, direction: Direction, instructions: &[u64]) -> Result<Self> {
        const CGROUP_SKB: u32 = 8;
        static LICENSE: &[u8] = b"GPL\0";
        #[repr(C)]
        struct Load {
            kind: u32,
            instructions_len: u32,
            instructions: u64,
            license: u64,
            log: [u32; 2],
            log_buffer: u64,
            version_and_flags: [u32; 2],
            name: [u8; 16],
            interface: u32,
            attach_type: u32,
        }
        let mut load = Load {
            kind: CGROUP_SKB,
            instructions_len: instructions.len() as u32,
            instructions: instructions.as_ptr() as u64,
            license: LICENSE.as_ptr() as u64,
            log: [0; 2],
            log_buffer: 0,
            version_and_flags: [0; 2],
            name: [0; 16],
            interface: 0,
            attach_type: direction as u32,
        };
        load.name[..name.len()].copy_from_slice(name.as_bytes());
        // Before 5.11, programs count as locked memory. Where the limit cannot be lifted it may still suffice.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        let program = bpf(Self::LOAD, &load).with_context(|| format!("could not load {name}"))?;
        let cgroup = File::open(cgroup).with_context(|| format!("could not open {}", cgroup.display()))?;
        // SAFETY: a new descriptor, which no other code has.
        Ok(Self { name, program: unsafe { OwnedFd::from_raw_fd(program) }, cgroup, direction, link: None })
    }

    /// What the kernel calls it.
    pub fn name(&self) -> &str {
        self.name
    }

    /// How often it ran while the kernel counted.
    pub fn runs(&self) -> Result<u64> {
        let found = loaded_programs().filter_map(Result::ok).find(|info| info.name() == self.name.as_bytes());
        Ok(found.with_context(|| format!("{} is gone", self.name))?.run_count())
    }
}

/// How many programs are attached to a cgroup itself.
pub fn attached_to(cgroup: &Path, direction: Direction) -> Result<u32> {
    const QUERY: i32 = 16;
    let cgroup = File::open(cgroup).with_context(|| format!("could not open {}", cgroup.display()))?;
    // Cgroup, kind, flags of the request, flags they are attached with, room for ids (none), and their number, which the kernel
    // writes.
    let mut query = [cgroup.as_raw_fd() as u32, direction as u32, 0, 0, 0, 0, 0, 0];
    // SAFETY: the kernel reads and writes a live array and has no room for ids.
    let result = unsafe { nix::libc::syscall(nix::libc::SYS_bpf, QUERY, query.as_mut_ptr(), size_of_val(&query)) };
    nix::errno::Errno::result(result).context("could not read what is attached")?;
    Ok(query[6])
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.link.is_none() {
            let detach = [self.cgroup.as_raw_fd() as u32, self.program.as_raw_fd() as u32, self.direction as u32, 0, 0, 0];
            // One that was never attached cannot be detached.
            let _ = bpf(Self::DETACH, &detach);
        }
    }
}

fn bpf<T>(command: i32, attributes: &T) -> nix::Result<i32> {
    // SAFETY: the kernel reads a live struct without padding, and what it points to outlives the call.
    let result = unsafe { nix::libc::syscall(nix::libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    nix::errno::Errno::result(result).map(|fd| fd as i32)
}
