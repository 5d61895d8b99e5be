//! What a load reports to its parent while it runs: a page that both have mapped.

use std::{
    num::NonZeroUsize,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use anyhow::{Context as _, Result};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Length of a window in ns: the agent's burst window, on the same clock.
pub(super) const WINDOW_NS: u64 = 100_000_000;

/// Windows that are kept: 100 s.
const WINDOWS: usize = 1000;

/// The layout of the mapping. All zero when it is made.
pub(super) struct Page {
    /// Round trips of a ping-pong.
    pub(super) rounds: AtomicU64,
    /// Number of the first window.
    first: AtomicU64,
    /// CPU time in ns by window, from the first on.
    on_cpu_ns: [AtomicU64; WINDOWS],
}

impl Page {
    /// Adds CPU time to a window. Windows past the last one that is kept are dropped.
    pub(super) fn add(&self, window: u64, ns: u64) {
        let _ = self.first.compare_exchange(0, window, Relaxed, Relaxed);
        let position = window.wrapping_sub(self.first.load(Relaxed));
        if let Some(slot) = usize::try_from(position).ok().and_then(|position| self.on_cpu_ns.get(position)) {
            slot.fetch_add(ns, Relaxed);
        }
    }
}

/// The mapping: shared with the processes forked while it exists.
#[derive(Debug)]
pub(super) struct SharedPage {
    page: NonNull<Page>,
}

// SAFETY: the page holds atomics only.
unsafe impl Send for SharedPage {}
// SAFETY: the page holds atomics only.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    const LENGTH: NonZeroUsize = NonZeroUsize::new(size_of::<Page>()).unwrap();

    pub(super) fn new() -> Result<Self> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let page = unsafe { mmap_anonymous(None, Self::LENGTH, protection, MapFlags::MAP_SHARED) };
        Ok(Self { page: page.context("could not map a page to share with a load")?.cast() })
    }

    pub(super) fn page(&self) -> &Page {
        // SAFETY: mapped until drop, page-aligned, and zero is a valid `Page`.
        unsafe { self.page.as_ref() }
    }

    pub(super) fn rounds(&self) -> u64 {
        self.page().rounds.load(Relaxed)
    }

    pub(super) fn windows(&self) -> Vec<(u64, u64)> {
        let page = self.page();
        let used = page.on_cpu_ns.iter().zip(page.first.load(Relaxed)..);
        used.map(|(ns, window)| (window, ns.load(Relaxed))).filter(|(_, ns)| *ns > 0).collect()
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length, and no reference into it outlives `self`.
        let _ = unsafe { munmap(self.page.cast(), Self::LENGTH.get()) };
    }
}
