//! What can be wrong with the kernel's types.

use std::path::PathBuf;

/// Why an offset could not be found.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// There is no file, or no permission.
    #[error("could not read this kernel's types from {}: it needs a kernel built with CONFIG_DEBUG_INFO_BTF=y, and /sys", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: std::io::Error,
    },
    /// Written on a machine of the other byte order.
    #[error("the kernel's types (BTF) are in the other byte order: they are not of the kernel this runs on")]
    ForeignEndian,
    /// Not BTF, truncated, or contradicting itself.
    #[error("the kernel's types (BTF) are damaged: {what} at byte {at}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
        /// Where in the file.
        at: usize,
    },
    /// A kernel newer than this reader: without the kind's length nothing behind it can be found.
    #[error("the kernel's types (BTF) use kind {kind} (type {id}), which this version of podmeter does not know")]
    UnknownKind {
        /// `BTF_KIND_*`.
        kind: u32,
        /// Id of the type.
        id: u32,
    },
    /// This kernel has no such type.
    #[error("this kernel has no {what} {name}")]
    NoType {
        /// `struct or union` or `enum`.
        what: &'static str,
        /// The name asked for.
        name: String,
    },
    /// This kernel has the type, but not the member.
    #[error("in this kernel {type_name} has no member {member}")]
    NoMember {
        /// The struct or union.
        type_name: String,
        /// The member asked for, or the part of the path that failed.
        member: String,
    },
    /// The path leads through a pointer or a number, which one load cannot follow.
    #[error("in this kernel {type_name}.{member} is not a struct that lies inside {type_name}")]
    NotInside {
        /// The struct or union.
        type_name: String,
        /// The part of the path that is no struct or union.
        member: String,
    },
    /// The member is a bitfield: it has no byte offset of its own.
    #[error("in this kernel {type_name}.{member} is a bitfield, which has no offset in bytes")]
    Bitfield {
        /// The struct or union.
        type_name: String,
        /// The member asked for.
        member: String,
    },
    /// The member is not as wide as what would be loaded from there.
    #[error("in this kernel {type_name}.{member} has {found} bytes, not {wanted}")]
    Size {
        /// The struct or union.
        type_name: String,
        /// The member asked for.
        member: String,
        /// Its size in bytes.
        found: u32,
        /// The size in bytes of the load.
        wanted: u32,
    },
    /// Types of the same name disagree: any answer could be the wrong one.
    #[error("this kernel has several types {type_name}, and {member} lies elsewhere in each")]
    Ambiguous {
        /// The struct or union.
        type_name: String,
        /// The member asked for.
        member: String,
    },
}
