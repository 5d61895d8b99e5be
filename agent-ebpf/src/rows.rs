//! Rows of counts that are made when there is something to count: see [`agent_common::rows`].

use agent_common::rows::RowKey;
use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    btf_maps::{Array, HashMap},
};

/// Rows by slot and kind.
pub type Rows<T> = HashMap<RowKey, T, 1, { BPF_F_NO_PREALLOC as usize }>;

/// A row of a slot, made now if it is the first; `None` where there is no memory for it. `empty` holds one without counts, which is too
/// large for a program's stack.
#[inline(always)]
pub fn row<T>(rows: &Rows<T>, empty: &Array<T, 1>, slot: u32, kind: u32) -> Option<*mut T> {
    let key = RowKey { slot, kind };
    if let Some(row) = rows.get_ptr_mut(key) {
        return Some(row);
    }
    // SAFETY: never written.
    let empty = unsafe { empty.get_ptr(0)?.as_ref()? };
    // Another CPU may be first; then that one's is found.
    let _ = rows.insert(key, empty, BPF_NOEXIST.into());
    rows.get_ptr_mut(key)
}
