//! The ring of kills by the OOM killer, read every second: each becomes a line of the log and an event, up to a number for each pod or
//! other cgroup and minute. A process that is killed and started again without end is reported that often, and counted in full.

use std::time::{Duration, Instant};

use agent_common::memory::{KILLS_LEN, OomKill, Ring, UNKNOWN};
use tracing::warn;

use crate::{
    causes::one_line,
    cgroups::{Cgroup, Table},
    event::{Detail, Event},
    kernel::{
        load::{LoadError, Object},
        sys::MappedArray,
    },
    rate_limit::RateLimit,
};

/// Name of the event.
pub const EVENT: &str = "podmeter.oom.kill";

/// Words of [`Ring`].
const HEAD: usize = std::mem::offset_of!(Ring, head) / 8;
const TAIL: usize = std::mem::offset_of!(Ring, tail) / 8;
const UNWRITTEN: usize = std::mem::offset_of!(Ring, unwritten) / 8;

/// Kills that are reported of each pod, or of each other cgroup's path, in a minute.
const REPORTED: u32 = 10;
const MINUTE: Duration = Duration::from_secs(60);

/// The ring, and where it was read up to, which outlives the agent.
pub struct Kills {
    ring: MappedArray<Ring>,
    kills: MappedArray<OomKill>,
    /// What the ring said of kills that were not written when the agent started.
    unwritten_before: u64,
    /// kills that were not reported.
    unreported: u64,
    limit: RateLimit<KillOwner>,
}

/// The owner of a share of the reported kills: a pod's UID, the path of a cgroup of none, or the id of one that is not known.
type KillOwner = String;

impl Kills {
    /// Opens the ring of `object`.
    ///
    /// # Errors
    /// When a map is missing or cannot be mapped.
    pub fn open(object: &Object) -> Result<Self, LoadError> {
        let ring: MappedArray<Ring> = object.mapped("OOM_RING")?;
        let unwritten_before = ring.word(0, UNWRITTEN).unwrap_or(0);
        let limit = RateLimit::new(REPORTED, MINUTE);
        Ok(Self { ring, kills: object.mapped("OOM_KILLS")?, unwritten_before, unreported: 0, limit })
    }

    /// Kills without an event, since the agent started.
    pub fn lost(&self) -> u64 {
        self.unreported + self.ring.word(0, UNWRITTEN).map_or(0, |now| now.saturating_sub(self.unwritten_before))
    }

    /// The kills since the last call to report, the last agent's included.
    pub fn take(&mut self, table: &Table) -> Vec<Event> {
        let (Some(head), Some(tail)) = (self.ring.word(0, HEAD), self.ring.word(0, TAIL)) else { return Vec::new() };
        let kills: Vec<OomKill> =
            (tail..head).filter_map(|number: u64| self.kills.read(number as u32 & (KILLS_LEN - 1))).collect();
        self.ring.set_word(0, TAIL, head);
        let now = Instant::now();
        let (reported, unreported) = within(&mut self.limit, kills, table, now);
        self.unreported += unreported;
        for (owner, kills) in self.limit.ended(now) {
            warn!(event = EVENT, owner, kills, "out of memory: more processes were killed in the last minute than are logged");
        }
        reported.iter().map(|kill| event_of(kill, table)).collect()
    }
}

/// The kills to report, and the number of the others.
fn within(limit: &mut RateLimit<KillOwner>, kills: Vec<OomKill>, table: &Table, now: Instant) -> (Vec<OomKill>, u64) {
    let all = kills.len();
    let reported: Vec<OomKill> = kills.into_iter().filter(|kill| limit.admit(owner(kill, table), now).is_some()).collect();
    let unreported = all - reported.len();
    (reported, unreported as u64)
}

fn owner(kill: &OomKill, table: &Table) -> KillOwner {
    let owner = table.get(kill.slot).filter(|cgroup| cgroup.id == kill.cgroup);
    let name = |cgroup: &Cgroup| cgroup.name.pod_uid.clone().unwrap_or_else(|| cgroup.path.clone());
    owner.map_or_else(|| format!("cgroup {}", kill.cgroup), name)
}

/// Logs a kill and makes an event of it.
fn event_of(kill: &OomKill, table: &Table) -> Event {
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
    // A process calls itself what it likes, and a cgroup's name may have any character but two.
    let called = one_line(&name);
    let body = match limiting.as_deref().map(one_line) {
        Some(_) if kill.limiting == UNKNOWN => {
            format!("process {called} ({}) was killed: its cgroup or one above it reached its memory limit", kill.tgid)
        }
        Some(limiting) => format!("process {called} ({}) was killed: {limiting} reached its memory limit", kill.tgid),
        None => format!("process {called} ({}) was killed: the node ran out of memory", kill.tgid),
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
    Event { name: EVENT, cgroup: (kill.slot, kill.cgroup), time_ns: kill.time_ns, body, attributes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::table::tests::cgroup;

    #[test]
    fn a_loop_of_kills_is_reported_ten_times_a_minute_and_a_neighbour_in_full() {
        let mut table = Table::default();
        let pod = "/kubepods.slice/kubepods-pod01234567_89ab_cdef_0123_456789abcdef.slice";
        let container = |n: u32| format!("{pod}/cri-containerd-{}.scope", format!("{n:x}").repeat(64));
        for (slot, path) in [(3, container(1)), (4, container(2)), (5, "/neighbour".to_owned())] {
            table.insert(cgroup(slot, &path, None));
        }
        let kill = |slot: u32| OomKill { cgroup: 1000 + u64::from(slot), slot, ..OomKill::ZERO };
        let mut limit = RateLimit::new(REPORTED, MINUTE);
        let now = Instant::now();
        // Two containers of one pod in turns, each in a loop; then one kill of another.
        let kills = (0..200).map(|n| kill(3 + n % 2)).chain([kill(5)]).collect();
        let (reported, unreported) = within(&mut limit, kills, &table, now);
        assert_eq!((reported.len(), unreported), (REPORTED as usize + 1, 190));
        assert_eq!(reported.last().map(|kill| kill.slot), Some(5));
        assert_eq!(limit.ended(now + MINUTE), [("01234567-89ab-cdef-0123-456789abcdef".to_owned(), 190)]);
    }

    #[test]
    fn a_name_with_control_characters_breaks_no_line() {
        let mut kill = OomKill { cgroup: 9, tgid: 7, ..OomKill::ZERO };
        kill.comm[..8].copy_from_slice(b"a\n\x1b[2Jb\r");
        let event = event_of(&kill, &Table::default());
        assert_eq!(event.body, "process a  [2Jb (7) was killed: the node ran out of memory");
    }

    #[test]
    fn a_kill_is_reported_with_all_that_is_known_and_nothing_else() {
        let mut table = Table::default();
        table.insert(cgroup(3, "/pod/container", None));
        table.insert(cgroup(4, "/pod", None));
        let mut kill =
            OomKill { cgroup: 1003, slot: 3, limiting: 1004, tgid: 77, time_ns: 99, usage_bytes: 4096, ..OomKill::ZERO };
        kill.comm[..5].copy_from_slice(b"stres");
        (kill.kernel_bytes, kill.anon_bytes) = (UNKNOWN, 1000);
        let event = event_of(&kill, &table);
        let of = |name: &str| event.attributes.iter().find(|(key, _)| *key == name).map(|(_, detail)| detail.clone());
        assert_eq!(event.body, "process stres (77) was killed: /pod reached its memory limit");
        assert_eq!((event.name, event.cgroup, event.time_ns), ("podmeter.oom.kill", (3, 1003), 99));
        assert_eq!(of("process.executable.name"), Some(Detail::Text("stres".to_owned())));
        assert_eq!(of("podmeter.oom.limiting.cgroup.path"), Some(Detail::Text("/pod".to_owned())));
        assert_eq!(
            (of("podmeter.memory.usage"), of("podmeter.memory.kernel")),
            (Some(Detail::Int(4096)), Some(Detail::Int(3096)))
        );
        let unknown = event_of(&OomKill { anon_bytes: UNKNOWN, ..kill }, &table);
        assert!(!unknown.attributes.iter().any(|(key, _)| ["podmeter.memory.kernel", "podmeter.memory.anon"].contains(key)));

        let event = event_of(&OomKill { limiting: 0, cgroup: 9, ..kill }, &table);
        assert_eq!(event.body, "process stres (77) was killed: the node ran out of memory");
        assert!(event.attributes.contains(&("podmeter.oom.cause", Detail::Text("node".to_owned()))));
        assert!(event.attributes.contains(&("podmeter.oom.victim.cgroup.path", Detail::Text("(gone, id 9)".to_owned()))));
    }
}
