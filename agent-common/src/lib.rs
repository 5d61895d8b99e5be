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

/// Declares a [`record!`] of counters that only grow: `u64`, arrays of them, and other counts. It implements [`Counts`].
#[macro_export]
macro_rules! counts {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $ty:ty,)+ }) => {
        $crate::record! {
            $(#[$meta])*
            pub struct $name { $($(#[$field_meta])* pub $field: $ty,)+ }
        }

        impl $crate::Counts for $name {
            const ZERO: Self = Self::ZERO;

            fn add(&mut self, other: &Self) {
                $($crate::Counts::add(&mut self.$field, &other.$field);)+
            }
        }
    };
}

/// What adds up over CPUs, over a cgroup and its descendants, and over the cgroups of a workload.
pub trait Counts: Copy {
    /// Nothing counted.
    const ZERO: Self;

    /// Adds what `other` counted.
    fn add(&mut self, other: &Self);
}

impl Counts for u64 {
    const ZERO: Self = 0;

    fn add(&mut self, other: &Self) {
        *self = self.wrapping_add(*other);
    }
}

impl<T: Counts, const N: usize> Counts for [T; N] {
    const ZERO: Self = [T::ZERO; N];

    fn add(&mut self, other: &Self) {
        for (sum, n) in self.iter_mut().zip(other) {
            sum.add(n);
        }
    }
}

pub mod bucket;
pub mod cgroups;
pub mod cpu;
pub mod disk;
pub mod dns;
pub mod drops;
pub mod known;
pub mod memory;
pub mod network;
pub mod rows;
pub mod share;
pub mod socket;
pub mod tcp;
pub mod walk;

#[cfg(test)]
mod tests {
    use super::Counts as _;

    counts! {
        /// Some counts.
        pub struct Some {
            /// One.
            pub one: u64,
            /// Two.
            pub two: [u64; 2],
        }
    }

    #[test]
    fn counts_add_up_field_by_field() {
        let mut sum = Some { one: 1, two: [2, u64::MAX] };
        sum.add(&Some { one: 10, two: [20, 2] });
        assert_eq!((sum.one, sum.two), (11, [22, 1]));
        assert_eq!((Some::ZERO.one, Some::ZERO.two), (0, [0, 0]));
    }
}
