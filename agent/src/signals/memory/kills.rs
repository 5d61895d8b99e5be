//! The ring of kills by the OOM killer, read every second: each becomes a line of the log and an event.

use agent_common::memory::{KILLS_LEN, OomKill, Ring, UNKNOWN};
use tracing::warn;

use crate::{
    cgroups::Table,
    kernel::{
        facts,
        load::{LoadError, Object},
        sys::MappedArray,
    },
    signals::event::{Detail, Event},
};

/// Name of the event.
pub const EVENT: &str = "podmeter.oom.kill";

/// Words of [`Ring`].
const HEAD: usize = std::mem::offset_of!(Ring, head) / 8;
const TAIL: usize = std::mem::offset_of!(Ring, tail) / 8;

/// The ring, and where it was read up to, which outlives the agent.
pub struct Kills {
    ring: MappedArray<Ring>,
    kills: MappedArray<OomKill>,
    /// Kills that were overwritten before they were read.
    lost: u64,
}

impl Kills {
    /// Opens the ring of `object`.
    ///
    /// # Errors
    /// When a map is missing or cannot be mapped.
    pub fn open(object: &Object) -> Result<Self, LoadError> {
        Ok(Self { ring: object.mapped("OOM_RING")?, kills: object.mapped("OOM_KILLS")?, lost: 0 })
    }

    /// Kills that were overwritten before they were read, since the agent started.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// The kills since the last call, the last agent's included.
    pub fn take(&mut self, table: &Table) -> Vec<Event> {
        let (Some(head), Some(mut tail)) = (self.ring.word(0, HEAD), self.ring.word(0, TAIL)) else { return Vec::new() };
        let oldest = head.saturating_sub(KILLS_LEN.into());
        self.lost += oldest.saturating_sub(tail);
        tail = tail.max(oldest);
        let read = |number: u64| self.kills.read(number as u32 & (KILLS_LEN - 1));
        let events = (tail..head).filter_map(read).map(|kill| told(&kill, table)).collect();
        self.ring.set_word(0, TAIL, head);
        events
    }
}

/// Logs a kill and makes an event of it.
fn told(kill: &OomKill, table: &Table) -> Event {
    let path = |id: u64| table.iter().find(|c| c.id == id).map(|c| c.path.clone());
    let path = |id: u64| match id {
        UNKNOWN => "(unknown)".to_owned(),
        _ => path(id).unwrap_or_else(|| format!("(gone, id {id})")),
    };
    let end = kill.comm.iter().position(|byte| *byte == 0).unwrap_or(kill.comm.len());
    let name = String::from_utf8_lossy(&kill.comm[..end]).into_owned();
    let victim = path(kill.cgroup);
    let limiting = (kill.limiting != 0).then(|| path(kill.limiting));
    let cause = if limiting.is_some() { "cgroup" } else { "node" };
    let charged = [kill.usage_bytes, kill.anon_bytes, kill.file_bytes, kill.shmem_bytes];
    // Before 5.18 the kernel keeps no sum of its own memory: it is what the rest leaves of usage.
    let kernel_bytes = match charged {
        _ if kill.kernel_bytes != UNKNOWN || charged.contains(&UNKNOWN) => kill.kernel_bytes,
        [usage, parts @ ..] => usage.saturating_sub(parts.iter().sum()),
    };
    let parts = [
        ("podmeter.memory.limit", kill.limit_bytes),
        ("podmeter.memory.usage", kill.usage_bytes),
        ("podmeter.memory.anon", kill.anon_bytes),
        ("podmeter.memory.file", kill.file_bytes),
        ("podmeter.memory.shmem", kill.shmem_bytes),
        ("podmeter.memory.kernel", kernel_bytes),
    ];
    let bytes = |name: &str| parts.iter().find(|(part, bytes)| *part == name && *bytes != UNKNOWN).map(|(_, bytes)| *bytes);
    warn!(
        event = EVENT,
        pid = kill.tgid,
        name,
        cgroup = victim,
        cause,
        limiting,
        limit_bytes = bytes("podmeter.memory.limit"),
        usage_bytes = bytes("podmeter.memory.usage"),
        anon_bytes = bytes("podmeter.memory.anon"),
        file_bytes = bytes("podmeter.memory.file"),
        shmem_bytes = bytes("podmeter.memory.shmem"),
        kernel_bytes = bytes("podmeter.memory.kernel"),
        "out of memory: a process was killed"
    );
    let body = match &limiting {
        Some(_) if kill.limiting == UNKNOWN => {
            format!("process {name} ({}) was killed: its cgroup or one above it reached its memory limit", kill.tgid)
        }
        Some(limiting) => format!("process {name} ({}) was killed: {limiting} reached its memory limit", kill.tgid),
        None => format!("process {name} ({}) was killed: the node ran out of memory", kill.tgid),
    };
    let mut attributes = vec![
        ("process.pid", Detail::Int(kill.tgid.into())),
        ("process.executable.name", Detail::Text(name)),
        ("podmeter.oom.cause", Detail::Text(cause.to_owned())),
        ("podmeter.oom.victim.cgroup.path", Detail::Text(victim)),
    ];
    attributes.extend(
        limiting.filter(|_| kill.limiting != UNKNOWN).map(|path| ("podmeter.oom.limiting.cgroup.path", Detail::Text(path))),
    );
    attributes.extend(parts.into_iter().filter(|(_, bytes)| *bytes != UNKNOWN).map(|(part, bytes)| (part, Detail::Int(bytes))));
    let time_unix_ns = facts::unix_ns().saturating_sub(facts::boottime_ns().saturating_sub(kill.time_ns));
    Event { name: EVENT, cgroup: (kill.slot, kill.cgroup), time_unix_ns, body, attributes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::table::tests::cgroup;

    #[test]
    fn a_kill_is_told_with_all_that_is_known_and_nothing_else() {
        let mut table = Table::default();
        table.insert(cgroup(3, "/pod/container", None));
        table.insert(cgroup(4, "/pod", None));
        let mut kill = OomKill { cgroup: 1003, slot: 3, limiting: 1004, tgid: 77, usage_bytes: 4096, ..OomKill::ZERO };
        kill.comm[..5].copy_from_slice(b"stres");
        (kill.kernel_bytes, kill.anon_bytes) = (UNKNOWN, 1000);
        let event = told(&kill, &table);
        let of = |name: &str| event.attributes.iter().find(|(key, _)| *key == name).map(|(_, detail)| detail.clone());
        assert_eq!(event.body, "process stres (77) was killed: /pod reached its memory limit");
        assert_eq!((event.name, event.cgroup), ("podmeter.oom.kill", (3, 1003)));
        assert_eq!(of("process.executable.name"), Some(Detail::Text("stres".to_owned())));
        assert_eq!(of("podmeter.oom.limiting.cgroup.path"), Some(Detail::Text("/pod".to_owned())));
        assert_eq!(
            (of("podmeter.memory.usage"), of("podmeter.memory.kernel")),
            (Some(Detail::Int(4096)), Some(Detail::Int(3096)))
        );
        let unknown = told(&OomKill { anon_bytes: UNKNOWN, ..kill }, &table);
        assert!(!unknown.attributes.iter().any(|(key, _)| ["podmeter.memory.kernel", "podmeter.memory.anon"].contains(key)));

        let event = told(&OomKill { limiting: 0, cgroup: 9, ..kill }, &table);
        assert_eq!(event.body, "process stres (77) was killed: the node ran out of memory");
        assert!(event.attributes.contains(&("podmeter.oom.cause", Detail::Text("node".to_owned()))));
        assert!(event.attributes.contains(&("podmeter.oom.victim.cgroup.path", Detail::Text("(gone, id 9)".to_owned()))));
    }
}
