//! The owners of slots (pure): what later stages see of the cgroups.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use agent_common::cgroups::{NAME_LEN, Owner};
use nix::libc::PATH_MAX;

use super::{
    controllers::Controllers,
    name::{self, Kubelets, Name, Within},
};
use crate::{bound::bounded, kernel::facts};

/// Bytes of a path that is kept as it is. What is deeper, as a container may make it, is kept with as much of what is above as
/// [`HEAD`] has room for: a path has its end, which names the cgroup, and is another than its like.
const LONGEST: usize = 1024;
const HEAD: usize = 512;

/// [`Owner::found`] of a cgroup that had found no slot until later.
pub(super) const LATE: u32 = 2;

/// The directory of a cgroup whose files no path leads to. The kernel lets none have this name (`cgroup_mkdir` refuses a line break).
const NOWHERE: &str = "too deep\n";

/// One cgroup that has a slot.
#[derive(Clone, Debug)]
pub struct Cgroup {
    /// Index of its counters.
    pub slot: u32,
    /// Inode number of its directory; never reused while the kernel runs.
    pub id: u64,
    /// Slot of the nearest ancestor that has one.
    pub parent: Option<u32>,
    /// Levels below the root, whose own is 0.
    pub level: u32,
    /// Path from the root that the agent sees, starting with '/': as text, and of bounded length. It is for people and for series;
    /// its files are found by [`Cgroup::directory`].
    pub path: String,
    /// What its name and those above mean.
    pub name: Name,
    within: Within,
    /// Path of its directory, where `path` is not that one.
    directory: Option<Box<Path>>,
    /// When it was made, or got its slot where it was [`found`](Self::found), CLOCK_BOOTTIME in ns.
    pub born_ns: u64,
    /// It was there before it had a slot: the agent found it in the tree, and its birth was not seen.
    pub found: bool,
    /// It had found no slot until later: what it did before is unattributed.
    pub late: bool,
    /// CLOCK_BOOTTIME of its removal in ns.
    pub died_ns: Option<u64>,
    /// Which controllers' files it has, as of the last collection.
    pub controllers: Controllers,
    pub(super) phase: SlotPhase,
}

/// The life of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotPhase {
    /// Counting. Its directory may be gone already; then for a second more.
    Counting,
    /// Its id leads to no slot any more, so nothing can be added: the next read is the last.
    Closed,
}

impl Cgroup {
    /// The owner of a slot, as a child of this cgroup; the root where there is none.
    pub(super) fn new(slot: u32, owner: &Owner, parent: Option<&Self>, kubelets: Kubelets) -> Self {
        let bytes = &owner.name[..(owner.name_len as usize).min(NAME_LEN - 1)];
        let root = (String::from("/"), Name::root(), Within::default(), None);
        let (path, name, within, directory) = parent.map_or(root, |parent| {
            let path = path_in(&parent.path, &name::readable(bytes));
            let directory = parent.directory_in(bytes, &path);
            let own = name::readable(bytes);
            let (name, within) = parent.name.child(&parent.within, &own, &path, kubelets);
            (path, name, within, directory)
        });
        Self {
            slot,
            id: owner.id,
            parent: parent.map(|parent| parent.slot),
            level: owner.level as u32,
            path,
            name,
            within,
            directory,
            born_ns: owner.born_ns,
            found: owner.found != 0,
            late: owner.found == LATE,
            died_ns: Some(owner.died_ns).filter(|ns| *ns != 0),
            controllers: Controllers::default(),
            phase: SlotPhase::Counting,
        }
    }

    /// Its directory, where the hierarchy's root is at `root`.
    pub fn directory(&self, root: &Path) -> PathBuf {
        root.join(self.relative())
    }

    fn relative(&self) -> &Path {
        self.directory.as_deref().unwrap_or_else(|| Path::new(self.path.trim_start_matches('/')))
    }

    /// The directory of its child with this name, where that is not the child's `path`.
    fn directory_in(&self, name: &[u8], path: &str) -> Option<Box<Path>> {
        let directory = self.relative().join(OsStr::from_bytes(name));
        if directory.as_os_str().as_bytes() == path.trim_start_matches('/').as_bytes() {
            return None;
        }
        // The kernel takes no longer path, and a chain of cgroups may be too long to keep.
        let reachable = directory.as_os_str().len() < PATH_MAX as usize && !directory.starts_with(NOWHERE);
        Some(if reachable { directory } else { NOWHERE.into() }.into())
    }

    /// Whether its directory is still there.
    pub fn lives(&self) -> bool {
        self.died_ns.is_none()
    }

    /// Whether it is older than counts that began at `since_ns`, which then lack what was before.
    pub fn is_older_than(&self, since_ns: u64) -> bool {
        self.found && !self.late || self.born_ns < since_ns
    }

    /// Since when counts are its own that began at `since_ns` for all: CLOCK_BOOTTIME in ns.
    pub fn counted_since(&self, since_ns: u64) -> u64 {
        self.born_ns.max(since_ns)
    }

    /// Since when the kernel's own figures of it count: its birth, or where that is not known the node's start, which is no later.
    /// CLOCK_BOOTTIME in ns.
    pub fn made_ns(&self) -> u64 {
        if self.found { facts::BOOTED_NS } else { self.born_ns }
    }
}

/// What is known of each slot: the pure part, which later stages see.
#[derive(Debug, Default)]
pub struct Table {
    pub(super) entries: Vec<Option<Cgroup>>,
    slot_of: HashMap<u64, u32>,
    /// How many have a slot's owner as their parent.
    children: HashMap<u32, u32>,
    /// Slots of cgroups whose directories are gone, until these are given back.
    pub(super) dying: BTreeSet<u32>,
    /// Goes up when a cgroup comes, dies, leaves or gets another parent.
    revision: u64,
}

impl Table {
    /// The cgroup that owns a slot.
    pub fn get(&self, slot: u32) -> Option<&Cgroup> {
        self.entries.get(slot as usize)?.as_ref()
    }

    /// All cgroups, by slot.
    pub fn iter(&self) -> impl Iterator<Item = &Cgroup> {
        self.entries.iter().flatten()
    }

    /// The slot of a cgroup's nearest ancestor that has one.
    pub fn parent(&self, slot: u32) -> Option<u32> {
        self.get(slot)?.parent
    }

    /// The slots of all cgroups, children before their parents.
    pub fn leaves_first(&self) -> Vec<u32> {
        let mut slots: Vec<(u32, u32)> = self.iter().map(|c| (c.level, c.slot)).collect();
        slots.sort_unstable_by(|a, b| b.cmp(a));
        slots.into_iter().map(|(_, slot)| slot).collect()
    }

    /// The cgroup with this id.
    pub fn by_id(&self, id: u64) -> Option<&Cgroup> {
        self.get(*self.slot_of.get(&id)?)
    }

    /// Whether the directory of any of them is gone.
    pub fn has_dying(&self) -> bool {
        !self.dying.is_empty()
    }

    /// Another number than before once a cgroup has come, died, left or got another parent. It is not 0 once there is one.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Notes when a slot's owner died, if its directory is gone.
    pub(super) fn set_died(&mut self, slot: u32, died_ns: Option<u64>) {
        let Some(cgroup) = self.entries.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        if std::mem::replace(&mut cgroup.died_ns, died_ns) != died_ns {
            self.revision += 1;
        }
        if died_ns.is_some() {
            self.dying.insert(slot);
        }
    }

    /// Number of cgroups that have a slot.
    pub fn len(&self) -> usize {
        self.slot_of.len()
    }

    /// Enters a cgroup under its slot.
    pub fn insert(&mut self, cgroup: Cgroup) {
        let slot = cgroup.slot as usize;
        if self.entries.len() <= slot {
            self.entries.resize_with(slot + 1, || None);
        }
        self.revision += 1;
        if !cgroup.lives() {
            self.dying.insert(cgroup.slot);
        }
        self.slot_of.insert(cgroup.id, cgroup.slot);
        if let Some(parent) = cgroup.parent {
            *self.children.entry(parent).or_default() += 1;
        }
        self.entries[slot] = Some(cgroup);
    }

    /// Forgets the owner of a slot.
    pub fn remove(&mut self, slot: u32) -> Option<Cgroup> {
        let cgroup = self.entries.get_mut(slot as usize)?.take()?;
        self.revision += 1;
        self.dying.remove(&slot);
        self.slot_of.remove(&cgroup.id);
        if let Some(of_parent) = cgroup.parent.and_then(|parent| self.children.get_mut(&parent)) {
            *of_parent = of_parent.saturating_sub(1);
        }
        Some(cgroup)
    }

    /// The children of a slot's owner that is gone become its parent's, where it has some left. Returns their slots.
    pub(super) fn adopt_children(&mut self, gone: &Cgroup) -> Vec<u32> {
        let Some(number) = self.children.remove(&gone.slot).filter(|n| *n > 0) else { return Vec::new() };
        self.revision += 1;
        let mut moved = Vec::with_capacity(number as usize);
        for child in self.entries.iter_mut().flatten().filter(|child| child.parent == Some(gone.slot)) {
            child.parent = gone.parent;
            moved.push(child.slot);
        }
        if let Some(parent) = gone.parent {
            *self.children.entry(parent).or_default() += number;
        }
        moved
    }

    #[cfg(test)]
    pub(crate) fn entries_mut(&mut self) -> impl Iterator<Item = &mut Cgroup> {
        self.entries.iter_mut().flatten()
    }
}

/// The path of a cgroup with this name in the one with the path `parent`.
fn path_in(parent: &str, name: &str) -> String {
    let parent = parent.trim_end_matches('/');
    let head = if parent.len() + 1 + name.len() <= LONGEST { parent.into() } else { bounded(parent, HEAD) };
    format!("{head}/{name}")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A cgroup for tests of this and later stages.
    pub(crate) fn cgroup(slot: u32, path: &str, parent: Option<u32>) -> Cgroup {
        Cgroup {
            slot,
            id: 1000 + u64::from(slot),
            parent,
            level: path.split('/').filter(|component| !component.is_empty()).count() as u32,
            path: path.to_owned(),
            name: name::parse(path, Kubelets::Any),
            within: Within::default(),
            directory: None,
            born_ns: 0,
            found: false,
            late: false,
            died_ns: None,
            controllers: Controllers { cpu: true, memory: true },
            phase: SlotPhase::Counting,
        }
    }

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// A chain of cgroups with these names below the root.
    fn chain(names: &[&[u8]]) -> Vec<Cgroup> {
        let mut chain = vec![Cgroup::new(1, &Owner { id: 1, ..Owner::ZERO }, None, Kubelets::Any)];
        for (n, bytes) in names.iter().enumerate() {
            let slot = n as u32 + 2;
            let mut owner = Owner { id: slot.into(), level: n as u64 + 1, name_len: bytes.len() as u32, ..Owner::ZERO };
            owner.name[..bytes.len()].copy_from_slice(bytes);
            chain.push(Cgroup::new(slot, &owner, chain.last(), Kubelets::Any));
        }
        chain
    }

    #[test]
    fn a_cgroup_is_found_and_named_through_its_parents() {
        let chain = chain(&[b"kubepods", b"pod0a1b2c3d-1111-2222-3333-444455556666", ID.as_bytes(), b"init"]);
        let described: Vec<_> = chain.iter().map(|c| (c.path.as_str(), c.name.kind, c.parent, c.level)).collect();
        let pod = "/kubepods/pod0a1b2c3d-1111-2222-3333-444455556666";
        let container = format!("{pod}/{ID}");
        let inner = format!("{container}/init");
        assert_eq!(
            described,
            [
                ("/", name::CgroupKind::Root, None, 0),
                ("/kubepods", name::CgroupKind::Cgroup, Some(1), 1),
                (pod, name::CgroupKind::Pod, Some(2), 2),
                (&container, name::CgroupKind::Container, Some(3), 3),
                (&inner, name::CgroupKind::Cgroup, Some(4), 4),
            ]
        );
        assert_eq!(chain[0].directory(Path::new("/r")), Path::new("/r/"));
        assert_eq!(chain[4].directory(Path::new("/r")), Path::new("/r").join(&inner[1..]));
        assert_eq!(chain[4].name, name::parse(&inner, Kubelets::Any));
    }

    #[test]
    fn what_is_left_below_a_cgroup_that_is_gone_comes_to_its_parent_and_only_then_is_looked_for() {
        let mut table = Table::default();
        for (slot, parent) in [(1, None), (2, Some(1)), (3, Some(2)), (4, Some(2)), (5, Some(1))] {
            table.insert(cgroup(slot, "/", parent));
        }
        let gone = table.remove(2).expect("there");
        assert_eq!(table.adopt_children(&gone), [3, 4]);
        assert_eq!([3, 4, 5].map(|slot| table.parent(slot)), [Some(1); 3]);
        for slot in [3, 4, 5] {
            let gone = table.remove(slot).expect("there");
            assert!(table.adopt_children(&gone).is_empty());
        }
        assert_eq!(table.children.values().sum::<u32>(), 0);
    }

    #[test]
    fn a_birth_a_death_and_an_end_are_seen_by_the_revision() {
        let mut table = Table::default();
        assert_eq!(table.revision(), 0);
        table.insert(cgroup(1, "/", None));
        table.insert(cgroup(2, "/a", Some(1)));
        let born = table.revision();
        table.set_died(2, None);
        assert!(born > 0 && table.revision() == born && !table.has_dying());
        table.set_died(2, Some(7));
        let died = table.revision();
        assert!(died > born && table.has_dying());
        table.set_died(2, Some(7));
        assert_eq!(table.revision(), died, "it dies once");
        table.remove(2);
        assert!(table.revision() > died && !table.has_dying());
        table.insert(Cgroup { died_ns: Some(7), ..cgroup(3, "/b", Some(1)) });
        assert!(table.has_dying(), "it was born and died between two looks");
    }

    #[test]
    fn a_name_that_is_not_utf_8_is_shown_escaped_and_opened_as_it_is() {
        let chain = chain(&[b"a\xff", b"below"]);
        assert_eq!((chain[1].path.as_str(), chain[2].path.as_str()), ("/a\\xff", "/a\\xff/below"));
        assert_eq!(chain[2].directory(Path::new("/r")).as_os_str().as_bytes(), b"/r/a\xff/below");
    }

    #[test]
    fn long_paths_keep_their_ends_and_their_files_and_stay_apart() {
        let long = [b'x'; NAME_LEN - 1];
        let above =
            |first: &'static [u8]| [first, &long[..], &long, &long, &long, b"kubepods", b"pod0a1b2c3d11112222333344445555666a"];
        let container = |first| chain(&[&above(first)[..], &[ID.as_bytes()]].concat()).pop().expect("made");
        let (a, b) = (container(b"a"), container(b"b"));
        assert_eq!(a.name.container_id.as_deref(), Some(ID));
        assert_eq!(a.name.pod_uid.as_deref(), Some("0a1b2c3d11112222333344445555666a"));
        assert!(a.path.len() <= LONGEST && a.path.starts_with("/a/xxx") && a.path.ends_with(ID), "{}", a.path);
        assert_ne!(a.path, container(b"a\xff").path);
        assert_ne!(a.path[2..], b.path[2..], "also where only what was cut is another");
        let names: Vec<String> = above(b"a").iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        assert_eq!(a.directory(Path::new("/r")), Path::new("/r").join(names.join("/")).join(ID));
    }

    #[test]
    fn however_deep_a_container_nests_its_cgroups_little_is_kept_of_each() {
        let long = [b'x'; NAME_LEN - 1];
        let deepest = chain(&vec![&long[..]; 100]).pop().expect("made");
        assert!(deepest.path.len() <= LONGEST, "{}", deepest.path.len());
        assert_eq!(deepest.directory(Path::new("/r")), Path::new("/r").join(NOWHERE), "no path is that long");
    }
}
