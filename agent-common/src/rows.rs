//! Rows: counts that a slot has only once there was something to count.
//!
//! A distribution takes a kilobyte and more, and most cgroups never have one: they are in a hash table whose entries are allocated when they
//! are first needed, instead of in an array with room for all.

record! {
    /// Whose counts a row has.
    pub struct RowKey {
        /// The slot.
        pub slot: u32,
        /// Which of its rows: by the signal, with [`CARRIED`] where it is what dead descendants had counted, which only the agent writes.
        pub kind: u32,
    }
}

/// Bit of [`RowKey::kind`].
pub const CARRIED: u32 = 1 << 31;
