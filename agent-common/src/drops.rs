//! The records of the `drops` signal.

use crate::socket::SocketFacts;

/// Reasons that are told apart, by the kernel's own numbers. Position 0 holds all that have a larger number: those of subsystems that
/// number their own, and of kernels much newer than this.
pub const REASONS: usize = 192;

/// Network namespaces whose cgroup is known.
pub const NAMESPACES: u32 = 1024;

counts! {
    /// Packets of one slot that were dropped. `DROPS_COUNTS[slot]`.
    pub struct DropCounts {
        /// By `enum skb_drop_reason`.
        pub packets: [u64; REASONS],
    }
}

record! {
    /// Offsets into kernel structs in bytes, found in the running kernel's BTF; frozen before the programs load.
    pub struct Facts {
        /// What leads to a socket's cgroup.
        pub socket: SocketFacts,
        /// `sk_buff.sk`
        pub skb_sk: u64,
        /// `sk_buff.protocol`
        pub skb_protocol: u64,
        /// `sk_buff.dev`
        pub skb_dev: u64,
        /// `net_device.nd_net.net`
        pub dev_net: u64,
        /// `net.ns.inum`, 32 bits
        pub net_inum: u64,
        /// 1 where the tracepoint says which socket a packet was to be received by (since 6.11).
        pub tells_receiver: u64,
        /// A bit for each reason that is no loss.
        pub harmless: [u64; REASONS / 64 + 1],
    }
}
