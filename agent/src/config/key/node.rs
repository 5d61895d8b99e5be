//! Keys of what is read of the node itself.

use super::{Key, absolute, boolean, store};

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "node.root",
        Some("/"),
        "Where the node's root directory is: in a container, where the node's / is mounted, read-only. Interfaces, \
         tracked connections and file systems are those of the process 1 that its proc/ shows.",
        |l, v| store(&mut l.config.signals.node.root, absolute(v)?),
    ),
    Key::new(
        "node.per_cpu",
        Some("false"),
        "Whether system.cpu.time has a value for each CPU, with its number, in place of one for the node.",
        |l, v| store(&mut l.config.signals.node.per_cpu, boolean(v)?),
    ),
];
