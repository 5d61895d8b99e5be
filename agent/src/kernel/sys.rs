//! The only `unsafe` of the agent: kernel maps as memory, and two calls that no safe crate offers.

use std::{
    io, marker::PhantomData, num::NonZeroUsize, os::fd::AsFd, ptr::NonNull, sync::atomic::AtomicU64, sync::atomic::Ordering,
};

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

    /// Replaces the value at `index`, its first word last; nothing beyond the array's end.
    ///
    /// Only for records that the kernel side does not write at this time.
    pub fn write(&self, index: u32, value: &T) {
        let Some(words) = self.words(index) else { return };
        for (i, word) in words.iter().enumerate().rev() {
            // SAFETY: `T` is a `Pod` of WORDS words without padding.
            let bits = unsafe { std::ptr::from_ref(value).cast::<u64>().add(i).read_unaligned() };
            word.store(bits, Ordering::Release);
        }
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`; no reference into it outlives `self`.
        let _ = unsafe { munmap(self.base.cast(), self.bytes.get()) };
    }
}

/// The bytes of a record.
pub fn bytes_of<T: Pod>(value: &T) -> &[u8] {
    // SAFETY: a `Pod` has no padding, and any of its bytes may be looked at.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// Makes all threads allocate from one heap. glibc gives each its own, and a batch that one thread made and another dropped leaves
/// a hole in each; podmeter's threads hardly ever allocate at the same time. To be called before there are threads.
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a plain call into the C library's allocator.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1);
    }
}

/// Gives freed memory back to the kernel. Loading programs needs megabytes for a moment that running never needs again.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a plain call into the C library's allocator.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
