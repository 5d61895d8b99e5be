//! What outlives the agent: maps and links pinned in bpffs, so that counting goes on while no agent runs.
//!
//! `<bpf.directory>/<object>-<counts>-<programs>-<slots>/` holds one object's maps by name and its links by program name. `counts` is a hash
//! of all that says what the maps hold: the layout of records and maps, the object's frozen facts, its map sizes but for the number of slots,
//! and the same of the objects it shares maps with. `programs` is one of the object's bytes and of what its programs are attached to. Where
//! all is the same, an agent adopts maps and links; where `programs` differs, since the agent is of another version, or there are fewer slots,
//! new programs go on with what the maps hold; else it begins anew. Links are pinned behind the maps, and the moment since when these count
//! last, so a directory without one of them was left by an agent that died while starting. `<bpf.directory>/clock/` holds what
//! [`clock`](super::clock) keeps.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
};

use aya::maps::{Array, MapData};
use nix::fcntl::{Flock, FlockArg};

use super::sys::MappedArray;

/// Why pins could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// A file operation in bpffs failed.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// A second agent would count everything twice.
    #[error("another podmeter agent uses {}: stop it first, or set bpf.directory to another place", .0.display())]
    InUse(PathBuf),
}

impl PinError {
    /// Whether another agent runs.
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::InUse(_))
    }
}

/// The directory that holds this agent's pins, locked against a second agent.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
    /// Remove everything once all objects are loaded: maps stay alive by their descriptors.
    transient: bool,
    _lock: Flock<File>,
}

impl Pins {
    /// Opens the directory for an agent that leaves its programs running when it stops.
    ///
    /// # Errors
    /// When it cannot be made, or another agent holds it.
    pub fn open(directory: &Path) -> Result<Self, PinError> {
        Self::lock(directory, false)
    }

    /// A private directory: everything ends with the process, and nothing stays of it in bpffs.
    ///
    /// `directory` must be on bpffs once it is made. Where it is there, the private one is made in it; else beside the place
    /// where it would be, since one that was made for this could not be removed again without a race against an agent that
    /// starts.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn transient(directory: &Path) -> Result<Self, PinError> {
        let own = format!("{}-{:08x}", std::process::id(), fastrand::u32(..));
        sweep(directory, TRANSIENT);
        if directory.exists() {
            return Self::lock(&directory.join(format!("{TRANSIENT}{own}")), true);
        }
        let above = directory.ancestors().find(|path| path.exists()).unwrap_or(directory);
        sweep(above, TRANSIENT_ABOVE);
        Self::lock(&above.join(format!("{TRANSIENT_ABOVE}{own}")), true)
    }

    fn lock(directory: &Path, transient: bool) -> Result<Self, PinError> {
        let io = |action| {
            let path = directory.to_owned();
            move |source| PinError::Io { action, path, source }
        };
        fs::create_dir_all(directory).map_err(io("make the directory for pinned programs and maps"))?;
        let file = File::open(directory).map_err(io("open the directory for pinned programs and maps"))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { directory: directory.to_owned(), transient, _lock: lock }),
            Err((_, nix::Error::EWOULDBLOCK)) => Err(PinError::InUse(directory.to_owned())),
            Err((_, errno)) => Err(io("lock the directory for pinned programs and maps")(errno.into())),
        }
    }

    /// The version of an object with these hashes and so many slots.
    pub fn version(&self, object: &str, counts: u64, programs: u64, slots: u32) -> Version {
        let place = self.directory.join(format!("{object}-{counts:016x}-{programs:016x}-{slots}"));
        Version { place, counts, programs, slots }
    }

    /// Since when the maps in a place count where a complete set from an earlier agent is there: CLOCK_BOOTTIME in ns.
    ///
    /// # Errors
    /// When bpffs refuses.
    pub fn adopt(&self, place: &Path, links: &[&str]) -> Result<Option<u64>, PinError> {
        let linked = links.iter().all(|link| place.join(link).exists());
        if linked { since(place) } else { Ok(None) }
    }

    /// All versions of an object.
    pub fn versions(&self, object: &str) -> Vec<Version> {
        let own = |place: PathBuf| Version::of(&place).filter(|(name, _)| name == object).map(|(_, version)| version);
        directories(&self.directory).into_iter().filter_map(own).collect()
    }

    /// The word that an earlier agent has left for the clock, or a new one with what `first` says; none where nothing is kept.
    ///
    /// # Errors
    /// When bpffs refuses.
    pub fn clock(&self, first: impl FnOnce() -> u64) -> Result<Option<PinnedNumber>, PinError> {
        if self.transient {
            return Ok(None);
        }
        let place = self.directory.join(CLOCK);
        fs::create_dir_all(&place).map_err(|source| PinError::Io { action: "make", path: place.clone(), source })?;
        let path = place.join("offset");
        let left = PinnedNumber::open(&path)?;
        Ok(Some(left.map_or_else(|| PinnedNumber::make(&path, first()), Ok)?))
    }

    /// Whether what is loaded stays when the process ends.
    pub fn keeps(&self) -> bool {
        !self.transient
    }

    /// Removes what no object of this agent uses: all other versions' pins, or for a transient agent everything.
    ///
    /// # Errors
    /// When bpffs refuses.
    pub fn settle(&self, in_use: &[PathBuf]) -> Result<(), PinError> {
        if self.transient {
            return remove(&self.directory);
        }
        for place in directories(&self.directory) {
            let private = place.file_name().is_some_and(|n| n.to_string_lossy().starts_with(TRANSIENT));
            if !private && !place.ends_with(CLOCK) && !in_use.contains(&place) {
                remove(&place)?;
            }
        }
        Ok(())
    }
}

/// What is pinned of one version of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The directory.
    pub place: PathBuf,
    /// The same for objects whose maps hold the same, whatever their programs and their number of slots.
    pub counts: u64,
    /// The same for objects with the same programs.
    pub programs: u64,
    /// Number of slots.
    pub slots: u32,
}

impl Version {
    /// The name of the object whose place this is, and the version. One that tells no hashes or number of slots has 0: no object has.
    pub fn of(place: &Path) -> Option<(String, Self)> {
        let name = place.file_name()?.to_string_lossy().into_owned();
        let mut parts = name.split('-');
        let object = parts.next()?.to_owned();
        let version: Vec<&str> = parts.collect();
        let hash = |part: &str| u64::from_str_radix(part, 16).unwrap_or(0);
        let (counts, programs, slots) = match version[..] {
            [] => return None,
            [counts, programs, slots] => (hash(counts), hash(programs), slots.parse().unwrap_or(0)),
            _ => (0, 0, 0),
        };
        Some((object, Self { place: place.to_owned(), counts, programs, slots }))
    }
}

/// Since when the maps in a place count, CLOCK_BOOTTIME in ns; none where an agent died while it started, or while it took over.
///
/// # Errors
/// When it is there and cannot be opened.
pub fn since(place: &Path) -> Result<Option<u64>, PinError> {
    Ok(PinnedNumber::open(&place.join(SINCE))?.map(|since| since.get()))
}

/// A place from which none goes on any more.
///
/// # Errors
/// When bpffs refuses.
pub fn forget_since(place: &Path) -> Result<(), PinError> {
    remove_file(&place.join(SINCE))
}

/// An empty place, whatever was in it.
///
/// # Errors
/// When bpffs refuses.
pub fn make_anew(place: &Path) -> Result<(), PinError> {
    remove(place)?;
    fs::create_dir_all(place).map_err(|source| PinError::Io { action: "make", path: place.to_owned(), source })
}

/// A number that outlives the agent: a pinned array with this one entry.
#[derive(Debug)]
pub struct PinnedNumber(MappedArray<u64>);

impl PinnedNumber {
    /// `BPF_F_MMAPABLE`
    const MMAPABLE: u32 = 1 << 10;

    /// The one that is pinned there, if any is.
    ///
    /// # Errors
    /// When it is there and cannot be opened.
    fn open(path: &Path) -> Result<Option<Self>, PinError> {
        if !path.exists() {
            return Ok(None);
        }
        Self::mapped(path).map(Some).map_err(|source| PinError::Io { action: "open", path: path.to_owned(), source })
    }

    /// A new one: it has its number before it can be found.
    ///
    /// # Errors
    /// When the kernel or bpffs refuses.
    fn make(path: &Path, number: u64) -> Result<Self, PinError> {
        let pinned = || {
            let mut array = Array::<MapData, u64>::create(1, Self::MMAPABLE).map_err(io::Error::other)?;
            array.set(0, number, 0).map_err(io::Error::other)?;
            array.pin(path).map_err(io::Error::other)?;
            Self::mapped(path)
        };
        pinned().map_err(|source| PinError::Io { action: "pin a number to", path: path.to_owned(), source })
    }

    fn mapped(path: &Path) -> io::Result<Self> {
        let data = MapData::from_pin(path).map_err(io::Error::other)?;
        Ok(Self(MappedArray::new(data.fd(), 1)?))
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.word(0, 0).unwrap_or(0)
    }

    /// Replaces it.
    pub fn set(&self, number: u64) {
        self.0.set_word(0, 0, number);
    }
}

/// Pins since when an object's maps count, CLOCK_BOOTTIME in ns: when all else is pinned in its place.
///
/// # Errors
/// When the kernel or bpffs refuses.
pub fn keep_since(place: &Path, since_ns: u64) -> Result<(), PinError> {
    PinnedNumber::make(&place.join(SINCE), since_ns).map(drop)
}

/// The name of that pin: no map's or program's.
const SINCE: &str = "since";

/// The directory of what the clock keeps: no object's.
const CLOCK: &str = "clock";

/// The names of private directories begin with this in the directory for pins, and with the other outside of it. bpffs allows
/// no dots.
const TRANSIENT: &str = "transient-";
const TRANSIENT_ABOVE: &str = "podmeter-transient-";

impl Drop for Pins {
    /// A start that failed half-way must not leave its private directory behind.
    fn drop(&mut self) {
        if self.transient {
            let _ = remove(&self.directory);
        }
    }
}

/// What an uninstall has found and left.
#[derive(Debug)]
pub enum Uninstalled {
    /// There were no pins.
    Nothing,
    /// The pins are gone, and the directory too.
    Removed,
    /// The pins are gone. The directory stays, for this reason: it is where a container has it mounted.
    Emptied(io::Error),
}

/// Removes all pins below a directory: programs stop, counts are forgotten.
///
/// # Errors
/// When bpffs refuses, or an agent still runs.
pub fn uninstall(directory: &Path) -> Result<Uninstalled, PinError> {
    if !directory.exists() {
        return Ok(Uninstalled::Nothing);
    }
    let pins = Pins::open(directory)?;
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.map_err(|source| PinError::Io { action: "list", path: directory.to_owned(), source })?;
    // The kernel puts files of its own into the root of a bpf file system: what is not a directory was not pinned here.
    let pinned: Vec<_> = entries.iter().map(fs::DirEntry::path).filter(|path| path.is_dir()).collect();
    pinned.iter().try_for_each(|place| remove(place))?;
    let left = fs::remove_dir(directory);
    drop(pins);
    Ok(match (left, pinned.is_empty()) {
        (Ok(()), _) => Uninstalled::Removed,
        (Err(_), true) => Uninstalled::Nothing,
        (Err(why), false) => Uninstalled::Emptied(why),
    })
}

/// The hash that tells versions of an object apart.
pub fn hash(parts: &[&[u8]]) -> u64 {
    // SipHash with fixed keys: the same for the same build of podmeter, which is all that is asked of it.
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

/// Removes private directories that nobody holds any more: their processes died before they could. A lock tells, where a process
/// id would mean another process in another container.
fn sweep(directory: &Path, prefix: &str) {
    for place in directories(directory) {
        let private = place.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix));
        let Some(file) = File::open(&place).ok().filter(|_| private) else { continue };
        if let Ok(_lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            let _ = remove(&place);
        }
    }
}

fn directories(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Removes a directory of pins, if it is there.
///
/// # Errors
/// When bpffs refuses.
pub fn remove(path: &Path) -> Result<(), PinError> {
    gone(path, fs::remove_dir_all(path))
}

/// Removes one pin, if it is there.
///
/// # Errors
/// When bpffs refuses.
pub fn remove_file(path: &Path) -> Result<(), PinError> {
    gone(path, fs::remove_file(path))
}

fn gone(path: &Path, removed: io::Result<()>) -> Result<(), PinError> {
    match removed {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(PinError::Io { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uninstall_removes_what_is_pinned_and_says_when_the_directory_itself_has_to_stay() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("podmeter");
        assert!(matches!(uninstall(&directory).unwrap(), Uninstalled::Nothing));
        fs::create_dir_all(directory.join("cpu-0123")).unwrap();
        assert!(matches!(uninstall(&directory).unwrap(), Uninstalled::Removed) && !directory.exists());

        // As a mount point cannot be removed, here a file that is not the agent's keeps the directory.
        fs::create_dir_all(directory.join("cpu-0123")).unwrap();
        fs::write(directory.join("maps.debug"), "").unwrap();
        assert!(matches!(uninstall(&directory).unwrap(), Uninstalled::Emptied(_)));
        assert!(directories(&directory).is_empty());
        assert!(matches!(uninstall(&directory).unwrap(), Uninstalled::Nothing), "again");
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = directories(directory).iter().map(|path| path.display().to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_private_directory_leaves_nothing_behind_and_takes_away_what_a_killed_process_left() {
        let root = tempfile::tempdir().expect("a directory");
        let wanted = root.path().join("podmeter");
        let left = root.path().join("podmeter-transient-1-00000000");
        fs::create_dir_all(left.join("cpu-0")).expect("made");
        let pins = Pins::transient(&wanted).expect("a private directory");
        assert!(!wanted.exists(), "nobody else's place is made");
        assert_eq!(names(root.path()), [pins.directory.display().to_string()], "what was left is gone");
        let other = Pins::transient(&wanted).expect("a second one beside it");
        assert!(pins.directory.exists() && other.directory.exists(), "one that lives is not swept");
        pins.settle(&[]).expect("everything is loaded");
        assert!(!pins.directory.exists());
        drop((pins, other));
        assert_eq!(names(root.path()), [""; 0]);
    }

    #[test]
    fn a_place_tells_object_hashes_and_slots() {
        let of = |name: &str| {
            let of = Version::of(&Path::new("/sys/fs/bpf/podmeter").join(name));
            of.map(|(object, version)| (object, version.counts, version.programs, version.slots))
        };
        assert_eq!(of("cpu-00000000000000ff-000000000000000a-2048"), Some(("cpu".to_owned(), 255, 10, 2048)));
        assert_eq!(of("cpu-00000000000000ff-2048"), Some(("cpu".to_owned(), 0, 0, 0)), "as agents before this one named it");
        assert_eq!(of("clock"), None);
    }

    #[test]
    fn where_an_agent_has_its_directory_the_private_one_is_in_it() {
        let root = tempfile::tempdir().expect("a directory");
        let agents = Pins::open(root.path()).expect("an agent");
        let pins = Pins::transient(root.path()).expect("beside the agent");
        assert_eq!(pins.directory.parent(), Some(root.path()));
        drop((pins, agents));
        assert!(root.path().exists() && names(root.path()).is_empty());
    }
}
