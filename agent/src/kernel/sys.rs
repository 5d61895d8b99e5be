//! The only `unsafe` of the agent: kernel maps as memory, and the calls that no safe crate offers.

use std::{
    fs::File,
    io,
    marker::PhantomData,
    num::NonZeroUsize,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use agent_common::Counts;
use aya::Pod;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A memory-mapped BPF array (`BPF_F_MMAPABLE`): reading a value is a copy out of memory, not a system call.
///
/// The kernel side writes while we read. Every 64-bit word is read whole; words of one record may be of different moments,
/// which is harmless where they only grow.
#[derive(Debug)]
pub struct MappedArray<T> {
    base: NonNull<u8>,
    bytes: NonZeroUsize,
    entries: u32,
    records: PhantomData<T>,
}

// SAFETY: the mapping is shared memory that belongs to no thread; all access is by atomic loads and stores.
unsafe impl<T> Send for MappedArray<T> {}

impl<T: Pod> MappedArray<T> {
    const WORDS: usize = size_of::<T>() / 8;

    /// Maps all `entries` values of the array `map`.
    ///
    /// # Errors
    /// When the kernel refuses: the map was not created with `BPF_F_MMAPABLE`, or is smaller.
    pub fn new(map: impl AsFd, entries: u32) -> io::Result<Self> {
        const { assert!(size_of::<T>() > 0 && size_of::<T>().is_multiple_of(8) && align_of::<T>() <= 8) };
        let bytes = NonZeroUsize::new(entries as usize * size_of::<T>())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "an array without entries cannot be mapped"))?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe { mmap(None, bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, map, 0) }?;
        Ok(Self { base: base.cast(), bytes, entries, records: PhantomData })
    }

    /// How many values it has.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    fn words(&self, index: u32) -> Option<&[AtomicU64]> {
        if index >= self.entries {
            return None;
        }
        // SAFETY: inside the mapping, which lives as long as `self`; page-aligned base and a size of whole words make it
        // aligned; the kernel's concurrent writes are what the atomics are for.
        Some(unsafe {
            let first = self.base.as_ptr().add(index as usize * size_of::<T>()).cast::<AtomicU64>();
            std::slice::from_raw_parts(first, Self::WORDS)
        })
    }

    /// The value at `index`; `None` beyond the array's end.
    pub fn read(&self, index: u32) -> Option<T> {
        let words = self.words(index)?;
        let mut value = std::mem::MaybeUninit::<T>::uninit();
        for (i, word) in words.iter().enumerate() {
            // SAFETY: `value` has room for WORDS words.
            unsafe { value.as_mut_ptr().cast::<u64>().add(i).write_unaligned(word.load(Ordering::Relaxed)) };
        }
        // SAFETY: every byte was written, and a `Pod` is valid with any bits.
        Some(unsafe { value.assume_init() })
    }

    /// One 64-bit word of the value at `index`: for looking at one field without copying the record.
    pub fn word(&self, index: u32, word: usize) -> Option<u64> {
        self.words(index)?.get(word).map(|w| w.load(Ordering::Acquire))
    }

    /// Replaces one 64-bit word of the value at `index`; nothing beyond its end.
    ///
    /// Only for words that the kernel side does not write at this time.
    pub fn set_word(&self, index: u32, word: usize, bits: u64) {
        if let Some(word) = self.words(index).and_then(|words| words.get(word)) {
            word.store(bits, Ordering::Release);
        }
    }

    /// Adds to one 64-bit word of the value at `index`, which the kernel side adds to atomically; nothing beyond its end.
    pub fn add_to_word(&self, index: u32, word: usize, n: u64) {
        if let Some(word) = self.words(index).and_then(|words| words.get(word)) {
            word.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Adds to the value at `index`, word by word as [`MappedArray::add_to_word`] does; nothing beyond the array's end.
    pub fn add(&self, index: u32, value: &T)
    where
        T: Counts,
    {
        for (word, added) in self.words(index).unwrap_or_default().iter().zip(words_of(value)) {
            word.fetch_add(added, Ordering::Relaxed);
        }
    }

    /// Replaces the value at `index`, its first 8 bytes last; nothing beyond the array's end.
    ///
    /// Only for records that the kernel side does not write at this time.
    pub fn write(&self, index: u32, value: &T) {
        let Some(words) = self.words(index) else { return };
        for (word, bits) in words.iter().zip(words_of(value)).rev() {
            word.store(bits, Ordering::Release);
        }
    }
}

/// The 64-bit words of a record.
fn words_of<T: Pod>(value: &T) -> impl DoubleEndedIterator<Item = u64> + ExactSizeIterator {
    bytes_of(value).chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_ne_bytes))
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`; no reference into it outlives `self`.
        let _ = unsafe { munmap(self.base.cast(), self.bytes.get()) };
    }
}

/// Looks at every entry of a hash map, many with one system call.
///
/// What is added or removed meanwhile may be missed; nothing is seen twice that stays.
///
/// # Errors
/// When the kernel refuses.
pub fn for_each_entry<K: Pod, V: Pod>(map: impl AsFd, mut look: impl FnMut(&K, &V)) -> io::Result<()> {
    const BPF_MAP_LOOKUP_BATCH: nix::libc::c_int = 24;
    /// The part of `union bpf_attr` for batches.
    #[repr(C)]
    struct Batch {
        from: u64,
        to: u64,
        keys: u64,
        values: u64,
        count: u32,
        map_fd: u32,
        elem_flags: u64,
        flags: u64,
    }
    const { assert!(size_of::<V>().is_multiple_of(8)) };
    // At least as many as may share a bucket, whose entries come together.
    let mut room = 64_usize;
    let (mut from, mut to) = (0_u32, 0_u32);
    let mut begun = false;
    loop {
        let mut keys = Vec::<K>::with_capacity(room);
        let mut values = Vec::<V>::with_capacity(room);
        let mut batch = Batch {
            from: if begun { (&raw const from).addr() as u64 } else { 0 },
            to: (&raw mut to).addr() as u64,
            keys: keys.as_mut_ptr().addr() as u64,
            values: values.as_mut_ptr().addr() as u64,
            count: room as u32,
            map_fd: map.as_fd().as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel writes at most `count` keys and values, for which both vectors have room, and a position of 32 bits.
        let result = unsafe { nix::libc::syscall(nix::libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut batch, size_of::<Batch>()) };
        let error = (result < 0).then(io::Error::last_os_error);
        let last = match error.as_ref().and_then(io::Error::raw_os_error) {
            None => false,
            Some(nix::libc::ENOENT) => true,
            Some(nix::libc::ENOSPC) if room < 1 << 16 => {
                room *= 4;
                continue;
            }
            Some(_) => return Err(error.unwrap_or_else(io::Error::last_os_error)),
        };
        let got = room.min(batch.count as usize);
        // SAFETY: the kernel has written that many of each, and any bytes are a `Pod`.
        unsafe {
            keys.set_len(got);
            values.set_len(got);
        }
        keys.iter().zip(&values).for_each(|(key, value)| look(key, value));
        if last {
            return Ok(());
        }
        from = to;
        begun = true;
    }
}

const BPF_MAP_UPDATE_ELEM: nix::libc::c_int = 2;

/// `bpf()` for commands about one entry of a map.
///
/// # Safety
/// `key` and `value`, which may be the next key, must be 0 or lead to as many bytes as the map's keys and values have.
unsafe fn entry(command: nix::libc::c_int, map: BorrowedFd<'_>, key: u64, value: u64) -> io::Result<()> {
    /// The part of `union bpf_attr` for one entry.
    #[repr(C)]
    struct Entry {
        map_fd: u32,
        reserved: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let entry = Entry { map_fd: map.as_raw_fd().cast_unsigned(), reserved: 0, key, value, flags: 0 };
    // SAFETY: the kernel reads a live struct without padding; for what it leads to the caller stands.
    let result = unsafe { nix::libc::syscall(nix::libc::SYS_bpf, command, &raw const entry, size_of::<Entry>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Copies every entry of a hash map into another one with keys and values of the same sizes in bytes. Nothing may change the first
/// meanwhile.
///
/// # Errors
/// When the kernel refuses, as where the second has no room.
pub fn copy_entries(from: impl AsFd, to: impl AsFd, key_size: u32, value_size: u32) -> io::Result<()> {
    const BPF_MAP_LOOKUP_ELEM: nix::libc::c_int = 1;
    const BPF_MAP_GET_NEXT_KEY: nix::libc::c_int = 4;
    let call = |command, map, key, value| {
        // SAFETY: what leads to a key or a value leads to as many bytes as they have in both maps.
        unsafe { entry(command, map, key, value) }
    };
    let room = |size: u32| vec![0_u64; size.div_ceil(8) as usize];
    let (mut key, mut next, mut value) = (room(key_size), room(key_size), room(value_size));
    let mut last = 0;
    loop {
        match call(BPF_MAP_GET_NEXT_KEY, from.as_fd(), last, next.as_mut_ptr().expose_provenance() as u64) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => return Ok(()),
            found => found?,
        }
        std::mem::swap(&mut key, &mut next);
        last = key.as_mut_ptr().expose_provenance() as u64;
        let value = value.as_mut_ptr().expose_provenance() as u64;
        call(BPF_MAP_LOOKUP_ELEM, from.as_fd(), last, value)?;
        call(BPF_MAP_UPDATE_ELEM, to.as_fd(), last, value)?;
    }
}

/// Waits until every program that was detached has returned, on whichever CPU it runs.
pub fn wait_for_programs() {
    /// An RCU grace period: programs run in read-side sections.
    const MEMBARRIER_CMD_GLOBAL: nix::libc::c_int = 1;
    // SAFETY: the call touches no memory of ours.
    let waited = unsafe { nix::libc::syscall(nix::libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if waited < 0 {
        // As with `nohz_full`. A program takes some µs.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// An iterator program's walk over the cgroups from `root` down, parents first: it runs while the file is read.
///
/// aya makes iterators without a place to begin at, which that over cgroups needs.
///
/// # Errors
/// When the kernel refuses: it has no such iterator (before 6.1).
pub fn walk_cgroups(program: impl AsFd, root: impl AsFd) -> io::Result<File> {
    const BPF_CGROUP_ITER_DESCENDANTS_PRE: u32 = 2;
    /// `union bpf_iter_link_info` for cgroups.
    #[repr(C)]
    struct From {
        order: u32,
        cgroup_fd: u32,
        cgroup_id: u64,
    }
    let root_fd = root.as_fd().as_raw_fd().cast_unsigned();
    walk(program.as_fd(), &From { order: BPF_CGROUP_ITER_DESCENDANTS_PRE, cgroup_fd: root_fd, cgroup_id: 0 })
}

/// An iterator program's walk over the sockets that have storage in `map`, of all network namespaces.
///
/// # Errors
/// When the kernel refuses.
pub fn walk_sockets(program: impl AsFd, map: impl AsFd) -> io::Result<File> {
    /// `union bpf_iter_link_info` for a map.
    #[repr(C)]
    struct From {
        map_fd: u32,
    }
    walk(program.as_fd(), &From { map_fd: map.as_fd().as_raw_fd().cast_unsigned() })
}

/// A walk from a place that the `union bpf_iter_link_info` says, which has no padding.
fn walk<T>(program: BorrowedFd<'_>, from: &T) -> io::Result<File> {
    const BPF_LINK_CREATE: nix::libc::c_int = 28;
    const BPF_ITER_CREATE: nix::libc::c_int = 33;
    const BPF_TRACE_ITER: u32 = 28;
    /// The part of `union bpf_attr` for `BPF_LINK_CREATE` of an iterator.
    #[repr(C)]
    struct LinkCreate {
        program_fd: u32,
        target_fd: u32,
        attach_type: u32,
        flags: u32,
        from: u64,
        from_len: u32,
        reserved: u32,
    }
    /// The part of `union bpf_attr` for `BPF_ITER_CREATE`.
    #[repr(C)]
    struct IterCreate {
        link_fd: u32,
        flags: u32,
    }
    let link = bpf(
        BPF_LINK_CREATE,
        &LinkCreate {
            program_fd: program.as_raw_fd().cast_unsigned(),
            target_fd: 0,
            attach_type: BPF_TRACE_ITER,
            flags: 0,
            from: std::ptr::from_ref(from).addr() as u64,
            from_len: size_of::<T>() as u32,
            reserved: 0,
        },
    )?;
    Ok(bpf(BPF_ITER_CREATE, &IterCreate { link_fd: link.as_raw_fd().cast_unsigned(), flags: 0 })?.into())
}

/// `bpf()` for commands that give a descriptor. `attributes` must be the part of `union bpf_attr` for the command, without padding.
fn bpf<T>(command: nix::libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    let attributes = std::ptr::from_ref(attributes);
    // SAFETY: the kernel reads the given number of bytes of a live struct without padding, and what it points to lives too.
    let fd = unsafe { nix::libc::syscall(nix::libc::SYS_bpf, command, attributes, size_of::<T>()) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A new array of so many arrays, each with one value of `bytes` bytes, and all of them made.
///
/// aya would make the first inner array with the types of its BTF, and Linux 5.15 to 6.1 let no array without them stand beside it
/// (`timer_off` in `bpf_map_meta_equal`).
///
/// # Errors
/// When the kernel refuses.
pub fn array_of_arrays(entries: u32, bytes: u32) -> io::Result<OwnedFd> {
    const BPF_MAP_CREATE: nix::libc::c_int = 0;
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;
    #[repr(C)]
    struct MapCreate {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        map_flags: u32,
        inner_map_fd: u32,
    }
    let array = |map_type, value_size, max_entries, inner_map_fd| {
        bpf(BPF_MAP_CREATE, &MapCreate { map_type, key_size: 4, value_size, max_entries, map_flags: 0, inner_map_fd })
    };
    let inner = || array(BPF_MAP_TYPE_ARRAY, bytes, 1, 0);
    let outer = array(BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, entries, inner()?.as_raw_fd().cast_unsigned())?;
    for index in 0..entries {
        let inner = inner()?;
        let value = inner.as_raw_fd();
        let (key, value) = ((&raw const index).addr() as u64, (&raw const value).addr() as u64);
        // SAFETY: a key and a value of four bytes each, which live.
        unsafe { entry(BPF_MAP_UPDATE_ELEM, outer.as_fd(), key, value) }?;
    }
    Ok(outer)
}

/// Whether the kernel takes a program that compares and exchanges (`BPF_CMPXCHG`): from Linux 5.12 on, and on ARM, where the instruction
/// came later, from 5.18 on.
pub fn exchanges() -> bool {
    const BPF_PROG_LOAD: nix::libc::c_int = 5;
    const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;
    /// The part of `union bpf_attr` for `BPF_PROG_LOAD`, up to where the kernel writes its log.
    #[repr(C)]
    struct Load {
        program_type: u32,
        len: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
    }
    /// `struct bpf_insn`, little-endian: operation, registers, offset, number.
    const PROGRAM: [u64; 5] = [
        0x0000_0000_0000_00b7, // r0 = 0
        0x0000_0000_0000_01b7, // r1 = 0
        0x0000_0000_fff8_0a7b, // *(u64 *)(r10 - 8) = r0
        0x0000_00f1_fff8_1adb, // r0 = cmpxchg_64(r10 - 8, r0, r1)
        0x0000_0000_0000_0095, // exit
    ];
    let load = Load {
        program_type: BPF_PROG_TYPE_SOCKET_FILTER,
        len: PROGRAM.len() as u32,
        instructions: PROGRAM.as_ptr().addr() as u64,
        license: c"GPL".as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
    };
    bpf(BPF_PROG_LOAD, &load).is_ok()
}

/// What is attached to a cgroup at one kind of event (`enum bpf_attach_type`), not to its ancestors: how (`BPF_F_ALLOW_MULTI`, …), and the
/// ids of the programs.
///
/// # Errors
/// When the kernel refuses.
pub fn attached_to(cgroup: impl AsFd, attach_type: u32) -> io::Result<(u32, Vec<u32>)> {
    const BPF_PROG_QUERY: nix::libc::c_int = 16;
    /// As many as the kernel lets be attached to a cgroup (`BPF_CGROUP_MAX_PROGS`).
    const MOST: usize = 64;
    /// The part of `union bpf_attr` for `BPF_PROG_QUERY`.
    #[repr(C)]
    struct Query {
        target_fd: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        programs: u64,
        program_count: u32,
        reserved: u32,
    }
    let mut ids = vec![0_u32; MOST];
    let mut query = Query {
        target_fd: cgroup.as_fd().as_raw_fd().cast_unsigned(),
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        programs: ids.as_mut_ptr().addr() as u64,
        program_count: MOST as u32,
        reserved: 0,
    };
    // SAFETY: the kernel reads and writes a live struct without padding, and writes at most `program_count` ids, for which there is room.
    let result = unsafe { nix::libc::syscall(nix::libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    ids.truncate(query.program_count as usize);
    Ok((query.attach_flags, ids))
}

/// For how long a program has run, in ns, and how often, as far as the kernel counted it; how often it was left out.
///
/// # Errors
/// When the kernel refuses.
pub fn program_runs(program: impl AsFd) -> io::Result<[u64; 3]> {
    const BPF_OBJ_GET_INFO_BY_FD: nix::libc::c_int = 15;
    /// Words of `struct bpf_prog_info`, the last of which are `run_time_ns` and `run_cnt`, since 5.1, and `recursion_misses`, since 5.12.
    const WORDS: usize = 27;
    /// The part of `union bpf_attr` for information.
    #[repr(C)]
    struct Info {
        fd: u32,
        len: u32,
        info: u64,
    }
    let mut info = [0_u64; WORDS];
    let fd = program.as_fd().as_raw_fd().cast_unsigned();
    let mut call = Info { fd, len: size_of_val(&info) as u32, info: info.as_mut_ptr().addr() as u64 };
    // SAFETY: the kernel reads and writes a live struct without padding, and at most `len` bytes of the other, whose pointers are null.
    let result = unsafe { nix::libc::syscall(nix::libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw mut call, size_of::<Info>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok([info[WORDS - 3], info[WORDS - 2], info[WORDS - 1]]) }
}

/// The bytes of a record.
pub fn bytes_of<T: Pod>(value: &T) -> &[u8] {
    // SAFETY: a `Pod` has no padding, and any of its bytes may be looked at.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// What steers the wall clock, and the clock's state (`adjtimex`, which changes nothing with `modes` 0).
pub fn clock_state() -> io::Result<(nix::libc::timex, nix::libc::c_int)> {
    let mut clock = std::mem::MaybeUninit::<nix::libc::timex>::zeroed();
    // SAFETY: zero is valid for the struct's integers, and the kernel writes that live struct only.
    let (state, clock) = unsafe { (nix::libc::adjtimex(clock.as_mut_ptr()), clock.assume_init()) };
    if state < 0 { Err(io::Error::last_os_error()) } else { Ok((clock, state)) }
}

/// Makes all threads allocate from one heap. glibc gives each its own, and a batch that one thread made and another dropped leaves
/// a hole in each; podmeter's threads hardly ever allocate at the same time. What takes a MiB and more is no part of it: glibc would
/// raise that bound whenever such a piece is freed, and a start would take 7 MiB more. To be called before there are threads.
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: plain calls into the C library's allocator.
    let _ = unsafe { (nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1), nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, 1 << 20)) };
}

/// Gives freed memory back to the kernel: what loading programs needs for a moment and running never again, and between two exports
/// what a batch is made of.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a plain call into the C library's allocator.
    let _ = unsafe { nix::libc::malloc_trim(0) };
}
