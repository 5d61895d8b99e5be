//! Where this kernel keeps what leads from a socket to its cgroup.

use agent_common::socket::SocketFacts;

use crate::kernel::btf::{Btf, BtfError};

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
