//! Who ran while a task waited for the same CPU: what the `cpu` signal remembers of each CPU, and counts for each pair of cgroups.

/// A stretch is remembered in units of 64 ns, by the exponent: 32 bits hold 4 minutes and a half.
pub const RAN_UNIT_LOG2: u32 = 6;

/// Stretches that are remembered of each CPU, a power of two. Those of one cgroup that follow each other are one.
pub const RECENT_LEN: usize = 16;

/// A wait of so many ns is looked at: who ran meanwhile?
pub const LONG_WAIT_NS: u64 = 1_000_000;

/// Pairs of neighbours that are counted on a node.
pub const PAIRS_LEN: u32 = 4096;

/// How many cgroups above a task may limit its CPU time and are looked at.
pub const LIMITS_DEPTH: usize = 5;

record! {
    /// What tasks of one cgroup ran without one of another between them.
    pub struct Ran {
        /// The slot of its cgroup.
        pub slot: u32,
        /// How long, in [`RAN_UNIT_LOG2`], idle time between them included.
        pub length: u32,
        /// When it began, in ns on the CPU's `rq_clock`.
        pub from_ns: u64,
    }
}

record! {
    /// The last stretches on one CPU. `CPU_RECENT[cpu]`.
    pub struct Recent {
        /// The stretches.
        pub stretches: [Ran; RECENT_LEN],
        /// Index of the last one.
        pub last: u64,
        /// CLOCK_MONOTONIC in ns from which on a [`Pair`] is added again: there was no room for one.
        pub pairs_full_until_ns: u64,
        /// Whole cache lines, which no two CPUs share.
        pub reserved: [u64; 6],
    }
}

record! {
    /// Who waited, and who ran on that CPU meanwhile. `CPU_PAIRS` has how long, in ns: in waits of [`LONG_WAIT_NS`] and more.
    #[derive(Debug, PartialEq, Eq, Hash)]
    pub struct Pair {
        /// The slot of the cgroup that waited.
        pub waited: u32,
        /// The slot of the one that ran.
        pub ran: u32,
    }
}

/// Where `CPU_PAIRS` counts what it had no room for.
pub const NO_ROOM: Pair = Pair { waited: u32::MAX, ran: u32::MAX };

record! {
    /// When a cgroup, or one above it, was last seen to have been throttled. `CPU_THROTTLED[slot]`.
    pub struct Throttled {
        /// Sum of `cfs_bandwidth.throttled_time`, in ns.
        pub throttled_ns: u64,
        /// When that had grown, in ns on the `rq_clock` of the CPU that saw it.
        pub seen_ns: u64,
    }
}
