//! What several signals of sockets have in common: where this kernel keeps what leads to the cgroup, and the ports of DNS.

use agent_common::{
    dns::{NO_PORT, PORTS_LEN},
    socket::SocketFacts,
};

use super::SignalError;
use crate::{
    config,
    kernel::{
        btf::{Btf, BtfError},
        load::{Kernel, LOCKED_DOWN},
    },
};

/// The ports of DNS as the programs have them.
pub fn dns_ports(config: &config::Dns) -> [u64; PORTS_LEN] {
    let mut ports = [NO_PORT; PORTS_LEN];
    for (place, port) in ports.iter_mut().zip(&config.ports) {
        *place = u64::from(*port);
    }
    ports
}

/// Whether programs can tell which cgroup a socket is of. Before 5.15 its address is a mere number to them.
///
/// # Errors
/// When they cannot.
pub fn can_be_attributed(facts: &SocketFacts, kernel: &Kernel) -> Result<(), SignalError> {
    let by_address = facts.cgroup_is_number != 0;
    if by_address && !kernel.reads_by_address { Err(LOCKED_DOWN.into()) } else { Ok(()) }
}

/// The offsets, in bytes.
///
/// # Errors
/// When this kernel lacks one of them.
pub fn facts(btf: &Btf) -> Result<SocketFacts, BtfError> {
    // A pointer since 5.15; before that a number, which may be a pointer or what the old controllers for networks want.
    let is_number = !btf.has_member("sock_cgroup_data", "cgroup");
    let cgroup = if is_number { "sk_cgrp_data.val" } else { "sk_cgrp_data.cgroup" };
    Ok(SocketFacts {
        cgroup: btf.offset_of("sock", cgroup, 8)?,
        cgroup_is_number: is_number.into(),
        cgroup_kn: btf.offset_of("cgroup", "kn", 8)?,
        kn_id: btf.offset_of("kernfs_node", "id", 8)?,
        state: btf.offset_of("sock", "__sk_common.skc_state", 1)?,
    })
}
