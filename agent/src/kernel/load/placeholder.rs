//! The kernel's types as aya is shown them.

use aya::Endianness;

use super::LoadError;
use crate::kernel::btf::Btf;

/// The iterators that programs may be of.
const WALKS: [&str; 3] = ["bpf_sk_storage_map", "cgroup", "tcp"];

/// The kernel's function for a system call: its name has the processor in it (`__SYSCALL_DEFINEx` of the kernel's sources).
macro_rules! system_call {
    ($name:literal) => {
        if cfg!(target_arch = "aarch64") { concat!("__arm64_sys_", $name) } else { concat!("__x64_sys_", $name) }
    };
}

/// Decides whether a bio has to wait for `io.max`.
pub const THROTTLE: &str = "__blk_throtl_bio";
/// Syncs a file, or a part of it.
pub const SYNC_RANGE: &str = "vfs_fsync_range";
/// The system call `fsync`.
pub const FSYNC: &str = system_call!("fsync");
/// The system call `fdatasync`.
pub const FDATASYNC: &str = system_call!("fdatasync");

/// Gives a program the next established connection of a listening socket.
pub const ACCEPT: &str = "inet_csk_accept";

/// The functions at the call or return of which programs may run.
pub(super) const FUNCTIONS: [&str; 5] = [THROTTLE, SYNC_RANGE, FSYNC, FDATASYNC, ACCEPT];

/// A BTF in which the types of tracepoints, functions and iterators have the ids that the running kernel gives them, and nothing else has a
/// name.
///
/// aya finds a tracepoint by a typedef's name, a function and an iterator by a function's, and tells the kernel its id.
pub(super) fn placeholder(btf: &Btf, tracepoints: &[&str]) -> Result<aya::Btf, LoadError> {
    const FWD: u32 = 7 << 24;
    const TYPEDEF: u32 = 8 << 24;
    const FUNC: u32 = 12 << 24;
    let typedefs = tracepoints.iter().map(|name| format!("btf_trace_{name}"));
    let typedefs = typedefs.filter_map(|name| Some((btf.typedef_id(&name).ok()?, TYPEDEF, name)));
    let functions = WALKS.iter().map(|name| format!("bpf_iter_{name}")).chain(FUNCTIONS.map(str::to_owned));
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
