//! What the eBPF programs and the agent agree on: the records in the maps and the bucket function.
//!
//! `no_std`, integers and arrays only. The kernel side (`agent-ebpf`) writes these records, the userspace side (`agent`)
//! reads them. A change here is a change of ABI: programs and maps that an older agent pinned are then replaced.
#![cfg_attr(not(test), no_std)]

/// Declares a record: `#[repr(C)]`, `Copy`, all-zero default, and a compile error where the layout would hide padding.
///
/// Padding is what leaks kernel stack to userspace, what the verifier refuses as uninitialised, and what makes two compilers
/// disagree. Only integers, arrays of integers and other records may be fields: every bit pattern is then a valid value, which
/// is what lets the agent read records straight out of mapped memory.
#[macro_export]
macro_rules! record {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $ty:ty,)+ }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy)]
        pub struct $name { $($(#[$field_meta])* pub $field: $ty,)+ }

        const _: () = assert!(
            size_of::<$name>() == 0 $(+ size_of::<$ty>())+,
            concat!(stringify!($name), " has padding: reorder or widen its fields"),
        );

        impl $name {
            /// The record with every bit zero, as the kernel creates map values.
            pub const ZERO: Self = {
                // SAFETY: a record holds integers and arrays of integers only (see `record!`), for which zero is valid.
                unsafe { core::mem::zeroed() }
            };
        }

        // SAFETY: `#[repr(C)]`, `Copy`, `'static`, no padding (asserted above), every bit pattern valid.
        #[cfg(feature = "user")]
        unsafe impl ::aya::Pod for $name {}
    };
}

pub mod bucket;
pub mod cgroups;
pub mod cpu;
