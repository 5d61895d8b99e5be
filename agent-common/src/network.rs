//! The records of the `network` signal.

use crate::dns::PORTS_LEN;

/// Most copies of each slot's counts.
pub const COPIES_MOST: u32 = 8;

/// How many copies of each slot's counts there are for so many CPUs: CPUs that share one add to it in turns, so that memory does not
/// grow with each CPU. A power of two.
pub const fn copies(cpus: u32) -> u32 {
    if cpus >= COPIES_MOST { COPIES_MOST } else { cpus.next_power_of_two() }
}

/// Address ranges with a scope, of either family.
pub const RANGES_LEN: usize = 1024;

/// Where a packet goes to. The discriminant is the index of its count, and the value in the tables of address ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Scope {
    /// To the same machine or pod: it leaves by the loopback interface.
    Loopback = 0,
    /// To pods and services of the cluster.
    Cluster = 1,
    /// To nodes of the cluster.
    Node = 2,
    /// To addresses that the internet does not route.
    Private = 3,
    /// To all others.
    Internet = 4,
}

impl Scope {
    /// Every scope by its index.
    pub const ALL: [Self; 5] = [Self::Loopback, Self::Cluster, Self::Node, Self::Private, Self::Internet];
}

counts! {
    /// What the sockets of one slot received and sent on the CPUs that share a copy:
    /// `NETWORK_COUNTS[(cpu & (copies - 1)) * slots + slot]`, where [`copies`] depends on the number of CPUs.
    ///
    /// Bytes are those of network-layer packets (IP header and all that follows), as they are on the wire: of a large packet that is
    /// segmented on its way out, or was put together on its way in, each segment counts with headers of its own. Each direction is a
    /// cache line.
    pub struct NetworkCounts {
        /// Bytes received, but for loopback.
        pub received_bytes: u64,
        /// Packets received, but for loopback.
        pub received_packets: u64,
        /// Bytes received from the same machine or pod.
        pub received_loopback_bytes: u64,
        /// Packets received from the same machine or pod.
        pub received_loopback_packets: u64,
        /// Nothing.
        pub reserved: [u64; 4],
        /// Bytes sent by [`Scope`].
        pub sent_bytes: [u64; 5],
        /// Packets sent, but for loopback.
        pub sent_packets: u64,
        /// Packets sent to the same machine or pod.
        pub sent_loopback_packets: u64,
        /// Nothing.
        pub reserved_too: u64,
    }
}

record! {
    /// Facts for the programs, frozen before they load.
    pub struct Facts {
        /// The number of [`copies`], less one.
        pub copy_mask: u64,
        /// The ports of DNS; [`crate::dns::NO_PORT`] for none. Behind the first one that is none all others are.
        pub ports: [u64; PORTS_LEN],
        /// A hash of the address ranges: when they change, counting begins anew.
        pub ranges: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copies_grow_with_the_cpus_up_to_eight() {
        assert_eq!([1, 2, 3, 4, 5, 8, 9, 256].map(copies), [1, 2, 4, 4, 8, 8, 8, 8]);
    }
}
