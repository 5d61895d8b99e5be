//! Disks that tests may write to, what the kernel counts of each, and reads and writes that reach them.
//!
//! On this machine it is a loop device on a file of its own below cargo's target directory; in a guest it is its empty disk. A guest also
//! has `null_blk`, of which each test makes a device that takes a set time.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::is_emulated;

/// What is read and written at once, and what a request is aligned to.
pub const BLOCK: usize = 64 << 10;

const ALIGNED: usize = 4096;

/// Bytes of a disk that a test makes.
const BYTES: u64 = 64 << 20;

/// A guest's own disk, which is empty.
const OF_GUEST: &str = "vda";

/// Where `null_blk` devices are made.
const NULL_BLK: &str = "/sys/kernel/config/nullb";

/// A disk without anything on it; it goes with this value.
#[derive(Debug)]
pub struct Disk {
    name: String,
    made: Made,
}

/// What has to be taken back.
#[derive(Debug)]
enum Made {
    Nothing,
    Loop { _file: tempfile::NamedTempFile },
    NullBlk { directory: PathBuf },
}

impl Disk {
    /// One that nobody else uses; `None`, and the test is reported as skipped, where none can be made.
    pub fn scratch(test: &str) -> Result<Option<Self>> {
        if is_emulated() {
            ensure!(Path::new("/sys/class/block").join(OF_GUEST).exists(), "this guest has no disk {OF_GUEST}");
            return Ok(Some(Self { name: OF_GUEST.to_owned(), made: Made::Nothing }));
        }
        let file = tempfile::NamedTempFile::new_in(directory()?).context("could not make a file for a disk")?;
        file.as_file().set_len(BYTES).context("could not make a file for a disk")?;
        let Ok(output) = Command::new("losetup").args(["--find", "--show"]).arg(file.path()).output() else {
            eprintln!("SKIPPED {test}: there is no losetup, of the package mount");
            return Ok(None);
        };
        let device = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let error = || format!("losetup made no device: {}", String::from_utf8_lossy(&output.stderr).trim());
        let name = device.strip_prefix("/dev/").with_context(error)?.to_owned();
        Ok(Some(Self { name, made: Made::Loop { _file: file } }))
    }

    /// One that takes this long for each request; `None`, and the test is reported as skipped, where there is no `null_blk`.
    pub fn slow(test: &str, each: Duration) -> Result<Option<Self>> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        if !Path::new(NULL_BLK).is_dir() {
            eprintln!("SKIPPED {test}: this machine has no null_blk, or no configfs to make a device of it");
            return Ok(None);
        }
        let directory = Path::new(NULL_BLK).join(format!("podmeter{}", MADE.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&directory).with_context(|| format!("could not make {}", directory.display()))?;
        let set = |key: &str, value: String| {
            let file = directory.join(key);
            fs::write(&file, value).with_context(|| format!("could not write {}", file.display()))
        };
        // A timer completes each request; the rest of its life is none of the device's.
        for (key, value) in
            [("irqmode", 2), ("completion_nsec", each.as_nanos()), ("size", 64), ("memory_backed", 0), ("power", 1)]
        {
            set(key, value.to_string())?;
        }
        let index = directory.join("index");
        let index = fs::read_to_string(&index).with_context(|| format!("could not read {}", index.display()))?;
        // Newer kernels name it as its directory.
        let names = [directory.file_name().unwrap_or_default().to_string_lossy().into_owned(), format!("nullb{}", index.trim())];
        let name = names.into_iter().find(|name| Path::new("/sys/class/block").join(name).exists());
        Ok(Some(Self { name: name.context("null_blk made no device")?, made: Made::NullBlk { directory } }))
    }

    /// Its name below /dev.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its numbers, `major:minor`.
    pub fn numbers(&self) -> Result<String> {
        let file = Path::new("/sys/class/block").join(&self.name).join("dev");
        Ok(fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?.trim().to_owned())
    }

    /// Opens it past the page cache, or through it.
    pub fn open(&self, direct: bool) -> Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(if direct { nix::libc::O_DIRECT } else { 0 });
        options.open(Path::new("/dev").join(&self.name)).with_context(|| format!("could not open /dev/{}", self.name))
    }

    /// What the kernel counts of it.
    pub fn counted(&self) -> Result<Counted> {
        let file = Path::new("/sys/class/block").join(&self.name).join("stat");
        let text = fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
        let n: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        ensure!(n.len() >= 17, "{} has {} numbers only: {text}", file.display(), n.len());
        Ok(Counted { reads: n[0], read_bytes: n[2] * 512, writes: n[4], written_bytes: n[6] * 512, io_ms: n[9] })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let taken_back = match &self.made {
            Made::Nothing => Ok(()),
            Made::Loop { .. } => Command::new("losetup").args(["--detach", &format!("/dev/{}", self.name)]).status().map(drop),
            Made::NullBlk { directory } => fs::remove_dir(directory),
        };
        if let Err(error) = taken_back {
            eprintln!("could not remove the disk {}: {error}", self.name);
        }
    }
}

/// Where files may be made that are on a disk of this machine; in a guest, which has none, those are in memory.
pub fn directory() -> Result<PathBuf> {
    let executable = std::env::current_exe().context("could not find this test's own executable")?;
    let target = bpf_toolchain::target_dir(&executable).filter(|_| !is_emulated());
    let directory = target.map_or_else(std::env::temp_dir, |target| target.join("tmp"));
    fs::create_dir_all(&directory).with_context(|| format!("could not make {}", directory.display()))?;
    Ok(directory)
}

/// What the kernel counts of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Time in which it had a request, in ms.
    pub io_ms: u64,
}

impl Counted {
    /// What came after `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            reads: self.reads - earlier.reads,
            read_bytes: self.read_bytes - earlier.read_bytes,
            writes: self.writes - earlier.writes,
            written_bytes: self.written_bytes - earlier.written_bytes,
            io_ms: self.io_ms - earlier.io_ms,
        }
    }
}

/// A block in memory that lies where direct I/O wants it.
struct Block {
    room: Vec<u8>,
    start: usize,
}

impl Block {
    fn new() -> Self {
        let room = vec![7; BLOCK + ALIGNED];
        let start = room.as_ptr().align_offset(ALIGNED);
        Self { room, start }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.room[self.start..self.start + BLOCK]
    }
}

/// Writes the first blocks of a disk, one after the other.
pub fn write_blocks(disk: &File, blocks: u64) -> Result<()> {
    let mut block = Block::new();
    (0..blocks).try_for_each(|n| disk.write_all_at(block.bytes(), n * BLOCK as u64).context("could not write to a disk"))
}

/// Reads the first blocks of a disk, one after the other.
pub fn read_blocks(disk: &File, blocks: u64) -> Result<()> {
    let mut block = Block::new();
    (0..blocks).try_for_each(|n| disk.read_exact_at(block.bytes(), n * BLOCK as u64).context("could not read a disk"))
}
