//! What programs need to know of the kernel's sockets.

record! {
    /// Offsets that lead from a socket to its cgroup, in bytes; part of the facts of every program that reads sockets.
    pub struct SocketFacts {
        /// `sock.sk_cgrp_data.cgroup`, or `.val` where the former does not exist (before 5.15).
        pub cgroup: u64,
        /// 1 where the cgroup is held as a number, with the lowest bit set where it is none.
        pub cgroup_is_number: u64,
        /// `cgroup.kn`
        pub cgroup_kn: u64,
        /// `kernfs_node.id`
        pub kn_id: u64,
        /// `sock.__sk_common.skc_state`, one byte
        pub state: u64,
    }
}

/// `TCP_ESTABLISHED` and the others of `include/net/tcp_states.h`: ABI since they are shown in /proc/net/tcp.
pub mod state {
    /// A connection.
    pub const ESTABLISHED: u8 = 1;
    /// A connection with its SYN sent and not answered yet (SYN_SENT).
    pub const SYN_SENT: u8 = 2;
    /// An incoming connection that is not established yet, with a full socket (SYN_RECV).
    pub const SYN_RECV: u8 = 3;
    /// A connection that this end has closed, before that is acknowledged (FIN_WAIT1).
    pub const FIN_WAIT1: u8 = 4;
    /// What is left of a connection: no full socket.
    pub const TIME_WAIT: u8 = 6;
    /// Not connected.
    pub const CLOSE: u8 = 7;
    /// A connection that the other end has closed, and then this one, before that is acknowledged (LAST_ACK).
    pub const LAST_ACK: u8 = 9;
    /// Waits for connections.
    pub const LISTEN: u8 = 10;
    /// A connection that both ends have closed at once, before that is acknowledged (CLOSING).
    pub const CLOSING: u8 = 11;
    /// An incoming connection that is not established yet: no full socket (NEW_SYN_RECV).
    pub const NEW_SYN_RECV: u8 = 12;
}
